"""A training killed at any instant and resumed ends with the weights, bit for bit, of one that was left alone."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from csb.bridge.checkpoint import load
from tests.commands import Hook
from tests.conftest import ROOT
from tests.training.fault_runs import ClosedOutput

STEPS = 42  # optimiser steps of the tiny training: 12 + 10 + 10 + 10


def weights(folder):
    """Every saved bridge's weights, by file and name."""
    files = [folder / "bridge.safetensors", *sorted((folder / "half_steps").iterdir())]
    return {f"{f.name}:{k}": v for f in files for k, v in load(f).state_dict().items()}


def result(folder):
    values = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in values.items() if key != "seconds"}


def history(folder):
    rows = json.loads((folder / "history.json").read_text())
    return [{key: value for key, value in row.items() if key not in ("fill_share", "seconds")} for row in rows]


def assert_same(folder, whole):
    one, two = weights(folder), weights(whole)
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert result(folder) == result(whole)
    assert history(folder) == history(whole)
    assert list(folder.rglob("*.tmp")) == []


@pytest.fixture(scope="module")
def whole(command, tiny, tmp_path_factory):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    done = command(*tiny, f"out={folder}", "name=run")
    assert done.code == 0, done.err
    assert len(weights(folder / "run")) > 100
    return folder / "run"


STEP = "csb.training.half_step.HalfStepModule.training_step"
KILLS = {  # the first three in the default run: in a step, in a fill, in a save
    "between checkpoints": Hook(STEP, 5),
    "while a cache is filled": Hook("csb.training.pairs.Bridge.contexts", 9),
    "before a later state": Hook("csb.training.stage.save_progress", 7),
    "at the end of a half-step": Hook(STEP, 12, before=False),
    "in the last step": Hook(STEP, STEPS),
    "after a cache is filled": Hook("csb.training.trainer.fill", 2, before=False),
    "first state written, not renamed": Hook("csb.training.state.save_state", 1, before=False),
    "before the optimiser's first state": Hook("csb.training.stage.save_progress", 1),
    "after a later state": Hook("csb.training.stage.save_progress", 8, before=False),
    "after a half-step's bridge": Hook("csb.training.trainer.save", 2, before=False),
    "before the final bridge": Hook("csb.training.trainer.save", 5),
    "before the scores": Hook("csb.runs.train.final_scores", 1),
}
ALWAYS = tuple(KILLS)[:3]


@pytest.mark.parametrize(
    "hook",
    [pytest.param(KILLS[n], id=n, marks=[] if n in ALWAYS else pytest.mark.nightly) for n in KILLS],
)
def test_killed_at_an_exact_instant(command, tiny, tmp_path, whole, hook):
    killed = command(*tiny, f"out={tmp_path}", "name=run", hooks=[hook])
    assert killed.code == -signal.SIGKILL
    assert not (tmp_path / "run" / "result.json").exists()
    done = command(*tiny, f"out={tmp_path}", "name=run", "resume=true")
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("call", [1, 2, 5, 16])
def test_killed_between_writing_a_file_and_its_renaming(command, tiny, tmp_path, whole, call):
    """os.replace puts each file in place: config.json, the states, the half-steps' bridges, the final one."""
    killed = command(*tiny, f"out={tmp_path}", "name=run", hooks=[Hook("os.replace", call)])
    assert killed.code == -signal.SIGKILL
    assert len(list((tmp_path / "run").rglob(".*.tmp"))) == 1
    done = command(*tiny, f"out={tmp_path}", "name=run", "resume=true")
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", whole)


