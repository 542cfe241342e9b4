"""The transform of unit scale, fitted to the training pairs (:mod:`csb.problems.scale`)."""

import logging
from typing import Any, Self

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.operators import Image
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
    channel by channel. Missing values of y, which are NaN, are left out, and stay NaN in c. Samples may be anywhere;
    subclasses map x to unbounded coordinates first. Offsets leave, and come back, in float64 where float32 is too
    coarse for them; states and conditions are float32.
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

    def _values(self, key: str, pairs: Pairs) -> Tensor:
        if key == "x":
            return self._free(pairs.x)
        return pairs.y.flatten(0, 1) if pairs.y.ndim == 3 else pairs.y

    def fit(self, rows: Rows) -> Self:
        """In one pass over the rows' blocks, and a sample of them for the quantiles.

        CSBError for a coordinate or channel that is constant or holds values that are not finite. Warns of values that
        are most likely codes.
        """
        found = {"x": Moments(), "y": Moments(missing=True)}
        for block in rows.blocks():
            for key, moments in found.items():
                moments.update(self._values(key, block))
        head = rows.head(min(ROWS, pool(rows.x_shape, rows.y_shape)))
        for key, moments in found.items():
            values = self._values(key, head)
            part = "channel" if values.ndim == 4 else "column"
            mean, std = moments.mean, moments.std
            self.has_gaps = self.has_gaps or moments.gaps
            varies = torch.isfinite(std) & (std > 8 * torch.finfo(values.dtype).eps * mean.abs()) & (std > 0)
            if not bool(varies.all()):
                column = int((~varies).nonzero()[0])
                raise CSBError(
                    f"{part} {column} of {key} is constant or not finite (mean {float(mean[column]):g}, standard "
                    f"deviation {float(std[column]):g}); remove it or fix the data"
                )
            sample = columns(values)
            scale = self._fitted(key, sample, mean, std)
            for name, value in zip(_PARTS, scale):
                self.get_buffer(f"{key}_{name}").view(-1).copy_(value)
            for column, value in codes(sample, scale):
                of_column = (self._values(key, block)[:, column] for block in rows.blocks())
                count = sum(int((v.double() == value).reshape(len(v), -1).any(1).sum()) for v in of_column)
                logger.warning(
                    f"{part} {column} of {key} is {value:g} in {count} rows, far outside all other values: most likely "
                    f"outliers that stand for missing values; leave these rows out, or put NaN there and drop them"
                )
        c = self.encode_y(head.y)
        c = c.flatten(0, 1)[..., None] if c.ndim == 3 else c.flatten(2) if c.ndim == 4 else c[..., None]
        for side, extreme, level in (("low", c.amin(2), _EDGE), ("high", c.amax(2), 1 - _EDGE)):
            ends = torch.cat([quantiles(present(v).double(), (level,)) for v in extreme.unbind(1)])
            self.get_buffer(f"y_{side}").view(-1).copy_(ends)
        return self

    def _fitted(self, key: str, values: Tensor, mean: Tensor, std: Tensor) -> Scale:
        """The scale of "x" or "y", by a sample of its columns (n, d), and the mean and standard deviation of all."""
        return Scale.fit(values, mean, std)

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
