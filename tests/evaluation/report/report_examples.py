"""Two comparisons with invented numbers: seven methods on images, six on points."""

import numpy as np

from csb.evaluation.rows import Curves, ImageGrid, LevelCurve, PointGrid, RankHistogram, Report, Row, StdError, Sweep

LEVELS = np.linspace(0.05, 0.95, 19)


def curves(width: float, shift: float, seed: int, trials: int = 200) -> Curves:
    """Curves of a sampler whose spread is ``width`` times the right one, and whose mean is off by ``shift``."""
    rng = np.random.default_rng(seed)
    ranks = np.clip(rng.normal(shift, 1 / width, 4000) * 0.29 + 0.5, 0, 0.999)
    flat = rng.uniform(size=4000)
    counts = np.histogram(np.where(rng.uniform(size=4000) < 0.5, ranks, flat), 12, (0, 1))[0]
    std = np.linspace(0.01, 0.4, 10)
    noise = rng.normal(0, 0.008, 19)
    return Curves(
        LevelCurve(LEVELS, np.clip(LEVELS ** (1 / width) - shift / 8 + noise, 0, 1), trials),
        LevelCurve(LEVELS, np.clip(LEVELS ** (1 / width**0.5) + noise / 2, 0, 1), trials),
        RankHistogram(counts, 200),
        StdError(std, std / width + 0.02 + rng.uniform(0, 0.01, 10)),
    )


def method(name: str, label: str, schedule: str, calls: tuple[float, float], seconds: float, values: list, **options):
    keys = (
        "psnr_mean",
        "psnr_mean_per_image",
        "ssim_mean",
        "crps",
        "energy_score",
        "spread_skill",
        "psnr_sample",
        "ssim_sample",
    )
    keys += ("digit_accuracy", "digit_entropy", "std_error_pearson", "coverage_deviation", "tarp_deviation")
    metrics = dict(zip(keys, values, strict=True))
    memory = 2**20 * (180 + 9 * len(label))
    return Row(name, label, schedule, *calls, seconds, memory, metrics=metrics, **options)


def image_report(**changes) -> Report:
    nan = float("nan")
    zeta = [{"ζ": z, "PSNR of mean": p, "CRPS": c} for z, p, c in ((0.1, 15.8, 0.131), (0.3, 17.2, 0.104),
                                                                  (1.0, 17.9, 0.094), (3.0, 16.4, 0.121))]  # fmt: skip
    sweep = Sweep("step size ζ on 50 validation observations", zeta, 2, "The largest PSNR of the mean wins.")
    methods = (
        method("csb10", "CSB, T = 10", "T = 10, ᾱ_T = 0.005, cosine", (10, 0), 3.2,
               [18.53, 19.64, 0.842, 0.0883, 2.208, 0.8387, 15.92, 0.761, 0.8758, 0.41, 0.667, 0.021, 0.018],
               curves=curves(0.9, 0.0, 1), family="csb", standard_errors={"psnr_mean": 0.03, "crps": 0.0008}),
        method("csb20", "CSB, T = 20", "T = 20, ᾱ_T = 0.005, cosine", (20, 0), 6.1,
               [18.61, 19.71, 0.846, 0.0875, 2.190, 0.914, 15.86, 0.764, 0.8801, 0.39, 0.671, 0.014, 0.013],
               curves=curves(0.96, 0.0, 2), family="csb", standard_errors={"psnr_mean": 0.02, "crps": 0.0008}),
        method("tds", "TDS", "T = 100, K = 64 particles", (6400, 6400), 2140,
               [18.22, 19.21, 0.829, 0.0921, 2.301, 0.71, 16.02, 0.752, 0.861, 0.33, 0.61, 0.062, 0.055],
               curves=curves(0.72, 0.1, 3), ess=(12.4, 1.0), unique_ancestors=3.8),
        method("dps", "DPS", "T = 1000, ζ = 1", (1000, 1000), 410,
               [17.93, 18.80, 0.811, 0.0944, 2.377, 0.62, 16.31, 0.768, 0.9012, 0.21, 0.55, 0.094, 0.081],
               curves=curves(0.6, 0.15, 4), sweeps=(sweep,)),
        method("replacement", "Replacement", "T = 1000", (1000, 0), 190,
               [15.11, 15.90, 0.702, 0.142, 3.310, 1.42, 11.9, 0.584, 0.612, 0.88, 0.41, 0.112, 0.097],
               curves=curves(1.4, 0.2, 5)),
        method("smc", "Bootstrap SMC", "T = 100, K = 64 particles", (6400, 0), 820,
               [16.02, 16.71, 0.741, 0.1277, 2.940, 0.31, 14.8, 0.690, 0.741, 0.12, nan, 0.171, 0.150],
               curves=curves(0.42, 0.3, 6), ess=(2.1, 1.0), unique_ancestors=1.4),
        method("long", "SMC with lookahead and a long name", "T = 100", (6400, 6400), 2900,
               [17.02, 17.71, 0.77, 0.1077, 2.64, 0.51, 15.8, 0.710, 0.80, 0.22, 0.5, 0.12, 0.11],
               curves=curves(0.55, 0.2, 7), ess=(5.2, 1.1), unique_ancestors=2.4),
    )  # fmt: skip
    values = {
        "title": "Posterior samplers on MNIST inpainting",
        "problem": "MNIST inpainting",
        "description": "The upper half of a 28 × 28 digit is hidden; the lower half is seen without noise.",
        "kind": "images", "observations": 200, "samples": 64, "seed": 0, "methods": methods, "date": "1 March 2025",
        "warnings": ("ᾱ_T = 0.005 is not small against 1: starting from N(0, I) biases TDS, DPS and the other samplers "
                     "that use the diffusion prior.", "Seconds were taken on one CPU thread beside other work."),
        "settings": {"device": "cpu", "precision": "float32", "batch size": 1024, "denoiser": "outputs/mnist/denoiser"},
        "versions": {"csb": "0.1.0", "torch": "2.9.1", "python": "3.12.4"},
        "command": "python scripts/compare.py run=outputs/mnist_inpaint metrics.observations=200 metrics.samples=64",
    }  # fmt: skip
    return Report(**(values | changes))


