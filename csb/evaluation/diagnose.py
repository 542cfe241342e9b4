r"""Is an amortized posterior to be trusted? One call tabulates and draws what is usually looked at, from plain tensors.

Of held-out pairs (x, y) with samples of each p(x | y), parameter by parameter:

- ranks of the truth (SBC), uniform for an exact posterior: Talts et al. 2018, "Validating Bayesian inference algorithms
  with simulation-based calibration";
- their ECDF with a simultaneous band: Säilynoja, Bürkner & Vehtari 2022, "Graphical test for discrete uniformity and
  its applications in goodness-of-fit evaluation and multiple sample comparison";
- coverage of central credible intervals and, of all parameters together, TARP: Lemos et al. 2023;
- z-score z = (posterior mean − truth)/posterior std, for an exact posterior of mean 0 and mean square 1, over the
  contraction 1 − posterior variance/prior variance: Betancourt 2018, "Calibrating model concerns"; Schad, Betancourt &
  Vasishth 2021, "Toward a principled Bayesian workflow in cognitive science". Of n samples of an exact Gaussian
  posterior, the mean square of z is (1 + 1/n)(n − 1)/(n − 3).

Calibration alone says little: samples of the prior pass SBC, coverage and TARP, with contraction and correlation 0.
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import cbook
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.mathtext import MathTextParser
from scipy.special import bdtr, bdtrc
from torch import Tensor, nan

from csb.errors import CSBError, require_place
from csb.evaluation import diagnose_figures as draw
from csb.evaluation.diagnose_figures import HalfStepLosses
from csb.evaluation.plots import UNIT, data_uri, png, write_png
from csb.evaluation.table import html_table, markdown_table
from csb.files import write_json, write_text
from csb.metrics.calibration import LEVELS, central_coverage, rank_uniformity, sbc_ranks, tarp
from csb.metrics.inputs import ensembles, finite
from csb.process import Stream, seeded

SHOWN = 8  # parameters in a figure
FEWEST = 10  # observations
_SIMULATED, _LEVELS = 20_000, 99  # ECDFs behind a band, and the levels at which they are compared


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found; a notebook shows it with its figures.

    Attributes:
        table: a row a parameter: "correlation" of posterior mean and truth; "z_mean" and "z_rms" of the z-scores;
            the mean "contraction", 1 where the data tell all and 0 where they tell nothing; "coverage_90" of central
            intervals of 90 %; "coverage_gap", the mean of coverage minus level, below 0 for samples too narrow;
            "sbc_p", the Kolmogorov–Smirnov p-value of uniform ranks: compare the least of d with 0.05/d.
        figures: "corner", "recovery", "sbc_histogram", "sbc_ecdf", "coverage", "tarp", "z_contraction", and "loss"
            where losses were given.
        local: at the observation that was asked for, "l_c2st" and "l_c2st_p" (:mod:`csb.metrics.local`), and
            "predictive_p" where the problem has a simulator; empty without one.
    """

    table: list[dict[str, float | str]]
    figures: dict[str, Figure]
    local: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, float | str]]:
        """The table with ``local`` as a last row, "at y": what is shown and saved."""
        return [*self.table, *([{"parameter": "at y", **self.local}] if self.local else [])]

    def show(self) -> None:
        """Display all figures: with the table in a notebook, else in pyplot's windows, which need a display."""
        if "ipykernel" in sys.modules:
            import_module("IPython.display").display(self)
            return
        import matplotlib.pyplot as plt  # the only use of its global state

        for name, figure in self.figures.items():
            window = plt.figure(name, figsize=figure.get_size_inches(), clear=True)
            axes = window.add_axes((0, 0, 1, 1))
            axes.imshow(imread(io.BytesIO(png(figure))), interpolation="antialiased")
            axes.set_axis_off()
        plt.show()

    def save(self, folder: str | Path) -> list[Path]:
        """Write a PNG a figure, ``table.json`` and ``table.md``, and return their paths.

        CSBError for a folder that cannot be written.
        """
        place = require_place("folder", folder)
        paths = [place / f"{name}.png" for name in self.figures]
        for path, figure in zip(paths, self.figures.values()):
            write_png(path, figure)
        return [*paths, write_json(place / "table.json", self.rows), write_text(place / "table.md", str(self))]

    def __str__(self) -> str:
        return markdown_table(self.rows)

    def _repr_html_(self) -> str:
        pictures = (
            f'<img alt="{name}" width="{figure.get_figwidth() / UNIT:.0f}" src="{data_uri(png(figure))}">'
            for name, figure in self.figures.items()
        )
        return html_table(self.rows) + "".join(pictures)


