"""Your own pairs, from a file to scores, through the commands."""

import json

import numpy as np
import pytest
import torch

import csb
from csb.runs.load import load_run
from tests.conftest import checked, one_line, refused

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
def trained(tmp_path_factory):
    """A run on y = x_1 + x_2 + noise, 1000 pairs, 100 of them for the test."""
    folder, generator = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    x = generator.normal(size=(1000, 2)) * [1, 50] + 7
    y = (x / [1, 50]).sum(1, keepdims=True) + 0.1 * generator.normal(size=(1000, 1))
    result = checked("train", "experiment=pairs", save(folder / "pairs.npz", x, y), *VECTORS, f"out={folder}")()
    return folder, result, x


def test_the_result_holds_proper_scores_and_calibration(trained):
    folder, result, x = trained
    assert set(result) >= CALIBRATION | {"sbc_p", "deviation_floor", "seconds"}
    assert 0 < result["crps"] < 0.9 * x.std(0).mean() / np.sqrt(np.pi)  # of the prior
    assert 0 <= result["coverage_deviation"] < 0.3
    assert 0 <= result["tarp_deviation"] < 0.3
    assert "psnr_mean" not in result
    assert list((folder / "pairs" / "pictures").glob("01_backward_*.png"))
    checked("evaluate", f"run={folder}/pairs", "metrics.samples=16")()
    tables = json.loads((folder / "pairs" / "evaluation.json").read_text())
    (rows,) = (rows for title, rows in tables.items() if title.startswith("on 100 held-out pairs × 16 samples"))
    assert rows[0]["crps"] == pytest.approx(result["crps"], rel=0.05)
    report = json.loads((folder / "pairs" / "report.json").read_text())
    (bridge,) = report["methods"]
    assert {"crps", "energy_score", "coverage_deviation", "tarp_deviation"} <= set(bridge["metrics"])
    assert any("no likelihood" in warning for warning in report["warnings"])
    assert (folder / "pairs" / "evaluation.png").stat().st_size > 5000


def test_sampling_needs_no_file(trained, tmp_path):
    folder, _, _ = trained
    (folder / "pairs.npz").rename(tmp_path / "elsewhere.npz")
    try:
        assert load_run(folder / "pairs").bridge.sample(torch.tensor([[14.0]]), 5).x.shape == (1, 5, 2)
        np.save(tmp_path / "y.npy", np.array([13.0]))
        checked("sample", f"run={folder}/pairs", f"y={tmp_path}/y.npy", "n=5", f"out={tmp_path}/s.npz")()
        assert np.load(tmp_path / "s.npz")["x"].shape == (1, 5, 2)
        drawn = checked("sample", f"run={folder}/pairs", f"out={tmp_path}/s.npz")
        assert "pairs.npz does not exist" in one_line(drawn)
    finally:
        (tmp_path / "elsewhere.npz").rename(folder / "pairs.npz")


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "options"),
    [
        ((3, 8, 12), (1, 4, 6), IMAGES), ((1, 8, 8), (5,), IMAGES), ((1, 7, 9), (2, 7, 9), IMAGES),
        ((1,), (2, 3, 3), VECTORS), ((1,), (1,), VECTORS), ((70,), (3,), VECTORS),
    ],
)  # fmt: skip
def test_any_dimensions(tmp_path, x_shape, y_shape, options):
    """Images are evaluated without a classifier of digits."""
    generator, is_image = np.random.default_rng(1), len(x_shape) == 3
    x = generator.integers(0, 256, (200, *x_shape)).astype(np.uint8)
    given = save(tmp_path / "pairs.npz", x, generator.normal(size=(200, *y_shape)))
    result = checked("train", f"experiment=pairs{'_images' * is_image}", given, *options, f"out={tmp_path}")()
    assert set(result) >= CALIBRATION
    assert 0.27 < result["crps"] < 1.1  # of a uniform byte by its own law: 255/6, or √12/6 of its standard deviation
    if y_shape == (5,):
        checked("evaluate", f"run={tmp_path}/pairs", "metrics.samples=8")()
        report = json.loads((tmp_path / "pairs" / "report.json").read_text())
        assert "digit_accuracy" not in report["methods"][0]["metrics"]
        assert not list(tmp_path.rglob("classifier.*"))


