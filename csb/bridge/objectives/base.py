"""What an objective is: which target a kernel is fitted to, and by which loss."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from csb.bridge.kernel import Kernel
from csb.bridge.transitions import Transition
from csb.process import Reference, expand, mix, noise_like


class Target(NamedTuple):
    """Where the kernel's law should lie: a mean (B, *z_shape) and the variance integrated out (broadcastable to it)."""

    mean: Tensor
    var: Tensor | float = 0.0

    def drawn(self, generator: torch.Generator) -> "Target":
        """One draw of the previous state in place of its law, for losses that cannot integrate the variance out."""
        if not isinstance(self.var, Tensor):
            return self
        return Target(self.mean + self.var.sqrt() * noise_like(self.mean, generator))


class Objective(ABC):
    """One way to fit the kernels of a half-step to trajectories.

    ``caches``: what is kept of each trajectory: "states", all of them; "targets", besides the states the targets that
    :meth:`cached_target` computes from the frozen kernels of the other direction; or "ends", x_0 and x_T alone, between
    which the states are drawn from the reference process pinned at both.
    """

    name: ClassVar[str]
    caches: ClassVar[Literal["states", "targets", "ends"]]

    @abstractmethod
    def first_target(self, reference: Reference, k: Tensor, x_k: Tensor, x_0: Tensor) -> Target:
        """The target of the first backward half-step at x_k (B, *z_shape), k (B,), drawn directly from X_k | X_0."""

    @abstractmethod
    def cached_target(
        self, other: Kernel, k: Tensor, start: Tensor, end: Tensor, mean: Tensor, context: Tensor
    ) -> Tensor:
        """The target at state ``end``, which the frozen kernel reached from ``start``, where its mean is ``mean``.

        The kernel that is fitted goes from ``end`` back to ``start``; k is the step's number (1,), context the frozen
        kernel's (B, …).
        """

    @abstractmethod
    def loss(self, law: Transition, target: Target, beta: Tensor) -> Tensor:
        """The loss of each element, (B, *z_shape); β_k (B,) sets the scale."""


def pinned_target(reference: Reference, k: Tensor, x_k: Tensor, x_0: Tensor) -> Target:
    """X_{k−1} | X_k, X_0 of the reference, as a mean and a variance: the draw of x_{k−1} is integrated out."""
    law = reference.pinned_start(k)
    return Target(mix(law, x_k, x_0), expand(law.var, x_k))
