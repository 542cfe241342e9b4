"""Networks fitted by squared error: batches, targets, resuming bit for bit, errors, and a training that gets there."""

import pytest
import torch

from csb.bridge.checkpoint import load
from csb.networks.diffusion import ConditionalSpec, DenoiserSpec, build_conditional, build_denoiser
from csb.problems import LinearGaussian
from csb.process import LinearBeta, seeded
from csb.samplers import flow_sampler, score_sampler
from csb.training import stage
from csb.training.pairs import EncodedPairs
from csb.training.regression import diffusion_path, example_batches, flow_path, train_by_regression
from csb.training.settings import ConditionalSettings, DenoiserSettings, DeviceSettings, OptimizerSettings
from csb.training.stage import Setup
from csb.training.state import to_cpu
from tests.conftest import default_dtype
from tests.samplers.models import SCHEDULE, ExactDenoiser, ExactVelocity

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*")
PROBLEM = LinearGaussian(dx=2, dy=2, seed=3, n_train=20_000)
MLP = {"name": "mlp", "width": 16, "depth": 1}
PAIRS = (torch.randn(300, 2, generator=seeded(1)), torch.randn(300, 2, generator=seeded(2)))
PATHS = {"score": diffusion_path(LinearBeta(1e-4)), "flow": flow_path}


def model(kind, network=MLP):
    transform = {"name": "identity", "x_shape": [2], "y_shape": [2]}
    return build_conditional(ConditionalSpec(kind, network, transform, SCHEDULE if kind == "score" else None), 1)


