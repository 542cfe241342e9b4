"""Your own pairs, from a file to scores, through train.py and the scripts."""

import json

import numpy as np
import pytest
import torch

from csb.runs.load import load_run
from tests.run.test_config_errors import refuse

SMALL = [
    "L=1", "T=3", "progress=false", "logger=none", "training.batch_size=32", "training.trajectories=64",
    "training.refresh=20", "metrics.samples=16", "metrics.picture_rows=2",
]  # fmt: skip
VECTORS = [*SMALL, "training.first_steps=150", "training.steps=10", "network.options={width: 32, depth: 1}"]
IMAGES = [
    *SMALL, "training.first_steps=8", "training.steps=4", "network.options.channels=16", "objective.rank=2",
    "trainer.precision=32-true",
]  # fmt: skip
CALIBRATION = {
    "crps", "energy_score", "spread", "skill", "spread_skill", "spread_skill_fair", "coverage_deviation",
    "tarp_deviation",
}  # fmt: skip


def save(path, x, y):
    np.savez(path, x=x, y=y)
    return f"data.path={path}"


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    """A run on y = x_1 + x_2 + noise, 1000 pairs, 100 of them for the test."""
    folder, generator = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    x = generator.normal(size=(1000, 2)) * [1, 50] + 7
    y = (x / [1, 50]).sum(1, keepdims=True) + 0.1 * generator.normal(size=(1000, 1))
    given = save(folder / "pairs.npz", x, y)
    done = command("experiment=pairs", given, *VECTORS, f"out={folder}")
    assert done.code == 0, done.err
    return folder, json.loads((folder / "pairs" / "result.json").read_text()), x


def test_the_result_holds_proper_scores_and_calibration(trained):
    folder, result, x = trained
    assert set(result) >= CALIBRATION | {"sbc_p", "deviation_floor", "seconds"}
    assert all(isinstance(result[key], float) for key in CALIBRATION)
    prior_crps = x.std(0).mean() / np.sqrt(np.pi)
    assert 0 < result["crps"] < 0.9 * prior_crps
    assert 0 <= result["coverage_deviation"] < 0.3
    assert 0 <= result["tarp_deviation"] < 0.3
    assert "psnr_mean" not in result
    assert list((folder / "pairs" / "pictures").glob("01_backward_*.png"))


def test_evaluation_and_report(trained, command):
    folder, result, _ = trained
    done = command(f"run={folder}/pairs", "metrics.samples=16", script="scripts/evaluate.py")
    assert done.code == 0, done.err
    tables = json.loads((folder / "pairs" / "evaluation.json").read_text())
    (rows,) = (rows for title, rows in tables.items() if title.startswith("on 100 held-out pairs × 16 samples"))
    assert rows[0]["crps"] == pytest.approx(result["crps"], rel=0.05)
    report = json.loads((folder / "pairs" / "report.json").read_text())
    (bridge,) = report["methods"]
    assert {"crps", "energy_score", "coverage_deviation", "tarp_deviation"} <= set(bridge["metrics"])
    assert any("no likelihood" in warning for warning in report["warnings"])
    assert (folder / "pairs" / "evaluation.png").stat().st_size > 5000


def test_sampling_needs_no_file(trained, command, tmp_path):
    folder, _, _ = trained
    moved = tmp_path / "run"
    moved.symlink_to(folder / "pairs")
    (folder / "pairs.npz").rename(tmp_path / "elsewhere.npz")
    try:
        assert load_run(moved).bridge.sample(torch.tensor([[14.0]]), 5).x.shape == (1, 5, 2)
        np.save(tmp_path / "y.npy", np.array([13.0]))
        line = [f"run={moved}", f"y={tmp_path}/y.npy", "n=5", f"out={tmp_path}/s.npz"]
        done = command(*line, script="scripts/sample.py")
        assert done.code == 0, done.err
        assert np.load(tmp_path / "s.npz")["x"].shape == (1, 5, 2)
        done = command(f"run={moved}", f"out={tmp_path}/s.npz", script="scripts/sample.py")
        assert done.code == 2
        assert "pairs.npz does not exist" in done.err
        assert done.err.count("\n") == 1
    finally:
        (tmp_path / "elsewhere.npz").rename(folder / "pairs.npz")


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "options"),
    [((3, 8, 12), (1, 4, 6), []), ((1, 8, 8), (5,), []), ((1, 7, 9), (2, 7, 9), ["network.options.patch=1"])],
    ids=["smaller image", "vector", "odd sides"],
)
def test_images_of_any_dimensions(command, tmp_path, x_shape, y_shape, options):
    generator = np.random.default_rng(1)
    x = generator.integers(0, 256, (200, *x_shape)).astype(np.uint8)
    given = save(tmp_path / "pairs.npz", x, generator.normal(size=(200, *y_shape)))
    done = command("experiment=pairs_images", given, *IMAGES, *options, f"out={tmp_path}")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "pairs" / "result.json").read_text())
    assert set(result) >= CALIBRATION
    assert 0.27 < result["crps"] < 1.1  # of a uniform byte by its own law: 255/6, or √12/6 of its standard deviation
    assert list((tmp_path / "pairs" / "pictures").glob("01_backward_*.png"))


