"""Models for the tests of the amortized samplers: exact ones of a Gaussian problem, and untrained networks."""

import torch

from csb.networks.diffusion import ConditionalModel, ConditionalSpec, build_conditional
from csb.problems import LinearGaussian
from csb.problems.transform import Identity
from csb.process import seeded
from csb.samplers import FLOW, SCORE

PROBLEM = LinearGaussian(dx=2, dy=2, seed=3)


def matrix_power(S, p):
    """S^p of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values**p) @ vectors.T


class ExactDenoiser(ConditionalModel):
    """E[z_0 | z_k, y] for x | y ~ N(G y, C): G y + √ᾱ C S⁻¹(z − √ᾱ G y), S = ᾱC + (1−ᾱ)I, in z's dtype."""

    kind = "score"

    def __init__(self, problem=PROBLEM):
        super().__init__(Identity(problem.x_shape, problem.y_shape))
        self.G, self.C = problem.G, problem.C

    def encode(self, c):
        return c.double() @ self.G.T

    def cov(self, alpha_bar):
        """S at a level."""
        return alpha_bar * self.C + (1 - alpha_bar) * torch.eye(len(self.C), dtype=torch.float64)

    def forward(self, z, level, code):
        gain = level.sqrt() * self.C @ torch.linalg.inv(self.cov(level))
        return (code + (z.double() - level.sqrt() * code) @ gain.T).to(z.dtype)

    def flow(self, z, mean, grid):
        """z_0, …, z_T of the exact probability flow to z_T = z, (T + 1, B, d): √ᾱ mean + (S/S_T)^½ (z − √ᾱ_T mean)."""
        last = grid.alpha_bar[-1]
        start = (z.double() - last.sqrt() * mean) @ matrix_power(self.cov(last), -0.5)
        return torch.stack([a.sqrt() * mean + start @ matrix_power(self.cov(a), 0.5) for a in grid.alpha_bar])


class ExactVelocity(ConditionalModel):
    """E[z_0 − ε | z_t, y] for x | y ~ N(m, C): m + (tC − (1−t)I) S⁻¹(z − t m), S = t²C + (1−t)²I, in z's dtype."""

    kind = "flow"

    def __init__(self, problem=PROBLEM):
        super().__init__(Identity(problem.x_shape, problem.y_shape))
        self.G, self.C = problem.G, problem.C

    def encode(self, c):
        return c.double() @ self.G.T

    def forward(self, z, level, code):
        eye, t = torch.eye(len(self.C), dtype=torch.float64), level
        slope = (t * self.C - (1 - t) * eye) @ torch.linalg.inv(t**2 * self.C + (1 - t) ** 2 * eye)
        return (code + (z.double() - t * code) @ slope.T).to(z.dtype)

    def flow(self, z, mean):
        """The state at t = 1 of the exact flow from z at t = 0: mean + C^½ z."""
        return mean + z.double() @ matrix_power(self.C, 0.5)


SCHEDULE = {"name": "linear", "alpha_bar_end": 1e-4, "beta_min": 0.1}
MLP = {"name": "mlp", "width": 16, "depth": 1}


def untrained(kind, dx, dy, network=MLP, precision="32-true"):
    """A network on vectors whose weights are moved away from zero, so that every part of it has an effect."""
    transform = {"name": "standardise", "x_shape": [dx], "y_shape": [dy]}
    schedule = SCHEDULE if kind == "score" else None
    model = build_conditional(ConditionalSpec(kind, network, transform, schedule, precision), seed=3)
    generator = seeded(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


AMORTIZED = {f"score_{name}": method for name, method in SCORE.items()}
AMORTIZED |= {f"flow_{name}": method for name, method in FLOW.items()}
CALLS = dict.fromkeys(AMORTIZED, 6) | {"score_heun": 11, "flow_heun": 12}  # network calls in six steps


def make_amortized(name, score, flow, grid, **options):
    """A sampler of AMORTIZED on a score and the grid, or on a flow and as many steps."""
    if name.startswith("flow"):
        return AMORTIZED[name](flow, grid.T, **options)
    return AMORTIZED[name](score, grid, **options)
