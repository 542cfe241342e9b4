"""A training killed at any instant and resumed ends with the weights, bit for bit, of one that was left alone."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from dataclasses import dataclass

import pytest
import torch

from csb.dtypes import automatic_precision
from tests.commands import Hook
from tests.conftest import ROOT
from tests.training.runs import STEP, assert_same_weights

STEPS = 42  # optimiser steps of the tiny training: 12 + 10 + 10 + 10


def figures(folder):
    """The scores and the history of half-steps, without times."""
    found = json.loads((folder / "result.json").read_text())
    rows = json.loads((folder / "history.json").read_text())
    return [{k: v for k, v in row.items() if k not in ("fill_share", "seconds")} for row in [found, *rows]]


def assert_same(folder, whole):
    assert_same_weights(folder, whole)
    assert figures(folder) == figures(whole)


@pytest.fixture
def run(command, tiny, tmp_path):
    """Runs the tiny training ``run`` of the test's own folder as a command."""

    def of(*options, **how):
        return command(*tiny, f"out={tmp_path}", "name=run", *options, **how)

    return of


@pytest.fixture
def resumed(run, tmp_path):
    """Resumes it, and compares it with another."""

    def of(whole, *options):
        done = run(*options, "resume=true")
        assert done.code == 0, done.err
        assert_same(tmp_path / "run", whole)

    return of


@pytest.fixture(scope="module")
def whole(command, tiny, tmp_path_factory):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    done = command(*tiny, f"out={folder}", "name=run")
    assert done.code == 0, done.err
    return folder / "run"


KILLS = {  # the first three in the default run: in a step, in a fill, in a save
    "between checkpoints": Hook(STEP, 5),
    "while a cache is filled": Hook("csb.training.pairs.Bridge.contexts", 9),
    "before a later state": Hook("csb.training.stage.save_progress", 7),
    "at the end of a half-step": Hook(STEP, 12, before=False),
    "in the last step": Hook(STEP, STEPS),
    "after a cache is filled": Hook("csb.training.trainer.fill", 2, before=False),
    "before the optimiser's first state": Hook("csb.training.stage.save_progress", 1),
    "after a later state": Hook("csb.training.stage.save_progress", 8, before=False),
    "after a half-step's bridge": Hook("csb.training.trainer.save", 2, before=False),
    "before the final bridge": Hook("csb.training.trainer.save", 5),
    "before the scores": Hook("csb.runs.train.final_scores", 1),
    # config.json, the states, the half-steps' bridges, the final one, each written and not yet in its place
    **{f"before file {call} is renamed": Hook("os.replace", call) for call in (1, 2, 5, 16)},
}
AT_NIGHT = [pytest.param(KILLS[name], id=name, marks=pytest.mark.nightly) for name in list(KILLS)[3:]]


@pytest.mark.parametrize("hook", [*(pytest.param(KILLS[name], id=name) for name in list(KILLS)[:3]), *AT_NIGHT])
def test_killed_at_an_exact_instant(run, resumed, tmp_path, whole, hook):
    assert run(hooks=[hook]).code == -signal.SIGKILL
    assert not (tmp_path / "run" / "result.json").exists()
    if hook.name == "os.replace":
        assert len(list((tmp_path / "run").rglob(".*.tmp"))) == 1
    resumed(whole)


def started(line, **options):
    """The command line itself, in a fresh interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *line], cwd=ROOT, env=environment, **options)


def take_the_terminal():
    """In the child: what is its standard input is its own, and so is its end, which nohup would have it ignore."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.nightly
def test_the_terminal_goes_away(command, resumed, tiny, tmp_path):
    """Closed in the middle of a fit that shows its bar there: its state is saved, and nothing is said to nobody."""
    longer = ["training.first_steps=400", "training.checkpoint_every=1000"]
    line = [*tiny, f"out={tmp_path}", *longer]
    assert command(*line, "name=whole").code == 0
    master, terminal = os.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    own = {"start_new_session": True, "preexec_fn": take_the_terminal}  # a hang-up reaches whose terminal it is
    with started([*line, "name=run", "progress=true"], **streams, **own) as process:
        os.close(terminal)
        seen = b""
        while not re.search(rb"[1-9]/430\b", seen):
            seen += os.read(master, 10_000)
        os.close(master)
        assert process.wait(60) == 128 + signal.SIGHUP
    assert (tmp_path / "run" / "state.safetensors").exists()
    resumed(tmp_path / "whole", *longer)


RECIPE = [
    "schedule=auto", "schedule.alpha_bar_end=0.1", "objective=bridge_matching", "objective.covariance=mixture",
    "objective.components=3", "training.validate_every=2", "training.patience=2",
]  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("options", "kills"),
    [(["trainer=bf16"], [20]), (["objective=mean_matching", "training.last_forward=false"], [20]), (RECIPE, [8, 9])],
    ids=["bf16", "mean matching", "the recipe's grid from the data, end points, mixtures and early stopping"],
)
def test_other_settings_resume_as_well(command, run, resumed, tiny, tmp_path, options, kills):
    assert command(*tiny, *options, f"out={tmp_path}", "name=whole").code == 0
    for step in kills:
        assert run(*options, "resume=true", hooks=[Hook(STEP, step)]).code == -signal.SIGKILL
    resumed(tmp_path / "whole", *options)
    schedule = json.loads((tmp_path / "run" / "config.json").read_text())["schedule"]
    assert options is not RECIPE or (schedule["name"], schedule["alpha_bar_end"]) == ("power", 0.1)


