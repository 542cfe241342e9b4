"""What a problem is: pairs (x, y) to learn from, a draw of y given x, and, where it is known, the exact p(x | y)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor
from torch.nn import functional as nnf

from csb.errors import CSBError
from csb.problems.bounded import KINDS, Support, fold, make_bounded
from csb.problems.operators import Operator
from csb.problems.rows import Pairs, Rows
from csb.problems.standardise import Standardise
from csb.problems.transform import Transform
from csb.process import noise_like, seeded
from csb.schema import Count, OneOf, Registry, Schema, Whole, arguments, build, to_spec

SPLITS: tuple[str, ...] = ("train", "val", "test")
BLOCK = 10_000  # pairs drawn with one seed


class Posterior(ABC):
    """p(x | y) at one observation.

    Args:
        moments: the exact ones that are known, float64, for x flattened to d numbers: "mean" (d,), "cov" (d, d), "skew"
            (d,) and "kurtosis" (d,) (the fourth standardised moment: 3 for a Gaussian). Or what computes them when they
            are first asked for.
    """

    def __init__(self, moments: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]] | None = None) -> None:
        self._moments = moments

    @cached_property
    def moments(self) -> dict[str, Tensor]:
        """By their names, as in the class's arguments."""
        return dict((self._moments() if callable(self._moments) else self._moments) or {})

    @property
    def mean(self) -> Tensor | None:
        return self.moments.get("mean")

    @property
    def cov(self) -> Tensor | None:
        return self.moments.get("cov")

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent exact draws, (n, *x_shape), float32."""


class Problem(Schema):
    """An inverse problem: x ~ p(x), y ~ p(y | x). Its arguments are plain data, fields that are checked by their types.

    Attributes:
        last: of the fields, those that stand last in calls and specs.
        x_shape, y_shape: of one x and of one y.
        is_digit: whether x is a labelled digit of MNIST, which a classifier can read.
        is_pixels: whether x is an image of pixels in [0, 1].
        support: the box outside which the prior of vectors x has no mass; None where it has no bounds.
        parts: of a y of named parts, their shapes by name (:mod:`csb.problems.parts`); None for other y.
        may_miss: whether values of y may be missing, which are NaN.
        is_endless: whether :meth:`fresh` gives other pairs for each round.
        shared_prior: of problems with one law of x, and so one denoiser; "": a law of its own.
    """

    model_config = ConfigDict(ignored_types=(object,))  # an attribute of a class without a type is no argument
    last: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str]
    x_shape: ClassVar[tuple[int, ...]]
    y_shape: ClassVar[tuple[int, ...]]
    is_digit: ClassVar[bool] = False
    is_pixels: ClassVar[bool] = False
    support: ClassVar[Support | None] = None
    shared_prior: ClassVar[str] = ""
    parts: ClassVar[dict[str, tuple[int, ...]] | None] = None
    may_miss: ClassVar[bool] = False
    is_endless: ClassVar[bool] = False

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(**dict(zip(arguments(type(self)), args)), **values)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def has_exact_posterior(self) -> bool:
        """Whether :meth:`posterior` gives exact draws."""
        return type(self).posterior is not Problem.posterior

    @property
    def is_image(self) -> bool:
        return len(self.x_shape) == 3

    def prepare(self) -> None:
        """Makes the data available, or raises CSBError, before any work starts."""

    @abstractmethod
    def pairs(self, split: str, n: int | None = None) -> Pairs:
        """The first n pairs of a split ("train", "val" or "test"); all of them for None. The same at every call."""

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of y given x: (B, *x_shape) → (B, *y_shape), on x's device, where the generator must live.

        CSBError where the data come without a simulator.
        """
        raise CSBError(f"{self.name} comes without a simulator: no y can be drawn for another x; use pairs()")

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """The number of pairs of each split."""

    def first(self, split: str, n: int) -> Pairs:
        """As :meth:`pairs`; all of them where there are fewer."""
        return self.pairs(split, min(n, self.sizes[split]))

    def rows(self, split: str) -> Rows:
        """The pairs of a split, to be read by rows."""
        return Rows.of(self.pairs(split))

    def fresh(self, half_step: int, number: int) -> Rows | None:
        """Training pairs for a round of the cache, counted from 0 in each half-step; None: those of :meth:`rows`."""
        return None

    def new_transform(self) -> Transform:
        """The map between data and bridge states, still to be fitted."""
        return Standardise(self.x_shape, self.y_shape)

    def make_transform(self, train: Pairs | Rows) -> Transform:
        """The map between data and bridge states, fitted on training pairs."""
        return self.new_transform().fit(self.checked(Rows.of(train) if isinstance(train, Pairs) else train))

    def checked(self, rows: Rows) -> Rows:
        """Pairs, checked to have the problem's shapes."""
        for name, found, expected in (("x", rows.x_shape, self.x_shape), ("y", rows.y_shape, self.y_shape)):
            if found != expected:
                raise CSBError(f"{name} of the pairs of {self.name} has shape {found}; expected {expected}")
        return rows

    def posterior(self, y: Tensor) -> Posterior:
        """The exact p(x | y) at ONE observation y of y_shape. CSBError where none is known, or for another shape."""
        raise CSBError(f"the exact posterior of {self.name} is not known; use metrics that need none")

    def impose(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, *x_shape) with what its observation y (B, *y_shape) and the prior's range leave no doubt about.

        E.g. the known pixels of an inpainting problem. By default x, folded at the bounds of the prior's support.
        """
        return x if self.support is None else fold(x, *self.support.tensors(x))

    def spec(self) -> dict[str, Any]:
        """{"name": …, **arguments} as plain data, from which :func:`build_problem` makes the problem again."""
        return to_spec(self)

    def record(self) -> dict[str, Any]:
        """The spec for the files of a run: with what it takes to notice, later, that the data are others."""
        return self.spec()

    def check_observation(self, y: Tensor) -> Tensor:
        """y in float64 on the CPU, checked to be one observation: finite, or NaN where values may be missing."""
        if isinstance(y, Tensor) and tuple(y.shape) == self.y_shape:
            usable = torch.isfinite(y.float()) | (y.isnan() if self.may_miss else False)
            if bool(usable.all()):
                return y.detach().to(device="cpu", dtype=torch.float64)
        what = f"of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise CSBError(
            f"y, {what}, is not ONE observation of {self.name}; pass a tensor of shape {self.y_shape}, all of it "
            f"finite as float32; of a batch pass one row"
        )


class Simulated(Problem):
    """A problem with a prior to draw from: n_train, n_val and n_test pairs are made by a seed, and not loaded."""

    last: ClassVar[tuple[str, ...]] = ("n_train", "n_val", "n_test", "seed")
    n_train: Count = 100_000
    n_val: Count = 10_000
    n_test: Count = 10_000
    seed: Whole = 0

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": self.n_train, "val": self.n_val, "test": self.n_test}

    @abstractmethod
    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws of x, (n, *x_shape), float32."""

    def pairs(self, split: str, n: int | None = None) -> Pairs:
        """As in :class:`Problem`; n may exceed the split's size, for more of the same stream."""
        n = Request(split=split, n=n).n

        def block(start: int, generator: torch.Generator) -> Pairs:
            x = self.prior(BLOCK, generator)
            return Pairs(x, self.observe(x, generator))

        return in_blocks(self.seed, split, self.sizes[split] if n is None else n, block)


