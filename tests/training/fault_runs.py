"""A tiny training that can be interrupted at any function call, in a process of its own, and looked at afterwards."""

import os
import random
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.checkpoint import load
from csb.bridge.objectives import OBJECTIVES
from csb.cli.ends import is_out_of_memory, terminable
from csb.errors import CSBError, Terminated
from csb.files import remove_leftovers
from csb.problems import LinearGaussian
from csb.process import Grid, Power
from csb.training.pairs import EncodedPairs
from csb.training.settings import DeviceSettings, OptimizerSettings, TrainingSettings
from csb.training.stage import Setup
from csb.training.state import SCORE, load_progress
from csb.training.trainer import BridgeTrainer

FINGERPRINT = {"seed": 0}
OUT_OF_MEMORY, INTERRUPTED, ONE_LINE, TERMINATED, HUNG_UP = 3, 130, 2, 143, 129  # exit codes of a life
PROBLEM = LinearGaussian(dx=2, dy=2, seed=1, n_train=200)
NETWORK = {"name": "mlp", "width": 8, "depth": 1}


def silent(metrics, step):
    pass


def make(folder, objective="likelihood", covariance="full", optimizer=None, log=silent, **settings):
    """The training: four half-steps of ten steps, in rounds of 5, and a state every 4 steps; no validation pairs."""
    grid = Grid.from_schedule(Power(0.3, 2.0), 3)
    part = KernelSpec(NETWORK, "v", covariance)
    transform = {"name": "identity", "x_shape": [2], "y_shape": [2]}
    spec = BridgeSpec(grid.alpha_bar.tolist(), transform, part, part)
    train = PROBLEM.pairs("train")
    defaults = {"L": 2, "first_steps": 10, "steps": 10, "batch_size": 32, "refresh": 5, "trajectories": 64,
                "checkpoint_every": 4, "observe_every": 4}  # fmt: skip
    return BridgeTrainer(
        build_bridge(spec, 0), OBJECTIVES[objective](), EncodedPairs.of(train.x, train.y),
        TrainingSettings(**defaults | settings),
        Setup(Path(folder), OptimizerSettings(**optimizer or {}), DeviceSettings("cpu"), 0, FINGERPRINT, {"note": 1},
              log=log, bar=False),
        calibrate=lambda bridge: {SCORE: 1.0},
    )  # fmt: skip


class At:
    """An observer that acts after a step of a half-step, counted from 0, after the state of that step is written."""

    def __init__(self, half_step, step, action):
        self.half_step, self.step, self.action = half_step, step, action

    def within(self, bridge, half_step, step):
        if (half_step.index, step) == (self.half_step, self.step):
            self.action()

    def after(self, bridge, half_step, losses):
        return {}


class Stop(Exception):
    """What a test ends a training with."""


def stop():
    raise Stop


def go_on(folder, **changes):
    """Begins the training, or continues it, as the command line does with resume=true."""
    remove_leftovers(Path(folder))
    run = make(folder, **changes)
    return run.run(resume=(Path(folder) / "state.safetensors").exists())


@dataclass(frozen=True)
class Fault:
    """What faults at a function call, of Python or of C, counted from the training's start.

    Attributes:
        kind: a signal's name, "MemoryError", or "OSError": no space is left for the next thing that is written.
        call: its number, from 1.
    """

    kind: str
    call: int

    def fault(self):
        if self.kind == "MemoryError":
            raise MemoryError
        if self.kind == "OSError":
            raise OSError(28, "No space left on device")
        os.kill(os.getpid(), signal.Signals[self.kind])


@dataclass
class ClosedOutput:
    """Standard output, and with ``errors`` the error output too, is a pipe that nobody reads."""

    errors: bool = False

    def install(self):
        reading, writing = os.pipe()
        os.close(reading)
        for descriptor in (1, 2) if self.errors else (1,):
            os.dup2(writing, descriptor)


