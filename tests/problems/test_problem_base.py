"""What every problem promises: shapes, determinism, specs, and one clear line for each wrong input."""

import json

import pytest
import torch

from csb.errors import CSBError
from csb.problems import BOD, PROBLEMS, TRANSFORMS, LinearGaussian, TwoMoons, build_problem, build_transform
from csb.process import seeded

SIMULATED = [
    "bod", "gaussian_mixture", "linear_gaussian", "mixture_class", "sbi_gaussian_linear",
    "sbi_gaussian_linear_uniform", "sbi_gaussian_mixture", "two_moons",
]  # fmt: skip
SMALL = {"n_train": 300, "n_val": 20, "n_test": 10}


def one_line(error):
    assert "\n" not in str(error.value)


def test_registry_holds_every_problem():
    digits = {f"mnist_{task}" for task in ("class", "deblur", "inpaint", "inpaint_anywhere", "superres")}
    assert set(PROBLEMS) == {*SIMULATED, *digits, "pairs"}
    assert all(cls.name == name for name, cls in PROBLEMS.items())


@pytest.mark.parametrize("name", SIMULATED)
class TestSimulated:
    def test_pairs_have_the_stated_shapes(self, name):
        problem = build_problem({"name": name, **SMALL})
        problem.prepare()
        for split, n in (("train", 300), ("val", 20), ("test", 10)):
            pairs = problem.pairs(split)
            assert pairs.x.shape == (n, *problem.x_shape)
            assert pairs.y.shape == (n, *problem.y_shape)
            assert pairs.x.dtype == pairs.y.dtype == torch.float32
            assert pairs.labels is None
            assert bool(torch.isfinite(pairs.x).all() and torch.isfinite(pairs.y).all())

    def test_pairs_are_a_function_of_seed_and_split(self, name):
        a, b = (build_problem({"name": name, **SMALL}) for _ in range(2))
        first = a.pairs("train")
        assert torch.equal(first.x, b.pairs("train").x)
        assert torch.equal(first.y, b.pairs("train").y)
        other = build_problem({"name": name, **SMALL, "seed": 1})
        assert not torch.equal(first.x, other.pairs("train").x)
        assert not torch.equal(first.x[:10], a.pairs("test").x)

    def test_a_shorter_request_is_a_prefix_and_a_longer_one_goes_on(self, name):
        problem = build_problem({"name": name, **SMALL})
        whole, few, more = problem.pairs("test"), problem.pairs("test", 3), problem.pairs("test", 10_050)
        assert torch.equal(whole.x[:3], few.x)
        assert torch.equal(whole.y[:3], few.y)
        assert torch.equal(more.x[:10], whole.x)
        assert len(more.x) == 10_050
        assert len(more.x.unique(dim=0)) == 10_050

    def test_the_global_generator_is_left_alone(self, name):
        before = torch.get_rng_state()
        problem = build_problem({"name": name, **SMALL})
        pairs = problem.pairs("val")
        problem.posterior(pairs.y[0]).sample(5, seeded(0))
        assert torch.equal(torch.get_rng_state(), before)

    def test_observe_is_random_through_the_generator_alone(self, name):
        problem = build_problem({"name": name, **SMALL})
        x = problem.pairs("val").x
        assert torch.equal(problem.observe(x, seeded(1)), problem.observe(x, seeded(1)))
        assert not torch.equal(problem.observe(x, seeded(1)), problem.observe(x, seeded(2)))

    def test_spec_is_plain_and_builds_the_same_problem(self, name):
        problem = build_problem({"name": name, **SMALL, "seed": 3})
        spec = json.loads(json.dumps(problem.spec()))
        again = build_problem(spec)
        assert again.spec() == problem.spec()
        assert torch.equal(again.pairs("test").y, problem.pairs("test").y)

    def test_transform_round_trip_and_restore(self, name):
        problem = build_problem({"name": name, **SMALL})
        pairs = problem.pairs("train")
        transform = problem.make_transform(pairs)
        z, c = transform.encode_x(pairs.x), transform.encode_y(pairs.y)
        assert z.shape == (300, *transform.z_shape)
        assert c.shape == (300, *transform.c_shape)
        torch.testing.assert_close(transform.decode(z, pairs.y), pairs.x, rtol=1e-5, atol=1e-5)
        restored = build_transform(json.loads(json.dumps(transform.spec())))
        restored.load_state_dict(transform.state_dict())
        assert torch.equal(restored.encode_x(pairs.x), z)
        assert torch.equal(restored.encode_y(pairs.y), c)

    def test_posterior_draws(self, name):
        problem = build_problem({"name": name, **SMALL})
        posterior = problem.posterior(problem.pairs("test").y[0])
        draws = posterior.sample(7, seeded(0))
        assert draws.shape == (7, *problem.x_shape)
        assert draws.dtype == torch.float32
        assert torch.equal(draws, posterior.sample(7, seeded(0)))
        assert posterior.sample(0, seeded(0)).shape == (0, *problem.x_shape)

    def test_posterior_takes_one_finite_observation(self, name):
        problem = build_problem({"name": name, **SMALL})
        y = problem.pairs("test").y
        with pytest.raises(CSBError, match="ONE observation") as error:
            problem.posterior(y)
        one_line(error)
        with pytest.raises(CSBError, match="all of it finite"):
            problem.posterior(torch.full_like(y[0], float("nan")))

    def test_bad_requests(self, name):
        problem = build_problem({"name": name, **SMALL})
        with pytest.raises(CSBError, match="split='dev' is unknown; choose one of train, val, test"):
            problem.pairs("dev")
        for n in (0, -1, True, 2.0):
            with pytest.raises(CSBError, match="n="):
                problem.pairs("train", n)

    def test_bad_sizes(self, name):
        with pytest.raises(CSBError, match="n_val=0"):
            build_problem({"name": name, "n_val": 0})
        with pytest.raises(CSBError, match="seed=-1"):
            build_problem({"name": name, "seed": -1})


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({}, "problem None is unknown; choose one of bod, "),
        ({"name": "three_moons"}, "problem 'three_moons' is unknown; choose one of bod, "),
        ({"name": ["bod"]}, "is unknown"),
        ({"name": "bod", "sede": 1}, "problem has no setting 'sede'; choose among n_train, n_val, n_test, seed"),
        ({"name": "bod", "seed": "1"}, "problem.seed='1' is not possible; give an integer"),
        ({"name": "bod", "seed": True}, "problem.seed=True is not possible"),
        ({"name": "bod", "seed": 1.5}, "problem.seed=1.5 is not possible"),
        ({"name": "linear_gaussian", "noise": "loud"}, "problem.noise='loud' is not possible; give a number in"),
        ({"name": "linear_gaussian", "noise": 0.0}, r"problem.noise=0.0 is not possible; give a number in \(0, "),
        ({"name": "linear_gaussian", "noise": float("nan")}, "noise=nan"),
        ({"name": "linear_gaussian", "dx": 0}, "dx=0"),
        ({"name": "gaussian_mixture", "dx": 3}, "problem.dx=3 is not possible; give a multiple of 2 in 1..2000"),
        ({"name": "gaussian_mixture", "dy": 3}, "dy=3 is outside"),
        ({"name": "gaussian_mixture", "weights": "heavy"}, "weights='heavy' is unknown; choose one of random, equal"),
        ({"name": "gaussian_mixture", "noise": -1}, "noise=-1"),
        ({"name": "mnist_inpaint", "hole": 13}, "hole=13"),
        ({"name": "mnist_inpaint", "hole": 30}, "hole=30"),
        ({"name": "mnist_superres", "factor": 3}, "factor=3"),
        ({"name": "mnist_superres", "noise": -0.1}, "noise=-0.1"),
        ({"name": "mnist_deblur", "blur": 0}, "problem.blur=0 is not possible"),
        ({"name": "mnist_deblur", "noise": -0.1}, "noise=-0.1"),
    ],
)
def test_bad_problem_specs(spec, match):
    with pytest.raises(CSBError, match=match) as error:
        build_problem(spec)
    one_line(error)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"name": "os.system"}, "transform 'os.system' is unknown; choose one of hole, identity, "),
        ({"name": "identity", "x_shape": [2]}, "transform.y_shape is missing; give transform.y_shape="),
        ({"name": "identity", "x_shape": [2], "y_shape": 2}, "transform.y_shape=2 is not possible; give a list"),
        ({"name": "identity", "x_shape": [2.5], "y_shape": [2]}, r"x_shape\[0\]=2.5"),
        ({"name": "hole", "x_shape": [1, 8, 8], "box": [0, 0, 4]}, "box="),
    ],
)
def test_bad_transform_specs(spec, match):
    with pytest.raises(CSBError, match=match) as error:
        build_transform(spec)
    one_line(error)


def test_an_integer_stands_for_a_float():
    assert LinearGaussian(noise=1).spec() == build_problem({"name": "linear_gaussian", "noise": 1}).spec()


def test_registries_hold_the_classes_named():
    assert set(TRANSFORMS) == {"hole", "identity", "moving_hole", "pixel_range", "probit", "reflect", "standardise"}
    assert isinstance(build_problem({"name": "bod"}), BOD)


def test_pairs_of_another_shape_than_the_problem_says():
    class Wrong(TwoMoons):
        def observe(self, x, generator):
            return x[:, :1]

    problem = Wrong()
    with pytest.raises(CSBError, match=r"y of the pairs of two_moons has shape \(1,\); expected \(2,\)"):
        problem.make_transform(problem.pairs("train", 100))