class TestBatches:
    @pytest.mark.parametrize("kind", PATHS)
    def test_a_batch_is_a_function_of_seed_and_step(self, kind):
        def batches(steps, seed=5):
            return list(example_batches(EncodedPairs.of(*PAIRS), PATHS[kind], 16, seed, steps))

        whole, tail, other = batches((0, 6)), batches((3, 6)), batches((0, 6), 6)
        assert [b.step for b in whole] == list(range(6))
        for one, two in zip(whole[3:], tail):
            assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4]))
        assert not torch.equal(whole[0].z, whole[1].z)
        assert not torch.equal(whole[0].z, other[0].z)

    def test_observations_stay_with_their_data(self):
        z = torch.arange(300.0)[:, None]
        batch = next(example_batches(EncodedPairs.of(z, -2 * z), flow_path, 64, 1, (0, 1)))
        z_0 = batch.z + (1 - batch.level[:, None]) * batch.target  # z_t + (1 − t)(z_0 − ε)
        torch.testing.assert_close(batch.c, -2 * z_0, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("kind", PATHS)
def test_the_best_prediction_is_the_exact_model(kind):
    """The target less the exact conditional mean has mean 0 and no correlation with state, observation and level."""
    pairs = PROBLEM.pairs("train")
    data = EncodedPairs.of(pairs.x.double(), pairs.y.double())
    batch = next(example_batches(data, PATHS[kind], 40_000, 1, (0, 1)))
    z, y, residual = batch.z.double(), batch.c, []
    exact = ExactDenoiser(PROBLEM) if kind == "score" else ExactVelocity(PROBLEM)
    for i in range(4000):
        level = batch.level[i].double()
        mean = exact(z[i : i + 1], level, exact.encode(y[i : i + 1]))
        if kind == "score":  # v = (√ᾱ z − z_0)/√(1−ᾱ)
            mean = (level.sqrt() * z[i] - mean) / (1 - level).sqrt()
        residual.append(batch.target[i] - mean[0])
    r, levels = torch.stack(residual), batch.level[:4000, None].double()
    for weight in (torch.ones_like(levels), levels, z[:4000], y[:4000], levels * z[:4000]):
        products = r[:, :, None] * weight[:, None]
        error = products.std(0) / 4000**0.5
        assert bool((products.mean(0).abs() < 5 * error).all())


SETTINGS = {"steps": 12, "batch_size": 16, "alpha_bar_end": 1e-4, "lr": 1e-2, "checkpoint_every": 3}


def train(kind, folder, resume=False, fingerprint=None, pairs=PAIRS):
    """A training of 12 steps; the weights that it ends with."""
    optimizer, device = OptimizerSettings(), DeviceSettings("cpu")
    setup = Setup(folder, optimizer, device, 7, fingerprint or {"a": 1}, {"note": "hi"}, bar=False)
    if kind == "denoiser":
        made, settings = build_denoiser(DenoiserSpec(MLP, (2,), 1.0, 1e-4), 1), DenoiserSettings(**SETTINGS)
        train_by_regression(made, EncodedPairs.of(pairs[0]), LinearBeta(1e-4), settings, setup, resume)
    else:
        made, settings = model(kind), ConditionalSettings(**SETTINGS)
        schedule = made.schedule if kind == "score" else None
        train_by_regression(made, EncodedPairs.of(*pairs), schedule, settings, setup, resume)
    return to_cpu(made.state_dict())


@pytest.mark.parametrize("kind", ["denoiser", "score", "flow"])
def test_torchs_default_dtype_plays_no_part(kind, tmp_path):
    expected = train(kind, tmp_path / "a")
    with default_dtype(torch.float64):
        found = train(kind, tmp_path / "b")
    assert all(torch.equal(found[key], value) for key, value in expected.items())


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", ["denoiser", "score", "flow"])
class TestResume:
    @pytest.mark.parametrize("saves", [2, 5])
    def test_bit_for_bit(self, kind, tmp_path, monkeypatch, saves):
        """Cut off at the n-th checkpoint (of steps 3, 6, 9, 12 and the end), and continued."""
        whole = train(kind, tmp_path / "whole")
        calls, save = [], stage.save_progress

        def stopping(*arguments):
            save(*arguments)
            calls.append(1)
            if len(calls) == saves:
                raise Stop

        monkeypatch.setattr(stage, "save_progress", stopping)
        with pytest.raises(Stop):
            train(kind, tmp_path / "cut")
        assert [p.name for p in (tmp_path / "cut").iterdir()] == [f"{kind}_state.safetensors"]
        monkeypatch.setattr(stage, "save_progress", save)
        again = train(kind, tmp_path / "cut", resume=True)
        assert [p.name for p in (tmp_path / "cut").iterdir()] == [f"{kind}.safetensors"]
        assert all(torch.equal(again[key], value) for key, value in whole.items())


@pytest.mark.parametrize("kind", ["score", "flow"])
def test_the_file_holds_what_was_trained(kind, tmp_path):
    weights = train(kind, tmp_path)
    again = load(tmp_path / f"{kind}.safetensors")
    about = again.about
    assert again.kind == kind
    assert not again.training
    assert all(torch.equal(again.state_dict()[key], value) for key, value in weights.items())
    assert (about["note"], about["steps"]) == ("hi", 12)
    assert about["seconds"] > 0


@pytest.mark.parametrize(("steps", "bound"), [(400, 0.08), pytest.param(600, 0.05, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", ["score", "flow"])
def test_a_short_training_reaches_the_posterior(kind, tmp_path, steps, bound):
    """Mean and covariance of the samples within a few per cent, over 30 observations or, at night, 100."""
    trained, pairs = model(kind, {"name": "mlp", "width": 32, "depth": 2}), PROBLEM.pairs("train")
    settings = ConditionalSettings(steps=steps, batch_size=256, alpha_bar_end=1e-4, lr=6e-3, checkpoint_every=5000)
    setup = Setup(tmp_path, OptimizerSettings(ema=0.99), DeviceSettings("cpu"), 1, bar=False)
    schedule = trained.schedule if kind == "score" else None
    train_by_regression(trained, EncodedPairs.of(pairs.x, pairs.y), schedule, settings, setup)
    calls, m, n = (30, 100, 1500) if steps == 600 else (20, 30, 600)
    sampler = score_sampler(trained, "dpmpp", calls) if kind == "score" else flow_sampler(trained, "heun", calls // 2)
    y = PROBLEM.pairs("test", m).y
    x = sampler.sample(y, n, seeded(1)).x.double()
    exact, mean = y.double() @ PROBLEM.G.T, x.mean(1)
    centred = (x - mean[:, None]).flatten(0, 1)
    cov = centred.T @ centred / (len(y) * (n - 1))
    assert float((mean - exact).norm() / exact.norm()) < bound
    assert float((cov - PROBLEM.C).norm() / PROBLEM.C.norm()) < bound
