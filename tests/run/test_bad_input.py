"""Every key of every command with values of every kind: refused in one line, or accepted and then really fine."""

import json
import os
import zlib

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
from csb.runs.train import train
from tests import bad_input
from tests.bad_input import answer, base, changed, keys, shown
from tests.run.demo_examples import untrained

VALUES = 3  # of each key; pytest -m slow tries more
MANY = 60
TEXTS = [
    "", "=", "[", "]", "[1", "{a:", "{}}", "(", "'", '"', "\\", "\\'", "${", "${}", "${a", "${nowhere}", "${T}",
    "${name}", "${oc.env:NO_SUCH}", "${oc.nothing:1}", "$", "~", "+", "@", "-", "--", "- 1", ".", "..", ".a", "#",
    "x y", "x\ny", "x\u202e", "1,2", "a=b", "a=b=c", "choice(1,2)", "range(1)", "glob(*)", "interval(0,1)", "1e400",
    "0x10", "1_000", "null", "???", "é",
]  # fmt: skip


def held(tmp_path):
    """What lies in a folder, with the content of small files."""
    return {
        str(path.relative_to(tmp_path)): path.read_bytes() if path.is_file() and path.stat().st_size < 10**6 else None
        for path in tmp_path.rglob("*")
    }


def try_all(config, names, check, count, here, values=None):
    """Puts ``count`` values in each key, by default edges. Returns how many were refused and accepted.

    ``check(config)`` validates. Nothing in the folder ``here`` may change. AssertionError tells all failures.
    """
    before, failures, cases = held(here), [], {"refused": 0, "accepted": 0}
    assert answer(lambda: check(config)) is None
    seen = set()
    for key in names:

        def one(value, key=key):
            if repr((key, value)) in seen:
                return
            seen.add(repr((key, value)))
            try:
                reported = answer(lambda: check(changed(config, key, value)), *key.split("."), *shown(value))
                assert held(here) == before, "files were changed"
            except AssertionError as error:
                failures.append(f"{key}={value!r:.100}: {error}")
                return
            cases["refused" if reported else "accepted"] += 1

        bad_input.each(values or bad_input.edges(), count, zlib.crc32(key.encode()), one)
    assert not failures, "\n".join([f"{len(failures)} of {len(seen)} cases:", *failures])
    return cases


def fine(config):
    """A training's config, checked; what is accepted can be stored, in JSON and beside weights, and read again."""
    run = read(config)
    json.dumps({"problem": run.problem.record(), "config": run.plain}, allow_nan=False)
    stored = json.loads(json_text(run.plain))
    assert stored == run.plain
    read(stored)
    os.fspath(run.folder).encode()
    assert "\0" not in str(run.folder)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return base("train", f"out={tmp_path_factory.mktemp('none')}/new")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


VARIANTS = [  # group, choice, and what else it takes
    *(("problem", path.stem, {}) for path in sorted((CONF / "problem").glob("*.yaml")) if path.stem != "mixture"),
    *(("schedule", name, {}) for name in ("cosine", "linear", "power")),
    ("network", "affine", {}),
    ("network", "unet", {"problem": "mnist_superres", "objective": "likelihood_low_rank"}),
    ("objective", "likelihood", {}),
    ("objective", "mean_matching", {}),
    ("logger", "wandb", {}),
    ("distil", "images", {}),
]


def variant(training, group, choice, more, here):
    overrides = [f"{name}={value}" for name, value in {**more, group: choice, "out": training["out"]}.items()]
    if choice.startswith("mnist") and group == "problem":
        overrides += ["network=unet", "objective=likelihood_low_rank"]
    if choice == "pairs":
        x = np.random.default_rng(0).normal(size=(2000, 2))
        np.savez(here / "pairs.npz", x=x, y=x[:, :1])
        overrides.append(f"problem.path={here / 'pairs.npz'}")
    return base("train", *overrides)


