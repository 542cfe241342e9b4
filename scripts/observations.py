"""What the pages say of single runs, sets, gaps, checks and products of observations: a table in Markdown for each.

Run from a checkout: python scripts/observations.py {sets,gaps,check} RUN, of the folder of a training, … c2st RUN …, of
several, or … product.

- c2st: of runs of problems with exact posteriors: C2ST of 2,000 draws against as many exact ones, of ten observations
  of the test split; wall seconds of the training.
- sets: C2ST of a run of normal_set against the exact posterior, and the largest change of a sample, in standard
  deviations of the posterior, where the rows of a set are permuted.
- gaps: errors of mean (in standard deviations of the posterior) and covariance (Frobenius norm, relative) of a run of
  linear_gaps over 60 patterns of gaps, and of as many exact samples, which is Monte Carlo's share.
- check: the share of p < .05 of ``bridge.check``, and of ``set_p`` for sets of 20, among 1000 fresh observations, with
  2 and 4 times their distance from the mean given x, and with the first number moved by standard deviations of its own.
- product: the largest error of mean (as above) and variance of combine="product" with exact kernels, whose path laws
  are joint Gaussians (:mod:`csb.bridge.several`). x ~ N(0, 1) and noise of variance 0.01 to 4; for diagonal kernels
  two correlated coordinates. A dash: the product has no finite mass.
"""

import argparse
import math
from collections.abc import Iterable
from typing import Any

import torch
from beside_sbi import readings, with_error
from torch import Tensor

import csb
from csb.errors import CSBError, in_one_line
from csb.evaluation.table import markdown_table
from csb.metrics.distances import moment_errors
from csb.problems import LinearGaps, NormalSet
from csb.problems.base import Posterior, Simulated
from csb.problems.gaussian_ipf import AffineKernel, exact_ipf
from csb.process import Grid, Power, seeded

SAMPLES, MANY, OBSERVATIONS, PATTERNS = 2000, 10_000, 10, 60
Rows = list[dict[str, Any]]


def opened(folder: str, kind: type[Any]) -> Any:
    """A run whose problem is of a kind."""
    if isinstance((run := csb.Run.open(folder)).problem, kind):
        return run
    raise CSBError(f"{folder} is a run of {run.problem.name}; give one of a problem that is a {kind.__name__}")


def c2sts(exact: Iterable[Posterior], x: Tensor) -> list[float]:
    """C2ST of the draws x (B, SAMPLES, d) of B observations."""
    return [csb.metrics.c2st(one.sample(SAMPLES, seeded(5, i)), x[i]) for i, one in enumerate(exact)]


def c2st(run: list[str]) -> Rows:
    rows = []
    for of in map(csb.Run.open, run):
        if not of.problem.has_exact_posterior:
            raise CSBError(f"{of.folder} is a run of {of.problem.name}; give one of a problem with exact posteriors")
        y = of.problem.pairs("test", OBSERVATIONS).y
        x = of.bridge.sample(y, SAMPLES, seed=1).x
        scores = c2sts(map(of.problem.posterior, y), x)
        row = {"run": str(of.folder), "pairs": of.problem.sizes["train"], "iteration": of.scores["iteration"]}
        row |= {"steps": sum(half_step.get("steps", 0) for half_step in of.history), "seconds": of.scores["seconds"]}
        rows.append(row | {"C2ST": with_error(scores), "worst": f"{max(scores):.3f}"})
    return rows


def sets(run: str) -> Rows:
    of, rows = opened(run, NormalSet), []
    for name, y in readings(of.problem).items():
        x, order = of.bridge.sample(y, SAMPLES, seed=1).x, torch.randperm(y.shape[1], generator=seeded(4))
        moved = of.bridge.sample(y[:, order], SAMPLES, seed=1).x - x
        exact = [of.problem.posterior(one) for one in y]
        sd = torch.stack([one.cov.diagonal().sqrt() for one in exact])
        scores = c2sts(exact, x)
        change = f"{(moved.abs().amax(1) / sd).max():.1g}"
        rows.append({"observed": name, "C2ST": with_error(scores), "change by permuting, sd": change})
    return rows


def gaps(run: str) -> Rows:
    of = opened(run, LinearGaps)
    y = of.problem.pairs("test", PATTERNS).y
    exact = [of.problem.posterior(one) for one in y]
    sampled = of.bridge.sample(y, MANY, seed=1, batch_size=MANY).x
    drawn, rows = [one.sample(MANY, seeded(2, i)) for i, one in enumerate(exact)], []
    for name, draws in (("the bridge", sampled), ("exact", drawn)):
        found = [moment_errors(x, one.moments) for x, one in zip(draws, exact)]
        mean, cov = [one.mean_scaled for one in found], [one.cov_relative for one in found]
        worst = f"{max(mean):.3f}, {max(cov):.3f}"
        rows.append({"samples": name, "mean, sd": with_error(mean), "covariance": with_error(cov), "worst": worst})
    return rows


