"""What each metric means, which way is better, who is best, and the table of all methods that shows it.

PSNR and SSIM of single samples are shown without a winner: they are greatest where samples collapse onto the posterior
mean, and a sampler that gives up the spread of the posterior must not win. The share of right digits is ranked: samples
that show the digit are wanted, and a blur of several digits does not count as one. It too can be raised by collapse,
onto the likeliest digit, which spread/skill and the digits' entropy beside it tell.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from csb.evaluation.rows import Report, Row
from csb.evaluation.table import MISSING, escape_markdown, format_value, markdown_table

GROUPS = ("Accuracy", "Distance to the exact posterior", "Calibration", "Single samples", "Other")


@dataclass(frozen=True)
class Metric:
    """What one metric means, and which values are better."""

    key: str  # its name in ``Row.metrics``
    label: str  # short, for a column
    group: str = "Other"  # one of GROUPS
    direction: str = ""  # "higher", "lower", "target" or "" where no direction is better
    explanation: str = ""
    unit: str = ""
    target: float = 0.0  # the best value where direction is "target"
    ratio: bool = False  # |log(value/target)| counts: half and twice the target are equally bad
    is_ranked: bool = True  # False: the best value is not marked although a direction is better

    @property
    def ranked(self) -> bool:
        """Whether the best value is marked."""
        return bool(self.direction) and self.is_ranked

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "target": f"→ {self.target:g}"}.get(self.direction, "")

    @property
    def sense(self) -> str:
        """The direction in words."""
        if self.direction == "target":
            return f"best at {self.target:g}"
        return f"{self.direction or 'no direction'} is better"

    def cost(self, value: float) -> float:
        """Smaller is better; ∞ where the value cannot be compared."""
        if self.direction == "target":
            if not self.ratio:
                return abs(value - self.target)
            return abs(math.log(value / self.target)) if value > 0 else math.inf
        return -value if self.direction == "higher" else value


METRICS = {metric.key: metric for metric in (
    Metric("psnr_mean", "PSNR of mean", "Accuracy", "higher",
           "Peak signal-to-noise ratio of the posterior mean, from the squared error over all pixels and images.",
           unit="dB"),
    Metric("psnr_mean_per_image", "PSNR per image", "Accuracy", "higher",
           "The PSNR of each image's posterior mean, averaged over images; never below the pooled one.", unit="dB"),
    Metric("ssim_mean", "SSIM of mean", "Accuracy", "higher",
           "Structural similarity of the posterior mean and the truth; 1 for equal images."),
    Metric("crps", "CRPS", "Accuracy", "lower",
           "Continuous ranked probability score: a proper score of each coordinate's law, small only where samples are "
           "both near the truth and as spread as they should be. In units of the prior's standard deviation of each "
           "coordinate; pixels in [0, 1] as they are."),
    Metric("energy_score", "Energy score", "Accuracy", "lower",
           "The CRPS of all coordinates jointly, in the same units: a proper score that also sees wrong dependence "
           "between them."),
    Metric("frechet", "Fréchet", "Accuracy", "lower",
           "Fréchet distance between the classifier's features of the samples of a class and of real images of it, "
           "averaged over classes. It rises where few samples carry the weight."),
    Metric("frechet_floor", "Fréchet, floor", "Accuracy", "",
           "The same of as many other real images: what a perfect sampler would score."),
    Metric("sliced_w", "Sliced W", "Distance to the exact posterior", "lower",
           "Sliced Wasserstein distance between samples and exact posterior samples, averaged over directions, in the "
           "units of the data: the coordinate of the largest unit counts most."),
    Metric("sliced_w_floor", "Sliced W, floor", "Distance to the exact posterior", "",
           "The same distance between two independent sets of exact samples: what a perfect sampler would score."),
    Metric("c2st", "C2ST", "Distance to the exact posterior", "target",
           "Accuracy of a classifier trained to tell samples from exact ones; 0.5 where it can only guess.",
           target=0.5),
    Metric("mmd", "MMD", "Distance to the exact posterior", "lower",
           "Maximum mean discrepancy between samples and exact ones under a Gaussian kernel; 0 for equal laws."),
    Metric("mean_error", "Error of mean", "Distance to the exact posterior", "lower",
           "Distance of the sample mean from the exact posterior mean, in units of the posterior's standard "
           "deviation."),
    Metric("cov_error", "Error of covariance", "Distance to the exact posterior", "lower",
           "Relative Frobenius error of the samples' covariance."),
    Metric("mode_tv", "Mode weights, TV", "Distance to the exact posterior", "lower",
           "Total variation between the shares of samples in each mode and the exact weights: sees lost modes."),
    Metric("spread_skill", "Spread/skill", "Calibration", "target",
           "Spread (root mean variance of the samples) over skill (root mean squared error of their mean), both in "
           "units of x; below 1: too sure, above: too wide. With n samples a perfect sampler scores √(n/(n + 1)).",
           target=1.0, ratio=True),
    Metric("spread_skill_fair", "Spread/skill, fair", "Calibration", "target",
           "Spread/skill times √(1 + 1/n): 1 for a calibrated sampler with any number n of samples (Fortin et al. "
           "2014).", target=1.0, ratio=True),
    Metric("variance_ratio", "Variance ratio", "Calibration", "target",
           "Variance of the samples of a class over that of real images of it, averaged over classes: below 1 they are "
           "less diverse.", target=1.0, ratio=True),
    Metric("coverage_deviation", "Coverage gap", "Calibration", "lower",
           "Mean distance between the share of truths inside credible regions and their nominal level."),
    Metric("tarp_deviation", "TARP gap", "Calibration", "lower",
           "Mean distance from the diagonal of the TARP curve: coverage of regions around random reference points, "
           "which tests the joint law."),
    Metric("sbc_p", "SBC p-value", "Calibration", "",
           "p-value of the test that the truth's rank among the samples is uniform. Not ranked: above about 0.05 it "
           "only says that no miscalibration was found."),
    Metric("std_error_pearson", "Std–error corr.", "Calibration", "higher",
           "Correlation between predicted standard deviation and absolute error of the mean over pixels."),
    Metric("psnr_sample", "PSNR of samples", "Single samples", "higher",
           "PSNR of single samples, some 3 dB below that of the mean for a perfect sampler. Not ranked: samples that "
           "collapse onto one guess score higher.", unit="dB", is_ranked=False),
    Metric("ssim_sample", "SSIM of samples", "Single samples", "higher",
           "Structural similarity of single samples and the truth. Not ranked: samples that collapse onto one guess "
           "score higher.", is_ranked=False),
    Metric("digit_accuracy", "Right digit", "Single samples", "higher",
           "Share of samples that a classifier reads as the true digit. Ranked: samples are to show it. Collapse onto "
           "the likeliest digit raises it too, so read it beside spread/skill and the digits' entropy."),
    Metric("digit_entropy", "Digit entropy", "Single samples", "",
           "Entropy of the digits that a classifier reads in the samples of one observation; to compare with the exact "
           "posterior's, where it is known.", unit="nat"),
)}  # fmt: skip
ACCURACY = {  # by kind of problem, first choice first
    "images": ("psnr_mean", "crps", "energy_score", "psnr_mean_per_image"),
    "points": ("sliced_w", "c2st", "mmd", "mean_error", "energy_score", "crps"),
}


def metric(key: str) -> Metric:
    """The metric of a key; an unknown one under its raw name, without direction and never ranked."""
    return METRICS.get(key) or Metric(key, key)


def metrics_of(report: Report) -> list[Metric]:
    """Every metric that some method has: known ones in the order of METRICS, then others as they first appear."""
    found = dict.fromkeys(key for method in report.methods for key in method.metrics)
    known = [m for key, m in METRICS.items() if key in found]
    return known + [metric(key) for key in found if key not in METRICS]


def accuracy_metrics(report: Report) -> list[Metric]:
    """The metrics of the accuracy charts: the two first choices for the kind of problem that a ranked method has."""
    compared = report.compared or list(report.methods)
    known = [key for key in ACCURACY[report.kind] if any(m.value(key) is not None for m in compared)]
    return [metric(key) for key in known[:2]]


def headline_keys(report: Report) -> list[str]:
    """The metrics that a summary names: those of the charts, spread/skill (fair where it is known), coverage, TARP."""
    fair = any(m.value("spread_skill_fair") is not None for m in report.methods)
    ratio = "spread_skill_fair" if fair else "spread_skill"
    return [m.key for m in accuracy_metrics(report)] + [ratio, "coverage_deviation", "tarp_deviation"]


def show(value: float | None) -> str:
    """A value with 4 significant digits and a proper minus sign, "–" where it is missing."""
    return MISSING if value is None else format_value(value).replace("-", "−")


def best(of: Metric, methods: Iterable[Row]) -> frozenset[str]:
    """Names of the methods with the best value, ties included.

    A tie is a value displayed alike, or one that differs from the best by no more than the standard error of their
    difference, √(s_a² + s_b²), where both standard errors are known. On shared observations that is an upper bound.

    Empty for a metric that is not ranked, and where fewer than two methods compete. Reference methods do not compete.
    """
    methods = [m for m in methods if not m.reference]
    values: Mapping[str, float] = {m.name: v for m in methods if (v := m.value(of.key)) is not None}
    if not of.ranked or len(values) < 2:
        return frozenset()
    costs = {name: of.cost(value) for name, value in values.items()}
    first = min(costs, key=lambda name: costs[name])
    least = costs[first]
    if math.isinf(least):
        return frozenset()
    texts = {show(values[name]) for name, cost in costs.items() if cost == least}
    errors = {m.name: e for m in methods if (e := m.error(of.key)) is not None and m.name in values}

    def ties(name: str) -> bool:
        if show(values[name]) in texts or math.isclose(costs[name], least, rel_tol=1e-9):
            return True
        if first not in errors or name not in errors or math.isinf(costs[name]):
            return False
        scale = [abs(values[n]) if of.ratio else 1.0 for n in (first, name)]  # d log v = dv/v
        return costs[name] - least <= math.hypot(errors[first] / scale[0], errors[name] / scale[1])

    return frozenset(name for name in values if ties(name))


class Cell(NamedTuple):
    """A value as text; whether it is the best; its standard error as text or ""."""

    text: str
    best: bool = False
    error: str = ""


class Column(NamedTuple):
    """A column: its group, label, unit or direction below it, its key in the glossary, and its cells."""

    group: str
    label: str
    note: str
    key: str
    cells: list[Cell]


def amount(value: float | None) -> str:
    """A cost: three significant digits, thousands with separators, never an exponent."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{float(f'{value:.3g}'):.6g}"


