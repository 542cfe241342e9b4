"""What each metric means, which way is better, and who is best.

PSNR and SSIM of single samples are shown without a winner: they are greatest where samples collapse onto the posterior
mean, and a sampler that gives up the spread of the posterior must not win. The share of right digits is ranked: samples
that show the digit are wanted, and a blur of several digits does not count as one. It too can be raised by collapse,
onto the likeliest digit, which spread/skill and the digits' entropy beside it tell.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from csb.evaluation.report.model import Report, Row
from csb.evaluation.table import MISSING, format_value

GROUPS = ("Accuracy", "Distance to the exact posterior", "Calibration", "Single samples", "Other")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        key: its name in ``Row.metrics``.
        label: short, for a column.
        group: one of GROUPS.
        explanation: one sentence.
        unit: "" for none.
        direction: "higher", "lower", "target" or "" where no direction is better.
        target: the best value where direction is "target".
        ratio: distances to the target are measured as |log(value/target)|: half and twice the target are equally bad.
        ranked: whether the best value is marked.
    """

    key: str
    label: str
    group: str = "Other"
    explanation: str = ""
    unit: str = ""
    direction: str = ""
    target: float = 0.0
    ratio: bool = False
    ranked: bool = False

    @property
    def arrow(self) -> str:
        target = f"→ {self.target:g}"
        return {"higher": "↑", "lower": "↓", "target": target}.get(self.direction, "")

    @property
    def sense(self) -> str:
        """The direction in words."""
        target = f"best at {self.target:g}"
        words = {"higher": "higher is better", "lower": "lower is better", "target": target}
        return words.get(self.direction, "no direction is better")

    def cost(self, value: float) -> float:
        """Smaller is better; ∞ where the value cannot be compared."""
        if self.direction == "target":
            if not self.ratio:
                return abs(value - self.target)
            return abs(math.log(value / self.target)) if value > 0 else math.inf
        return -value if self.direction == "higher" else value


def _collapse(what: str) -> str:
    return f"{what} Not ranked: samples that collapse onto one guess score higher."


