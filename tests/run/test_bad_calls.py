"""The Python interface with arguments of every kind: refused in one line, or accepted and then an answer of numbers."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import csb
from csb import metrics
from csb.bridge import BridgeSpec, KernelSpec, build_bridge, save
from csb.bridge.student import StudentSpec, build_student
from csb.cli.sample import read_observations
from csb.errors import CSBError
from csb.filtering import FILTERS, MODELS
from csb.networks import NETWORKS, build_network
from csb.networks.diffusion import MixtureDenoiser
from csb.problems import PROBLEMS, GaussianMixture, build_problem
from csb.problems.specs import arguments as arguments_of
from csb.process import SCHEDULES, Grid, Power, seeded
from csb.samplers import GaussianLikelihood, flow_sampler, score_sampler
from csb.samplers.registry import GUIDED
from tests.bad_input import answer, edges, try_values
from tests.conftest import make_untrained_bridge
from tests.samplers.conditional_models import untrained

Y = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
TENSORS = [
    torch.zeros(0), torch.zeros(()), torch.zeros(3), torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 2),
    torch.zeros(0, 2), torch.zeros(2, 5, 3), torch.zeros(1, 1, 1, 2), torch.full((2, 2), torch.nan),
    torch.full((2, 3), torch.inf), torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(2, 2, dtype=torch.bool),
    torch.ones(2, 2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.float16),
    torch.full((2, 2), 1e300, dtype=torch.float64), torch.zeros(2, 2).numpy(), np.zeros((2, 2), dtype=object),
    np.array(["a", "b"]), np.zeros(2, dtype="M8[s]"),
    np.ma.zeros((2, 2)), torch.zeros(2, 2).to_sparse(), torch.zeros(2, 2, device="meta"), object(), range(2), b"ab",
    {"y": 1}, [[1.0, 2.0], [3.0]], (1.0, 2.0), [torch.zeros(2), torch.zeros(2)], lambda: 0, torch.Generator(), 1j,
]  # fmt: skip
ANYTHING = st.sampled_from(TENSORS) | edges()
SHAPES = [
    (), (0,), (1,), (2,), (3,), (1, 2), (2, 2), (3, 2), (2, 3), (0, 2), (2, 0), (1, 1, 2), (2, 1, 2), (2, 2, 2, 2),
]  # fmt: skip


def finite(samples):
    assert bool(torch.isfinite(samples.x).all())


def each_of(names, call):
    """Calls by name: ``call(name, value)``."""
    return {name: (lambda value, name=name: call(name, value)) for name in names}


class TestBridge:
    @pytest.fixture(scope="class")
    def bridge(self):
        return make_untrained_bridge(3, 2).eval()

    def test_sample_and_log_prob(self, bridge):
        x, gen = torch.zeros(2, 3), seeded(0)
        options = ("n", "batch_size", "refine", "sample_steps", "mean_only", "trajectory")
        calls = each_of(options, lambda k, v: finite(bridge.sample(Y, **{"n": 2, "generator": seeded(0), k: v})))
        assert try_values(calls, 20)["refused"] > 60
        calls = each_of(("n", "batch_size", "with_info"), lambda k, v: bridge.log_prob(x, Y, **{"n": 2, k: v}))
        assert try_values(calls, 15)["refused"] > 20
        calls = {
            "y": lambda v: finite(bridge.sample(v, 2, generator=gen)),
            "y of log_prob": lambda v: bridge.log_prob(x, v, 2, gen),
            "x": lambda v: bridge.log_prob(v, Y, 2, gen),
        }
        assert try_values(calls, 45, ANYTHING)["refused"] > 60
        for n in (10**12, 2**62):
            assert "draw fewer" in answer(lambda n=n: bridge.sample(Y, n))
            assert "draw fewer" in answer(lambda n=n: bridge.log_prob(x, Y, n))

    def test_generators(self, bridge):
        two = [seeded(0), seeded(1)]
        odd = st.sampled_from([two, two[:1], [*two, 3], tuple(two), "0", 0, 1.5, np.random.default_rng(0), {}, []])
        calls = {"generator of": lambda v: finite(bridge.sample(Y, 2, generator=v))}
        assert try_values(calls, 15, odd | edges())["refused"] > 8

    def test_descriptions(self):
        good, shapes = {"name": "mlp", "width": 8, "depth": 1}, {"name": "standardise", "x_shape": [2], "y_shape": [1]}

        def made(key, value):
            part = KernelSpec(**{"network": good, key: value})
            build_bridge(BridgeSpec([1.0, 0.5], shapes, part, part))

        calls = each_of(("parametrisation", "covariance", "rank", "variance_floor", "components"), made)
        assert try_values(calls, 12)["refused"] > 20
        plain = {
            "alpha_bar": [1.0, 0.5, 0.1], "transform": shapes, "network": good, "parametrisation": "x0",
            "law": "mixture", "calls": [1, 2], "components": 2, "rank": 1, "noise": 1, "variance_floor": 1e-6,
            "precision": "32-true",
        }  # fmt: skip
        keys = ("law", "calls", "components", "parametrisation")
        calls = each_of(keys, lambda k, v: build_student(StudentSpec(**{**plain, k: v})))
        assert try_values(calls, 10)["refused"] > 15


class TestPlaces:
    def test_load(self, exact_bridge, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save(exact_bridge().bridge, tmp_path / "bridge.safetensors", {})
        no_hub = edges().filter(lambda v: not isinstance(v, str) or "/" not in v)  # which would be asked
        assert try_values({"of csb.load": csb.load}, 40, no_hub)["refused"] > 20
        devices = st.sampled_from(["cpu", "cuda:99", "xpu9", "gpu", "cpu:1", "meta", "", torch.device("cpu")])
        cases = try_values({"device": lambda v: csb.load("bridge.safetensors", v)}, 25, devices | edges())
        assert cases["refused"] > 12
        assert cases["accepted"] >= 1

    def test_observations_cut_short(self, tmp_path):
        good = np.arange(400.0).reshape(200, 2)
        for name, write in (("y.npy", np.save), ("y.npz", lambda file, array: np.savez(file, y=array))):
            path = tmp_path / name
            write(path, good)
            data = path.read_bytes()

            def cut(at, path=path, data=data):
                path.write_bytes(data[:at])
                read_observations(path, (2,))

            cases = try_values({name: cut}, 20, st.integers(0, len(data) - 1))
            assert cases == {"refused": 20, "accepted": 0}

    def test_observations_of_any_type_and_shape(self, tmp_path):
        kinds = ["<f2", ">f8", "i1", "u8", "?", "c8", "U3", "S2", "M8[D]", "O", "V4", "f4,i2"]

        def read(value):
            kind, shape = value
            np.save(tmp_path / "y.npy", np.zeros(shape, kind))
            y = read_observations(tmp_path / "y.npy", (2,))
            assert y.dtype == torch.float32
            assert y.shape[1:] == (2,)

        both = st.tuples(st.sampled_from(kinds), st.sampled_from(SHAPES))
        assert try_values({"y.npy": read}, 60, both)["refused"] > 40


class TestProblems:
    @pytest.mark.parametrize("name", sorted(PROBLEMS))
    def test_every_argument(self, name, tmp_path):
        np.savez(tmp_path / "p.npz", x=np.random.default_rng(0).normal(size=(200, 2)), y=np.arange(200.0)[:, None])
        own = {"path": str(tmp_path / "p.npz")} if name == "pairs" else {}

        def made(key, value):
            problem = build_problem({"name": name, **own, key: value})
            problem.new_transform()
            assert min(problem.sizes.values()) >= 1
            assert build_problem(problem.spec()).spec() == problem.spec()

        assert try_values(each_of(arguments_of(PROBLEMS[name]), made), 8)["refused"] >= 4

    def test_requests_for_pairs(self):
        problem = build_problem({"name": "bod"})
        calls = {
            "split": lambda v: problem.pairs(v, 1),
            "n=": lambda v: problem.pairs("train", v),
            "y": lambda v: problem.posterior(torch.tensor([v] * 5, dtype=torch.float64) if isinstance(v, float) else v),
        }
        small = edges().filter(lambda v: not isinstance(v, int) or v < 10**5)
        assert try_values(calls, 15, small)["refused"] > 20


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    make = SCHEDULES[name]
    own = next(field for field in make.model_fields if field != "alpha_bar_end")
    keys = {f"{key} alpha_bar": key for key in ("alpha_bar_end", own)}

    def grid(key, value):
        Grid.from_schedule(make(**{"alpha_bar_end": 0.1, keys[key]: value}), 7)

    calls = each_of(keys, grid)
    calls["T"] = lambda v: Grid.from_schedule(make(0.1), v)
    calls["alpha_bar_end of another horizon"] = lambda v: make(0.1).replace(alpha_bar_end=v)
    assert try_values(calls, 20)["refused"] > 40


def test_grids():
    calls = {
        "T": lambda v: Grid.karras(v, 1e-3),
        "alpha_bar_end": lambda v: Grid.karras(5, v),
        "sigma_min": lambda v: Grid.karras(5, 1e-3, v),
        "rho": lambda v: Grid.karras(5, 1e-3, 0.002, v),
        "scale": lambda v: Power.resolving(0.1, 5, v),
        "seed": seeded,
    }
    assert try_values(calls, 15)["refused"] > 45


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    shape = (1, 8, 8) if name == "unet" else (3,)
    needed = {"steps": 4} if name == "affine" else {}
    unet = ["channels", "multipliers", "blocks", "patch", "margin", "attention"]

    def made(option, value):
        with torch.device("meta"):  # of a network that is possible but large, nothing is allocated
            build_network({"name": name, **needed, option: value}, shape, shape, 2)

    calls = each_of({"mlp": ["width", "depth"], "affine": ["steps"]}.get(name, unet), made)
    calls["name of network"] = lambda v: build_network({"name": v}, shape, shape, 2)
    assert try_values(calls, 12)["refused"] > 12


class TestSamplers:
    @pytest.fixture(scope="class")
    def parts(self):
        """What guided samplers are made of: a problem, its exact denoiser and its likelihood."""
        problem = GaussianMixture(n_train=2000, n_val=100, n_test=100)
        denoiser = MixtureDenoiser(problem.mixture)
        return problem, denoiser, GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 1000))

    @pytest.mark.parametrize("name", GUIDED)
    def test_every_option(self, name, parts):
        grid, make = Grid.from_schedule(SCHEDULES["linear"](1e-4), 4), GUIDED[name]
        y = parts[0].pairs("test", 2).y

        def made(option, value):
            try:
                finite(make(*parts[1:], grid, **{option: value}).sample(y, 2, seeded(0)))
            except CSBError as error:
                if "diverged" not in str(error):  # by a value that is possible, and too strong here
                    raise

        assert try_values(each_of(make.Settings.model_fields, made), 8)["refused"] > 6

    def test_what_all_samplers_take(self, parts):
        sampler = GUIDED["dps"](*parts[1:], Grid.from_schedule(SCHEDULES["linear"](1e-4), 3))
        y = parts[0].pairs("test", 2).y
        calls = {
            "n": lambda v: finite(sampler.sample(y, v, seeded(0))),
            "y": lambda v: finite(sampler.sample(v, 1, seeded(0))),
            "generator": lambda v: finite(sampler.sample(y, 1, v)),
        }
        assert try_values(calls, 20, ANYTHING)["refused"] > 35
        assert "draw fewer" in answer(lambda: sampler.sample(y, 10**12, seeded(0)))

    def test_amortized(self):
        score, flow = untrained("score", 3, 2), untrained("flow", 3, 2)
        calls = {
            "method of": lambda v: score_sampler(score, v, 3),
            "method of a": lambda v: flow_sampler(flow, v, 3),
            "T": lambda v: score_sampler(score, "ddim", v),
            "N": lambda v: flow_sampler(flow, "heun", v),
            "spacing": lambda v: score_sampler(score, "ddim", 3, v),
            "eta": lambda v: score_sampler(score, "ddim", 3, eta=v),
            "batch_size": lambda v: flow_sampler(flow, "euler", 3, batch_size=v),
            "batch_size of": lambda v: score_sampler(score, "sde", 3, batch_size=v),
        }
        assert try_values(calls, 10)["refused"] > 45

    @pytest.mark.parametrize("name", [*FILTERS, *MODELS])
    def test_filters_and_models(self, name):
        make = FILTERS.get(name) or MODELS[name]
        keys = {f"{key} alpha_bar": key for key in arguments_of(make)}
        calls = each_of(keys, lambda key, value: make(**{keys[key]: value}))
        assert try_values(calls, 8)["refused"] >= (4 if calls else 0)


def tensors(*shapes):
    """Tensors of one of these shapes or of another, of numbers of every kind, and what is no tensor."""
    sizes = st.sampled_from([*shapes, *shapes, *SHAPES])
    kinds = st.sampled_from([torch.float32] * 4 + [torch.float64, torch.int64, torch.bool, torch.complex64])
    odd = st.sampled_from([0.0, 0.5, 1.0, float("nan"), float("inf"), -1.0, 1e30])

    def make(one):
        size, kind, fill = one
        x = torch.linspace(0, 1, max(1, int(np.prod(size))), dtype=torch.float64)[: int(np.prod(size))].reshape(size)
        return (x if fill == 0.5 else torch.full(size, fill).double()).to(kind)

    return st.tuples(sizes, kinds, odd).map(make) | st.sampled_from([None, [0.0, 1.0], "x", np.zeros((2, 3))])


def of_two(functions):
    """Calls of functions of two arrays; the message may name any of what was given."""
    words = "samples truth shape expected a and b images mean weights holds"
    return {f"{f.__name__} {words}": (lambda v, f=f: f(*v)) for f in functions}


class TestMetrics:
    @pytest.mark.filterwarnings("ignore:Casting complex:UserWarning", "ignore:overflow")
    def test_ensembles(self):
        functions = [metrics.crps, metrics.energy_score, metrics.spread_skill, metrics.sbc_ranks, metrics.tarp]
        pairs = st.tuples(tensors((2, 5, 3), (2, 4, 1, 8, 8)), tensors((2, 3), (2, 1, 8, 8)))
        assert try_values(of_two(functions), 15, pairs)["refused"] > 35

    def test_clouds(self):
        functions = [metrics.sliced_wasserstein, metrics.mmd, metrics.c2st]
        pairs = st.tuples(tensors((6, 2), (2, 3)), tensors((6, 2), (2, 3), (2,)))
        assert try_values(of_two(functions), 15, pairs)["refused"] > 20

    def test_numbers(self):
        a = torch.linspace(0, 1, 12).reshape(6, 2)
        ranks = torch.rand(60, 2, generator=seeded(0))
        calls = {
            "n_projections": lambda v: metrics.sliced_wasserstein(a, a, n_projections=v),
            "p": lambda v: metrics.sliced_wasserstein(a, a, p=v),
            "bandwidth": lambda v: metrics.mmd(a, a, v),
            "bins": lambda v: metrics.rank_uniformity(ranks, v),
            "levels": lambda v: metrics.central_coverage(ranks, v),
            "ranks": metrics.central_coverage,
        }
        assert try_values(calls, 12)["refused"] > 40
