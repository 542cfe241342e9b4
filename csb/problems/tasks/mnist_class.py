"""MNIST by class: digits of which only the label is known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import register
from csb.problems.tasks.class_problem import ClassProblem
from csb.problems.tasks.mnist_problem import MnistProblem
from csb.problems.transform import PixelRange


@register
@dataclass(frozen=True, eq=False)
class MnistClass(MnistProblem, ClassProblem):
    """y = the digit's label as a one-hot vector (10,): class-conditional generation (Wu et al. 2023, §5.2).

    Args:
        root: the data folder.
    """

    root: str = "data"

    name = "mnist_class"

    @property
    def classes(self) -> int:
        return 10

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """CSBError: labels were given by people and come with the data."""
        raise CSBError(f"{self.name} has no y but the labels of MNIST: none can be drawn for another x; use pairs()")

    def _observed(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return self.one_hot(labels)

    def new_transform(self) -> PixelRange:
        return PixelRange(self.x_shape, self.y_shape)
