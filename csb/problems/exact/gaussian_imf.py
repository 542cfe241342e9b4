r"""Bridge matching in closed form where p(x_0 | y) is Gaussian with a mean affine in y, and its fixed point.

A half-step (see :mod:`csb.bridge.objectives`) starts from the coupling of (x_0, x_T) given y that the
other direction's kernels give: Gaussian, with e = (x_0, x_T), mean U y + u and covariance P. The pinned reference adds
x = H e + √v ε and the target t = a x + b E e + √w ε', where E picks x_0 (backward) or x_T (forward). The Markovian
projection is the regression of t on (x, y): with X = Cov(x) = H P Hᵀ + v I and Y = Cov(t, x) = a X + b E P Hᵀ,

t | x, y ~ N(Y X⁻¹ x + …, Cov(t) − Y X⁻¹ Yᵀ).

The fixed point is the static Schrödinger bridge between p(x_0 | y) and N(0, I) with the reference's law of
x_T | x_0 ~ N(√ᾱ_T x_0, (1−ᾱ_T) I): entropic transport of √ᾱ_T x_0, σ² = 1 − ᾱ_T. For covariances A = ᾱ_T C and I its
coupling has Cov(√ᾱ_T x_0, x_T) = ½[(4A + σ⁴ I)^½ − σ² I] (Bunne, Hsieh, Cuturi & Krause 2023, eq. 5, with B = I).
"""

import torch
from torch import Tensor

from csb.problems.exact.gaussian_ipf import AffineGaussian, AffineKernel, HalfStep, alternate
from csb.process import Grid, Reference, psd_solve


def compose(path: list[AffineKernel]) -> AffineKernel:
    """The kernel from the start of a path to its end."""
    whole = path[0]
    for kernel in path[1:]:
        whole = AffineKernel(
            kernel.M @ whole.M,
            kernel.M @ whole.N + kernel.N,
            kernel.M @ whole.c + kernel.c,
            kernel.M @ whole.S @ kernel.M.T + kernel.S,
        )
    return whole


def coupling(start: AffineGaussian, kernel: AffineKernel, start_first: bool) -> AffineGaussian:
    """The law of (start, end), or with ``start_first`` false of (end, start), stacked, given y."""
    end, cross = kernel.push(start), kernel.M @ start.P  # Cov(end, start)
    one, two, corner = (start, end, cross.T) if start_first else (end, start, cross)
    P = torch.cat([torch.cat([one.P, corner], 1), torch.cat([corner.T, two.P], 1)])
    return AffineGaussian(torch.cat([one.U, two.U]), torch.cat([one.u, two.u]), P)


def _projected(ends: AffineGaussian, reference: Reference, k: int, backward: bool) -> AffineKernel:
    """The kernel of step k."""
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


def exact_imf(grid: Grid, G: Tensor, g: Tensor, C: Tensor, iterations: int) -> list[HalfStep]:
    """The exact half-steps of bridge matching: backward, forward, …; arguments as those of ``exact_ipf``."""
    reference = Reference(grid)

    def fit(start: AffineGaussian, path: list[AffineKernel], backward: bool) -> list[AffineKernel]:
        ends = coupling(start, compose(path), backward)
        numbers = range(1, grid.T + 1) if backward else range(grid.T, 0, -1)
        return [_projected(ends, reference, k, backward) for k in numbers]

    return alternate(grid, G, g, C, iterations, fit)


def static_bridge(alpha_bar_end: float, G: Tensor, g: Tensor, C: Tensor) -> AffineGaussian:
    """The law of (x_0, x_T) given y of the Schrödinger bridge between N(G y + g, C) and N(0, I), float64."""
    signal, var = alpha_bar_end**0.5, 1 - alpha_bar_end
    values, vectors = torch.linalg.eigh(C.double())
    cross = (
        vectors @ torch.diag(((4 * alpha_bar_end * values.clamp_min(0) + var**2).sqrt() - var) / 2) @ vectors.T / signal
    )
    eye, zero = torch.eye(len(C), dtype=torch.float64), torch.zeros(len(C), dtype=torch.float64)
    P = torch.cat([torch.cat([C.double(), cross], 1), torch.cat([cross.T, eye], 1)])
    return AffineGaussian(torch.cat([G.double(), torch.zeros_like(G.double())]), torch.cat([g.double(), zero]), P)