KINDS = {  # exit codes that a life may end with; 0 where the fault came too late, or something caught the exception
    "SIGKILL": {-signal.SIGKILL, 0},
    "SIGTERM": {TERMINATED, 0},
    "SIGHUP": {HUNG_UP, 0},
    "SIGINT": {INTERRUPTED, 0},
    "MemoryError": {OUT_OF_MEMORY, ONE_LINE, 0},
    "OSError": {ONE_LINE, 0},
}


def writes(event, function, frame):
    """Whether a call of C code writes to the disk; not what shows a warning, whose errors Python passes over."""
    names = ("write", "flush", "fsync", "replace", "mkdir", "open", "chmod")
    of_a_warning = frame.f_globals.get("__name__") in ("warnings", "linecache", "tokenize")
    return event == "c_call" and function.__name__ in names and not of_a_warning


def live(folder, fault):
    """One life of the training, in a process of its own; leaves the number of its calls, or its error, in files."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has its children ignore
    calls, code = 0, 0

    def count(frame, event, argument):
        nonlocal calls
        if event not in ("call", "c_call"):
            return
        calls += 1
        if fault is None or calls < fault.call or (fault.kind == "OSError" and not writes(event, argument, frame)):
            return
        sys.setprofile(None)
        fault.fault()

    torch.set_num_threads(1)
    try:
        with terminable():
            sys.setprofile(count)
            go_on(folder)
        sys.setprofile(None)
    except Terminated as end:
        code = 128 + end.number
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (CSBError, OSError) as error:
        Path(f"{folder}.error").write_text(str(error))
        code = ONE_LINE
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        code = OUT_OF_MEMORY
    Path(f"{folder}.calls").write_text(str(calls))
    os._exit(code)


def in_a_process(fork_server, folder, fault=None, timeout=120):
    """The exit code of one life."""
    Path(f"{folder}.error").unlink(missing_ok=True)  # of an earlier life
    process = fork_server.Process(target=live, args=(str(folder), fault))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"{fault} was not the end of it within {timeout} s")
    return process.exitcode


def story(fork_server, folder, whole, kind, seed, faults, calls):
    """A training that is interrupted so many times, each time at a seeded call; begun again where it ended.

    Wherever it ends, its files are those of the whole one.
    """
    draw, interrupted, code, lives = random.Random(f"{kind} {seed}"), 0, None, 0
    while interrupted < faults:
        lives += 1
        assert lives <= 20 * faults, f"{kind} hardly ever faults"
        if code == 0:
            assert_same(folder, whole)
            shutil.rmtree(folder)
        code = in_a_process(fork_server, folder, Fault(kind, draw.randint(1, calls // 2)))
        assert code in KINDS[kind], f"{kind}: exit code {code}: {error_of(folder)}"
        interrupted += code != 0
        assert_intact(folder)
    assert in_a_process(fork_server, folder) == 0
    assert_same(folder, whole)


def error_of(folder):
    """What the life that ended last reported of its error; empty where it reported none."""
    path = Path(f"{folder}.error")
    return path.read_text() if path.exists() else ""


def assert_intact(folder):
    """The last state, where there is one, is whole, and so is every file under its own name."""
    folder = Path(folder)
    if (folder / "state.safetensors").exists():
        load_progress(folder / "state.safetensors", FINGERPRINT)
    for path in [*folder.glob("bridge.safetensors"), *folder.glob("half_steps/*.safetensors")]:
        load(path)


def tensors(folder):
    """Every saved bridge's weights, by file and name."""
    files = [Path(folder) / "bridge.safetensors", *sorted((Path(folder) / "half_steps").glob("*.safetensors"))]
    return {f"{f.name}:{k}": v for f in files for k, v in load(f).state_dict().items()}


def assert_same(folder, whole):
    """The same files with the same weights, bit for bit, and nothing else left behind."""
    one, two = tensors(folder), tensors(whole)
    assert one.keys() == two.keys()
    assert len(one) > 100
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    names = [sorted(str(p.relative_to(f)) for p in Path(f).rglob("*")) for f in (folder, whole)]
    assert names[0] == names[1]
