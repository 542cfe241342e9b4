r"""Objectives by name: which target the kernels of a half-step are fitted to, and by which loss.

A half-step asks for the path law of Markov kernels nearest to the trajectories' law π. Given x_k its kernel is
π(x_{k−1} | x_k, y). In the first half-step π is the reference pinned at data, and x_{k−1} | x_k, x_0 is Gaussian: its
variance is integrated out of the loss, which leaves less noise in the gradient and the same minimum.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from csb.bridge.kernel import Direction, Kernel
from csb.bridge.transitions import Transition
from csb.process import Reference, expand, mix, noise_like


class Target(NamedTuple):
    """Where the kernel's law should lie: a mean (B, *z_shape) and the variance integrated out (broadcastable to it)."""

    mean: Tensor
    var: Tensor | float = 0.0

    def drawn(self, generator: torch.Generator) -> "Target":
        """Draw the state that the kernel leads to in place of its law, for losses that cannot integrate it out."""
        if not isinstance(self.var, Tensor):
            return self
        return Target(self.mean + self.var.sqrt() * noise_like(self.mean, generator))


class Objective(ABC):
    """One way to fit the kernels of a half-step to trajectories.

    ``caches`` says what is kept of each: "states", all of them; "targets", besides those of :meth:`cached_target`; or
    "ends", x_0 and x_T alone, between which states are drawn from the reference process pinned at both.
    """

    name: ClassVar[str]
    caches: ClassVar[Literal["states", "targets", "ends"]]

    def first_target(self, reference: Reference, k: Tensor, x_k: Tensor, x_0: Tensor) -> Target:
        """Return the target of the first backward half-step at x_k (B, *z_shape), k (B,), drawn from X_k | X_0.

        X_{k−1} | X_k, X_0 of the reference, as a mean and a variance: the draw of x_{k−1} is integrated out.
        """
        law = reference.pinned_start(k)
        return Target(mix(law, x_k, x_0), expand(law.var, x_k))

    def cached_target(
        self, other: Kernel, k: Tensor, start: Tensor, end: Tensor, mean: Tensor, context: Tensor
    ) -> Tensor:
        """Return the target at ``end``, which the frozen kernel ``other`` reached from ``start``, with mean ``mean``.

        The kernel that is fitted goes back; k is the step's number (1,), context the frozen kernel's (B, …).
        """
        return start

    @abstractmethod
    def loss(self, law: Transition, target: Target, beta: Tensor) -> Tensor:
        """Return the loss of each element, (B, *z_shape); β_k (B,) sets the scale."""


class Likelihood(Objective):
    """Gaussian negative log-likelihood of the previous state, relative to log β_k so that steps are comparable.

    The KL projection of the half-step: the Gaussian that maximises E_π log N(x_{k−1}; m(x_k, y), S(x_k, y)) has π's
    conditional mean and covariance (its diagonal, where S is diagonal). With Gaussian kernels this recursion reaches
    the exact posterior at any T, where a variance fixed at β_k keeps it too wide.
    """

    name = "likelihood"
    caches = "states"

    def loss(self, law: Transition, target: Target, beta: Tensor) -> Tensor:
        return law.nll(target.mean, target.var) - 0.5 * expand(beta, target.mean).log()


class MeanMatching(Objective):
    """Squared error of the mean in units of β_k: ½ (target − mean)²/β_k.

    From Shi, De Bortoli, Deligiannidis & Doucet 2022, "Conditional simulation using diffusion Schrödinger bridges" and
    De Bortoli et al. 2021, Proposition 3: with x_k = m_F(x_{k−1}) + √β_k ε the backward mean is regressed on
    x_k + m_F(x_{k−1}) − m_F(x_k), which agrees with the time reversal to first order in β_k and has less noise than
    x_{k−1} itself; likewise for the forward mean. The variance stays at β_k: at few steps the posterior is too wide,
    for Gaussians by a known amount (:mod:`csb.problems.gaussian_ipf`).
    """

    name = "mean_matching"
    caches = "targets"

    def first_target(self, reference: Reference, k: Tensor, x_k: Tensor, x_0: Tensor) -> Target:
        # m_F is the reference step √(1−β_k) x, and x_{k−1} enters linearly: its pinned mean takes its place.
        scale = expand(reference.step(k).scale, x_k)
        return Target(x_k + scale * (super().first_target(reference, k, x_k, x_0).mean - x_k))

    def cached_target(
        self, other: Kernel, k: Tensor, start: Tensor, end: Tensor, mean: Tensor, context: Tensor
    ) -> Tensor:
        return end + mean - other(end, k, context).mean

    def loss(self, law: Transition, target: Target, beta: Tensor) -> Tensor:
        return 0.5 * (target.mean - law.mean) ** 2 / expand(beta, law.mean)


class BridgeMatching(Likelihood):
    """Gaussian likelihood of the pinned step, at states of the reference process between the cached end points.

    Iterative Markovian fitting (IMF; Shi, De Bortoli, Campbell & Doucet 2023; Peluchetti 2023), in discrete time
    (Gushchin et al. 2024, "Adversarial Schrödinger bridge matching", section 3). The frozen kernels give a coupling of
    end points (x_0, x_T) given y; in place of their paths stands the reference process pinned at both ends,
    X_k | X_0, X_T: the *reciprocal projection*. The half-step then fits Markov kernels to that law by Gaussian
    likelihood, the *Markovian projection*: backward ones to X_{k−1} | X_k, y, where the pinned step X_{k−1} | X_k, X_0
    is Gaussian and its variance integrated out, forward ones to X_k | X_{k−1}, y with the step pinned at X_T. One end
    point's law is exact in each: forward kernels start at data, backward ones at N(0, I).

    The fixed point is the Schrödinger bridge, as for IPF. Errors along the path do not pile up in the training states,
    as those of IPF's trajectories do, and the cache holds two states a trajectory.
    """

    name = "bridge_matching"
    caches = "ends"


def bridged(
    reference: Reference, direction: Direction, k: Tensor, x_0: Tensor, x_T: Tensor, generator: torch.Generator
) -> tuple[Tensor, Target]:
    """Draw states between end points (B, *z_shape) for the kernels of steps k (B,), and their targets.

    backward: x_k, and the law of x_{k−1} | x_k, x_0; forward: x_{k−1}, and the law of x_k | x_{k−1}, x_T.
    """
    at = k if direction == "backward" else k - 1
    x = reference.pinned_both(at).draw(x_0, x_T, generator)
    law, end = (reference.pinned_start(k), x_0) if direction == "backward" else (reference.pinned_end(k), x_T)
    return x, Target(mix(law, x, end), expand(law.var, x))


OBJECTIVES: dict[str, type[Objective]] = {o.name: o for o in (Likelihood, MeanMatching, BridgeMatching)}
