"""A short real training on MNIST, end to end through train.py."""

import csv
import json
import subprocess
import sys

import pytest
import torch

from csb.process import seeded
from csb.runs.load import load_run
from tests.conftest import ROOT

SHORT = (
    "training.first_steps=240", "training.steps=40", "training.refresh=40", "training.trajectories=256",
    "training.observe_every=120",
    "network.options.channels=32", "metrics.observations=64", "metrics.samples=16", "progress=false",
)  # fmt: skip


@pytest.mark.mnist
def test_a_short_training(tmp_path):
    """The loss falls, samples keep the known pixels and fill the hole, and a run is left behind."""
    command = [sys.executable, "train.py", "experiment=mnist_inpaint", f"out={tmp_path}", *SHORT]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    folder = tmp_path / "mnist_inpaint"
    with open(next((folder / "logs").glob("*/metrics.csv"))) as file:
        losses = [float(row["loss/backward"]) for row in csv.DictReader(file) if row.get("loss/backward")]
    first = losses[: 240 // 20]
    assert len(first) == 12
    assert first[-1] < first[2] < first[0]
    run = load_run(folder)
    pairs = run.problem.pairs("test", 32)
    x = run.bridge.sample(pairs.y, 8, generator=seeded(0)).x
    known = torch.ones(1, 28, 28, dtype=torch.bool)
    known[:, 7:21, 7:21] = False
    truth = pairs.x[:, None].expand_as(x)
    assert torch.equal(x[..., known[0]], truth[..., known[0]])
    inside = ((x - truth)[..., ~known[0]] ** 2).mean()
    assert inside < (truth[..., ~known[0]] ** 2).mean()  # better than an empty hole, after a minute of training
    assert float(x.std(1).max()) > 0.05  # and not one answer for each observation
    files = {f"{name}.safetensors" for name in ("bridge", "state")} | {f"{n}.json" for n in ("config", "history")}
    assert files | {"result.json", "pictures", "half_steps"} <= {path.name for path in folder.iterdir()}
    pictures = sorted(path.stem for path in (folder / "pictures").glob("*.png"))
    assert pictures[0] == "01_backward_000015"  # an eighth of the interval: a first look early
    assert len([p for p in pictures if p.endswith(("000240", "000040"))]) == 3
    result = json.loads((folder / "result.json").read_text())
    assert 8 < result["psnr_mean"] < 40
    assert result["crps"] > 0
