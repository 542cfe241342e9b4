"""Laws of samplers' outputs for a Gaussian prior N(m, S) of z: as a sampler has them, and as theory says.

With the exact denoiser every sampler without weights is an affine map of all the standard normal numbers that it draws:
x = m + B ξ, so that its output is N(m, BBᵀ). One run on the unit vectors of ξ gives m and B, to the precision of the
arithmetic and without a single random number. In theory every step pushes mean and covariance: with M = ᾱS + (1−ᾱ)I the
denoiser is x̂_0 = m + √ᾱ S M⁻¹(z − √ᾱ m), and z_0 | z has the covariance C = (1−ᾱ) S M⁻¹.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from csb.metrics.distances import MomentErrors
from csb.process import Noise, Reference, seeded
from csb.samplers.diffusion import levels


class Transition(NamedTuple):
    """N(mean (d,), cov (d, d)), float64."""

    mean: Tensor
    cov: Tensor


class Scripted(Noise):
    """Hands out ``numbers`` (n, calls, d) call by call, or zeros where there are none, and counts the calls."""

    def __init__(self, numbers: Tensor | None = None) -> None:
        super().__init__(None, 1)
        self.numbers, self.calls = numbers, 0

    def normal(self, n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        self.calls += 1
        found = torch.zeros(n, *shape) if self.numbers is None else self.numbers[:, self.calls - 1].view(n, *shape)
        return found.to(dtype)

    def uniform(self, n: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        raise AssertionError("a sampler that draws uniform numbers is not affine in normal ones")


def output_law(sampler, y: Tensor) -> Transition:
    """The law of a sampler's x for one observation. AssertionError where it is not affine in its noise."""
    d, counter = torch.Size(sampler.x_shape).numel(), Scripted()
    with torch.no_grad():
        sampler._sample(y[None], 1, counter)
        size = counter.calls * d
        unit = torch.cat([torch.zeros(1, size), torch.eye(size), torch.randn(2, size, generator=seeded(0))])
        x = sampler._sample(y[None], size + 3, Scripted(unit.unflatten(1, (counter.calls, d)))).x
    x = x[0].flatten(1).double()
    mean, B = x[0], (x[1:-2] - x[0]).T
    scale = float((B @ B.T).trace().sqrt())
    assert float((mean + unit[-2:].double() @ B.T - x[-2:]).abs().max()) < 1e-3 * scale, "the sampler is not affine"
    return Transition(mean, B @ B.T)


def output_mean(sampler, y: Tensor) -> Tensor:
    """The mean alone (d,), float64, of a sampler that is affine in its noise: one chain."""
    with torch.no_grad():
        return sampler._sample(y[None], 1, Scripted()).x.flatten().double()


def law_errors(found: Transition, exact: Transition) -> MomentErrors:
    """As :func:`csb.metrics.distances.moment_errors`, from the law itself."""
    gap = float((found.mean - exact.mean).norm())
    return MomentErrors(
        gap / float(exact.cov.trace().sqrt()),
        gap / float(exact.mean.norm()),
        float((found.cov - exact.cov).norm() / exact.cov.norm()),
    )


def assert_moments(x: Tensor, law: Transition) -> None:
    """Samples x (n, d) against a law, within five standard errors."""
    x, n, var = x.double(), len(x), law.cov.diagonal().clamp_min(1e-10)
    assert bool(((x.mean(0) - law.mean).abs() < 5 * (var / n).sqrt() + 1e-4).all()), (x.mean(0), law.mean)
    limit = 5 * ((var.outer(var) + law.cov**2) / n).sqrt() + 1e-4
    assert bool(((x.T.cov() - law.cov).abs() < limit).all()), (x.T.cov(), law.cov)


class Chain:
    """The mean and covariance of z, pushed through the moves of a method from N(0, I).

    For RePaint, ILVR and replacement P projects onto what is seen, and z̃ = known is the observation in z's units.
    """

    def __init__(self, grid, m, S, P=None, known=None):
        self.grid, self.reference, self.m, self.S, self.P, self.known = grid, Reference(grid), m, S, P, known
        self.eye = torch.eye(len(m), dtype=torch.float64)
        self.mean, self.cov = torch.zeros_like(m), self.eye

    def push(self, A, b, var=0.0):
        self.mean, self.cov = A @ self.mean + b, A @ self.cov @ A.T + var * self.eye

    def denoiser(self, k):
        """D and b of x̂_0 = D z + b, and C."""
        a = self.grid.alpha_bar[k]
        inverse = torch.linalg.inv(a * self.S + (1 - a) * self.eye)
        D = a.sqrt() * self.S @ inverse
        return D, self.m - a.sqrt() * D @ self.m, (1 - a) * self.S @ inverse

    def law(self, of) -> Transition:
        """In data units, those of the denoiser of a sampler or a task."""
        shift, scale = of.denoiser.shift.double(), of.denoiser.scale
        return Transition(shift + scale * self.mean, scale**2 * self.cov)

    def descend(self, k, wide=False):
        """The unconditional step, with the variance β_k where ``wide``."""
        (D, b, _), law = self.denoiser(k), self.reference.pinned_start(k)
        var = self.grid.beta[k] if wide and k > 1 else law.var
        self.push(law.near * self.eye + law.far * D, law.far * b, var)

    def unconditional(self):
        for k in range(self.grid.T, 0, -1):
            self.descend(k)
        return self

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

    def copaint(self, model, eta=0.0, gradient_steps=1, learning_rate=1.0, jump_length=1, resamples=1, **_):
        """``model(k)`` gives v_k and (B, g) of the gradient g − B z of the likelihood's log, over ξ², at level k."""
        for k, to in pairwise(levels(self.grid.T, jump_length, resamples)):
            if to > k:
                self.climb(k, to)
                continue
            v, B, g = model(k)
            top = learning_rate * (1 + v * float(torch.linalg.eigvalsh(B)[-1]))
            assert top <= 2, f"a step of {top:.2f} of the curvature could raise φ_{k}: it would be refused"
            E, e = self.eye, torch.zeros_like(self.m)
            for _ in range(gradient_steps):
                E, e = E - learning_rate * (E - self.eye + v * B @ E), e - learning_rate * (e + v * B @ e - v * g)
            a, b, var = self.grid.alpha_bar[k], self.grid.alpha_bar[to], eta**2 * self.reference.pinned_start(k).var
            (D, d, _), kept = self.denoiser(k), ((1 - b - var).clamp_min(0) / (1 - a)).sqrt()
            self.push(E, e)
            x_0 = b.sqrt() - kept * a.sqrt()
            self.push(x_0 * D + kept * self.eye, x_0 * d, var)
        return self


