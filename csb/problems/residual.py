r"""A start that is a linear regression: m(c) = b + W φ(c) by ridge regression, S diagonal, stationary or full.

It is in closed form and takes two passes over the pairs: φ(c) is c itself, or, where c has 64 numbers at most, also
max(c_j − κ, 0) at knots κ along each coordinate, a sum of functions of one coordinate each. Whether with knots, and the
strength of the ridge, is what has the least generalised cross-validation error (Golub, Heath & Wahba 1979). A
regression fits its own pairs better than new ones, and a bridge that learns from such residuals would be too narrow:
pairs to train on have those of the regression without them, r_i / (1 − h_i), with the leverage
h_i = φ_iᵀ (Φᵀ Φ + λI)^{−1} φ_i, in closed form too.

Few observed numbers tell of few directions of a large state (the likelihood-informed subspace of Cui et al. 2014,
"Likelihood-informed dimension reduction for nonlinear inverse problems"). The start "informed" turns the states so that
these come first: z = Vᵀ S^{−1/2} (u − m(c)), a vector, with the Cholesky factor of S as its root and V the left
singular vectors of S^{−1/2} Cov(m(c))^{1/2}, the largest singular value first. *Informed* are those whose singular
value is above (√p + √d)/√n, the largest that a regression of noise alone would show, with p features, d coordinates and
n pairs (Marchenko & Pastur 1967). Along the others z stays white noise, which the reference process keeps, and
:class:`csb.networks.base.MLP` leaves them alone.
"""

import copy
import math
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from csb.errors import CSBError
from csb.problems.rows import Rows, pool
from csb.problems.scale import quantiles
from csb.problems.spectral import Spectral, cross_spectrum, filtered, log_det_of, root_of, unit_root, whitened
from csb.problems.start import FLOOR, STARTS, Start
from csb.problems.transform import TRANSFORMS, Transform
from csb.process import expand
from csb.schema import Described, checked

MOST = 4096  # numbers of a state with a full covariance, and of a condition
_MANY, _KNOTS = 64, 8  # numbers of a condition up to which each has knots; how many
_EDGES = (0.02, 0.98)  # quantiles between which they lie
_RIDGES = (0.0, *(10.0**e for e in range(-7, 1)))  # λ per pair, in units of a feature's variance
_MOST_LEVERAGE = 0.9


def with_start(inner: Transform, start: str) -> Transform:
    """The transform with a start of :data:`STARTS`, still to be fitted; itself for "gaussian"."""
    if start == STARTS[0]:
        return inner
    knots = _KNOTS if math.prod(inner.c_shape) <= _MANY else 0
    found = (
        Spectral(inner.spec())
        if start == "spectral"
        else Residual(inner.spec(), start != "residual", knots, turned=start == "informed")
    )
    found.inner.load_state_dict(inner.state_dict())  # of an operator it may hold the matrix
    return found


def _forget_inverse(of: "Residual", _: Any) -> None:
    """After another root was loaded."""
    of.inverse = None


