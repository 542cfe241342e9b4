"""Your own pairs (x, y), from files or a torch Dataset: nothing is known of them but the data."""

import logging
import math
from functools import cached_property
from typing import Annotated, Any, Self
from weakref import WeakValueDictionary

import torch
from pydantic import BeforeValidator, model_validator
from torch import Tensor

from csb.dtypes import require_memory
from csb.errors import CSBError, is_number
from csb.problems.base import PROBLEMS, SPLITS, Pairs, Problem, Request, requested
from csb.problems.bounded import KINDS, Support, make_bounded
from csb.problems.checks import read_all
from csb.problems.kinds import Kind, Mixed, fitting, support_of
from csb.problems.rows import Rows
from csb.problems.sources import LEAST, SCHEME, open_source
from csb.problems.transform import Transform
from csb.process import Stream, seeded
from csb.schema import Kept, OneOf, Whole

logger = logging.getLogger(__name__)
AUTO = "auto"  # the transform: reflect where there are bounds, else standardise; val: see FilePairs


def _held_out(value: Any) -> Any:
    share = float(value) if is_number(value) else 0.0
    if value != AUTO and not 0 < share < 1 and not (share >= 1 and share.is_integer()):
        raise ValueError("is not possible; give a share of the pairs in (0, 1) or a number of them, or for val auto")
    return value


HeldOut = Annotated[float | str, Kept, BeforeValidator(_held_out)]
Side = Annotated[float | tuple[float | None, ...] | None, Kept]
_HELD: WeakValueDictionary[str, Rows] = WeakValueDictionary()  # pairs of this process by their digest


