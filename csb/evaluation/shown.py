"""What a picture shows of a problem's samples: digits as they are, other images by a channel, vectors as points."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from csb.evaluation.pictures import posterior_grid, posterior_scatter
from csb.problems import Problem


class Shown(NamedTuple):
    """Grey images: truth (B, 1, H, W), observation (B, 1, h, w), and the values drawn black and white."""

    truth: Tensor
    observation: Tensor
    value_range: tuple[float, float]


def as_images(problem: Problem, x: Tensor, y: Tensor) -> Shown:
    """Pairs x (B, C, H, W) and y (B, C', h, w) or (B, d) for a picture.

    The first channel of each is drawn, a vector y as a row of cells: digits and their observations from 0 to 1, other
    images from their least to their largest value in x, to which range y is brought.
    """
    truth, seen = x[:, :1], y[:, None, None] if y.ndim == 2 else y[:, :1]
    if problem.is_digit:
        return Shown(truth, seen, (0.0, 1.0))
    low, high = float(truth.min()), float(truth.max())
    if not low < high:
        high = low + 1
    width = (seen.max() - seen.min()).clamp_min(1e-12)
    return Shown(truth, low + (high - low) * (seen - seen.min()) / width, (low, high))


def draw_samples(
    path: Path, problem: Problem, x: Tensor, y: Tensor, samples: Tensor, exact: Tensor | None, title: str
) -> Path | None:
    """The picture of samples (B, n, *x_shape) of pairs x, y; for vectors, exact samples (B, m, d) where there are any.

    None, and nothing drawn, for x of one number: a point on a line makes no scatter plot.
    """
    if problem.x_shape == (1,):
        return None
    if problem.is_image:
        truth, seen, value_range = as_images(problem, x, y)
        return posterior_grid(path, truth, seen, samples[:, :, :1], title, value_range=value_range)
    return posterior_scatter(path, y, samples, exact, x, title)
