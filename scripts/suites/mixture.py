"""Guided samplers on Gaussian mixtures, where denoiser and posterior are exact: benchmark.py suite=mixture.

The prior has 25 modes at (8i, 8j), tiled to dx coordinates, and unit covariances; y is a noisy random projection of x.
No network is trained: what a method misses is its own doing.
"""

import statistics
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from csb.errors import LARGEST, CSBError, is_one_of
from csb.evaluation.table import print_table
from csb.metrics.distances import sliced_wasserstein
from csb.networks.diffusion import MixtureDenoiser
from csb.problems import GaussianMixture
from csb.process import SCHEDULES, Grid, seeded
from csb.runs.config import schedule_of
from csb.samplers import (
    DDRM,
    DPS,
    ILVR,
    MMPS,
    SDA,
    TDS,
    TMPD,
    BootstrapSMC,
    ClassifierGuidance,
    CoPaint,
    DiffusionSampler,
    GaussianLikelihood,
    PiGDM,
    RePaint,
    Replacement,
)
from csb.schema import Count, Distinct, Given, Positive, Schema
from suites.scores.tables import mean_and_error
from suites.settings import suite_settings

_DRAW, _EXACT, _SLICES, _FLOOR = 5, 6, 7, 8  # keys of the random streams
_LIKELIHOOD = 2000  # training pairs that set the guidance likelihood's variance

MORE: list[tuple[str, type[DiffusionSampler], dict[str, Any]]] = [  # a row each
    ("replacement", Replacement, {}),
    ("RePaint, U = 5", RePaint, {"resamples": 5}),
    ("ILVR, b = 0", ILVR, {"until": 0.0}),
    ("ILVR, b = 0.1", ILVR, {"until": 0.1}),
    ("CoPaint, ξ = 0.3", CoPaint, {"xi": 0.3}),
    ("CoPaint, ξ = 1", CoPaint, {"xi": 1.0}),
    ("CoPaint, ξ = 3", CoPaint, {"xi": 3.0}),
    ("ΠGDM, η = 0.1", PiGDM, {"eta": 0.1}),
    ("ΠGDM, η = 0.5", PiGDM, {"eta": 0.5}),
    ("ΠGDM, η = 1", PiGDM, {"eta": 1.0}),
    ("DDRM, η = 0.1", DDRM, {"eta": 0.1}),
    ("DDRM, η = 0.5", DDRM, {"eta": 0.5}),
    ("DDRM, η = 0.85", DDRM, {"eta": 0.85}),
    ("TMPD", TMPD, {}),
    ("MMPS", MMPS, {}),
    ("SDA, γ = 0.3, C = 2", SDA, {"gamma": 0.3, "corrections": 2}),
    ("SDA, γ = 1, C = 0", SDA, {"gamma": 1.0, "corrections": 0}),
    ("SDA, γ = 1, C = 2", SDA, {"gamma": 1.0, "corrections": 2}),
    ("SDA, γ = 3, C = 2", SDA, {"gamma": 3.0, "corrections": 2}),
    ("guidance, s = 0.5", ClassifierGuidance, {"scale": 0.5}),
    ("guidance, s = 1", ClassifierGuidance, {"scale": 1.0}),
    ("guidance, s = 2", ClassifierGuidance, {"scale": 2.0}),
    ("guidance, s = 4", ClassifierGuidance, {"scale": 4.0}),
]


class MixtureSettings(Schema):
    """See conf/suite/mixture.yaml."""

    problems: Count = Field(description="random mixtures, of seeds 0, 1, …")
    dx: Count = Field(description="coordinates of x")
    dy: Count = Field(description="coordinates of y")
    samples: int = Field(ge=2, le=LARGEST, description="of each method but TDS")
    steps: Count = Field(description="of the grid of all methods")
    schedule: dict[str, Any] = Field(description="its name and options")
    particles: Annotated[list[Count], Distinct] = Field(description="of TDS, a row each")
    step_sizes: Annotated[list[Positive], Distinct] = Field(description="of DPS, a row each")

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        if not is_one_of(self.schedule.get("name"), SCHEDULES):
            raise CSBError(f"schedule={self.schedule}; give {{name: {'|'.join(SCHEDULES)}, …}}")
        self.grid  # noqa: B018 - a schedule that does not fit is reported now
        self.of(0)
        return self

    @property
    def grid(self) -> Grid:
        """The grid of all methods."""
        return Grid.from_schedule(schedule_of(self.schedule), self.steps)

    def of(self, seed: int) -> GaussianMixture:
        """The problem of a seed."""
        return GaussianMixture(dx=self.dx, dy=self.dy, seed=seed, n_train=_LIKELIHOOD)


def distances(method: type[DiffusionSampler], setup: MixtureSettings, n: int, **options: Any) -> list[float]:
    """Sliced W_1 between n samples and n exact draws, weights respected, for each problem."""
    found = []
    for problem in map(setup.of, range(setup.problems)):
        denoiser, y = MixtureDenoiser(problem.mixture), problem.pairs("test", 1).y[0]
        model = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", _LIKELIHOOD))
        sampler = method(denoiser, model, setup.grid, batch_size=1024, **options)
        drawn = sampler.sample(y, n, seeded(_DRAW, problem.seed))
        exact = problem.posterior(y).sample(n, seeded(_EXACT, problem.seed))
        found.append(sliced_wasserstein(drawn.x, exact, seeded(_SLICES), p=1.0, log_weights_a=drawn.log_weights))
    return found


def floors(setup: MixtureSettings, n: int) -> list[float]:
    """The same between two sets of n exact draws: what a perfect sampler would score."""
    found = []
    for problem in map(setup.of, range(setup.problems)):
        posterior = problem.posterior(problem.pairs("test", 1).y[0])
        one, two = (posterior.sample(n, seeded(key, problem.seed)) for key in (_FLOOR, _EXACT))
        found.append(sliced_wasserstein(one, two, seeded(_SLICES), p=1.0))
    return found


def read(given: Given) -> MixtureSettings:
    """The checked settings. CSBError with one line for the first thing that is wrong."""
    return suite_settings(MixtureSettings, given)


def mixture(given: Given) -> None:
    """Prints the table."""
    setup = read(given)
    n = setup.samples
    jobs: list[tuple[str, type[DiffusionSampler], int, dict[str, Any]]] = []
    jobs += [(f"TDS, K = {K}", TDS, K, {}) for K in setup.particles]
    jobs += [(f"bootstrap SMC, K = {n}", BootstrapSMC, n, {})]
    jobs += [(f"DPS, ζ = {zeta:g}", DPS, n, {"step_size": zeta}) for zeta in setup.step_sizes]
    jobs += [(label, method, n, options) for label, method, options in MORE]
    floor = {count: statistics.mean(floors(setup, count)) for count in {count for _, _, count, _ in jobs}}
    rows = []
    for label, method, count, options in jobs:
        mean, error = mean_and_error(distances(method, setup, count, **options))
        row = {"method": label, "samples": count, "sliced_w": mean, "standard_error": error, "floor": floor[count]}
        rows.append(row)
    print_table(rows, title=f"Sliced W_1 to the exact posterior, mean over {setup.problems} problems")
