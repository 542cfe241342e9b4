"""The classifier that guides to a digit: what it learns of noise, its temperature, its figures."""

import math

import pytest
import torch

from csb.networks.diffusion import Denoiser, DigitGuide
from csb.process import seeded
from csb.training.regression import calibrate, denoised, guide_figures, train_guide


class Shrinking(Denoiser):
    """E[z_0 | z_k] of N(0, I)."""

    def __init__(self):
        super().__init__(torch.full((1, 28, 28), 0.5), 0.5, 1e-3)

    def forward(self, z, alpha_bar):
        return alpha_bar.sqrt()[:, None, None, None] * z


def bars(n, key):
    """Digit c as a bright column at 2c + 3, as noisy as makes half of them hard to read where ᾱ is small."""
    generator = seeded(3, key)
    labels = torch.randint(10, (n,), generator=generator)
    images = torch.zeros(n, 1, 28, 28)
    images[torch.arange(n), 0, :, 2 * labels + 3] = 0.9
    return images, labels


def test_denoised_states():
    x, level = torch.rand(3, 1, 28, 28, generator=seeded(0)), torch.tensor([1.0, 0.25, 1.0])
    noise = torch.randn(x.shape, generator=seeded(1))
    found = denoised(Shrinking(), x, level, seeded(1))
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    z = 0.5 * (2 * x[1] - 1) + math.sqrt(0.75) * noise[1]
    torch.testing.assert_close(found[1], 0.5 + 0.5 * 0.5 * z)


def test_it_knows_less_of_noisier_digits(monkeypatch):
    monkeypatch.setattr("csb.training.regression.GUIDE_BATCH", 32)
    model = train_guide(*bars(1000, 0), Shrinking(), seed=0, steps=60)
    rows = guide_figures(model, *bars(100, 1), Shrinking(), 0)
    losses = [row["log_loss"] for row in rows]
    assert rows[0]["accuracy"] > 0.95
    assert losses[0] < 0.3
    assert losses[-1] == max(losses)
    assert losses[-1] < math.log(10) + 0.1  # no surer than it may be


class Overconfident(DigitGuide):
    """Twice the log-odds of a posterior that is known: 0.8 for the class in the first pixel, whatever the noise."""

    def forward(self, x, alpha_bar):
        odds = torch.zeros(len(x), 10)
        odds[torch.arange(len(x)), (x[:, 0, 0, 0] * 10).round().long() % 10] = 2 * math.log(0.8 * 9 / 0.2)
        return (odds / self.temperature).log_softmax(1)


class Blind(Shrinking):
    """Hands back no more than the identity, so that the first pixel stays what it was."""

    def forward(self, z, alpha_bar):
        return z / alpha_bar.sqrt()[:, None, None, None]


def test_the_temperature_takes_overconfidence_away(monkeypatch):
    monkeypatch.setattr("csb.training.regression.LEVELS", (1.0,))
    generator = seeded(5)
    shown = torch.randint(10, (500,), generator=generator)
    wrong = (shown + torch.randint(1, 10, (500,), generator=generator)) % 10
    labels = torch.where(torch.arange(500) % 5 > 0, shown, wrong)
    images = (shown / 10)[:, None, None, None].expand(-1, 1, 28, 28).clone()
    model = Overconfident()
    before = guide_figures(model, images, labels, Blind(), 0)[0]["log_loss"]
    assert calibrate(model, images, labels, Blind(), 0) == pytest.approx(2)
    after = guide_figures(model, images, labels, Blind(), 0)[0]
    assert after["log_loss"] < before
    assert after["log_loss"] == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2 / 9), rel=1e-3)
    assert after["accuracy"] == pytest.approx(0.8)
