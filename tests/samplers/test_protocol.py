"""One sweep over every sampler: shapes, randomness, independence of observations, counts of evaluations, errors."""

import re

import pytest
import torch

from csb.errors import CSBError
from csb.networks.diffusion import Denoiser, DenoiserSpec, MixtureDenoiser, build_denoiser
from csb.problems import BOD, GaussianMixture, LinearGaussian, MnistInpaint
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import BridgeSampler, ExactSampler, GaussianLikelihood, Replacement, horizon_bias
from csb.samplers.registry import GUIDED
from tests.conftest import default_dtype, make_untrained_bridge
from tests.samplers.conditional_models import AMORTIZED, CALLS, make_amortized, untrained

PASSES = {  # forward and backward, on GRID
    "tds": (6, 6),
    "smc": (6, 0),
    "dps": (6, 6),
    "replacement": (6, 0),
    "repaint": (6 + 9 * 5, 0),
    "ilvr": (6, 0),
    "copaint": (12, 6),
    "pigdm": (6, 6),
    "ddrm": (6, 0),
    "tmpd": (6, 12),
    "mmps": (6, 18),
    "sda": (16, 16),
    "guidance": (6, 6),
}
ALL = ["bridge", "exact", *GUIDED, *AMORTIZED]
PROBLEM = GaussianMixture(dx=4, dy=2, seed=1)
GRID = Grid.from_schedule(LinearBeta(1e-4), 6)
CALM = Grid(torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64))
TRAIN = PROBLEM.pairs("train", 500)
Y = PROBLEM.pairs("test", 3).y


BRIDGE, DENOISER = make_untrained_bridge(4, 2), MixtureDenoiser(PROBLEM.mixture)
NETWORKS = untrained("score", 4, 2), untrained("flow", 4, 2)


def make(name, **options):
    if name == "bridge":
        return BridgeSampler(BRIDGE, **options)
    if name == "exact":
        return ExactSampler(PROBLEM)
    if name in AMORTIZED:
        return make_amortized(name, *NETWORKS, GRID, **options)
    return GUIDED[name](DENOISER, GaussianLikelihood.of(PROBLEM, DENOISER, TRAIN), GRID, **options)


@pytest.fixture(params=ALL)
def name(request):
    return request.param


@pytest.fixture
def sampler(name):
    return make(name)


