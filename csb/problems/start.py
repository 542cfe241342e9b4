r"""A start that knows y: the bridge's states are what a regression of x on y leaves.

With the state u and the condition c of another transform, the state here is

    z = S^{−1/2} (u − m(c)),

so that its far end N(0, I) is N(m(y), S) for u: the conditional end law of cdsb, the code of Shi, De Bortoli,
Deligiannidis & Doucet 2022, by a map of the state. IPF in z is IPF in u with the reference process
d(u − m) = −½β(u − m) dt + √β S^{1/2} dW: the bridge's theory is unchanged, and the density is that of z times
|S|^{−1/2}. The gain is in what the first iteration leaves open. Its paths end at z_T with mean √ᾱ_T E[z_0 | y] and
covariance I + ᾱ_T (Cov(z_0 | y) − I), where sampling starts from N(0, I); the two are

    ½ ᾱ_T |E[z_0 | y]|² + ¼ ᾱ_T² ‖Cov(z_0 | y) − I‖_F²

nats apart, to leading order. A good m takes away the first term, S = Cov(u − m) the mean of the second; where the
posterior is N(m(y), S), nothing is left to learn, and one step is exact. For m and S there are

- a regression on c, S diagonal, of images stationary, or full, or full with the coordinates first that y tells of
  (:mod:`csb.problems.residual`);
- one filter for images, S stationary (:mod:`csb.problems.spectral`).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from csb.dtypes import exact
from csb.errors import CSBError
from csb.problems.rows import Rows
from csb.problems.transform import Transform, build_transform
from csb.process import repeated

STARTS = ("gaussian", "residual", "residual_full", "informed", "spectral")
FLOOR = 1e-6  # of a variance, in units of their mean


class Start(Transform):
    """See the module's docstring. ``of`` is the spec of the transform of u and c."""

    def __init__(self, of: Mapping[str, Any]) -> None:
        inner = build_transform(of)
        super().__init__(inner.x_shape, inner.y_shape)
        self.of, self.inner = dict(of), inner
        self.z_shape, self.c_shape, self.any_units = inner.z_shape, inner.c_shape, inner.any_units

    def _fit_inner(self, rows: Rows) -> None:
        """Fit the transform of u and c. CSBError for observations with gaps."""
        self.inner.fit(rows)
        if self.inner.has_gaps:
            raise CSBError("a start that knows y needs observations without gaps; choose start=gaussian")

    @abstractmethod
    def _mean(self, c: Tensor) -> Tensor:
        """m(c), (B, *z_shape)."""

    @abstractmethod
    def _coloured(self, z: Tensor) -> Tensor:
        """S^{1/2} z."""

    @abstractmethod
    def _white(self, r: Tensor) -> Tensor:
        """S^{−1/2} r."""

    @abstractmethod
    def _log_det(self) -> Tensor:
        """log |S^{1/2}|, (), float64."""

    def _residual(self, u: Tensor, c: Tensor) -> Tensor:
        return u - self._mean(c)

    @exact
    def _inward(self, u: Tensor, c: Tensor) -> Tensor:
        """The state of u given c."""
        return self._white(self._residual(u, c))

    @exact
    def _outward(self, z: Tensor, c: Tensor) -> Tensor:
        """u of a state given c."""
        return self._coloured(z) + self._mean(c)

    def encode_x(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None, "the state depends on y"
        return self._inward(self.inner.encode_x(x, y), self.encode_y(y))

    def encode_y(self, y: Tensor) -> Tensor:
        return self.inner.encode_y(y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.inner.decode(self._outward(z, self.encode_y(y)), y)

    def unknown(self, y: Tensor) -> Tensor | None:
        return self.inner.unknown(y)

    def dtype_of(self, key: str) -> torch.dtype:
        return self.inner.dtype_of(key)

    def x_scale(self) -> Tensor:
        return self.inner.x_scale()

    def y_range(self) -> tuple[Tensor, Tensor] | None:
        return self.inner.y_range()

    def preimage(self, z: Tensor, generator: torch.Generator, c: Tensor | None = None) -> Tensor:
        return self._through(self.inner.preimage, z, generator, c)

    def dequantised(self, z: Tensor, generator: torch.Generator, c: Tensor | None = None) -> Tensor:
        return self._through(self.inner.dequantised, z, generator, c)

    def _through(self, draw: Callable[..., Tensor], z: Tensor, generator: torch.Generator, c: Tensor | None) -> Tensor:
        """What a draw of the inner transform adds to u, added to the state."""
        if draw.__func__ in (Transform.preimage, Transform.dequantised):  # type: ignore[attr-defined]
            return z
        assert c is not None, "the state depends on c"
        u = self._outward(z, c)
        return z + self._white(draw(u, generator, c) - u)

    def log_jacobian(self, x: Tensor) -> Tensor:
        return self.inner.log_jacobian(x) - self._log_det()

    def lift(self, x: Tensor, uniform: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert y is not None, "the state depends on y"
        u, log_scale = self.inner.lift(x, uniform.reshape(-1, *self.inner.z_shape), y)
        return self._inward(u, repeated(self.encode_y(y), len(x) // len(y))), log_scale - self._log_det()
