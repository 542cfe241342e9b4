r"""What the guided samplers of linear problems share: y in z's units, and steps from a guess of E[z_0 | z_k, y].

In z = (x − shift)/scale an observation y = A x + σε is c = A z_0 + (σ/scale) ε with c = (y − A shift)/scale. Whatever
stands for p(y | z_k), its gradient turns the denoiser's x̂_0 into that of the posterior, by Tweedie's formula for the
marginals of p(z_0 | y):

    E[z_0 | z_k, y] = x̂_0 + (1−ᾱ_k)/√ᾱ_k ∇_{z_k} log p(y | z_k),

and where z_0 | z_k is a Gaussian of covariance C it is (C = (1−ᾱ)/√ᾱ ∇x̂_0, the covariance by Tweedie's second formula)
x̂_0 + C A*(A C A* + σ² I)⁻¹(c − A x̂_0): the methods differ in what they take for C. The step is DDIM's of
:mod:`csb.process.reference`, with the posterior's guess in the place of the prior's; η = 1 is the ancestral one.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems import SVD, LinearProblem
from csb.process import ddim, mix
from csb.samplers.base import Fresh, Rounds, noised
from csb.samplers.diffusion import DiffusionSampler
from csb.schema import Share

ROUNDING = 10 * torch.finfo(torch.float32).eps  # of the largest s: y and the states are float32
_FULL = 16  # numbers of y up to which TMPD's auto makes the matrix
Spread = Callable[[Tensor], Tensor]  # C A* v in z's units for v (N, *y_shape)


class LinearSampler(DiffusionSampler):
    """A sampler for y = A x + σε; see the module's docstring. CSBError for another problem.

    Attributes:
        operator: A.
        std: σ in z's units, ≥ 0.
        svd: that of A, of a method that ``needs_svd``. Where y has no noise, of what float32 tells from rounding alone:
            errors are divided by s there.
    """

    needs_svd: ClassVar[bool] = False
    svd: SVD

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        if not isinstance(self.problem, LinearProblem):
            raise CSBError(f"{self.problem.name} is not linear; {self.label} needs y = A x + noise")
        self.operator, self.std = self.problem.operator, self.problem.noise_std / self.denoiser.scale
        if self.needs_svd:
            self.svd = self.operator.svd if self.std > 0 else self.operator.svd.above(ROUNDING)

    def observed(self, y: Tensor) -> Tensor:
        """c (B, *y_shape)."""
        return (y - self.operator(self.denoiser.shift[None])) / self.denoiser.scale


class DDRM(LinearSampler):
    r"""Denoising diffusion restoration models (Kawar, Elad, Ermon & Song 2022, eq. 7 and 8).

    In the states u = z/√ᾱ, levels σ_k = √((1−ᾱ_k)/ᾱ_k) and the axes of A = U diag(s) V*, a number ū_i of V*u is seen
    with the noise τ_i = σ/s_i at ȳ_i = (U*c)_i/s_i. From x̄_i = (V*x̂_0(z_{k+1}))_i and independent ε

    - unseen          ū_i = x̄_i + √(1−η²) σ_k (ū_{k+1,i} − x̄_i)/σ_{k+1} + η σ_k ε
    - τ_i > σ_k       ū_i = x̄_i + √(1−η²) σ_k (ȳ_i − x̄_i)/τ_i + η σ_k ε
    - τ_i ≤ σ_k       ū_i = (1−η_b) x̄_i + η_b ȳ_i + √(σ_k² − η_b² τ_i²) ε

    and at the start ū_T = ȳ + √(σ_T² − τ²) ε where it is seen well enough, N(0, σ_T²) elsewhere. No gradient is needed.
    At k = 0 what is left is x̄, or ȳ for σ = 0.

    Each law keeps N(x_0, σ_k²) as the marginal *over y*; given y it is no posterior. For σ = 0, η_b = 1 and η = 0 it is
    exact (T → ∞) where seen coordinates say nothing of the others. η > 0 draws a share of the noise again around the
    point x̂_0 at every step, however small (DDIM's η goes with the size of the step), and loses the variance of z_0 |
    z_k there: of a Gaussian prior's, (1 + √(1−η²))/2 is left in the unseen coordinates as T → ∞. With noise every step
    below τ starts again from ȳ and x̄: the more steps, the nearer the mean comes to ȳ for η < 1, and to the prior's for
    η = 1. For a prior N(0, 1) ȳ is τ² off: little where the signal is large against the noise.
    """

    name = "ddrm"
    label = "DDRM"
    swept = ("eta", "η")
    needs_svd = True
    eta: Share = 0.85
    """η: fresh noise of the coordinates that are not seen, or worse than the level."""
    eta_b: Share = 1.0
    """η_b: weight of y in those that are seen better than the level."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.sigma, self.root = self.grid.noise_ratio.tolist(), self.grid.alpha_bar.sqrt().tolist()

    def observed(self, y: Tensor) -> Tensor:
        """U*c (B, r)."""
        return self.svd.ut(super().observed(y))

    def _noise(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """s and τ = σ/s, (r,), in the dtype of ``like``."""
        s = self.svd.values
        return s.to(like), (self.std / s).to(like)

    def start(self, y: Tensor, fresh: Fresh) -> Tensor:
        (s, tau), sigma, noise = self._noise(y), self.sigma[-1], fresh()
        e = self.svd.vt(noise)
        well = y / s + (sigma**2 - tau**2).clamp_min(0).sqrt() * e
        return sigma * noise + self.svd.v(torch.where(tau <= sigma, well, sigma * e) - sigma * e)

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        z_0 = self.denoise(self.root[k] * z, k)
        noise = fresh() if k > 1 else torch.zeros_like(z)
        kept = math.sqrt(1 - self.eta**2) * self.sigma[k - 1]
        rest = z_0 + kept / self.sigma[k] * (z - z_0) + self.eta * self.sigma[k - 1] * noise
        return rest + self.svd.v(self._seen(y, z_0, noise, self.sigma[k - 1], kept) - self.svd.vt(rest))

    def _seen(self, seen: Tensor, z_0: Tensor, noise: Tensor, sigma: float, kept: float) -> Tensor:
        """ū_k of the coordinates that A sees, (N, r); ``kept`` is √(1−η²) σ_k."""
        (s, tau), guess, e = self._noise(seen), self.svd.vt(z_0), self.svd.vt(noise)
        well = (1 - self.eta_b) * guess + self.eta_b * seen / s
        well = well + (sigma**2 - (self.eta_b * tau) ** 2).clamp_min(0).sqrt() * e
        if self.std == 0:
            return well
        poorly = guess + kept * (seen - s * guess) / self.std + self.eta * sigma * e
        return torch.where(tau <= sigma, well, poorly)


class MomentSampler(LinearSampler):
    """A linear sampler that takes z_0 | z_k for a Gaussian, by the Jacobian of the denoiser."""

    guided = True
    eta: Share = 1.0
    """η of DDIM's step; 1 is the ancestral step."""

    @abstractmethod
    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        """E[z_0 | z_k, y] − x̂_0, (N, *x_shape), from c − A x̂_0; ``spread`` is called once a backward pass of a step."""

    def posterior_mean(self, z: Tensor, k: int, c: Tensor) -> Tensor:
        """E[z_0 | z_k, y] for states z (N, *x_shape), c (N, *y_shape), ``batch_size`` states a network call."""
        alpha_bar = self.grid.alpha_bar[k]
        ratio, size = float((1 - alpha_bar) / alpha_bar.sqrt()), self.batch_size
        parts = []
        for z_part, c_part in zip(z.split(size), c.split(size)):
            at, z_0 = self.tracked(z_part, k)

            def spread(v: Tensor, z_0: Tensor = z_0, at: Tensor = at) -> Tensor:
                (found,) = torch.autograd.grad(z_0, at, self.operator.adjoint(v), retain_graph=True)
                return ratio * found

            guess = z_0.detach()
            parts.append(guess + self.correction(c_part - self.operator(guess), spread, float(alpha_bar)))
        return torch.cat(parts)

    def move(self, z: Tensor, k: int, y: Tensor, fresh: Fresh) -> Tensor:
        law = ddim(self.grid, k, self.eta)
        return noised(mix(law, z, self.posterior_mean(z, k, y)), law.var, fresh)


class PiGDM(MomentSampler):
    r"""Pseudoinverse guidance (Song, Vahdat, Mardani & Kautz 2023, ICLR, eq. 7 and 8).

    z_0 | z_k is taken for N(x̂_0, r_k² I), so that p(y | z_k) = N(c; A x̂_0, r_k² A A* + σ² I), whose gradient is a
    vector–Jacobian product through the denoiser,

        ∇ log p(y | z_k) = r_k⁻² (∇x̂_0)* A*(A A* + σ²/r_k² I)⁻¹(c − A x̂_0),

    with A*(A A* + λI)⁻¹ = A* U diag(1/(s² + λ)) U*, which for σ = 0 is the pseudoinverse. With v the variance of a
    coordinate of z over the data r_k² = v(1−ᾱ_k)/(1−ᾱ_k + ᾱ_k v): for v = 1 the paper's 1−ᾱ_k, else that of the data's
    own scale. For a prior N(m, v I) of z it is exact. Where the prior varies less than v, y is followed too little, for
    C A* is divided by a variance that is too large; where it varies more, too much.

    The step is DDIM's with E[z_0 | z_k, y] by Tweedie's formula. The paper's algorithm 1 leaves the noise ε̂ unguided
    and adds √ᾱ_k r_k² times the gradient, whatever the size of the step: the more steps, the more that adds up to, so
    that it tends to no posterior as T → ∞.
    """

    name = "pigdm"
    label = "ΠGDM"
    swept = ("eta", "η")
    needs_svd = True

    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        s, r = self.svd.values.to(residual.device), self.likelihood.remaining(alpha_bar)
        weight = (1 / (r * s**2 + self.std**2)).to(residual.dtype)
        return spread(self.svd.u(weight * self.svd.ut(residual)))


class TMPD(MomentSampler):
    r"""Tweedie moment projected diffusions (Boys, Girolami, Pidstrigach, Reich, Mosca & Akyildiz 2023, eq. 9–12).

    z_0 | z_k is taken for the Gaussian of its own first two moments, x̂_0 and C = (1−ᾱ_k)/√ᾱ_k ∇x̂_0 (Tweedie's second
    formula), so that p(y | z_k) = N(c; A x̂_0, A C A* + σ² I) and, with C held fixed in the gradient,

        E[z_0 | z_k, y] = x̂_0 + C A*(A C A* + σ² I)⁻¹(c − A x̂_0).

    For a Gaussian prior, of any covariance, that is exact. ``full`` makes the matrix A C A*, one vector–Jacobian
    product a number of y; ``diagonal`` is the paper's for images: the row sums A C A* 1 stand on a diagonal for the
    matrix, two products in all. That is exact where A C A* is diagonal; elsewhere numbers of y that vary together count
    for so much less. A row sum below 0, where a number of y varies against the others, is taken for 0, which bounds
    nothing: where σ = 0 the likelihood's floor stands for it.
    """

    name = "tmpd"
    label = "TMPD"
    solver: Literal["auto", "full", "diagonal"] = "auto"
    """Full or diagonal, see above; auto: full for up to 16 numbers of y."""

    @property
    def full(self) -> bool:
        """Whether the matrix is made."""
        return self.solver == "full" or (self.solver == "auto" and math.prod(self.y_shape) <= _FULL)

    @property
    def step_passes(self) -> tuple[int, int]:
        return 1, math.prod(self.y_shape) if self.full else 2

    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        if not self.full:
            rows = self.operator(spread(torch.ones_like(residual))).clamp_min(0)
            return spread(residual / (rows + max(self.std, self.likelihood.floor / self.denoiser.scale) ** 2))
        var = (self.likelihood.positive_std / self.denoiser.scale) ** 2
        eye = torch.eye(math.prod(self.y_shape), dtype=residual.dtype, device=residual.device)
        columns = [spread(e.unflatten(0, self.y_shape).expand_as(residual)) for e in eye]
        matrix = torch.stack([self.operator(column).flatten(1) for column in columns], dim=2)
        weights = torch.linalg.solve_ex(matrix.double() + var * eye.double(), residual.flatten(1).double()).result
        return torch.einsum("jn...,nj->n...", torch.stack(columns), weights.to(residual.dtype))


class MMPS(MomentSampler):
    r"""Moment matching posterior sampling (Rozet, Andry, Lanusse & Louppe 2024, algorithm 2 and eq. 15–17).

    The model is TMPD's, p(y | z_k) = N(c; A x̂_0, A C A* + σ² I) with C = (1−ᾱ_k)/√ᾱ_k ∇x̂_0,
    and (A C A* + σ² I) w = c − A x̂_0 is solved by conjugate gradients (Hestenes & Stiefel 1952), each iteration one
    vector–Jacobian product: no matrix is made, and a few iterations do for images. w is a sum of directions p_i that
    have been multiplied already, so that C A* w is the same sum of the C A* p_i: no product follows the last iteration.
    As many iterations as there are numbers in y solve it exactly; fewer minimise the error in the norm of the matrix
    over the directions tried, and follow y least where the matrix is small.

    A trained denoiser's Jacobian is neither symmetric nor positive: a direction of no positive curvature ends the
    iteration of its sample.
    """

    name = "mmps"
    label = "MMPS"
    iterations: Rounds = 3
    """Of the conjugate gradients."""

    @property
    def step_passes(self) -> tuple[int, int]:
        return 1, self.iterations

    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        var, r, p = (self.likelihood.positive_std / self.denoiser.scale) ** 2, residual, residual
        square, total = _inner(r, r), None
        for _ in range(self.iterations):
            spread_p = spread(p)
            image = self.operator(spread_p) + var * p
            length = _ratio(square, _inner(p, image), p)
            total = length * spread_p if total is None else total + length * spread_p
            r = r - length * image
            square, before = _inner(r, r), square
            p = torch.where(length > 0, r + _ratio(square, before, p) * p, 0)
        assert total is not None
        return total


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each sample, (N,), float64."""
    return (a.double() * b.double()).flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """a/b (N,), ready to multiply ``like`` (N, …); 0 where b is not above 0, NaN where it is NaN."""
    found = torch.where(b <= 0, 0, a / torch.where(b <= 0, 1, b))
    return found.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
