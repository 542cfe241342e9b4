"""What every problem promises: shapes, determinism, specs, and one clear line for each wrong input."""

import json

import pytest
import torch

from csb.errors import CSBError
from csb.problems import PROBLEMS, TRANSFORMS, TwoMoons, build_problem, build_transform
from csb.process import seeded

SIMULATED = [
    "bod", "counts", "darcy", "gaussian_mixture", "linear_gaps", "linear_gaussian", "logistic", "mixture_class",
    "modes", "normal_set", "normal_wishart", "oscillator", "pushed", "random_field",
    "sbi_gaussian_linear", "sbi_gaussian_linear_uniform", "sbi_gaussian_mixture", "sir", "two_moons",
]  # fmt: skip
FIELDS = ("darcy", "random_field")  # a thousand numbers a draw: tested like the others, but nightly
EACH = [pytest.param(name, marks=pytest.mark.nightly) if name in FIELDS else name for name in SIMULATED]
SMALL = {"n_train": 300, "n_val": 20, "n_test": 10}


def filled(y):
    """y with a number where a value is missing: NaN is not equal to itself."""
    return y.masked_fill(y.isnan(), -9.0)


def test_registries_hold_every_class():
    digits = {f"mnist_{task}" for task in ("class", "deblur", "inpaint", "inpaint_anywhere", "superres")}
    photographs = {f"photo_{task}" for task in ("colour", "deblur", "inpaint", "superres")}
    assert set(PROBLEMS) == {*SIMULATED, *digits, *photographs, "pairs"}
    assert all(cls.name == name for name, cls in PROBLEMS.items())
    transforms = "clamp hole identity mixed moving_hole pixel_range probit reflect residual spectral standardise"
    assert sorted(TRANSFORMS) == transforms.split()


@pytest.mark.parametrize("name", EACH)
class TestSimulated:
    def test_pairs_are_a_function_of_seed_and_split(self, name):
        before = torch.get_rng_state()
        a, b, other = (build_problem({"name": name, **SMALL, "seed": seed}) for seed in (3, 3, 4))
        a.prepare()
        first = a.pairs("train")
        assert first.x.shape == (300, *a.x_shape)
        assert first.y.shape == (300, *a.y_shape)
        assert first.x.dtype == first.y.dtype == torch.float32
        assert first.labels is None
        assert bool(torch.isfinite(first.x).all() and (torch.isfinite(first.y) | first.y.isnan()).all())
        assert bool(first.y.isnan().any()) == a.may_miss
        assert all(torch.equal(filled(one), filled(two)) for one, two in zip(first[:2], b.pairs("train")[:2]))
        assert not torch.equal(first.x, other.pairs("train").x)
        assert not torch.equal(first.x[:10], a.pairs("test").x)
        one, same, another = (filled(a.observe(first.x, seeded(seed))) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, another)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_shorter_request_is_a_prefix_and_a_longer_one_goes_on(self, name):
        problem = build_problem({"name": name, **SMALL})
        whole, few, more = problem.pairs("test"), problem.pairs("test", 3), problem.pairs("test", 10_050)
        assert torch.equal(whole.x[:3], few.x)
        assert torch.equal(filled(whole.y[:3]), filled(few.y))
        assert torch.equal(more.x[:10], whole.x)
        assert len(more.x.unique(dim=0)) == 10_050

    def test_specs_of_problem_and_transform_build_the_same(self, name):
        problem = build_problem({"name": name, **SMALL, "seed": 3})
        again = build_problem(json.loads(json.dumps(problem.spec())))
        assert again.spec() == problem.spec()
        pairs = again.pairs("train")
        assert torch.equal(filled(pairs.y), filled(problem.pairs("train").y))
        transform = problem.make_transform(pairs)
        z, c = transform.encode_x(pairs.x), transform.encode_y(pairs.y)
        assert z.shape == (300, *transform.z_shape)
        assert c.shape == (300, *transform.c_shape)
        torch.testing.assert_close(transform.decode(z, pairs.y), pairs.x, rtol=1e-5, atol=1e-5)
        restored = build_transform(json.loads(json.dumps(transform.spec())))
        restored.load_state_dict(transform.state_dict())
        assert torch.equal(restored.encode_x(pairs.x), z)
        assert torch.equal(filled(restored.encode_y(pairs.y)), filled(c))

    def test_posterior_of_one_finite_observation(self, name):
        problem = build_problem({"name": name, **SMALL})
        y = problem.pairs("test").y
        if name == "darcy":
            with pytest.raises(CSBError, match="the exact posterior of darcy is not known"):
                problem.posterior(y[0])
            return
        posterior = problem.posterior(y[0])
        draws = posterior.sample(7, seeded(0))
        assert draws.shape == (7, *problem.x_shape)
        assert draws.dtype == torch.float32
        assert torch.equal(draws, posterior.sample(7, seeded(0)))
        assert posterior.sample(0, seeded(0)).shape == (0, *problem.x_shape)
        for wrong in (y, torch.full_like(y[0], float("inf" if problem.may_miss else "nan"))):
            with pytest.raises(CSBError, match=r"is not ONE observation .* all of it finite"):
                problem.posterior(wrong)


def test_bad_requests():
    with pytest.raises(CSBError, match="split='dev' is unknown; choose one of train, val, test"):
        TwoMoons().pairs("dev")
    for n in (0, True, 2.0):
        with pytest.raises(CSBError, match=f"n={n} is not possible; give an integer of at least 1"):
            TwoMoons().pairs("train", n)


@pytest.mark.parametrize(
    ("build", "spec", "match"),
    [
        (build_problem, {}, "problem None is unknown; choose one of bod, "),
        (build_problem, {"name": "three_moons"}, "problem 'three_moons' is unknown; choose one of bod, "),
        (build_problem, {"name": "bod", "sede": 1}, "problem has no setting 'sede'; choose among n_train, n_val, "),
        (build_problem, {"name": "linear_gaussian", "noise": 0.0}, r"problem.noise=0.0 is not possible; give a number"),
        (build_problem, {"name": "gaussian_mixture", "dx": 3}, "problem.dx=3 is not possible; give a multiple of 2 in"),
        (build_problem, {"name": "gaussian_mixture", "dy": 3}, "dy=3 is outside"),
        (build_problem, {"name": "mnist_inpaint", "hole": 13}, "hole=13"),
        (build_problem, {"name": "mnist_superres", "factor": 3}, "factor=3"),
        (build_transform, {"name": "os.system"}, "transform 'os.system' is unknown; choose one of clamp, "),
        (build_transform, {"name": "identity", "x_shape": [2]}, "transform.y_shape is missing; give transform.y_shape"),
        (build_transform, {"name": "identity", "x_shape": [2.5], "y_shape": [2]}, r"x_shape\[0\]=2.5"),
        (build_transform, {"name": "hole", "x_shape": [1, 8, 8], "box": [0, 0, 4]}, "box="),
        (build_transform, {"name": "hole", "x_shape": [2, 6, 9], "box": [0, 9, 4, 4]}, "does not lie"),
        (build_transform, {"name": "moving_hole", "x_shape": [2, 6, 9], "hole": 6}, "hole=6 does not move"),
    ],
)
def test_bad_specs(build, spec, match):
    with pytest.raises(CSBError, match=match):
        build(spec)


def test_pairs_of_another_shape_than_the_problem_says():
    class Wrong(TwoMoons):
        def observe(self, x, generator):
            return x[:, :1]

    problem = Wrong()
    with pytest.raises(CSBError, match=r"y of the pairs of two_moons has shape \(1,\); expected \(2,\)"):
        problem.make_transform(problem.pairs("train", 100))
