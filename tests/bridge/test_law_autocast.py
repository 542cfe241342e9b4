"""The likelihood and draws of a law are not rounded to bfloat16 where a training runs under autocast."""

import pytest
import torch
from conftest import mixture_of

from csb.bridge.transitions import FullGaussian, LowRankGaussian
from csb.process import seeded

GENERATOR = seeded(3)
MEAN, TARGET = torch.randn(4, 1, 3, 4, generator=GENERATOR), torch.randn(4, 1, 3, 4, generator=GENERATOR)
VAR = torch.rand(4, 1, 3, 4, generator=GENERATOR) * 1e-3 + 4e-4
LAWS = {
    "low_rank": LowRankGaussian(MEAN, VAR, torch.randn(4, 12, 8, generator=GENERATOR)),
    "full": FullGaussian(MEAN, torch.randn(4, 12, 12, generator=GENERATOR), VAR.flatten(1)),
    "mixture": mixture_of(
        torch.randn(4, 2, generator=GENERATOR).log_softmax(1),
        torch.stack([MEAN, -MEAN], 1),
        torch.randn(4, 2, 12, 12, generator=GENERATOR),
        VAR.flatten(1)[:, None].repeat(1, 2, 1),
    ),
}
NOISE = {
    name: torch.randn(4, size, generator=GENERATOR) for name, size in (("low_rank", 20), ("full", 12), ("mixture", 13))
}


@pytest.mark.parametrize("name", LAWS)
def test_autocast_changes_nothing(name):
    law = LAWS[name]
    var = 0.0 if name == "mixture" else 0.1
    plain = law.nll(TARGET, var), law.draw(NOISE[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = law.nll(TARGET, var), law.draw(NOISE[name])
    assert all(torch.equal(a, b) for a, b in zip(plain, inside))


def test_a_factor_of_many_magnitudes_is_still_factored():
    low = torch.randn(4, 12, 8, generator=GENERATOR) * torch.logspace(-3, 2, 8)
    law = LowRankGaussian(MEAN, VAR, low)
    exact = torch.distributions.LowRankMultivariateNormal(
        MEAN.flatten(1).double(), low.double(), VAR.flatten(1).double()
    ).log_prob(TARGET.flatten(1).double())
    torch.testing.assert_close(law.nll(TARGET).flatten(1).sum(1).double(), -exact, rtol=1e-4, atol=1e-3)
