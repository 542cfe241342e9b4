"""A short real training on MNIST, end to end through train.py."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from csb.process import seeded
from csb.runs.load import load_run

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "training.first_steps=240", "training.steps=40", "training.refresh=40", "training.trajectories=256",
    "training.observe_every=120",
    "network.options.channels=32", "metrics.observations=64", "metrics.samples=16", "progress=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("outputs")
    command = [sys.executable, "train.py", "experiment=mnist_inpaint", f"out={out}", *SHORT]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    return out / "mnist_inpaint"


@pytest.mark.mnist
class TestShortTraining:
    def test_the_loss_falls(self, folder):
        with open(next((folder / "logs").glob("*/metrics.csv"))) as file:
            losses = [float(row["loss/backward"]) for row in csv.DictReader(file) if row.get("loss/backward")]
        first = losses[: 240 // 20]
        assert len(first) == 12
        assert first[-1] < first[2] < first[0]

    def test_samples_keep_the_known_pixels_and_fill_the_hole(self, folder):
        run = load_run(folder)
        pairs = run.problem.pairs("test", 32)
        x = run.bridge.sample(pairs.y, 8, generator=seeded(0)).x
        known = torch.ones(1, 28, 28, dtype=torch.bool)
        known[:, 7:21, 7:21] = False
        truth = pairs.x[:, None].expand_as(x)
        assert torch.equal(x[..., known[0]], truth[..., known[0]])
        inside = ((x - truth)[..., ~known[0]] ** 2).mean()
        empty = (truth[..., ~known[0]] ** 2).mean()
        assert inside < empty  # better than an empty hole, after a minute of training
        assert float(x.std(1).max()) > 0.05  # and not one answer for each observation

    def test_leaves_a_run_behind(self, folder):
        names = {path.name for path in folder.iterdir()}
        assert {
            "bridge.safetensors",
            "state.safetensors",
            "config.json",
            "result.json",
            "history.json",
            "pictures",
            "half_steps",
        } <= names
        pictures = sorted(path.stem for path in (folder / "pictures").glob("*.png"))
        assert pictures[0] == "01_backward_000015"  # an eighth of the interval: a first look early
        assert len([p for p in pictures if p.endswith("000240") or p.endswith("000040")]) == 3
        result = json.loads((folder / "result.json").read_text())
        assert 8 < result["psnr_mean"] < 40
        assert result["crps"] > 0
