"""Scores of trained runs against exact posteriors, into one table: python scripts/benchmark.py suite=sbi.

The trainings are a sweep of Hydra's, csb train -m; with sweep=joblib its jobs run side by side, each with a log in its
folder, and with resume=true a sweep that was stopped goes on. Beside the bridges of each problem and number of pairs a
score and a flow are trained, once, into the folder of the first of the runs.
"""

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field

import csb
from csb.errors import CSBError
from csb.evaluation.plots import draw_curves
from csb.evaluation.results import Results
from csb.evaluation.table import markdown_table, print_table
from csb.files import checksum, model_file, write_json, write_text
from csb.runs.config import read
from csb.runs.folder import check_writable, writing
from csb.runs.load import Run, finished, load_run
from csb.runs.stages import load_stage, stage_files, stage_job
from csb.samplers import BridgeSampler, ExactSampler, Sampler, flow_sampler, score_sampler
from csb.schema import Count, Distinct, Given, OneOf, Place, Schema
from suites.machine import machine
from suites.scores import PUBLISHED, Scores, ScoreSettings, scores_of, suite_panels, suite_tables

logger = logging.getLogger(__name__)
METHODS = ("exact", "bridge", "score", "flow")


class SuiteSettings(Schema):
    """What is scored, and how."""

    group = "suite"

    name: str = Field(description="of the suite")
    out: Place = Field(description="the folder of scores and tables")
    runs: Annotated[list[Place], Distinct, Field(min_length=1)]
    """Folders of finished runs, or of sweeps; their problems have an exact posterior."""
    T: Annotated[list[Count], Distinct, Field(min_length=1)]
    """Numbers of network calls that score and flow are sampled at."""
    iterations: Annotated[list[Count], Distinct, Field(min_length=1)] | None
    """Which iterations of the bridges are scored; null for all."""
    methods: Annotated[list[Annotated[str, OneOf(METHODS)]], Distinct, Field(min_length=1)]
    """What is scored: exact, for the floors of all distances; bridge; score, flow."""
    score: ScoreSettings = Field(description="how much a score takes")


@cache
def opened(folders: tuple[str, ...]) -> list[Run]:
    """The finished runs in all folders; those of a sweep that are not finished are named, and left out.

    CSBError for a folder without one, and for one without an exact posterior. Kept: what is checked is then scored.
    """
    found: list[Run] = []
    for folder in map(Path, folders):
        parts = [folder] if finished(folder) else sorted(folder.glob("*/"))
        if not any(map(finished, parts)):
            raise CSBError(f"suite.runs holds {folder}, where no run is finished; give folders that csb train made")
        for part in parts:
            if finished(part):
                found.append(load_run(part))
            else:
                logger.warning("%s is not finished, and left out", part)
    for run in found:
        if not run.problem.has_exact_posterior:
            raise CSBError(f"{run.folder} is of {run.problem.name}, which has no exact posterior; leave it out")
    return found


class Candidate(NamedTuple):
    """One sampler to score.

    Attributes:
        method: a name of METHODS.
        label: of the method in tables, without T and L.
        T, L: steps, and iterations behind it; None where that has no meaning.
        sampler: made for the problem.
        source: the file whose content its samples depend on; None for none.
        train_seconds: what its training took; None where that is not known.
    """

    method: str
    label: str
    T: int | None
    L: int | None
    sampler: Sampler
    source: Path | None = None
    train_seconds: float | None = None


def _bridges(run: Run, which: list[int] | None) -> Iterator[Candidate]:
    """The bridge after each iteration of a training, whose time is that until the end of the iteration."""
    seconds = {row["half_step"]: row.get("seconds") for row in run.history}
    backward = [(name, bridge) for name, bridge in run.half_steps if name.endswith("backward")]
    for L, (name, bridge) in enumerate(backward, start=1):
        if which is None or L in which:
            source = model_file(run.folder, f"half_steps/{name}")
            yield Candidate("bridge", "bridge", bridge.grid.T, L, BridgeSampler(bridge), source, seconds.get(name))