@PROBLEMS.register
class FilePairs(Problem):
    """x (N, …) and y (N, …) of files, vectors (N, d) or images (N, C, H, W), y also series or sets (N, L, d).

    The pairs are shuffled by the seed; the first are held out for the test, the next for validation, the others are
    learned from. Files are read when their data are asked for, and not to load a bridge or to draw from it. Whatever
    kind of file holds them, split and training are the same. An .npz file is held in memory; two .npy files, an HDF5
    file and a Dataset are read by rows and may be larger than memory, of which 17 bytes a pair are taken.

    Args:
        path: an .npz file, as numpy.savez(path, x=x, y=y) writes it, an HDF5 file, or what
            :func:`csb.problems.from_dataset` returned; None for .npy files.
        val, test: what is held out: a share of the pairs in (0, 1), or their number. val="auto": a tenth, or 50 pairs
            where that is less, but at most a quarter.
        seed: of the shuffle.
        low, high: bounds of x: a number for each coordinate of vectors or channel of images, None where there is no
            bound; or one number for all of them; or None for no bound on that side. Images are clamped to them.
        transform: "standardise", "reflect" or "probit" (see :mod:`csb.problems.bounded`); "auto" reflects where there
            are bounds and standardises elsewhere.
        x, y: without ``path``, the .npy files of x and y; else the names of the arrays in it, "x" and "y" for None.
        length: the number of pairs that there must be, None for any: kept with a run, whose held-out pairs would be
            others if the files had become longer or shorter.
        digest: of the pairs that there must be, None for any: kept with a run, whose pairs are read no more once they
            are others: the SHA-256 of those of all x and of all y, as float32.
        drop_nan: leave out the pairs in which x or y holds NaN, a masked or an infinite value, which are refused
            otherwise, but for NaN in y: one reading of all finds them, and the number of pairs is that of the others.
        kinds: of the coordinates of vectors x, "real", "angle", "integer" or "category" each (see
            :mod:`csb.problems.kinds`); None: all are real. An angle without bounds is in [−π, π]; a category without is
            one of 0, …, K − 1, the largest in the pairs. Fractions in an integer or a category are refused.
    """

    path: str | None = None
    val: HeldOut = 0.1
    test: Annotated[float, Kept, BeforeValidator(_held_out)] = 0.1
    seed: Whole = 0
    low: Side = None
    high: Side = None
    transform: Annotated[str, OneOf((AUTO, *KINDS))] = AUTO
    x: str | None = None
    y: str | None = None
    length: int | None = None
    digest: str | None = None
    drop_nan: bool = False
    kinds: tuple[Kind, ...] | None = None

    name = "pairs"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.path and not (self.x and self.y and self.path is None):
            raise CSBError(
                "path is missing; give the .npz or HDF5 file of your pairs (data.path=…), or two .npy files (data.x=… "
                "data.y=…)"
            )
        if self.kinds is not None and self.transform != AUTO:
            raise CSBError(f"transform={self.transform} knows no kinds of x; leave transform at auto, or kinds out")
        if self.low is None and self.high is None and self.transform in ("reflect", "probit"):
            raise CSBError(
                f"transform={self.transform} needs the bounds of x; give data.low=[…] and data.high=[…], a number or "
                f"null for each coordinate"
            )
        return self

    @cached_property
    def _whole(self) -> Rows:
        """All pairs, those that :attr:`drop_nan` leaves out aside."""
        if self._is_here and (found := _HELD.get(self.digest or "")) is not None:
            return found
        rows, fault = Rows(open_source(self.path, self.x, self.y)), ""
        where = rows.source.where
        if self.drop_nan:
            total, rows = len(rows), rows.finite()
            logger.warning("data.drop_nan=true leaves out %d of the %d pairs of %s", total - len(rows), total, where)
            if len(rows) < LEAST:
                fault = f"without NaN or infinite values; at least {LEAST} are needed to learn from and to hold out"
        if self.length not in (None, len(rows)):
            fault = f"and held {self.length} when the run was trained: other pairs would be held out now; restore it"
        if fault:
            raise CSBError(f"{where} holds {len(rows)} pairs {fault}")
        return rows

    @property
    def where(self) -> str:
        """What messages call the data."""
        return self._whole.source.where

    def spec(self) -> dict[str, Any]:
        """As in :class:`Problem`, with the share for "auto"; ``drop_nan`` and ``kinds`` where they are set."""
        found = super().spec() | {"val": self.held_out}
        if self._is_here:  # another call may give other pairs under the same name
            found["digest"] = self.digest or self._shared[0]
        return {key: value for key, value in found.items() if value or key not in ("drop_nan", "kinds")}

    def record(self) -> dict[str, Any]:
        """The spec with the number of pairs and their digest, for which all are read once."""
        return {**self.spec(), "length": len(self._whole), "digest": self._checked[0]}

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self._whole.x_shape

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self._whole.y_shape

    @property
    def parts(self) -> dict[str, tuple[int, ...]] | None:
        return self._whole.source.parts

    @property
    def support(self) -> Support | None:
        """The box of the bounds and of what the kinds say, or None without any. CSBError for another number of them."""
        if self.low is None and self.high is None and self.kinds is None:
            return None
        box = Support(self._side("low", -math.inf), self._side("high", math.inf))
        return box if self.kinds is None else support_of(fitting(self.kinds, self.x_shape), box)

    def _side(self, name: str, unbounded: float) -> tuple[float, ...]:
        value, shape = getattr(self, name), self.x_shape
        numbers = value if isinstance(value, tuple) else (value,) * shape[0]
        if len(numbers) != shape[0]:
            raise CSBError(
                f"{name}={value!r} does not bound x of shape {shape} in {self.where}; give one number, or one for each "
                f"coordinate of a vector or channel of an image, null where there is none"
            )
        return tuple(unbounded if v is None else float(v) for v in numbers)

    @property
    def held_out(self) -> float:
        """``val``, as a number."""
        if isinstance(self.val, str):
            return min(0.25, max(0.1, 50 / len(self._whole)))
        return self.val

    @property
    def sizes(self) -> dict[str, int]:
        """The number of pairs of each split. CSBError where what is held out leaves none to learn from."""
        total = len(self._whole)
        val, test = (int(v) if v >= 1 else max(1, round(v * total)) for v in (self.held_out, self.test))
        if val + test >= total:
            raise CSBError(
                f"val={self.held_out:g} and test={self.test} hold out {val + test} of the {total} pairs of "
                f"{self.where} and leave none to learn from; lower them"
            )
        return {"train": total - val - test, "val": val, "test": test}

    @cached_property
    def _orders(self) -> dict[str, Tensor]:
        counts, names = self.sizes, SPLITS[::-1]  # the first are held out for the test
        order = torch.randperm(len(self._whole), generator=seeded(self.seed, Stream.PROBLEM))
        return dict(zip(names, order.split([counts[name] for name in names])))

    def prepare(self) -> None:
        """Reads and checks all pairs once, a block at a time. CSBError where they are not those of ``digest``."""
        if self.digest not in (None, self._checked[0]):
            raise CSBError(
                f"{self.where} holds other pairs than when the run was trained (SHA-256 {self._checked[0][:12]}…, not "
                f"{str(self.digest)[:12]}…); restore it, or train on these under another name"
            )

    @cached_property
    def _checked(self) -> tuple[str, Tensor]:
        """The digest of the pairs, which are checked on the way, and the largest of each number of x."""
        return read_all(self._whole, self.support, self.kinds or ())

    @cached_property
    def _shared(self) -> tuple[str, Rows]:
        """The digest, and the pairs that are found by it for as long as a problem holds them."""
        return self._checked[0], _HELD.setdefault(self._checked[0], self._whole)

    @property
    def _is_here(self) -> bool:
        """Whether the pairs were given in Python, and are nowhere but in this process."""
        return self.path is not None and self.path.startswith(SCHEME)

    def rows(self, split: str) -> Rows:
        Request(split=split)
        if self.digest is not None:  # of a run: whoever reads its pairs again gets those or none
            self.prepare()
        return self._whole.split(self._orders[split])

    def pairs(self, split: str, n: int | None = None) -> Pairs:
        """As in :class:`Problem`. CSBError where n exceeds the split, and for pairs that do not fit into memory."""
        count = requested(split, n, lambda split: self.sizes[split])
        needed = 8 * count * sum(math.prod(shape) for shape in (self.x_shape, self.y_shape))
        require_memory(needed, f"{count} pairs of {self.where}", "ask for fewer, or read them by rows()")
        return self.rows(split).head(count)

    def new_transform(self) -> Transform:
        found = self._transform()
        found.parts = self.parts
        return found

    def _transform(self) -> Transform:
        kind = "reflect" if self.transform == AUTO else self.transform
        if kind == self.transform != "standardise" and len(self.x_shape) == 3:
            raise CSBError(
                f"transform={kind} is for vectors; images are clamped to their bounds; leave transform at auto"
            )
        if self.support is None:
            return super().new_transform()
        if self.kinds is not None:
            support = support_of(self.kinds, self.support, self._checked[1].tolist())
            return Mixed(self.x_shape, self.y_shape, *support.plain, self.kinds)
        return make_bounded(kind, self.x_shape, self.y_shape, self.support)
