"""Denoisers, scores and flows: the exact one against Tweedie, the trained ones' v, levels, plain data, errors."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from csb.errors import CSBError
from csb.networks.diffusion import ConditionalSpec, DenoiserSpec, MixtureDenoiser, build_conditional, build_denoiser
from csb.problems import GaussianMixture, Mixture
from csb.process import LinearBeta, seeded
from tests.conftest import move_weights

MLP = {"name": "mlp", "width": 16, "depth": 1}
UNET = {"name": "unet", "channels": 8, "patch": 2}
HOLE = {"name": "hole", "x_shape": [1, 12, 12], "box": [3, 3, 6, 6]}
VECTORS = {"name": "standardise", "x_shape": [3], "y_shape": [2]}
SCHEDULE = {"name": "linear", "alpha_bar_end": 1e-4}


def conditional(kind, **changes):
    schedule = SCHEDULE if kind == "score" else None
    return ConditionalSpec(**{"kind": kind, "network": MLP, "transform": VECTORS, "schedule": schedule} | changes)


def own_covariances():
    L = torch.tril(torch.rand(3, 2, 2, generator=seeded(1), dtype=torch.float64)) + 0.3 * torch.eye(2)
    means = 2 * torch.randn(3, 2, generator=seeded(2), dtype=torch.float64)
    return Mixture(torch.tensor([0.2, 0.8, 0.0], dtype=torch.float64), means, L @ L.mT)


@pytest.mark.parametrize("mixture", [GaussianMixture(dx=4).mixture, own_covariances()], ids=["shared", "own"])
class TestExact:
    @pytest.mark.parametrize("alpha_bar", [1e-5, 0.5, 1 - 1e-5])
    def test_it_is_tweedies_formula(self, mixture, alpha_bar):
        z = math.sqrt(alpha_bar) * mixture.sample(200, seeded(3))
        z = z + math.sqrt(1 - alpha_bar) * torch.randn(z.shape, generator=seeded(4), dtype=torch.float64)
        found = MixtureDenoiser(mixture)(z, torch.tensor(alpha_bar, dtype=torch.float64))
        eye = torch.eye(z.shape[1], dtype=torch.float64)
        score = mixture.observed(math.sqrt(alpha_bar) * eye, (1 - alpha_bar) * eye).score(z)
        torch.testing.assert_close(found, (z + (1 - alpha_bar) * score) / math.sqrt(alpha_bar), rtol=1e-7, atol=1e-7)

    def test_its_gradient_and_type(self, mixture):
        z = torch.randn(5, mixture.means.shape[1], generator=seeded(4), dtype=torch.float64).requires_grad_()
        denoiser = MixtureDenoiser(mixture)
        assert torch.autograd.gradcheck(lambda z: denoiser(z, torch.tensor(0.3)), z)
        assert denoiser(z.float(), torch.tensor(0.3)).dtype == torch.float32
        assert denoiser.x_shape == z.shape[1:]


@dataclass
class Case:
    """A model with weights that hide nothing, states, and the context that it takes, if any."""

    kind: str
    model: nn.Module
    z: Tensor
    context: tuple[Tensor, ...] = ()

    def __call__(self, level, call=None, index=slice(None)):
        return (call or self.model)(self.z[index], level, *(one[index] for one in self.context))


@pytest.fixture(params=["denoiser-vectors", "denoiser-images", "score-vectors", "score-images", "flow-vectors"])
def case(request):
    kind, data = request.param.split("-")
    network, transform = (UNET, HOLE) if data == "images" else (MLP, VECTORS)
    if kind == "denoiser":
        model = build_denoiser(DenoiserSpec(network, (1, 8, 8) if data == "images" else (3,), 2.0))
    else:
        model = build_conditional(conditional(kind, network=network, transform=transform), 1)
    move_weights(model).eval()
    if kind == "denoiser":
        return Case(kind, model, torch.randn(5, *model.x_shape, generator=seeded(1)))
    z, c = (
        torch.randn(5, *shape, generator=seeded(k))
        for k, shape in ((1, model.transform.z_shape), (2, model.transform.c_shape))
    )
    return Case(kind, model, z, (model.encode(c).detach(),))


def test_one_level_or_one_a_state(case):
    levels = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.99])
    many = case(levels)
    assert many.shape == case.z.shape
    for i in range(5):
        torch.testing.assert_close(many[i : i + 1], case(levels[i], index=[i]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_level_observation_and_state_matter(case):
    level, velocity = torch.tensor(0.4, dtype=torch.float64), case.model.velocity
    base = case(level, velocity)
    assert base.dtype == torch.float32
    others = [case(level / 2, velocity), velocity(case.z.flip(0), level, *case.context)]
    others += [velocity(case.z, level, one.flip(0)) for one in case.context]
    assert all(float((other - base).abs().max()) > 1e-3 for other in others)
    torch.testing.assert_close(case(level.float()), case(level), rtol=1e-5, atol=1e-5)


def test_what_the_samplers_see(case):
    """A flow gives its output; the others give the z_0 of v = √ᾱ ε − √(1−ᾱ) z_0 and z = √ᾱ z_0 + √(1−ᾱ) ε."""
    level = torch.tensor(0.3)
    v, out = case(level, case.model.velocity), case(level)
    if case.kind == "flow":
        assert torch.equal(v, out)
        assert all(bool(torch.isfinite(case(torch.tensor(t))).all()) for t in (0.0, 1.0))
        return
    eps = (case.z - math.sqrt(0.3) * out) / math.sqrt(0.7)
    torch.testing.assert_close(math.sqrt(0.3) * eps - math.sqrt(0.7) * out, v, rtol=1e-4, atol=1e-5)
    almost = torch.tensor(1 - 1e-12, dtype=torch.float64)
    torch.testing.assert_close(case(almost), case.z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "time"), [("score", 67), ("denoiser", 67), ("flow", 25)])
@torch.no_grad()
def test_the_time_of_a_level(kind, time):
    """arccos(√.25)·2/π = 2/3 of a diffusion, and of a flow the level itself: an affine map says which of 100 it is."""
    network = {"name": "affine", "steps": 100}
    if kind == "denoiser":
        model, context = build_denoiser(DenoiserSpec(network, (3,), 1.0)), ()
    else:
        model, context = build_conditional(conditional(kind, network=network)), (torch.zeros(1, 2),)
    model.network.bias[:] = torch.arange(101.0)[:, None]
    assert model.velocity(torch.zeros(1, 3), torch.tensor(0.25), *context).flatten().tolist() == [time] * 3


@pytest.mark.parametrize(("network", "transform"), [(MLP, VECTORS), (UNET, HOLE)], ids=["vectors", "images"])
@torch.no_grad()
def test_a_mean_flow_of_two_times_and_a_consistency_function(network, transform):
    """One pair of times or one a state, and both matter; f(z, t) = z + (1−t) u(z, t, 1), so that f(z, 1) = z."""
    flow, ends = (
        move_weights(build_conditional(conditional(kind, network=network, transform=transform), 1)).eval()
        for kind in ("meanflow", "consistency")
    )
    shapes = flow.transform.z_shape, flow.transform.c_shape
    z, c = (torch.randn(4, *shape, generator=seeded(k)) for k, shape in enumerate(shapes))
    levels, context = torch.tensor([[0.1, 0.1], [0.1, 0.9], [0.5, 0.9], [0.0, 1.0]]), flow.encode(c)
    many = flow(z, levels, context)
    for i in range(4):
        alone = flow(z[i : i + 1], levels[i : i + 1].double(), context[i : i + 1])
        torch.testing.assert_close(many[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    at = [flow(z, level[None], context) for level in levels[:3]]
    assert all(float((one - two).abs().max()) > 1e-3 for one, two in pairwise(at))
    t = torch.tensor([0.0, 0.3, 0.8, 1.0])
    expected = z + (1 - t).view(-1, *[1] * (z.ndim - 1)) * flow(z, torch.stack([t, torch.ones(4)], 1), context)
    torch.testing.assert_close(ends(z, t, context), expected)
    assert torch.equal(ends(z, torch.tensor(1.0), context), z)
    assert not torch.equal(ends(z, torch.tensor(0.9), context), z)


def test_a_state_depends_on_itself_alone(case):
    z = case.z.requires_grad_()
    (gradient,) = torch.autograd.grad(case(torch.tensor(0.3))[2].sum(), z)
    assert [bool((row != 0).any()) for row in gradient] == [False, False, True, False, False]


def test_units_of_a_denoiser():
    denoiser, z = build_denoiser(DenoiserSpec(MLP, (3,), 2.0)), torch.randn(6, 3, generator=seeded(1))
    denoiser.shift.fill_(1.5)
    torch.testing.assert_close(denoiser.decode(z), 1.5 + 2 * z)
    torch.testing.assert_close(denoiser.encode(denoiser.decode(z)), z)
    assert "shift" in denoiser.state_dict()


@pytest.mark.parametrize(
    ("build", "spec"), [(build_denoiser, DenoiserSpec(MLP, (3,), 1.0)), (build_conditional, conditional("score"))]
)
def test_the_initial_weights_are_a_function_of_the_seed(build, spec):
    state = torch.random.get_rng_state()
    one, two, other = (build(spec, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_specs_there_and_back():
    spec = DenoiserSpec(UNET, (1, 8, 8), 0.31, 1e-4)
    assert spec.plain() == {"network": UNET, "x_shape": [1, 8, 8], "scale": 0.31, "alpha_bar_end": 1e-4}
    assert DenoiserSpec.read(spec.plain()) == spec
    assert build_denoiser(DenoiserSpec.read({"network": MLP, "x_shape": [3], "scale": 1.0})).alpha_bar_end == 0
    whole = conditional("flow", network=UNET, transform=HOLE, precision="bf16-mixed")
    assert ConditionalSpec.read(whole.plain()) == whole
    assert build_conditional(whole).precision == "bf16-mixed"
    assert build_conditional(conditional("score")).schedule == LinearBeta(1e-4)
    build_conditional(conditional("flow", network={"name": "affine", "steps": 100}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "nope"}, "kind='nope' is unknown; choose one of score, flow"),
        ({"schedule": None}, "schedule None is unknown; choose one of"),
        ({"network": {**MLP, "more": 1}}, "network.options has no setting 'more'"),
        ({"network": {"name": "affine", "steps": 10}}, "network=affine has maps for 10 steps and stage=score needs"),
        ({"kind": "meanflow", "network": {"name": "affine", "steps": 100}}, "network=affine does not embed its time"),
        ({"more": 1}, "there is no setting 'more'"),
    ],
    ids=str,
)
def test_errors_of_conditional_specs(changes, message):
    with pytest.raises(CSBError) as error:
        build_conditional(ConditionalSpec(**conditional("score").plain() | changes))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": None}, r"denoiser\.scale=None is not possible; give a finite number above 0"),
        ({"x_shape": 3}, r"denoiser\.x_shape=3 is not a shape"),
    ],
)
def test_errors_of_denoiser_specs(changes, message):
    with pytest.raises(CSBError, match=message):
        DenoiserSpec.read({"network": MLP, "x_shape": [3], "scale": 1.0, **changes}, "denoiser")
