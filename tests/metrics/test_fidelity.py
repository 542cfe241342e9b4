"""PSNR by its formula; SSIM against a closed form and a brute-force window."""

import math

import pytest
import torch

from csb.metrics.fidelity import psnr, ssim, ssim_scores
from tests.metrics.draws import normal, point_mass

C1, C2 = 0.01**2, 0.03**2


def brute_force(a: torch.Tensor, b: torch.Tensor) -> float:
    """Wang et al. 2004 at every pixel of one channel (H, W), the window reflected at the border."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    line = (-(offsets**2) / (2 * 1.5**2)).exp()
    window = line[:, None] * line / line.sum() ** 2
    a, b = (torch.nn.functional.pad(x[None, None], (5, 5, 5, 5), mode="reflect")[0, 0] for x in (a, b))
    values = []
    for i in range(len(a) - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = ((window * (x - m) ** 2).sum() for x, m in ((p, mean_p), (q, mean_q)))
            cov = (window * (p - mean_p) * (q - mean_q)).sum()
            light = (2 * mean_p * mean_q + C1) / (mean_p**2 + mean_q**2 + C1)
            values.append(light * (2 * cov + C2) / (var_p + var_q + C2))
    return float(torch.stack(values).mean())


def test_psnr_conventions():
    truth = torch.zeros(2, 1, 2, 2)
    estimate = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.3)])
    assert psnr(estimate, truth) == pytest.approx(10 * math.log10(1 / 0.05), rel=1e-6)
    assert psnr(truth, truth) == math.inf


def test_ssim_of_constant_images_is_their_luminance_term():
    a, b = torch.full((1, 1, 12, 12), 0.3), torch.full((1, 1, 12, 12), 0.7)
    expected = (2 * 0.3 * 0.7 + C1) / (0.3**2 + 0.7**2 + C1)
    assert float(ssim(a, b)) == pytest.approx(expected, rel=1e-6)
    assert float(ssim(a, a)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("size", [(6, 9), (14, 14)])
def test_ssim_equals_the_sum_over_windows(size):
    a, b = normal(3, 2, *size).sigmoid(), normal(3, 2, *size, key=1).sigmoid()
    expected = [sum(brute_force(x, y) for x, y in zip(*pair)) / 2 for pair in zip(a, b)]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("log_w", [None, normal(3, 5, key=2).log_softmax(1), point_mass(3, 5)])
def test_ssim_scores_of_the_mean_and_of_samples(log_w):
    truth = normal(3, 1, 8, 8).sigmoid()
    samples = (truth[:, None] + 0.2 * normal(3, 5, 1, 8, 8, key=1)).clamp(0, 1)
    found = ssim_scores(samples, truth, log_w)
    w = torch.full((3, 5), 0.2, dtype=torch.float64) if log_w is None else log_w.exp()
    mean = (w[:, :, None, None, None] * samples).sum(1)
    assert found["ssim_mean"] == pytest.approx(float(ssim(mean, truth).mean()), rel=1e-12)
    one = torch.stack([ssim(samples[:, i], truth) for i in range(5)], dim=1)
    assert found["ssim_sample"] == pytest.approx(float((w * one).sum(1).mean()), rel=1e-12)
