"""The comparison of a run's bridge with guided samplers and the exact posterior, from methods to the report."""

import datetime
import logging
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from csb.errors import CSBError
from csb.evaluation.chunks import pairs_at_once
from csb.evaluation.classes import class_result, reference_of
from csb.evaluation.comparison import Drawn, Method, against_exact, draw, image_result, point_result
from csb.evaluation.held_out import held_out
from csb.evaluation.images import digit_classifier
from csb.evaluation.report import ImageGrid, MethodResult, PointGrid, Report, write_report
from csb.evaluation.scores import hole_mask
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.evaluation.shown import as_images
from csb.networks.diffusion import Denoiser
from csb.problems import ClassProblem, Pairs, Problem
from csb.problems.specs import same_pairs
from csb.problems.tasks.mnist_problem import MnistProblem
from csb.process import Grid
from csb.runs.config import schedule_of
from csb.runs.distil import students_of
from csb.runs.guided import guide_of, horizon_warnings, particle_counts, sweep
from csb.runs.load import Run
from csb.samplers import BridgeSampler, ExactSampler, ParticleSampler
from csb.samplers.registry import GUIDED, BaselineSettings, Guide

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What is compared: methods, what is left out and why, and warnings for the reader."""

    methods: list[Method]
    warnings: list[str]


def schedule_text(config: dict[str, Any], grid: Grid) -> str:
    """E.g. "power, T = 10, ᾱ_T = 0.005"."""
    return f"{config['name']}, T = {grid.T}, ᾱ_T = {float(grid.alpha_bar[-1]):.2g}"


def build_methods(
    run: Run,
    others: list[Run],
    denoiser: Denoiser | None,
    baselines: BaselineSettings,
    sampler: SamplerSettings,
    seed: int,
) -> Comparison:
    """The bridge of the run, those of other runs on the same problem, the guided samplers, and the exact posterior.

    Prints the sweeps. ``denoiser`` is None where no guided sampler is asked for, or the problem has no likelihood
    to guide with. CSBError where another run is of another problem.
    """
    methods, warnings = [], []
    for one in (run, *others):
        if not same_pairs(one.problem.spec(), run.problem.spec()):
            raise CSBError(f"{one.folder} is a run of {one.problem.spec()}, not of {run.problem.spec()}; leave it out")
        T = one.bridge.grid.T
        name, text = f"bridge_{one.folder.name}", schedule_text(one.config["schedule"], one.bridge.grid)
        made = BridgeSampler(one.bridge, **vars(sampler))
        methods.append(Method(name, f"bridge, T = {T}", made, text, family="bridge"))
        found, left_out = _students(one, text)
        methods, warnings = methods + found, warnings + left_out
    if denoiser is not None:
        schedule = schedule_of(run.config["schedule"])
        guide = guide_of(run.problem, denoiser, schedule, baselines, run.bridge.precision, run.folder, seed)
        warnings += horizon_warnings(guide)
        found, left_out = _guided(guide, run, baselines, seed)
        methods, warnings = methods + found, warnings + left_out
    elif baselines.methods:
        name = run.problem.name
        warnings.append(f"No guided sampler is compared: {name} has no likelihood y = H(x) + noise for guidance.")
    if run.problem.has_exact_posterior:
        methods.append(Method("exact", "exact posterior", ExactSampler(run.problem), reference=True))
    return Comparison(methods, warnings)


def _students(run: Run, schedule: str) -> tuple[list[Method], list[str]]:
    """The samplers distilled from a run's bridge, and a warning where its student is another bridge's."""
    try:
        found = students_of(run)
    except CSBError as error:
        return [], [f"The distilled sampler is left out: {error}."]
    reported = f", T = {run.bridge.grid.T}"
    return [
        Method(
            f"consistency_{run.folder.name}_{calls}", f"distilled{reported}, {calls} call{'s' * (calls > 1)}", sampler,
            schedule, family="consistency",
        )
        for calls, sampler in found.items()
    ], []  # fmt: skip


def _guided(guide: Guide, run: Run, settings: BaselineSettings, seed: int) -> tuple[list[Method], list[str]]:
    text = schedule_text(run.config["schedule"], guide.grid)
    methods: list[Method] = []
    left_out: list[str] = []
    for name in settings.methods:
        made = GUIDED[name]
        try:
            if issubclass(made, ParticleSampler):
                counts = particle_counts(settings, guide.problem, made.guided)
                methods += [_particles(guide, name, K, text) for K in counts]
            elif made.swept is not None:
                found = sweep(guide, name, run.bridge.transform, seed)
                chosen = guide.make(name, **found.options)
                methods.append(
                    Method(name, f"{made.label}, {found.text}", chosen, text, family=name, sweeps=(found.sweep,))
                )
            else:
                methods.append(Method(name, made.label, guide.make(name), text, family=name))
        except CSBError as error:
            left_out.append(f"{made.label} is left out: {error}.")
    return methods, left_out


def _particles(guide: Guide, name: str, K: int | None, text: str) -> Method:
    """A particle filter in runs of K particles; None: all samples of an observation are one run."""
    label, suffix = GUIDED[name].label, ""
    if K is not None:
        label, suffix = f"{label}, K = {K}", f"_{K}"
    return Method(f"{name}{suffix}", label, guide.make(name, particles=K), text, family=name)


def _description(problem: Problem) -> str:
    """The first line of the problem's docstring, with names in place of references such as :class:`csb.a.Name`."""
    first = (type(problem).__doc__ or "").strip().splitlines()[0]
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", first)