_COSTS: tuple[tuple[str, str, str, str, Callable[[Row], float | None]], ...] = (
    ("Cost of one sample", "Forward", "network passes", "forward", lambda m: m.forward_evaluations),
    ("Cost of one sample", "Backward", "network passes", "backward", lambda m: m.backward_evaluations),
    ("Cost of the call", "Time", "s", "seconds", lambda m: m.seconds),
    ("Cost of the call", "Peak memory", "MiB", "memory", lambda m: m.peak_memory and m.peak_memory / 2**20),
    ("Particles", "ESS", "mean", "ess", lambda m: m.ess and m.ess[0]),
    ("Particles", "ESS", "smallest", "ess", lambda m: m.ess and m.ess[1]),
    ("Particles", "Ancestors", "unique", "ancestors", lambda m: m.unique_ancestors),
)


def columns(report: Report) -> list[Column]:
    """The columns that hold a value: costs first, then metrics by group; cells in the order of the methods."""
    found = []
    for group, label, note, key, get in _COSTS:
        values = [get(m) for m in report.methods]
        if any(v is not None for v in values):
            found.append(Column(group, label, note, key, [Cell(amount(v)) for v in values]))
    metrics = [m for m in metrics_of(report) if any(r.value(m.key) is not None for r in report.methods)]
    for of in sorted(metrics, key=lambda m: GROUPS.index(m.group)):
        winners, errors = best(of, report.methods), [m.error(of.key) for m in report.methods]
        cells = [
            Cell(show(m.value(of.key)), m.name in winners, "" if error is None else f"± {error:.1g}")
            for m, error in zip(report.methods, errors)
        ]
        found.append(Column(of.group, of.label, " ".join(filter(None, (of.unit, of.arrow))), of.key, cells))
    return found


def groups(of: list[Column]) -> list[tuple[str, int]]:
    """Runs of columns of one group: name and length."""
    return [(name, len(list(run))) for name, run in groupby(of, key=lambda column: column.group)]


def findings(report: Report, keys: list[str]) -> list[tuple[Metric, list[Row]]]:
    """For each ranked metric among the keys that has a winner: the metric and the methods with the best value."""
    winners = [(of, best(of, report.methods)) for of in metrics_of(report) if of.key in keys]
    return [(of, [m for m in report.methods if m.name in names]) for of, names in winners if names]


def markdown(report: Report) -> str:
    """The table of all methods for a text file; bold marks the best."""
    text = escape_markdown
    rows = [{"method": text(m.label), "schedule": text(m.schedule) or MISSING} for m in report.methods]
    for column in columns(report):
        head = text(f"{column.label} ({column.note})" if column.note else column.label)
        head = head if head not in rows[0] else f"{head} [{text(column.key)}]"
        for row, cell in zip(rows, column.cells):
            value = f"{cell.text} {cell.error}".strip()
            row[head] = f"**{value}**" if cell.best else value
    return markdown_table(rows)
