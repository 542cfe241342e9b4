"""Networks fitted by squared error, and the digits' guide: batches, targets, resuming bit for bit, a training."""

import math
from itertools import pairwise

import pytest
import torch

from csb.bridge.checkpoint import load
from csb.networks.diffusion import (
    ConditionalSpec,
    Denoiser,
    DenoiserSpec,
    DigitGuide,
    build_conditional,
    build_denoiser,
)
from csb.problems import LinearGaussian
from csb.process import LinearBeta, seeded
from csb.samplers import MeanFlowSampler, MultistepConsistency, flow_sampler, score_sampler
from csb.training import stage
from csb.training.pairs import EncodedPairs
from csb.training.regression import (
    calibrate,
    consistency_path,
    denoised,
    diffusion_path,
    example_batches,
    flow_path,
    guide_figures,
    mean_flow_path,
    mean_velocity_target,
    next_level,
    train_by_regression,
    train_guide,
)
from csb.training.settings import ConditionalSettings, DenoiserSettings, DeviceSettings, OptimizerSettings
from csb.training.stage import Setup
from csb.training.state import to_cpu
from tests.conftest import default_dtype, move_weights
from tests.samplers.models import SCHEDULE, ExactConsistency, ExactDenoiser, ExactMeanVelocity, ExactVelocity
from tests.training.runs import Stop

PROBLEM = LinearGaussian(dx=2, dy=2, seed=3, n_train=20_000)
MLP = {"name": "mlp", "width": 16, "depth": 1}
PAIRS = (torch.randn(300, 2, generator=seeded(1)), torch.randn(300, 2, generator=seeded(2)))
PATHS = {
    "score": diffusion_path(LinearBeta(1e-4)), "flow": flow_path, "meanflow": mean_flow_path,
    "consistency": consistency_path,
}  # fmt: skip
KINDS = ("denoiser", *PATHS)
FILES = {"consistency": "consistency_training"}
VELOCITY = ExactVelocity(PROBLEM)


@pytest.mark.parametrize("kind", PATHS)
def test_a_batch_is_a_function_of_seed_and_step(kind):
    def batches(steps, seed=5):
        return list(example_batches(EncodedPairs.of(*PAIRS), PATHS[kind], 16, seed, steps))

    whole, tail, other = batches((0, 6)), batches((3, 6)), batches((0, 6), 6)
    assert [b.step for b in whole] == list(range(6))
    for one, two in zip(whole[3:], tail, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4]))
    assert not torch.equal(whole[0].z, whole[1].z)
    assert not torch.equal(whole[0].z, other[0].z)


@pytest.mark.parametrize("kind", ["score", "flow"])
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
    assert_unpredictable(torch.stack(residual), batch.level[:4000, None].double(), z[:4000], y[:4000])


def assert_unpredictable(r, levels, z, y):
    """Residuals have mean 0 and no correlation with level, state and observation, within five standard errors."""
    for weight in (torch.ones_like(levels), levels, z, y, levels * z):
        products = r[:, :, None] * weight[:, None]
        error = products.std(0) / len(r) ** 0.5
        assert bool((products.mean(0).abs() < 5 * error).all())


def points(kind, n=8000):
    """A batch of a path in float64, and the contexts of the exact models."""
    pairs = PROBLEM.pairs("train")
    data = EncodedPairs.of(pairs.x.double(), pairs.y.double())
    batch = next(example_batches(data, PATHS[kind], n, 1, (0, 1)))
    return batch, VELOCITY.encode(batch.c)


def exact_velocity(z, t, context):
    return torch.stack([VELOCITY(*one) for one in zip(z, t, context)])


