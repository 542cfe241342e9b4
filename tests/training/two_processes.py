"""A small training by one or by two processes, for test_distributed.py; two are started as torchrun starts them."""

import os
import socket

import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.objectives import OBJECTIVES
from csb.process import Grid, Power, seeded
from csb.training import ranks
from csb.training.pairs import EncodedPairs
from csb.training.settings import DeviceSettings, OptimizerSettings, TrainingSettings
from csb.training.stage import Setup
from csb.training.trainer import BridgeTrainer

GRID = Grid.from_schedule(Power(0.3, 2.0), 3)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank, port, size=2):
    """What torchrun tells a process."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    return {key: str(value) for key, value in own.items()} | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip


class Losses:
    """Keeps the loss of every step, by half-step."""

    def __init__(self):
        self.by_half_step = {}

    def within(self, bridge, half_step, step):
        pass

    def after(self, bridge, half_step, losses):
        self.by_half_step[half_step.name] = list(losses)
        return {}


def pairs(n, key):
    c = torch.randn(n, 2, generator=seeded(1, key))
    return EncodedPairs.of(0.5 * c + torch.randn(n, 2, generator=seeded(2, key)).abs(), c)


def inflate(bridge):
    """As a calibration does: changes the bridge in the process that calls it."""
    bridge.backward_kernel.inflation.fill_(1.5)
    return {}


def training(folder, size, objective, compile=False):
    part = KernelSpec({"name": "mlp", "width": 16, "depth": 1}, "v", "mixture", components=2)
    transform = {"name": "identity", "x_shape": [2], "y_shape": [2]}
    spec = BridgeSpec(GRID.alpha_bar.tolist(), transform, part, part)
    settings = TrainingSettings(
        L=1, first_steps=8, steps=8, batch_size=24, states_per_pair=2, refresh=4, trajectories=75, patience=50,
        validate_every=5, checkpoint_every=100,
    )  # fmt: skip
    device, losses = DeviceSettings("cpu", size, compile=compile), Losses()
    if size > 1:
        ranks.init(device)
    training = BridgeTrainer(
        build_bridge(spec, 3), OBJECTIVES[objective](), pairs(200, 0), settings,
        Setup(folder, OptimizerSettings(lr=1e-2, later_lr=1e-2), device, 5, bar=False),
        observer=losses, calibrate=inflate, val=pairs(60, 1),
    )  # fmt: skip
    progress = training.run(resume=False)
    found = {"losses": losses.by_half_step, "weights": training.bridge.state_dict(), "history": progress.history}
    ranks.destroy()
    return found


def process(rank, port, folder, objective):
    """One of two: leaves what it found in a file."""
    os.environ.update(environment(rank, port))
    torch.set_num_threads(1)
    torch.save(training(folder, 2, objective), folder / f"{rank}.pt")
