"""Samplers of conditional models (:mod:`csb.networks.diffusion`): scores, on any grid, flows, models of one call.

A score gives the conditional denoiser x̂_0 = E[z_0 | z_k, y]; the steps are derived in :mod:`csb.process.reference`.
Orders in 1/T, for the law at the end: ancestral, reverse SDE and DDIM one; Heun and DPM-Solver++(2M) two. All start
from N(0, I), so that the grid's ᾱ_T must be small, and all end with z_0 = x̂_0(z_1): an error of order σ_1², so that the
order shows where the grid's first step falls like 1/T or faster in σ.

A flow gives the velocity of dz/dt = v(z, t, y), from N(0, I) at t = 0, exactly, to p(z_0 | y) at t = 1. Mean velocity
and consistency function are of the same path, and leap over parts of it without an error of discretisation.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from csb.errors import CSBError, is_one_of, require_int
from csb.networks.diffusion import ConditionalModel, FlowNetwork, ScoreNetwork
from csb.process import Grid, Noise, Pinned, Reference, ddim, euler_maruyama, mix
from csb.process.schedule import MOST_STEPS
from csb.samplers.base import AmortizedSampler, noised
from csb.schema import Share


class ConditionalSampler(AmortizedSampler):
    """A sampler of a conditional model; ``levels`` are those of the noise, by k, as the model takes them."""

    levels: Tensor

    def predict(self, z: Tensor, k: int, contexts: Tensor) -> Tensor:
        """What the model gives at the k-th level: x̂_0 of a score, v of a flow, and so on."""
        level = self.levels[k].to(self.device)
        return self.call(lambda z, c: self.model(z, level, c), contexts, z)


class ScoreSampler(ConditionalSampler):
    """A sampler of a conditional denoiser on a grid of T steps, whose ᾱ_T is small."""

    kind = "score"

    def __init__(self, model: ConditionalModel, grid: Grid, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.grid, self.levels, self.evaluations = grid, grid.alpha_bar, grid.T


class OneGuess(ScoreSampler):
    """A sampler whose step is a Gaussian, linear in the state and one guess x̂_0."""

    @abstractmethod
    def law(self, k: int) -> Pinned:
        """The law of z_{k−1} given z_k (near) and x̂_0 (far)."""

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        fresh = partial(noise.normal, len(z) // len(contexts), *z.shape[1:], dtype=z.dtype)
        for k in range(self.grid.T, 0, -1):
            law = self.law(k)
            z = noised(mix(law, z, self.predict(z, k, contexts)), law.var, fresh)
            yield z


class Ancestral(OneGuess):
    """DDPM: the pinned law with x̂_0 in place of x_0, variance β̃_k (Ho et al. 2020)."""

    name = "score_ddpm"

    def law(self, k: int) -> Pinned:
        return Reference(self.grid).pinned_start(k)


class ReverseSDE(OneGuess):
    """Euler–Maruyama on the reverse SDE (Song et al. 2021)."""

    name = "score_sde"

    def law(self, k: int) -> Pinned:
        return euler_maruyama(self.grid, k)


class DDIM(OneGuess):
    """Song, Meng & Ermon 2021."""

    name = "score_ddim"
    eta: Share = 0.0
    """η: 0 is deterministic, 1 is DDPM's step."""

    def law(self, k: int) -> Pinned:
        return ddim(self.grid, k, self.eta)


class Heun(ScoreSampler):
    """The probability flow du/dσ = (u − x̂_0)/σ by Heun's rule (Karras et al. 2022, algorithm 1), u = z/√ᾱ.

    The last step is Euler's, for the slope is not defined at σ = 0: 2T − 1 network calls.
    """

    name = "score_heun"

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.evaluations = 2 * self.grid.T - 1

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        sigma, root = self.grid.noise_ratio.tolist(), self.grid.alpha_bar.sqrt().tolist()

        def slope(u: Tensor, k: int) -> Tensor:
            return (u - self.predict(root[k] * u, k, contexts)) / sigma[k]

        u = z / root[-1]
        for k in range(self.grid.T, 0, -1):
            step, here = sigma[k - 1] - sigma[k], slope(u, k)
            there = here if k == 1 else slope(u + step * here, k - 1)
            u = u + step * (here + there) / 2
            yield root[k - 1] * u


