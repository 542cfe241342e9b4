"""One sweep over every sampler: shapes, randomness, independence of observations, counts of evaluations, errors."""

import re

import pytest
import torch

from csb.bridge.student import StudentSpec, build_student
from csb.errors import CSBError
from csb.networks.diffusion import (
    CONDITIONAL,
    ConditionalSpec,
    Denoiser,
    DenoiserSpec,
    MixtureDenoiser,
    build_conditional,
    build_denoiser,
)
from csb.problems import GaussianMixture, MnistInpaint
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import GUIDED, BridgeSampler, ConsistencySampler, ExactSampler, GaussianLikelihood
from tests.conftest import default_dtype, make_untrained_bridge, move_weights
from tests.samplers import models
from tests.samplers.models import AMORTIZED, make_amortized, untrained

PASSES = {  # forward and backward, on GRID
    "bridge": (3, 0),
    "exact": (0, 0),
    "consistency": (2, 0),
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
    **dict.fromkeys(AMORTIZED, (6, 0)),
    "score_heun": (11, 0),
    "flow_heun": (12, 0),
}
STEPPED = [*GUIDED, *AMORTIZED]  # what goes down a grid
PROBLEM = GaussianMixture(dx=4, dy=2, seed=1)
GRID = Grid.from_schedule(LinearBeta(1e-4), 6)
CALM = Grid(torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64))
Y = PROBLEM.pairs("test", 3).y
BRIDGE, DENOISER = make_untrained_bridge(4, 2), MixtureDenoiser(PROBLEM.mixture)
LIKELIHOOD = GaussianLikelihood.of(PROBLEM, DENOISER, PROBLEM.pairs("train", 500))
NETWORKS = {kind: untrained(kind, 4, 2) for kind in CONDITIONAL}
STANDARDISE = {"name": "standardise", "x_shape": [4], "y_shape": [2]}
STUDENT = move_weights(build_student(StudentSpec([1.0, 0.8, 0.4, 0.1], STANDARDISE, models.MLP, "v", "full", [2]), 3))


def make(name, grid=GRID, denoiser=DENOISER, likelihood=LIKELIHOOD, networks=NETWORKS, **options):
    if name == "bridge":
        return BridgeSampler(BRIDGE, **options)
    if name == "exact":
        return ExactSampler(PROBLEM)
    if name == "consistency":
        return ConsistencySampler(STUDENT, 2, **options)
    if name in AMORTIZED:
        return make_amortized(name, networks, grid, **options)
    return GUIDED[name](denoiser, likelihood, grid, **options)


@pytest.fixture(params=PASSES)
def name(request):
    return request.param


@pytest.fixture
def sampler(name):
    return make(name)


def assert_same(one, two, exactly=True):
    """Of samples and of their weights."""
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(one.x, two.x, **tolerance)
    if one.log_weights is not None:
        torch.testing.assert_close(one.log_weights, two.log_weights, **tolerance)


def test_shapes_and_info(sampler, name):
    found = sampler.sample(Y, 16, seeded(1))
    assert sampler.name == name
    assert (found.x.shape, found.x.dtype, found.x.requires_grad) == ((3, 16, 4), torch.float32, False)
    assert bool(torch.isfinite(found.x).all())
    info = found.info
    assert (info.forward_evaluations, info.backward_evaluations) == PASSES[name]
    assert info.seconds > 0
    assert info.peak_memory is None or info.peak_memory >= 0
    assert info.trajectory is None
    if name not in ("tds", "smc"):
        assert found.log_weights is info.ess is info.unique_ancestors is None
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
            assert together.info.unique_ancestors[i] == alone.info.unique_ancestors


def test_the_seed_alone_decides(sampler, name):
    """Not torch's default dtype, that of the observations, nor inference mode."""
    one = sampler.sample(Y, 8, seeded(1))
    assert_same(one, sampler.sample(Y, 8, seeded(1)))
    assert not torch.allclose(one.x, sampler.sample(Y, 8, seeded(2)).x, atol=1e-2)
    assert_same(one, sampler.sample(Y.double(), 8, seeded(1)))
    with torch.inference_mode():
        assert_same(one, sampler.sample(Y.clone(), 8, seeded(1)))
    with default_dtype(torch.bfloat16):
        assert_same(one, make(name).sample(Y, 8, seeded(1)))


def test_the_global_generator(sampler):
    state = torch.random.get_rng_state()
    sampler.sample(Y, 4, seeded(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one, two = (sampler.sample(Y, 4).x for _ in range(2))
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


def test_batch_size_changes_nothing(sampler, name):
    if name != "exact":
        whole, parts = (one.sample(Y, 7, seeded(2)) for one in (sampler, make(name, batch_size=4)))
        assert_same(whole, parts, exactly=False)


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
    with pytest.raises(CSBError, match=re.escape(message)):
        sampler.sample(y, **{"generator": seeded(1), **options})


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        ("copaint", "xi", 0.0, "is not possible; give a number in"),
        ("pigdm", "eta", 1.5, "is not possible; give a number in [0, 1]"),
        ("tmpd", "solver", "cg", "is unknown; choose one of auto, full, diagonal"),
        ("sda", "step", 2.0, "is not possible; give a number in (0, 2)"),
        ("smc", "resampling", "best", "is unknown; choose one of systematic, stratified"),
        ("score_ddim", "eta", 1.5, "is not possible; give a number in [0, 1]"),
    ],
)
def test_settings_of_a_method(name, setting, value, message):
    with pytest.raises(CSBError) as error:
        make(name, **{setting: value})
    assert str(error.value).startswith(f"{name}.{setting}={value!r} {message}")


