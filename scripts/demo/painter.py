"""What the page asks for: posterior samples of digits behind a hole, or of vectors. Everything asked is checked."""

import logging
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from csb.bridge import Bridge, Samples
from csb.errors import CSBError
from csb.problems import MnistInpaint, MnistInpaintAnywhere, Problem
from csb.process import seeded
from csb.runs.load import problem_of
from csb.schema import Schema

SIDE = 28
WAITING = 4  # requests that may wait for the one at work
_RANGE = 2_000  # pairs that the sliders and axes of vectors span
_SLIDERS, _SHOWN = 12, 8  # the most numbers of y, and coordinates of x in the corner plot
Seed = Annotated[int, Field(ge=0, le=2**31)]
logger = logging.getLogger(__name__)


class Busy(CSBError):
    """Too many requests wait already."""


class Painter(ABC):
    """A bridge that draws for visitors, one request at a time.

    Args:
        bridge: of the problem.
        problem: whose test observations visitors may pick.

    Attributes:
        page: the name of the page's HTML and JavaScript.
        request: what is asked for samples.
    """

    page: ClassVar[str]
    request: ClassVar[type[Schema]]

    def __init__(self, bridge: Bridge, problem: Problem) -> None:
        self.bridge, self.problem = bridge, problem
        self.title = f"{problem.name}, T = {bridge.grid.T}"
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(1 + WAITING)

    @abstractmethod
    def prepare(self) -> None:
        """Read what visitors may pick from, and sample once, as the first call is slower."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """What the page needs to know before it asks for anything."""

    @abstractmethod
    def pick(self, index: int) -> dict[str, Any]:
        """A test pair for the page."""

    @abstractmethod
    def sample(self, request: Any) -> dict[str, Any]:
        """Posterior samples and what they cost. CSBError where a request does not fit; Busy where too many wait."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many test pairs there are to pick from."""

    def picked(self, index: Any) -> dict[str, Any]:
        """:meth:`pick` for the text of an index. CSBError for one that does not exist."""
        if not isinstance(index, str) or not index.isascii() or not index.isdigit() or len(index) > 6:
            raise CSBError(f"index is not a number; send one in 0..{self.count - 1}")
        if int(index) >= self.count:
            raise CSBError(f"index={int(index)} does not exist; send one in 0..{self.count - 1}")
        return self.pick(int(index))

    def _draw(self, y: Tensor, n: int, seed: int) -> Samples:
        with self._place(), self._lock:
            return self.bridge.sample(y, n, generator=seeded(seed, device=self.bridge.device))

    @contextmanager
    def _place(self) -> Any:
        if not self._places.acquire(blocking=False):
            raise Busy("the page is busy with other requests; try again in a second")
        try:
            yield
        finally:
            self._places.release()


class DigitRequest(Schema):
    """A digit (784 bytes, row by row, 0 black), the hole's corner, the number of samples and their seed."""

    group = "request"
    image: list[Annotated[int, Field(ge=0, le=255)]] = Field(min_length=SIDE**2, max_length=SIDE**2)
    top: int = Field(ge=0, le=SIDE)
    left: int = Field(ge=0, le=SIDE)
    n: int = Field(ge=2, le=64)
    seed: Seed


class Digits(Painter):
    """Fills holes in digits."""

    page = "digits"
    request = DigitRequest
    problem: MnistInpaint | MnistInpaintAnywhere

    def __init__(self, bridge: Bridge, problem: MnistInpaint | MnistInpaintAnywhere) -> None:
        super().__init__(bridge, problem)
        self.without_digits = ""  # why there are no test digits
        self._digits: tuple[Tensor, Tensor] | None = None

    def prepare(self) -> None:
        """Where the digits cannot be had, the page says why, and visitors draw their own."""
        top, left = self.corner
        self.sample(DigitRequest(image=[0] * SIDE**2, top=top, left=left, n=16, seed=0))
        try:
            self.problem.prepare()
            test = self.problem.pairs("test")
            assert test.labels is not None
            self._digits = test.x.mul(255).round().byte(), test.labels
        except CSBError as error:
            self.without_digits = str(error)
            logger.warning("no test digits to pick from: %s", error)

    @property
    def movable(self) -> bool:
        return isinstance(self.problem, MnistInpaintAnywhere)

    @property
    def corner(self) -> tuple[int, int]:
        """top, left of a hole in the middle."""
        start = (SIDE - self.problem.hole) // 2
        return start, start

    @property
    def count(self) -> int:
        return 0 if self._digits is None else len(self._digits[0])

    def info(self) -> dict[str, Any]:
        why = "" if self.movable else (
            f"This bridge was trained with its {self.problem.hole}×{self.problem.hole} hole in the middle, so it "
            "cannot move. One that learned all places: experiment=mnist_inpaint_anywhere."
        )  # fmt: skip
        top, left = self.corner
        return {
            "title": self.title, "hole": self.problem.hole, "top": top, "left": left, "movable": self.movable,
            "why": why, "digits": self.count, "without_digits": self.without_digits, "most": 64,
        }  # fmt: skip

    def pick(self, index: int) -> dict[str, Any]:
        """{"index", "label", "image"}."""
        assert self._digits is not None  # there are none to pick from else
        images, labels = self._digits
        return {"index": index, "label": int(labels[index]), "image": images[index].flatten().tolist()}

    def picked(self, index: Any) -> dict[str, Any]:
        if self._digits is None:
            raise CSBError(self.without_digits or "there are no test digits; draw one")
        return super().picked(index)

    def observe(self, request: DigitRequest) -> Tensor:
        """The observation of a request, y_shape. CSBError where the hole leaves the image or may not move."""
        last = SIDE - self.problem.hole
        if max(request.top, request.left) > last:
            raise CSBError(
                f"the hole's corner ({request.top}, {request.left}) is out of range; send 0..{last} for each"
            )
        if not self.movable and (request.top, request.left) != self.corner:
            raise CSBError(f"the hole of this bridge cannot move; send top and left {self.corner[0]}")
        x = torch.tensor(request.image, dtype=torch.float32).view(1, 1, SIDE, SIDE) / 255
        if isinstance(self.problem, MnistInpaint):
            return self.problem.forward(x)[0]
        corner = torch.tensor([[request.top], [request.left]])
        return self.problem.new_transform().observe(x, *corner)[0]

    def sample(self, request: DigitRequest) -> dict[str, Any]:
        """Samples, their mean and std as bytes (std: 255 for 1), what they cost, and where the hole was."""
        drawn = self._draw(self.observe(request), request.n, request.seed)
        x = drawn.x.cpu()
        return {
            "samples": [_bytes(one) for one in x], "mean": _bytes(x.mean(0)), "std": _bytes(x.std(0)),
            **_cost(drawn), "top": request.top, "left": request.left,
        }  # fmt: skip


