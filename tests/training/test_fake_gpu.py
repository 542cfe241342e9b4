"""What a training computes on a GPU, with tensors that have a device and no numbers: none is on the wrong one.

Forward passes alone: gradients need a driver.
"""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.objectives import Likelihood, Target
from csb.bridge.paths import planned_calls
from csb.problems import TwoMoons
from csb.process import Noise, initialised
from csb.training.half_step import Batch, HalfStepModule, balance
from csb.training.pairs import encoded
from csb.training.settings import DeviceSettings, HalfStep, OptimizerSettings
from tests.training.runs import MLP, make

GPU = torch.device("cuda", 0)
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10)
pytestmark = pytest.mark.skipif(OLD, reason="torch 2.9 computes with such tensors only where there is a driver")


def on_gpu(module):
    """The module with parameters and buffers of the same shapes on a GPU that is not there."""
    for part in module.modules():
        for name, value in part._parameters.items():
            part._parameters[name] = nn.Parameter(torch.empty_like(value, device=GPU))
        for name, value in part._buffers.items():
            part._buffers[name] = None if value is None else torch.empty_like(value, device=GPU)


def test_devices_are_told_apart():
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        torch.cat([torch.zeros(1), torch.zeros(1, device=GPU)])


@pytest.mark.parametrize(
    ("covariance", "d", "direction"),
    [("diagonal", 2, "backward"), ("full", 6, "forward"), ("low_rank", 6, "backward"), ("mixture", 2, "forward")],
)
def test_the_loss_of_a_half_step_and_its_trajectories(covariance, d, direction, monkeypatch):
    part = KernelSpec(MLP.network, "v", covariance, rank=2, components=3)
    transform = {"name": "identity", "x_shape": [d], "y_shape": [2]}
    bridge = build_bridge(BridgeSpec([1.0, 0.7, 0.4, 0.1], transform, part, part), 0)
    module = HalfStepModule(bridge, HalfStep(2, 2, direction, 10), Likelihood(), OptimizerSettings())
    moves = planned_calls(bridge.grid, direction)  # of numbers, on the CPU
    monkeypatch.setattr("csb.bridge.bridge.planned_calls", lambda *_: moves)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_gpu(module)
        assert balance(module.kernel, 0.5).device == GPU  # of a half-step that begins there
        x, k, c = (torch.empty(6, d, device=GPU), torch.empty(6, dtype=torch.long, device=GPU),
                   torch.empty(3, 2, device=GPU))  # fmt: skip
        loss = module.training_step(Batch(x, k, c, Target(x), 0))
        assert loss.device == module.last_loss.device == GPU
        states = list(bridge.walk(direction, x, bridge.contexts(direction, c, 2), Noise(None, 3, GPU), 4))
        assert [state.device for state in states] == [GPU] * 3


def test_mirrored_states_of_pairs(monkeypatch):
    problem = TwoMoons(n_train=200, transform="reflect")
    rows = problem.rows("train")
    pairs = encoded(problem.make_transform(rows), rows)
    own = copy.deepcopy(pairs.transform)
    monkeypatch.setattr("csb.training.pairs.copy.deepcopy", {pairs.transform: own}.get)  # which the mode cannot
    with FakeTensorMode(allow_non_fake_inputs=True):
        z, c = pairs.to(GPU).to_train_on(torch.empty(7, dtype=torch.long, device=GPU), None)  # of a generator there
        assert z.device == c.device == GPU
    z, _ = pairs.to_train_on(torch.arange(7), torch.Generator().manual_seed(0))  # those that are here stay so
    assert z.device == torch.device("cpu")


def test_a_trainer_moves_both_kernels(monkeypatch, tmp_path):
    """A resumed half-step's cache is drawn by the other kernel, with the generator of its device."""
    monkeypatch.setattr(DeviceSettings, "where", torch.device("meta"))
    assert {weight.device.type for weight in make(tmp_path).bridge.parameters()} == {"meta"}


def test_weights_are_made_without_a_word_to_gpus(monkeypatch):
    """Whose global generators a seed would set back, and with them what is sampled next."""
    reported, state = [], torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reported.append)
    made = []
    for _ in range(2):
        with initialised(3):
            made.append(torch.randn(4))
    assert torch.equal(*made)
    assert torch.equal(torch.get_rng_state(), state)
    build_bridge(BridgeSpec([1.0, 0.5], {"name": "identity", "x_shape": [2], "y_shape": [2]}, MLP, MLP), 0)
    assert reported == []