def digit(rng: np.random.Generator, wobble: float) -> np.ndarray:
    """A stroke on a ring, 28 × 28, that differs from call to call."""
    y, x = np.mgrid[:28, :28] - 13.5
    a, b = 8 + wobble * rng.normal(), 5.5 + wobble * rng.normal()
    radius = np.hypot(y / a, (x - wobble * rng.normal()) / b)
    return np.exp(-(((radius - 1) / 0.22) ** 2))


def image_grid(report: Report, B: int = 3, n: int = 8) -> ImageGrid:
    rng = np.random.default_rng(0)
    truth = np.stack([digit(rng, 0.6) for _ in range(B)])
    seen = truth.copy()
    seen[:, :14] = 0.5
    samples = {}
    for i, m in enumerate(report.methods):
        x = np.stack([[digit(rng, 0.3 + 0.2 * i) for _ in range(n)] for _ in range(B)])
        x[:, :, 14:] = truth[:, None, 14:]
        samples[m.name] = x
    return ImageGrid(truth[:, None], seen[:, None], {name: x[:, :, None] for name, x in samples.items()})


def point_report() -> Report:
    rows = (
        ("csb10", "CSB, T = 10", (10, 0), 0.21, (0.052, 0.534, 0.0021, 0.061, 0.083, 0.021), 0.97),
        ("csb20", "CSB, T = 20", (20, 0), 0.40, (0.041, 0.521, 0.0012, 0.048, 0.061, 0.015), 0.99),
        ("tds", "TDS", (6400, 6400), 31.0, (0.049, 0.541, 0.0019, 0.055, 0.091, 0.034), 0.93),
        ("dps", "DPS", (1000, 1000), 9.7, (0.212, 0.742, 0.031, 0.211, 0.412, 0.181), 0.62),
        ("replacement", "Replacement", (1000, 0), 4.9, (0.318, 0.811, 0.052, 0.352, 0.513, 0.292), 1.4),
        ("smc", "Bootstrap SMC", (0, 0), 0.9, (0.121, 0.633, 0.011, 0.132, 0.209, 0.102), 0.74),
        ("exact", "Exact posterior", (0, 0), 0.01, (0.0158, 0.501, 0.0, 0.011, 0.018, 0.006), 1.0),
    )
    keys = ("sliced_w", "c2st", "mmd", "mean_error", "cov_error", "mode_tv")
    methods = tuple(
        Row(name, label, "T = 10" if calls[0] == 10 else "", *calls, seconds,
                     metrics=dict(zip(keys, values)) | {"sliced_w_floor": 0.0157, "sbc_p": 0.2 + width / 4},
                     curves=curves(width, 0.0, i), family="csb" if name.startswith("csb") else "",
                     ess=(31.0, 4.2) if name in ("tds", "smc") else None, reference=name == "exact")
        for i, (name, label, calls, seconds, values, width) in enumerate(rows)
    )  # fmt: skip
    return Report(
        "Posterior samplers on a Gaussian mixture", "Gaussian mixture",
        "Two coordinates, three modes, linear observation.",
        "points", 50, 2000, 3, methods, "1 March 2025", settings={"device": "cpu"}, command="python scripts/compare.py",
    )  # fmt: skip


def point_grid(report: Report, B: int = 2, n: int = 300) -> PointGrid:
    rng = np.random.default_rng(1)
    modes = rng.normal(0, 2, (B, 3, 2))

    def draw(count: int, noise: float, share: list[float]) -> np.ndarray:
        which = rng.choice(3, (B, count), p=share)
        return np.take_along_axis(modes, which[..., None], 1) + noise * rng.normal(size=(B, count, 2))

    samples = {m.name: draw(n, 0.3 + 0.03 * i, [0.5, 0.3, 0.2]) for i, m in enumerate(report.methods)}
    return PointGrid(modes[:, 0], rng.normal(size=(B, 2)), samples, draw(n, 0.3, [0.4, 0.3, 0.3]))
