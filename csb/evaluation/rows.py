"""What a comparison of posterior samplers found, as plain frozen data that JSON can hold, and the samples it shows.

Numbers that are NaN or infinite become None in :meth:`Report.to_plain`, which JSON lacks; a table shows "–".
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from csb.errors import CSBError
from csb.files import json_text
from csb.renamed import scores_of_today
from csb.schema import Name, OneOf, Share, Whole, shown

FORMAT = 1
KINDS = ("images", "points")
Number = int | float | None
Value = str | bool | Number
AtLeast0 = Annotated[float, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class LevelCurve:
    """How often credible regions of nominal ``levels`` hold the truth, both of one length ≥ 1 and in 0..1.

    ``trials``: independent cases behind each value, for the band of chance; None draws no band.
    """

    levels: tuple[Share, ...]
    coverage: tuple[Share, ...]
    trials: AtLeast1 | None = None


@dataclass(frozen=True)
class RankHistogram:
    """Counts of the truth's rank among the samples (SBC), in ≥ 2 bins of equal width; uniform where calibrated.

    ``trials``: independent ranks, for the band of chance; None: all of them. Ranks of several coordinates of one
    observation are not independent.
    """

    counts: Annotated[tuple[AtLeast0, ...], Field(min_length=2)]
    trials: AtLeast1 | None = None


@dataclass(frozen=True)
class StdError:
    """Predicted standard deviation against the root mean squared error of the mean, a value a bin of pixels."""

    std: tuple[AtLeast0, ...]
    error: tuple[AtLeast0, ...]


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
    rows: Annotated[tuple[dict[str, Value], ...], Field(min_length=1)]
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

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Name
    label: Name
    schedule: str = ""
    forward_evaluations: AtLeast0 = 0
    backward_evaluations: AtLeast0 = 0
    seconds: AtLeast0 | None = None
    peak_memory: AtLeast0 | None = None
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

    __pydantic_config__ = ConfigDict(extra="forbid")

    title: Name
    problem: Name
    description: str
    kind: Annotated[str, OneOf(KINDS)]
    observations: AtLeast1
    samples: AtLeast1
    seed: Whole
    methods: Annotated[tuple[Row, ...], Field(min_length=1)]
    date: str = ""
    warnings: tuple[str, ...] = ()
    settings: dict[str, Value] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""

    @property
    def compared(self) -> list[Row]:
        """The methods that compete: all but references."""
        return [m for m in self.methods if not m.reference]

    def to_plain(self) -> dict[str, Any]:
        """Objects, lists, text, finite numbers and None only. CSBError where a value has another type or range."""
        try:
            plain = {"format": FORMAT} | json.loads(json_text(self))
        except TypeError as error:
            raise CSBError(f"the report holds a value that JSON cannot: {error}; give text and numbers") from error
        self.from_plain(plain)
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The report that :meth:`to_plain` wrote. CSBError for another format, or values that are no report's."""
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            raise CSBError(f"this is no report of format {FORMAT}; write it with this version of csb")
        values = scores_of_today({key: value for key, value in plain.items() if key != "format"})
        try:
            found = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise CSBError(f"the report's {place}={shown(first['input'])} is not possible: {first['msg']}") from None
        names = [method.name for method in found.methods]
        if len(set(names)) < len(names):
            raise CSBError(f"methods have the names {names}; give every name once")
        if all(method.value(key) is None for method in found.methods for key in method.metrics):
            raise CSBError(f"none of the methods {names} has a metric with a finite value; there is nothing to compare")
        return found


@dataclass(frozen=True)
class ImageGrid:
    """Posterior samples of images, of the same observations for every method, C = 1 channel or 3.

    The mean and standard deviation are over all n ≥ 2 samples, of which the first few are drawn.
    """

    truth: np.ndarray  # (B, C, H, W)
    observation: np.ndarray  # (B, C', h, w), drawn as it is
    samples: Mapping[str, np.ndarray]  # from a method's name to (B, n, C, H, W)
    value_range: tuple[float, float] = (0.0, 1.0)  # drawn black and white


@dataclass(frozen=True)
class PointGrid:
    """Posterior samples of points, of the same observations for every method. The first two coordinates are drawn."""

    truth: np.ndarray  # (B, d), d ≥ 2
    observation: np.ndarray  # (B, …); printed where it has at most 5 numbers
    samples: Mapping[str, np.ndarray]  # from a method's name to (B, n, d), n ≥ 2
    exact: np.ndarray | None = None  # (B, m, d) exact posterior samples, drawn behind every method's


Grid = ImageGrid | PointGrid