def test_images_are_evaluated_without_a_digit_classifier(command, tmp_path):
    generator = np.random.default_rng(2)
    given = save(tmp_path / "p.npz", generator.normal(size=(200, 1, 6, 6)), generator.normal(size=(200, 1, 6, 6)))
    assert command("experiment=pairs_images", given, *IMAGES, f"out={tmp_path}").code == 0
    done = command(f"run={tmp_path}/pairs", "metrics.samples=8", script="scripts/evaluate.py")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "pairs" / "report.json").read_text())
    assert "digit_accuracy" not in report["methods"][0]["metrics"]
    assert not list(tmp_path.rglob("classifier.pt"))


@pytest.mark.parametrize(
    ("size", "y_shape"), [(1, (2, 3, 3)), (1, (1,)), (70, (3,))], ids=["from image", "from number", "long vector"]
)
def test_vectors_of_any_length_from_any_observation(command, tmp_path, size, y_shape):
    generator = np.random.default_rng(3)
    given = save(tmp_path / "p.npz", generator.normal(size=(200, size)), generator.normal(size=(200, *y_shape)))
    done = command("experiment=pairs", given, *VECTORS, f"out={tmp_path}")
    assert done.code == 0, done.err
    assert set(json.loads((tmp_path / "pairs" / "result.json").read_text())) >= CALIBRATION


class TestRefused:
    def line(self, tmp_path, x, y, *more, experiment="pairs"):
        return refuse(f"experiment={experiment}", save(tmp_path / "p.npz", x, y), f"out={tmp_path}/new", *more)

    @pytest.mark.parametrize("experiment", ["pairs", "pairs_images"])
    def test_no_path(self, tmp_path, experiment):
        message = refuse(f"experiment={experiment}", f"out={tmp_path}/new")
        assert message.startswith(
            "path is missing; give the .npz or HDF5 file of your pairs (data.path=…), or two .npy"
        )
        assert refuse("problem=pairs", f"out={tmp_path}/new") == message
        assert refuse(f"experiment={experiment}", "data.x=x.npy", f"out={tmp_path}/new") == message

    def test_no_file(self, tmp_path):
        message = refuse("experiment=pairs", f"data.path={tmp_path}/nothing.npz", f"out={tmp_path}/new")
        assert "nothing.npz does not exist" in message

    def test_kinds_that_do_not_suit_the_network(self, tmp_path):
        vectors, images = np.random.default_rng(0).normal(size=(1000, 4)), np.zeros((1000, 1, 9, 9))
        message = self.line(tmp_path, images, vectors)
        assert message.startswith("network=mlp is not for x of shape (1, 9, 9)")
        assert message.endswith("use experiment=pairs_images, which is for images")
        message = self.line(tmp_path, vectors, images, experiment="pairs_images")
        assert message.startswith("network=unet is not for x of shape (4,)")
        assert message.endswith("use experiment=pairs, which is for vectors")
        long = np.random.default_rng(0).normal(size=(1000, 65))
        message = self.line(tmp_path, long, images, "objective.covariance=mixture")
        assert "covariance=mixture is meant for at most 64 coordinates" in message
        message = self.line(tmp_path, images, images, experiment="pairs_images")
        assert "patch=2 does not divide the 9×9 image" in message

    def test_too_few_to_hold_out_or_to_learn_from(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(200, 2))
        message = self.line(tmp_path, x, x, "training.batch_size=32", "data.test=1")
        assert "test=1 holds out 1 pair; calibration needs 2 or more" in message
        message = self.line(tmp_path, x, x, "training.batch_size=32", "data.val=5")
        assert "metrics.picture_rows needs 6 pairs and the split 'val' holds 5" in message
        message = self.line(tmp_path, x, x, "data.test=60", "training.batch_size=1024")
        assert "90 training pairs are fewer than training.batch_size=1024" in message
        assert "hold out 290 of the 200 pairs" in self.line(tmp_path, x, x, "data.test=240")
        assert not (tmp_path / "new").exists()

    def test_bad_values_end_with_one_line_before_any_training(self, command, tmp_path):
        x = np.random.default_rng(0).normal(size=(1000, 2))
        x[3, 1] = np.nan
        done = command("experiment=pairs", save(tmp_path / "p.npz", x, x), *VECTORS, f"out={tmp_path}")
        assert done.code == 2
        assert "holds 1 values that are NaN" in done.err
        assert "Traceback" not in done.err + done.out
        assert not list(tmp_path.rglob("*.safetensors"))