def diagnose(
    samples: Tensor,
    truth: Tensor,
    *,
    prior: Tensor,
    names: Sequence[str] | None = None,
    observed: tuple[Tensor, Tensor | None] | None = None,
    losses: Sequence[HalfStepLosses | dict[str, Any]] = (),
    seed: int = 0,
) -> Diagnosis:
    """Tabulate and draw how calibrated and how informative posterior samples of held-out observations are.

    Of more than 8 parameters the figures show the 8 whose ranks deviate most from uniform ones. An observation whose
    samples all agree in a parameter has no z-score there; z_mean and z_rms are NaN where none is left. A truth that is
    the same in all observations has the correlation NaN.

    Args:
        samples: (B, n, d), n ≥ 2 equally weighted posterior samples of each of B ≥ 10 held-out observations; hundreds
            of both say something.
        truth: (B, d), the parameters behind the observations, drawn from the prior.
        prior: (M, d), M ≥ 2 draws of the prior.
        names: d labels of the parameters, with their units, by default x1, x2, …; text between two "$" is a formula.
        observed: samples (m, d) for the corner plot of one observation, and its truth (d,) or None where that is
            unknown; by default the first of the held-out observations.
        losses: of the training's half-steps, as HalfStepLosses or dictionaries of its fields; the last 16 are drawn.
        seed: of what splits ties, and of TARP's reference points.

    Raises:
        CSBError: shapes that do not fit, images, fewer than 10 observations, values that are not finite, a prior of one
            value, or names that are not d different texts.
    """
    samples, truth = _checked_pairs(samples, truth)
    B, _, d = samples.shape
    prior, names = _points("prior", prior, d), _labels(names, d)
    one, one_truth = _observed(observed, d) if observed is not None else (samples[0], truth[0])
    history = [
        row if isinstance(row, HalfStepLosses) else HalfStepLosses.read(row, f"losses[{i}]")
        for i, row in enumerate(losses)
    ]
    ranks = sbc_ranks(samples, truth, seeded(seed, Stream.DIAGNOSIS, 0))
    uniformity = rank_uniformity(ranks, bins=min(20, max(2, B // 10)))
    mean, std = samples.mean(1), samples.std(1)
    z = ((mean - truth) / std).masked_fill(_constant(samples, 1), nan)
    contraction = 1 - (std / prior.std(0)).square()
    correlation = _correlation(mean, truth)
    intervals = central_coverage(ranks)
    columns = {
        "correlation": correlation,
        "z_mean": z.nanmean(0),
        "z_rms": z.square().nanmean(0).sqrt(),
        "contraction": contraction.mean(0),
        "coverage_90": intervals.coverage[LEVELS.index(0.9)],
        "coverage_gap": (intervals.coverage - intervals.levels[:, None]).mean(0),
        "sbc_p": uniformity.ks,
    }
    table = [{"parameter": name, **{key: float(v[i]) for key, v in columns.items()}} for i, name in enumerate(names)]

    worst = uniformity.deviation.topk(min(d, SHOWN)).indices.sort().values
    shown, note = [names[i] for i in worst], f" · the {SHOWN} of {d} parameters whose ranks deviate most" * (d > SHOWN)

    def pick(x: Tensor) -> np.ndarray:
        return x[..., worst].numpy()

    b = min(B, draw.MOST_POINTS)
    quantiles = np.quantile(pick(samples[:b]), draw.QUANTILES, axis=1)
    few = f" · {b} of {B} observations" * (b < B)
    joint = tarp(samples, truth, seeded(seed, Stream.DIAGNOSIS, 1))
    figures = {
        "corner": draw.corner(pick(one), pick(prior), None if one_truth is None else pick(one_truth), shown, note),
        "recovery": draw.recovery(quantiles, pick(mean[:b]), pick(truth[:b]), pick(correlation), shown, note + few),
        "sbc_histogram": draw.rank_histogram(pick(uniformity.counts), shown, note),
        "sbc_ecdf": draw.ecdf_difference(pick(ranks), ecdf_band(B), shown, note),
        "coverage": draw.coverage(pick(intervals.coverage), B, shown, note),
        "tarp": draw.joint_coverage(joint),
        "z_contraction": draw.z_contraction(pick(z), pick(contraction), shown, note),
    }
    return Diagnosis(table, figures | ({"loss": draw.loss(history)} if history else {}))


@cache
def ecdf_band(B: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the band that the ECDF of B ≥ 1 uniform numbers keeps to at all levels at once, in 95 % of cases.

    Level by level it is a central interval of the binomial law of the count. All have one error γ: the 5 % quantile,
    over simulated ECDFs, of the least two-sided p-value along the curve (Säilynoja, Bürkner & Vehtari 2022, §2.2). The
    ranks of :func:`sbc_ranks` are uniform on [0, 1] whatever the number of samples.

    Returns:
        The levels u = 0.01, …, 0.99, and the lower and upper bounds of the share of numbers ≤ u.
    """
    u = np.arange(1, _LEVELS + 1) / (_LEVELS + 1)
    generator = np.random.default_rng([Stream.DIAGNOSIS, 2])
    counts = generator.multinomial(B, np.full(_LEVELS + 1, 1 / (_LEVELS + 1)), size=_SIMULATED).cumsum(1)
    least, p_values = np.ones(_SIMULATED), []
    for count, level in zip(counts.T, u):
        value = np.arange(count.min(), count.max() + 1)
        p_values.append((value, 2 * np.minimum(bdtr(value, B, level), bdtrc(value - 1, B, level))))
        least = np.minimum(least, p_values[-1][1][count - value[0]])
    error = np.quantile(least, 0.05, method="lower")
    inside = [value[p >= error] for value, p in p_values]
    return u, np.array([value[0] / B for value in inside]), np.array([value[-1] / B for value in inside])


def _constant(x: Tensor, dim: int = 0) -> Tensor:
    return x.amax(dim) == x.amin(dim)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of the columns of (B, d); NaN where one has no spread."""
    constant = _constant(a) | _constant(b)
    a, b = a - a.mean(0), b - b.mean(0)
    found = (a * b).mean(0) / (a.square().mean(0) * b.square().mean(0)).sqrt()
    return found.masked_fill(constant, nan)


def _require_tensors(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise CSBError(f"{name} is a {type(value).__name__}; pass a tensor, e.g. torch.as_tensor({name})")


def _checked_pairs(samples: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    _require_tensors(samples=samples, truth=truth)
    if samples.ndim > 3:
        raise CSBError(
            f"samples have shape {tuple(samples.shape)}; diagnose takes vectors (B, n, d); of images draw "
            "posterior_grid of csb.evaluation.pictures and compute sbc_ranks and tarp of csb.metrics.calibration"
        )
    ensembles(samples, truth)
    if len(samples) < FEWEST:
        raise CSBError(
            f"samples hold B={len(samples)} observations; calibration shows on many: give at least {FEWEST} held-out "
            "pairs, or draw a single posterior with corner of csb.evaluation.diagnose_figures"
        )
    return samples.detach().double().cpu(), truth.detach().double().cpu()


def _points(name: str, x: Tensor, d: int) -> Tensor:
    _require_tensors(**{name: x})
    if x.ndim != 2 or len(x) < 2 or x.shape[1] != d:
        raise CSBError(f"{name} has shape {tuple(x.shape)}; expected at least 2 draws of the {d} parameters, (n, {d})")
    x = finite(name, x).double().cpu()
    if name == "prior" and bool(_constant(x).any()):
        raise CSBError("prior has draws of one value in some parameter; leave out parameters that are known")
    return x


def _observed(observed: tuple[Tensor, Tensor | None], d: int) -> tuple[Tensor, Tensor | None]:
    if not isinstance(observed, tuple) or len(observed) != 2:
        raise CSBError("observed is no pair; give (samples (m, d), truth (d,)), or (samples, None)")
    samples, truth = observed
    if truth is not None:
        _require_tensors(truth=truth)
        if truth.shape != (d,):
            raise CSBError(f"observed has a truth of shape {tuple(truth.shape)}; expected ({d},), or None")
        truth = finite("truth of observed", truth).double().cpu()
    return _points("observed", samples, d), truth


def _labels(names: Sequence[str] | None, d: int) -> list[str]:
    if names is None:
        return [f"x{i + 1}" for i in range(d)]
    labels = list(names) if isinstance(names, Sequence) and not isinstance(names, str) else [names]
    texts = {name for name in labels if isinstance(name, str) and name.strip()}
    if len(labels) != d or len(texts) != d:
        raise CSBError(f"names={labels!r} do not name the parameters; give {d} different texts")
    for name in filter(cbook.is_math_text, labels):
        try:
            MathTextParser("path").parse(name)
        except ValueError:
            raise CSBError(f"names hold {name!r}, which is no formula; correct it, or write \\$ for a dollar") from None
    return labels
