"""Tiny trainings and comparisons end with the numbers that an earlier version ended with."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import csb
from tests.commands import Hook
from tests.conftest import Finished
from tests.training.runs import environment, free_port

HERE = Path(__file__).parent
# Default and avx2 instructions, one and two threads differ by 5e-7 (torch 2.14.1); other versions may sum otherwise.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}
TINY = [
    "experiment=two_moons", "T=3", "training.first_steps=12", "training.steps=10", "training.batch_size=256",
    "training.refresh=4", "optimizer.lr=0.001",
    "training.trajectories=512", "training.checkpoint_every=3", "training.validate_every=10", "training.select=last",
    "problem.n_train=1000", "network.options.width=8", "network.options.depth=1", "network.options.film=false",
    "metrics.exact_observations=2", "metrics.exact_samples=100", "metrics.picture_rows=2", "metrics.samples=8",
    "metrics.observations=8", "logger=none", "progress=false", "trainer.accelerator=cpu", "trainer.precision=32-true",
]  # fmt: skip
OBJECTIVES = {
    "mean_matching": ["objective=mean_matching", "L=1"],
    "likelihood": ["objective=likelihood_full", "L=1"],
    "bridge_matching": ["objective=bridge_matching", "L=2"],
}
COMPARED = ["problem.n_train=1000", "calls=[6]", "seconds=[]", "observations=4", "samples=50"]
COMPARISONS = {
    "bridge": ["problem=two_moons", "problem.transform=standardise", "methods=[bridge,exact]"],
    "guided": [
        "problem=gaussian_mixture",
        "methods=[tds,dps,exact]",
        "schedule={name: linear, alpha_bar_end: 1e-3}",
    ],
}
Command = Callable[..., Finished]


def _weights(folder: Path) -> dict[str, Tensor]:
    return csb.load(folder, "cpu").state_dict()


def _assert_golden(name: str, found: dict[str, Tensor]) -> None:
    """With CSB_WRITE_GOLDEN=1 it stores what it finds instead: for a new name, never over an old one."""
    path = HERE / "trainings" / f"{name}.npz"
    if os.environ.get("CSB_WRITE_GOLDEN") == "1" and not path.exists():
        np.savez_compressed(path, **{key: value.numpy() for key, value in found.items()})
    with np.load(path) as stored:
        expected = {key: torch.from_numpy(value) for key, value in stored.items()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")


@pytest.fixture(scope="module")
def trained(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished training, each trained once."""
    out, done = tmp_path_factory.mktemp("golden"), {}

    def folder(name: str) -> Path:
        if name not in done:
            done[name] = command(*TINY, *OBJECTIVES[name], f"out={out}", f"name={name}")
        assert done[name].code == 0, done[name].err
        return out / name

    return folder


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_ends_with_the_weights_of_before(trained: Callable[[str], Path], name: str) -> None:
    _assert_golden(name, _weights(trained(name)))


@pytest.mark.parametrize("step", [10, 27])
def test_killed_and_resumed(command: Command, trained: Callable[[str], Path], tmp_path: Path, step: int) -> None:
    line = [*TINY, *OBJECTIVES["bridge_matching"], f"out={tmp_path}", "name=run"]
    killed = command(*line, hooks=[Hook("torch.optim.AdamW.step", step)])
    assert killed.code == -signal.SIGKILL
    resumed = command(*line, "resume=true")
    assert resumed.code == 0, resumed.err
    found, whole = _weights(tmp_path / "run"), _weights(trained("bridge_matching"))
    assert found.keys() == whole.keys()
    assert [key for key in found if not torch.equal(found[key], whole[key])] == []


def test_two_processes(command: Command, tmp_path: Path) -> None:
    line = [*TINY, *OBJECTIVES["bridge_matching"], f"out={tmp_path}", "name=run", "trainer.devices=2"]
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda rank: command(*line, env=environment(rank, port)), (0, 1)))
    assert [one.code for one in both] == [0, 0], both[0].err
    _assert_golden("bridge_matching", _weights(tmp_path / "run"))


def _rows(command: Command, name: str, folder: Path) -> dict[str, Tensor]:
    """The metrics of the methods of a comparison."""
    run = [f"run={HERE / 'files' / 'run'}"] if name == "bridge" else []
    done = command(*COMPARED, *COMPARISONS[name], *run, f"out={folder}", script="scripts/compare.py")
    assert done.code == 0, done.err
    (rows,) = json.loads((folder / "compare.json").read_text())["tables"].values()
    return {f"{row['method']} {key}": torch.tensor(value) for row in rows for key, value in row["metrics"].items()}


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_rows_of_a_comparison(command: Command, tmp_path: Path, name: str) -> None:
    _assert_golden(f"compare_{name}", _rows(command, name, tmp_path))