def of_task(task, y, grid):
    """The chain of a GaussianTask, and c = (y − A shift)/scale."""
    c = (y.double() - task.A.sum(1) * task.shift) / task.scale
    return Chain(grid, task.prior.mean, task.prior.cov), c


def ddim_step(now, before, eta):
    """near, far, var of z_{k−1}, from the levels ᾱ_k and ᾱ_{k−1}, in the symbols of Song, Meng & Ermon 2021."""
    sigma2 = eta**2 * (1 - before) / (1 - now) * (1 - now / before)
    noise = (1 - before - sigma2) ** 0.5
    return noise / (1 - now) ** 0.5, before**0.5 - noise * (now / (1 - now)) ** 0.5, sigma2


def gain(kind, task, C, alpha_bar, gamma=1.0):
    """K of a method whose guess is x̂_0 + K(c − A x̂_0), in z's units."""
    A, eye, var, v = task.A, torch.eye(len(task.A)).double(), (task.std / task.scale) ** 2, task.z_variance
    remaining = 1 / (1 / v + alpha_bar / (1 - alpha_bar))
    middle = {
        "pigdm": lambda: remaining * A @ A.T + var * eye,
        "tmpd": lambda: A @ C @ A.T + var * eye,
        "rows": lambda: torch.diag((A @ C @ A.T).sum(1).clamp_min(0) + var),
        "sda": lambda: var * eye + gamma * (1 - alpha_bar) / alpha_bar * A @ A.T,
    }[kind]()
    return C @ A.T @ torch.linalg.inv(middle)


def guided_law(kind, task, y, grid, eta=1.0, corrections=0, gamma=1.0, step=0.5):
    """The law of x at the end of DDIM's steps from a method's guess, with Langevin steps after each where asked for."""
    (chain, c), alpha_bar = of_task(task, y, grid), grid.alpha_bar.tolist()

    def guess(k):
        D, b, C = chain.denoiser(k)
        K = gain(kind, task, C, alpha_bar[k], gamma)
        keep = chain.eye - K @ task.A
        return keep @ D, keep @ b + K @ c

    for k in range(grid.T, 0, -1):
        D, b = guess(k)
        near, far, var = ddim_step(alpha_bar[k], alpha_bar[k - 1], eta)
        chain.push(near * chain.eye + far * D, far * b, var)
        for _ in range(corrections if k > 1 else 0):
            level = alpha_bar[k - 1]
            D, b = guess(k - 1)
            delta = step * (1 - level) * gamma / (1 + gamma)
            P = chain.eye + delta / (1 - level) * (level**0.5 * D - chain.eye)
            chain.push(P, delta * level**0.5 / (1 - level) * b, 2 * delta)
    return chain.law(task)


def ddrm_law(task, y, grid, eta=0.85, eta_b=1.0):
    """The law of x at the end of DDRM's steps, in u = z/√ᾱ, with one projection for each of its three cases."""
    chain, c = of_task(task, y, grid)
    U, s, Vt = torch.linalg.svd(task.A, full_matrices=False)
    tau, known, sigma = task.std / task.scale / s, (U.T @ c) / s, grid.noise_ratio.tolist()

    def parts(level):
        """Projections on what is seen well, poorly and not at all; V for what is seen well and poorly."""
        well = Vt.T * (tau <= level).double()
        poor = Vt.T * (tau > level).double()
        return well, poor, chain.eye - Vt.T @ Vt

    well, poor, unseen = parts(sigma[-1])
    chain.mean = well @ known
    chain.cov = sigma[-1] ** 2 * (poor @ poor.T + unseen)
    chain.cov = chain.cov + well @ torch.diag((sigma[-1] ** 2 - tau**2).clamp_min(0)) @ well.T
    for k in range(grid.T, 0, -1):
        D, b, _ = chain.denoiser(k)
        D, t, kept = D * grid.alpha_bar[k].sqrt(), sigma[k - 1], (1 - eta**2) ** 0.5 * sigma[k - 1]
        well, poor, unseen = parts(t)
        inverse = torch.where(tau > 0, 1 / tau, 0)
        E = poor @ torch.diag(kept * inverse) @ Vt
        Q = (1 - eta_b) * well @ Vt + poor @ Vt - E + (1 - kept / sigma[k]) * unseen  # what multiplies x̂_0
        chain.push(Q @ D + kept / sigma[k] * unseen, Q @ b + eta_b * well @ known + kept * poor @ (inverse * known))
        fresh = (eta * t) ** 2 * (poor @ poor.T + unseen)
        fresh = fresh + well @ torch.diag((t**2 - (eta_b * tau) ** 2).clamp_min(0)) @ well.T
        chain.cov = chain.cov + (fresh if k > 1 else 0)
    return chain.law(task)
