r"""The whole IPF recursion in closed form where p(x_0 | y) is Gaussian with a mean affine in y, and its fixed point.

Every kernel is N(M x + N y + c, S) and every marginal N(U y + u, P). For a path law made of a starting marginal and
kernels along the path, the marginals follow by U' = M U + N, u' = M u + c, P' = M P Mᵀ + S, and the kernel that leads
back by conditioning, with J = P Mᵀ P'⁻¹: N(J x' + (U − J U') y + (u − J u'), P − J P' Jᵀ).

Half-step n reverses the path law π^n; π^{2n} starts from p(x_0 | y) and runs the forward kernels (n = 0: the reference
process), π^{2n+1} from x_T ~ N(0, I) and runs the backward ones. What "reverses" means is the objective:

- likelihood: the reversed kernel itself, the KL projection on Gaussian kernels; or with its covariance cut to the
  diagonal, the KL projection on kernels with diagonal covariance.
- mean matching (De Bortoli et al. 2021, eq. 12-13): the mean is the regression of x' + m(x) − m(x') on (x', y), where
  m is the mean of the path's own kernel, which gives (I − M) x' + M E[x | x', y]; the covariance is fixed at β_k I.
- bridge matching (IMF, see :mod:`csb.bridge.objectives`) starts from the coupling of e = (x_0, x_T)
  given y that the path law gives: mean U y + u, covariance P. The pinned reference adds x = H e + √v ε and the target
  t = a x + b E e + √w ε', where E picks x_0 (backward) or x_T (forward). The Markovian projection is the regression of
  t on (x, y): with X = Cov(x) = H P Hᵀ + v I and Y = Cov(t, x) = a X + b E P Hᵀ,
  t | x, y ~ N(Y X⁻¹ x + …, Cov(t) − Y X⁻¹ Yᵀ).

The fixed point is the static Schrödinger bridge between p(x_0 | y) and N(0, I) with the reference's law of
x_T | x_0 ~ N(√ᾱ_T x_0, (1−ᾱ_T) I): entropic transport of √ᾱ_T x_0, σ² = 1 − ᾱ_T. For covariances A = ᾱ_T C and I its
coupling has Cov(√ᾱ_T x_0, x_T) = ½[(4A + σ⁴ I)^½ − σ² I] (Bunne, Hsieh, Cuturi & Krause 2023, eq. 5, with B = I).
"""

from collections.abc import Callable, Sequence
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
    """One half-step of IPF."""

    direction: str  # "backward" (x_k → x_{k−1}) or "forward" (x_{k−1} → x_k)
    kernels: tuple[AffineKernel, ...]  # (T), that of step k at index k − 1
    end: AffineGaussian  # of x_0, from x_T ~ N(0, I) (backward); of x_T, from p(x_0 | y) (forward)


def reverse(kernel: AffineKernel, law: AffineGaussian) -> AffineKernel:
    """The law of x given x' and y, where x ~ law and x' | x ~ kernel."""
    after = kernel.push(law)
    J = psd_solve(after.P, kernel.M @ law.P).T
    S = law.P - J @ after.P @ J.T
    return AffineKernel(J, law.U - J @ after.U, law.u - J @ after.u, (S + S.T) / 2)


