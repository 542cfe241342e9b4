r"""Samplers of a conditional denoiser x̂_0 = E[z_0 | z_k, y], the same network as a conditional score, on any grid.

The derivations of the reverse process's forms stand in :mod:`csb.process.reverse`. Orders in 1/T, for the law at the
end: ancestral, reverse SDE and DDIM one; Heun and DPM-Solver++(2M) two. All start from N(0, I), so that the grid's ᾱ_T
must be small, and all end with z_0 = x̂_0(z_1): an error of order σ_1², so that the order shows where the grid's first
step falls like 1/T or faster in σ.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from csb.errors import CSBError, is_one_of
from csb.networks.diffusion import ConditionalModel, ScoreNetwork
from csb.process import Grid, Noise, Pinned, ancestral, ddim, euler_maruyama, expand, mix, noise_ratio
from csb.samplers.conditional import ConditionalSampler
from csb.samplers.diffusion import require_eta


class ScoreSampler(ConditionalSampler):
    """A sampler of a conditional denoiser on a grid.

    Args:
        model: the denoiser.
        grid: T steps; ᾱ_T small.
        batch_size: see :class:`csb.samplers.conditional.ConditionalSampler`.
    """

    kind = "score"

    def __init__(self, model: ConditionalModel, grid: Grid, batch_size: int = 1024) -> None:
        super().__init__(model, batch_size)
        self.grid = grid

    @property
    def evaluations(self) -> int:
        return self.grid.T

    def denoise(self, z: Tensor, k: int, contexts: Tensor) -> Tensor:
        """x̂_0 at step k."""
        return self.evaluate(z, self.grid.alpha_bar[k], contexts)


class OneGuess(ScoreSampler):
    """A sampler whose step is a Gaussian, linear in the state and one guess x̂_0."""

    @abstractmethod
    def law(self, k: int) -> Pinned:
        """The law of z_{k−1} given z_k (near) and x̂_0 (far)."""

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        for k in range(self.grid.T, 0, -1):
            law = self.law(k)
            z = mix(law, z, self.denoise(z, k, contexts))
            if float(law.var) > 0:
                z = z + expand(law.var.sqrt(), z) * self.fresh(z, contexts, noise)
            yield z


class Ancestral(OneGuess):
    """DDPM: the pinned law with x̂_0 in place of x_0, variance β̃_k (Ho et al. 2020)."""

    name = "score_ddpm"

    def law(self, k: int) -> Pinned:
        return ancestral(self.grid, k)


class ReverseSDE(OneGuess):
    """Euler–Maruyama on the reverse SDE (Song et al. 2021)."""

    name = "score_sde"

    def law(self, k: int) -> Pinned:
        return euler_maruyama(self.grid, k)


class DDIM(OneGuess):
    """Song, Meng & Ermon 2021.

    Args:
        eta: η in [0, 1]: 0 is deterministic, 1 is DDPM's step.
        **settings: see :class:`ScoreSampler`.
    """

    name = "score_ddim"

    def __init__(self, *args: Any, eta: float = 0.0, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.eta = require_eta(eta, "DDIM")

    def law(self, k: int) -> Pinned:
        return ddim(self.grid, k, self.eta)


class Heun(ScoreSampler):
    """The probability flow du/dσ = (u − x̂_0)/σ by Heun's rule (Karras et al. 2022, algorithm 1), u = z/√ᾱ.

    The last step is Euler's, for the slope is not defined at σ = 0: 2T − 1 network calls.
    """

    name = "score_heun"

    @property
    def evaluations(self) -> int:
        return 2 * self.grid.T - 1

    def walk(self, z: Tensor, contexts: Tensor, noise: Noise) -> Iterator[Tensor]:
        sigma, root = noise_ratio(self.grid).tolist(), self.grid.alpha_bar.sqrt().tolist()

        def slope(u: Tensor, k: int) -> Tensor:
            return (u - self.denoise(root[k] * u, k, contexts)) / sigma[k]

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
        lam = [-math.log(sigma) if sigma > 0 else math.inf for sigma in noise_ratio(self.grid).tolist()]
        before: Tensor | None = None
        for k in range(self.grid.T, 0, -1):
            here = self.denoise(z, k, contexts)
            guess = here
            if before is not None and k > 1:
                guess = here + (here - before) * ((lam[k - 1] - lam[k]) / (2 * (lam[k] - lam[k + 1])))
            z, before = mix(ddim(self.grid, k), z, guess), here
            yield z


SCORE: dict[str, type[ScoreSampler]] = {
    "ddpm": Ancestral,
    "sde": ReverseSDE,
    "ddim": DDIM,
    "heun": Heun,
    "dpmpp": DPMSolver,
}
SPACINGS: dict[str, Callable[[ScoreNetwork, int], Grid]] = {
    "schedule": lambda model, T: Grid.from_schedule(model.schedule, T),
    "karras": lambda model, T: Grid.karras(T, model.schedule.alpha_bar_end),
}


def score_sampler(model: ScoreNetwork, method: str, T: int, spacing: str = "schedule", **options: Any) -> ScoreSampler:
    """A sampler by name on T steps from the horizon that the model was trained on.

    Args:
        model: from :func:`csb.run.amortized.load_baseline`.
        method: one of :data:`SCORE`. T network calls a sample, heun 2T − 1.
        T: steps.
        spacing: "schedule", even in the τ of the model's schedule, or "karras" (see :meth:`csb.process.Grid.karras`).
        **options: batch_size; eta of ddim.

    Raises:
        CSBError: an unknown name, or a value out of range.
    """
    if not is_one_of(method, SCORE):
        raise CSBError(f"method {method!r} of a score is unknown; choose one of {', '.join(SCORE)}")
    if not is_one_of(spacing, SPACINGS):
        raise CSBError(f"spacing {spacing!r} is unknown; choose one of {', '.join(SPACINGS)}")
    if not isinstance(model, ScoreNetwork):
        raise CSBError(f"score_sampler takes a trained score, not a {type(model).__name__}; load the kind score")
    return SCORE[method](model, SPACINGS[spacing](model, T), **options)
