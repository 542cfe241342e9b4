"""Trained scores and flows: parametrisation, levels, codes, plain data, precision, errors."""

import math

import pytest
import torch

from csb.errors import CSBError
from csb.networks.diffusion import ConditionalSpec, build_conditional
from csb.process import LinearBeta, seeded
from tests.samplers.conditional_models import MLP, SCHEDULE, untrained

UNET = {"name": "unet", "channels": 8, "patch": 2}
HOLE = {"name": "hole", "x_shape": [1, 12, 12], "box": [3, 3, 6, 6]}
VECTORS = {"name": "standardise", "x_shape": [3], "y_shape": [2]}


def spec(kind, **changes):
    schedule = SCHEDULE if kind == "score" else None
    return ConditionalSpec(**{"kind": kind, "network": MLP, "transform": VECTORS, "schedule": schedule} | changes)


def images(kind):
    model = build_conditional(spec(kind, network=UNET, transform=HOLE), 1)
    generator = seeded(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model.eval()


@pytest.fixture(params=["score", "flow"], scope="module")
def kind(request):
    return request.param


@pytest.fixture(params=["vectors", "images"], scope="module")
def model(kind, request):
    return untrained(kind, 3, 2).eval() if request.param == "vectors" else images(kind)


@pytest.fixture
def z(model):
    return torch.randn(5, *model.transform.z_shape, generator=seeded(1))


@pytest.fixture
def code(model):
    return model.encode(torch.randn(5, *model.transform.c_shape, generator=seeded(2)))


def test_one_level_or_one_a_state(model, z, code):
    levels = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.99])
    many = model(z, levels, code)
    assert many.shape == z.shape
    for i in range(5):
        alone = model(z[i : i + 1], levels[i], code[i : i + 1])
        torch.testing.assert_close(many[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_level_observation_and_state_matter(model, z, code):
    level = torch.tensor(0.4, dtype=torch.float64)
    with torch.no_grad():
        base = model.velocity(z, level, code)
        assert base.dtype == torch.float32
        for other in (model.velocity(z, level / 2, code), model.velocity(z, level, code.flip(0))):
            assert float((other - base).abs().max()) > 1e-3
        assert float((model.velocity(z.flip(0), level, code) - base).abs().max()) > 1e-3


def test_what_the_samplers_see(model, kind, z, code):
    """A flow gives its output; a score gives the z_0 of v = √ᾱ ε − √(1−ᾱ) z_0 and z = √ᾱ z_0 + √(1−ᾱ) ε."""
    level = torch.tensor(0.3)
    v, out = model.velocity(z, level, code), model(z, level, code)
    if kind == "flow":
        assert torch.equal(v, out)
        return
    eps = (z - math.sqrt(0.3) * out) / math.sqrt(0.7)
    torch.testing.assert_close(math.sqrt(0.3) * eps - math.sqrt(0.7) * out, v, rtol=1e-4, atol=1e-5)
    almost = torch.tensor(1 - 1e-12, dtype=torch.float64)
    torch.testing.assert_close(model(z, almost, code), z, rtol=1e-4, atol=1e-4)


def test_both_ends_of_a_flow(z, code, model, kind):
    if kind == "flow":
        for t in (0.0, 1.0):
            assert bool(torch.isfinite(model(z, torch.tensor(t), code)).all())


def test_the_initial_weights_are_a_function_of_the_seed(kind):
    state = torch.random.get_rng_state()
    one, two, other = (build_conditional(spec(kind), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_a_score_knows_its_schedule():
    assert build_conditional(spec("score")).schedule == LinearBeta(1e-4)


def test_there_and_back(kind):
    whole = spec(kind, network=UNET, transform=HOLE, precision="bf16-mixed")
    assert ConditionalSpec.read(whole.plain()) == whole
    assert build_conditional(whole).precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "nope"}, "kind='nope' is unknown; choose one of score, flow"),
        ({"schedule": None}, "schedule None is unknown; choose one of"),
        ({"schedule": {**SCHEDULE, "name": "nope"}}, "schedule 'nope' is unknown"),
        ({"schedule": {**SCHEDULE, "more": 1}}, "schedule has no setting 'more'"),
        ({"network": {**MLP, "more": 1}}, "network.options has no setting 'more'"),
        ({"network": {"name": "nope"}}, "network 'nope' is unknown"),
        ({"transform": {"name": "nope"}}, "transform 'nope' is unknown"),
        (
            {"network": {"name": "affine", "steps": 10}},
            "network=affine has maps for 10 steps and stage=score needs",
        ),
    ],
    ids=str,
)
def test_errors(changes, message):
    with pytest.raises(CSBError) as error:
        build_conditional(ConditionalSpec(**spec("score").plain() | changes))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_affine_network_of_many_steps_is_allowed(kind):
    build_conditional(spec(kind, network={"name": "affine", "steps": 100}))


def test_a_description_that_does_not_fit():
    for data in ({"kind": "score"}, {**spec("score").plain(), "more": 1}):
        with pytest.raises(CSBError, match=r"conditional(\.network is missing| has no setting 'more'); "):
            ConditionalSpec.read(data, "conditional")
