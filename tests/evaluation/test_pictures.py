"""Pictures are PNG files that show what they were given, written whole or not at all."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from csb.evaluation import pictures, plots
from csb.evaluation.pictures import as_images, draw_samples, posterior_grid, posterior_scatter, to_rgb
from csb.problems import FilePairs, MnistSuperres
from csb.process import seeded


def uniform(*shape: int, key: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=seeded(11, key))


@pytest.mark.parametrize(("channels", "n"), [(1, 8), (3, 2)])
def test_a_grid_is_grey_or_in_colour_beside_coloured_maps(tmp_path: Path, channels: int, n: int):
    truth, samples = uniform(2, channels, 6, 6), uniform(2, n, channels, 6, 6, key=1)
    path = tmp_path / "new" / "grid.png"
    plots.write_png(path, posterior_grid(truth, uniform(2, 1, 3, 3, key=2), samples, "title"))
    picture = imread(path)
    width = picture.shape[1]
    assert width > 1500
    coloured = np.ptp(picture[60:, :, :3], axis=2).max(axis=0) > 0.15
    assert coloured[: width // 12].any() == (channels == 3)
    assert coloured[width // 2 :].any()
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def drawn(figure):
    return imread(io.BytesIO(plots.png(figure)))


def test_samples_without_error_or_spread():
    truth = uniform(1, 1, 8, 8)
    figure = posterior_grid(truth, truth, truth[:, None].expand(1, 2, 1, 8, 8), "perfect", labels=["a method"])
    assert drawn(figure).std() > 0.05
    assert figure.axes[0].get_ylabel() == "a method"


def test_channels_are_red_green_and_blue():
    image = np.array([0.0, 1.0, 4.0]).reshape(3, 1, 1)
    assert to_rgb(image, (0.0, 2.0)).tolist() == [[[0.0, 0.5, 1.0]]]
    assert to_rgb(image[1:2], (0.0, 2.0)).tolist() == [[[0.5, 0.5, 0.5]]]


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize(("y_shape", "seen_shape"), [((2, 7), (2, 1, 1, 7)), ((2, 2, 8, 8), (2, 1, 8, 8))])
def test_images_are_drawn_on_their_own_scale(tmp_path, channels, y_shape, seen_shape):
    class Images(FilePairs):
        x_shape = (channels, 4, 5)

    problem, x, y = Images("p.npz"), 100 + 20 * uniform(2, channels, 4, 5), uniform(*y_shape)
    drawn = x if channels == 3 else x[:, :1]
    truth, seen, (low, high) = as_images(problem, x, y)
    assert torch.equal(truth, drawn)
    assert seen.shape == seen_shape
    assert (low, high) == (float(drawn.min()), float(drawn.max()))
    assert (float(seen.min()), float(seen.max())) == pytest.approx((low, high), rel=1e-5)
    assert draw_samples(tmp_path / "s.png", problem, x, y, x[:, None].expand(2, 3, *x.shape[1:]), None, "title")


def test_constant_images_and_digits_have_their_own_range(tmp_path):
    class Numbers(FilePairs):
        x_shape = (1,)

    digits, seen = uniform(2, 1, 28, 28), uniform(2, 2, 7, 7)
    assert as_images(MnistSuperres(), digits, seen).value_range == (0.0, 1.0)
    ones = torch.ones(2, 1, 4, 5)
    assert as_images(FilePairs("p.npz"), ones, torch.ones(2, 2)).value_range == (1.0, 2.0)
    numbers = (torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 9, 1))  # make no picture
    assert not draw_samples(tmp_path / "s.png", Numbers("p"), *numbers, None, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("B", "d", "shift"), [(1, 2, None), (5, 3, 100.0)])
def test_scatter(B: int, d: int, shift: float | None):
    samples, exact = uniform(B, 50, d) + (shift or 0), None if shift is None else uniform(B, 80, d, key=1)
    picture = drawn(posterior_scatter(uniform(B, 2), samples, exact, uniform(B, d, key=2), "t"))
    assert picture.shape[1] >= 590
    assert ((picture[..., 0] > 0.7) & (picture[..., 1] < 0.4) & (picture[..., 2] < 0.4)).any()  # red


def test_words_of_a_label_stay_whole():
    assert plots.wrap("Spread/skill, fair", 40) == "Spread/skill,\nfair"
    label = plots.wrap(pictures.observation_label(np.array([-0.53, -0.25, -0.3, 0.83, -0.28])), 250)
    assert "\n" in label
    assert all(line.endswith(",") for line in label.splitlines()[:-1])
    assert max(map(len, plots.wrap("x" * 70, 40).splitlines())) == 20  # no label is as wide as the figure
