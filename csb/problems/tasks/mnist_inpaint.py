"""MNIST with a square hole in the middle, observed without noise."""

from dataclasses import dataclass

from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import LinearProblem, register
from csb.problems.operators import Box, InpaintBox
from csb.problems.tasks.mnist_problem import MnistProblem
from csb.problems.transform import Hole


@register
@dataclass(frozen=True, eq=False)
class MnistInpaint(MnistProblem, LinearProblem):
    """y = x with the hole set to 0; the bridge runs over the hole (:class:`csb.problems.transform.Hole`).

    Args:
        root: the data folder.
        hole: the side of the centred hole in pixels, even, in 2..28.
    """

    root: str = "data"
    hole: int = 14

    name = "mnist_inpaint"

    def __post_init__(self) -> None:
        if self.hole % 2 or not 2 <= self.hole <= 28:
            raise CSBError(f"hole={self.hole} cannot be centred in 28×28 pixels; give an even number in 2..28")

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self.x_shape

    @property
    def box(self) -> Box:
        """(top, left, height, width) of the hole."""
        start = (28 - self.hole) // 2
        return (start, start, self.hole, self.hole)

    @property
    def operator(self) -> InpaintBox:
        return InpaintBox(self.x_shape, self.box)

    @property
    def noise_std(self) -> float:
        return 0.0

    def impose(self, x: Tensor, y: Tensor) -> Tensor:
        """The known pixels are y's, the others clamped to [0, 1]."""
        mask = self.operator.mask.to(x)
        return mask * y + (1 - mask) * x.clamp(0, 1)

    def new_transform(self) -> Hole:
        return Hole(self.x_shape, self.box)
