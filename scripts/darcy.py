r"""Posterior samples of a log-permeability (problem=darcy) against long Markov chains: a table in Markdown.

Run from a checkout: python scripts/darcy.py reference, which writes docs/results/darcy_reference.npz, and then
python scripts/darcy.py score RUN [--figure FILE.png].

The chains are preconditioned Crank–Nicolson with a Gaussian reference (Rudolf & Sprungk 2018, "On a generalization of
the preconditioned Crank–Nicolson Metropolis algorithm"): with the posterior's normal approximation N(m, S), from the
Gauss–Newton mode m with Jacobian J there, S⁻¹ = C⁻¹ + JᵀJ/σ², a state u moves to m + √(1 − b²)(u − m) + b ξ,
ξ ~ N(0, S), and is accepted by the ratio of

    log w(u) = −|y − G(u)|²/2σ² + |J(u − m)|²/2σ² − uᵀC⁻¹m,

the posterior's density relative to N(m, S). Each of 4 test observations has 4 chains of 20,000 moves, of which the
first tenth is left out. Scores, over points and observations: the root mean square of the error of the mean, over that
of the chains' standard deviations; that of the relative error of the standard deviation; the share of the chains' mass
in central intervals, by normal laws; how often those hold the truth, of 500 other test pairs.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fields import LEVELS, Start, masses, moments
from matplotlib.figure import Figure
from torch import Tensor

import csb
from csb.errors import CSBError, in_one_line
from csb.evaluation.plots import drawing, new_figure, write_png
from csb.evaluation.table import markdown_table
from csb.problems import Darcy
from csb.process import seeded
from csb.samplers import BridgeSampler

FILE = Path(__file__).resolve().parents[1] / "docs/results/darcy_reference.npz"
OBSERVATIONS, CHAINS, MOVES, STEP = 4, 4, 20_000, 0.5
SAMPLES, TRUTHS, TRUTH_SAMPLES = 500, 500, 100
_TILE = 100
Forward = Callable[[Tensor], Tensor]  # u (d,) → G(u) (m,), float64


class Approximation(NamedTuple):
    """N(m, S) of a posterior: m (d,), J (m, d), C⁻¹ m (d,), and K = C Jᵀ (J C Jᵀ + σ² I)⁻¹ (d, m)."""

    mode: Tensor
    J: Tensor
    pull: Tensor
    gain: Tensor


def approximation(forward: Forward, y: Tensor, C: Tensor, std: float, iterations: int = 30) -> Approximation:
    """By Gauss–Newton from 0, each step half of the way."""
    m = torch.zeros(len(C), dtype=torch.float64)
    for i in range(iterations + 1):
        J = torch.autograd.functional.jacobian(forward, m)
        assert isinstance(J, Tensor)
        inner = J @ C @ J.T + std**2 * torch.eye(len(J), dtype=torch.float64)
        gain = torch.linalg.solve(inner, J @ C).T
        pull = J.T @ torch.linalg.solve(inner, y - forward(m) + J @ m)
        if i < iterations:
            m = (m + C @ pull) / 2
    return Approximation(m, J, torch.linalg.solve(C, m), gain)


def chain(
    forward: Forward, y: Tensor, root: Tensor, of: Approximation, std: float, moves: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """States (moves, d) of a chain whose prior is N(0, root rootᵀ), and the share of accepted moves."""

    def log_weight(u: Tensor) -> float:
        left = (of.J @ (u - of.mode)).square().sum() - (y - forward(u)).square().sum()
        return float(left / (2 * std**2) - u @ of.pull)

    def draw() -> Tensor:
        x, e = (torch.randn(n, dtype=torch.float64, generator=generator) for n in (len(root), len(y)))
        x = root @ x
        return x - of.gain @ (of.J @ x + std * e)

    u = of.mode + draw()
    weight, states, accepted = log_weight(u), torch.empty(moves, len(u), dtype=torch.float64), 0
    uniform = torch.rand(moves, dtype=torch.float64, generator=generator).log()
    for i in range(moves):
        new = of.mode + math.sqrt(1 - STEP**2) * (u - of.mode) + STEP * draw()
        if uniform[i] < (other := log_weight(new)) - weight:
            u, weight, accepted = new, other, accepted + 1
        states[i] = u
    return states, accepted / moves


def reference() -> None:
    problem = Darcy()
    y, C, found = problem.pairs("test", OBSERVATIONS).y.double().flatten(1), problem.field.cov, []
    root = torch.linalg.cholesky(C + 1e-12 * torch.eye(len(C), dtype=torch.float64))

    def forward(u: Tensor) -> Tensor:
        return problem.forward(u.view(1, *problem.x_shape)).flatten()

    for i, one in enumerate(y):
        of, chains, rates = approximation(forward, one, C, problem.noise_std), [], []
        for j in range(CHAINS):
            states, rate = chain(forward, one, root, of, problem.noise_std, MOVES, seeded(7, i, j))
            chains.append(states[MOVES // 10 :])
            rates.append(rate)
        each = torch.stack(chains)
        means, var = each.mean(1), each.flatten(0, 1).var(0)
        scale = float((1 + CHAINS / (CHAINS - 1) * (means - means.mean(0)).square().mean(0) / var).sqrt().max())
        print(f"observation {i}: {sum(rates) / CHAINS:.0%} accepted, R̂ at most {scale:.3f}", flush=True)
        found.append((means.mean(0), var.sqrt()))
    mean, std = (torch.stack(part).numpy().astype(np.float16) for part in zip(*found))
    np.savez(FILE, mean=mean, std=std)


def row(x: Tensor, mean: Tensor, std: Tensor) -> dict[str, Any]:
    """Of samples x (B, n, d) against the chains' moments (B, d)."""
    return moments(x, mean, std) | {"std, ratio": f"{float((x.std(1) / std).mean()):.3f}"} | masses(x, mean, std)


