"""Students whose laws are known in closed form: those of the reciprocal process of an affine bridge."""

from typing import NamedTuple

import torch

from csb.bridge.student import StudentSpec, build_student
from csb.problems.gaussian_ipf import AffineGaussian, AffineKernel
from csb.process import Reference
from tests.conftest import make_exact_bridge


class ExactStudent(NamedTuple):
    """A student, its bridge, the law of x_0 given y, and q_k as affine kernels by level."""

    student: object
    bridge: object
    law: AffineGaussian
    jumps: dict[int, AffineKernel]


def ends(kernels):
    """x_T ↦ x_0 of backward kernels k = 1..T."""
    M, N, c, S = torch.eye(2).double(), torch.zeros(2, 2).double(), torch.zeros(2).double(), torch.zeros(2, 2).double()
    for kernel in reversed(kernels):
        M, N, c = kernel.M @ M, kernel.M @ N + kernel.N, kernel.M @ c + kernel.c
        S = kernel.M @ S @ kernel.M.T + kernel.S
    return AffineKernel(M, N, c, S)


def reciprocal_jump(whole, grid, k):
    """Π(x_0 | x_k, y) for end points x_T ~ N(0, I), x_0 | x_T ~ ``whole``."""
    near, far, var = (float(v) for v in Reference(grid).pinned_both(k))
    identity = torch.eye(2).double()
    law = AffineGaussian(whole.N, whole.c, whole.M @ whole.M.T + whole.S)
    to = near * whole.M + far * identity
    P = to @ to.T + near**2 * whole.S + var * identity
    J = (near * law.P + far * whole.M) @ torch.linalg.inv(P)
    return AffineKernel(J, law.U - near * J @ law.U, law.u - near * J @ law.u, law.P - J @ P @ J.T)


def exact_student(iterations=1, calls=(1, 2, 4), T=4):
    """Of the bridge after a few iterations, with T steps: far from the Schrödinger bridge after one."""
    exact = make_exact_bridge("full", iterations=iterations, T=T)
    whole = ends(exact.steps[-2].kernels)
    spec = StudentSpec(
        exact.spec.alpha_bar, exact.spec.transform, {"name": "affine", "steps": T}, "v", "full", list(calls),
        variance_floor=0.0,
    )  # fmt: skip
    student = build_student(spec)
    kernel, network, jumps = student.kernel, student.network, {}
    with torch.no_grad():
        for k in range(1, T + 1):
            jumps[k] = M, N, c, S = reciprocal_jump(whole, exact.grid, k)
            skip, gain = kernel.steps[1:3, k].double()
            network.weight[k] = torch.cat([M - skip * torch.eye(2), N], dim=1) / gain
            network.bias[k] = c / gain
            factor = torch.linalg.cholesky(S)
            rows = torch.linalg.inv(factor) * factor.diagonal()[:, None]
            width = 1 - exact.grid.alpha_bar[k]
            network.spread[k] = rows.tril(-1) + torch.diag((factor.diagonal() ** 2 / width).log())
    return ExactStudent(student, exact.bridge, AffineGaussian(whole.N, whole.c, whole.M @ whole.M.T + whole.S), jumps)
