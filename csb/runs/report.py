"""The report of a run: its bridge beside guided samplers and the exact posterior, from methods to the page."""

import contextlib
import datetime
import logging
import re
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from csb.bridge import Bridge
from csb.errors import CSBError
from csb.evaluation.diagnose import FEWEST, Diagnosis, diagnose
from csb.evaluation.pictures import observation_label, samples_figure
from csb.evaluation.report import write_report
from csb.evaluation.results import Drawn, against_exact, draw, evenly, held_out_row
from csb.evaluation.rows import Report, Row
from csb.evaluation.scores import MetricsSettings, SamplerSettings, digit_classifier, held_out, pairs_at_once
from csb.metrics.local import local_c2st, predictive_p
from csb.networks.diffusion import Denoiser
from csb.numbers import Observed
from csb.problems import FilePairs, Pairs, Problem
from csb.problems.mnist_problem import MnistProblem
from csb.problems.sources import same_pairs
from csb.process import Grid, Stream, seeded
from csb.runs.config import schedule_of
from csb.runs.guided import Guide, guide_of, horizon_warnings
from csb.runs.load import Run
from csb.runs.methods import guided
from csb.runs.recipe import BaselineSettings
from csb.runs.stages import students_of
from csb.samplers import GUIDED, BridgeSampler, ExactSampler, Sampler

logger = logging.getLogger(__name__)


Entry = tuple[Row, Sampler]  # a row without figures, and what draws the samples that it is to be of


def schedule_text(config: dict[str, Any], grid: Grid) -> str:
    """E.g. "power, T = 10, ᾱ_T = 0.005"."""
    return f"{config['name']}, T = {grid.T}, ᾱ_T = {float(grid.alpha_bar[-1]):.2g}"


def entries_of(
    run: Run,
    others: list[Run],
    denoiser: Denoiser | None,
    baselines: BaselineSettings,
    sampler: SamplerSettings,
    seed: int,
) -> tuple[list[Entry], list[str]]:
    """The bridge of the run, those of other runs on the same problem, the guided samplers, and the exact posterior.

    Prints the sweeps. Also returns what the reader must know: what is left out, and why. ``denoiser`` is None where no
    guided sampler is asked for, or the problem has no likelihood to guide with. CSBError where another run is of
    another problem.
    """
    entries: list[Entry] = []
    warnings: list[str] = []
    for i, one in enumerate((run, *others)):
        if not same_pairs(one.problem.spec(), run.problem.spec()):
            raise CSBError(f"{one.folder} is a run of {one.problem.spec()}, not of {run.problem.spec()}; leave it out")
        T, name = one.bridge.grid.T, one.folder.name + (f"_{i}" if i else "")
        schedule = schedule_text(one.config["schedule"], one.bridge.grid)
        iteration = f", {one.iteration}" if one.iteration else ""
        row = Row(f"bridge_{name}", f"bridge, T = {T}", f"{schedule}{iteration}", family="bridge")
        entries.append((row, BridgeSampler(one.bridge, **vars(sampler))))
        try:
            students = students_of(one)
        except CSBError as error:
            warnings.append(f"The distilled sampler is left out: {error}.")
            continue
        for calls, student in students.items():
            label = f"distilled, T = {T}, {calls} call{'s' * (calls > 1)}"
            entries.append((Row(f"consistency_{name}_{calls}", label, schedule, family="consistency"), student))
    if denoiser is not None:
        schedule = schedule_of(run.config["schedule"])
        guide = guide_of(run.problem, denoiser, schedule, baselines, run.bridge.precision, run.folder, seed)
        warnings += horizon_warnings(guide)
        _add_guided(entries, warnings, guide, run, seed)
    elif baselines.methods:
        name = run.problem.name
        warnings.append(f"No guided sampler is compared: {name} has no likelihood y = H(x) + noise for guidance.")
    if run.problem.has_exact_posterior:
        entries.append((Row("exact", "exact posterior", reference=True), ExactSampler(run.problem)))
    return entries, warnings


def _add_guided(entries: list[Entry], warnings: list[str], guide: Guide, run: Run, seed: int) -> None:
    T, schedule = guide.grid.T, schedule_text(run.config["schedule"], guide.grid)
    for name in guide.settings.methods:
        try:
            for method in guided(name, guide, lambda _: guide, run.bridge.transform, {}):
                chosen = None if method.sweep is None else method.sweep(T, seed)
                label = method.label if chosen is None else f"{method.label}, {chosen.text}"
                sweeps = () if chosen is None else (chosen.sweep,)
                row = Row(method.name, label, schedule, family=name, sweeps=sweeps)
                entries.append((row, method.make(T, **({} if chosen is None else chosen.options))))
        except CSBError as error:
            warnings.append(f"{GUIDED[name].label} is left out: {error}.")


def _description(problem: Problem) -> str:
    """What own pairs are; else the first line of the problem's docstring, with names in place of references."""
    if isinstance(problem, FilePairs):
        return f"{problem.sizes['train']:,} own pairs to learn from, x {problem.x_shape} and y {problem.y_shape}."
    first = (type(problem).__doc__ or "").strip().splitlines()[0]
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", first).replace("``", "")