def truths(x: Tensor, truth: Tensor) -> dict[str, str]:
    """How often central intervals of samples x (B, n, d) hold the truth (B, d)."""
    found = {}
    for level in LEVELS:
        low, high = (x.quantile(q, dim=1) for q in ((1 - level) / 2, (1 + level) / 2))
        found[f"truth in {level:.0%}"] = f"{100 * float(((truth > low) & (truth < high)).double().mean()):.1f}"
    return found


@drawing()
def figure(run: csb.Run, mean: Tensor, std: Tensor) -> Figure:
    """Of two observations truth, pressure, mean, standard deviation, ours and the chains', and two samples."""
    tiles = ("truth", "pressure, seen", "mean, chains", "ours", "std, chains", "ours", "sample, ours", "ours")
    found, rows = new_figure(len(tiles) * _TILE, 2 * _TILE), 2
    x, y, _ = run.problem.pairs("test", rows)
    ours = run.bridge.sample(y, SAMPLES, seed=1).x.double()
    for i, row in enumerate(found.subplots(rows, len(tiles), squeeze=False)):
        spread, top = ours[i].std(0), float(x[i].abs().max())
        shown = (x[i], y[i], mean[i], ours[i].mean(0), std[i], spread, *ours[i, :2])
        for j, (one, image, title) in enumerate(zip(row, shown, tiles)):
            limits: Any = {} if j == 1 else {"vmin": -top, "vmax": top}
            limits = {"vmin": 0, "vmax": float(std[i].max()), "cmap": "magma"} if j in (4, 5) else limits
            one.imshow(image.reshape(2 * [math.isqrt(image.numel())]), **limits)
            one.set(xticks=[], yticks=[])
            if i == 0:
                one.set_title(title)
    return found


def score(folder: str, picture: Path | None = None) -> list[dict[str, Any]]:
    run = csb.Run.open(folder)
    if not isinstance(run.problem, Darcy) or not FILE.exists():
        raise CSBError(
            f"{folder} is of {run.problem.name}; give a run of darcy, after python scripts/darcy.py reference"
        )
    with np.load(FILE) as stored:
        mean, std = (torch.from_numpy(stored[key].astype(np.float64)) for key in ("mean", "std"))
    if picture:
        write_png(picture, figure(run, mean, std))
    test, bridge, rows = run.problem.pairs("test", OBSERVATIONS + TRUTHS), run.bridge, []
    made = {f"bridge, {bridge.grid.T} calls": BridgeSampler(bridge), "its start alone": Start(bridge)}
    for name, sampler in made.items():
        x = sampler.sample(test.y[:OBSERVATIONS], SAMPLES, seed=1).x.flatten(2).double()
        others = sampler.sample(test.y[OBSERVATIONS:], TRUTH_SAMPLES, seed=1).x.flatten(2).double()
        rows.append({"sampler": name} | row(x, mean, std) | truths(others, test.x[OBSERVATIONS:].flatten(1).double()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parts = parser.add_subparsers(dest="action", required=True)
    parts.add_parser("reference")
    (scoring := parts.add_parser("score")).add_argument("run", help="the folder of a training")
    scoring.add_argument("--figure", type=Path, help="also draw two observations, as PNG")
    given = parser.parse_args()
    try:
        if given.action == "reference":
            reference()
        else:
            print(markdown_table(score(given.run, given.figure)), end="")
    except CSBError as error:
        parser.exit(2, f"error: {in_one_line(error, 500)}\n")


if __name__ == "__main__":
    main()