def _amortized(run: Run, stage: str, T: list[int]) -> Iterator[Candidate]:
    """The model of a stage in a run's folder, trained where it lacks, at each number of network calls.

    A score by DDPM and by DPM-Solver++ on the grid of Karras et al.; a flow by Euler's rule, and by Heun's on half as
    many steps where T is even.
    """
    source, _ = stage_files(run.folder, stage)
    if not source.exists():
        place = {"out": str(run.folder.parent), "name": run.folder.name}
        stage_job(read({**run.config, **place, "stage": stage, "resume": True, "overwrite": False}))
    model = load_stage(run.folder, stage)
    for t in T:
        if stage == "score":
            made = {"score, DDPM": score_sampler(model, "ddpm", t),
                    "score, DPM-Solver++": score_sampler(model, "dpmpp", t, spacing="karras")}  # fmt: skip
        else:
            made = {"flow, Euler": flow_sampler(model, "euler", t)}
            made |= {} if t % 2 else {"flow, Heun": flow_sampler(model, "heun", t // 2)}
        for label, sampler in made.items():
            yield Candidate(stage, label, t, None, sampler, source, model.about["seconds"])


def _candidates(run: Run, first: set[str], settings: SuiteSettings) -> Iterator[Candidate]:
    """What is scored at a run. ``first``: of what it is the first, "problem", or "pairs" of that problem."""
    if "exact" in settings.methods and "problem" in first:
        yield Candidate("exact", "exact", None, None, ExactSampler(run.problem))
    if "bridge" in settings.methods:
        yield from _bridges(run, settings.iterations)
    for stage in ("score", "flow"):
        if stage in settings.methods and "pairs" in first:
            yield from _amortized(run, stage, settings.T)


def _rows(run: Run, first: set[str], settings: SuiteSettings, store: Results) -> Iterator[dict[str, Any]]:
    """The scores of all samplers of a run, those that are stored as they are."""
    problem, seed = run.problem, run.config["seed"]
    problem.prepare()
    for one in _candidates(run, first, settings):
        about = {"label": one.label, "T": one.T, "L": one.L}
        source = None if one.source is None else checksum(one.source)
        sampler = {**about, "source": source, "problem": problem.spec(), "csb": csb.__version__}
        scores = scores_of(one.sampler, problem, settings.score, Scores(store, sampler))
        trained = {"pairs": problem.sizes["train"], "seed": seed} if one.source else {"pairs": None, "seed": None}
        head = {"problem": problem.name, "method": one.method, **trained}
        logger.info("%s: %s, T = %s, L = %s: sliced W %.4g, C2ST %s", run.folder, one.label, one.T, one.L,
                    scores["sliced_w"], scores.get("c2st"))  # fmt: skip
        yield {**head, **about, "train_seconds": one.train_seconds, **scores}


def check(given: Given) -> Callable[[], None]:
    """Checks the suite's own settings. Returns the check of the runs and of the folder."""
    settings = SuiteSettings.read(given["suite"])

    def later() -> None:
        most = max(run.config["L"] for run in opened(tuple(settings.runs)))
        if beyond := [i for i in settings.iterations or [] if i > most]:
            raise CSBError(
                f"iteration {beyond[0]} of suite.iterations is not among 1..{most} of the runs; leave it out"
            )
        check_writable(Path(settings.out))

    return later


def suite(given: Given) -> None:
    """Scores what is not scored yet, and writes ``suite.json``, ``suite.md`` and ``suite.png`` after each run."""
    settings = SuiteSettings.read(given["suite"])
    out, rows, seen = Path(settings.out), list[dict[str, Any]](), set[str]()
    with writing(out):
        store = Results(out / "scores.json")
        for run in opened(tuple(settings.runs)):
            spec = {key: value for key, value in run.problem.spec().items() if key != "n_train"}
            keys = {"problem": str(spec), "pairs": f"{spec}, {run.problem.sizes['train']}, {run.config['seed']}"}
            first = {name for name, key in keys.items() if key not in seen}
            seen |= set(keys.values())
            rows += _rows(run, first, settings, store)
            tables = _write(rows, settings, out)
    for title, table in tables.items():
        print_table(table, title=title)
    logger.info("tables: %s", out / "suite.md")


def _write(rows: list[dict[str, Any]], settings: SuiteSettings, out: Path) -> dict[str, list[dict[str, Any]]]:
    """The files of the rows so far; the tables by title."""
    tables, problems = suite_tables(rows, PUBLISHED), {row["problem"] for row in rows}
    picture = draw_curves(out / "suite.png", suite_panels(rows, PUBLISHED))
    own = [one._asdict() for one in PUBLISHED if one.problem in problems]
    about = {"settings": settings, "machine": machine(torch.device("cpu")), "rows": rows, "published": own}
    write_json(out / "suite.json", about)
    score = settings.score
    text = "".join(f"## {title}\n\n{markdown_table(table)}\n" for title, table in tables.items())
    head = (
        f"# Suite {settings.name}\n\n"
        f"Against the exact posterior, on {score.observations} test observations × {score.samples} samples. C2ST: mean "
        f"± standard error over the first {score.c2st_observations} of them × {score.c2st_samples} samples; ½ is best. "
        f"Sliced W: W_1 over {score.projections} directions; its floor is that of exact against exact samples. The "
        f"columns are numbers of training pairs; several seeds are averaged. Training seconds of L iterations are "
        f"those until the end of the L-th backward half-step.\n\n"
    )
    write_text(out / "suite.md", head + text + ("![C2ST against network calls](suite.png)\n" if picture else ""))
    return tables