def compare(
    run: Run, entries: list[Entry], warnings: list[str], metrics: MetricsSettings, seed: int, command: str
) -> Report:
    """Draw and score every method on the frozen test observations, and write the report into the run's folder."""
    problem = run.problem
    test = held_out(problem, metrics.compare_observations)
    n = metrics.compare_samples
    classifier = digit_classifier(problem.root, seed)[0] if isinstance(problem, MnistProblem) else None
    rows, shown, diagnosis = [], [], None
    for row, sampler in entries:
        logger.info("%s: %d observations × %d samples", row.label, len(test.y), n)
        drawn = draw(sampler, row, test.y, n, seed, pairs_at_once(n))
        rows.append(_score(run, sampler, drawn, test, classifier, metrics, seed))
        shown.append(torch.stack([evenly(drawn, i) for i in range(min(metrics.picture_rows, len(test.y)))]))
        if diagnosis is None and len(problem.x_shape) == 1 and len(test.x) >= FEWEST:  # of the run's own bridge
            generator = seeded(seed, Stream.HELD_OUT_DRAW, device=run.bridge.device)
            diagnosis = diagnose_run(run, test, drawn.x, generator, seed)
    report = Report(
        title=f"{'Posterior samplers' if len(rows) > 1 else rows[0].label} on {problem.name}",
        problem=problem.name,
        description=_description(problem),
        kind="images" if problem.is_image else "points",
        observations=len(test.y),
        samples=n,
        seed=seed,
        methods=tuple(rows),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        warnings=tuple(warnings),
        settings={"precision": run.bridge.precision, "device": str(run.bridge.device)},
        versions=run.about["versions"],
        command=command,
    )
    write_report(report, _pictures(run, test, rows, shown), run.folder, diagnosis)
    return report


def _score(
    run: Run,
    sampler: Sampler,
    drawn: Drawn,
    test: Pairs,
    classifier: nn.Module | None,
    metrics: MetricsSettings,
    seed: int,
) -> Row:
    problem = run.problem
    row = held_out_row(problem, run.bridge.transform, drawn, test, seed, classifier)
    if not problem.has_exact_posterior:
        return row
    y = test.y[: metrics.exact_observations]
    whole = draw(sampler, drawn.row, y, metrics.exact_samples, seed + 1, 1)
    distances, errors = against_exact(problem, whole, y, seed, metrics)
    return replace(row, metrics=row.metrics | distances, standard_errors=row.standard_errors | errors)


def _pictures(run: Run, test: Pairs, rows: list[Row], shown: list[Tensor]) -> list[Figure]:
    """A picture for each of the first observations, with samples of every method beside each other.

    Exact samples of vectors lie behind all others.
    """
    is_behind = [row.reference and not run.problem.is_image for row in rows]
    exact = next((x for x, behind in zip(shown, is_behind) if behind), None)
    labels = [row.label for row, behind in zip(rows, is_behind) if not behind]
    samples, found = torch.stack([x for x, behind in zip(shown, is_behind) if not behind], 1), []
    for b, drawn in enumerate(samples):
        x, y, e = (None if part is None else torch.stack([part[b]] * len(drawn)) for part in (test.x, test.y, exact))
        seen = "" if run.problem.is_image else observation_label(test.y[b].flatten().numpy())
        title = ", ".join(filter(None, (f"Observation {b + 1}", seen)))
        assert x is not None
        assert y is not None
        if (figure := samples_figure(run.problem, x, y, drawn, e, title, labels)) is not None:
            found.append(figure)
    return found


_PRIOR = 5000  # draws of the prior, and of the posterior of one observation, in the corner plot


def names_of(run: Run) -> list[str]:
    """The names of the coordinates of a vector x, as given or x0, x1, ….  CSBError for images."""
    shape = run.bridge.transform.x_shape
    if len(shape) != 1:
        raise CSBError(f"x of shape {shape} is an image, whose pixels have no names; use run.evaluate()")
    given = run.config.get("names") or []
    return [str(name) for name in given] or [f"x{i}" for i in range(shape[0])]


def losses_of(run: Run) -> list[dict[str, Any]]:
    """The losses of each half-step, as :class:`csb.evaluation.diagnose_figures.HalfStepLosses` has them."""
    return [{"half_step": row["half_step"], **row["curve"]} for row in run.history if "curve" in row]


def diagnose_run(
    run: Run, test: Pairs, samples: Tensor, generator: torch.Generator, seed: int, y: Observed | None = None
) -> Diagnosis:
    """Diagnose samples (B, n, d) of the run's bridge for held-out pairs, and at an observation y where one is given.

    The corner plot is of y, or of the first pair, with more samples, drawn with the generator. CSBError for images, for
    fewer than 10 pairs, and fewer than 50 with y.
    """
    at, truth = (test.y[0], test.x[0]) if y is None else (_one(run.bridge, y), None)
    first = run.bridge.sample(at, _PRIOR, generator=generator).x.cpu()
    found = diagnose(
        samples, test.x, prior=run.problem.first("train", _PRIOR).x, names=names_of(run),
        observed=(first, truth), losses=losses_of(run), seed=seed,
    )  # fmt: skip
    return found if y is None else replace(found, local=_local(run, test, samples, at, first, seed))


def _one(bridge: Bridge, y: Observed) -> Tensor:
    """y as one checked observation, on the CPU."""
    found, single = bridge.observations(y, None)
    if not single:
        raise CSBError(f"y has shape {tuple(found.shape)}; give one observation {tuple(found.shape[1:])} to look at")
    return found[0].cpu()


def _local(run: Run, test: Pairs, samples: Tensor, at: Tensor, first: Tensor, seed: int) -> dict[str, float]:
    """The checks at one observation, from samples (n, d) there."""
    test_at = local_c2st(samples[:, 0], test.x, test.y, at, first, seed=seed)
    found = {"l_c2st": test_at.statistic, "l_c2st_p": test_at.p}
    with contextlib.suppress(CSBError):  # no simulator
        found["predictive_p"] = predictive_p(run.problem.observe(first, seeded(seed, Stream.DIAGNOSIS, 3)), at)
    return found
