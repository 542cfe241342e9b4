"""Trainings that faults end at random instants, and files and disks that fault: resumed, or refused, bit for bit.

An instant is a function call, of Python or C, drawn by a seed among all calls of the training, those that write a file
included. CSB_FAULTS=1000 pytest -m slow tests/training/test_faults.py drives that many.
"""

import os
import random
import resource
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from csb.cli.ends import is_out_of_memory, terminable
from csb.errors import CSBError, Terminated
from csb.files import load_state
from tests.conftest import one_line
from tests.training.runs import At, Stop, assert_intact, assert_same, go_on, make, progress_of, stop

OUT_OF_MEMORY, INTERRUPTED, ONE_LINE = 3, 130, 2  # exit codes of a life
KINDS = {  # how many faults; exit codes that they end with; 0 where the fault came too late, or something caught it
    "SIGKILL": (24, {-signal.SIGKILL, 0}),
    "SIGTERM": (10, {128 + signal.SIGTERM, 0}),
    "SIGHUP": (6, {128 + signal.SIGHUP, 0}),
    "SIGINT": (8, {INTERRUPTED, 0}),
    "MemoryError": (8, {OUT_OF_MEMORY, ONE_LINE, 0}),
    "OSError": (8, {ONE_LINE, 0}),
}
MANY = int(os.environ.get("CSB_FAULTS", "120"))


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
    """The exit code of one life, and what it reported of its error."""
    error = Path(f"{folder}.error")
    error.unlink(missing_ok=True)  # of an earlier life
    process = fork_server.Process(target=live, args=(str(folder), fault))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"{fault} was not the end of it within {timeout} s")
    return process.exitcode, error.read_text() if error.exists() else ""


@pytest.fixture(scope="module")
def whole(fork_server, tmp_path_factory):
    """The uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert in_a_process(fork_server, folder) == (0, "")
    return folder


def story(fork_server, folder, whole, kind, seed, faults):
    """A training that is interrupted so many times, each time at a seeded call; begun again where it ended.

    Wherever it ends, its files are those of the whole one.
    """
    calls = int(whole.with_suffix(".calls").read_text())
    assert calls > 10_000
    draw, interrupted, code, lives = random.Random(f"{kind} {seed}"), 0, None, 0
    while interrupted < faults:
        lives += 1
        assert lives <= 20 * faults, f"{kind} hardly ever faults"
        if code == 0:
            assert_same(folder, whole)
            shutil.rmtree(folder)
        code, error = in_a_process(fork_server, folder, Fault(kind, draw.randint(1, calls // 2)))
        assert code in KINDS[kind][1], f"{kind}: exit code {code}: {error}"
        assert "\n" not in error
        interrupted += code != 0
        assert_intact(folder)
    assert in_a_process(fork_server, folder) == (0, "")
    assert_same(folder, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_at_random_instants(fork_server, tmp_path, whole, kind):
    story(fork_server, tmp_path / "run", whole, kind, 0, KINDS[kind][0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_very_often(fork_server, tmp_path, whole, kind):
    for seed in range(1, 1 + -(-MANY // (10 * len(KINDS)))):
        story(fork_server, tmp_path / str(seed), whole, kind, seed, 10)


def test_resuming_a_finished_training_changes_nothing(whole):
    before = {p: p.read_bytes() for p in whole.rglob("*.safetensors") if p.stem != "bridge"}
    go_on(whole)
    assert {p: p.read_bytes() for p in before} == before


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A training that was left in its third half-step, after a state."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    with pytest.raises(Stop):
        make(folder, observer=At(2, 8, stop)).run(resume=False)
    assert (progress_of(folder).half_step, progress_of(folder).step) == (2, 8)
    return folder


@pytest.fixture
def copy(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


class TestFiles:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.write_bytes(bytes(path.stat().st_size)),
            lambda path: torch.save(os.system, path),
            lambda path: (path.unlink(), path.mkdir()),
        ],
        ids=["the last byte lost", "zeros, as after a power cut", "a pickle of code", "a folder"],
    )
    def test_a_damaged_state_is_refused_and_left_alone(self, copy, damage):
        damage(copy / "state.safetensors")
        before = sorted(copy.rglob("*"))
        message = one_line(lambda: make(copy).run(resume=True))
        assert any(f"state.safetensors {what}" in message for what in ("is damaged", "does not exist", "is not a file"))
        assert sorted(copy.rglob("*")) == before

    def test_a_state_of_another_network(self, copy):
        data = load_state(copy / "state.safetensors")
        data["weights"] = {f"other.{key}": value for key, value in data["weights"].items()}
        (copy / "state.safetensors").unlink()
        torch.save(data, copy / "state.pt")  # as an older version
        assert "state.pt does not fit the network" in one_line(lambda: make(copy).run(resume=True))

    def test_a_damaged_half_step_is_told_when_it_is_the_best(self, copy):
        (copy / "half_steps" / "02_forward.safetensors").write_bytes(b"")
        assert "02_forward.safetensors is damaged" in one_line(lambda: make(copy).run(resume=True))
        assert progress_of(copy).half_step == 4

    def test_a_damaged_half_step_of_the_running_one_is_written_again(self, copy, whole):
        (copy / "half_steps" / "03_backward.safetensors").write_text("left by something else")
        (copy / "bridge.safetensors").write_bytes(b"")
        (copy / ".state.safetensors.abc.tmp").write_bytes(b"half a sta")
        (copy / "half_steps" / ".03_backward.safetensors.abc.tmp").write_bytes(b"")
        go_on(copy)
        assert_same(copy, whole)

    def test_a_folder_that_vanishes_while_it_is_written_into(self, tmp_path):
        """The state is lost with it; what is written later is whole."""
        vanish = At(1, 8, lambda: shutil.rmtree(tmp_path / "run"))
        make(tmp_path / "run", select="last", observer=vanish).run(resume=False)
        assert_intact(tmp_path / "run")
        assert (tmp_path / "run" / "bridge.safetensors").exists()


class TestDisks:
    def refused(self, folder, reason):
        """Resuming fails in one line, and leaves the last state as it was and nothing half written."""
        before = (folder / "state.safetensors").read_bytes()
        message = one_line(lambda: make(folder).run(resume=True))
        assert "cannot write" in message
        assert reason in message
        assert (folder / "state.safetensors").read_bytes() == before
        assert list(folder.rglob("*.tmp")) == []

    def test_files_that_may_not_grow(self, copy, whole):
        """RLIMIT_FSIZE, which needs no privileges: every write beyond 2 KiB fails."""
        _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        try:
            self.refused(copy, "File too large")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        go_on(copy)
        assert_same(copy, whole)
