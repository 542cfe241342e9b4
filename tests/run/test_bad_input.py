"""Every key of every command with values of every kind: refused in one line, or accepted and then really fine."""

import json
import os

import numpy as np
import pytest
from hypothesis import strategies as st
from suites import benchmark

from csb.bridge import save
from csb.cli import evaluate, reproduce, sample, scripts, share
from csb.cli.commands import CONF
from csb.cli.compose import composed
from csb.files import json_text
from csb.runs import budgets
from csb.runs.config import read
from tests.bad_input import answer, anything, base, changed, each, keys, try_values
from tests.run.demo_examples import untrained

VALUES = 3  # of each key; pytest -m slow tries more
MANY = 60
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


def try_keys(config, check, here, group="", count=VALUES, values=None):
    """Puts ``count`` values in each key of a config, or of one group. Nothing in the folder ``here`` may change."""
    before = held(here)
    assert answer(lambda: check(config)) is None

    def unchanged():
        assert held(here) == before, "files were changed"

    calls = {key: lambda value, key=key: check(changed(config, key, value)) for key in keys(config, group)}
    return try_values(calls, count, values, unchanged)


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
PROBLEMS = [path.stem for path in sorted((CONF / "problem").glob("*.yaml")) if path.stem != "mixture"]
GROUPS = [  # the group whose keys are tried, and the overrides that choose it
    *(("problem", [f"problem={name}", *(IMAGES if name.startswith("mnist") else [])]) for name in PROBLEMS),
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

    @pytest.mark.slow
    def test_many_values(self, here):
        found = try_keys(self.config(here), fine, here, count=MANY, values=anything())
        assert sum(found.values()) > 3000
        for group, overrides in GROUPS:
            try_keys(self.config(here, overrides), fine, here, group, MANY, anything())

    def test_arguments_that_are_no_overrides(self, here):
        """Hydra's grammar, and OmegaConf's behind it."""
        heads = st.sampled_from(
            ["", "T=", "+T=", "~T", "training.steps=", "name=", "problem=", "++a.b=", "hydra.job.name="]
        )
        seen = []

        def one(value):
            seen.append(value)
            answer(lambda: read(composed("train", ["".join(value)])))

        each(st.tuples(heads, st.sampled_from(TEXTS)), 25, 1, one)
        assert len(set(seen)) > 20
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
    "benchmark suite=sbi": benchmark.prepare,
}


class TestCommands:
    @pytest.mark.parametrize("line", COMMANDS)
    def test_every_key(self, tiny_run, here, line):
        command, *overrides = line.split()
        config = base(command, f"run={tiny_run}", *overrides)
        assert try_keys(config, COMMANDS[line], here)["refused"] > 3

    @pytest.mark.parametrize("line", ALONE)
    def test_every_key_of_those_without_a_run(self, here, line, monkeypatch):
        for name in ("plan", "check_writable"):  # of the trainings of a suite: tests/run/test_suite.py
            monkeypatch.setattr(f"suites.sbi.command.{name}", lambda *_: None)
        assert try_keys(base(*line.split()), ALONE[line], here)["refused"] > 10

    def test_every_key_of_the_demo(self, here, tmp_path_factory):
        bridge, _, about = untrained("mnist_inpaint", "data")
        path = tmp_path_factory.mktemp("demo") / "bridge.safetensors"
        save(bridge, path, about)
        assert try_keys(base("demo", f"run={path}"), scripts.demo, here, count=2 * VALUES)["refused"] > 8
