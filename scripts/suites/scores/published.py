"""What others report on the same problems, and the observations at which they report it."""

from typing import NamedTuple


class Published(NamedTuple):
    """One published C2ST, the mean over ten observations × 10,000 samples.

    Attributes:
        problem: name of the problem here.
        method: of the source, with its number of steps.
        short: the same in a few letters, for a chart.
        source: where it is reported.
        pairs: training pairs (simulations).
        c2st: in ½..1.
        calls: network calls a sample, None where the source does not tell.
    """

    problem: str
    method: str
    short: str
    source: str
    pairs: int
    c2st: float
    calls: int | None = None


_NPE = "Lueckmann et al. 2021"  # "Benchmarking Simulation-Based Inference", the package sbibm
_REVIEW = "arXiv 2512.20685"  # Arruda et al. 2025, "Diffusion Models in Simulation-Based Inference"
_PROBLEMS = ("sbi_gaussian_linear", "sbi_gaussian_linear_uniform", "sbi_gaussian_mixture", "two_moons")
_ROWS = (  # method, short, source, pairs, calls, C2ST on _PROBLEMS
    ("NPE", "NPE", _NPE, 10_000, None, (0.552, 0.553, 0.615, 0.606)),
    ("NPE", "NPE", _NPE, 100_000, None, (0.506, 0.509, 0.548, 0.542)),
    ("flow matching, Euler, 10 steps", "Euler 10", _REVIEW, 100_000, 10, (0.555, 0.570, 0.636, 0.772)),
    ("flow matching, Euler, 50 steps", "Euler 50", _REVIEW, 100_000, 50, (0.507, 0.508, 0.589, 0.551)),
    ("flow matching, Euler, 500 steps", "Euler 500", _REVIEW, 100_000, 500, (0.503, 0.505, 0.544, 0.521)),
    ("EDM-VP, SDE, 500 steps", "EDM 500", _REVIEW, 100_000, None, (0.505, 0.505, 0.523, 0.513)),
)
PUBLISHED = tuple(
    Published(problem, method, short, source, pairs, value, calls)
    for method, short, source, pairs, calls, values in _ROWS
    for problem, value in zip(_PROBLEMS, values)
)

REFERENCE_Y: dict[str, tuple[float, ...]] = {  # observations whose posterior's moments are reported
    "bod": (0.18, 0.32, 0.42, 0.49, 0.54),  # Parno & Marzouk 2018
}
