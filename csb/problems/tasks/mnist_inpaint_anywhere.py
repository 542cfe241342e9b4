"""MNIST with a square hole at a random place, observed without noise: one bridge for all places."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import register, require_at_least
from csb.problems.tasks.mnist_problem import MnistProblem
from csb.problems.tasks.moving_hole import MovingHole


@register
@dataclass(frozen=True, eq=False)
class MnistInpaintAnywhere(MnistProblem):
    """A hole anywhere in the digit; y = the digit with 0 in the hole, and a map of what is known, (2, 28, 28).

    Each pair's hole has an integer position, uniform over all that lie in the image. The bridge runs over the hole
    (:class:`csb.problems.tasks.moving_hole.MovingHole`).

    Args:
        root: the data folder.
        hole: the side of the hole in pixels, even, in 2..26.
        seed: of the positions, which are frozen for each split.
    """

    root: str = "data"
    hole: int = 14
    seed: int = 0

    name = "mnist_inpaint_anywhere"

    def __post_init__(self) -> None:
        if self.hole % 2 or not 2 <= self.hole <= 26:
            raise CSBError(f"hole={self.hole} is no side of a hole that can move; give an even number in 2..26")
        require_at_least("seed", self.seed, 0)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (2, 28, 28)

    @property
    def noise_seed(self) -> int:
        return self.seed

    @cached_property
    def _holes(self) -> MovingHole:
        return self.new_transform()

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        corners = torch.randint(29 - self.hole, (2, len(x)), generator=generator, device=generator.device)
        return self._holes.observe(x, *corners.to(x.device))

    def impose(self, x: Tensor, y: Tensor) -> Tensor:
        """The known pixels are y's, the others clamped to [0, 1]."""
        return torch.where(self._holes.unknown(y), x.clamp(0, 1), y[:, :1])

    def new_transform(self) -> MovingHole:
        return MovingHole(self.x_shape, self.hole)