class DPMSolver(ScoreSampler):
    r"""DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): DDIM's step with x̂_0 extrapolated from the last two.

    With λ = −log σ, s = √(1−ᾱ) and h_k = λ_{k−1} − λ_k the flow is z_{k−1} = (s_{k−1}/s_k) z_k + s_{k−1} ∫ e^λ x̂_0 dλ.
    A constant x̂_0 gives DDIM's step; x̂_0(k) + (x̂_0(k) − x̂_0(k+1)) h_k/(2 h_{k+1}), the guess for the middle of the
    step, gives order two. The first step has no predecessor; the last has h = ∞ and takes x̂_0(1).
    """

    name = "score_dpmpp"

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        lam = [-math.log(sigma) if sigma > 0 else math.inf for sigma in self.grid.noise_ratio.tolist()]
        before: Tensor | None = None
        for k in range(self.grid.T, 0, -1):
            here = self.predict(z, k, contexts)
            guess = here
            if before is not None and k > 1:
                guess = here + (here - before) * ((lam[k - 1] - lam[k]) / (2 * (lam[k] - lam[k + 1])))
            z, before = mix(ddim(self.grid, k), z, guess), here
            yield z


class FlowSampler(ConditionalSampler):
    """A sampler of a conditional velocity, in N steps."""

    kind = "flow"
    calls: ClassVar[int]  # a step

    def __init__(self, model: ConditionalModel, N: int, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.N = require_int("N", N, 1, MOST_STEPS)
        self.levels, self.evaluations = torch.linspace(0, 1, N + 1, dtype=torch.float64), self.calls * self.N


class FlowEuler(FlowSampler):
    """Euler's rule: order one, N network calls."""

    name = "flow_euler"
    calls = 1

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i in range(self.N):
            z = z + self.predict(z, i, contexts) / self.N
            yield z


class FlowHeun(FlowSampler):
    """Heun's rule: order two, 2N network calls."""

    name = "flow_heun"
    calls = 2

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i in range(self.N):
            here = self.predict(z, i, contexts)
            there = self.predict(z + here / self.N, i + 1, contexts)
            z = z + (here + there) / (2 * self.N)
            yield z


class MeanFlowSampler(FlowEuler):
    """z_s = z_t + (s−t) u(z_t, t, s) over N intervals of [0, 1] (Geng et al. 2025): N network calls.

    With the exact mean velocity every N draws from p(z_0 | y), N = 1 too.
    """

    name = kind = "meanflow"

    def __init__(self, model: ConditionalModel, N: int, **settings: Any) -> None:
        super().__init__(model, N, **settings)
        self.levels = torch.stack([self.levels[:-1], self.levels[1:]], dim=1)[:, None]


class MultistepConsistency(FlowSampler):
    """z_1 = f(z_t, t) from t = 0, noised to the next level and mapped to its end again (Song et al. 2023, algorithm 1).

    The N levels t = 0, 1/N, … are even in t. N network calls; with the exact f every N draws from p(z_0 | y).
    """

    name, kind = "consistency_training", "consistency"
    calls = 1

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i, t in enumerate(self.levels[:-1].tolist()):
            if i:
                z = t * z + (1 - t) * noise.normal(len(z) // len(contexts), *z.shape[1:], dtype=z.dtype)
            yield (z := self.predict(z, i, contexts))


SCORE: dict[str, type[ScoreSampler]] = {
    "ddpm": Ancestral, "sde": ReverseSDE, "ddim": DDIM, "heun": Heun, "dpmpp": DPMSolver
}  # fmt: skip
SPACINGS: dict[str, Callable[[ScoreNetwork, int], Grid]] = {
    "schedule": lambda model, T: Grid.from_schedule(model.schedule, T),
    "karras": lambda model, T: Grid.karras(T, model.schedule.alpha_bar_end),
}
FLOW: dict[str, type[FlowSampler]] = {"euler": FlowEuler, "heun": FlowHeun}


def _chosen(what: str, value: str, known: dict[str, Any]) -> Any:
    if not is_one_of(value, known):
        raise CSBError(f"{what}={value!r} is unknown; choose one of {', '.join(known)}")
    return known[value]


def score_sampler(model: ScoreNetwork, method: str, T: int, spacing: str = "schedule", **settings: Any) -> ScoreSampler:
    """Make a sampler on T steps from the horizon that the model was trained on. CSBError for an unknown name.

    Args:
        model: from :func:`csb.load`.
        method: one of :data:`SCORE`. T network calls a sample, heun 2T − 1.
        T: steps.
        spacing: "schedule", even in the τ of the model's schedule, or "karras" (:meth:`csb.process.Grid.karras`).
        **settings: batch_size; eta of ddim.
    """
    make, grid = _chosen("method", method, SCORE), _chosen("spacing", spacing, SPACINGS)
    make.require_kind(model)
    return make(model, grid(model, T), **settings)


def flow_sampler(model: FlowNetwork, method: str, N: int, **settings: Any) -> FlowSampler:
    """Make a sampler in N steps, by one of :data:`FLOW`: euler, N network calls a sample, or heun, 2N.

    ``model`` is from :func:`csb.load`. CSBError for an unknown name.
    """
    return _chosen("method", method, FLOW)(model, N, **settings)
