"""The evaluation of a finished run: tables on the screen and ``evaluation.json``, ``.md``, ``.png`` in its folder."""

import logging
from typing import Any

from csb.bridge import Bridge
from csb.evaluation.gaussian import half_step_table, recursion_table
from csb.evaluation.pictures import draw_bridge
from csb.evaluation.results import bridge_row
from csb.evaluation.rows import Report
from csb.evaluation.scores import (
    MetricsSettings,
    SamplerSettings,
    digit_classifier,
    exact_scores,
    held_out,
    warn_of_failure,
)
from csb.evaluation.table import markdown_table, print_table
from csb.files import write_json, write_text
from csb.networks.diffusion import Denoiser
from csb.problems import LinearGaussian
from csb.problems.mnist_problem import MnistProblem
from csb.process import Stream
from csb.runs.config import schedule_of
from csb.runs.folder import writing
from csb.runs.guided import can_be_guided
from csb.runs.load import Run
from csb.runs.recipe import BaselineSettings
from csb.runs.report import compare, entries_of
from csb.runs.stages import stored_denoiser, train_stage
from csb.training.state import chosen_iteration, end_figures

logger = logging.getLogger(__name__)
Tables = dict[str, list[dict[str, Any]]]
RECURSIONS = {  # objective and covariance whose recursion is known in closed form
    ("likelihood", "full"): "likelihood",
    ("likelihood", "diagonal"): "likelihood_diagonal",
    ("mean_matching", "fixed"): "mean_matching",
    ("bridge_matching", "full"): "bridge_matching",
}
UNITS = "CRPS to skill in units of the prior's standard deviation"
HALF_STEPS = (
    "half_step", "loss", "x0_distance", "x0_floor", "xT_distance", "xT_floor", "drift_norm", "inflation",
    "spread_skill_before", "fill_share", "cache_mib",
)  # fmt: skip


def iterations(run: Run) -> list[tuple[int, Bridge]]:
    """(iteration, bridge) at the end of every backward half-step."""
    backward = [bridge for name, bridge in run.half_steps if name.endswith("backward")]
    return list(enumerate(backward, start=1))


def evaluate(run: Run, sampler: SamplerSettings, metrics: MetricsSettings, seed: int) -> Tables:
    """Scores every iteration on the frozen test observations, writes and prints the tables, draws the picture."""
    with writing(run.folder):
        problem = run.problem
        problem.prepare()
        tables = (_exact if problem.has_exact_posterior else _held_out)(run, sampler, metrics, seed)
        if run.history:
            rows = [{key: row[key] for key in HALF_STEPS if key in row} for row in run.history]
            tables["half-steps, as trained"] = rows
        write_json(run.folder / "evaluation.json", tables)
        text = "".join(f"## {title}\n\n{markdown_table(rows)}\n\n" for title, rows in tables.items())
        write_text(run.folder / "evaluation.md", text)
        for title, rows in tables.items():
            print_table(rows, title=title)
        _picture(run, metrics, seed)
        figures = {**_chosen(run, next(iter(tables.values()))), **end_figures(run.history)}
        warn_of_failure(run.folder, figures, problem, sampler, metrics)
        return tables


