"""What a comparison of posterior samplers found, as plain frozen data that JSON can hold.

Numbers that are NaN or infinite become null there; a table shows "–".
"""

import math
from dataclasses import dataclass, field

FORMAT = 1
Number = int | float | None
Value = str | bool | Number


@dataclass(frozen=True)
class LevelCurve:
    """How often credible regions of nominal ``levels`` hold the truth, both of one length ≥ 1 and in 0..1.

    ``trials``: independent cases behind each value, for the band of chance; None draws no band.
    """

    levels: tuple[float, ...]
    coverage: tuple[float, ...]
    trials: int | None = None


@dataclass(frozen=True)
class RankHistogram:
    """Counts of the truth's rank among the samples (SBC), in ≥ 2 bins of equal width; uniform where calibrated.

    ``trials``: independent ranks, for the band of chance; None: all of them. Ranks of several coordinates of one
    observation are not independent.
    """

    counts: tuple[float, ...]
    trials: int | None = None


@dataclass(frozen=True)
class StdError:
    """Predicted standard deviation against the root mean squared error of the mean, a value a bin of pixels."""

    std: tuple[float, ...]
    error: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Calibration curves of one method; None where one was not computed."""

    coverage: LevelCurve | None = None
    tarp: LevelCurve | None = None
    sbc: RankHistogram | None = None
    std_error: StdError | None = None


@dataclass(frozen=True)
class Sweep:
    """How an option of a method was chosen, e.g. the step size ζ of DPS on validation observations.

    ``rows`` map column names to values, a row a setting; ``chosen`` is the index of the one that the comparison uses;
    ``note`` is one sentence under the table.
    """

    title: str
    rows: tuple[dict[str, Value], ...]
    chosen: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One sampler: what it cost, and how good its samples are.

    Attributes:
        name: stable id, unique in a report; keys of the sample grids refer to it.
        label: what the reader sees.
        schedule: e.g. "T = 10, cosine".
        forward_evaluations, backward_evaluations: passes through the network and back, for one sample.
        seconds: of the whole call; None where not measured.
        peak_memory: bytes, or None.
        ess: (mean, smallest) effective sample size over observations, or None.
        unique_ancestors: mean over observations, or None.
        metrics: from a key of :data:`csb.evaluation.catalogue.METRICS`, or any other name, to its value.
        standard_errors: of some of the metrics, from the same keys.
        sweeps: reported under the method.
        reference: True for the exact posterior: drawn as a line, never ranked.
        family: methods of one family, e.g. a bridge at two T, share a colour and are joined in the charts.
    """

    name: str
    label: str
    schedule: str = ""
    forward_evaluations: float = 0
    backward_evaluations: float = 0
    seconds: float | None = None
    peak_memory: float | None = None
    ess: tuple[float, float] | None = None
    unique_ancestors: float | None = None
    metrics: dict[str, Number] = field(default_factory=dict)
    standard_errors: dict[str, Number] = field(default_factory=dict)
    curves: Curves = field(default_factory=Curves)
    sweeps: tuple[Sweep, ...] = ()
    reference: bool = False
    family: str = ""

    @property
    def evaluations(self) -> float:
        """Passes through the network, forward and backward, for one sample."""
        return self.forward_evaluations + self.backward_evaluations

    def value(self, key: str) -> float | None:
        """A metric; None where it is missing or not finite."""
        value = self.metrics.get(key)
        return None if value is None or not math.isfinite(value) else value

    def error(self, key: str) -> float | None:
        """A metric's standard error; None where it is missing or not finite."""
        error = self.standard_errors.get(key)
        return None if error is None or not math.isfinite(error) else error


@dataclass(frozen=True)
class Report:
    """A comparison of posterior samplers on one inverse problem.

    Attributes:
        problem, description: the problem's name, and one line on it.
        kind: "images" or "points"; picks the accuracy metrics of the charts.
        observations, samples: how many of the test split, and of each.
        methods: at least one, with different names; in this order in every table and legend.
        date: of the evaluation, as it is shown.
        warnings: sentences that a reader must know before the numbers.
        settings: of the figures, e.g. device, precision, batch size.
        command: what reproduces the report.
    """

    title: str
    problem: str
    description: str
    kind: str
    observations: int
    samples: int
    seed: int
    methods: tuple[Row, ...]
    date: str = ""
    warnings: tuple[str, ...] = ()
    settings: dict[str, Value] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""

    @property
    def compared(self) -> list[Row]:
        """The methods that compete: all but references."""
        return [m for m in self.methods if not m.reference]
