"""Models for the tests of the samplers: exact ones of Gaussian problems, and untrained networks."""

import torch

from csb.networks.diffusion import ConditionalModel, ConditionalSpec, Denoiser, build_conditional
from csb.problems import LinearGaussian, Mixture
from csb.problems.transform import Identity
from csb.process import Grid
from csb.samplers import FLOW, SCORE, GaussianLikelihood, MeanFlowSampler, MultistepConsistency
from tests.conftest import Moved, move_weights
from tests.samplers.laws import Transition

PROBLEM = LinearGaussian(dx=2, dy=2, seed=3)


class GaussianTask:
    """x ~ N(m, S), y = A x + σ N(0, I): a linear problem with another prior; its exact denoiser and posterior.

    Args:
        problem: gives A and σ.
        mean, cov: m (d,) and S (d, d), float64; None: those of LinearGaussian, N(0, I).
        shift, scale: z = (x − shift)/scale.
    """

    def __init__(self, problem, mean=None, cov=None, shift: float = 0.0, scale: float = 1.0) -> None:
        d = problem.x_shape[0]
        self.A, self.std, self.shift, self.scale = problem.A, problem.noise_std, shift, scale
        self.mean = torch.zeros(d, dtype=torch.float64) if mean is None else mean
        self.cov = torch.eye(d, dtype=torch.float64) if cov is None else cov
        one = torch.ones(1, dtype=torch.float64)
        self.prior = Mixture(one, (self.mean[None] - shift) / scale, self.cov[None] / scale**2)  # of z
        self.denoiser = Moved(self.prior, shift, scale)
        self.z_variance = float(self.prior.cov.diagonal().mean())
        spread = (self.A @ self.cov @ self.A.T).diagonal()
        self.likelihood = GaussianLikelihood(problem.operator, self.std).with_scales(spread, self.z_variance)

    def build(self, method, grid: Grid, **options):
        return method(self.denoiser, self.likelihood, grid, **{"batch_size": 4096, **options})

    def evidence(self, y):
        """p(y)."""
        cov = self.A @ self.cov @ self.A.T + self.std**2 * torch.eye(len(self.A), dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.A @ self.mean, cov).log_prob(y.double()).exp()

    def posterior(self, y) -> Transition:
        S, A = self.cov, self.A
        gain = S @ A.T @ torch.linalg.inv(A @ S @ A.T + self.std**2 * torch.eye(len(A), dtype=torch.float64))
        return Transition(self.mean + gain @ (y.double() - A @ self.mean), S - gain @ A @ S)


class Pixels(Denoiser):
    """The exact denoiser of independent numbers of any shape, N(shift, scale²)."""

    def forward(self, z, alpha_bar):
        return alpha_bar.sqrt() * z


def matrix_power(S, p):
    """S^p of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values**p) @ vectors.T


class ExactConditional(ConditionalModel):
    """A model of x | y ~ N(G y, C) that is affine in z, in z's dtype."""

    def __init__(self, problem=PROBLEM):
        super().__init__(Identity(problem.x_shape, problem.y_shape))
        self.G, self.C, self.eye = problem.G, problem.C, torch.eye(len(problem.C), dtype=torch.float64)

    def encode(self, c):
        return c.double() @ self.G.T

    def forward(self, z, level, code):
        root, gain = self.affine(level)
        return (code + (z.double() - root * code) @ gain.T).to(z.dtype)


class ExactDenoiser(ExactConditional):
    """E[z_0 | z_k, y]: G y + √ᾱ C S⁻¹(z − √ᾱ G y), S = ᾱC + (1−ᾱ)I."""

    kind = "score"

    def cov(self, alpha_bar):
        """S at a level."""
        return alpha_bar * self.C + (1 - alpha_bar) * self.eye

    def affine(self, level):
        return level.sqrt(), level.sqrt() * self.C @ torch.linalg.inv(self.cov(level))

    def flow(self, z, mean, grid):
        """z_0, …, z_T of the exact probability flow to z_T = z, (T + 1, B, d): √ᾱ mean + (S/S_T)^½ (z − √ᾱ_T mean)."""
        last = grid.alpha_bar[-1]
        start = (z.double() - last.sqrt() * mean) @ matrix_power(self.cov(last), -0.5)
        return torch.stack([a.sqrt() * mean + start @ matrix_power(self.cov(a), 0.5) for a in grid.alpha_bar])


class ExactVelocity(ExactConditional):
    """E[z_0 − ε | z_t, y]: m + (tC − (1−t)I) S⁻¹(z − t m), m = G y, S = t²C + (1−t)²I."""

    kind = "flow"

    def affine(self, level):
        S = level**2 * self.C + (1 - level) ** 2 * self.eye
        return level, (level * self.C - (1 - level) * self.eye) @ torch.linalg.inv(S)

    def flow(self, z, mean, t=1.0):
        """The state at t of the exact flow from z at t = 0: t mean + (t²C + (1−t)²I)^½ z."""
        return t * mean + z.double() @ matrix_power(t**2 * self.C + (1 - t) ** 2 * self.eye, 0.5)


class ExactMeanVelocity(ExactVelocity):
    """(z_s − z_t)/(s−t) along the exact flow, z_s = s m + (S_s S_t⁻¹)^½ (z_t − t m); levels (1, 2) or (B, 2), t < s."""

    kind = "meanflow"

    def end(self, z, t, s, code):
        """The state at s (B, 1) of the flow that is at z at t (B, 1)."""
        values, vectors = torch.linalg.eigh(self.C)
        at_t, at_s = (u**2 * values + (1 - u) ** 2 for u in (t, s))
        return s * code + ((z.double() - t * code) @ vectors * (at_s / at_t).sqrt()) @ vectors.T

    def forward(self, z, level, code):
        t, s = level.double().unsqueeze(-1).unbind(1)
        return ((self.end(z, t, s, code) - z) / (s - t)).to(z.dtype)


class ExactConsistency(ExactMeanVelocity):
    """The end at t = 1 of the exact flow, at levels () or (B,)."""

    kind = "consistency"

    def forward(self, z, level, code):
        t = level.double().reshape(-1, 1)
        return self.end(z, t, torch.ones_like(t), code).to(z.dtype)


SCHEDULE = {"name": "linear", "alpha_bar_end": 1e-4, "beta_min": 0.1}
MLP = {"name": "mlp", "width": 16, "depth": 1}


def untrained(kind, dx, dy, network=MLP, precision="32-true"):
    """A network on vectors whose weights are moved away from zero."""
    transform = {"name": "standardise", "x_shape": [dx], "y_shape": [dy]}
    schedule = SCHEDULE if kind == "score" else None
    return move_weights(build_conditional(ConditionalSpec(kind, network, transform, schedule, precision), seed=3))


AMORTIZED = {f"score_{name}": method for name, method in SCORE.items()}
AMORTIZED |= {f"flow_{name}": method for name, method in FLOW.items()}
AMORTIZED |= {method.name: method for method in (MeanFlowSampler, MultistepConsistency)}
EXACT = {model.kind: model for model in (ExactDenoiser, ExactVelocity, ExactMeanVelocity, ExactConsistency)}


def make_amortized(name, models, grid, **options):
    """A sampler of AMORTIZED on its kind among the models, and on the grid or, but for a score, as many steps."""
    method = AMORTIZED[name]
    return method(models[method.kind], grid if method.kind == "score" else grid.T, **options)