def test_killed_again_and_again(command, tiny, tmp_path, whole):
    """Each attempt lives for four steps, one more than a checkpoint's period, and is killed."""
    attempts = 0
    while attempts < 40:
        attempts += 1
        done = command(*tiny, f"out={tmp_path}", "name=run", "resume=true", hooks=[Hook(STEP, 5)])
        if done.code == 0:
            break
        assert done.code == -signal.SIGKILL, done.err
    assert 8 <= attempts <= 20
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_real_process(command, tiny, tmp_path, whole, number):
    """The command line itself, ended from outside as soon as it has a state."""
    line = [sys.executable, str(ROOT / "train.py"), *tiny, f"out={tmp_path}", "name=run", "resume=true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, cwd=ROOT, env=environment, stdout=-3, stderr=-1, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "state.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + signal.SIGTERM, error
        assert error.splitlines()[-1].startswith("error: terminated by SIGTERM; resume=true ")
    done = command(*tiny, f"out={tmp_path}", "name=run", "resume=true")
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", whole)


def take_the_terminal():
    """In the child: what is its standard input is its own, and so is its end, which nohup would have it ignore."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_the_terminal_goes_away(command, tiny, tmp_path):
    """Closed in the middle of a fit that shows its bar there: its state is saved, and nothing is said to nobody."""
    settings = [*tiny, "training.first_steps=400", "training.checkpoint_every=1000", f"out={tmp_path}"]
    assert command(*settings, "name=whole").code == 0
    line = [sys.executable, str(ROOT / "train.py"), *settings, "name=run", "progress=true"]
    master, terminal = os.openpty()
    streams, environment = (
        dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
        {**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with subprocess.Popen(  # a hang-up reaches the process whose terminal it is
        line, cwd=ROOT, env=environment, **streams, start_new_session=True,
        preexec_fn=take_the_terminal,
    ) as process:  # fmt: skip
        os.close(terminal)
        seen = b""
        while not re.search(rb"[1-9]/430\b", seen):
            seen += os.read(master, 10_000)
        os.close(master)
        assert process.wait(60) == 128 + signal.SIGHUP
    assert (tmp_path / "run" / "state.safetensors").exists()
    done = command(*settings, "name=run", "resume=true")
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["trainer=bf16"], id="bf16"),
        pytest.param(["objective=mean_matching", "training.last_forward=false"], id="mean-matching"),
    ],
)
def test_other_settings_resume_as_well(command, tiny, tmp_path, options):
    line = [*tiny, *options, f"out={tmp_path}"]
    assert command(*line, "name=whole").code == 0
    assert command(*line, "name=run", hooks=[Hook(STEP, 12 + 8)]).code == -signal.SIGKILL
    done = command(*line, "name=run", "resume=true")
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", tmp_path / "whole")


class TestWithoutAKill:
    @pytest.fixture
    def finished(self, whole, tmp_path):
        """A copy of the finished run."""
        subprocess.run(["cp", "-a", str(whole), str(tmp_path / "run")], check=True)
        return tmp_path / "run"

    @staticmethod
    def snapshot(folder: Path):
        files = [p for p in folder.rglob("*") if p.is_file()]
        return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}

    def run(self, command, tiny, folder, *options):
        return command(*tiny, f"out={folder.parent}", f"name={folder.name}", *options)

    def refused(self, done, *parts):
        assert done.code == 2
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1, done.err
        for part in parts:
            assert part in done.err

    def test_resuming_a_finished_run_changes_nothing(self, command, tiny, finished):
        before, start = self.snapshot(finished), time.monotonic()
        done = self.run(command, tiny, finished, "resume=true")
        assert done.code == 0, done.err
        assert time.monotonic() - start < 20
        assert self.snapshot(finished) == before
        assert "is finished; nothing to resume" in done.out + done.err
        assert "sliced_w" in done.out  # its table is shown all the same

    def test_other_settings_are_refused_by_name(self, command, tiny, finished):
        before = self.snapshot(finished)
        message = "was trained with optimizer.lr=0.002, not 0.02"
        self.refused(self.run(command, tiny, finished, "resume=true", "optimizer.lr=0.02"), message, str(finished))
        assert self.snapshot(finished) == before

    def test_what_the_training_does_not_depend_on_may_change(self, command, tiny, finished):
        assert self.run(command, tiny, finished, "resume=true", "metrics.picture_rows=2", "logger=csv").code == 0

    def test_a_run_is_not_overwritten_unasked(self, command, tiny, finished):
        self.refused(self.run(command, tiny, finished), "already holds a run", "resume=true", "overwrite=true")

    def test_overwrite_replaces_it(self, command, tiny, finished, whole):
        (finished / "half_steps" / "09_backward.safetensors").write_text("of a longer run")
        (finished / "state.pt").write_text("of an older version")
        done = self.run(command, tiny, finished, "overwrite=true")
        assert done.code == 0, done.err
        assert_same(finished, whole)
        assert not (finished / "state.pt").exists()

    def test_a_damaged_state_is_one_line(self, command, tiny, finished):
        state = finished / "state.safetensors"
        flipped = bytearray(state.read_bytes())
        flipped[-100] ^= 255  # in the numbers of a tensor
        state.write_bytes(flipped)
        before = self.snapshot(finished)
        self.refused(self.run(command, tiny, finished, "resume=true"), "state.safetensors is damaged", "train again")
        assert self.snapshot(finished) == before

    def test_resume_and_overwrite_contradict(self, command, tiny, finished):
        self.refused(self.run(command, tiny, finished, "resume=true", "overwrite=true"), "contradict each other")

    def test_an_interrupt_is_one_line_and_resumes(self, command, tiny, tmp_path, whole):
        hook = Hook(STEP, 17, raises="KeyboardInterrupt")
        done = command(*tiny, f"out={tmp_path}", "name=run", hooks=[hook])
        assert done.code == 2
        assert done.err.strip().splitlines()[-1].startswith("error: interrupted; resume=true")
        assert "Traceback" not in done.err
        assert self.run(command, tiny, tmp_path / "run", "resume=true").code == 0
        assert_same(tmp_path / "run", whole)


class TestOtherEnds:
    def ended(self, command, line, code, message, hook):
        done = command(*line, hooks=[hook])
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        last = done.err.splitlines()[-1:]
        assert len(last) == 1 and last[0].startswith(f"error: {message}") if message else last == []

    @pytest.mark.parametrize(
        ("code", "message", "hook"),
        [
            (143, "terminated by SIGTERM; resume=true", Hook(STEP, 17, raises="SIGTERM")),
            (
                143,
                "terminated by SIGTERM; resume=true",
                Hook("csb.training.pairs.Bridge.contexts", 9, raises="SIGTERM"),
            ),
            (2, "out of memory; lower training.batch_size", Hook("csb.training.trainer.fill", 2, raises="MemoryError")),
            (2, "the output was closed before all of it was written", ClosedOutput()),
            (2, "", ClosedOutput(errors=True)),
        ],
        ids=["fit", "cache", "memory", "closed output", "closed output and errors"],
    )
    def test_one_line_and_resumes(self, command, tiny, tmp_path, whole, code, message, hook):
        line = [*tiny, f"out={tmp_path}", "name=run"]
        bar = ["progress=true"] if isinstance(hook, ClosedOutput) else []
        self.ended(command, [*line, *bar], code, message, hook)
        done = command(*line, "resume=true")
        assert done.code == 0, done.err
        assert_same(tmp_path / "run", whole)

    def test_a_finished_run_mends_its_files(self, command, tiny, tmp_path, whole):
        """The bridge is written again from those of the half-steps, and the scores are computed again."""
        subprocess.run(["cp", "-a", str(whole), str(tmp_path / "run")], check=True)
        for name in ("bridge.safetensors", "result.json", "config.json", "history.json"):
            content = (tmp_path / "run" / name).read_bytes()
            (tmp_path / "run" / name).write_bytes(content[: len(content) // 2])
        done = command(*tiny, f"out={tmp_path}", "name=run", "resume=true")
        assert done.code == 0, done.err
        assert_same(tmp_path / "run", whole)
        assert json.loads((tmp_path / "run" / "config.json").read_text())["L"] == 2