class Bounded(Simulated):
    """A simulated problem whose prior has bounds. For its transforms see :mod:`csb.problems.bounded`."""

    last: ClassVar[tuple[str, ...]] = (*Simulated.last, "transform")
    support: ClassVar[Support]
    transform: Annotated[str, OneOf(KINDS)] = "reflect"

    def new_transform(self) -> Transform:
        return make_bounded(self.transform, self.x_shape, self.y_shape, self.support)


class AdditiveNoise(Problem):
    """y = forward(x) + noise_std·N(0, I); noise_std is 0 for exact observations."""

    noise_std: ClassVar[float]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The noise-free observation, (B, *x_shape) → (B, *y_shape); differentiable."""

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        y = self.forward(x)
        return y + self.noise_std * noise_like(y, generator) if self.noise_std > 0 else y


class LinearProblem(AdditiveNoise):
    """y = A x + noise_std·N(0, I)."""

    @property
    @abstractmethod
    def operator(self) -> Operator:
        """A."""

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x)


class ClassProblem(Problem):
    """x, and which of ``classes`` classes it is of: p(x | y) is the law of one class."""

    classes: ClassVar[int]

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.classes,)

    def one_hot(self, labels: Tensor) -> Tensor:
        """Labels (N,), integers in 0..classes−1, as observations (N, classes), float32."""
        return nnf.one_hot(labels.long(), self.classes).float()

    def class_of(self, y: Tensor) -> int:
        """The class of ONE observation y (classes,). CSBError unless it is one-hot."""
        y = self.check_observation(y)
        if not torch.equal(y.sort().values, nnf.one_hot(torch.tensor(self.classes - 1), self.classes).to(y)):
            raise CSBError(
                f"y={[round(v, 4) for v in y.tolist()]} of {self.name} is no class; give one 1 among "
                f"{self.classes - 1} zeros"
            )
        return int(y.argmax())


class Request(Schema):
    """What is asked of a problem's pairs."""

    split: Annotated[str, OneOf(SPLITS)]
    n: Count | None = None


def requested(split: str, n: int | None, size: Callable[[str], int]) -> int:
    """How many pairs of a split are asked for, all of them for None. CSBError where there are fewer."""
    n, most = Request(split=split, n=n).n, size(split)
    if n is not None and n > most:
        raise CSBError(f"n={n} pairs are more than the {most} of the split {split!r}; ask for fewer")
    return most if n is None else n


def in_blocks(seed: int, split: str, n: int, draw: Callable[[int, torch.Generator], Pairs]) -> Pairs:
    """The pairs 0..n−1 of a split, from blocks with one seed each, so that a shorter request is a prefix of a longer.

    ``draw(start, generator)`` returns the whole block start..start + BLOCK − 1, or what there is of it.
    """
    blocks = [draw(start, seeded(seed, SPLITS.index(split), start // BLOCK)) for start in range(0, n, BLOCK)]
    x, y, labels = zip(*blocks)
    return Pairs(torch.cat(x)[:n], torch.cat(y)[:n], None if labels[0] is None else torch.cat(labels)[:n])


PROBLEMS: Registry[Problem] = Registry()


def build_problem(spec: Mapping[str, Any]) -> Problem:
    """The problem of a spec. CSBError for an unknown name or an unknown, missing or ill-typed argument."""
    return build("problem", PROBLEMS, spec)
