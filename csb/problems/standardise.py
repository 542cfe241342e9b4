"""Transforms to mean 0 and standard deviation 1, fitted to the training pairs."""

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.operators import check_batch
from csb.problems.rows import InMemoryRows, Moments, PairRows, Pairs
from csb.problems.transform import Transform, register_transform


class Scaled(Transform):
    """Shifted and scaled to mean 0 and standard deviation 1 on the training pairs.

    Vectors (d,) are scaled coordinate by coordinate; images (C, H, W) channel by channel, with one shift and scale for
    all pixels of a channel. x may be mapped to unbounded coordinates first.
    """

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
        super().__init__(x_shape, y_shape)
        for key, shape in (("x", self.x_shape), ("y", self.y_shape)):
            if len(shape) not in (1, 3):
                raise CSBError(
                    f"{key}_shape={shape} is neither that of a vector (d,) nor of an image (channels, height, width)"
                )
            size = (shape[0], 1, 1) if len(shape) == 3 else shape
            self.register_buffer(f"{key}_mean", torch.zeros(size, dtype=torch.float32))
            self.register_buffer(f"{key}_std", torch.ones(size, dtype=torch.float32))

    def fit(self, x: Tensor, y: Tensor) -> Self:
        """From x (N, *x_shape) and y (N, *y_shape).

        CSBError for a coordinate or channel that is constant or holds values that are not finite.
        """
        check_batch("x", x, self.x_shape)
        check_batch("y", y, self.y_shape)
        return self.fit_rows(InMemoryRows(Pairs(x, y)))

    def fit_rows(self, rows: PairRows) -> Self:
        """As :meth:`fit`, in one pass over the rows' blocks."""
        found = {"x": Moments(), "y": Moments()}
        for block in rows.blocks():
            found["x"].update(self._free(block.x))
            found["y"].update(block.y)
        for key, moments in found.items():
            mean, std = moments.mean, moments.std
            usable = torch.isfinite(std) & (std > 1e-6 * mean.abs()) & (std > 0)
            if not bool(usable.all()):
                column = int((~usable).nonzero()[0])
                part = "channel" if len(self.x_shape if key == "x" else self.y_shape) == 3 else "column"
                raise CSBError(
                    f"{part} {column} of {key} is constant or not finite (mean {float(mean[column]):g}, standard "
                    f"deviation {float(std[column]):g}); remove it or mend the data"
                )
            for kind, value in (("mean", mean), ("std", std)):
                buffer = getattr(self, f"{key}_{kind}")
                buffer.copy_(value.view_as(buffer))
        return self

    @abstractmethod
    def _free(self, x: Tensor) -> Tensor:
        """x to unbounded coordinates of the same shape."""

    @abstractmethod
    def _back(self, v: Tensor) -> Tensor:
        """Unbounded coordinates to x: the inverse of :meth:`_free`, defined for every v."""

    def _encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return (self._free(x) - self.x_mean) / self.x_std

    def _encode_y(self, y: Tensor) -> Tensor:
        return (y - self.y_mean) / self.y_std

    def _decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self._back(self.x_mean + self.x_std * z)

    def log_jacobian(self, x: Tensor) -> Tensor:
        return (self._log_slope(x) - self.x_std.double().log()).expand(x.shape).flatten(1).sum(1)

    @abstractmethod
    def _log_slope(self, x: Tensor) -> Tensor:
        """log |d free/dx| of each coordinate, broadcastable to x, float64; −∞ where :meth:`_back` never leads."""


@register_transform
class Standardise(Scaled):
    """z = (x − mean)/std, c = (y − mean)/std. Samples may be anywhere, whatever the support of the prior."""

    name = "standardise"

    def _free(self, x: Tensor) -> Tensor:
        return x

    def _back(self, v: Tensor) -> Tensor:
        return v

    def _log_slope(self, x: Tensor) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=x.device)
