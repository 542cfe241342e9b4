"""Tiny trainings of a bridge that several tests make, interrupt, and look at afterwards."""

import socket
from pathlib import Path

import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge, load
from csb.bridge.objectives import OBJECTIVES
from csb.files import remove_leftovers
from csb.problems import LinearGaussian
from csb.process import Grid, Power
from csb.training.pairs import EncodedPairs
from csb.training.settings import DeviceSettings, OptimizerSettings, TrainingSettings
from csb.training.stage import Setup
from csb.training.state import SCORE, load_progress
from csb.training.trainer import BridgeTrainer

GRID = Grid.from_schedule(Power(0.3, 2.0), 4)
FINGERPRINT = {"seed": 0}
MLP = KernelSpec({"name": "mlp", "width": 8, "depth": 1}, "v", "full")
SMALL = {"L": 2, "first_steps": 10, "steps": 10, "batch_size": 32, "refresh": 5, "trajectories": 64,
         "checkpoint_every": 4, "observe_every": 4, "patience": 0}  # fmt: skip
PROBLEM = LinearGaussian(dx=2, dy=2, seed=1, n_train=200)
STEP = "csb.training.half_step.HalfStepModule.training_step"


def encoded(problem, split="train", n=None):
    pairs = problem.pairs(split) if n is None else problem.pairs(split, n)
    return EncodedPairs.of(pairs.x, pairs.y)


def scored_alike(bridge):
    """A calibration by which the first iteration is the best."""
    return {SCORE: 1.0}


def make(folder, kernel=MLP, objective="likelihood", problem=PROBLEM, optimizer=None, device=None, log=None,
         observer=None, calibrate=scored_alike, val=None, **settings):  # fmt: skip
    """A training, by default of four half-steps of ten steps, in rounds of 5, and a state every 4 steps."""
    transform = {"name": "identity", "x_shape": [problem.dx], "y_shape": [problem.dy]}
    return BridgeTrainer(
        build_bridge(BridgeSpec(GRID.alpha_bar.tolist(), transform, kernel, kernel)), OBJECTIVES[objective](),
        encoded(problem), TrainingSettings(**SMALL | settings),
        Setup(Path(folder), OptimizerSettings(**optimizer or {}), device or DeviceSettings("cpu"), 0, FINGERPRINT,
              {"note": 1}, log or (lambda metrics, step: None), bar=False),
        observer=observer, calibrate=calibrate, val=val,
    )  # fmt: skip


def go_on(folder, **changes):
    """Begins the training, or continues it, as the command line does with resume=true."""
    remove_leftovers(Path(folder))
    return make(folder, **changes).run(resume=(Path(folder) / "state.safetensors").exists())


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


def stop(*_):
    raise Stop


def progress_of(folder, **more):
    return load_progress(Path(folder) / "state.safetensors", FINGERPRINT | more)


def assert_intact(folder):
    """The last state, where there is one, is whole, and so is every file under its own name."""
    folder = Path(folder)
    if (folder / "state.safetensors").exists():
        progress_of(folder)
    for path in [*folder.glob("bridge.safetensors"), *folder.glob("half_steps/*.safetensors")]:
        load(path)


def tensors(folder):
    """Every saved bridge's weights, by file and name."""
    files = [Path(folder) / "bridge.safetensors", *sorted((Path(folder) / "half_steps").glob("*.safetensors"))]
    return {f"{f.name}:{k}": v for f in files for k, v in load(f).state_dict().items()}


def assert_same_weights(folder, whole):
    """The same weights in the same files, bit for bit, and no file half written."""
    one, two = tensors(folder), tensors(whole)
    assert one.keys() == two.keys()
    assert len(one) > 100
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert list(Path(folder).rglob("*.tmp")) == []


def assert_same(folder, whole):
    """The same weights and the same files, with nothing else left behind."""
    assert_same_weights(folder, whole)
    names = [sorted(str(p.relative_to(f)) for p in Path(f).rglob("*")) for f in (folder, whole)]
    assert names[0] == names[1]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank, port, size=2):
    """What torchrun tells a process."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {key: str(value) for key, value in own.items()}