@dataclass
class ClosedOutput:
    """Standard output, and with ``errors`` the error output too, is a pipe that nobody reads."""

    errors: bool = False

    def install(self):
        reading, writing = os.pipe()
        os.close(reading)
        for descriptor in (1, 2) if self.errors else (1,):
            os.dup2(writing, descriptor)


FILL = "csb.training.pairs.Bridge.contexts"
ENDS = {  # the first in the default run
    "interrupt": (2, "interrupted; resume=true", Hook(STEP, 17, raises="KeyboardInterrupt")),
    "fit": (143, "terminated by SIGTERM; resume=true", Hook(STEP, 17, raises="SIGTERM")),
    "cache": (143, "terminated by SIGTERM; resume=true", Hook(FILL, 9, raises="SIGTERM")),
    "memory": (2, "out of memory; lower training.batch_size", Hook(FILL, 9, raises="MemoryError")),
    "closed output": (2, "the output was closed before all of it was written", ClosedOutput()),
    "closed output and errors": (2, "", ClosedOutput(errors=True)),
}


@pytest.mark.parametrize("end", [pytest.param(n, marks=[] if n == "interrupt" else pytest.mark.nightly) for n in ENDS])
def test_another_end_is_one_line_and_resumes(run, resumed, whole, end):
    code, message, hook = ENDS[end]
    done = run(*(["progress=true"] if isinstance(hook, ClosedOutput) else []), hooks=[hook])
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    last = done.err.splitlines()[-1:]
    assert len(last) == 1 and last[0].startswith(f"error: {message}") if message else last == []
    resumed(whole)


class TestFinished:
    @pytest.fixture
    def finished(self, whole, tmp_path):
        """A copy of the finished run."""
        return shutil.copytree(whole, tmp_path / "run")

    def test_resuming_changes_nothing(self, run, finished):
        def snapshot():
            return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in finished.rglob("*") if p.is_file()}

        before, start = snapshot(), time.monotonic()
        done = run("resume=true")
        assert done.code == 0, done.err
        assert time.monotonic() - start < 20
        assert snapshot() == before
        assert "is finished; nothing to resume" in done.out + done.err
        assert "sliced_w" in done.out  # its table is shown all the same

    def test_what_the_training_does_not_depend_on_may_change(self, run, finished):
        assert run("resume=true", "metrics.picture_rows=2", "logger=csv").code == 0

    @pytest.mark.nightly
    def test_overwrite_replaces_it(self, run, finished, whole):
        (finished / "half_steps" / "09_backward.safetensors").write_text("of a longer run")
        (finished / "state.pt").write_text("of an older version")
        done = run("overwrite=true")
        assert done.code == 0, done.err
        assert_same(finished, whole)
        assert not (finished / "state.pt").exists()

    @pytest.mark.nightly
    def test_damaged_files_are_written_again(self, resumed, finished, whole):
        """The bridge from those of the half-steps, and the scores are computed again."""
        for name in ("bridge.safetensors", "result.json", "config.json", "history.json"):
            content = (finished / name).read_bytes()
            (finished / name).write_bytes(content[: len(content) // 2])
        resumed(whole)
        assert json.loads((finished / "config.json").read_text())["L"] == 2


@pytest.mark.nightly
def test_other_settings_of_a_denoiser_are_refused_by_name(run, tmp_path):
    """That its training resumes bit for bit is a matter of test_regression.py, and of tests/run/test_stages.py."""
    line = ("stage=denoiser", "denoiser.steps=12", "denoiser.batch_size=32", "denoiser.checkpoint_every=3")
    killed = run(*line, hooks=[Hook("csb.training.fit.NetworkModule.training_step", 8)])
    assert killed.code == -signal.SIGKILL, killed.err
    before = (tmp_path / "run" / "denoiser_state.safetensors").read_bytes()
    own = automatic_precision(torch.device("cpu"))
    other = {"32-true": "bf16-mixed", "bf16-mixed": "32-true"}[own]
    for option, message in (
        ("denoiser.alpha_bar_end=0.001", "denoiser.alpha_bar_end=0.0001, not 0.001"),
        ("network.options.width=8", "network.width=16, not 8"),
        ("problem.seed=1", "problem.seed=0, not 1"),
        (f"trainer.precision={other}", f"trainer.precision='{own}', not '{other}'"),
    ):
        done = run(*line, "resume=true", option)
        assert done.code == 2
        assert f"was trained with {message}" in done.err.splitlines()[-1]
    assert (tmp_path / "run" / "denoiser_state.safetensors").read_bytes() == before
    done = run(*line, "resume=true", "denoiser.checkpoint_every=5", "training.steps=11")  # which do not matter
    assert done.code == 0, done.err