class TestTraining:
    def test_every_key(self, training, here):
        names = keys(training)
        cases = try_all(training, names, fine, VALUES, here)
        assert len(names) > 100
        assert cases["refused"] > 150
        assert cases["accepted"] > 10

    @pytest.mark.parametrize(("group", "choice", "more"), VARIANTS, ids=[f"{v[0]}={v[1]}" for v in VARIANTS])
    def test_every_key_of_other_files(self, training, here, group, choice, more):
        config = variant(training, group, choice, more, here)
        cases = try_all(config, keys(config, group), fine, VALUES, here)
        assert cases["refused"] > 2

    @pytest.mark.parametrize("stage", ["denoiser", "score", "flow", "evaluate"])
    def test_the_keys_of_a_stage(self, training, here, stage):
        config = changed(training, *(("evaluate", True) if stage == "evaluate" else ("stage", stage)))
        group = {"denoiser": "denoiser", "evaluate": "baselines"}.get(stage, "conditional")
        assert try_all(config, keys(config, group), fine, VALUES, here)["refused"] > 5

    @pytest.mark.slow
    def test_many_values(self, training, here):
        anything = bad_input.anything()
        assert sum(try_all(training, keys(training), fine, MANY, here, anything).values()) > 3000
        for group, choice, more in VARIANTS:
            config = variant(training, group, choice, more, here)
            try_all(config, keys(config, group), fine, MANY, here, anything)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """The folder of a tiny training."""
    folder = tmp_path_factory.mktemp("trained")
    train(read(base("train", *tiny, "L=1", f"out={folder}", "name=run")))
    return folder / "run"


COMMANDS = {
    "evaluate": (evaluate.prepare, ()),
    "sample": (sample.prepare, ()),
    "inspect": (share.prepare_inspect, ()),
    "export": (share.prepare_export, ("out=exported",)),
    "reproduce": (reproduce._read, ("out=again",)),
}
ALONE = {
    "compare": ("compare", budgets.read, ()),
    "benchmark suite=mixture": ("benchmark", benchmark.prepare, ("suite=mixture",)),
    "benchmark suite=filtering": ("benchmark", benchmark.prepare, ("suite=filtering",)),
    "benchmark suite=sbi": ("benchmark", benchmark.prepare, ("suite=sbi",)),
}


class TestCommands:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_key(self, run, here, name):
        validate, overrides = COMMANDS[name]
        config = base(name, f"run={run}", *overrides)
        assert try_all(config, keys(config), validate, VALUES, here)["refused"] > 3

    @pytest.mark.parametrize("name", ALONE)
    def test_every_key_of_those_without_a_run(self, here, name, monkeypatch):
        for name_of in ("plan", "check_writable"):  # of the trainings of a suite: tests/run/test_suite.py
            monkeypatch.setattr(f"suites.sbi.command.{name_of}", lambda *_: None)
        command, validate, overrides = ALONE[name]
        config = base(command, *overrides)
        assert try_all(config, keys(config), validate, VALUES, here)["refused"] > 10

    def test_every_key_of_the_demo(self, here, tmp_path_factory):
        bridge, _, reported = untrained("mnist_inpaint", "data")
        path = tmp_path_factory.mktemp("demo") / "bridge.safetensors"
        save(bridge, path, reported)
        config = base("demo", f"run={path}")
        assert try_all(config, keys(config), scripts.demo, 2 * VALUES, here)["refused"] > 8

    def test_every_key_of_overheads(self, run, here):
        config = base("benchmark", f"run={run}")
        assert try_all(config, keys(config), benchmark.prepare, VALUES, here)["refused"] > 3


class TestCommandLine:
    def test_arguments_that_are_no_overrides(self, here):
        """Hydra's grammar, and OmegaConf's behind it."""
        heads = st.sampled_from(
            ["", "T=", "+T=", "~T", "training.steps=", "name=", "problem=", "++a.b=", "hydra.job.name="]
        )
        seen = []

        def one(value):
            seen.append(value)
            answer(lambda: read(composed("train", ["".join(value)])))

        bad_input.each(st.tuples(heads, st.sampled_from(TEXTS)), 25, 1, one)
        assert len(set(seen)) > 20
        assert held(here) == {}
