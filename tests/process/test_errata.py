"""Formulas that are often printed wrong, each against a closed form that tells the right one from the wrong one.

Data are N(m, v) with m, v of our choice, so that everything is Gaussian: X_k ~ N(√ᾱ m, ᾱv + 1 − ᾱ), with E[x_0 | x_k]
and E[ε | x_k] by regression.
"""

import math

import pytest
import torch

from csb.process import Grid, Power, Reference

M, V = 1.7, 0.4
GRID = Grid.from_schedule(Power(0.01, 2.0), 8)
X = torch.linspace(-3, 3, 7, dtype=torch.float64)


class Marginal:
    """X_k ~ N(mean, var) at ᾱ, for data N(m, v)."""

    def __init__(self, alpha_bar, m=M, v=V):
        self.alpha_bar, self.m, self.v = alpha_bar, m, v
        self.mean, self.var = alpha_bar**0.5 * m, alpha_bar * v + 1 - alpha_bar

    def score(self, x):
        return (self.mean - x) / self.var

    def x_0(self, x):
        """E[x_0 | x]: Cov(x_0, x) = √ᾱ v."""
        return self.m + self.alpha_bar**0.5 * self.v / self.var * (x - self.mean)

    def eps(self, x):
        """E[ε | x]: Cov(ε, x) = √(1−ᾱ)."""
        return (1 - self.alpha_bar) ** 0.5 / self.var * (x - self.mean)


@pytest.fixture(params=[2, 5, 8])
def step(request):
    k = request.param
    return k, Marginal(float(GRID.alpha_bar[k])), float(GRID.beta[k])


def close(a, b):
    return torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_score_and_noise(step):
    _, law, _ = step
    sigma = (1 - law.alpha_bar) ** 0.5
    assert close(law.score(X), -law.eps(X) / sigma)
    assert not close(law.score(X), -(law.alpha_bar**0.5) / sigma * law.eps(X))


def test_tweedie(step):
    _, law, _ = step
    rest, root = 1 - law.alpha_bar, law.alpha_bar**0.5
    assert close(law.x_0(X), (X + rest * law.score(X)) / root)
    assert close(law.x_0(X), (X - rest**0.5 * law.eps(X)) / root)
    assert not close(law.x_0(X), (X - rest * law.score(X)) / root)


def test_ddpm_mean(step):
    """The mean of X_{k−1} | X_k is the pinned law's at x_0 = E[x_0 | x_k]."""
    k, law, beta = step
    pinned = Reference(GRID).pinned_start(k)
    mean = pinned.near * X + pinned.far * law.x_0(X)
    assert close(mean, (X + beta * law.score(X)) / (1 - beta) ** 0.5)
    assert not close(mean, (X - beta * law.score(X)) / (1 - beta) ** 0.5)


def test_posterior_variance(step):
    """β̃_k is what is left of X_{k−1} given X_k and X_0, by conditioning the joint law of (X_{k−1}, X_k) given X_0."""
    k, law, beta = step
    before = 1 - float(GRID.alpha_bar[k - 1])
    left = before - (1 - beta) * before**2 / (1 - law.alpha_bar)
    assert float(Reference(GRID).pinned_start(k).var) == pytest.approx(left)
    assert beta * before / (1 - law.alpha_bar) == pytest.approx(left)
    assert beta * (1 - law.alpha_bar) / before != pytest.approx(left, rel=1e-3)


def end(noise, weight, T=4000):
    """Mean and variance at s = 0 of dx = [−½x − weight·∇log p] ds + noise dW̄, by Euler's rule from the law at s_T.

    The score of a Gaussian is affine: mean and variance follow by hand.
    """
    grid = Grid.from_schedule(Power(0.01, 2.0), T)
    s, alpha_bar = grid.clock.tolist(), grid.alpha_bar.tolist()
    start = Marginal(alpha_bar[-1])
    mean, var = start.mean, start.var
    for k in range(T, 0, -1):
        h, law = s[k] - s[k - 1], Marginal(alpha_bar[k])
        slope = 1 + h / 2 - h * weight / law.var
        mean, var = slope * mean + h * weight * law.mean / law.var, slope**2 * var + noise**2 * h
    return mean, var


def test_reverse_sde():
    assert end(1.0, 1.0) == pytest.approx((M, V), rel=5e-3)
    assert end(1.0, -1.0) != pytest.approx((M, V), rel=0.5)  # the score with the other sign


def test_probability_flow():
    assert end(0.0, 0.5) == pytest.approx((M, V), rel=5e-3)
    assert end(0.0, 1.0) != pytest.approx((M, V), rel=0.1)  # without the ½


def test_guided_mean(step):
    """Given y the mean of X_{k−1} | X_k is the pinned law's at E[x_0 | x_k, y]; guidance adds ∇log p(y | x_k) to it.

    y = x_0 + noise of variance .3, observed at 2.5: x_0 | y is N(m', v') again.
    """
    k, prior, beta = step
    v = 1 / (1 / V + 1 / 0.3)
    posterior = Marginal(prior.alpha_bar, v * (M / V + 2.5 / 0.3), v)
    pinned = Reference(GRID).pinned_start(k)
    exact = pinned.near * X + pinned.far * posterior.x_0(X)
    unguided = pinned.near * X + pinned.far * prior.x_0(X)
    gradient = posterior.score(X) - prior.score(X)  # of log p(y | x_k)
    assert close(exact, unguided + beta / math.sqrt(1 - beta) * gradient)
    assert not close(exact, unguided + beta * gradient)  # the variance-exploding form
