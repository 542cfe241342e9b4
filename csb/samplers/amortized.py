"""The samplers that need no guidance: the trained bridge, and the exact posterior where it is known."""

import torch
from torch import Tensor

from csb.bridge import Bridge
from csb.errors import CSBError
from csb.problems import Problem
from csb.process import Noise
from csb.samplers.base import Draws, Sampler


class BridgeSampler(Sampler):
    """:meth:`csb.bridge.Bridge.sample` behind the protocol.

    Args:
        bridge: trained.
        batch_size, mean_only, refine, sample_steps: see there.
    """

    name = "bridge"

    def __init__(
        self,
        bridge: Bridge,
        batch_size: int = 1024,
        mean_only: bool = False,
        refine: int = 0,
        sample_steps: int | None = None,
    ) -> None:
        super().__init__(bridge.transform.x_shape, bridge.transform.y_shape, bridge.device)
        self.bridge, self.y_dtype = bridge, bridge.transform.dtype_of("y")
        self.any_units = bridge.transform.any_units
        self.options = {
            "batch_size": batch_size, "mean_only": mean_only, "refine": refine, "sample_steps": sample_steps
        }  # fmt: skip

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
        laws = [self.problem.posterior(one) for one in y]
        generators = noise.parts if len(noise.parts) > 1 else noise.parts * len(y)
        fixed = [part if part is not None else torch.default_generator for part in generators]
        return Draws(torch.stack([law.sample(n, part) for law, part in zip(laws, fixed)]), 0, 0)