def reference_kernels(grid: Grid, d: int, m: int) -> list[AffineKernel]:
    """The forward kernels of π^0, k = 1..T: N(√(1−β_k) x, β_k I) in ℝ^d, without use of y in ℝ^m."""
    eye, reference = torch.eye(d, dtype=torch.float64), Reference(grid)
    laws = [reference.step(k) for k in range(1, grid.T + 1)]
    zero_N, zero_c = torch.zeros(d, m, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    return [AffineKernel(law.scale * eye, zero_N, zero_c, law.var * eye) for law in laws]


def _end(start: AffineGaussian, path: list[AffineKernel]) -> AffineGaussian:
    for kernel in path:
        start = kernel.push(start)
    return start


def compose(path: Sequence[AffineKernel]) -> AffineKernel:
    """The kernel from the start of a path to its end."""
    whole = path[0]
    for kernel in path[1:]:
        rest = kernel.push(AffineGaussian(whole.N, whole.c, whole.S))
        whole = AffineKernel(kernel.M @ whole.M, *rest)
    return whole


def coupling(start: AffineGaussian, kernel: AffineKernel, start_first: bool) -> AffineGaussian:
    """The law of (start, end), or with ``start_first`` false of (end, start), stacked, given y."""
    end, cross = kernel.push(start), kernel.M @ start.P  # Cov(end, start)
    one, two, corner = (start, end, cross.T) if start_first else (end, start, cross)
    P = torch.cat([torch.cat([one.P, corner], 1), torch.cat([corner.T, two.P], 1)])
    return AffineGaussian(torch.cat([one.U, two.U]), torch.cat([one.u, two.u]), P)


def _projected(ends: AffineGaussian, reference: Reference, k: int, backward: bool) -> AffineKernel:
    d = len(ends.u) // 2
    eye, zero = torch.eye(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    both = reference.pinned_both(k if backward else k - 1)
    step = reference.pinned_start(k) if backward else reference.pinned_end(k)
    H = torch.cat([both.near * eye, both.far * eye], 1)
    E = torch.cat([eye, zero], 1) if backward else torch.cat([zero, eye], 1)
    A = step.near * H + step.far * E  # t = A e + a √v ε + √w ε'
    X = H @ ends.P @ H.T + both.var * eye
    Y = A @ ends.P @ H.T + step.near * both.var * eye
    whole = A @ ends.P @ A.T + (step.near**2 * both.var + step.var) * eye
    M = psd_solve(X, Y.T).T
    S = whole - M @ Y.T
    return AffineKernel(M, (A - M @ H) @ ends.U, (A - M @ H) @ ends.u, (S + S.T) / 2)


Fit = Callable[[Grid, AffineGaussian, list[AffineKernel], bool], list[AffineKernel]]


def _by_steps(project: Callable[[AffineKernel, AffineGaussian, float], AffineKernel]) -> Fit:
    """Each kernel of the path projected by itself, from its own law of x and its β_k."""

    def fit(grid: Grid, start: AffineGaussian, path: list[AffineKernel], backward: bool) -> list[AffineKernel]:
        betas, law, kernels = grid.beta[1:].tolist(), start, []
        for kernel, beta in zip(path, betas if backward else betas[::-1]):
            kernels.append(project(kernel, law, beta))
            law = kernel.push(law)
        return kernels

    return fit


def _diagonal(kernel: AffineKernel, law: AffineGaussian, beta: float) -> AffineKernel:
    back = reverse(kernel, law)
    return back._replace(S=torch.diag(back.S.diagonal()))


def _mean_matching(kernel: AffineKernel, law: AffineGaussian, beta: float) -> AffineKernel:
    back, eye = reverse(kernel, law), torch.eye(len(law.u), dtype=torch.float64)
    return AffineKernel(eye - kernel.M + kernel.M @ back.M, kernel.M @ back.N, kernel.M @ back.c, beta * eye)


def _bridge_matching(grid: Grid, start: AffineGaussian, path: list[AffineKernel], backward: bool) -> list[AffineKernel]:
    ends, reference = coupling(start, compose(path), backward), Reference(grid)
    numbers = range(1, grid.T + 1) if backward else range(grid.T, 0, -1)
    return [_projected(ends, reference, k, backward) for k in numbers]


# The kernels back along a path that starts at a law, in its order: a backward half-step's path starts at the data, a
# forward one's at N(0, I).
OBJECTIVES: dict[str, Fit] = {
    "likelihood": _by_steps(lambda kernel, law, beta: reverse(kernel, law)),
    "likelihood_diagonal": _by_steps(_diagonal),
    "mean_matching": _by_steps(_mean_matching),
    "bridge_matching": _bridge_matching,
}


def exact_ipf(
    grid: Grid, G: Tensor, g: Tensor, C: Tensor, iterations: int, objective: str = "likelihood"
) -> list[HalfStep]:
    """The exact 2L half-steps of IPF: backward, forward, backward, …, two an iteration.

    Args:
        grid: the steps.
        G, g, C: p(x_0 | y) = N(G y + g, C): (d, m), (d,) and (d, d), C positive semi-definite.
        iterations: L ≥ 1.
        objective: one of :data:`OBJECTIVES`; "likelihood" has full covariances.
    """
    fit, data = OBJECTIVES[objective], AffineGaussian(G.double(), g.double(), C.double())
    noise = AffineGaussian(torch.zeros_like(data.U), torch.zeros_like(data.u), torch.eye(len(g), dtype=torch.float64))
    forward, steps = reference_kernels(grid, len(g), G.shape[1]), []
    for _ in range(iterations):
        backward = fit(grid, data, forward, True)
        steps.append(HalfStep("backward", tuple(backward), _end(noise, backward[::-1])))
        forward = fit(grid, noise, backward[::-1], False)[::-1]
        steps.append(HalfStep("forward", tuple(forward), _end(data, forward)))
    return steps
