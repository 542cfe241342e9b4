"""Every key of every command with values of every kind: refused in one line, or accepted and then really fine."""

import itertools
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from suites import benchmark

import csb
from csb.bridge import save
from csb.cli import evaluate, reproduce, sample, scripts, share
from csb.cli.commands import CONF
from csb.cli.compose import composed
from csb.errors import CSBError
from csb.files import json_text
from csb.networks import NETWORKS, build_network
from csb.networks.diffusion import MixtureDenoiser
from csb.problems import PROBLEMS, GaussianMixture
from csb.process import SCHEDULES, Grid, Power, seeded
from csb.runs import budgets
from csb.runs.config import read
from csb.samplers import GUIDED, GaussianLikelihood
from csb.schema import arguments
from tests.bad_input import EDGES, answer, base, changed, draw, keys, try_values
from tests.conftest import make_untrained_bridge
from tests.run.demo_examples import untrained

VALUES = 3  # of each key
TEXTS = [
    "", "=", "[", "]", "[1", "{a:", "{}}", "(", "'", '"', "\\", "\\'", "${", "${}", "${a", "${nowhere}", "${T}",
    "${name}", "${oc.env:NO_SUCH}", "${oc.nothing:1}", "$", "~", "+", "@", "-", "--", "- 1", ".", "..", ".a", "#",
    "x y", "x\ny", "x\u202e", "1,2", "a=b", "a=b=c", "choice(1,2)", "range(1)", "glob(*)", "interval(0,1)", "1e400",
    "0x10", "1_000", "null", "???", "é",
]  # fmt: skip


