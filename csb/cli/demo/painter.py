"""What the page asks for: test digits, and posterior samples of a digit behind a hole. Everything asked is checked."""

import logging
import threading
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from csb.bridge import Bridge
from csb.errors import CSBError
from csb.problems import MnistInpaint, MnistInpaintAnywhere
from csb.process import seeded
from csb.runs.load import problem_of

SIDE = 28
MOST = 64  # samples a request
WAITING = 4  # requests that may wait for the one at work
SEEDS = 2**31
logger = logging.getLogger(__name__)


class Busy(CSBError):
    """Too many requests wait already."""


@dataclass(frozen=True)
class Request:
    """A digit (784 bytes, row by row, 0 black), the hole's corner, the number of samples and their seed."""

    image: list[int]
    top: int
    left: int
    n: int
    seed: int

    @classmethod
    def of(cls, data: Any) -> Self:
        """From decoded JSON. CSBError for another thing than these fields with integers in their ranges."""
        names = tuple(cls.__dataclass_fields__)
        if not isinstance(data, dict) or set(data) != set(names):
            raise CSBError(f"the request is not an object with exactly the keys {', '.join(names)}; send all of them")
        image = data["image"]
        if not isinstance(image, list) or len(image) != SIDE**2:
            got = f"a list of {len(image)}" if isinstance(image, list) else type(image).__name__
            raise CSBError(f"image is {got}; send {SIDE**2} integers in 0..255")
        if not all(type(v) is int and 0 <= v <= 255 for v in image):
            raise CSBError(f"image holds something else than integers in 0..255; send {SIDE**2} of them")
        for name, low, high in (("top", 0, SIDE), ("left", 0, SIDE), ("n", 2, MOST), ("seed", 0, SEEDS)):
            value = data[name]
            if type(value) is not int or not low <= value <= high:
                raise CSBError(f"{name}={str(value)[:20]!r} is not possible; send an integer in {low}..{high}")
        return cls(**data)


@dataclass
class Painter:
    """A bridge that fills holes in digits, one request at a time.

    Args:
        bridge: of one of the two inpainting problems.
        problem: that problem.
        title: what the page calls the bridge.
    """

    bridge: Bridge
    problem: MnistInpaint | MnistInpaintAnywhere
    title: str
    without_digits: str = ""  # why there are no test digits
    _digits: tuple[Tensor, Tensor] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _places: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(1 + WAITING))

    @classmethod
    def of(cls, bridge: Bridge, source: str, root: str | None) -> Self:
        """For a loaded bridge; ``root``: the data folder in place of the one that it was trained with.

        CSBError where the bridge fills no holes in digits.
        """
        problem = problem_of(bridge, source)
        if not isinstance(problem, MnistInpaint | MnistInpaintAnywhere):
            raise CSBError(
                f"run={source} is a bridge of {problem.name}, which the page cannot show; train one with "
                "experiment=mnist_inpaint_anywhere"
            )
        problem = problem if root is None else problem.replace(root=root)
        return cls(bridge, problem, f"{problem.name}, T = {bridge.grid.T}")

    def prepare(self) -> None:
        """Reads the test digits, and samples once, as the first call is slower.

        Where the digits cannot be had, the page says why, and visitors draw their own.
        """
        self.sample(Request([0] * SIDE**2, *self.corner, 16, 0))
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

    def info(self) -> dict[str, Any]:
        """What the page needs to know before it asks for anything."""
        why = "" if self.movable else (
            f"This bridge was trained with its {self.problem.hole}×{self.problem.hole} hole in the middle, so it "
            "cannot move. One that learned all places: experiment=mnist_inpaint_anywhere."
        )  # fmt: skip
        top, left = self.corner
        return {
            "title": self.title, "hole": self.problem.hole, "top": top, "left": left, "movable": self.movable,
            "why": why, "digits": 0 if self._digits is None else len(self._digits[0]),
            "without_digits": self.without_digits, "most": MOST,
        }  # fmt: skip

    def digit(self, index: Any) -> dict[str, Any]:
        """A test digit: {"index", "label", "image"}. CSBError for one that does not exist."""
        if self._digits is None:
            raise CSBError(self.without_digits or "there are no test digits; draw one")
        images, labels = self._digits
        count = len(images)
        if not isinstance(index, str) or not index.isascii() or not index.isdigit() or len(index) > 6:
            raise CSBError(f"index is not a number; send one in 0..{count - 1}")
        if int(index) >= count:
            raise CSBError(f"index={int(index)} is not a test digit; send one in 0..{count - 1}")
        return {"index": int(index), "label": int(labels[int(index)]), "image": images[int(index)].flatten().tolist()}

    def observe(self, request: Request) -> Tensor:
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

    def sample(self, request: Request) -> dict[str, Any]:
        """Posterior samples, their mean and std as bytes (std: 255 for 1), what they cost, and where the hole was.

        CSBError as :meth:`observe`; Busy where too many requests wait.
        """
        y = self.observe(request)
        if not self._places.acquire(blocking=False):
            raise Busy("the page is busy with other requests; try again in a second")
        try:
            with self._lock:
                generator = seeded(request.seed, device=self.bridge.device)
                drawn = self.bridge.sample(y, request.n, generator=generator)
        finally:
            self._places.release()
        x = drawn.x.cpu()
        return {
            "samples": [_bytes(one) for one in x], "mean": _bytes(x.mean(0)), "std": _bytes(x.std(0)),
            "milliseconds": round(1000 * drawn.info.seconds, 1), "calls": drawn.info.forward_evaluations,
            "top": request.top, "left": request.left,
        }  # fmt: skip


def _bytes(x: Tensor) -> list[int]:
    """Values in [0, 1] as integers in 0..255, row by row."""
    return (255 * x).round().clamp(0, 255).int().flatten().tolist()