@TRANSFORMS.register
class Residual(Start):
    """See the module's docstring.

    Args:
        of: spec of the transform of u and c.
        full: whether S is full; else it is one variance a coordinate of a vector, and stationary of an image.
        knots: along each coordinate of c.
        turned: whether the informed coordinates come first, in vectors; for S full.
    """

    name = "residual"
    bias: Tensor
    weight: Tensor  # (features, coordinates of u)
    places: Tensor  # κ, (knots, coordinates of c)
    root: Tensor  # S^{1/2}, turned by V; or the standard deviations; or of an image as :func:`root_of` gives it
    inverse: Tensor | None  # of the root, where it is full and was needed
    leverage: Tensor
    centre: Tensor
    fitted: Tensor  # a root of Cov(m(c)), (coordinates of u, features)

    @checked
    def __init__(
        self, of: Described, full: bool, knots: Annotated[int, Field(ge=0, le=_KNOTS)] = 0, turned: bool = False
    ) -> None:
        super().__init__(of)
        self.full, self.knots, self.turned, inner = full, knots, turned, self.inner
        d, m = math.prod(self.z_shape), math.prod(self.c_shape)
        if max(d if full else 0, m) > MOST or inner.has_rows or inner.parts:
            raise CSBError(
                f"start=residual needs y of one vector or image, start=residual_full also states, of at most {MOST} "
                f"numbers, not x {inner.x_shape} and y {inner.parts or inner.y_shape}; choose start=gaussian"
            )
        self.is_image = not full and len(self.z_shape) == 3
        root = torch.eye(d) if full else unit_root(self.z_shape) if self.is_image else torch.ones(d)
        shapes = {"bias": (d,), "weight": (m * (1 + knots), d), "places": (knots, m)}
        for key, value in {**{k: torch.zeros(v) for k, v in shapes.items()}, "root": root}.items():
            self.register_buffer(key, value.float())
        self.register_buffer("inverse", None, persistent=False)
        self.register_load_state_dict_post_hook(_forget_inverse)
        self.register_buffer("leverage", None, persistent=False)  # L, with h = 1/n + |L (φ − their mean)|²
        self.register_buffer("centre", None, persistent=False)
        self.register_buffer("fitted", None, persistent=False)
        if turned:
            self.z_shape = (d,)
        self.count = 0  # n, of the regression's pairs
        self.is_left_out = False  # whether pairs to encode are those

    def fit(self, rows: Rows) -> Self:
        """In two passes over the rows' blocks. CSBError for observations with gaps, and for too few pairs."""
        self._fit_inner(rows)
        d = len(self.bias)
        if self.full and len(rows) < 2 * d:
            raise CSBError(
                f"start=residual_full needs two pairs for each of {d} numbers of a state, not {len(rows)} in all; give "
                f"more pairs, or choose start=residual"
            )
        if self.knots:
            c = self.encode_y(rows.head(pool(rows.x_shape, rows.y_shape)).y).flatten(1).double()
            levels = tuple(torch.linspace(*_EDGES, self.knots, dtype=torch.float64).tolist())
            self.places.copy_(torch.stack([quantiles(column, levels) for column in c.T], 1))
        self._regress(rows)
        left_out, square = self.left_out(), torch.zeros((), dtype=torch.float64)
        for x, y, _ in rows.blocks():
            r = left_out._residual(self.inner.encode_x(x, y), self.encode_y(y))
            if self.is_image:
                square = square + cross_spectrum(r)
                continue
            r = r.flatten(1)
            square = square + ((r.T @ r).double() if self.full else r.double().square().sum(0))
        self.root.copy_(self._turned(square / len(rows), len(rows)) if self.turned else self._root(square / len(rows)))
        self.inverse = None
        return self

    def _turned(self, cov: Tensor, n: int) -> Tensor:
        """A root of S that turns the states; sets how many of their coordinates are informed, by n pairs.

        Of S = L Lᵀ it is L V: V the left singular vectors of L⁻¹ Cov(m(c))^{1/2}.
        """
        d, told = self.fitted.shape
        L = torch.linalg.cholesky(cov + FLOOR * cov.diagonal().mean() * torch.eye(d, dtype=cov.dtype))
        told_of = torch.linalg.solve_triangular(L, self.fitted, upper=False)
        V, size, _ = torch.linalg.svd(told_of if told <= d else torch.linalg.qr(told_of.T)[1].T)
        noise = (math.sqrt(told) + math.sqrt(d)) / math.sqrt(n)
        self.informed = max(1, int((size > noise).sum()))
        return L @ V

    def _regress(self, rows: Rows) -> None:
        """Set m by the ridge of least generalised cross-validation error, over all coordinates of u together."""
        p, d, n = len(self.weight), len(self.bias), len(rows)
        sums, gram = torch.zeros(p + d, dtype=torch.float64), torch.zeros(p, p, dtype=torch.float64)
        cross, power = torch.zeros(p, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
        for x, y, _ in rows.blocks():
            f, u = self._features(self.encode_y(y)), self.inner.encode_x(x, y).flatten(1)
            sums += torch.cat([f, u], 1).double().sum(0)
            gram += (f.T @ f).double()
            cross += (f.T @ u).double()
            power += u.double().square().sum(0)
        centre, mean = (sums / n).split([p, d])
        gram, cross = gram / n - torch.outer(centre, centre), cross / n - torch.outer(centre, mean)
        left = float((power / n - mean**2).sum())
        sizes = {p // (1 + self.knots), p}  # without knots, and with them
        fits = [self._ridge(gram[:m, :m], cross[:m], left, n) for m in sizes]
        _, weight, root = min(fits, key=lambda fit: fit[0])
        self.weight.zero_()[: len(weight)] = weight
        self.bias.copy_(mean - centre[: len(weight)] @ weight)
        e, V = torch.linalg.eigh(gram[: len(weight), : len(weight)])
        self.fitted = weight.T @ (V * e.clamp_min(0).sqrt())
        self.leverage, self.centre, self.count = root.float(), centre[: len(weight)].float(), n

    @staticmethod
    def _ridge(gram: Tensor, cross: Tensor, left: float, n: int) -> tuple[float, Tensor, Tensor]:
        """The least generalised cross-validation error, the weight with it, and L of the leverage.

        Args:
            gram, cross: covariances of the features (m, m), and with the coordinates of u (m, d), float64.
            left: the sum of the variances of u.
            n: pairs that they are taken of.
        """
        scale = gram.diagonal().clamp_min(FLOOR).sqrt()
        e, V = torch.linalg.eigh(gram / scale / scale[:, None])
        e, along = e.clamp_min(FLOOR * 1e-3), V.T @ (cross / scale[:, None])
        square = along.square().sum(1)

        def error(ridge: float) -> float:
            used = 1 + float((e / (e + ridge)).sum())
            rest = left - float((e + 2 * ridge) / (e + ridge) ** 2 @ square)
            return rest / (1 - used / n) ** 2 if used < n else math.inf

        ridge = min(_RIDGES, key=error)
        weight = V @ (along / (e + ridge)[:, None]) / scale[:, None]
        return error(ridge), weight, (V / (scale[:, None] * (n * (e + ridge)).sqrt())).T

    def _root(self, cov: Tensor) -> Tensor:
        """S^{1/2} of S (d, d); of an image's spectrum; or standard deviations of variances (d,)."""
        if self.is_image:
            return root_of(cov)
        if not self.full:
            return cov.clamp_min(FLOOR * cov.mean()).sqrt()
        e, V = torch.linalg.eigh(cov)
        return (V * e.clamp_min(FLOOR * e.mean()).sqrt()) @ V.T

    def left_out(self) -> Self:
        own = copy.copy(self)
        own.is_left_out = True
        return own

    def _features(self, c: Tensor) -> Tensor:
        """φ(c), (B, features)."""
        c = c.flatten(1)
        return torch.cat([c, (c[:, None] - self.places).clamp_min(0).flatten(1)], 1) if self.knots else c

    def _mean(self, c: Tensor) -> Tensor:
        return (self.bias + self._features(c) @ self.weight).unflatten(1, self.inner.z_shape)

    def _residual(self, u: Tensor, c: Tensor) -> Tensor:
        """u − m(c); of the regression's own pairs as if it had been fitted without them."""
        r = super()._residual(u, c)
        if not self.is_left_out:
            return r
        away = self._features(c)[:, : len(self.centre)] - self.centre
        h = 1 / self.count + (away @ self.leverage.T).square().sum(1)
        return r / expand(1 - h.clamp(max=_MOST_LEVERAGE), r)

    def _coloured(self, z: Tensor) -> Tensor:
        if self.is_image:
            return filtered(self.root, z)
        flat = z.flatten(1)
        return (flat @ self.root.T if self.full else flat * self.root).unflatten(1, self.inner.z_shape)

    def _white(self, r: Tensor) -> Tensor:
        if self.is_image:
            return whitened(self.root, r)
        flat = r.flatten(1)
        if not self.full:
            return (flat / self.root).unflatten(1, self.z_shape)
        if (inverse := self.inverse) is None:  # of thousands of numbers it takes seconds
            self.inverse = inverse = torch.linalg.inv(self.root.double()).to(self.root)
        return (flat @ inverse.T).unflatten(1, self.z_shape)

    def _log_det(self) -> Tensor:
        if self.is_image:
            return log_det_of(self.root, self.inner.z_shape[-1])
        root = self.root.double()
        return torch.linalg.slogdet(root)[1] if self.full else root.log().sum()
