"""The protocol of every posterior sampler, and those that need no guidance: models that take y, the exact posterior."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar, get_origin

import torch
from pydantic import Field, create_model
from torch import Tensor

from csb.bridge import Bridge, SampleInfo, Samples, autocast
from csb.bridge.samples import REACH, check_observations, measured, require_finite, warn_far
from csb.bridge.student import Student
from csb.dtypes import Precision
from csb.errors import MOST_ROUNDS, CSBError, require_int
from csb.numbers import Observed
from csb.problems import Problem
from csb.process import Generators, Noise, Reference, mix, seeded_or
from csb.schema import Arguments, Count, Schema

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
    missing = False  # whether values of y may be NaN, which are missing
    parts = None  # of a y of named parts, their shapes

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

    def sample(self, y: Observed, n: int = 1, generator: Generators = None, *, seed: int | None = None) -> Samples:
        """Draw n samples for each observation, (B, n, *x_shape), or (n, *x_shape) for one, with their weights and cost.

        CSBError for y of another shape or not finite, or an n that the method cannot give.

        Args:
            y: one observation (*y_shape) or several (B, *y_shape).
            n: samples of each.
            generator: one, or a list of B: then the samples of an observation do not depend on those beside it.
            seed: of a generator, in its place.
        """
        n = require_int("n", n, 1)
        of = self.y_shape, self.device, self.y_dtype, self.any_units, self.missing, self.parts
        y, single = check_observations(y, *of)
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

    def _observe_as(self, model: Any) -> None:
        """Take the observations that a model takes, a bridge or what else has a transform."""
        maps, self.missing = model.transform, model.missing
        self.y_dtype, self.any_units, self.parts = maps.dtype_of("y"), maps.any_units, maps.parts

    @abstractmethod
    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        """Samples of checked y (B, *y_shape), without the time they took; all random numbers from ``noise``."""


def noised(mean: Tensor, var: Tensor | float, fresh: Fresh) -> Tensor:
    """A draw of N(mean, var I). No number is drawn where var = 0, as in the last step of a chain."""
    return mean + math.sqrt(var) * fresh() if var > 0 else mean


class ExactSampler(Sampler):
    """Draws from the exact posterior: the reference that every other method is measured by."""

    name = "exact"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.x_shape, problem.y_shape)
        if not problem.has_exact_posterior:
            raise CSBError(f"the exact posterior of {problem.name} is not known; leave out the method exact")
        self.problem, self.missing = problem, problem.may_miss

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        generators = noise.parts if len(noise.parts) > 1 else noise.parts * len(y)
        x = [
            self.problem.posterior(one).sample(n, torch.default_generator if part is None else part)
            for one, part in zip(y, generators)
        ]
        return Samples(torch.stack(x), SampleInfo(0, 0))


class BridgeSampler(Sampler):
    """:meth:`csb.bridge.Bridge.sample` behind the protocol, with options as there (but ``combine``): batch_size, …"""

    name = "bridge"

    def __init__(self, bridge: Bridge, **options: Any) -> None:
        super().__init__(bridge.transform.x_shape, bridge.transform.y_shape, bridge.device)
        if "combine" in options:
            raise CSBError(
                "combine is not possible here, which draws for each observation by itself; use bridge.sample"
            )
        self.bridge, self.options = bridge, options
        self._observe_as(bridge)

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        return self.bridge.sample(y, n, generator=noise.generator, **self.options)


class AmortizedSampler(Sampler):
    """Carries z ~ N(0, I) to p(z_0 | y) with a model that takes y itself: no guidance, no weights.

    The noise of a step is drawn for the whole request at once, so that the result does not depend on batch_size. The
    observation's encoder runs once an observation and is not counted in ``evaluations``, network calls for one sample.

    Args:
        model: trained or exact, of the sampler's ``kind``, else CSBError; set to evaluation, no gradients.
        **settings: of the method.
    """

    batch_size: Count = 1024
    """States a network call; bounds the memory of activations."""
    precision: Precision | None = None
    """Of the network calls; None: the model's own."""
    kind: ClassVar[str]  # of the model
    remedy: ClassVar[str] = "use more steps, train the model again, or check the values and units of y"
    evaluations: int

    def __init__(self, model: Any, **settings: Any) -> None:
        self.require_kind(model)
        super().__init__(model.transform.x_shape, model.transform.y_shape, model.device, **settings)
        self.model = model.eval().requires_grad_(False)
        self.precision = self.precision or model.precision
        self._observe_as(model)

    @classmethod
    def require_kind(cls, model: Any) -> None:
        """CSBError for a model that the sampler does not take."""
        if cls.kind != getattr(model, "kind", ""):
            raise CSBError(f"{cls.name} takes a {cls.kind}, not a {type(model).__name__}; load that kind")

    @abstractmethod
    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        """The states (B·n, *z_shape) after each step from z; contexts (B, …) from :meth:`contexts`."""

    def contexts(self, y: Tensor) -> Tensor:
        """The contexts of observations y (B, *y_shape), ``batch_size`` of them a network call."""
        parts = self.model.transform.encode_y(y).split(self.batch_size)
        with torch.no_grad(), autocast(self.precision, self.device):
            return torch.cat([self.model.encode(part) for part in parts])

    def call(self, function: Callable[..., Tensor], contexts: Tensor, *states: Tensor) -> Tensor:
        """function(*states, contexts), ``batch_size`` states a network call; the states of a context side by side."""
        owner = torch.arange(len(contexts), device=contexts.device).repeat_interleave(len(states[0]) // len(contexts))
        parts = zip(*(one.split(self.batch_size) for one in (owner, *states)))
        with torch.no_grad(), autocast(self.precision, self.device):
            return torch.cat([function(*part, contexts[rows]) for rows, *part in parts])

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        transform = self.model.transform
        warn_far(transform, y)
        z = noise.normal(n, *transform.z_shape)
        for state in self.walk(z, self.contexts(y), noise):
            z = state
        require_finite(self.name, z.unflatten(0, (len(y), n)), self.remedy, REACH)
        x = transform.decode(z, y.repeat_interleave(n, 0))
        return Samples(x.unflatten(0, (len(y), n)), SampleInfo(self.evaluations, 0))


class ConsistencySampler(AmortizedSampler):
    """Samples of a bridge in a few network calls, by a student distilled from it.

    x_T ~ N(0, I) → x_0 → x_j given (x_0, x_T), by the step of the reference process that is pinned at x_0 and leads
    from T to j → x_0 → …: all calls draw the same law of x_0, as :mod:`csb.bridge.student` derives. This is the
    multistep sampling of Song et al. (2023, algorithm 1), with a draw in place of the deterministic map, and with the
    new state joined to the old one. ``calls`` a sample must be among those that the student is fitted for.
    """

    name = "consistency"
    kind = "student"
    remedy = "distil the bridge again, or check y"

    def __init__(self, student: Student, calls: int = 1, batch_size: int = 1024) -> None:
        super().__init__(student, batch_size=batch_size)
        self.levels = student.levels(calls)
        self.evaluations = len(self.levels)

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        n, student = len(z) // len(contexts), self.model

        def draw(z: Tensor, k: int) -> Tensor:
            """x_0 given z at k."""
            step, numbers = torch.tensor([k], device=z.device), noise.normal(n, student.noise_size)
            return self.call(lambda z, own, c: student.draw(z, step, c, own), contexts, z, numbers)

        yield (x_0 := draw(z, self.levels[0]))
        for k, j in pairwise(self.levels):
            law = Reference(student.grid.keep(0, j, k)).pinned_start(2)
            z = noised(mix(law, z, x_0), law.var, partial(noise.normal, n, *z.shape[1:]))
            yield (x_0 := draw(z, j))
