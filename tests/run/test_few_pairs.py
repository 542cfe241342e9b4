"""Trainings on fewer pairs than the usual batch."""

import numpy as np
import pytest
import torch

from csb.cli.compose import composed
from csb.errors import CSBError
from csb.runs.config import read
from csb.runs.load import load_run
from csb.runs.train import train
from csb.training.state import load_progress

TINY = [
    "L=1", "T=3", "training.first_steps=4", "training.steps=4", "training.trajectories=64", "metrics.observations=4",
    "metrics.samples=8", "network.options={width: 8, depth: 1}", "logger=none", "trainer.accelerator=cpu",
    "progress=false",
]  # fmt: skip


def settings(folder, n, *overrides, images=False):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 1, 8, 8) if images else (n, 1))
    np.savez(folder / "pairs.npz", x=x, y=x + 0.1 * rng.normal(size=x.shape))
    experiment = "pairs_images" if images else "pairs"
    own = [f"experiment={experiment}", f"data.path={folder / 'pairs.npz'}", f"out={folder}"]
    return read(composed("train", [*own, *overrides]))


@pytest.mark.parametrize(
    ("n", "batch", "distil", "denoiser"),
    [(100, 65, 65, 65), (1000, 128, 800, 512), (12_000, 256, 1024, 512), (50_000, 1024, 1024, 512)],
)
def test_a_batch_suits_the_number_of_pairs(tmp_path, n, batch, distil, denoiser):
    run = settings(tmp_path, n)
    assert (run.training.batch_size, run.conditional.batch_size, run.distil.batch_size) == (batch, batch, distil)
    assert run.denoiser.batch_size == run.plain["denoiser"]["batch_size"] == denoiser
    assert run.plain["training"]["batch_size"] == run.fingerprint()["training.batch_size"] == batch


@pytest.mark.parametrize(("n", "val"), [(100, 0.25), (250, 0.2), (500, 0.1), (2000, 0.1)])
def test_validation_takes_a_larger_share_of_few_pairs(tmp_path, n, val):
    run = settings(tmp_path, n)
    assert run.plain["problem"]["val"] == run.problem.record()["val"] == run.fingerprint()["problem.val"] == val
    assert run.problem.sizes == {"train": n - round(val * n) - n // 10, "val": round(val * n), "test": n // 10}
    assert settings(tmp_path, n, "data.val=7").problem.sizes["val"] == 7


def test_images(tmp_path):
    for n, ipf, distil in ((100, 65, 64), (200, 128, 64)):
        run = settings(tmp_path, n, images=True)
        sizes = [one.batch_size for one in (run.training, run.conditional, run.denoiser, run.distil)]
        assert sizes == [ipf, ipf, ipf, distil]


@pytest.mark.parametrize(
    ("images", "n", "first", "later"),
    [(False, 100, 403, 40), (False, 500, 1000, 100), (False, 12_500, 4166, 416), (False, 200_000, 15000, 1500),
     (True, 100, 825, 232),
     (True, 1000, 4400, 350)],
)  # fmt: skip
def test_few_pairs_take_few_steps(tmp_path, images, n, first, later):
    run = settings(tmp_path, n, images=images)
    assert (run.training.first_steps, run.training.steps) == (first, later)
    assert settings(tmp_path, n, "training.steps=7", images=images).training.steps == 7


@pytest.mark.parametrize(("n", "width", "depth"), [(10_000, 128, 4), (50_000, 256, 4)])
def test_few_pairs_take_a_small_network(tmp_path, n, width, depth):
    assert settings(tmp_path, n).plain["network"]["options"] == {"width": width, "depth": depth}
    own = settings(tmp_path, n, "network.options.width=7").plain["network"]["options"]
    assert own == {"width": 7, "depth": depth}


def test_the_cache_holds_what_is_drawn_from_it(tmp_path):
    assert settings(tmp_path, 12_500).training.trajectories == 256 * 416 // 10
    assert settings(tmp_path, 12_500, "T=5", "training.steps=7").training.trajectories == 256 * 7 // 5
    assert settings(tmp_path, 50_000, "training.trajectories=9").training.trajectories == 9


@pytest.mark.parametrize("images", [False, True])
def test_a_training_on_few_pairs_ends_where_it_overfits(tmp_path, images):
    assert settings(tmp_path, 100, images=images).training.patience == 8


def test_a_batch_that_was_given_stays(tmp_path):
    with pytest.raises(CSBError, match=r"65 training pairs are fewer than training.batch_size=1024; lower it"):
        settings(tmp_path, 100, "training.batch_size=1024")
    run = settings(tmp_path, 100, "training.batch_size=16", "distil.batch_size=300")
    assert (run.training.batch_size, run.conditional.batch_size, run.distil.batch_size) == (16, 16, 300)


def test_a_hundred_pairs_are_trained_on_and_scored(tmp_path):
    run = settings(tmp_path, 100, *TINY)
    result = train(run)
    assert np.isfinite(result["energy_score"])
    loaded = load_run(run.folder)
    assert loaded.about["config"]["training"]["batch_size"] == 65
    assert loaded.bridge.sample(torch.zeros(1, 1), 3).x.isfinite().all()


def test_a_state_of_the_same_number_is_resumed(tmp_path):
    run = settings(tmp_path, 1280, *TINY, "training.batch_size=128")
    result = train(run)
    again = settings(tmp_path, 1280, *TINY, "resume=true")
    assert load_progress(run.folder / "state.pt", again.fingerprint())
    assert train(again) == result