def check(run: str) -> Rows:
    of = opened(run, Simulated)
    x = of.problem.prior(1000, seeded(1))
    y = of.problem.observe(x, seeded(2))
    mean = torch.stack([of.problem.observe(x, seeded(3, i)) for i in range(200)]).nanmean(0)
    step = (y - y.nanmean(0)).square().nanmean(0).sqrt()
    step.view(-1)[1:] = 0
    changed = {"none": y} | {f"noise × {f}": mean + f * (y - mean) for f in (2, 4)}
    changed |= {f"moved by {f} sd": y + f * step for f in (1, 2, 3)}
    rows = []
    for name, observed in changed.items():
        together = [of.bridge.check(part, seed=i).set_p for i, part in enumerate(observed.split(20))]
        shares = {"p < .05": of.bridge.check(observed).p, "set_p < .05": torch.tensor(together)}
        rows.append({"change": name} | {key: f"{(p < 0.05).double().mean():.2f}" for key, p in shares.items()})
    return rows


def path_law(kernels: tuple[AffineKernel, ...], y: Tensor) -> tuple[Tensor, Tensor]:
    """Precision Λ ((T + 1)d, (T + 1)d) and Λ·mean of x_0, …, x_T under x_T ~ N(0, I) and backward kernels given y."""
    T, d = len(kernels), len(kernels[0].c)
    precision = torch.zeros((T + 1) * d, (T + 1) * d, dtype=torch.float64)
    shift, eye = precision[0].clone(), torch.eye(d, dtype=torch.float64)
    precision[T * d :, T * d :] = eye
    for k, (M, N, c, S) in enumerate(kernels):
        residual, at = torch.cat([eye, -M], 1), slice(k * d, (k + 2) * d)
        weighted = residual.T @ torch.linalg.inv(S)
        precision[at, at] += weighted @ residual
        shift[at] += weighted @ (N @ y + c)
    return precision, shift


def product_errors(problem: tuple[Tensor, ...], m: int, end: float, L: int, T: int, objective: str) -> list[float]:
    """How far mean and variance of x ~ N(0, P), given m times y = A x + N(0, R), are off at most; y of x = 2 sd."""
    (A, P, R), d = problem, len(problem[1])
    y, gain = 2 * A @ P.diagonal().sqrt(), A.T @ torch.linalg.inv(R)
    grid = Grid.from_schedule(Power(alpha_bar_end=end, power=3.0), T)
    C, exact = (torch.linalg.inv(torch.linalg.inv(P) + n * gain @ A) for n in (1, m))
    known, missing = (
        path_law(exact_ipf(grid, slope, torch.zeros(d), spread, L, objective)[-2].kernels, y)
        for slope, spread in ((C @ gain, C), (0 * gain, P))
    )
    precision, shift = (m * a - (m - 1) * b for a, b in zip(known, missing))
    finite = torch.linalg.eigvalsh(precision)[0] > 0
    V, var = torch.linalg.inv(precision), exact.diagonal()
    off = ((V @ shift)[:d] - m * exact @ gain @ y) / var.sqrt(), V.diagonal()[:d] / var - 1
    return [float(part.abs().max()) if finite else math.nan for part in off]


def product() -> Rows:
    unit = torch.eye(1, dtype=torch.float64)
    scalars = [(unit, unit, var * unit) for var in (0.01, 0.03, 0.1, 0.3, 1, 4)]
    plane = torch.tensor([[[1, 0.3], [-0.5, 1.2]], [[1, 0.6], [0.6, 0.8]], [[0.5, 0.1], [0.1, 0.3]]]).double()
    jobs = [("full", "likelihood", scalars, m, L, 8) for m in (2, 100) for L in (1, 2)]
    jobs += [("diagonal", "likelihood_diagonal", [tuple(plane)], 20, 1, T) for T in (8, 16, 32)]
    jobs, rows = [*jobs, ("fixed", "mean_matching", scalars, 20, 1, 8)], []
    for kernels, objective, problems, m, L, T in jobs:
        rows.append({"kernels": kernels, "m": m, "L": L, "T": T})
        for end in (0.1, 0.2, 0.3, 0.5, 1.0):
            found = torch.tensor([product_errors(one, m, end / m, L, T, objective) for one in problems])
            mean, var = found.amax(0).tolist()  # NaN where one is
            rows[-1][f"m ᾱ_T = {end:g}"] = None if math.isnan(mean) else f"{mean:.2f}, {var:.1%}"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parts = parser.add_subparsers(required=True)
    for table in (c2st, sets, gaps, check, product):
        (part := parts.add_parser(table.__name__)).set_defaults(table=table)
        if table != product:
            part.add_argument("run", nargs="+" if table == c2st else None, help="the folder of a training")
    given = vars(parser.parse_args())
    try:
        print(markdown_table(given.pop("table")(**given)), end="")
    except CSBError as error:
        parser.exit(2, f"error: {in_one_line(error, 500)}\n")


if __name__ == "__main__":
    main()
