"""The chains of RePaint, ILVR, replacement and CoPaint for a Gaussian prior, as moments; and a problem for them."""

from itertools import pairwise

import torch

from csb.problems import LinearGaussian, Mixture
from csb.process import Grid, Power, Reference, seeded
from csb.samplers import GaussianLikelihood
from csb.samplers.diffusion import levels
from tests.conftest import Moved

COARSE = Grid.from_schedule(Power(0.2, 2.0), 5)  # a short horizon, where ILVR and replacement differ
S = torch.tensor([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.5]], dtype=torch.float64)
M = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
Y = torch.tensor([8.0])  # far from the prior's mean, so that what is done with it tells
N = 20_000


class Chain:
    """The mean and covariance of z, pushed through the moves of a method; P projects onto what is seen, z̃ = known."""

    def __init__(self, grid, S, m, P=None, known=None):
        self.grid, self.reference, self.S, self.m, self.P, self.known = grid, Reference(grid), S, m, P, known
        self.eye = torch.eye(len(m), dtype=torch.float64)
        self.mean, self.cov = torch.zeros_like(m), self.eye

    def push(self, A, b, var=0.0):
        self.mean, self.cov = A @ self.mean + b, A @ self.cov @ A.T + var * self.eye

    def denoiser(self, k):
        """x̂_0 = C z + c."""
        a = self.grid.alpha_bar[k]
        C = a.sqrt() * self.S @ torch.linalg.inv(a * self.S + (1 - a) * self.eye)
        return C, (self.eye - a.sqrt() * C) @ self.m

    def descend(self, k, wide=False):
        (C, c), law = self.denoiser(k), self.reference.pinned_start(k)
        var = self.grid.beta[k] if wide and k > 1 else law.var
        self.push(law.near * self.eye + law.far * C, law.far * c, var)

    def replace(self, k):
        a, Q = self.grid.alpha_bar[k], self.eye - self.P
        self.push(Q, a.sqrt() * self.known)
        self.cov = self.cov + (1 - a) * self.P

    def climb(self, low, high):
        r = self.grid.alpha_bar[high] / self.grid.alpha_bar[low]
        self.push(r.sqrt() * self.eye, 0, 1 - r)

    def repaint(self, j, U):
        for k, to in pairwise(levels(self.grid.T, j, U)):
            if to > k:
                self.climb(k, to)
            else:
                self.descend(k, wide=True)
                self.replace(to)
        return self

    def ilvr(self, until):
        for k in range(self.grid.T, 0, -1):
            self.descend(k)
            if k >= until * self.grid.T:
                self.replace(k - 1)
        return self

    def replacement(self):
        for k in range(self.grid.T, 0, -1):
            self.replace(k)
            self.descend(k)
        self.replace(0)
        return self

    def copaint(self, model, eta, G, rate, j=1, U=1):
        """``model(k)`` gives v_k and (B, g) of the gradient g − B z of the likelihood's log, over ξ², at level k."""
        for k, to in pairwise(levels(self.grid.T, j, U)):
            if to > k:
                self.climb(k, to)
                continue
            v, B, g = model(k)
            top = rate * (1 + v * float(torch.linalg.eigvalsh(B)[-1]))
            assert top <= 2, f"a step of {top:.2f} of the curvature could raise φ_{k}: it would be refused"
            D, e = self.eye, torch.zeros_like(self.m)
            for _ in range(G):
                D, e = D - rate * (D - self.eye + v * B @ D), e - rate * (e + v * B @ e - v * g)
            a, b, var = self.grid.alpha_bar[k], self.grid.alpha_bar[to], eta**2 * self.reference.pinned_start(k).var
            (C, c), kept = self.denoiser(k), ((1 - b - var).clamp_min(0) / (1 - a)).sqrt()
            self.push(D, e)
            x_0 = b.sqrt() - kept * a.sqrt()
            self.push(x_0 * C + kept * self.eye, x_0 * c, var)
        return self


def assert_moments(x, mean, cov):
    """Samples x (n, d) against moments, within five standard errors."""
    x, var = x.double(), cov.diagonal().clamp_min(1e-10)
    assert bool(((x.mean(0) - mean).abs() < 5 * (var / len(x)).sqrt() + 1e-4).all()), (x.mean(0), mean)
    limit = 5 * (2 / len(x)) ** 0.5 * torch.outer(var, var).sqrt() + 1e-4
    assert bool(((x.T.cov() - cov).abs() < limit).all()), (x.T.cov(), cov)


def correlated(method, shift=0.5, scale=2.0, grid=COARSE, **options):
    """A sampler for a correlated prior N(M, S) of z = (x − shift)/scale seen through one row of length 1.5."""
    problem = LinearGaussian(dx=3, dy=1, seed=1)
    denoiser = Moved(Mixture(torch.ones(1).double(), M[None], S[None]), shift, scale)
    likelihood = GaussianLikelihood(problem.operator, 0.5).with_scales(torch.full((1,), 2.0), 0.8)
    return method(denoiser, likelihood, grid, batch_size=4096, **options)


def chain_of(sampler):
    """The chain of a sampler of :func:`correlated`."""
    A, shift, scale = sampler.likelihood.operator.A, sampler.denoiser.shift.double(), sampler.denoiser.scale
    c = A @ A.T
    P = A.T @ A / c
    return Chain(sampler.grid, S, M, P, (A.T @ Y.double() / c[0] - P @ shift) / scale)


def assert_chain(sampler, chain, seed=1):
    x = sampler.sample(Y, N, seeded(seed)).x
    shift, scale = sampler.denoiser.shift.double(), sampler.denoiser.scale
    assert_moments(x, shift + scale * chain.mean, scale**2 * chain.cov)