DIT = ["network=dit", "network.options.width=32", "network.options.depth=1", "network.options.attention_heads=1"]
SIZES = {  # of x and y
    "another-size": ((3, 13, 18), (1, 7, 9)), "larger-y": ((3, 13, 18), (1, 20, 31)), "vector": ((3, 13, 18), (6,)),
    "mask-channel": ((3, 13, 18), (4, 13, 18)), "one-row": ((1, 1, 40), (5,)), "five-channels": ((5, 9, 6), (2, 30, 4)),
    "one-column": ((2, 33, 1), (3, 5, 2)),
}  # fmt: skip


UNET = ["network.options.channels=8"]
CASES = [*((UNET, size) for size in SIZES), *((DIT, size) for size in ("another-size", "one-column"))]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("network", "size"), CASES, ids=[f"{size}-{'dit' if network is DIT else 'unet'}" for network, size in CASES]
)
def test_images_of_any_size_are_trained_evaluated_and_drawn(tmp_path, caplog, network, size):
    (x_shape, y_shape), generator = SIZES[size], np.random.default_rng(1)
    x, y = (generator.normal(size=(200, *shape)) for shape in (x_shape, y_shape))
    given = [save(tmp_path / "pairs.npz", x.clip(-1, 3), y), "data.low=-1", "data.high=3", *IMAGES[:-3], *network]
    given += ["objective.rank=2", "metrics.observations=10", f"out={tmp_path}"]
    with caplog.at_level("INFO", "csb.runs.train"):
        checked("train", "experiment=pairs_images", *given)()
    channels = x_shape[0]
    assert f"x {x_shape} from {[-1.0] * channels} to {[3.0] * channels}, y {y_shape}: " in caplog.text
    assert f" on patches of {2 if network != DIT or min(x_shape[1:]) < 8 else 4}×" in caplog.text
    checked("evaluate", f"run={tmp_path}/pairs", "metrics.samples=4")()
    assert (tmp_path / "pairs" / "evaluation.png").stat().st_size > 5000
    checked("sample", f"run={tmp_path}/pairs", "observations=2", "n=3", f"out={tmp_path}/s.npz")()
    drawn = np.load(tmp_path / "s.npz")["x"]
    assert drawn.shape == (2, 3, *x_shape)
    assert -1 <= drawn.min() < drawn.max() <= 3


VECTOR, IMAGE = (1000, 4), (1000, 1, 9, 9)


@pytest.mark.parametrize(
    ("experiment", "x", "y", "more", "message"),
    [
        ("pairs", IMAGE, VECTOR, [], "network=mlp is not for x of shape (1, 9, 9)"),
        ("pairs_images", VECTOR, IMAGE, ["network=dit"], "network=dit is not for x of shape (4,)"),
        ("pairs_images", VECTOR, IMAGE, [], "network=unet is not for x of shape (4,)"),
        ("pairs", (1000, 65), VECTOR, ["objective.covariance=mixture"], "mixture is meant for at most 64 coordinates"),
        ("pairs", (200, 2), (200, 2), ["data.test=1"], "test=1 holds out 1 pair; calibration needs 2 or more"),
        ("pairs", (200, 2), (200, 2), ["data.val=5"], "metrics.picture_rows needs 6 pairs and the split 'val'"),
    ],
)
def test_what_is_refused(tmp_path, experiment, x, y, more, message):
    generator = np.random.default_rng(0)
    given = save(tmp_path / "p.npz", generator.normal(size=x), generator.normal(size=y))
    assert message in refused("train", f"experiment={experiment}", given, f"out={tmp_path}/new", *more)
    assert not (tmp_path / "new").exists()


def test_images_as_rough_as_noise():
    """x ~ N(0, I), y = x + ½ N(0, I), so p(x | y) = N(y/1.25, I/5). Without ``skip`` means are off by 1.35 sd."""
    generator, noise = torch.Generator().manual_seed(0), 0.25
    x = torch.randn(3000, 1, 8, 8, generator=generator)
    y = x + noise**0.5 * torch.randn(x.shape, generator=generator)
    network = {"name": "unet", "channels": 16, "multipliers": [1], "attention": False}
    training = {"first_steps": 200, "last_forward": False, "inflate": False}
    bridge = csb.fit(x, y, T=5, L=1, network=network, training=training, progress=False).bridge
    drawn, var = bridge.sample(y[:50], 64, seed=1).x, noise / (1 + noise)
    excess = (drawn.mean(1) - y[:50] / (1 + noise)).square().mean() - var / 64
    assert float(excess / var) < 0.15**2
    assert abs(float((drawn.var(1).mean() / var).sqrt()) - 1) < 0.08
