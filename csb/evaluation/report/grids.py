"""Arrays for the sample pictures of a report. They are drawn, not stored in its JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from csb.errors import CSBError
from csb.evaluation.report.model import Report

MAX_OBSERVATIONS = 12


def _array(name: str, value: Any, ndims: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim not in ndims or array.size == 0 or array.dtype.kind not in "fiub":
        wanted = " or ".join(map(str, ndims))
        raise CSBError(
            f"{name} has shape {array.shape} and type {array.dtype}; expected {wanted} dimensions of numbers"
        )
    if not np.isfinite(array).all():
        raise CSBError(f"{name} of shape {array.shape} holds NaN or infinite values; expected finite ones to draw")
    return array.astype(float)


def _grey(name: str, value: Any, ndim: int) -> np.ndarray:
    """Images without their channel axis of length 1."""
    array = _array(name, value, (ndim, ndim + 1))
    if array.ndim == ndim + 1:
        if array.shape[-3] != 1:
            raise CSBError(f"{name} has shape {array.shape}; expected images of one channel")
        array = array.squeeze(-3)
    return array


def _check_rows(B: int, parts: Mapping[str, np.ndarray]) -> None:
    if not 1 <= B <= MAX_OBSERVATIONS:
        raise CSBError(f"the sample grid has B={B} observations; it shows 1 to {MAX_OBSERVATIONS}")
    if wrong := [f"{name} {part.shape}" for name, part in parts.items() if len(part) != B]:
        raise CSBError(f"the sample grid has B={B} observations, but {wrong[0]}; give the same ones to every method")


@dataclass(frozen=True)
class ImageGrid:
    """Posterior samples of images, of the same observations for every method.

    Attributes:
        truth: (B, H, W) or (B, 1, H, W), 1 ≤ B ≤ 12.
        observation: (B, h, w) or (B, 1, h, w), drawn as it is.
        samples: from a method's name to (B, n, H, W) or (B, n, 1, H, W), n ≥ 2; the mean and standard deviation are
            over all n, the first few are drawn.
        value_range: the values drawn black and white.

    Raises:
        CSBError: shapes that do not fit, NaN, or no method.
    """

    truth: np.ndarray
    observation: np.ndarray
    samples: Mapping[str, np.ndarray]
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        truth, seen = _grey("truth", self.truth, 3), _grey("observation", self.observation, 3)
        samples = {name: _grey(f"samples of {name!r}", x, 4) for name, x in self.samples.items()}
        _check_rows(len(truth), {"observation": seen} | samples)
        for name, x in samples.items():
            if x.shape[2:] != truth.shape[1:] or x.shape[1] < 2:
                raise CSBError(f"samples of {name!r} have shape {x.shape}; expected (B, n ≥ 2, *{truth.shape[1:]})")
        if not self.value_range[0] < self.value_range[1]:
            raise CSBError(f"value_range={self.value_range!r} is empty; give (black, white) with black < white")
        for key, value in (("truth", truth), ("observation", seen), ("samples", samples)):
            object.__setattr__(self, key, value)


@dataclass(frozen=True)
class PointGrid:
    """Posterior samples of points, of the same observations for every method. The first two coordinates are drawn.

    Attributes:
        truth: (B, d), d ≥ 2, 1 ≤ B ≤ 12.
        observation: (B, k); printed where k ≤ 5.
        samples: from a method's name to (B, n, d), n ≥ 2.
        exact: (B, m, d) exact posterior samples drawn behind every method's, or None.

    Raises:
        CSBError: shapes that do not fit, NaN, or no method.
    """

    truth: np.ndarray
    observation: np.ndarray
    samples: Mapping[str, np.ndarray]
    exact: np.ndarray | None = None

    def __post_init__(self) -> None:
        truth, seen = _array("truth", self.truth, (2,)), _array("observation", self.observation, (1, 2, 3, 4))
        samples = {name: _array(f"samples of {name!r}", x, (3,)) for name, x in self.samples.items()}
        exact = None if self.exact is None else _array("exact", self.exact, (3,))
        sets = samples | ({} if exact is None else {"exact": exact})
        _check_rows(len(truth), {"observation": seen} | sets)
        for name, x in sets.items():
            if x.shape[2] != truth.shape[1] or truth.shape[1] < 2 or x.shape[1] < 2:
                raise CSBError(
                    f"samples of {name!r} have shape {x.shape}, truth {truth.shape}; expected (B, n ≥ 2, d ≥ 2)"
                )
        flat = seen.reshape(len(seen), -1)
        for key, value in (("truth", truth), ("observation", flat), ("samples", samples), ("exact", exact)):
            object.__setattr__(self, key, value)


Grid = ImageGrid | PointGrid


def check_grid(report: Report, grid: Grid | None) -> None:
    """CSBError unless the grid is of the report's kind and shows methods of the report only, at least one."""
    if grid is None:
        return
    if isinstance(grid, ImageGrid) != (report.kind == "images"):
        raise CSBError(f"a report on {report.kind} got {type(grid).__name__}; give the grid of its kind, or None")
    known = [method.name for method in report.methods]
    if not grid.samples or (unknown := [name for name in grid.samples if name not in known]):
        found = unknown[0] if grid.samples else None
        raise CSBError(f"the sample grid shows the method {found!r}; the report has {', '.join(known)}")
