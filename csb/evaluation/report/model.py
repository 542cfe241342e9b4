"""What a comparison of posterior samplers found, as plain frozen data that JSON can hold.

Numbers that are missing, NaN or infinite become None, at once and everywhere: JSON has neither, and a table shows "–".
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from csb.errors import CSBError, require_int
from csb.evaluation.report.curves import Curves, LevelCurve, RankHistogram, StdError
from csb.evaluation.report.plain import Cell, assign, require_text, to_cell, to_count, to_number, to_numbers, to_table
from csb.renamed import scores_of_today

FORMAT = 1
KINDS = ("images", "points")


@dataclass(frozen=True)
class Sweep:
    """How an option of a method was chosen, e.g. the step size ζ of DPS on validation observations.

    Attributes:
        title: one line.
        rows: one mapping a setting, from column name to value.
        chosen: index of the row that the comparison uses, or None.
        note: one sentence under the table, or "".
    """

    title: str
    rows: tuple[dict[str, Cell], ...]
    chosen: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        require_text("a sweep's title", self.title)
        assign(self, rows=tuple(to_table("a sweep's row", row, to_cell) for row in self.rows))
        if not self.rows or not all(self.rows):
            raise CSBError(f"the sweep {self.title!r} has no rows, or an empty one; give at least one value a row")
        if self.chosen is not None:
            require_int("chosen", self.chosen, 0, len(self.rows) - 1)


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
        metrics: from a key of :data:`csb.evaluation.report.catalogue.METRICS`, or any other name, to its value.
        standard_errors: of some of the metrics, from the same keys.
        curves: see :class:`Curves`.
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
    metrics: dict[str, float | None] = field(default_factory=dict)
    standard_errors: dict[str, float | None] = field(default_factory=dict)
    curves: Curves = field(default_factory=Curves)
    sweeps: tuple[Sweep, ...] = ()
    reference: bool = False
    family: str = ""

    def __post_init__(self) -> None:
        require_text("a method's name", self.name)
        require_text(f"the label of {self.name!r}", self.label)
        counts = ("forward_evaluations", "backward_evaluations", "seconds", "peak_memory", "unique_ancestors")
        assign(self, **{key: to_count(f"{key} of {self.name!r}", getattr(self, key)) for key in counts})
        if self.forward_evaluations is None or self.backward_evaluations is None:
            raise CSBError(f"the network evaluations of {self.name!r} are not finite; give the number a sample takes")
        if self.ess is not None:
            ess = to_numbers(f"ess of {self.name!r}", self.ess)
            if len(ess) != 2:
                raise CSBError(f"ess of {self.name!r} has {len(ess)} values; expected (mean, smallest)")
            assign(self, ess=ess)
        for key in ("metrics", "standard_errors"):
            assign(self, **{key: to_table(f"{key} of {self.name!r}", getattr(self, key), to_number)})
        assign(self, sweeps=tuple(self.sweeps))

    @property
    def evaluations(self) -> float:
        """Passes through the network, forward and backward, for one sample."""
        return self.forward_evaluations + self.backward_evaluations

    def value(self, key: str) -> float | None:
        return self.metrics.get(key)


@dataclass(frozen=True)
class Report:
    """A comparison of posterior samplers on one inverse problem.

    Attributes:
        title: of the page.
        problem, description: the problem's name, and one line on it.
        kind: "images" or "points"; picks the accuracy metrics of the charts.
        observations, samples, seed: what was sampled: samples for each of the observations.
        methods: at least one, with different names; in this order in every table and legend.
        date: of the evaluation, as it is shown.
        warnings: sentences that a reader must know before the numbers.
        settings: of the figures, e.g. device, precision, batch size.
        versions: of the software.
        command: what reproduces the report.

    Raises:
        CSBError: no methods, a name twice, no metric at all, or values out of range.
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
    settings: dict[str, Cell] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        require_text("title", self.title)
        require_text("problem", self.problem)
        if self.kind not in KINDS:
            raise CSBError(f"kind={self.kind!r} is not known; choose from {', '.join(KINDS)}")
        for key, low in (("observations", 1), ("samples", 1), ("seed", 0)):
            require_int(key, getattr(self, key), low)
        assign(self, methods=tuple(self.methods), warnings=tuple(self.warnings))
        assign(self, settings=to_table("settings", self.settings, to_cell))
        names = [method.name for method in self.methods]
        if not names or len(set(names)) < len(names):
            raise CSBError(f"methods have the names {names}; give at least one method, and every name once")
        if all(value is None for method in self.methods for value in method.metrics.values()):
            raise CSBError(f"none of the methods {names} has a metric with a finite value; there is nothing to compare")

    def to_plain(self) -> dict[str, Any]:
        """Objects, lists, text, finite numbers and None only. CSBError where a value has another type."""
        try:
            text = json.dumps({"format": FORMAT} | dataclasses.asdict(self), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CSBError(f"the report holds a value that JSON cannot: {error}; give text and numbers") from error
        return json.loads(text)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The report that :meth:`to_plain` wrote. CSBError for another format, or keys unknown or missing."""
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            raise CSBError(f"this is no report of format {FORMAT}; write it with this version of csb")
        return _make(cls, scores_of_today({key: value for key, value in plain.items() if key != "format"}))


_PARTS: dict[type, dict[str, type]] = {
    Report: {"methods": Row},
    Row: {"curves": Curves, "sweeps": Sweep},
    Curves: {"coverage": LevelCurve, "tarp": LevelCurve, "sbc": RankHistogram, "std_error": StdError},
}


def _make(cls: type, plain: Any) -> Any:
    """A dataclass of this module from its plain form."""
    if not isinstance(plain, Mapping):
        raise CSBError(f"a {cls.__name__} is read from an object of its fields, not from a {type(plain).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    empty = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [k for k, f in fields.items() if (f.default, f.default_factory) == empty and k not in plain]
    if wrong := [k for k in plain if k not in fields] + missing:
        raise CSBError(f"a {cls.__name__} has {wrong[0]!r} unknown or missing; its fields are {', '.join(fields)}")
    parts, values = _PARTS.get(cls, {}), dict(plain)
    for key, part in parts.items():
        if isinstance(found := values.get(key), list):
            values[key] = tuple(_make(part, value) for value in found)
        elif found is not None:
            values[key] = _make(part, found)
    return cls(**values)
