"""A denoiser's training killed at any instant and resumed ends with the weights of one that was left alone."""

import os
import signal

import pytest
import torch

from csb.bridge.checkpoint import load
from csb.dtypes import automatic_precision
from csb.runs.folder import _LOCK
from tests.commands import Hook

STEP = "csb.training.fit.NetworkModule.training_step"
KILLS = {
    "between checkpoints": Hook(STEP, 8),
    "a state written, not renamed": Hook("os.replace", 3),
    "before the denoiser is saved": Hook("csb.training.regression.save", 1),
    "the denoiser written, not renamed": Hook("os.replace", 6),
}


@pytest.fixture(scope="module")
def stage(tiny):
    """Overrides of a denoiser's training of 12 steps with states at 3, 6, 9 and 12."""
    own = ("stage=denoiser", "denoiser.steps=12", "denoiser.batch_size=32", "denoiser.checkpoint_every=3", "name=run")
    return [*tiny, *own]


@pytest.fixture(scope="module")
def whole(command, stage, tmp_path_factory):
    """The weights of the uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    done = command(*stage, f"out={folder}")
    assert done.code == 0, done.err
    return weights(folder / "run")


def weights(folder):
    assert sorted(p.name for p in folder.iterdir() if p.suffix in (".pt", ".safetensors", ".tmp")) == [
        "denoiser.safetensors"
    ]
    return load(folder / "denoiser.safetensors").state_dict()


def assert_same(folder, whole):
    found = weights(folder)
    assert found.keys() == whole.keys()
    assert [key for key in found if not torch.equal(found[key], whole[key])] == []


@pytest.mark.parametrize("hook", KILLS.values(), ids=KILLS)
def test_killed_at_an_exact_instant(command, stage, tmp_path, whole, hook):
    killed = command(*stage, f"out={tmp_path}", hooks=[hook])
    assert killed.code == -signal.SIGKILL, killed.err
    assert not (tmp_path / "run" / "denoiser.safetensors").exists()
    done = command(*stage, f"out={tmp_path}", "resume=true")
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", whole)


def refused(done, *parts):
    assert done.code == 2
    last = done.err.splitlines()[-1]  # Lightning may have warned before
    assert last.startswith("error: "), done.err
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err


class TestInterrupted:
    @pytest.fixture
    def folder(self, command, stage, tmp_path):
        """With the state of six steps."""
        killed = command(*stage, f"out={tmp_path}", hooks=[Hook(STEP, 8)])
        assert killed.code == -signal.SIGKILL, killed.err
        return tmp_path / "run"

    def test_other_settings_are_refused_by_name(self, command, stage, folder):
        before = (folder / "denoiser_state.safetensors").read_bytes()
        own = automatic_precision(torch.device("cpu"))
        other = {"32-true": "bf16-mixed", "bf16-mixed": "32-true"}[own]
        for option, message in (
            ("denoiser.lr=0.02", "was trained with denoiser.lr=0.001, not 0.02"),
            ("denoiser.alpha_bar_end=0.001", "was trained with denoiser.alpha_bar_end=0.0001, not 0.001"),
            ("network.options.width=8", "was trained with network.width=16, not 8"),
            ("problem.seed=1", "was trained with problem.seed=0, not 1"),
            (f"trainer.precision={other}", f"was trained with trainer.precision='{own}', not '{other}'"),
        ):
            refused(command(*stage, f"out={folder.parent}", "resume=true", option), message, str(folder))
        assert (folder / "denoiser_state.safetensors").read_bytes() == before

    def test_what_the_training_does_not_depend_on_may_change(self, command, stage, folder, whole):
        done = command(
            *stage, f"out={folder.parent}", "resume=true", "denoiser.checkpoint_every=5", "training.steps=11"
        )
        assert done.code == 0, done.err
        assert_same(folder, whole)


def test_a_full_disk_is_one_line_and_resumes(command, stage, tmp_path, whole):
    full = command(*stage, f"out={tmp_path}", hooks=[Hook("os.fsync", 3, raises="OSError")])
    refused(full, "cannot write", "denoiser_state.safetensors", "free space or choose another folder")
    assert sorted(os.listdir(tmp_path / "run")) == [_LOCK, "denoiser_state.safetensors", "provenance.json"]
    done = command(*stage, f"out={tmp_path}", "resume=true")
    assert done.code == 0, done.err
    assert_same(tmp_path / "run", whole)
