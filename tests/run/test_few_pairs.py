"""Trainings on fewer pairs than the usual batch."""

import numpy as np
import pytest
import torch

from csb.errors import CSBError
from csb.run.cli import checked
from csb.run.config import read
from csb.run.load import load_run
from csb.run.train import train
from csb.training.state import load_progress

TINY = [
    "L=1", "T=3", "ipf.first_steps=4", "ipf.steps=4", "ipf.trajectories=64", "metrics.observations=4",
    "metrics.samples=8", "network.options={width: 8, depth: 1}", "logger=none", "trainer.accelerator=cpu",
    "progress=false",
]  # fmt: skip


def settings(folder, n, *overrides, images=False):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 1, 8, 8) if images else (n, 1))
    np.savez(folder / "pairs.npz", x=x, y=x + 0.1 * rng.normal(size=x.shape))
    experiment = "pairs_images" if images else "pairs"
    own = [f"experiment={experiment}", f"data.path={folder / 'pairs.npz'}", f"out={folder}"]
    return checked("train", [*own, *overrides], read)


@pytest.mark.parametrize(
    ("n", "batch", "denoiser"), [(100, 80, 80), (1000, 800, 512), (1280, 1024, 512), (2000, 1024, 512)]
)
def test_a_batch_holds_no_more_states_than_there_are_pairs(tmp_path, n, batch, denoiser):
    run = settings(tmp_path, n)
    assert (run.ipf.batch_size, run.amortized.batch_size, run.distil.batch_size) == (batch, batch, batch)
    assert run.denoiser.batch_size == run.plain["denoiser"]["batch_size"] == denoiser
    assert run.plain["ipf"]["batch_size"] == run.fingerprint()["ipf.batch_size"] == batch


def test_images(tmp_path):
    for n, ipf, distil in ((100, 80, 64), (200, 128, 64)):
        run = settings(tmp_path, n, images=True)
        sizes = [one.batch_size for one in (run.ipf, run.amortized, run.denoiser, run.distil)]
        assert sizes == [ipf, ipf, ipf, distil]


@pytest.mark.parametrize("images", [False, True])
def test_a_training_on_few_pairs_ends_where_it_overfits(tmp_path, images):
    assert settings(tmp_path, 100, images=images).ipf.patience == 8


def test_a_batch_that_was_given_stays(tmp_path):
    with pytest.raises(CSBError, match=r"80 training pairs are fewer than ipf.batch_size=1024; lower it"):
        settings(tmp_path, 100, "ipf.batch_size=1024")
    run = settings(tmp_path, 100, "ipf.batch_size=16", "distil.batch_size=300")
    assert (run.ipf.batch_size, run.amortized.batch_size, run.distil.batch_size) == (16, 16, 300)


def test_a_hundred_pairs_are_trained_on_and_scored(tmp_path):
    run = settings(tmp_path, 100, *TINY)
    result = train(run)
    assert np.isfinite(result["energy_score"])
    loaded = load_run(run.folder)
    assert loaded.about["config"]["ipf"]["batch_size"] == 80
    assert loaded.bridge.sample(torch.zeros(1, 1), 3).x.isfinite().all()


def test_a_state_of_the_same_number_is_resumed(tmp_path):
    run = settings(tmp_path, 1280, *TINY, "ipf.batch_size=1024")
    result = train(run)
    again = settings(tmp_path, 1280, *TINY, "resume=true")
    assert load_progress(run.folder / "state.pt", again.fingerprint())
    assert train(again) == result
