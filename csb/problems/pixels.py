"""What problems on images of pixels in [0, 1] have in common, whose data are public files."""

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from csb.problems.base import Problem
from csb.problems.downloads import Files
from csb.problems.transform import PixelRange, Transform


class PixelProblem(Problem):
    """x (C, H, W) in [0, 1], of files in ``root``, or fetched into it."""

    root: str = "data"

    is_pixels = True

    @classmethod
    @abstractmethod
    def files(cls, root: str) -> Files:
        """The files of the data, in a folder of all data."""

    def prepare(self) -> None:
        self.files(self.root).prepare()

    @cached_property
    def _maps(self) -> Transform:
        return self.new_transform()

    def impose(self, x: Tensor, y: Tensor) -> Tensor:
        """The known pixels are y's, the others clamped to [0, 1]."""
        unknown, x = self._maps.unknown(y), x.clamp(0, 1)
        return x if unknown is None else torch.where(unknown, x, y[:, : self.x_shape[0]])

    def new_transform(self) -> Transform:
        return PixelRange(self.x_shape, self.y_shape)
