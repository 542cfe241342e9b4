"""What the samplers of a conditional model share: contexts of the observations, batched network calls, the way to x."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from csb.bridge.bridge import autocast
from csb.bridge.samples import warn_far
from csb.errors import CSBError, require_int
from csb.networks.diffusion import ConditionalModel
from csb.process import Noise
from csb.samplers.base import Draws, Sampler, check_states


class ConditionalSampler(Sampler):
    """Carries z ~ N(0, I) to p(z_0 | y) with a model that takes y itself: no guidance, no weights.

    The noise of a step is drawn for the whole request at once, so that the result does not depend on batch_size. The
    observation's encoder runs once an observation and is not counted, as for the bridge.

    Args:
        model: trained (or exact), of the sampler's kind; set to evaluation, without gradients.
        batch_size: states a network call; bounds the memory of activations.

    Raises:
        CSBError: a model of another kind, a batch_size or precision that is not possible.
    """

    kind: ClassVar[str]

    def __init__(self, model: ConditionalModel, batch_size: int = 1024) -> None:
        if model.kind != self.kind:
            raise CSBError(f"{self.name} needs a model of the kind {self.kind}, not {model.kind}; load that kind")
        super().__init__(model.transform.x_shape, model.transform.y_shape, model.device)
        require_int("batch_size", batch_size, 1)
        autocast(model.precision, self.device)  # raises for an unknown one
        self.model, self.batch_size = model.eval().requires_grad_(False), batch_size
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
        c = self.model.transform.encode_y(y)
        with torch.no_grad(), autocast(self.model.precision, self.device):
            return torch.cat([self.model.encode(part) for part in c.split(self.batch_size)])

    def evaluate(self, z: Tensor, level: Tensor, contexts: Tensor) -> Tensor:
        """The model at one noise level, ``batch_size`` states a network call; the states of a context side by side."""
        level = level.to(self.device)
        owner = torch.arange(len(contexts), device=z.device).repeat_interleave(len(z) // len(contexts))
        with torch.no_grad(), autocast(self.model.precision, self.device):
            parts = [
                self.model(part, level, contexts[rows])
                for part, rows in zip(z.split(self.batch_size), owner.split(self.batch_size))
            ]
        return torch.cat(parts)

    def fresh(self, z: Tensor, contexts: Tensor, noise: Noise) -> Tensor:
        """Standard normal numbers of z's shape and dtype, for the observations behind the contexts."""
        return noise.normal(len(z) // len(contexts), *z.shape[1:], dtype=z.dtype)

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        warn_far(self.model.transform, y)
        z = noise.normal(n, *self.model.transform.z_shape)
        for state in self.walk(z, self.contexts(y), noise):
            z = state
        check_states(self.name, z, n, "use more steps, train the model again, or check the values and units of y")
        x = self.model.transform.decode(z, y.repeat_interleave(n, 0))
        return Draws(x.unflatten(0, (len(y), n)), self.evaluations, 0)