def compare(
    run: Run, comparison: Comparison, metrics: MetricsSettings, seed: int, command: str, versions: dict[str, str]
) -> Report:
    """Draws and scores every method on the frozen test observations and writes the report into the run's folder."""
    problem = run.problem
    test = held_out(problem, metrics.compare_observations)
    n = metrics.compare_samples
    classifier = digit_classifier(problem.root, seed)[0] if isinstance(problem, MnistProblem) else None
    results, grids = [], {}
    for method in comparison.methods:
        logger.info("%s: %d observations × %d samples", method.label, len(test.y), n)
        drawn = draw(method, test.y, n, seed, pairs_at_once(n))
        results.append(_score(run, method, drawn, test, classifier, metrics, seed))
        grids[method.name] = _shown(drawn, metrics.picture_rows)
    report = Report(
        title=f"Posterior samplers on {problem.name}",
        problem=problem.name,
        description=_description(problem),
        kind="images" if problem.is_image else "points",
        observations=len(test.y),
        samples=n,
        seed=seed,
        methods=tuple(results),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        warnings=tuple(comparison.warnings),
        settings={"precision": run.bridge.precision, "device": str(run.bridge.device)},
        versions=versions,
        command=command,
    )
    write_report(report, _grid(run, test, grids, metrics.picture_rows), run.folder)
    return report


def _score(
    run: Run,
    method: Method,
    drawn: Drawn,
    test: Pairs,
    classifier: nn.Module | None,
    metrics: MetricsSettings,
    seed: int,
) -> MethodResult:
    problem = run.problem
    if isinstance(problem, ClassProblem) and classifier is not None:
        return class_result(drawn, test, classifier, reference_of(problem))
    if problem.is_digit:
        return image_result(drawn, test, classifier, hole_mask(run.bridge, test.y), seed)
    result = point_result(drawn, test, seed, run.bridge.transform.x_scale())
    if not problem.has_exact_posterior:
        return result
    y = test.y[: metrics.exact_observations]
    whole = draw(method, y, metrics.exact_samples, seed + 1, 1)
    distances, errors = against_exact(problem, whole, y, seed, metrics)
    return replace(result, metrics=result.metrics | distances, standard_errors=result.standard_errors | errors)


def _shown(drawn: Drawn, rows: int) -> Tensor:
    """Samples of the first observations for the pictures, resampled where they are weighted."""
    x = drawn.x[:rows]
    if drawn.log_weights is None:
        return x
    w = drawn.log_weights[:rows].exp()
    chosen = torch.multinomial(w, x.shape[1], replacement=True, generator=torch.Generator().manual_seed(0))
    return torch.stack([one[index] for one, index in zip(x, chosen)])


def _grid(run: Run, test: Pairs, shown: dict[str, Tensor], rows: int) -> ImageGrid | PointGrid | None:
    samples = {name: x.numpy() for name, x in shown.items()}
    if run.problem.is_image:
        truth, seen, value_range = as_images(run.problem, test.x[:rows], test.y[:rows])
        first = {name: x[:, :, :1] for name, x in samples.items()}
        return ImageGrid(truth.numpy(), seen.numpy(), first, value_range)
    if len(run.problem.x_shape) != 1 or run.problem.x_shape[0] < 2:
        return None
    exact = samples.pop("exact", None)
    return PointGrid(test.x[:rows].numpy(), test.y[:rows].numpy(), samples, exact)


__all__ = ["Comparison", "build_methods", "compare"]
