"""MNIST seen through average pooling and noise."""

from dataclasses import dataclass

from csb.errors import CSBError
from csb.problems.base import LinearProblem, register, require_at_least
from csb.problems.operators import AveragePool
from csb.problems.tasks.mnist_problem import MnistProblem
from csb.problems.transform import PixelRange


@register
@dataclass(frozen=True, eq=False)
class MnistSuperres(MnistProblem, LinearProblem):
    """y = means of factor × factor blocks of x + N(0, noise²), (1, 28/factor, 28/factor).

    Args:
        root: the data folder.
        factor: a divisor of 28, at least 2.
        noise: standard deviation on the scale of pixels in [0, 1], ≥ 0.
        seed: of the noise, which is frozen for each split.
    """

    root: str = "data"
    factor: int = 4
    noise: float = 0.1
    seed: int = 0

    name = "mnist_superres"

    def __post_init__(self) -> None:
        if self.factor < 2 or 28 % self.factor:
            raise CSBError(f"factor={self.factor} does not divide 28; choose one of 2, 4, 7, 14, 28")
        require_at_least("noise", self.noise, 0)
        require_at_least("seed", self.seed, 0)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (1, 28 // self.factor, 28 // self.factor)

    @property
    def operator(self) -> AveragePool:
        return AveragePool(self.x_shape, self.factor)

    @property
    def noise_std(self) -> float:
        return self.noise

    @property
    def noise_seed(self) -> int:
        return self.seed

    def new_transform(self) -> PixelRange:
        return PixelRange(self.x_shape, self.y_shape)
