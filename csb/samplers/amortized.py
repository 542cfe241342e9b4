"""The samplers that need no guidance: models that take y themselves, the bridge, and the exact posterior."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from csb.bridge import Bridge
from csb.bridge.bridge import autocast
from csb.bridge.samples import warn_far
from csb.errors import CSBError
from csb.problems import Problem
from csb.process import Noise
from csb.samplers.base import Draws, Sampler, check_states
from csb.schema import Count


class AmortizedSampler(Sampler):
    """Carries z ~ N(0, I) to p(z_0 | y) with a model that takes y itself: no guidance, no weights.

    The noise of a step is drawn for the whole request at once, so that the result does not depend on batch_size. The
    observation's encoder runs once an observation and is not counted, as for the bridge.

    Args:
        model: trained or exact, one of ``takes`` and of its ``kind``, else CSBError; set to evaluation, no gradients.
        precision: of the network calls, by default the model's own.
        **settings: of the method.
    """

    batch_size: Count = 1024
    """States a network call; bounds the memory of activations."""
    takes: ClassVar[type]
    kind: ClassVar[str] = ""  # of a conditional model
    remedy: ClassVar[str] = "use more steps, train the model again, or check the values and units of y"

    def __init__(self, model: Any, precision: str | None = None, **settings: Any) -> None:
        if not isinstance(model, self.takes) or self.kind != getattr(model, "kind", ""):
            wanted = self.kind or self.takes.__name__
            raise CSBError(f"{self.name} takes a {wanted}, not a {type(model).__name__}; load that kind")
        super().__init__(model.transform.x_shape, model.transform.y_shape, model.device, **settings)
        self.model, self.precision = model.eval().requires_grad_(False), precision or model.precision
        self.y_dtype, self.any_units = model.transform.dtype_of("y"), model.transform.any_units

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

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        transform = self.model.transform
        warn_far(transform, y)
        z = noise.normal(n, *transform.z_shape)
        for state in self.walk(z, self.contexts(y), noise):
            z = state
        check_states(self.name, z, n, self.remedy)
        x = transform.decode(z, y.repeat_interleave(n, 0))
        return Draws(x.unflatten(0, (len(y), n)), self.evaluations, 0)


class BridgeSampler(Sampler):
    """:meth:`csb.bridge.Bridge.sample` behind the protocol, with options as there: batch_size, mean_only, …"""

    name = "bridge"

    def __init__(self, bridge: Bridge, **options: Any) -> None:
        super().__init__(bridge.transform.x_shape, bridge.transform.y_shape, bridge.device)
        self.bridge, self.options = bridge, options
        self.y_dtype, self.any_units = bridge.transform.dtype_of("y"), bridge.transform.any_units

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        found = self.bridge.sample(y, n, generator=noise.generator, **self.options)
        return Draws(found.x, found.info.forward_evaluations, 0)


class ExactSampler(Sampler):
    """Draws from the exact posterior: the reference that every other method is measured by."""

    name = "exact"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.x_shape, problem.y_shape)
        if not problem.has_exact_posterior:
            raise CSBError(f"the exact posterior of {problem.name} is not known; leave out the method exact")
        self.problem = problem

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        generators = noise.parts if len(noise.parts) > 1 else noise.parts * len(y)
        x = [
            self.problem.posterior(one).sample(n, torch.default_generator if part is None else part)
            for one, part in zip(y, generators)
        ]
        return Draws(torch.stack(x), 0, 0)
