import torch
from torch import Tensor

from csb.process import expand
from csb.samplers.base import Rounds
from csb.samplers.diffusion import MomentSampler, Spread


class MMPS(MomentSampler):
    r"""Moment matching posterior sampling (Rozet, Andry, Lanusse & Louppe 2024, algorithm 2 and eq. 15–17).

    The model is TMPD's, p(y | z_k) = N(c; A x̂_0, A C A* + σ² I) with C = (1−ᾱ_k)/√ᾱ_k ∇x̂_0, and (A C A* + σ² I) w =
    c − A x̂_0 is solved by conjugate gradients (Hestenes & Stiefel 1952), an iteration one vector–Jacobian product. w is
    a sum of directions that have been multiplied already, so that no product follows for C A* w. As many iterations as
    there are numbers in y solve it exactly; fewer follow y least where the matrix is small.

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
            length = _ratio(square, _inner(p, image))
            part = expand(length, spread_p) * spread_p  # of x, which may be an image where y is a vector
            total = part if total is None else total + part
            r = r - expand(length, image) * image
            square, before = _inner(r, r), square
            p = torch.where(expand(length, r) > 0, r + expand(_ratio(square, before), p) * p, 0)
        assert total is not None
        return total


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each sample, (N,), float64."""
    return (a.double() * b.double()).flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b (N,); 0 where b is not above 0, NaN where it is NaN."""
    return torch.where(b <= 0, 0, a / torch.where(b <= 0, 1, b))
