r"""Training of the classifier that guides samplers to a digit.

It is fitted to what it will see: x̂_0(z_k) of digits noised to levels ᾱ_k, angles arccos √ᾱ uniform up to the denoiser's
horizon, and clean digits for half of each batch. The best classifier of x̂_0 and ᾱ is p(y | x̂_0, ᾱ) =
E[p(y | z_k) | x̂_0], which far from the data is nearly the prior's share of y, where a classifier of clean digits would
be sure. What is left of overconfidence is taken away by one temperature, the best on validation digits.

It is another network than the one that scores samples (:mod:`csb.metrics.digits`), with other weights at the
start and other inputs: a sampler is not to be judged by the classifier that guided it.
"""

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from csb.networks.diffusion import Denoiser, DigitGuide
from csb.process import Stream, initialised, seeded

STEPS, BATCH, PEAK_RATE = 1500, 128, 2e-3
LEVELS = (1.0, 0.9, 0.5, 0.1, 0.01)  # ᾱ at which accuracy and log-loss are reported
TEMPERATURES = torch.logspace(-1, 1, 41, base=2, dtype=torch.float32)  # ½ to 2
_CHUNK = 500


@torch.no_grad()
def denoised(denoiser: Denoiser, x: Tensor, alpha_bar: Tensor, noise: Tensor) -> Tensor:
    """x̂_0(z_k) in data units of digits x (B, 1, 28, 28) noised to ᾱ (B,); x itself where ᾱ = 1."""
    out = x.clone()
    noisy = alpha_bar < 1
    if bool(noisy.any()):
        a = alpha_bar[noisy][:, None, None, None]
        z = a.sqrt() * denoiser.encode(x[noisy]) + (1 - a).sqrt() * noise[noisy]
        out[noisy] = denoiser.decode(denoiser(z.float(), alpha_bar[noisy])).to(out)
    return out


def train_guide(images: Tensor, labels: Tensor, denoiser: Denoiser, *, seed: int, steps: int = STEPS) -> DigitGuide:
    """A classifier of x̂_0 at temperature 1, in evaluation mode on the denoiser's device: AdamW, one-cycle rate.

    Args:
        images: (N, 1, 28, 28), floats in [0, 1].
        labels: (N,), integers 0–9.
        denoiser: of the digits; its horizon bounds the noise.
        seed: sets weights, batches and noise.
        steps: of 128 digits.
    """
    device = denoiser.shift.device
    with initialised(seeded(seed, Stream.GUIDE, 0).initial_seed()):
        model = DigitGuide().to(device)
    generator = seeded(seed, Stream.GUIDE, 1)
    furthest = math.acos(math.sqrt(denoiser.alpha_bar_end))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps + 1, pct_start=0.2)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        angle = furthest * torch.rand(BATCH, dtype=torch.float32, generator=generator)
        angle[: BATCH // 2] = 0
        level = angle.cos().square().to(device)
        x = images[chosen].to(device)
        seen = denoised(denoiser, x, level, torch.randn(x.shape, dtype=x.dtype, generator=generator).to(device))
        loss = nnf.nll_loss(model(seen, level), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _log_probabilities(model: DigitGuide, images: Tensor, denoiser: Denoiser, seed: int) -> dict[float, Tensor]:
    """Of denoised images (N, 1, 28, 28) at each of :data:`LEVELS` that the denoiser was trained at, (N, 10), CPU."""
    device, found = denoiser.shift.device, {}
    for alpha_bar in (level for level in LEVELS if level >= denoiser.alpha_bar_end):
        generator, parts = seeded(seed, Stream.GUIDE, 2), []
        for part in images.split(_CHUNK):
            x, level = part.to(device), torch.full((len(part),), alpha_bar, dtype=torch.float32, device=device)
            seen = denoised(denoiser, x, level, torch.randn(x.shape, dtype=x.dtype, generator=generator).to(device))
            parts.append(model(seen, level).cpu())
        found[alpha_bar] = torch.cat(parts)
    return found


def calibrate(model: DigitGuide, images: Tensor, labels: Tensor, denoiser: Denoiser, seed: int) -> float:
    """Sets the temperature, among ½ … 2, to that with the least log-loss over all :data:`LEVELS`, and returns it.

    Args:
        model: changed in place; its temperature must be 1.
        images, labels: held out from training, (N, 1, 28, 28) and (N,).
    """
    logits = list(_log_probabilities(model, images, denoiser, seed).values())
    target = labels.repeat(len(logits))
    losses = torch.stack([nnf.cross_entropy(torch.cat(logits) / t, target) for t in TEMPERATURES])
    best = TEMPERATURES[losses.argmin()]
    model.temperature.fill_(float(best))
    return float(best)


def guide_figures(
    model: DigitGuide, images: Tensor, labels: Tensor, denoiser: Denoiser, seed: int
) -> list[dict[str, float]]:
    """At each of :data:`LEVELS`: alpha_bar, accuracy in [0, 1], log_loss in nats (log 10 = 2.30 for no knowledge)."""
    rows = []
    for level, found in _log_probabilities(model, images, denoiser, seed).items():
        right = float((found.argmax(1) == labels).double().mean())
        rows.append({"alpha_bar": level, "accuracy": right, "log_loss": float(nnf.nll_loss(found, labels))})
    return rows
