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
from csb.evaluation.metrics import EnsembleScores
from csb.evaluation.report import ImageGrid, MethodResult, PointGrid, Report, Sweep, write_report
from csb.evaluation.scores import hole_mask
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.evaluation.shown import as_images
from csb.networks.denoiser import Denoiser
from csb.problems import ClassProblem, Pairs, Problem
from csb.process import Grid
from csb.run.config import schedule_of
from csb.run.load import Run
from csb.run.twist import twist_of
from csb.samplers import BridgeSampler, ExactSampler, ParticleSampler, horizon, horizon_bias
from csb.samplers.build import GUIDED, BaselineSettings, Guide

_BIAS = 0.05  # a signal of this many noise deviations left at the horizon is worth a warning
_MORE = 1 + 1e-6  # horizons nearer to each other than this factor are one
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What is compared: methods, what is left out and why, and warnings for the reader."""

    methods: list[Method]
    warnings: list[str]


def schedule_text(config: dict[str, Any], grid: Grid) -> str:
    """E.g. "power, T = 10, ᾱ_T = 0.005"."""
    return f"{config['schedule']}, T = {grid.T}, ᾱ_T = {float(grid.alpha_bar[-1]):.2g}"


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
        if one.problem.spec() != run.problem.spec():
            raise CSBError(f"{one.folder} is a run of {one.problem.spec()}, not of {run.problem.spec()}; leave it out")
        T = one.bridge.grid.T
        name, text = f"bridge_{one.folder.name}", schedule_text(one.config["process"], one.bridge.grid)
        made = BridgeSampler(one.bridge, **vars(sampler))
        methods.append(Method(name, f"bridge, T = {T}", made, text, family="bridge"))
    if denoiser is not None:
        guide = _guide(run, denoiser, baselines, seed)
        warnings += horizon_warnings(guide)
        found, left_out = _guided(guide, run, baselines, seed)
        methods, warnings = methods + found, warnings + left_out
    elif baselines.methods:
        name = run.problem.name
        warnings.append(f"No guided sampler is compared: {name} has no likelihood y = H(x) + noise for guidance.")
    if run.problem.has_exact_posterior:
        methods.append(Method("exact", "exact posterior", ExactSampler(run.problem), reference=True))
    return Comparison(methods, warnings)


def _guide(run: Run, denoiser: Denoiser, settings: BaselineSettings, seed: int) -> Guide:
    """What the guided samplers share, on the run's schedule with a horizon that is given or suits the data."""
    problem = run.problem
    likelihood = twist_of(problem, denoiser, run.folder, settings.min_std, seed)
    end = settings.alpha_bar_end
    if end is None:
        end = horizon(likelihood.z_variance**0.5, denoiser.alpha_bar_end)
    grid = Grid.from_schedule(schedule_of(run.config["process"]).with_horizon(end), settings.T)
    return Guide(problem, denoiser, likelihood, grid, settings, run.bridge.precision)


def horizon_warnings(guide: Guide) -> list[str]:
    """Warnings where the horizon is too short for samplers that start from N(0, I), or too long for the denoiser."""
    end, trained = float(guide.grid.alpha_bar[-1]), guide.denoiser.alpha_bar_end
    bias, texts = horizon_bias(guide.grid, guide.likelihood.z_variance**0.5), []
    if bias >= _BIAS:
        lower = "baselines.alpha_bar_end" if end > _MORE * trained else "denoiser.alpha_bar_end and train it again"
        texts.append(
            f"At ᾱ_T = {end:.2g} a signal of {bias:.2g} standard deviations of the noise is left, and the guided "
            f"samplers start from N(0, I): their samples are biased. Lower {lower}."
        )
    if _MORE * end < trained:
        texts.append(
            f"The guided samplers start at ᾱ_T = {end:.2g}, and the denoiser was trained down to {trained:.2g} only: "
            f"their first steps rely on what it has not learnt. Raise baselines.alpha_bar_end."
        )
    for text in texts:
        logger.warning("%s", text)
    return texts


def _guided(guide: Guide, run: Run, settings: BaselineSettings, seed: int) -> tuple[list[Method], list[str]]:
    text = schedule_text(run.config["process"], guide.grid)
    methods: list[Method] = []
    left_out: list[str] = []
    particles = settings.particles or ([1, 4, 16] if guide.problem.is_image else [None])
    for name in settings.methods:
        made = GUIDED[name]
        try:
            if issubclass(made, ParticleSampler):
                counts = particles if made.guided else particles[-1:]
                methods += [_particles(guide, name, K, text) for K in counts]
            elif made.swept is not None:
                methods.append(_swept(guide, name, made.swept, run, text, seed))
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


def _swept(guide: Guide, name: str, swept: tuple[str, str], run: Run, text: str, seed: int) -> Method:
    """A method at the value of its argument with the best energy score on validation observations.

    The sweep goes into the report.
    """
    settings, label, (argument, symbol) = guide.settings, GUIDED[name].label, swept
    val, rows = guide.problem.pairs("val", settings.sweep_observations), []
    values = settings.sweeps[name]
    for value in values:
        method = Method(name, label, guide.make(name, **{argument: value}), text)
        try:
            drawn = draw(method, val.y, settings.sweep_samples, seed, len(val.y))
        except CSBError as error:  # a step size that is too large diverges
            rows.append({symbol: value, "energy_score": None, "crps": None, "spread/skill": None, "note": str(error)})
            continue
        scores = EnsembleScores()
        scores.update(drawn.x, val.x, mask=hole_mask(run.bridge, val.y))
        found = scores.compute()
        row = {"energy_score": found["energy_score"], "crps": found["crps"], "spread/skill": found["ratio"]}
        rows.append({symbol: value, **row, "note": ""})
        logger.info(
            "%s, %s = %g: energy score %.4g, CRPS %.4g", label, symbol, value, found["energy_score"], found["crps"]
        )
    usable = [i for i, row in enumerate(rows) if row["energy_score"] is not None]
    if not usable:
        raise CSBError(f"every {symbol} of {values} diverges; give smaller ones")
    chosen = min(usable, key=lambda i: rows[i]["energy_score"])
    title = f"{argument} {symbol} of {label} on {settings.sweep_observations} validation observations × "
    sweep = Sweep(f"{title}{settings.sweep_samples}", tuple(rows), chosen, "Chosen: the best energy score.")
    made = guide.make(name, **{argument: values[chosen]})
    return Method(name, f"{label}, {symbol} = {values[chosen]:g}", made, text, family=name, sweeps=(sweep,))


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
    classifier = digit_classifier(run.config["problem"]["root"], seed)[0] if problem.is_digit else None
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
    result = point_result(drawn, test, seed)
    if not problem.has_exact_posterior:
        return result
    y = test.y[: metrics.exact_observations]
    whole = draw(method, y, metrics.exact_samples, seed + 1, 1)
    return replace(result, metrics=result.metrics | against_exact(problem, whole, y, seed, metrics))


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


__all__ = ["Comparison", "build_methods", "compare", "horizon_warnings"]