class VectorRequest(Schema):
    """An observation, the number of samples and their seed."""

    group = "request"
    y: list[float] = Field(min_length=1, max_length=_SLIDERS)
    n: int = Field(ge=2, le=2000)
    seed: Seed


class Vectors(Painter):
    """Draws vectors x for an observation y that visitors set by sliders."""

    page = "vectors"
    request = VectorRequest

    def __init__(self, bridge: Bridge, problem: Problem) -> None:
        super().__init__(bridge, problem)
        d, m = problem.x_shape[0], problem.y_shape[0]
        if m > _SLIDERS:
            raise CSBError(f"y has {m} numbers; the page has sliders for at most {_SLIDERS}; draw with csb sample")
        given = bridge.about.get("config", {}).get("names") or [f"x{i}" for i in range(d)]
        self.names = [str(name) for name in given][:_SHOWN]
        train = problem.first("train", _RANGE)
        self._x, self._y = _span(train.x), _span(train.y)
        self._test = problem.first("test", 1000)

    def prepare(self) -> None:
        self.sample(VectorRequest(y=self._test.y[0].tolist(), n=16, seed=0))

    @property
    def count(self) -> int:
        return len(self._test.x)

    def info(self) -> dict[str, Any]:
        return {
            "title": self.title, "names": self.names, "x": self._x[:_SHOWN], "y": self._y, "count": self.count,
            "shown": len(self.names), "of": self.problem.x_shape[0], "most": 2000,
        }  # fmt: skip

    def pick(self, index: int) -> dict[str, Any]:
        """{"index", "y", "truth"}."""
        x, y = self._test.x[index], self._test.y[index]
        return {"index": index, "y": y.tolist(), "truth": x[:_SHOWN].tolist()}

    def sample(self, request: VectorRequest) -> dict[str, Any]:
        """Samples of the first coordinates, what they cost, and whether y lies outside the range of training."""
        if len(request.y) != len(self._y):
            raise CSBError(f"request.y has {len(request.y)} numbers; send {len(self._y)}")
        y = torch.tensor(request.y, dtype=torch.float32)
        drawn = self._draw(y, request.n, request.seed)
        far = bool(self.bridge.transform.is_far(y[None].to(self.bridge.device))[0])
        samples = [[float(f"{v:.5g}") for v in row] for row in drawn.x[:, :_SHOWN].tolist()]
        return {"samples": samples, "far": far, **_cost(drawn)}


def painter_of(bridge: Bridge, source: str, root: str | None) -> Painter:
    """For a loaded bridge; ``root``: the data folder in place of the one that it was trained with.

    CSBError where the page cannot show the bridge: images other than digits with a hole.
    """
    problem = problem_of(bridge, source)
    if isinstance(problem, MnistInpaint | MnistInpaintAnywhere):
        return Digits(bridge, problem if root is None else problem.replace(root=root))
    if len(problem.x_shape) == len(problem.y_shape) == 1:
        return Vectors(bridge, problem)
    raise CSBError(
        f"run={source} is a bridge of {problem.name}, which the page cannot show; train one of vectors, or with "
        "experiment=mnist_inpaint_anywhere"
    )


def _span(values: Tensor) -> list[list[float]]:
    """For each column of (N, d): where nearly all values lie, and a little more."""
    low, high = values.double().quantile(torch.tensor([0.005, 0.995], dtype=torch.float64), dim=0)
    room = 0.1 * (high - low)
    return torch.stack([low - room, high + room], 1).tolist()


def _cost(drawn: Samples) -> dict[str, Any]:
    return {"milliseconds": round(1000 * drawn.info.seconds, 1), "calls": drawn.info.forward_evaluations}


def _bytes(x: Tensor) -> list[int]:
    """Values in [0, 1] as integers in 0..255, row by row."""
    return (255 * x).round().clamp(0, 255).int().flatten().tolist()
