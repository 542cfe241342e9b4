"""The transform of unit scale, fitted to the training pairs (:mod:`csb.problems.scale`)."""

import logging
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.operators import Image
from csb.problems.parts import views
from csb.problems.rows import COARSE, NAMES, Pairs, Rows, pool
from csb.problems.scale import ROWS, Moments, Scale, codes, columns, present, quantiles
from csb.problems.transform import TRANSFORMS, Transform
from csb.schema import Count, checked

Vector = tuple[Count]
Table = tuple[Count, Count]
_PARTS = {"mean": 0.0, "std": 1.0, "log": 0.0, "tail": 0.0}  # of a scale, and what files of before do not hold
_EDGE = 0.001  # quantile at which the range of the observations ends
logger = logging.getLogger(__name__)


@TRANSFORMS.register
class Standardise(Transform):
    """z = (x − mean)/std, c = (y − mean)/std, or the map of the module's docstring where those do not fit the bulk.

    Vectors (d,), and the rows of series and sets y (L, d), are scaled coordinate by coordinate; images (C, H, W)
    channel by channel. So is each part of a y of named parts (:mod:`csb.problems.parts`): all rows of a series share a
    scale. Missing values of y, which are NaN, are left out, and stay NaN in c. Samples may be anywhere; subclasses map
    x to unbounded coordinates first. Offsets leave, and come back, in float64 where float32 is too coarse for them;
    states and conditions are float32.
    """

    name = "standardise"
    any_units = True
    later = ("x_log", "x_tail", "y_log", "y_tail", "y_low", "y_high")  # tensors that older files do not hold; 0 then
    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor
    y_low: Tensor  # of the observations in training, encoded; both 0 where they are not known
    y_high: Tensor

    @checked
    def __init__(self, x_shape: Vector | Image, y_shape: Vector | Table | Image) -> None:
        super().__init__(x_shape, y_shape)
        for key, shape in zip(NAMES, (self.x_shape, self.y_shape)):
            size = (shape[0], 1, 1) if len(shape) == 3 else shape[-1:]
            for part, value in _PARTS.items():
                self.register_buffer(f"{key}_{part}", torch.full(size, value, dtype=torch.float32))
        for side in ("low", "high"):
            self.register_buffer(f"y_{side}", torch.zeros(self.y_mean.shape, dtype=torch.float32))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.later:
            state_dict.setdefault(f"{prefix}{name}", torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def scale(self, key: str) -> Scale:
        """The map of "x" (mapped to unbounded coordinates) or "y"."""
        return Scale(*(getattr(self, f"{key}_{part}") for part in _PARTS))

    def x_scale(self) -> Tensor:
        """The width of the bulk."""
        scale = Scale(*(part.double() for part in self.scale("x")))
        one = torch.ones_like(scale.mean)
        wide = (scale.decode(one) - scale.decode(-one)) / 2
        return torch.where(scale.plain, scale.std, wide)

    def dtype_of(self, key: str) -> torch.dtype:
        return torch.float64 if bool(self._coarse(key).any()) else torch.float32

    def _coarse(self, key: str) -> Tensor:
        scale = self.scale(key)
        return torch.where(scale.log > 0, 0.0, scale.mean).abs() > COARSE * scale.std

    def _values(self, pairs: Pairs) -> list[Tensor]:
        """What has scales of its own, vectors (n, d) or images (n, C, H, W): x, and y or each of its parts."""
        return [self._free(pairs.x), *(v.flatten(0, 1) if v.ndim == 3 else v for v in views(pairs.y, self.parts))]

    def _set(self, name: str, found: Sequence[Tensor]) -> None:
        """Set a tensor of the observations to numbers of each column or channel, of y or of each of its parts."""
        for place, values in zip(views(self.get_buffer(name)[None], self.parts), found):
            place.copy_(values.view(-1, 1, 1) if place.ndim == 4 else values)

    def fit(self, rows: Rows) -> Self:
        """In one pass over the rows' blocks, and a sample of them for the quantiles.

        CSBError for a coordinate or channel that is constant or holds values that are not finite. Warns of values that
        are most likely codes.
        """
        labels, scales = ["x", *(f"{name} of y" for name in self.parts or ())] + ["y"] * (self.parts is None), []
        found = [Moments(missing=label != "x") for label in labels]
        for block in rows.blocks():
            for moments, values in zip(found, self._values(block)):
                moments.update(values)
        head = rows.head(min(ROWS, pool(rows.x_shape, rows.y_shape)))
        for i, (label, moments, values) in enumerate(zip(labels, found, self._values(head))):
            part = "channel" if values.ndim == 4 else "column"
            mean, std = moments.mean, moments.std
            self.has_gaps = self.has_gaps or moments.gaps
            varies = torch.isfinite(std) & (std > 8 * torch.finfo(values.dtype).eps * mean.abs()) & (std > 0)
            if not bool(varies.all()):
                column = int((~varies).nonzero()[0])
                raise CSBError(
                    f"{part} {column} of {label} is constant or not finite (mean {float(mean[column]):g}, standard "
                    f"deviation {float(std[column]):g}); remove it or fix the data"
                )
            sample = columns(values)
            scales.append(scale := self._fitted(label[-1], sample, mean, std, values.ndim == 2))
            for column, value in codes(sample, scale):
                of_column = (self._values(block)[i][:, column] for block in rows.blocks())
                count = sum(int((v.double() == value).reshape(len(v), -1).any(1).sum()) for v in of_column)
                logger.warning(
                    f"{part} {column} of {label} is {value:g} in {count} rows, far outside all other values: most "
                    f"likely outliers that stand for missing values; leave these rows out, or put NaN there and drop "
                    f"them"
                )
        for name, values in zip(_PARTS, zip(*scales)):
            self.get_buffer(f"x_{name}").view(-1).copy_(values[0])
            self._set(f"y_{name}", values[1:])
        c = [v.flatten(0, 1) if v.ndim == 3 else v for v in views(self.encode_y(head.y), self.parts)]
        c = [v.flatten(2) if v.ndim == 4 else v[..., None] for v in c]
        for side, of, level in (("low", torch.amin, _EDGE), ("high", torch.amax, 1 - _EDGE)):
            ends = [[quantiles(present(e).double(), (level,)) for e in of(v, 2).unbind(1)] for v in c]
            self._set(f"y_{side}", [torch.cat(part) for part in ends])
        return self

    def _fitted(self, key: str, values: Tensor, mean: Tensor, std: Tensor, is_vector: bool) -> Scale:
        """The scale of "x" or "y", by a sample of its columns (n, d), and the mean and standard deviation of all."""
        return Scale.fit(values, mean, std, skewed=key == "y" and is_vector)

    def y_range(self) -> tuple[Tensor, Tensor] | None:
        return (self.y_low, self.y_high) if bool((self.y_low < self.y_high).any()) else None

    def _free(self, x: Tensor) -> Tensor:
        """x to unbounded coordinates of the same shape; of x outside the support some number."""
        return x

    def _back(self, v: Tensor) -> Tensor:
        """Unbounded coordinates to x: the inverse of :meth:`_free`, defined for every v."""
        return v

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.scale("x").encode(self._free(x)).to(self.x_mean.dtype)

    def encode_y(self, y: Tensor) -> Tensor:
        return self.scale("y").encode(y).to(self.y_mean.dtype)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        wide = torch.promote_types(z.dtype, self.dtype_of("x"))
        return self._back(self.scale("x").decode(z.to(wide)))

    def log_jacobian(self, x: Tensor) -> Tensor:
        slope = self.scale("x").log_slope(self._free(x.double()))
        return (self._log_slope(x) + slope).expand(x.shape).flatten(1).sum(1)

    def _log_slope(self, x: Tensor) -> Tensor:
        """log |d free/dx| of each coordinate, broadcastable to x, float64; −∞ where :meth:`_back` never leads."""
        return torch.zeros((), dtype=torch.float64, device=x.device)
