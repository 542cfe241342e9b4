"""What a filter is: forecast members and an observation go in, members of the analysis come out."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.filtering.model import StateSpace
from csb.filtering.whitening import spread
from csb.numbers import as_numbers

_FAR = 1e6  # standard deviations of the forecast, from which on an analysis is none


class Analysis(NamedTuple):
    """What a filter gives back.

    Attributes:
        x: the analysis ensemble (M, dx), equally weighted.
        diagnostics: numbers by name, the same names in every cycle.
    """

    x: Tensor
    diagnostics: dict[str, float]


class Filter(ABC):
    """One assimilation; it knows nothing of the cycles before."""

    name: ClassVar[str]

    def __call__(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        """Draw from the analysis.

        Args:
            model: gives h and the noise of y.
            x: (M, dx), M ≥ 2 draws of the forecast; computed with, and given back, as float64 whatever its dtype.
            y: (dy,), the observation.
            generator: of all that is random.

        Raises:
            CSBError: M < 2, shapes that do not fit the model, members or y that are not finite, before or after; an
                analysis a million standard deviations of the forecast, or more, away from it.
        """
        x, y = as_numbers("x", x).double(), as_numbers("y", y).double()
        _check(model, x, y)
        found = self._analyse(model, x, y, generator)
        std = spread(x)
        far = ((found.x - x.mean(0)).abs() / torch.where(std > 0, std, torch.inf)).max()
        if not bool(torch.isfinite(found.x).all()) or not bool(far < _FAR):
            raise CSBError(
                f"{self.name} gave members that are {float(far):.1e} standard deviations of the forecast away from it: "
                f"it diverged; use more members or inflation, or check y and the forecast"
            )
        return found

    @abstractmethod
    def _analyse(self, model: StateSpace, x: Tensor, y: Tensor, generator: torch.Generator) -> Analysis:
        """As :meth:`__call__`, for checked arguments."""


def _check(model: StateSpace, x: Tensor, y: Tensor) -> None:
    """CSBError for members (M, dx) and an observation (dy,) that do not fit the model."""
    if x.ndim != 2 or x.shape[1] != model.dx or y.shape != (model.dy,) or len(x) < 2:
        raise CSBError(
            f"members {tuple(x.shape)} and y {tuple(y.shape)} do not fit {model.name}; expected (M, {model.dx}) and "
            f"({model.dy},), with M ≥ 2, better hundreds"
        )
    if not bool(torch.isfinite(x).all()):
        raise CSBError("forecast members are not finite: the filter diverged; use more members, inflation or less dt")
    if not bool(torch.isfinite(y).all()):
        raise CSBError(f"y={y.tolist()} is not finite; leave out what was not observed")
