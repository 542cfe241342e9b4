"""What csb compare is given, checked, and what it shows: budgets, tables and curves of methods at equal cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from csb.errors import MOST_DRAWS, CSBError
from csb.evaluation.catalogue import amount, best, metric, show
from csb.evaluation.charts import axis_label, reference_lines
from csb.evaluation.plots import Line, Panel, look
from csb.evaluation.rows import Row
from csb.evaluation.scores import MetricsSettings
from csb.problems import ClassProblem, Problem, build_problem
from csb.process import Schedule
from csb.process.schedule import MOST_STEPS
from csb.runs.config import schedule_of
from csb.runs.methods import METHODS, Method
from csb.runs.recipe import BaselineSettings
from csb.samplers import GUIDED
from csb.schema import Count, Distinct, Given, OneOf, Place, Positive, Schema, Whole

KEYS = {  # by kind of problem, the metrics of its tables; the first sorts them
    "exact": ("sliced_w", "sliced_w_floor", "c2st", "mean_error", "cov_error"),
    "images": ("crps", "energy_score", "psnr_mean_per_image", "spread_skill_fair"),
    "vectors": ("energy_score", "crps", "spread_skill_fair"),
}
_SIZES = {True: (100, 16), False: (20, 1000)}  # observations and samples, for images and for vectors
_SECONDS = {True: (0.01, 0.1, 1.0), False: (1e-4, 1e-3)}
_C2ST = 3  # observations
_ONE = {"passes": "pass", "seconds": "second"}
_Several = Annotated[int, Field(ge=2, le=MOST_DRAWS)]


class CompareSettings(Schema):
    """What is compared, and at which cost."""

    run: Place | None = None
    """The folder of a run on this problem: its bridge, score, flow and denoiser, whichever are there."""
    others: Annotated[list[Place], Distinct] = []
    """Folders of more runs on it, e.g. of a bridge at another T."""
    prior: Place | None = None
    """A folder whose denoiser guides, e.g. of a run on other observations of the same digits; null: that of run."""
    methods: Annotated[list[Annotated[str, OneOf(METHODS)]], Distinct, Field(min_length=1)] | None = None
    """Which are compared; null: all that the problem and the runs admit."""
    calls: Annotated[list[Count], Distinct] = [10, 100]
    """Budgets of network passes a sample, forward and backward alike; a table each."""
    seconds: Annotated[list[Positive], Distinct] | None = None
    """Budgets of seconds a sample, on this machine; a table each; null: 0.01, 0.1 and 1 for images, 0.0001 and 0.001
    for vectors."""
    steps: int = Field(default=1000, ge=1, le=MOST_STEPS, description="the most of any method")
    observations: _Several | None = Field(default=None, description="of the test split; null: 100 images, 20 vectors")
    samples: _Several | None = Field(default=None, description="of each; null: 16 images, 1000 vectors")
    c2st_samples: Annotated[int, Field(ge=0, le=MOST_DRAWS)] = 0
    """Of each law, for C2ST to the exact posterior, on the first three observations; 0 leaves it out."""
    schedule: dict[str, Any] | None = None
    """Of the guided samplers, e.g. {name: cosine, alpha_bar_end: 1e-3, offset: 0.008}; null: that of run, else
    linear."""
    seed: Whole = Field(default=0, description="of all samples")
    out: Place = "outputs/compare/${problem.name}"
    """The folder of compare.json, compare.md and compare.png."""

    @model_validator(mode="after")
    def _some_budget(self) -> Self:
        if not self.calls and self.seconds == []:
            raise CSBError("calls=[] and seconds=[] leave nothing to compare at; give budgets, e.g. calls=[10,100]")
        return self


class Budget(NamedTuple):
    """So much of one cost a sample: "passes" through the network, forward and backward, or "seconds"."""

    unit: str
    amount: float

    @property
    def text(self) -> str:
        """E.g. "10 passes" or "0.1 seconds"."""
        return f"{self.amount:g} {_ONE[self.unit] if self.amount == 1 else self.unit}"


class Comparison:
    """A checked comparison: what was given, and what follows from it.

    Attributes:
        kind: a key of KEYS.
        schedule: of the guided samplers where one was given.
        baselines: of the guided samplers; T and methods are not used.
        budgets: in ascending order, passes first.
        metrics: of the distances to the exact posterior.
    """

    def __init__(self, problem: Problem, settings: CompareSettings, baselines: BaselineSettings) -> None:
        self.problem, self.settings, self.baselines = problem, settings, baselines
        self.schedule: Schedule | None = None if settings.schedule is None else schedule_of(settings.schedule)
        self.kind = "exact" if problem.has_exact_posterior else "images" if problem.is_pixels else "vectors"
        observations, samples = _SIZES[problem.is_image]
        self.observations, self.samples = settings.observations or observations, settings.samples or samples
        self.methods = list(METHODS) if settings.methods is None else settings.methods
        seconds = _SECONDS[problem.is_image] if settings.seconds is None else settings.seconds
        self.budgets = [Budget("passes", n) for n in sorted(settings.calls)]
        self.budgets += [Budget("seconds", float(s)) for s in sorted(seconds)]
        self.metrics = MetricsSettings(c2st_samples=settings.c2st_samples, c2st_observations=_C2ST)


def read(given: Given) -> Comparison:
    """The checked settings. CSBError with one line for the first thing that is wrong."""
    plain = dict(given)
    if not isinstance(plain["problem"], dict):
        raise CSBError(f"problem={plain['problem']!r} is no problem; give the name of one")
    problem, group = build_problem(plain.pop("problem")), plain.pop("baselines")
    baselines = BaselineSettings.read(group | {"methods": list(GUIDED)} if isinstance(group, dict) else group)
    if isinstance(problem, ClassProblem) and problem.is_digit:
        raise CSBError(
            f"problem={problem.name}: samples of a class are scored by csb evaluate; compare another problem"
        )
    found = Comparison(problem, CompareSettings.read(plain), baselines)
    for K in baselines.particles or []:
        if found.samples % K:
            raise CSBError(
                f"samples={found.samples} is no multiple of {K}, which is among baselines.particles; a run returns all "
                f"its particles"
            )
    return found


@dataclass(frozen=True)
class Fit:
    """A method at the steps that fit a budget.

    Attributes:
        row: its costs and scores, seconds for one sample; None where no step fits, or for ``reason``.
        T: steps; None where that has no meaning.
        choice: the value that a sweep chose, e.g. "ζ = 0.3", or "".
        at_most: more steps would fit, and steps= forbids them.
    """

    budget: Budget
    method: Method
    row: Row | None = None
    T: int | None = None
    choice: str = ""
    reason: str = ""
    at_most: bool = False

    def plain(self) -> dict[str, Any]:
        """For compare.json."""
        assert self.row is not None
        return {
            "method": self.method.name, "label": self.method.label, "T": self.T, "passes": self.row.evaluations,
            "seconds": self.row.seconds, "metrics": self.row.metrics, "standard_errors": self.row.standard_errors,
            "reference": self.method.reference, "choice": self.choice,
        }  # fmt: skip


def ranked(rows: Iterable[Row], key: str) -> list[Row]:
    """Rows from the best value of a metric to the worst, those without one behind them, and references last."""
    of = metric(key)

    def place(row: Row) -> tuple[bool, bool, float]:
        value = row.metrics.get(key)
        return row.reference, value is None, 0.0 if value is None else of.cost(value)

    return sorted(rows, key=place)


def budget_table(fits: Sequence[Fit], kind: str, marks: tuple[str, str] = ("**", "**")) -> list[dict[str, Any]]:
    """The rows of one budget as a table, sorted by accuracy; text only, so that digits stay as they are.

    Args:
        fits: of one budget; those without a row are left out.
        kind: a key of KEYS.
        marks: put around the best value of a metric and around what differs from it by no more than the standard error
            of the difference.
    """
    steps = {fit.row.name: fit.T for fit in fits if fit.row is not None}
    rows = [fit.row for fit in fits if fit.row is not None]
    keys = [key for key in KEYS[kind] if any(row.metrics.get(key) is not None for row in rows)]
    winners = {key: best(metric(key), rows) for key in keys}
    table = []
    for row in ranked(rows, KEYS[kind][0]):
        line = {
            "method": row.label, "T": steps[row.name], "passes": amount(row.evaluations),
            "seconds": f"{row.seconds:.2g}",
        }  # fmt: skip
        for key in keys:
            error = None if key.endswith("_floor") else row.standard_errors.get(key)
            text = show(row.metrics.get(key)) + ("" if error is None else f" ± {error:.1g}")
            name = metric(key).label + (f" {metric(key).arrow}" if metric(key).arrow else "")
            line[name] = f"{marks[0]}{text}{marks[1]}" if row.name in winners[key] else text
        table.append(line)
    return table


def cost_panels(fits: Sequence[Fit], kind: str, title: str) -> list[Panel]:
    """The metric that sorts the tables against passes and against seconds, a line or point a method; or nothing."""
    of = metric(KEYS[kind][0])
    fits = [fit for fit in fits if fit.row is not None and fit.row.metrics.get(of.key) is not None]
    rows = list({(fit.method.name, fit.T): fit.row for fit in fits if fit.row is not None}.values())
    labels = {fit.method.name: fit.method.label for fit in fits if not fit.method.reference}
    positive = rows and min(row.metrics[of.key] or 0 for row in rows) > 0
    panels = []
    for unit, cost in (("passes", lambda row: row.evaluations), ("seconds", lambda row: row.seconds)):
        lines = []
        for i, (name, label) in enumerate(labels.items()):
            own = sorted((row for row in rows if row.name == name and cost(row) > 0), key=cost)
            y, errors = (
                [row.metrics[of.key] or 0.0 for row in own],
                [row.standard_errors.get(of.key) or 0.0 for row in own],
            )
            lines.append(Line(look(label, i), [cost(row) for row in own], y, errors))
        title_of = title if not panels else ""
        scale = "log" if positive else "linear"
        x_label = "network passes a sample" if unit == "passes" else "seconds a sample"
        panels.append(Panel(title_of, x_label, axis_label(of), lines, reference_lines(rows, of), scale))
    return panels
