"""The samplers that need no guidance: models that take y themselves, the bridge, and the exact posterior."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from csb.bridge import Bridge, SampleInfo, Samples, autocast
from csb.bridge.samples import REACH, require_finite, warn_far
from csb.bridge.student import Student
from csb.dtypes import Precision
from csb.errors import CSBError
from csb.problems import Problem
from csb.process import Noise, Reference, mix
from csb.samplers.base import Sampler, noised
from csb.schema import Count


class AmortizedSampler(Sampler):
    """Carries z ~ N(0, I) to p(z_0 | y) with a model that takes y itself: no guidance, no weights.

    The noise of a step is drawn for the whole request at once, so that the result does not depend on batch_size. The
    observation's encoder runs once an observation and is not counted, as for the bridge.

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

    def __init__(self, model: Any, **settings: Any) -> None:
        self.require_kind(model)
        super().__init__(model.transform.x_shape, model.transform.y_shape, model.device, **settings)
        self.model = model.eval().requires_grad_(False)
        self.precision = self.precision or model.precision
        self.y_dtype, self.any_units = model.transform.dtype_of("y"), model.transform.any_units

    @classmethod
    def require_kind(cls, model: Any) -> None:
        """CSBError for a model that the sampler does not take."""
        if cls.kind != getattr(model, "kind", ""):
            raise CSBError(f"{cls.name} takes a {cls.kind}, not a {type(model).__name__}; load that kind")

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Network calls for one sample."""

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
    from T to j → x_0 → …: all calls draw the same law of x_0, that of the bridge's samples, as
    :mod:`csb.bridge.student` derives. This is the multistep sampling of Song et al. (2023, algorithm 1), with a draw in
    place of the deterministic map, and with the new state joined to the old one: noise that is independent of x_k would
    give x_j Π's law only for ᾱ_T → 0.

    ``calls`` are the network calls a sample, one of those that the student is fitted for; else CSBError.
    """

    name = "consistency"
    kind = "student"
    remedy = "distil the bridge again, or check y"

    def __init__(self, student: Student, calls: int = 1, batch_size: int = 1024) -> None:
        super().__init__(student, batch_size=batch_size)
        self.levels = student.levels(calls)

    @property
    def evaluations(self) -> int:
        return len(self.levels)

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


class BridgeSampler(Sampler):
    """:meth:`csb.bridge.Bridge.sample` behind the protocol, with options as there: batch_size, mean_only, …"""

    name = "bridge"

    def __init__(self, bridge: Bridge, **options: Any) -> None:
        super().__init__(bridge.transform.x_shape, bridge.transform.y_shape, bridge.device)
        self.bridge, self.options = bridge, options
        self.y_dtype, self.any_units = bridge.transform.dtype_of("y"), bridge.transform.any_units

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        return self.bridge.sample(y, n, generator=noise.generator, **self.options)


class ExactSampler(Sampler):
    """Draws from the exact posterior: the reference that every other method is measured by."""

    name = "exact"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.x_shape, problem.y_shape)
        if not problem.has_exact_posterior:
            raise CSBError(f"the exact posterior of {problem.name} is not known; leave out the method exact")
        self.problem = problem

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        generators = noise.parts if len(noise.parts) > 1 else noise.parts * len(y)
        x = [
            self.problem.posterior(one).sample(n, torch.default_generator if part is None else part)
            for one, part in zip(y, generators)
        ]
        return Samples(torch.stack(x), SampleInfo(0, 0))
