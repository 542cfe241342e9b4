"""What a user does on a GPU: run with CUDA_VISIBLE_DEVICES=0 python -m pytest -n 0 tests/test_gpu.py."""

import pytest
import torch

import csb
from csb.training.trainer import BridgeTrainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")
A = torch.tensor([[1.0, 0.5], [-0.3, 0.8]])
QUICK = {"first_steps": 200, "steps": 40, "refresh": 40}
OPTIONS = {"L": 2, "T": 5, "seed": 1, "accelerator": "gpu", "progress": False}


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=generator)
    return x, x @ A.T + 0.3 * torch.randn(2000, 2, generator=generator)


@pytest.fixture(scope="module")
def run(pairs):
    return csb.fit(*pairs, training=QUICK, **OPTIONS)


def weights(run):
    return torch.cat([weight.detach().flatten() for weight in run.bridge.parameters()])


def test_samples_and_densities_are_the_gaussian_posteriors(run, pairs):
    precision = torch.eye(2) + A.T @ A / 0.09
    mean = torch.linalg.solve(precision, A.T @ pairs[1][0] / 0.09)
    x = run.bridge.sample(pairs[1][0], 4000, seed=0).x
    assert x.is_cuda
    assert torch.allclose(x.mean(0).cpu(), mean, atol=0.15)
    assert torch.isfinite(run.bridge.log_prob(pairs[0][:5], pairs[1][:5])).all()


def test_observations_may_lie_on_either_device(run, pairs):
    here, there = (run.bridge.sample(y, 50, seed=0).x for y in (pairs[1][0], pairs[1][0].cuda()))
    assert torch.equal(here, there)


def test_the_same_seed_gives_the_same_weights(run, pairs):
    assert torch.equal(weights(csb.fit(*pairs, training=QUICK, **OPTIONS)), weights(run))


@pytest.mark.parametrize("done", [1, 2, 3])
def test_resumed_bit_for_bit(run, pairs, tmp_path, done):
    original = BridgeTrainer._half_step

    def interrupted(trainer, half_step):
        if half_step.index == done:
            raise KeyboardInterrupt
        original(trainer, half_step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BridgeTrainer, "_half_step", interrupted)
        assert csb.fit(*pairs, training=QUICK, out=tmp_path / "run", **OPTIONS).interrupted
    resumed = csb.fit(*pairs, training=QUICK, out=tmp_path / "run", resume=True, **OPTIONS)
    assert torch.equal(weights(resumed), weights(run))


@pytest.mark.parametrize("more", [{"compile": True}, {"compile": True, "cuda_graphs": True}])
def test_compiled(run, pairs, more):
    compiled = csb.fit(*pairs, training=QUICK | more, **OPTIONS)
    assert float((weights(compiled) - weights(run)).abs().max()) < 0.1