def held(folder):
    """What lies in a folder, with the content of small files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and path.stat().st_size < 10**6 else None
        for path in folder.rglob("*")
    }


def try_keys(config, check, here, group="", count=VALUES):
    """Puts ``count`` values in each key of a config, or of one group. Nothing in the folder ``here`` may change."""
    before = held(here)
    assert answer(lambda: check(config)) is None

    def unchanged():
        assert held(here) == before, "files were changed"

    names = keys(config, group)
    if group == "problem":
        names = sorted({*names, *(f"problem.{name}" for name in arguments(PROBLEMS[config["problem"]["name"]]))})
    calls = {key: lambda value, key=key: check(changed(config, key, value)) for key in names}
    return try_values(calls, count, afterwards=unchanged)


def fine(config):
    """A training's config, checked; what is accepted can be stored, in JSON and beside weights, and read again."""
    run = read(config)
    json.dumps({"problem": run.problem.record(), "config": run.plain}, allow_nan=False)
    stored = json.loads(json_text(run.plain))
    assert stored == run.plain
    read(stored)
    os.fspath(run.folder).encode()
    assert "\0" not in str(run.folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


IMAGES = ["network=unet", "objective=likelihood_low_rank"]
NAMES = [path.stem for path in sorted((CONF / "problem").glob("*.yaml")) if path.stem != "mixture"]
GROUPS = [  # the group whose keys are tried, and the overrides that choose it
    *(("problem", [f"problem={name}", *(IMAGES if name.startswith("mnist") else [])]) for name in NAMES),
    *(("schedule", [f"schedule={name}"]) for name in ("cosine", "linear", "power")),
    ("network", ["network=affine"]),
    ("network", ["problem=mnist_superres", *IMAGES]),
    ("objective", ["objective=likelihood"]),
    ("objective", ["objective=mean_matching"]),
    ("logger", ["logger=wandb"]),
    ("distil", ["distil=images"]),
    ("denoiser", ["stage=denoiser"]),
    ("conditional", ["stage=score"]),
    ("conditional", ["stage=flow"]),
    ("baselines", ["evaluate=true"]),
]


class TestTraining:
    def config(self, here, overrides=()):
        more = [f"problem.path={here / 'pairs.npz'}"] if "problem=pairs" in overrides else []
        if more:
            x = np.random.default_rng(0).normal(size=(2000, 2))
            np.savez(here / "pairs.npz", x=x, y=x[:, :1])
        return base("train", f"out={here.parent}/new", *overrides, *more)

    def test_every_key(self, here):
        config = self.config(here)
        cases = try_keys(config, fine, here)
        assert len(keys(config)) > 100
        assert cases["refused"] > 150
        assert cases["accepted"] > 10

    @pytest.mark.parametrize(("group", "overrides"), GROUPS, ids=[" ".join(overrides) for _, overrides in GROUPS])
    def test_every_key_of_a_group(self, here, group, overrides):
        least = 5 if overrides[0].startswith(("stage", "evaluate")) else 2
        assert try_keys(self.config(here, overrides), fine, here, group)["refused"] > least

    def test_arguments_that_are_no_overrides(self, here):
        """Hydra's grammar, and OmegaConf's behind it."""
        heads = ("", "T=", "+T=", "~T", "training.steps=", "name=", "problem=", "++a.b=", "hydra.job.name=")
        for pair in draw([*itertools.product(heads, TEXTS)], 25, "overrides"):
            answer(lambda pair=pair: read(composed("train", ["".join(pair)])))
        assert held(here) == {}


COMMANDS = {  # of a run
    "evaluate": evaluate.prepare,
    "sample": sample.prepare,
    "inspect": share.prepare_inspect,
    "export out=exported": share.prepare_export,
    "reproduce out=again": reproduce._read,
    "benchmark": benchmark.prepare,
}
ALONE = {
    "compare": budgets.read,
    "benchmark suite=mixture": benchmark.prepare,
    "benchmark suite=filtering": benchmark.prepare,
    "benchmark suite=sbi suite.runs=[nowhere]": benchmark.prepare,
}


class TestCommands:
    @pytest.mark.parametrize("line", COMMANDS)
    def test_every_key(self, run_with_stages, here, line):
        command, *overrides = line.split()
        config = base(command, f"run={run_with_stages}", *overrides)
        assert try_keys(config, COMMANDS[line], here)["refused"] > 3

    @pytest.mark.parametrize("line", ALONE)
    def test_every_key_of_those_without_a_run(self, here, line, monkeypatch):
        monkeypatch.setattr(
            "suites.sbi.opened", lambda _: [SimpleNamespace(config={"L": 3})]
        )  # tests/run/test_suite.py
        monkeypatch.setattr("suites.sbi.check_writable", lambda _: None)
        assert try_keys(base(*line.split()), ALONE[line], here)["refused"] > 10

    def test_every_key_of_the_demo(self, here, tmp_path_factory):
        bridge, _, about = untrained("mnist_inpaint", "data")
        path = tmp_path_factory.mktemp("demo") / "bridge.safetensors"
        save(bridge, path, about)
        assert try_keys(base("demo", f"run={path}"), scripts.demo, here, count=2 * VALUES)["refused"] > 8


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
ANYTHING = [*TENSORS, *EDGES]
SHAPES = [
    (), (0,), (1,), (2,), (3,), (1, 2), (2, 2), (3, 2), (2, 3), (0, 2), (2, 0), (1, 1, 2), (2, 1, 2), (2, 2, 2, 2),
]  # fmt: skip


def finite(samples):
    assert bool(torch.isfinite(samples.x).all())


def each_of(names, call):
    """Calls by name: ``call(name, value)``."""
    return {name: (lambda value, name=name: call(name, value)) for name in names}


class TestPython:
    """Calls with arguments of every kind: refused in one line, or accepted and then an answer of numbers."""

    def test_sample_and_log_prob(self):
        bridge, x, gen = make_untrained_bridge(3, 2).eval(), torch.zeros(2, 3), seeded(0)
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
        two = [seeded(0), seeded(1)]
        odd = [two, two[:1], [*two, 3], tuple(two), "0", 0, 1.5, np.random.default_rng(0), {}, [], *EDGES]
        calls = {"generator of": lambda v: finite(bridge.sample(Y, 2, generator=v))}
        assert try_values(calls, 15, odd)["refused"] > 8

    def test_load(self, exact_bridge, here):
        save(exact_bridge().bridge, here / "bridge.safetensors", {})
        no_hub = [v for v in EDGES if not isinstance(v, str) or "/" not in v]  # which would be asked
        assert try_values({"of csb.load": csb.load}, 40, no_hub)["refused"] > 20
        devices = ["cpu", "cuda:99", "xpu9", "gpu", "cpu:1", "meta", "", torch.device("cpu"), *EDGES]
        cases = try_values({"device": lambda v: csb.load("bridge.safetensors", v)}, 25, devices)
        assert cases["refused"] > 12
        assert cases["accepted"] >= 1

    def test_observations_of_any_type_and_shape(self, tmp_path, exact_bridge):
        bridge = exact_bridge().bridge
        kinds = ["<f2", ">f8", "i1", "u8", "?", "c8", "U3", "S2", "M8[D]", "O", "V4", "f4,i2"]

        def read(value):
            kind, shape = value
            np.save(tmp_path / "y.npy", np.zeros(shape, kind))
            y = sample.read_observations(tmp_path / "y.npy", bridge)
            assert y.dtype == torch.float32
            assert y.shape[1:] == (2,)

        assert try_values({"y.npy": read}, 60, [*itertools.product(kinds, SHAPES)])["refused"] > 40

    def test_grids(self):
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
    def test_networks(self, name):
        shape = (1, 8, 8) if name in ("unet", "dit") else (3,)
        needed = {"steps": 4} if name == "affine" else {}
        unet = ["channels", "multipliers", "blocks", "patch", "margin", "attention", "skip"]

        def made(option, value):
            with torch.device("meta"):  # of a network that is possible but large, nothing is allocated
                build_network({"name": name, **needed, option: value}, shape, shape, 2)

        dit = ["width", "depth", "attention_heads", "patch", "margin", "skip"]
        calls = each_of({"mlp": ["width", "depth"], "affine": ["steps"], "dit": dit}.get(name, unet), made)
        calls["name of network"] = lambda v: build_network({"name": v}, shape, shape, 2)
        assert try_values(calls, 12)["refused"] > 12

    @pytest.mark.parametrize("name", GUIDED)
    def test_every_option_of_a_guided_sampler(self, name):
        problem = GaussianMixture(n_train=2000, n_val=100, n_test=100)
        denoiser, y = MixtureDenoiser(problem.mixture), problem.pairs("test", 2).y
        likelihood = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 1000))
        grid, make = Grid.from_schedule(SCHEDULES["linear"](1e-4), 4), GUIDED[name]

        def made(option, value):
            try:
                finite(make(denoiser, likelihood, grid, **{option: value}).sample(y, 2, seeded(0)))
            except CSBError as error:
                if "diverged" not in str(error):  # by a value that is possible, and too strong here
                    raise

        assert try_values(each_of(make.Settings.model_fields, made), 8)["refused"] > 6
