"""Two comparisons of seven methods with invented numbers: on images, and on points."""

import math

import numpy as np
import torch
from matplotlib.figure import Figure

from csb.evaluation.pictures import posterior_grid, posterior_scatter
from csb.evaluation.rows import Curves, LevelCurve, RankHistogram, Report, Row, StdError, Sweep

LEVELS = np.linspace(0.05, 0.95, 19)
METHODS = (  # name, label, calls, PSNR of the mean, CRPS, distance to the exact posterior, width
    ("csb10", "CSB, T = 10", (10, 0), 18.53, 0.0883, 0.052, 0.84),
    ("csb20", "CSB, T = 20", (20, 0), 18.61, 0.0875, 0.041, 0.91),
    ("tds", "TDS", (6400, 6400), 18.22, 0.0921, 0.049, 0.71),
    ("dps", "DPS", (1000, 1000), 17.93, 0.0944, 0.212, 0.62),
    ("replacement", "Replacement", (1000, 0), 15.11, 0.1420, 0.318, 1.42),
    ("smc", "Bootstrap SMC", (6400, 0), 16.02, 0.1277, 0.121, 0.31),
    ("long", "SMC with lookahead and a long name", (0, 0), 17.02, 0.1077, 0.016, 0.51),
)


def curves(width: float, seed: int) -> Curves:
    """Curves of a sampler whose spread is ``width`` times the right one."""
    rng, std = np.random.default_rng(seed), np.linspace(0.01, 0.4, 10)
    coverage = LevelCurve(LEVELS, np.clip(LEVELS ** (1 / width) + rng.normal(0, 0.008, 19), 0, 1), 200)
    counts = np.histogram(np.clip(rng.normal(0.5, 0.29 / width, 4000), 0, 0.999), 12, (0, 1))[0]
    return Curves(coverage, coverage, RankHistogram(counts, 200), StdError(std, std / width + 0.02))


def report_of(metrics, changes, **about) -> Report:
    """A report whose methods have the metrics that ``metrics`` makes of (name, PSNR, CRPS, distance, width)."""
    sweep = Sweep("ζ on 50 observations", [{"ζ": 0.1 * i, "CRPS": 0.1 + 0.01 * i} for i in range(4)], 0, "CRPS wins.")
    methods = []
    for i, (name, label, calls, *values) in enumerate(METHODS):
        found, errors = metrics(name, *values)
        methods.append(
            Row(
                name, label, "T = 100", *calls, 0.3 * (1 + sum(calls)), 2**20 * (180 + 9 * len(label)), metrics=found,
                curves=curves(values[-1], i), standard_errors=errors, family="csb" if name.startswith("csb") else "",
                ess=(12.4, 1.0) if name in ("tds", "smc") else None, sweeps=(sweep,) if name == "dps" else (),
                reference=found.get("c2st") == 0.5,
            )
        )  # fmt: skip
    values = {
        "title": "Posterior samplers", "problem": "a problem", "description": "The upper half of a digit is hidden.",
        "observations": 200, "samples": 64, "seed": 0, "methods": tuple(methods), "date": "1 March 2025",
        "warnings": ("ᾱ_T = 0.005 is not small against 1.", "Seconds were taken beside other work."),
        "settings": {"device": "cpu", "precision": "float32"}, "versions": {"csb": "0.1.0", "torch": "2.9.1"},
        "command": "python scripts/compare.py run=outputs/mnist_inpaint metrics.observations=200",
    }  # fmt: skip
    return Report(**(values | about | changes))


def image_report(**changes) -> Report:
    def metrics(name, psnr, crps, _, width):
        found = {
            "psnr_mean": psnr, "psnr_mean_per_image": psnr + 1, "ssim_mean": psnr / 22, "crps": crps,
            "energy_score": 25 * crps, "spread_skill": width, "psnr_sample": 15.92, "ssim_sample": 0.76,
            "digit_accuracy": psnr / 22, "digit_entropy": width / 3, "coverage_deviation": abs(1 - width) / 3,
            "std_error_pearson": math.nan if name == "smc" else 0.6, "tarp_deviation": abs(1 - width) / 3,
        }  # fmt: skip
        errors = {"psnr_mean": 0.03 if name == "csb10" else 0.02, "crps": 0.0008}
        return found, errors if name.startswith("csb") else {}

    return report_of(metrics, changes, kind="images")


def point_report(**changes) -> Report:
    """The last method is the exact posterior."""

    def metrics(name, psnr, crps, far, width):
        found = {
            "sliced_w": far, "c2st": 0.5 if name == "long" else 0.5 + far, "mmd": far / 10, "mean_error": far,
            "cov_error": 2 * far, "mode_tv": far, "sliced_w_floor": 0.0157, "sbc_p": width / 4,
        }  # fmt: skip
        return found, {}

    return report_of(metrics, changes, kind="points")


def pictures(report: Report, n: int = 2) -> list[Figure]:
    """Of discs, or of points."""
    labels, x = [m.label for m in report.methods], torch.rand(len(report.methods), 1, 8, 8)
    if report.kind == "images":
        return [posterior_grid(x, x, torch.stack([x, 1 - x], 1), f"Observation {b}", labels=labels) for b in range(n)]
    points = torch.randn(len(labels), 30, 2)
    return [posterior_scatter(points[:, 0], points, None, points[:, 0], "Observation", labels) for _ in range(n)]
