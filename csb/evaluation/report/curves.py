"""Calibration curves of one method, as plain data."""

from dataclasses import dataclass

from csb.errors import CSBError, require_int
from csb.evaluation.report.plain import assign, require_pair, to_numbers


@dataclass(frozen=True)
class LevelCurve:
    """How often credible regions of nominal ``levels`` hold the truth.

    Attributes:
        levels, coverage: of one length ≥ 1, in 0..1.
        trials: independent cases behind each value, for the band of chance; None draws no band.
    """

    levels: tuple[float, ...]
    coverage: tuple[float, ...]
    trials: int | None = None

    def __post_init__(self) -> None:
        assign(self, levels=to_numbers("levels", self.levels), coverage=to_numbers("coverage", self.coverage))
        require_pair("a coverage curve", self.levels, self.coverage)
        if outside := [v for v in (*self.levels, *self.coverage) if not 0 <= v <= 1]:
            raise CSBError(f"a coverage curve holds {outside[0]!r}; levels and coverages are shares in 0..1")
        if self.trials is not None:
            require_int("trials", self.trials, 1)


@dataclass(frozen=True)
class RankHistogram:
    """Counts of the truth's rank among the samples (SBC); uniform where the sampler is calibrated.

    Attributes:
        counts: one a bin, ≥ 2 bins of equal width.
        trials: independent ranks behind the histogram, for the band of chance; None: all of them. Ranks of several
            coordinates of one observation are not independent.
    """

    counts: tuple[float, ...]
    trials: int | None = None

    def __post_init__(self) -> None:
        assign(self, counts=to_numbers("counts", self.counts))
        if len(self.counts) < 2 or min(self.counts) < 0 or sum(self.counts) == 0:
            raise CSBError(f"counts={list(self.counts)} make no histogram; give two or more counts ≥ 0, not all 0")
        if self.trials is not None:
            require_int("trials", self.trials, 1)


@dataclass(frozen=True)
class StdError:
    """Predicted standard deviation against the root mean squared error of the mean, a value a bin of pixels."""

    std: tuple[float, ...]
    error: tuple[float, ...]

    def __post_init__(self) -> None:
        assign(self, std=to_numbers("std", self.std), error=to_numbers("error", self.error))
        require_pair("std against error", self.std, self.error)
        if min(*self.std, *self.error) < 0:
            raise CSBError("std or error holds a negative value; both are at least 0")


@dataclass(frozen=True)
class Curves:
    """Calibration curves of one method; None where one was not computed."""

    coverage: LevelCurve | None = None
    tarp: LevelCurve | None = None
    sbc: RankHistogram | None = None
    std_error: StdError | None = None
