"""Your own pairs (x, y), from an .npz file: nothing is known of them but the data."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import SPLITS, Pairs, Posterior, Problem, check_request, register, require_at_least
from csb.problems.bounded import KINDS, make_bounded
from csb.problems.pairs_file import read_headers, read_pairs
from csb.problems.support import Support
from csb.problems.transform import Standardise, Transform
from csb.process import seeded

_ORDER = 1000  # seed key of the permutation
AUTO = "auto"  # the transform: reflect where there are bounds, else standardise
Side = float | tuple[float | None, ...] | None


@register
@dataclass(frozen=True, eq=False)
class FilePairs(Problem):
    """x (N, …) and y (N, …) of a file, each vectors (N, d) or images (N, C, H, W), of any numbers.

    The pairs are shuffled by the seed; the first are held out for the test, the next for validation, the others are
    learned from. The file is read when its data are asked for, and not to load a bridge or to draw from it.

    Args:
        path: the file, as numpy.savez(path, x=x, y=y) writes it (see :mod:`csb.problems.pairs_file`).
        val, test: what is held out: a share of the pairs in (0, 1), or their number.
        seed: of the shuffle, ≥ 0.
        low, high: bounds of the prior of vectors x: a number for each coordinate, None where there is no bound; or one
            number for all of them; or None for no bound on that side.
        transform: "standardise", "reflect" or "probit" (see :mod:`csb.problems.bounded`); "auto" reflects where there
            are bounds and standardises elsewhere.
    """

    path: str
    val: float = 0.1
    test: float = 0.1
    seed: int = 0
    low: Side = None
    high: Side = None
    transform: str = AUTO

    name = "pairs"

    def __post_init__(self) -> None:
        if not self.path:
            raise CSBError("path is empty; give the .npz file of your pairs (data.path=…)")
        for field in ("val", "test"):
            value = getattr(self, field)
            if not (0 < value < 1 or (value >= 1 and float(value).is_integer())):
                raise CSBError(
                    f"{field}={value!r} is not possible; give a share of the pairs in (0, 1) or a number of them"
                )
        require_at_least("seed", self.seed, 0)
        self._check_bounds()

    def _check_bounds(self) -> None:
        if self.transform not in (AUTO, *KINDS):
            raise CSBError(f"transform={self.transform!r} is unknown; choose one of {', '.join((AUTO, *KINDS))}")
        for side in ("low", "high"):
            value = getattr(self, side)
            numbers = value if isinstance(value, tuple) else (value,)
            if wrong := [v for v in numbers if v is not None and not math.isfinite(v)]:
                raise CSBError(f"{side}={value!r} holds {wrong[0]}; give finite numbers, null where there is no bound")
        if self.low is None and self.high is None and self.transform in ("reflect", "probit"):
            raise CSBError(
                f"transform={self.transform} needs the bounds of x; give data.low=[…] and data.high=[…], a number or "
                f"null for each coordinate"
            )

    @cached_property
    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        headers = read_headers(Path(self.path))
        return headers["x"].shape, headers["y"].shape

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self._shapes[0][1:]

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self._shapes[1][1:]

    @property
    def support(self) -> Support | None:
        """The box of the bounds, or None without any. CSBError for images, and for another number of bounds."""
        if self.low is None and self.high is None:
            return None
        return Support(self._side("low", -math.inf), self._side("high", math.inf))

    def _side(self, name: str, unbounded: float) -> tuple[float, ...]:
        value, shape = getattr(self, name), self.x_shape
        if len(shape) != 1:
            raise CSBError(f"{name}={value!r} bounds x of shape {shape} in {self.path}; bounds are for vectors (N, d)")
        numbers = value if isinstance(value, tuple) else (value,) * shape[0]
        if len(numbers) != shape[0]:
            raise CSBError(
                f"{name}={list(numbers)} holds {len(numbers)} bounds and x of {self.path} {shape[0]} coordinates; give "
                f"one for each, null where there is none"
            )
        return tuple(unbounded if v is None else float(v) for v in numbers)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of pairs of each split. CSBError where what is held out leaves none to learn from."""
        total = self._shapes[0][0]
        val, test = (int(v) if v >= 1 else max(1, round(v * total)) for v in (self.val, self.test))
        if val + test >= total:
            raise CSBError(
                f"val={self.val} and test={self.test} hold out {val + test} of the {total} pairs of {self.path} and "
                f"leave none to learn from; lower them"
            )
        return {"train": total - val - test, "val": val, "test": test}

    @cached_property
    def _splits(self) -> dict[str, Pairs]:
        x, y = read_pairs(Path(self.path))
        if (support := self.support) is not None:
            _check_inside(self.path, x, support)
        counts = self.sizes
        order = torch.randperm(len(x), generator=seeded(self.seed, _ORDER))
        sizes = [counts[split] for split in reversed(SPLITS)]
        parts = zip(reversed(SPLITS), x[order].split(sizes), y[order].split(sizes))
        return {split: Pairs(*both) for split, *both in parts}

    def prepare(self) -> None:
        """Reads the whole file and checks it."""
        self.pairs("val", 1)

    def pairs(self, split: str, n: int | None = None) -> Pairs:
        """As in :class:`Problem`. CSBError where n exceeds the split."""
        n = check_request(split, n)
        if n is not None and n > self.sizes[split]:
            raise CSBError(f"n={n} pairs are more than the {self.sizes[split]} of the split {split!r}; ask for fewer")
        found = self._splits[split]
        return Pairs(found.x[:n], found.y[:n])

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """CSBError: how y came from x is not known."""
        raise CSBError(
            f"the pairs of {self.path} come without a simulator: no y can be drawn for another x; use pairs()"
        )

    def new_transform(self) -> Transform:
        if (support := self.support) is None:
            return Standardise(self.x_shape, self.y_shape)
        kind = "reflect" if self.transform == AUTO else self.transform
        return make_bounded(kind, self.x_shape, self.y_shape, support)

    def posterior(self, y: Tensor) -> Posterior:
        """CSBError: p(x | y) is not known."""
        raise CSBError(f"the exact posterior of the pairs of {self.path} is not known; use metrics that need none")


def _check_inside(path: str, x: Tensor, support: Support) -> None:
    """CSBError where x (N, d) leaves the box."""
    outside = ~support.contains(x)
    if count := int(outside.sum()):
        row = int(outside.nonzero()[0])
        low, high = support.tensors(x)
        column = int(((x[row] < low) | (x[row] > high)).nonzero()[0])
        raise CSBError(
            f"{count} of the {len(x)} x of {path} lie outside the bounds, the first in row {row}: column {column} is "
            f"{float(x[row, column]):g} and not in [{float(low[column]):g}, {float(high[column]):g}]; mend the bounds "
            f"or leave out these pairs"
        )
