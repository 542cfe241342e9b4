"""Problems whose observation is a class: y is the class of x as a one-hot vector."""

from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import Problem


class ClassProblem(Problem):
    """x, and which of ``classes`` classes, at least 2, it is of: p(x | y) is the law of one class."""

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
