"""Trained half-steps against the exact recursion of their objective, on linear-Gaussian problems."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from csb.bridge import Bridge, Direction, Kernel
from csb.errors import CSBError
from csb.problems.gaussian_ipf import AffineKernel, HalfStep, exact_ipf, reference_kernels
from csb.problems.gaussians import LinearGaussian
from csb.process import Grid, Stream, psd_cholesky, seeded

_STATES = 20_000


def _path(start: Tensor, y: Tensor, kernels: Sequence[AffineKernel], generator: torch.Generator) -> list[Tensor]:
    """States (N, d) of a path through exact kernels, the start included."""
    states = [start]
    for kernel in kernels:
        noise = torch.randn(start.shape, dtype=start.dtype, generator=generator)
        states.append(kernel.mean(states[-1], y) + noise @ psd_cholesky(kernel.S).T)
    return states


def _exact(problem: LinearGaussian, grid: Grid, iterations: int, recursion: str) -> list[HalfStep]:
    return exact_ipf(grid, problem.G, torch.zeros(problem.dx, dtype=torch.float64), problem.C, iterations, recursion)


@torch.no_grad()
def _errors(kernel: Kernel, exact: Sequence[AffineKernel], states: list[Tensor], y: Tensor) -> dict[str, float]:
    """Relative errors over all steps; ``states`` are those at which step 1..T starts."""
    device = kernel.table.device
    context = kernel.encode(y.float().to(device))
    wrong, size, move, spread = 0.0, 0.0, 0.0, []
    for k, (law, x) in enumerate(zip(exact, states), start=1):
        ours, right = kernel(x.float().to(device), torch.tensor([k], device=device), context), law.mean(x, y)
        wrong += float(((ours.mean.cpu() - right) ** 2).mean())
        size += float((right**2).mean())
        move += float(((right - x) ** 2).mean())
        spread.append(float((ours.covariance().double().mean(0).cpu() - law.S).norm() / law.S.norm()))
    errors = {"mean_map": (wrong / size) ** 0.5, "displacement": (wrong / move) ** 0.5}
    return errors | ({"covariance": sum(spread) / len(spread)} if kernel.covariance != "fixed" else {})


def half_step_table(
    problem: LinearGaussian, half_steps: Sequence[tuple[str, Bridge]], recursion: str, seed: int = 0
) -> list[dict[str, Any]]:
    """One row a trained half-step, compared with the exact one over the states of the exact path that comes before it.

    - mean_map: RMS error of the kernel means over all steps, relative to the RMS of the exact means.
    - displacement: the same error relative to the RMS of exact mean − state: a harder measure.
    - covariance: relative error of the kernels' covariances (Frobenius), mean over steps, where they are learned.

    Args:
        problem: gives the exact posterior.
        half_steps: (name, bridge as it was at the end of the half-step), in order, from the first one.
        recursion: the objective whose exact half-steps it is compared with, see :func:`exact_ipf`.
        seed: of the states.
    """
    grid = half_steps[0][1].grid
    d, m = problem.dx, problem.dy
    exact = _exact(problem, grid, (len(half_steps) + 1) // 2, recursion)
    y = problem.pairs("test", _STATES).y.double()
    factor, path, rows = psd_cholesky(problem.C), reference_kernels(grid, d, m), []
    for index, (name, bridge) in enumerate(half_steps):
        generator = seeded(seed, Stream.EXACT_KERNELS, index)
        noise = torch.randn(len(y), d, dtype=torch.float64, generator=generator)
        backward = exact[index].direction == "backward"
        start = y @ problem.G.T + noise @ factor.T if backward else noise
        states = _path(start, y, path if backward else path[::-1], generator)
        # Step k starts at x_k backward and at x_{k−1} forward; the backward path that F is fitted to runs from x_T.
        at = states[1:] if backward else states[:0:-1]
        direction: Direction = "backward" if backward else "forward"
        rows.append({"half_step": name, **_errors(bridge.kernel(direction), exact[index].kernels, at, y)})
        path = list(exact[index].kernels)
    return rows


def recursion_table(problem: LinearGaussian, schedule, iterations: int, Ts: Sequence[int]) -> list[dict[str, Any]]:
    """Where the exact recursions end: relative errors of posterior mean map and covariance, by objective and T.

    A property of the objectives, not of any training: mean matching with fixed variance keeps an error that falls as T
    grows, the likelihood none. Numbers of steps that the schedule does not admit are left out.
    """
    rows = []
    for objective in ("likelihood", "likelihood_diagonal", "mean_matching", "bridge_matching"):
        for T in Ts:
            try:
                grid = Grid.from_schedule(schedule, T)
            except CSBError:  # too flat at its start for so many steps
                continue
            steps = _exact(problem, grid, iterations, objective)
            end = [step for step in steps if step.direction == "backward"][-1].end
            errors = {
                "mean_error": float((end.U - problem.G).norm() / problem.G.norm()),
                "cov_error": float((end.P - problem.C).norm() / problem.C.norm()),
                "variance_ratio": float((end.P.diagonal() / problem.C.diagonal()).mean()),
            }
            rows.append({"objective": objective, "T": T, **errors})
    return rows