class TestMeanFlow:
    def test_the_exact_mean_velocity_is_a_fixed_point_of_the_target(self):
        """v + (s−t) d/dt u = u with the marginal velocity; with that of pairs on average, whatever is known."""
        batch, context = points("meanflow")
        moved = batch.level[:, 1] > batch.level[:, 0]
        assert float(moved.double().mean()) == 0.75
        z, level, c, context = (one[moved] for one in (batch.z, batch.level, batch.c, context))
        model, v = ExactMeanVelocity(PROBLEM), exact_velocity(z, level[:, 0], context)
        u = model(z, level, context)
        torch.testing.assert_close(mean_velocity_target(model, z, level, v, context), u, rtol=1e-8, atol=1e-8)
        target = mean_velocity_target(model, z, level, batch.target[moved], context)
        assert_unpredictable(target - u, level[:, :1], z, c)
        assert float((u - v).norm() / u.norm()) > 0.1  # a mean velocity is not the velocity

    def test_where_both_times_are_one_the_target_is_the_flows(self):
        batch, context = points("meanflow", 40)
        target = mean_velocity_target(ExactMeanVelocity(PROBLEM), *batch[:3], context)
        still = batch.level[:, 1] == batch.level[:, 0]
        assert torch.equal(target[still], batch.target[still])
        assert not torch.isclose(target[~still], batch.target[~still]).any()

    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize(
        "network", [MLP, {**MLP, "film": True}, {"name": "unet", "channels": 8, "skip": True}], ids=str
    )
    def test_the_derivative_of_networks(self, network, autocast):
        """Against a central difference; under autocast too it is taken in float32."""
        shape = (1, 8, 8) if network["name"] == "unet" else (2,)
        transform = {"name": "identity", "x_shape": list(shape), "y_shape": [2]}
        made = move_weights(build_conditional(ConditionalSpec("meanflow", network, transform), 1))
        z, v = (torch.randn(8, *shape, generator=seeded(k)) for k in (1, 2))
        level, context = (
            torch.tensor([[0.2, 0.9]]).expand(8, 2),
            made.encode(torch.randn(8, 2, generator=seeded(3))).detach(),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            target = mean_velocity_target(made, z, level, v, context)
        h, ahead = 1e-2, torch.tensor([1.0, 0.0])
        with torch.no_grad():
            far, near = (made(z + e * v, level + e * ahead, context) for e in (h, -h))
        slope = (far - near) / (2 * h)
        torch.testing.assert_close(target - v, 0.7 * slope, rtol=2e-2, atol=2e-2 * float(slope.abs().max()))


class TestConsistency:
    def test_the_grid(self):
        """σ^(1/7) falls by 160^(1/7)/N, N doubles from 10 to 1,280; below the first interval comes the data's level."""
        t = torch.tensor([1e-3, 0.2, 0.5, 0.9], dtype=torch.float64)
        for step, N in ((0, 10), (12, 10), (13, 20), (50, 160), (99, 1280)):
            found = next_level(t, step, 100)
            warped = [((1 - u) / u) ** (1 / 7) for u in (t, found)]
            torch.testing.assert_close(warped[0] - warped[1], torch.full_like(t, 160 ** (1 / 7) / N))
        assert float(next_level(torch.tensor(1 - 1e-7, dtype=torch.float64), 0, 100)) == 1

    def test_the_exact_function_agrees_with_the_next_level_to_second_order(self):
        """Its ends of z_t + (s−t) v, v marginal, differ by O((s−t)²): the loss's gradient there vanishes as the grid
        grows. With v of pairs the same holds on average."""
        batch, context = points("consistency")
        model, z, t, errors = ExactConsistency(PROBLEM), batch.z, batch.level, []
        v = exact_velocity(z, t, context)
        for step in (5, 6, 7):
            s = next_level(t, step, 8)
            errors.append(float((model(z + (s - t)[:, None] * v, s, context) - model(z, t, context)).norm()))
        assert [math.log2(one / two) for one, two in pairwise(errors)] == pytest.approx([2, 2], abs=0.1)
        target = model(z + (s - t)[:, None] * batch.target, s, context)
        assert_unpredictable(target - model(z + (s - t)[:, None] * v, s, context), t[:, None], z, batch.c)


def model(kind, network=MLP):
    if kind == "denoiser":
        return build_denoiser(DenoiserSpec(network, (2,), 1.0, 1e-4), 1)
    transform = {"name": "identity", "x_shape": [2], "y_shape": [2]}
    return build_conditional(ConditionalSpec(kind, network, transform, SCHEDULE if kind == "score" else None), 1)


def train(kind, folder, resume=False):
    """A training of 12 steps; the weights that it ends with."""
    setup = Setup(folder, OptimizerSettings(), DeviceSettings("cpu"), 7, {"a": 1}, {"note": "hi"}, bar=False)
    made, group = model(kind), DenoiserSettings if kind == "denoiser" else ConditionalSettings
    schedule = LinearBeta(1e-4) if kind in ("denoiser", "score") else None
    settings = group(steps=12, batch_size=16, alpha_bar_end=1e-4, lr=1e-2, checkpoint_every=3)
    data = EncodedPairs.of(*(PAIRS[:1] if kind == "denoiser" else PAIRS))
    train_by_regression(made, data, schedule, settings, setup, resume)
    return to_cpu(made.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_default_dtype_plays_no_part_and_the_file_holds_what_was_trained(kind, tmp_path):
    expected = train(kind, tmp_path / "a")
    with default_dtype(torch.float64):
        found = train(kind, tmp_path / "b")
    stored = load(tmp_path / "b" / f"{FILES.get(kind, kind)}.safetensors")
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
        assert torch.equal(stored.state_dict()[key], value), key
    assert not stored.training
    assert (stored.about["note"], stored.about["steps"]) == ("hi", 12)
    assert stored.about["seconds"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saves", [2, 5])
def test_it_resumes_bit_for_bit(kind, saves, tmp_path, monkeypatch):
    """Cut off at the n-th checkpoint (of steps 3, 6, 9, 12 and the end), and continued."""
    whole, calls, save = train(kind, tmp_path / "whole"), [], stage.save_progress

    def stopping(*arguments):
        save(*arguments)
        calls.append(1)
        if len(calls) == saves:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(stage, "save_progress", stopping)
        with pytest.raises(Stop):
            train(kind, tmp_path / "cut")
    name = FILES.get(kind, kind)
    assert [p.name for p in (tmp_path / "cut").iterdir()] == [f"{name}_state.safetensors"]
    again = train(kind, tmp_path / "cut", resume=True)
    assert [p.name for p in (tmp_path / "cut").iterdir()] == [f"{name}.safetensors"]
    assert [key for key, value in whole.items() if not torch.equal(again[key], value)] == []


@pytest.mark.parametrize(("steps", "bound"), [(400, 0.08), pytest.param(600, 0.05, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", PATHS)
def test_a_short_training_reaches_the_posterior(kind, tmp_path, steps, bound):
    """Mean and covariance of the samples within a few per cent, over 30 observations or, at night, 100.

    Models of one call, whose targets are made of themselves, take longer than a flow.
    """
    bound = {"meanflow": 0.24, "consistency": 0.16}.get(kind, bound)
    trained, pairs = model(kind, {"name": "mlp", "width": 32, "depth": 2}), PROBLEM.pairs("train")
    settings = ConditionalSettings(steps=steps, batch_size=256, alpha_bar_end=1e-4, lr=6e-3, checkpoint_every=5000)
    setup = Setup(tmp_path, OptimizerSettings(ema=0.99), DeviceSettings("cpu"), 1, bar=False)
    schedule = trained.schedule if kind == "score" else None
    train_by_regression(trained, EncodedPairs.of(pairs.x, pairs.y), schedule, settings, setup)
    calls, m, n = (30, 100, 1500) if steps == 600 else (20, 30, 600)
    sampler = {
        "score": lambda: score_sampler(trained, "dpmpp", calls),
        "flow": lambda: flow_sampler(trained, "heun", calls // 2),
        "meanflow": lambda: MeanFlowSampler(trained, 1),
        "consistency": lambda: MultistepConsistency(trained, 1),
    }[kind]()
    y = PROBLEM.pairs("test", m).y
    x = sampler.sample(y, n, seeded(1)).x.double()
    exact, mean = y.double() @ PROBLEM.G.T, x.mean(1)
    centred = (x - mean[:, None]).flatten(0, 1)
    cov = centred.T @ centred / (len(y) * (n - 1))
    assert float((mean - exact).norm() / exact.norm()) < bound
    assert float((cov - PROBLEM.C).norm() / PROBLEM.C.norm()) < bound


class Shrinking(Denoiser):
    """E[z_0 | z_k] of N(0, I)."""

    def __init__(self):
        super().__init__(torch.full((1, 28, 28), 0.5), 0.5, 1e-3)

    def forward(self, z, alpha_bar):
        return alpha_bar.sqrt()[:, None, None, None] * z


class Overconfident(DigitGuide):
    """Twice the log-odds of a posterior that is known: 0.8 for the class in the first pixel, whatever the noise."""

    def forward(self, x, alpha_bar):
        odds = torch.zeros(len(x), 10)
        odds[torch.arange(len(x)), (x[:, 0, 0, 0] * 10).round().long() % 10] = 2 * math.log(0.8 * 9 / 0.2)
        return (odds / self.temperature).log_softmax(1)


class TestDigitGuide:
    def test_denoised_states(self):
        x, level = torch.rand(3, 1, 28, 28, generator=seeded(0)), torch.tensor([1.0, 0.25, 1.0])
        noise = torch.randn(x.shape, generator=seeded(1))
        found = denoised(Shrinking(), x, level, seeded(1))
        assert torch.equal(found[[0, 2]], x[[0, 2]])
        z = 0.5 * (2 * x[1] - 1) + math.sqrt(0.75) * noise[1]
        torch.testing.assert_close(found[1], 0.5 + 0.5 * 0.5 * z)

    def bars(self, n, key):
        """Digit c as a bright column at 2c + 3, as noisy as makes half of them hard to read where ᾱ is small."""
        labels, images = torch.randint(10, (n,), generator=seeded(3, key)), torch.zeros(n, 1, 28, 28)
        images[torch.arange(n), 0, :, 2 * labels + 3] = 0.9
        return images, labels

    def test_it_knows_less_of_noisier_digits(self, monkeypatch):
        monkeypatch.setattr("csb.training.regression.GUIDE_BATCH", 32)
        guide = train_guide(*self.bars(1000, 0), Shrinking(), seed=0, steps=60)
        rows = guide_figures(guide, *self.bars(100, 1), Shrinking(), 0)
        losses = [row["log_loss"] for row in rows]
        assert rows[0]["accuracy"] > 0.95
        assert losses[0] < 0.3
        assert losses[-1] == max(losses) < math.log(10) + 0.1  # no surer than it may be

    def test_the_temperature_takes_overconfidence_away(self, monkeypatch):
        monkeypatch.setattr("csb.training.regression.LEVELS", (1.0,))
        generator = seeded(5)
        shown = torch.randint(10, (500,), generator=generator)
        wrong = (shown + torch.randint(1, 10, (500,), generator=generator)) % 10
        labels = torch.where(torch.arange(500) % 5 > 0, shown, wrong)
        data = Overconfident(), (shown / 10)[:, None, None, None].expand(-1, 1, 28, 28).clone(), labels, Shrinking(), 0
        before = guide_figures(*data)[0]["log_loss"]
        assert calibrate(*data) == pytest.approx(2)
        after = guide_figures(*data)[0]
        assert after["log_loss"] < before
        assert after["log_loss"] == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2 / 9), rel=1e-3)
        assert after["accuracy"] == pytest.approx(0.8)
