"""What the guided samplers' laws must be for a Gaussian prior N(m, S) of z: their formulas as matrices, step by step.

With M = ᾱS + (1−ᾱ)I the exact denoiser is x̂_0 = m + √ᾱ S M⁻¹(z − √ᾱ m), and z_0 | z has the covariance C = (1−ᾱ) S M⁻¹.
A method's guess is x̂_0 + K(c − A x̂_0), by its own gain K, and every step pushes mean and covariance.
"""

import torch

from tests.samplers.gaussian_moments import Transition


class Prior:
    """x̂_0 = D z + b and C at a level, for the prior of a task, in z's units."""

    def __init__(self, task):
        self.m, self.S, self.eye = task.prior.mean, task.prior.cov, torch.eye(len(task.mean)).double()

    def at(self, alpha_bar):
        inverse = torch.linalg.inv(alpha_bar * self.S + (1 - alpha_bar) * self.eye)
        D = alpha_bar**0.5 * self.S @ inverse
        return D, self.m - alpha_bar**0.5 * D @ self.m, (1 - alpha_bar) * self.S @ inverse


def ddim_step(now, before, eta):
    """near, far, var of z_{k−1}, from the levels ᾱ_k and ᾱ_{k−1}, in the symbols of Song, Meng & Ermon 2021."""
    sigma2 = eta**2 * (1 - before) / (1 - now) * (1 - now / before)
    noise = (1 - before - sigma2) ** 0.5
    return noise / (1 - now) ** 0.5, before**0.5 - noise * (now / (1 - now)) ** 0.5, sigma2


def gain(kind, task, C, alpha_bar, gamma=1.0):
    """K of a method, in z's units."""
    A, eye, var, v = task.A, torch.eye(len(task.A)).double(), (task.std / task.scale) ** 2, task.z_variance
    remaining = 1 / (1 / v + alpha_bar / (1 - alpha_bar))
    middle = {
        "pigdm": lambda: remaining * A @ A.T + var * eye,
        "tmpd": lambda: A @ C @ A.T + var * eye,
        "rows": lambda: torch.diag((A @ C @ A.T).sum(1).clamp_min(0) + var),
        "sda": lambda: var * eye + gamma * (1 - alpha_bar) / alpha_bar * A @ A.T,
    }[kind]()
    return C @ A.T @ torch.linalg.inv(middle)


def in_data_units(task, mean, cov):
    return Transition(task.shift + task.scale * mean, task.scale**2 * cov)


def guided_law(kind, task, y, grid, eta=1.0, corrections=0, gamma=1.0, step=0.5):
    """The law of x at the end of DDIM's steps from a method's guess, with Langevin steps after each where asked for."""
    prior, levels = Prior(task), grid.alpha_bar.tolist()
    c = (y.double() - task.A.sum(1) * task.shift) / task.scale
    mean, cov = torch.zeros_like(task.mean), prior.eye

    def guess(level):
        D, b, C = prior.at(level)
        K = gain(kind, task, C, level, gamma)
        keep = prior.eye - K @ task.A
        return keep @ D, keep @ b + K @ c

    for k in range(grid.T, 0, -1):
        D, b = guess(levels[k])
        near, far, var = ddim_step(levels[k], levels[k - 1], eta)
        P = near * prior.eye + far * D
        mean, cov = P @ mean + far * b, P @ cov @ P.T + var * prior.eye
        for _ in range(corrections if k > 1 else 0):
            level = levels[k - 1]
            D, b = guess(level)
            delta = step * (1 - level) * gamma / (1 + gamma)
            P = prior.eye + delta / (1 - level) * (level**0.5 * D - prior.eye)
            mean, cov = P @ mean + delta * level**0.5 / (1 - level) * b, P @ cov @ P.T + 2 * delta * prior.eye
    return in_data_units(task, mean, cov)


def ddrm_law(task, y, grid, eta=0.85, eta_b=1.0):
    """The law of x at the end of DDRM's steps, in u = z/√ᾱ, with one projection for each of its three cases."""
    prior, levels = Prior(task), grid.alpha_bar.tolist()
    c = (y.double() - task.A.sum(1) * task.shift) / task.scale
    U, s, Vt = torch.linalg.svd(task.A, full_matrices=False)
    tau, known = task.std / task.scale / s, (U.T @ c) / s
    sigma = [((1 - level) / level) ** 0.5 for level in levels]

    def parts(level):
        """Projections on what is seen well, poorly and not at all; V for what is seen well and poorly."""
        well = Vt.T * (tau <= level).double()
        poor = Vt.T * (tau > level).double()
        return well, poor, prior.eye - Vt.T @ Vt

    well, poor, unseen = parts(sigma[-1])
    mean = well @ known
    cov = sigma[-1] ** 2 * (poor @ poor.T + unseen) + well @ torch.diag((sigma[-1] ** 2 - tau**2).clamp_min(0)) @ well.T
    for k in range(grid.T, 0, -1):
        D, b, _ = prior.at(levels[k])
        D, t, kept = D * levels[k] ** 0.5, sigma[k - 1], (1 - eta**2) ** 0.5 * sigma[k - 1]
        well, poor, unseen = parts(t)
        inverse = torch.where(tau > 0, 1 / tau, 0)
        E = poor @ torch.diag(kept * inverse) @ Vt
        Q = (1 - eta_b) * well @ Vt + poor @ Vt - E + (1 - kept / sigma[k]) * unseen  # what multiplies x̂_0
        P = Q @ D + kept / sigma[k] * unseen
        mean = P @ mean + Q @ b + eta_b * well @ known + kept * poor @ (inverse * known)
        fresh = (eta * t) ** 2 * (poor @ poor.T + unseen)
        fresh = fresh + well @ torch.diag((t**2 - (eta_b * tau) ** 2).clamp_min(0)) @ well.T
        cov = P @ cov @ P.T + (fresh if k > 1 else 0)
    return in_data_units(task, mean, cov)
