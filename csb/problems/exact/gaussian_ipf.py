r"""The whole IPF recursion in closed form where p(x_0 | y) is Gaussian with a mean affine in y.

Every kernel is N(M x + N y + c, S) and every marginal N(U y + u, P). For a path law made of a starting marginal and
kernels along the path, the marginals follow by U' = M U + N, u' = M u + c, P' = M P Mᵀ + S, and the kernel that leads
back by conditioning, with J = P Mᵀ P'⁻¹: N(J x' + (U − J U') y + (u − J u'), P − J P' Jᵀ).

Half-step n reverses the path law π^n; π^{2n} starts from p(x_0 | y) and runs the forward kernels (n = 0: the reference
process), π^{2n+1} from x_T ~ N(0, I) and runs the backward ones. What "reverses" means is the objective:

- likelihood: the reversed kernel itself, the KL projection on Gaussian kernels; or with its covariance cut to the
  diagonal, the KL projection on kernels with diagonal covariance.
- mean matching (De Bortoli et al. 2021, eq. 12-13): the mean is the regression of x' + m(x) − m(x') on (x', y), where
  m is the mean of the path's own kernel, which gives (I − M) x' + M E[x | x', y]; the covariance is fixed at β_k I.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from csb.process import Grid, Reference, psd_solve


class AffineGaussian(NamedTuple):
    """x | y ~ N(U y + u, P): U (d, m), u (d,), P (d, d), float64."""

    U: Tensor
    u: Tensor
    P: Tensor


class AffineKernel(NamedTuple):
    """x' | x, y ~ N(M x + N y + c, S): M (d, d), N (d, m), c (d,), S (d, d), float64."""

    M: Tensor
    N: Tensor
    c: Tensor
    S: Tensor

    def push(self, law: AffineGaussian) -> AffineGaussian:
        """The law of x'."""
        return AffineGaussian(self.M @ law.U + self.N, self.M @ law.u + self.c, self.M @ law.P @ self.M.T + self.S)

    def mean(self, x: Tensor, y: Tensor) -> Tensor:
        """M x + N y + c for x (B, d) and y (B, m): (B, d), in x's dtype."""
        return x @ self.M.T.to(x) + y @ self.N.T.to(x) + self.c.to(x)


class HalfStep(NamedTuple):
    """One half-step of IPF.

    Attributes:
        direction: "backward" (x_k → x_{k−1}) or "forward" (x_{k−1} → x_k).
        kernels: (T), that of step k at index k − 1.
        end: the law that the half-step produces: of x_0, from x_T ~ N(0, I) (backward); of x_T, from p(x_0 | y)
            (forward).
    """

    direction: str
    kernels: tuple[AffineKernel, ...]
    end: AffineGaussian


def reverse(kernel: AffineKernel, law: AffineGaussian) -> AffineKernel:
    """The law of x given x' and y, where x ~ law and x' | x ~ kernel."""
    after = kernel.push(law)
    J = psd_solve(after.P, kernel.M @ law.P).T
    S = law.P - J @ after.P @ J.T
    return AffineKernel(J, law.U - J @ after.U, law.u - J @ after.u, (S + S.T) / 2)


Projection = Callable[[AffineKernel, AffineGaussian, float], AffineKernel]


def _likelihood(kernel: AffineKernel, law: AffineGaussian, beta: float) -> AffineKernel:
    return reverse(kernel, law)


def _likelihood_diagonal(kernel: AffineKernel, law: AffineGaussian, beta: float) -> AffineKernel:
    back = reverse(kernel, law)
    return back._replace(S=torch.diag(back.S.diagonal()))


def _mean_matching(kernel: AffineKernel, law: AffineGaussian, beta: float) -> AffineKernel:
    back, eye = reverse(kernel, law), torch.eye(len(law.u), dtype=torch.float64)
    return AffineKernel(eye - kernel.M + kernel.M @ back.M, kernel.M @ back.N, kernel.M @ back.c, beta * eye)


OBJECTIVES: dict[str, Projection] = {
    "likelihood": _likelihood,
    "likelihood_diagonal": _likelihood_diagonal,
    "mean_matching": _mean_matching,
}


def _run(start: AffineGaussian, path: list[AffineKernel]) -> AffineGaussian:
    """The law at the end of a path."""
    for kernel in path:
        start = kernel.push(start)
    return start


def reference_kernels(grid: Grid, d: int, m: int) -> list[AffineKernel]:
    """The forward kernels of π^0, k = 1..T: N(√(1−β_k) x, β_k I) in ℝ^d, without use of y in ℝ^m."""
    eye, reference = torch.eye(d, dtype=torch.float64), Reference(grid)
    laws = [reference.step(k) for k in range(1, grid.T + 1)]
    zero_N, zero_c = torch.zeros(d, m, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    return [AffineKernel(law.scale * eye, zero_N, zero_c, law.var * eye) for law in laws]


def exact_ipf(
    grid: Grid, G: Tensor, g: Tensor, C: Tensor, iterations: int, objective: str = "likelihood"
) -> list[HalfStep]:
    """The exact half-steps of IPF: backward, forward, backward, …, two an iteration.

    Args:
        grid: the steps.
        G, g, C: p(x_0 | y) = N(G y + g, C): (d, m), (d,) and (d, d), C positive semi-definite.
        iterations: L ≥ 1.
        objective: "likelihood" (full covariance), "likelihood_diagonal" or "mean_matching".

    Returns:
        2L half-steps.
    """
    project, betas = OBJECTIVES[objective], grid.beta[1:].tolist()

    def fit(start: AffineGaussian, path: list[AffineKernel], backward: bool) -> list[AffineKernel]:
        law, kernels = start, []
        for kernel, beta in zip(path, betas if backward else betas[::-1]):
            kernels.append(project(kernel, law, beta))
            law = kernel.push(law)
        return kernels

    return alternate(grid, G, g, C, iterations, fit)


Fit = Callable[[AffineGaussian, list[AffineKernel], bool], list[AffineKernel]]


def alternate(grid: Grid, G: Tensor, g: Tensor, C: Tensor, iterations: int, fit: Fit) -> list[HalfStep]:
    """Half-steps from the reference process on: backward, forward, …; arguments as of :func:`exact_ipf`.

    ``fit(start, path, backward)`` gives the kernels back along a path of kernels that starts at a law, in the path's
    order: a backward half-step's path starts at the data, a forward one's at N(0, I).
    """
    data = AffineGaussian(G.double(), g.double(), C.double())
    noise = AffineGaussian(torch.zeros_like(data.U), torch.zeros_like(data.u), torch.eye(len(g), dtype=torch.float64))
    forward, steps = reference_kernels(grid, len(g), G.shape[1]), []
    for _ in range(iterations):
        backward = fit(data, forward, True)
        steps.append(HalfStep("backward", tuple(backward), _run(noise, backward[::-1])))
        forward = fit(noise, backward[::-1], False)[::-1]
        steps.append(HalfStep("forward", tuple(forward), _run(data, forward)))
    return steps