def test_shapes_and_info(sampler, name):
    found = sampler.sample(Y, 16, seeded(1))
    assert sampler.name == name
    assert found.x.shape == (3, 16, 4)
    assert found.x.dtype == torch.float32
    assert not found.x.requires_grad
    assert bool(torch.isfinite(found.x).all())
    info = found.info
    amortized = {name: (calls, 0) for name, calls in {"bridge": 3, "exact": 0, **CALLS}.items()}
    assert (info.forward_evaluations, info.backward_evaluations) == (amortized | PASSES)[name]
    assert info.seconds > 0
    assert info.peak_memory is None or info.peak_memory >= 0
    assert info.trajectory is None
    if name not in ("tds", "smc"):
        assert found.log_weights is None
        assert info.ess is None
        assert info.unique_ancestors is None
        return
    assert found.log_weights.shape == (3, 16)
    torch.testing.assert_close(found.log_weights.exp().sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(info.ess, 1 / found.log_weights.exp().square().sum(1))
    assert info.unique_ancestors.shape == (3,)
    assert bool(((info.unique_ancestors >= 1) & (info.unique_ancestors <= 16)).all())


def test_a_list_of_generators_makes_observations_independent(sampler):
    together = sampler.sample(Y, 16, [seeded(5), seeded(6), seeded(7)])
    for i in range(3):
        alone = sampler.sample(Y[i], 16, seeded(5 + i))
        torch.testing.assert_close(together.x[i], alone.x, rtol=1e-4, atol=1e-3)
        if alone.log_weights is not None:
            torch.testing.assert_close(together.log_weights[i], alone.log_weights, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(together.info.ess[i], alone.info.ess, rtol=1e-3, atol=0)
            assert together.info.unique_ancestors[i] == alone.info.unique_ancestors


def test_seeds(sampler):
    one, two, other = (sampler.sample(Y, 8, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one.x, two.x)
    assert not torch.allclose(one.x, other.x, atol=1e-2)
    if one.log_weights is not None:
        assert torch.equal(one.log_weights, two.log_weights)


def test_torchs_default_dtype_plays_no_part(sampler, name):
    expected = sampler.sample(Y, 8, seeded(1))
    with default_dtype(torch.bfloat16):
        found = make(name).sample(Y, 8, seeded(1))
    assert torch.equal(found.x, expected.x)
    assert found.x.dtype == torch.float32
    if expected.log_weights is not None:
        assert torch.equal(found.log_weights, expected.log_weights)


def test_the_global_generator(sampler):
    state = torch.random.get_rng_state()
    sampler.sample(Y, 4, seeded(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = sampler.sample(Y, 4).x
        two = sampler.sample(Y, 4).x
        torch.manual_seed(1)
        assert torch.equal(sampler.sample(Y, 4).x, one)
    assert not torch.equal(one, two)


def test_a_single_observation_drops_the_axis(sampler):
    single, batch = (sampler.sample(y, 5, seeded(1)) for y in (Y[0], Y[:1]))
    assert single.x.shape == (5, 4)
    assert torch.equal(single.x, batch.x[0])
    assert sampler.sample(Y[0], generator=seeded(1)).x.shape == (1, 4)
    if single.log_weights is not None:
        assert single.log_weights.shape == (5,)
        assert single.info.ess.shape == single.info.unique_ancestors.shape == ()


@pytest.mark.parametrize("name", [name for name in ALL if name != "exact"])
def test_batch_size_changes_nothing(name):
    one = make(name).sample(Y, 7, seeded(2))
    for batch_size in (4,):
        other = make(name, batch_size=batch_size).sample(Y, 7, seeded(2))
        torch.testing.assert_close(one.x, other.x, rtol=1e-4, atol=1e-3)
        if one.log_weights is not None:
            torch.testing.assert_close(one.log_weights, other.log_weights, rtol=1e-4, atol=1e-3)


def test_double_observations_and_those_of_inference_mode(sampler):
    one = sampler.sample(Y, 4, seeded(1)).x
    assert torch.equal(sampler.sample(Y.double(), 4, seeded(1)).x, one)
    with torch.inference_mode():
        assert torch.equal(sampler.sample(Y.clone(), 4, seeded(1)).x, one)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (torch.zeros(3), {}, "y has shape (3,); expected (2,) or a batch (B, 2,)"),
        (torch.tensor([0.0, float("nan")]), {}, "y holds NaN or infinite values"),
        (torch.zeros(2), {"n": 0}, "n=0 is not possible; give an integer of at least 1"),
        (torch.zeros(2, 2), {"generator": [seeded(1)]}, "1 generators were given for 2 observations"),
    ],
    ids=lambda value: re.sub(r" object at 0x\w+", "", str(value)),  # the same in every process
)
def test_errors(sampler, y, options, message):
    with pytest.raises(CSBError) as error:
        sampler.sample(y, **{"generator": seeded(1), **options})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


class Counted(Denoiser):
    """Counts the passes of another denoiser and the states of the largest, and keeps the levels of noise."""

    def __init__(self, inner):
        super().__init__(inner.shift, inner.scale)
        self.inner, self.levels, self.backward_passes, self.largest = inner, [], 0, 0

    def forward(self, z, alpha_bar):
        self.levels.append(float(alpha_bar))
        self.largest = max(self.largest, len(z))
        result = self.inner(z, alpha_bar)
        if z.requires_grad:
            result.register_hook(lambda _: setattr(self, "backward_passes", self.backward_passes + 1))
        return result


@pytest.mark.parametrize("name", GUIDED)
def test_the_counts_of_evaluations_are_true(name):
    denoiser = Counted(DENOISER)
    likelihood = GaussianLikelihood.of(PROBLEM, DENOISER, TRAIN)
    info = GUIDED[name](denoiser, likelihood, GRID, batch_size=64).sample(Y, 8, seeded(1)).info
    assert info.forward_evaluations == len(denoiser.levels)
    assert set(denoiser.levels) == set(GRID.alpha_bar[1:].tolist())  # in float64: 1 − ᾱ is small near the data
    assert info.backward_evaluations == denoiser.backward_passes
    denoiser.largest = 0
    GUIDED[name](denoiser, likelihood, GRID, batch_size=5).sample(Y, 8, seeded(1))
    assert denoiser.largest == 5


@pytest.mark.parametrize("name", GUIDED)
def test_a_trained_denoiser_in_both_precisions(name):
    problem = GaussianMixture(dx=4, dy=2, seed=1)
    denoiser = build_denoiser(DenoiserSpec({"name": "mlp", "width": 16, "depth": 1}, (4,), 11.0)).train()
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(p.numel())))
    likelihood = GaussianLikelihood.of(problem, denoiser, TRAIN)
    full, half = (
        GUIDED[name](denoiser, likelihood, GRID, precision=precision).sample(Y, 8, seeded(1))
        for precision in ("32-true", "bf16-mixed")
    )
    assert bool(torch.isfinite(full.x).all())
    assert half.x.dtype == torch.float32
    assert not torch.equal(half.x, full.x)
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert not denoiser.training


@pytest.mark.parametrize("name", GUIDED)
def test_what_is_known_for_sure_is_imposed(name):
    problem, y = MnistInpaint(), torch.rand(2, 1, 28, 28, generator=seeded(1))
    y = problem.operator(y)
    denoiser = Broken(torch.zeros(1, 28, 28), 1.0)
    likelihood = GaussianLikelihood(problem.operator, 0.0, impose=problem.impose).with_scales(torch.ones(1, 28, 28))
    sampler = GUIDED[name](denoiser, likelihood, CALM)
    x = sampler.sample(y, 3, seeded(2)).x
    assert torch.equal(problem.operator(x.flatten(0, 1)), y.repeat_interleave(3, 0))
    assert 0 <= float(x.min()) < float(x.max()) <= 1


class Broken(Denoiser):
    """The identity, but NaN where there is little noise."""

    def forward(self, z, alpha_bar):
        return z * (torch.nan if float(alpha_bar) > 0.5 else 1)


@pytest.mark.parametrize("name", GUIDED)
def test_a_diverging_chain_is_one_clear_line(name):
    denoiser = Broken(torch.zeros(4), 1.0)
    sampler = GUIDED[name](denoiser, GaussianLikelihood.of(PROBLEM, denoiser, TRAIN), GRID)
    with pytest.raises(CSBError, match=r"diverged|all weights of a group of particles") as error:
        sampler.sample(Y, 4, seeded(1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{}, {"mean_only": True}, {"refine": 2}, {"batch_size": 5}], ids=str)
def test_the_bridge_is_that_of_its_own_method(options):
    sizes = []
    hook = BRIDGE.kernel("backward").network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    found = make("bridge", **options).sample(Y, 4, [seeded(1), seeded(2), seeded(3)])
    hook.remove()
    expected = BRIDGE.sample(Y, 4, generator=[seeded(1), seeded(2), seeded(3)], **options)
    assert torch.equal(found.x, expected.x)
    assert found.info.forward_evaluations == expected.info.forward_evaluations
    assert max(sizes) == options.get("batch_size", 12)


def test_replacement_needs_a_projection():
    def build(problem):
        denoiser = Broken(torch.zeros(problem.x_shape), 1.0)
        return Replacement(denoiser, GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 10)), GRID)

    with pytest.raises(CSBError, match=r"A A\* of linear_gaussian is not a multiple of the identity"):
        build(LinearGaussian(dx=3, dy=2))
    with pytest.raises(CSBError, match="bod has no linear operator; replacement needs y = A x"):
        build(BOD())
    assert abs(build(LinearGaussian(dx=3, dy=1)).c - 2.25) < 1e-5


def test_the_exact_sampler_needs_an_exact_posterior():
    class Unknown(GaussianMixture):
        has_exact_posterior = False

    with pytest.raises(CSBError, match="the exact posterior of gaussian_mixture is not known; leave out the method"):
        ExactSampler(Unknown())


def test_horizon_bias():
    assert abs(horizon_bias(GRID, 3.0) - 0.03) < 1e-9
