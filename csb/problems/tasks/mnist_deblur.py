"""MNIST seen through a Gaussian blur and noise."""

from dataclasses import dataclass

from csb.problems.base import LinearProblem, register, require_at_least
from csb.problems.blur import Blur
from csb.problems.tasks.mnist_problem import MnistProblem
from csb.problems.transform import PixelRange


@register
@dataclass(frozen=True, eq=False)
class MnistDeblur(MnistProblem, LinearProblem):
    """y = x blurred by a Gaussian, black beyond the edge, + N(0, noise²), (1, 28, 28).

    Args:
        root: the data folder.
        blur: standard deviation of the blur, pixels, > 0.
        noise: standard deviation on the scale of pixels in [0, 1], ≥ 0.
        seed: of the noise, which is frozen for each split.
    """

    root: str = "data"
    blur: float = 2.0
    noise: float = 0.1
    seed: int = 0

    name = "mnist_deblur"

    def __post_init__(self) -> None:
        require_at_least("blur", self.blur, 0, strictly=True)
        require_at_least("noise", self.noise, 0)
        require_at_least("seed", self.seed, 0)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self.x_shape

    @property
    def operator(self) -> Blur:
        return Blur(self.x_shape, self.blur)

    @property
    def noise_std(self) -> float:
        return self.noise

    @property
    def noise_seed(self) -> int:
        return self.seed

    def new_transform(self) -> PixelRange:
        return PixelRange(self.x_shape, self.y_shape)
