"""Training by two processes is that by one, up to the order of sums; a killed one resumes bit for bit; none hangs."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from two_processes import environment, free_port, process, training

from csb.bridge.checkpoint import load
from csb.files import load_state
from tests.commands import Hook
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*"),
    pytest.mark.timeout(600),
]
LIMIT = 600  # seconds, on a machine that does much else
STEP = "csb.training.half_step.HalfStepModule.training_step"
SHORT = [
    "L=1",
    "training.first_steps=6",
    "training.steps=6",
    "training.refresh=3",
    "trainer.devices=2",
    "trainer.accelerator=cpu",
]


def test_the_losses_and_weights_of_two_processes_are_those_of_one(request, tmp_path):
    """With a first half-step and a cached one, validation, and a calibration that process 0 alone makes."""
    folder, port, server = tmp_path / "two", free_port(), request.getfixturevalue("fork_server")
    folder.mkdir()
    both = [server.Process(target=process, args=(rank, port, folder, "bridge_matching")) for rank in (0, 1)]
    for one in both:
        one.start()
    alone = training(tmp_path / "one", 1, "bridge_matching")
    for one in both:
        one.join(LIMIT)
        assert one.exitcode == 0
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert [len(losses) for losses in alone["losses"].values()] == [8, 8]
    assert first["losses"].keys() == alone["losses"].keys()
    for name, losses in alone["losses"].items():
        torch.testing.assert_close(torch.tensor(first["losses"][name]), torch.tensor(losses), rtol=1e-4, atol=0)
    assert [row["val_loss"] for row in first["history"]] == pytest.approx(
        [row["val_loss"] for row in alone["history"]], rel=1e-4
    )
    for key, value in alone["weights"].items():
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(second["weights"][key], first["weights"][key]), key
    assert float(second["weights"]["backward_kernel.inflation"]) == 1.5
    assert (second["losses"], second["history"]) == ({}, [])  # process 0 observes and writes


@pytest.fixture
def two(command):
    """Runs train.py in two processes, as under torchrun; hooks of process 1. Returns what both left."""

    def run(*arguments, hooks=()):
        port = free_port()
        with ThreadPoolExecutor(2) as pool:
            both = [
                pool.submit(
                    command, *arguments, hooks=hooks if rank else (), env=environment(rank, port), timeout=LIMIT
                )
                for rank in (0, 1)
            ]
        return [one.result() for one in both]

    return run


def errors(finished):
    return [line for one in finished for line in one.err.splitlines() if line.startswith("error")]


def test_the_failure_of_one_ends_both_with_one_line(two, tiny, tmp_path):
    done = two(*tiny, *SHORT, f"out={tmp_path}", hooks=[Hook(STEP, 6 + 2, raises="CSBError")])
    assert [one.code for one in done] == [2, 2]
    assert errors(done) == ["error: planned failure; try again"]
    assert "Traceback" not in done[0].err + done[1].err
    assert (tmp_path / "two_moons" / "state.safetensors").exists()


def test_a_signal_to_one_ends_both_at_the_same_step(two, tiny, tmp_path):
    """Process 1 alone hears it, in the first half-step; process 0 writes the state of the step that they agree on."""
    line = [*tiny, *SHORT, f"out={tmp_path}", "training.first_steps=20", "training.checkpoint_every=1000"]
    done = two(*line, hooks=[Hook(STEP, 8, raises="SIGTERM")])
    assert [one.code for one in done] == [143, 143], done[0].err + done[1].err
    (said,) = errors(done)
    assert said.startswith("error: terminated by SIGTERM; resume=true ")
    state = load_state(tmp_path / "two_moons" / "state.safetensors")
    assert state["step"] == len(state["losses"]) == 8


def weights(folder):
    files = [folder / "bridge.safetensors", *sorted((folder / "half_steps").iterdir())]
    return {f"{f.name}:{k}": v for f in files for k, v in load(f).state_dict().items()}


@pytest.mark.slow
def test_killed_and_resumed_bit_for_bit(two, command, tiny, tmp_path):
    """In the cached half-step, between checkpoints; process 0 says why it ends."""
    line = [*tiny, *SHORT, f"out={tmp_path}"]
    whole = two(*line, "name=whole")
    assert [one.code for one in whole] == [0, 0], whole[0].err
    assert whole[1].out == ""  # tables are process 0's
    killed = two(*line, "name=run", hooks=[Hook(STEP, 6 + 5)])
    assert [one.code for one in killed] == [2, -signal.SIGKILL]
    (said,) = errors(killed)
    assert "another process of this training ended without a word" in said
    done = two(*line, "name=run", "resume=true")
    assert [one.code for one in done] == [0, 0], done[0].err
    one, other = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    (tmp_path / "run" / "result.json").unlink()
    for devices in (1, 4):  # not bit for bit, hence not at all
        refused = command(*line, "name=run", "resume=true", f"trainer.devices={devices}")
        assert refused.code == 2
        assert f"was trained with trainer.devices=2, not {devices}" in refused.err


@pytest.mark.slow
def test_csb_starts_the_processes_itself(tiny, tmp_path):
    """The command line: a whole run; one whose process is killed; and one that is itself killed leaves none behind."""
    line = [sys.executable, "train.py", *tiny, *SHORT, f"out={tmp_path}"]
    done = subprocess.run([*line, "name=whole"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    found = [done.stdout.count(f"{edge} sliced_w ") for edge in "│|"]  # drawn, or Markdown where it is too wide
    assert sum(found) == 1  # one table, of one process
    again = [sys.executable, "-c", "from csb.cli.main import main; main()", "reproduce", f"run={tmp_path}/whole"]
    found = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert found.returncode == 0, found.stderr
    assert "it agrees: bit for bit" in found.stdout
    long = ["training.first_steps=100000", "training.checkpoint_every=2"]
    for name, victim in (("child", "child"), ("parent", "parent")):
        state = tmp_path / name / "state.safetensors"
        with subprocess.Popen([*line, *long, f"name={name}"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as parent:
            deadline = time.monotonic() + LIMIT
            while not state.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            children = subprocess.check_output(["pgrep", "-P", str(parent.pid)], text=True).split()
            assert len(children) == 2
            subprocess.run(["kill", "-9", children[1] if victim == "child" else str(parent.pid)], check=True)
            said = parent.communicate(timeout=LIMIT)[1]
        lines = [text for text in said.splitlines() if text.startswith("error")]
        assert len(lines) == (1 if victim == "child" else 0), said
        if victim == "child":
            assert parent.returncode == 2
            assert "of 2 was killed (SIGKILL)" in lines[0]
        deadline = time.monotonic() + 60
        while subprocess.run(["kill", "-0", children[0]], capture_output=True).returncode == 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