_ALL = (
    Metric("psnr_mean", "PSNR of mean", "Accuracy",
           "Peak signal-to-noise ratio of the posterior mean, from the squared error over all pixels and images.",
           "dB", "higher", ranked=True),
    Metric("psnr_mean_per_image", "PSNR per image", "Accuracy",
           "The PSNR of each image's posterior mean, averaged over images; never below the pooled one.",
           "dB", "higher", ranked=True),
    Metric("ssim_mean", "SSIM of mean", "Accuracy",
           "Structural similarity of the posterior mean and the truth; 1 for equal images.", "", "higher", ranked=True),
    Metric("crps", "CRPS", "Accuracy",
           "Continuous ranked probability score: a proper score of each coordinate's law, small only where samples are "
           "both near the truth and as spread as they should be. In units of the prior's standard deviation of each "
           "coordinate; pixels in [0, 1] as they are.", "", "lower", ranked=True),
    Metric("energy_score", "Energy score", "Accuracy",
           "The CRPS of all coordinates jointly, in the same units: a proper score that also sees wrong dependence "
           "between them.",
           "", "lower", ranked=True),
    Metric("frechet", "Fréchet", "Accuracy",
           "Fréchet distance between the classifier's features of the samples of a class and of real images of it, "
           "averaged over classes. It rises where few samples carry the weight.", "", "lower", ranked=True),
    Metric("frechet_floor", "Fréchet, floor", "Accuracy",
           "The same of as many other real images: what a perfect sampler would score."),
    Metric("sliced_w", "Sliced W", "Distance to the exact posterior",
           "Sliced Wasserstein distance between samples and exact posterior samples, averaged over directions, in the "
           "units of the data: the coordinate of the largest unit counts most.",
           "", "lower", ranked=True),
    Metric("sliced_w_floor", "Sliced W, floor", "Distance to the exact posterior",
           "The same distance between two independent sets of exact samples: what a perfect sampler would score."),
    Metric("c2st", "C2ST", "Distance to the exact posterior",
           "Accuracy of a classifier trained to tell samples from exact ones; 0.5 where it can only guess.",
           "", "target", target=0.5, ranked=True),
    Metric("mmd", "MMD", "Distance to the exact posterior",
           "Maximum mean discrepancy between samples and exact ones under a Gaussian kernel; 0 for equal laws.",
           "", "lower", ranked=True),
    Metric("mean_error", "Error of mean", "Distance to the exact posterior",
           "Distance of the sample mean from the exact posterior mean, in units of the posterior's standard deviation.",
           "", "lower", ranked=True),
    Metric("cov_error", "Error of covariance", "Distance to the exact posterior",
           "Relative Frobenius error of the samples' covariance.", "", "lower", ranked=True),
    Metric("mode_tv", "Mode weights, TV", "Distance to the exact posterior",
           "Total variation between the shares of samples in each mode and the exact weights: sees lost modes.",
           "", "lower", ranked=True),
    Metric("spread_skill", "Spread/skill", "Calibration",
           "Spread (root mean variance of the samples) over skill (root mean squared error of their mean), both in "
           "units of x; below 1: too sure, above: too wide. With n samples a perfect sampler scores √(n/(n + 1)).",
           "", "target", target=1.0, ratio=True, ranked=True),
    Metric("spread_skill_fair", "Spread/skill, fair", "Calibration",
           "Spread/skill times √(1 + 1/n): 1 for a calibrated sampler with any number n of samples (Fortin et al. "
           "2014).",
           "", "target", target=1.0, ratio=True, ranked=True),
    Metric("variance_ratio", "Variance ratio", "Calibration",
           "Variance of the samples of a class over that of real images of it, averaged over classes: below 1 they are "
           "less diverse.", "", "target", target=1.0, ratio=True, ranked=True),
    Metric("coverage_deviation", "Coverage gap", "Calibration",
           "Mean distance between the share of truths inside credible regions and their nominal level.",
           "", "lower", ranked=True),
    Metric("tarp_deviation", "TARP gap", "Calibration",
           "Mean distance from the diagonal of the TARP curve: coverage of regions around random reference points, "
           "which tests the joint law.", "", "lower", ranked=True),
    Metric("sbc_p", "SBC p-value", "Calibration",
           "p-value of the test that the truth's rank among the samples is uniform. Not ranked: above about 0.05 it "
           "only says that no miscalibration was found."),
    Metric("std_error_pearson", "Std–error corr.", "Calibration",
           "Correlation between predicted standard deviation and absolute error of the mean over pixels.",
           "", "higher", ranked=True),
    Metric("psnr_sample", "PSNR of samples", "Single samples",
           _collapse("PSNR of single samples, some 3 dB below that of the mean for a perfect sampler."),
           "dB", "higher"),
    Metric("ssim_sample", "SSIM of samples", "Single samples",
           _collapse("Structural similarity of single samples and the truth."), "", "higher"),
    Metric("digit_accuracy", "Right digit", "Single samples",
           "Share of samples that a classifier reads as the true digit. Ranked: samples are to show it. Collapse onto "
           "the likeliest digit raises it too, so read it beside spread/skill and the digits' entropy.",
           "", "higher", ranked=True),
    Metric("digit_entropy", "Digit entropy", "Single samples",
           "Entropy of the digits that a classifier reads in the samples of one observation; to compare with the exact "
           "posterior's, where it is known.", "nat"),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}

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


def accuracy_metrics(report: Report, most: int = 2) -> list[Metric]:
    """The metrics of the accuracy charts: the first choices for the kind of problem that a ranked method has."""
    compared = [m for m in report.methods if not m.reference] or list(report.methods)
    known = [key for key in ACCURACY[report.kind] if any(m.value(key) is not None for m in compared)]
    return [metric(key) for key in known[:most]]


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
    least = min(costs.values())
    if math.isinf(least):
        return frozenset()
    texts = {show(values[name]) for name, cost in costs.items() if cost == least}
    errors = {m.name: e for m in methods if (e := m.error(of.key)) is not None and m.name in values}
    first = min(costs, key=lambda name: costs[name])

    def ties(name: str) -> bool:
        if show(values[name]) in texts or math.isclose(costs[name], least, rel_tol=1e-9):
            return True
        if first not in errors or name not in errors or math.isinf(costs[name]):
            return False
        scale = [abs(values[n]) if of.ratio else 1.0 for n in (first, name)]  # d log v = dv/v
        return costs[name] - least <= math.hypot(errors[first] / scale[0], errors[name] / scale[1])

    return frozenset(name for name in values if ties(name))
