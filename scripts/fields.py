"""Posterior samples of Gaussian random fields against the exact posterior: a table in Markdown, a row for each sampler.

Run from a checkout: python scripts/fields.py RUN … [--calls 10 100 1000] [--out FILE.json] [--figure FILE.png], of
folders of trainings of ``experiment=field_tomography``, ``field_blur`` or ``field_points``. Beside a run's bridge stand
its start alone (the law from which the bridge's steps begin, decoded at once), the score and the flow where the folder
holds them, and samplers of the exact denoiser (Wiener's filter, :class:`csb.networks.diffusion.StationaryDenoiser`) on
the linear schedule, with so many calls of it.

Of 500 samples for each of 20 observations of the test split (of samplers with 1,000 calls 100 for each of 4), with m
and s the exact mean and pointwise standard deviation:

- mean: root mean square of the error of the samples' mean, over that of s;
- std: root mean square of the relative error of the samples' pointwise standard deviation; of mean and std the share of
  Monte Carlo is subtracted, and of none is left where it is larger;
- spectrum: root mean square, over Fourier coefficients, of the relative error of their standard deviation about m;
- 50, 80, 95 %: how much of the exact posterior's mass lies in the samples' central intervals, point by point;
- C2ST: along the four leading principal axes of the exact posterior, over 4 observations; of what knows y in training.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, fft

import csb
from csb.bridge import SampleInfo, Samples, load
from csb.errors import CSBError, in_one_line
from csb.evaluation.plots import drawing, new_figure, write_png
from csb.evaluation.table import markdown_table
from csb.files import write_json
from csb.networks.diffusion import Denoiser, FlowNetwork, ScoreNetwork
from csb.problems import RandomField
from csb.process import Noise, seeded
from csb.process.resampling import systematic
from csb.runs.stages import exact_denoiser
from csb.samplers import (
    GUIDED,
    BridgeSampler,
    DiffusionSampler,
    GaussianLikelihood,
    Sampler,
    flow_sampler,
    score_sampler,
)

SAMPLES, OBSERVATIONS = (500, 100), (20, 4)  # with fewer calls than MANY, and others
MANY = 1000
LEVELS, AXES, COMPARED, _TILE = (0.5, 0.8, 0.95), 4, 4, 96
METHODS = ("dps", "pigdm", "ddrm", "mmps", "tds")
Rows = list[dict[str, Any]]


class Start(BridgeSampler):
    """The start of a bridge alone: no call of the network."""

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        maps = self.bridge.transform
        z, each = noise.normal(n, *maps.z_shape), y.repeat_interleave(n, 0)
        return Samples(maps.decode(z, each).unflatten(0, (len(y), n)), SampleInfo(0, 0))


def samplers(run: csb.Run, calls: list[int]) -> Iterator[tuple[str, int, Sampler]]:
    """Name, calls of the network, and sampler."""
    problem, bridge = run.problem, run.bridge
    yield "bridge", bridge.grid.T, BridgeSampler(bridge)
    yield "its start alone", 0, Start(bridge)
    if (path := run.folder / "score.safetensors").exists():
        yield "score, DPM-Solver++", 10, score_sampler(load(path, of=ScoreNetwork), "dpmpp", 10)
    if (path := run.folder / "flow.safetensors").exists():
        yield "flow, Euler", 10, flow_sampler(load(path, of=FlowNetwork), "euler", 10)
    denoiser = exact_denoiser(problem)
    assert isinstance(denoiser, Denoiser)
    likelihood = GaussianLikelihood.of(problem, denoiser, problem.first("train", 1000))
    for T in calls:
        for name in METHODS:
            yield GUIDED[name].label, T, GUIDED[name](denoiser, likelihood, T=T)


def percent(square: Tensor) -> str:
    """The root of a square, () and 0 where it is below."""
    share = math.sqrt(max(float(square), 0))
    return "> 1000 %" if share > 10 else f"{100 * share:.1f} %"


def off(found: Tensor, exact: Tensor, error: float) -> Tensor:
    """Squares of relative errors, less the share of Monte Carlo."""
    return (found / exact - 1).square() - error


def moments(x: Tensor, mean: Tensor, s: Tensor) -> dict[str, str]:
    """Errors of mean and standard deviation of samples x (B, n, d), against (B, d) and (d,) or (B, d)."""
    n, var = x.shape[1], x.var(1)
    of_mean = ((x.mean(1) - mean).square().mean() - var.mean() / n) / s.square().mean()
    return {"mean": percent(of_mean), "std": percent(off(var.sqrt(), s, 1 / (2 * n)).mean())}


def masses(x: Tensor, mean: Tensor, s: Tensor) -> dict[str, str]:
    """The mass of normal laws of these moments in central intervals of samples, as :func:`moments` takes them."""
    found = {}
    for level in LEVELS:
        low, high = (torch.special.ndtr((x.quantile(q, 1) - mean) / s) for q in ((1 - level) / 2, (1 + level) / 2))
        found[f"{level:.0%}"] = f"{100 * float((high - low).mean()):.1f}"
    return found


def figures(problem: RandomField, x: Tensor, y: Tensor) -> dict[str, str]:
    """Of samples x (B, n, d), float64, for observations y (B, *y_shape)."""
    mean, cov, grid = y.flatten(1).double() @ problem.gain.T, problem.posterior_cov, problem.x_shape[1:]
    s = cov.diagonal().sqrt()
    power = fft.fft2((x - mean[:, None]).unflatten(2, grid)).abs().square().mean((0, 1))
    forward = fft.fft2(cov.unflatten(0, grid).to(torch.complex128), dim=(0, 1))
    exact = fft.ifft2(forward.unflatten(2, grid), dim=(2, 3), norm="forward").flatten(2).flatten(0, 1)
    of_power = off(power.sqrt(), exact.diagonal().real.unflatten(0, grid).sqrt(), 1 / (4 * x.shape[1] * len(y))).mean()
    return moments(x, mean, s) | {"spectrum": percent(of_power)} | masses(x, mean, s)


def c2st(problem: RandomField, x: Tensor, y: Tensor) -> str:
    axes = torch.linalg.eigh(problem.posterior_cov)[1][:, -AXES:]
    found = [
        csb.metrics.c2st(problem.posterior(one).sample(x.shape[1], seeded(5, i)).flatten(1).double() @ axes, at @ axes)
        for i, (one, at) in enumerate(zip(y[:COMPARED], x))
    ]
    return f"{sum(found) / len(found):.3f}"


def table(run: csb.Run, calls: list[int]) -> Rows:
    problem, rows = run.problem, []
    if not isinstance(problem, RandomField):
        raise CSBError(f"{run.folder} is a run of {problem.name}; give one of a random_field")
    for name, T, sampler in samplers(run, calls):
        observations, samples = (both[T >= MANY] for both in (OBSERVATIONS, SAMPLES))
        y = problem.pairs("test", observations).y
        row = {"seen": problem.seen, "side": problem.side, "sampler": name, "calls": T}
        try:
            drawn = sampler.sample(y, samples, seed=1)
        except CSBError as error:
            if "diverged" not in str(error):
                raise
            rows.append(row | {"mean": "diverges"})
            continue
        x = drawn.x
        if drawn.log_weights is not None:
            chosen = systematic(drawn.log_weights, torch.full_like(drawn.log_weights, 0.5))
            x = torch.stack([one[rows] for one, rows in zip(x, chosen)])
        x, seconds = x.flatten(2).double(), f"{drawn.info.seconds / len(y):.1f}"
        found = None if isinstance(sampler, DiffusionSampler) else c2st(problem, x, y)
        rows.append(row | figures(problem, x, y) | {"C2ST": found, "seconds": seconds})
        print(", ".join(map(str, rows[-1].values())), file=sys.stderr, flush=True)
    return rows


@drawing()
def figure(runs: list[csb.Run]) -> Figure:
    """Of each run a row: truth, what is seen of it, mean and standard deviation and two samples, exact and ours."""
    tiles = ("truth", "seen, A*y", "exact mean", "ours", "exact std", "ours", "exact sample", "ours", "ours")
    found = new_figure(len(tiles) * _TILE, len(runs) * _TILE)
    axes = found.subplots(len(runs), len(tiles), squeeze=False)
    for i, (row, run) in enumerate(zip(axes, runs)):
        problem = run.problem
        assert isinstance(problem, RandomField)
        x, y, _ = problem.pairs("test", 1)
        posterior, ours = problem.posterior(y[0]), run.bridge.sample(y[0], 200, seed=1).x.double()
        seen = (y.flatten(1).double() @ problem.seen_of).view(problem.x_shape)
        sd = problem.posterior_cov.diagonal().sqrt()
        top, wide = float(x.abs().max()), float(sd.max())
        mean, drawn = problem.gain @ y[0].double().flatten(), posterior.sample(1, seeded(2))[0]
        shown = (x[0], seen * (top / float(seen.abs().max())), mean, ours.mean(0), sd, ours.std(0), drawn, *ours[:2])
        for one, image, title in zip(row, shown, tiles):
            is_sd = "std" in title or image is shown[5]
            limits: Any = {"vmin": 0, "vmax": wide, "cmap": "magma"} if is_sd else {"vmin": -top, "vmax": top}
            one.imshow(image.reshape(problem.x_shape[1:]), **limits)
            one.set(xticks=[], yticks=[])
            if i == 0:
                one.set_title(title)
        row[0].set_ylabel(problem.seen)
    return found


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a script that scores the folders of trainings."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("run", nargs="+", help="the folder of a training")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    parser.add_argument("--figure", type=Path, help="also draw observations, as PNG")
    return parser


def report(
    parser: argparse.ArgumentParser, table: Callable[..., Rows], figure: Callable[[list[csb.Run]], Figure | None]
) -> None:
    """Print the rows of each run, ``table(run, **what else the command line gives)``, and write what it asks for."""
    given = vars(parser.parse_args())
    folders, out, picture = (given.pop(key) for key in ("run", "out", "figure"))
    try:
        runs = [csb.Run.open(folder) for folder in folders]
        if picture:
            write_png(picture, figure(runs))
        rows = [row for run in runs for row in table(run, **given)]
        if out:
            write_json(out, {"command": f"python scripts/{Path(sys.argv[0]).name} {' '.join(folders)}", "rows": rows})
        print(markdown_table(rows), end="")
    except CSBError as error:
        parser.exit(2, f"error: {in_one_line(error, 500)}\n")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--calls", nargs="*", type=int, default=[10, 100, 1000], help="of the exact denoiser")
    report(parser, table, figure)


if __name__ == "__main__":
    main()
