"""Training by two processes is that by one, up to the order of sums; a killed one resumes bit for bit; none hangs."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from csb.bridge import KernelSpec
from csb.files import load_state
from csb.process import seeded
from csb.training import ranks
from csb.training.pairs import EncodedPairs
from csb.training.settings import DeviceSettings
from tests.commands import Hook
from tests.conftest import ROOT
from tests.training.runs import MLP, STEP, assert_same_weights, environment, free_port, make

pytestmark = pytest.mark.timeout(600)
LIMIT = 600  # seconds, on a machine that does much else
SHORT = [
    "L=1", "training.first_steps=6", "training.steps=6", "training.refresh=3", "trainer.devices=2",
    "trainer.accelerator=cpu",
]  # fmt: skip


def inflate(bridge):
    """As a calibration does: changes the bridge in the process that calls it."""
    bridge.backward_kernel.inflation.fill_(1.5)
    return {}


def training(folder, size, objective="bridge_matching", compile=False):
    """What a training by so many processes finds: a first half-step and a cached one, validation, a calibration."""
    device = DeviceSettings("cpu", size, compile=compile)
    if size > 1:
        ranks.init(device)
    val = EncodedPairs.of(*torch.randn(2, 60, 2, generator=seeded(1)))
    kernel, rates = KernelSpec(MLP.network, "v", "mixture", components=2), {"lr": 1e-2, "later_lr": 1e-2}
    run = make(
        folder, kernel, objective, optimizer=rates, device=device, calibrate=inflate, val=val, L=1,
        first_steps=8, steps=8, batch_size=24, states_per_pair=2, refresh=4, trajectories=75, patience=50,
        validate_every=5,
    )  # fmt: skip
    history = run.run(resume=False).history
    ranks.destroy()
    return {"weights": run.bridge.state_dict(), "history": history}


def process(rank, port, folder):
    """One of two: leaves what it found in a file."""
    os.environ.update(environment(rank, port))
    torch.set_num_threads(1)
    torch.save(training(folder, 2), folder / f"{rank}.pt")


def test_the_losses_and_weights_of_two_processes_are_those_of_one(fork_server, tmp_path):
    folder, port = tmp_path / "two", free_port()
    folder.mkdir()
    both = [fork_server.Process(target=process, args=(rank, port, folder)) for rank in (0, 1)]
    for one in both:
        one.start()
    alone = training(tmp_path / "one", 1)
    for one in both:
        one.join(LIMIT)
        assert one.exitcode == 0
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert [len(row["curve"]["losses"]) for row in alone["history"]] == [8, 8]
    for row, expected in zip(first["history"], alone["history"], strict=True):
        assert row["curve"]["losses"] == pytest.approx(expected["curve"]["losses"], rel=1e-4, abs=0)
        assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-4)
    for key, value in alone["weights"].items():
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(second["weights"][key], first["weights"][key]), key
    assert float(second["weights"]["backward_kernel.inflation"]) == 1.5
    assert second["history"] == []  # process 0 writes


def test_a_compiled_training_is_the_same_up_to_rounding(tmp_path):
    plain, compiled = (training(tmp_path / str(on), 1, "likelihood", compile=on) for on in (False, True))
    for row, expected in zip(compiled["history"], plain["history"], strict=True):
        assert row["curve"]["losses"] == pytest.approx(expected["curve"]["losses"], rel=1e-3)
    assert compiled["weights"].keys() == plain["weights"].keys()


@pytest.fixture
def two(command):
    """Runs train.py in two processes, as under torchrun; hooks of process 1. Returns what both left."""

    def run(*arguments, hooks=()):
        port = free_port()

        def one(rank):
            own = hooks if rank else ()
            return command(*arguments, hooks=own, env=environment(rank, port), timeout=LIMIT)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, (0, 1)))

    return run


def errors(*texts):
    return [line for text in texts for line in text.splitlines() if line.startswith("error")]


@pytest.mark.parametrize(
    ("hook", "code", "said", "steps"),
    [
        (Hook(STEP, 6 + 2, raises="CSBError"), 2, "error: planned failure; try again", None),
        (Hook(STEP, 8, raises="SIGTERM"), 143, "error: terminated by SIGTERM; resume=true ", 8),
    ],
    ids=["failure", "signal"],
)
def test_what_ends_one_ends_both_with_one_line(two, tiny, tmp_path, hook, code, said, steps):
    """Of a signal, which process 1 alone hears, process 0 writes the state of the step that they agree on."""
    longer = [] if steps is None else ["training.first_steps=20", "training.checkpoint_every=1000"]
    done = two(*tiny, *SHORT, f"out={tmp_path}", *longer, hooks=[hook])
    assert [one.code for one in done] == [code, code], done[0].err + done[1].err
    (line,) = errors(*(one.err for one in done))
    assert line.startswith(said)
    assert "Traceback" not in done[0].err + done[1].err
    state = load_state(tmp_path / "two_moons" / "state.safetensors")
    assert steps is None or state["step"] == len(state["losses"]) == steps


@pytest.mark.slow
def test_killed_and_resumed_bit_for_bit(two, command, tiny, tmp_path):
    """In the cached half-step, between checkpoints; process 0 says why it ends."""
    line = [*tiny, *SHORT, f"out={tmp_path}"]
    whole = two(*line, "name=whole")
    assert [one.code for one in whole] == [0, 0], whole[0].err
    assert whole[1].out == ""  # tables are process 0's
    killed = two(*line, "name=run", hooks=[Hook(STEP, 6 + 5)])
    assert [one.code for one in killed] == [2, -signal.SIGKILL]
    (said,) = errors(*(one.err for one in killed))
    assert "another process of this training ended without a word" in said
    done = two(*line, "name=run", "resume=true")
    assert [one.code for one in done] == [0, 0], done[0].err
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    (tmp_path / "run" / "result.json").unlink()
    for devices in (1, 4):  # not bit for bit, hence not at all
        refused = command(*line, "name=run", "resume=true", f"trainer.devices={devices}")
        assert refused.code == 2
        assert f"was trained with trainer.devices=2, not {devices}" in refused.err


def wait(what):
    deadline = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


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
    for victim in ("child", "parent"):
        state = tmp_path / victim / "state.safetensors"
        with subprocess.Popen([*line, *long, f"name={victim}"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as parent:
            wait(state.exists)
            children = [int(pid) for pid in subprocess.check_output(["pgrep", "-P", str(parent.pid)]).split()]
            assert len(children) == 2
            os.kill(children[1] if victim == "child" else parent.pid, signal.SIGKILL)
            said = errors(parent.communicate(timeout=LIMIT)[1])
        assert len(said) == (1 if victim == "child" else 0), said
        if victim == "child":
            assert parent.returncode == 2
            assert "of 2 was killed (SIGKILL)" in said[0]
        wait(lambda pid=children[0]: subprocess.run(["kill", "-0", str(pid)], capture_output=True).returncode != 0)
