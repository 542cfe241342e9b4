"""Pictures are PNG files of the promised size that show something, written whole or not at all."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from csb.errors import CSBError
from csb.evaluation.pictures import loss_curve, posterior_grid, posterior_scatter
from csb.process import seeded


def uniform(*shape: int, key: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=seeded(11, key))


def pixels(path: Path) -> np.ndarray:
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return imread(path)


def test_grid_shows_the_pixels_that_it_was_given(tmp_path: Path):
    truth, samples = uniform(3, 1, 28, 28), uniform(3, 8, 1, 28, 28, key=1)
    path = posterior_grid(tmp_path / "new" / "grid.png", truth, uniform(3, 1, 7, 7, key=2), samples, "title")
    assert path == tmp_path / "new" / "grid.png"
    picture = pixels(path)
    assert abs(picture.shape[1] - 1200) <= 2
    assert 300 < picture.shape[0] < 600
    assert picture.std() > 0.1
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_grid_of_two_samples_without_error_or_spread(tmp_path: Path):
    truth = uniform(1, 1, 8, 8)
    path = posterior_grid(tmp_path / "grid.png", truth, truth, truth[:, None].expand(1, 2, 1, 8, 8), "perfect")
    assert pixels(path).std() > 0.05


def test_heat_columns_are_coloured_and_the_others_grey(tmp_path: Path):
    truth, samples = uniform(1, 1, 6, 6), uniform(1, 3, 1, 6, 6, key=1)
    picture = pixels(posterior_grid(tmp_path / "grid.png", truth, truth, samples, "t"))
    colour = np.ptp(picture[..., :3], axis=2).max(axis=0) > 0.1
    assert not colour[: picture.shape[1] // 2].any()
    assert colour[picture.shape[1] // 2 :].any()


@pytest.mark.parametrize(("B", "d", "with_exact"), [(1, 2, False), (4, 2, True), (5, 3, True)])
def test_scatter(tmp_path: Path, B: int, d: int, with_exact: bool):
    samples, exact = uniform(B, 50, d), uniform(B, 80, d, key=1) if with_exact else None
    path = posterior_scatter(tmp_path / "s.png", uniform(B, 2), samples, exact, uniform(B, d, key=2), "t")
    picture = pixels(path)
    assert picture.shape[1] >= 590
    assert picture.std() > 0.05
    red = (picture[..., 0] > 0.7) & (picture[..., 1] < 0.4) & (picture[..., 2] < 0.4)
    assert red.any()


def test_scatter_of_samples_far_from_the_exact_posterior(tmp_path: Path):
    exact = uniform(2, 40, 2)
    path = posterior_scatter(tmp_path / "s.png", uniform(2, 30), exact + 100, exact, exact[:, 0], "far")
    assert pixels(path).std() > 0.02


@pytest.mark.parametrize("losses", [[1.0], [1.0] * 40, list(np.linspace(-3, 2, 300)), list(np.geomspace(1e-3, 1, 300))])
def test_loss_curve(tmp_path: Path, losses: list[float]):
    steps = list(range(len(losses)))
    picture = pixels(loss_curve(tmp_path / "loss.png", steps, losses, boundaries=[len(losses) / 2]))
    assert picture.shape[1] == 1200
    assert picture.std() > 0.02


def test_an_old_picture_survives_bad_input(tmp_path: Path):
    path = tmp_path / "grid.png"
    path.write_text("old")
    truth, samples = uniform(2, 1, 6, 6), uniform(2, 3, 1, 6, 6)
    bad = samples.clone()
    bad[0, 0, 0, 0, 0] = math.nan
    for arguments, match in (
        ((truth, truth, bad), "samples of shape .* NaN"),
        ((truth[:, 0], truth, samples), "expected"),
        ((truth, truth[:1], samples), "differ in B"),
        ((truth, truth, samples[..., :5]), "differ in B"),
        ((truth, truth, samples[:, :1]), "n ≥ 2"),
        ((truth.repeat(7, 1, 1, 1), truth.repeat(7, 1, 1, 1), samples.repeat(7, 1, 1, 1, 1)), "1 to 12 rows"),
    ):
        with pytest.raises(CSBError, match=match) as caught:
            posterior_grid(path, *arguments, "t")
        assert "\n" not in str(caught.value)
    assert path.read_text() == "old"


def test_bad_scatter_and_loss_input_is_refused(tmp_path: Path):
    path, samples, truth = tmp_path / "p.png", uniform(2, 9, 2), uniform(2, 2)
    with pytest.raises(CSBError, match="expected observations"):
        posterior_scatter(path, truth, samples[..., :1], None, truth[:, :1], "t")
    with pytest.raises(CSBError, match="expected observations"):
        posterior_scatter(path, truth, samples, samples[:1], truth, "t")
    with pytest.raises(CSBError, match="exact of shape"):
        posterior_scatter(path, truth, samples, samples * math.nan, truth, "t")
    with pytest.raises(CSBError, match="one length"):
        loss_curve(path, [1, 2], [1.0], [])
    with pytest.raises(CSBError, match="diverge"):
        loss_curve(path, [1, 2], [1.0, math.nan], [])
    assert not path.exists()
