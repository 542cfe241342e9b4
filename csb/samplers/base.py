"""The protocol of every posterior sampler."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, get_origin

import torch
from pydantic import Field, create_model
from torch import Tensor

from csb.bridge import Samples
from csb.bridge.samples import check_observations, measured
from csb.errors import MOST_ROUNDS, require_int
from csb.numbers import Numbers
from csb.process import Generators, Noise, seeded_or
from csb.schema import Arguments, Schema

Fresh = Callable[[], Tensor]  # standard normal numbers of the states' shape, new ones at each call
Rounds = Annotated[int, Field(ge=1, le=MOST_ROUNDS)]
NotNegative = Annotated[float, Field(ge=0)]


class Sampler(ABC):
    """Draws from p(x | y), exactly or not. Concrete samplers are made for one problem.

    What has a type and a value in the body of a sampler's class is a setting of the method: a keyword argument of its
    constructor, checked against the type, with the value as default. CSBError for another value.

    Attributes:
        name: the method's name, as in the configuration.
        Settings: the schema of all settings of the method.
        device: where it computes and where its generators live.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Schema]] = Arguments
    y_dtype: torch.dtype = torch.float32  # of observations as data
    any_units: bool = False  # of images: see csb.problems.Transform

    def __init_subclass__(cls) -> None:
        own: dict[str, Any] = {
            key: (kind, vars(cls)[key])
            for key, kind in inspect.get_annotations(cls).items()
            if key in vars(cls) and get_origin(kind) is not ClassVar
        }
        cls.Settings = create_model(cls.__name__, __base__=cls.Settings, **own)

    def __init__(
        self, x_shape: tuple[int, ...], y_shape: tuple[int, ...], device: torch.device | str = "cpu", **settings: Any
    ) -> None:
        self.x_shape, self.y_shape, self.device = tuple(x_shape), tuple(y_shape), torch.device(device)
        vars(self).update(vars(self.Settings.read(settings, self.name)))

    def sample(self, y: Numbers, n: int = 1, generator: Generators = None, *, seed: int | None = None) -> Samples:
        """Draw n samples for each observation, (B, n, *x_shape), or (n, *x_shape) for one, with their weights and cost.

        CSBError for y of another shape or not finite, or an n that the method cannot give.

        Args:
            y: one observation (*y_shape) or several (B, *y_shape).
            n: samples of each.
            generator: one, or a list of B: then the samples of an observation do not depend on those beside it.
            seed: of a generator, in its place.
        """
        n = require_int("n", n, 1)
        y, single = check_observations(y, self.y_shape, self.device, self.y_dtype, self.any_units)
        noise = Noise(seeded_or(generator, seed, self.device), len(y), self.device)
        with torch.inference_mode(False), torch.no_grad(), measured(self.device) as cost:
            found = self._sample(y, n, noise)
        info = replace(found.info, seconds=cost.seconds, peak_memory=cost.peak_memory)
        if not single:
            return replace(found, info=info)
        weights, ess, ancestors = (
            part if part is None else part[0] for part in (found.log_weights, info.ess, info.unique_ancestors)
        )
        return Samples(found.x[0], replace(info, ess=ess, unique_ancestors=ancestors), weights)

    @abstractmethod
    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        """Samples of checked y (B, *y_shape), without the time they took; all random numbers from ``noise``."""


def noised(mean: Tensor, var: Tensor | float, fresh: Fresh) -> Tensor:
    """A draw of N(mean, var I). No number is drawn where var = 0, as in the last step of a chain."""
    return mean + math.sqrt(var) * fresh() if var > 0 else mean
