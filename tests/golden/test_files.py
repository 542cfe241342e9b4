"""Files that an earlier version wrote load, and draw what they drew, for ever (see make.py)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import csb
from csb.bridge import Bridge, load
from csb.runs.load import load_run
from csb.samplers import ConsistencySampler, flow_sampler, score_sampler
from csb.training.state import load_progress

HERE = Path(__file__).parent
FILES = HERE / "files"
BRIDGES = sorted(path.stem for path in FILES.glob("bridge_*.pt"))
N = 4  # samples of each observation
# Single precision, T = 3 steps of a small network: other instructions or threads move a sample by some 1e-6.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _observations(shape: tuple[int, ...]) -> Tensor:
    return torch.linspace(-0.5, 0.5, 3 * torch.Size(shape).numel()).view(3, *shape)


def _of_bridge(bridge: Bridge) -> Tensor:
    return bridge.sample(_observations(bridge.transform.y_shape), N, generator=_generator()).x


def _of_score() -> Tensor:
    model = load(FILES / "score.pt")
    return score_sampler(model, "ddim", T=4).sample(_observations((2,)), N, _generator()).x


def _of_flow() -> Tensor:
    model = load(FILES / "flow.pt")
    return flow_sampler(model, "euler", N=4).sample(_observations((2,)), N, _generator()).x


def _of_student(calls: int) -> Tensor:
    student = load(FILES / "consistency.pt")
    return ConsistencySampler(student, calls=calls).sample(_observations((2,)), N, _generator()).x


def _of_denoiser() -> Tensor:
    denoiser = load(FILES / "denoiser.pt")
    with torch.no_grad():
        return denoiser(_observations((2,)), torch.tensor([0.5]))


DRAWS: dict[str, Callable[[], Tensor]] = {
    **{name: lambda name=name: _of_bridge(csb.load(FILES / f"{name}.pt", "cpu")) for name in BRIDGES},
    "half_step": lambda: _of_bridge(csb.load(FILES / "half_step.pt", "cpu")),
    "run": lambda: _of_bridge(csb.load(FILES / "run", "cpu")),
    "exported": lambda: _of_bridge(csb.load(FILES / "exported", "cpu")),
    "score": _of_score,
    "flow": _of_flow,
    "denoiser": _of_denoiser,
    "student, 1 call": lambda: _of_student(1),
    "student, 2 calls": lambda: _of_student(2),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_file_draws_what_it_drew(name: str) -> None:
    with np.load(HERE / "samples.npz") as stored:
        expected = torch.from_numpy(stored[name])
    torch.testing.assert_close(DRAWS[name](), expected, **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in BRIDGES if name != "bridge_image"])
def test_a_bridge_gives_the_density_it_gave(name: str) -> None:
    bridge = csb.load(FILES / f"{name}.pt", "cpu")
    found = bridge.log_prob(torch.tensor([0.2, -0.3]), torch.tensor([0.1, 0.1]), 16, _generator())
    with np.load(HERE / "samples.npz") as stored:
        torch.testing.assert_close(found, torch.from_numpy(stored[f"log_prob {name}"]), rtol=1e-3, atol=1e-3)


def test_the_files_of_a_run_are_read(tmp_path: Path) -> None:
    shutil.copytree(FILES / "run", tmp_path / "run")
    run = load_run(tmp_path / "run", "cpu")
    assert [name for name, _ in run.half_steps] == ["01_backward", "02_forward"]
    assert [row["direction"] for row in run.history] == ["backward", "forward"]
    stored = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    progress = load_progress(tmp_path / "run" / "state.pt", stored["fingerprint"])
    assert progress.half_step == 2
    assert run.problem.spec() == {**run.about["problem"]}
    assert load(tmp_path / "run" / "bridge.pt").about["config"]["L"] == 1


def write_samples() -> None:
    """Stores what the present version draws: ``python tests/golden/test_files.py``, when a kind of file is added."""
    found = {name: draw().numpy() for name, draw in DRAWS.items()}
    for name in BRIDGES:
        if name != "bridge_image":
            bridge = csb.load(FILES / f"{name}.pt", "cpu")
            x, y = torch.tensor([0.2, -0.3]), torch.tensor([0.1, 0.1])
            found[f"log_prob {name}"] = bridge.log_prob(x, y, 16, _generator()).numpy()
    np.savez(HERE / "samples.npz", **found)


if __name__ == "__main__":
    write_samples()