def passes(sampler, model):
    """What a sampler reports, and the states and the level of each pass of its model, and the passes back."""
    sizes, levels, backward = [], [], []

    def hook(_, inputs, output):
        sizes.append(len(inputs[0]))
        levels.append(float(inputs[1].flatten()[0]))
        if inputs[0].requires_grad:
            output.register_hook(lambda _: backward.append(1))

    handle = model.register_forward_hook(hook)
    info = sampler.sample(Y, 8, seeded(1)).info
    handle.remove()
    return (info.forward_evaluations, info.backward_evaluations), sizes, levels, len(backward)


@pytest.mark.parametrize("name", GUIDED)
def test_the_counts_of_evaluations_are_true(name):
    reported, sizes, levels, backward = passes(make(name, batch_size=64), DENOISER)
    assert reported == (len(sizes), backward)
    assert set(levels) == set(GRID.alpha_bar[1:].tolist())  # in float64: 1 − ᾱ is small near the data
    assert max(passes(make(name, batch_size=5), DENOISER)[1]) == 5


@pytest.mark.parametrize("name", AMORTIZED)
@pytest.mark.parametrize("T", [1, 6, 9])
def test_the_counts_of_amortized_samplers_are_true(name, T):
    sampler = make(name, Grid.from_schedule(LinearBeta(1e-4), T))
    assert sampler.evaluations == len(passes(sampler, sampler.model.network)[1])


@pytest.mark.parametrize("name", STEPPED)
def test_more_steps_never_take_fewer_evaluations(name):
    """So that the most steps of a budget can be found by bisection."""
    passes = [make(name, Grid.from_schedule(LinearBeta(1e-4), T)).evaluations for T in range(1, 9)]
    assert passes == sorted(passes)


@pytest.mark.parametrize("name", STEPPED)
def test_networks_in_both_precisions(name):
    found = []
    for precision in ("32-true", "bf16-mixed"):
        denoiser = move_weights(build_denoiser(DenoiserSpec(models.MLP, (4,), 11.0)).train())
        likelihood = GaussianLikelihood.of(PROBLEM, denoiser, PROBLEM.pairs("train", 500))
        networks = {kind: untrained(kind, 4, 2, precision=precision) for kind in CONDITIONAL}
        options = {"precision": precision} if name in GUIDED else {}
        found.append(make(name, GRID, denoiser, likelihood, networks, **options).sample(Y, 8, seeded(1)).x)
        model = denoiser if name in GUIDED else networks[AMORTIZED[name].kind]
        assert not any([model.training, *(p.requires_grad for p in model.parameters())])
    full, half = found
    assert bool(torch.isfinite(full).all())
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)


class Broken(Denoiser):
    """The identity, but NaN where there is little noise."""

    def forward(self, z, alpha_bar):
        return z * (torch.nan if float(alpha_bar) > 0.5 else 1)


@pytest.mark.parametrize("name", STEPPED)
def test_what_is_known_for_sure_is_imposed(name):
    problem = MnistInpaint()
    y = problem.operator(torch.rand(2, 1, 28, 28, generator=seeded(1)))
    likelihood = GaussianLikelihood(problem.operator, 0.0, impose=problem.impose).with_scales(torch.ones(1, 28, 28))
    network, transform = {"name": "unet", "channels": 8, "patch": 2}, problem.new_transform().spec()
    networks = name in AMORTIZED and {
        kind: build_conditional(ConditionalSpec(kind, network, transform, models.SCHEDULE if kind == "score" else None))
        for kind in CONDITIONAL
    }
    x = make(name, CALM, Broken(torch.zeros(1, 28, 28), 1.0), likelihood, networks).sample(y, 3, seeded(2)).x
    assert torch.equal(problem.operator(x.flatten(0, 1)), y.repeat_interleave(3, 0))
    assert 0 <= float(x.min()) < float(x.max()) <= 1


@pytest.mark.parametrize("name", STEPPED)
def test_a_diverging_chain_is_one_clear_line(name):
    networks = {kind: model() for kind, model in models.EXACT.items()}
    for model in networks.values():
        model.G = model.G * torch.nan
    sampler = make(name, denoiser=Broken(torch.zeros(4), 1.0), networks=networks)
    with pytest.raises(CSBError, match=r"diverged|all weights of a group of particles"):
        sampler.sample(torch.zeros(3, 2), 4, seeded(1))


@pytest.mark.parametrize("name", AMORTIZED)
def test_a_model_of_another_kind(name):
    kind, other = AMORTIZED[name].kind, dict(zip(CONDITIONAL, [*reversed(CONDITIONAL)]))
    with pytest.raises(CSBError, match=rf"takes a {kind}, not a {type(NETWORKS[other[kind]]).__name__}; load"):
        make(name, networks={kind: NETWORKS[other[kind]]})


@pytest.mark.parametrize("options", [{}, {"mean_only": True}, {"refine": 2}, {"batch_size": 5}], ids=str)
def test_the_bridge_is_that_of_its_own_method(options):
    sizes, generators = [], [seeded(1), seeded(2), seeded(3)]
    hook = BRIDGE.kernel("backward").network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    found = make("bridge", **options).sample(Y, 4, generators)
    hook.remove()
    expected = BRIDGE.sample(Y, 4, generator=[seeded(1), seeded(2), seeded(3)], **options)
    assert torch.equal(found.x, expected.x)
    assert found.info.forward_evaluations == expected.info.forward_evaluations
    assert max(sizes) == options.get("batch_size", 12)


def test_the_exact_sampler_needs_an_exact_posterior():
    class Unknown(GaussianMixture):
        has_exact_posterior = False

    with pytest.raises(CSBError, match="the exact posterior of gaussian_mixture is not known; leave out the method"):
        ExactSampler(Unknown())
