"""Trainings interrupted at random instants, and resumed: the weights are bit for bit those of one left alone.

An instant is a function call, of Python or C, drawn by a seed among all calls of the training, those that write a file
included. CSB_FAULTS=1000 pytest -m slow tests/training/test_faults.py drives that many.
"""

import os

import pytest

from tests.training.fault_runs import KINDS, go_on, in_a_process, story

STRIKES = {"SIGKILL": 24, "SIGTERM": 10, "SIGHUP": 6, "SIGINT": 8, "MemoryError": 8, "OSError": 8}  # 64 faults
MANY = int(os.environ.get("CSB_FAULTS", "400"))


@pytest.fixture(scope="module")
def whole(fork_server, tmp_path_factory):
    """The uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert in_a_process(fork_server, folder) == 0
    return folder


@pytest.fixture(scope="module")
def calls(whole):
    """How many function calls it makes."""
    count = int(whole.with_suffix(".calls").read_text())
    assert count > 10_000
    return count


@pytest.mark.parametrize("kind", KINDS)
def test_struck_at_random(fork_server, tmp_path, whole, calls, kind):
    story(fork_server, tmp_path / "run", whole, kind, 0, STRIKES[kind], calls)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_struck_very_often(fork_server, tmp_path, whole, calls, kind):
    for seed in range(1, 1 + -(-MANY // (10 * len(KINDS)))):
        story(fork_server, tmp_path / str(seed), whole, kind, seed, 10, calls)


def test_resuming_a_finished_training_changes_nothing(whole, tmp_path):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.suffix in (".pt", ".safetensors") and p.stem != "bridge"}
    go_on(whole)
    assert {p: p.read_bytes() for p in before} == before