def _chosen(run: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of the iteration that the run's bridge is of, from a table with a row, or a column, for each."""
    number = chosen_iteration(run.history) if run.history else len(iterations(run))
    if "figure" in rows[0]:
        return {row["figure"]: row.get(f"iteration {number}") for row in rows}
    return next((row for row in rows if row["iteration"] == number), {})


def denoiser_of(run: Run, baselines: BaselineSettings, seed: int, bar: bool = True) -> Denoiser | None:
    """The denoiser for a comparison: exact, stored, or trained now and stored. None where none is needed."""
    if not baselines.methods or not can_be_guided(run.problem):
        return None
    if (found := stored_denoiser(run.problem, run.folder, run.bridge.device)) is not None:
        return found
    logger.info("no denoiser is stored in %s: it is trained now, once", run.folder)
    return train_stage(run.problem, run.config, run.folder, seed, resume=True, bar=bar)


def compare_run(
    run: Run,
    others: list[Run],
    baselines: BaselineSettings,
    sampler: SamplerSettings,
    metrics: MetricsSettings,
    seed: int,
    command: str,
    bar: bool = True,
) -> Report:
    """The comparison with other samplers on the frozen test observations: ``report.html`` and its companions."""
    with writing(run.folder):
        run.problem.prepare()
        denoiser = denoiser_of(run, baselines, seed, bar)
        entries, warnings = entries_of(run, others, denoiser, baselines, sampler, seed)
        report = compare(run, entries, warnings, metrics, seed, command)
    figures = {m.label: {"passes": m.evaluations, "seconds": m.seconds, **m.metrics} for m in report.methods}
    names = dict.fromkeys(name for of_one in figures.values() for name in of_one)
    rows = [{"figure": name, **{label: of_one.get(name) for label, of_one in figures.items()}} for name in names]
    print_table(rows, title=report.title)  # a row a figure: these are more than fit beside each other
    logger.info("report: %s", run.folder / "report.html")
    return report


def _exact(run: Run, sampler: SamplerSettings, metrics: MetricsSettings, seed: int) -> Tables:
    problem = run.problem
    rows = [{"iteration": i, **exact_scores(problem, bridge, sampler, metrics, seed)} for i, bridge in iterations(run)]
    n, m = metrics.exact_observations, metrics.exact_samples
    tables: Tables = {f"against the exact posterior, {n} observations × {m} samples": rows}
    if isinstance(problem, LinearGaussian):
        objective, L = run.config["objective"], run.config["L"]
        recursion = RECURSIONS.get((objective["name"], run.bridge.backward_kernel.covariance))
        if recursion is not None:
            title = f"trained half-steps against the exact recursion of {recursion}, relative errors"
            tables[title] = half_step_table(problem, run.half_steps, recursion, seed)
        T = run.bridge.grid.T
        tables[f"where the exact recursions end after L = {L}, relative errors"] = recursion_table(
            problem, schedule_of(run.config["schedule"]), L, sorted({T, 20, 50, 100, 200})
        )
    return tables


def _held_out(run: Run, sampler: SamplerSettings, metrics: MetricsSettings, seed: int) -> Tables:
    problem, classifier, title, units = run.problem, None, "held-out pairs", f", {UNITS}"
    if problem.is_pixels:
        title, units = "test images", ""
    if isinstance(problem, MnistProblem):
        classifier, accuracy = digit_classifier(problem.root, seed)
        title, units = "test digits", f" (classifier: {accuracy:.2%} on the test set)"
    rows, curves = [], None
    for iteration, bridge in iterations(run):
        row = bridge_row(problem, bridge, sampler, metrics, seed, classifier)
        cost, curves = {"calls": row.forward_evaluations, "seconds": row.seconds}, row.curves.std_error
        rows.append({"iteration": iteration, **row.metrics, **cost})
    count = len(held_out(problem, metrics.observations).x)
    title = f"on {count} {title} × {metrics.samples} samples{units}"
    if curves is None:
        return {title: rows}
    figures = [
        {"figure": key, **{f"iteration {row['iteration']}": row[key] for row in rows}}
        for key in rows[0]
        if key != "iteration"
    ]
    bins = [{"bin": i, "pixel_std": s, "rmse_of_mean": e} for i, (s, e) in enumerate(zip(curves.std, curves.error), 1)]
    return {title: figures, "pixel std of the last iteration against its error, in ten bins of pixels": bins}


def _picture(run: Run, metrics: MetricsSettings, seed: int) -> None:
    """Posterior samples of the first test observations."""
    problem, rows = run.problem, metrics.picture_rows
    n, stream = 64 if problem.is_image else 1000, Stream.EVALUATION_PICTURE
    title = f"{problem.name}: test {'digits' if problem.is_digit else 'observations'}, T = {run.bridge.grid.T}"
    title += f", {run.iteration}" if run.iteration else ""
    draw_bridge(run.folder / "evaluation.png", run.bridge, problem, held_out(problem, rows), n, seed, stream, title)
