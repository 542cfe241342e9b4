"""What is asked far from the training: an error that names the observation, or a warning, and offsets that stay."""

import logging
from pathlib import Path

import pytest
import torch

import csb
from csb.bridge.checkpoint import load
from csb.bridge.samples import Samples
from csb.errors import CSBError
from csb.problems import Pairs
from csb.problems.rows import Rows
from csb.process import seeded
from csb.samplers import BridgeSampler, ConsistencySampler, flow_sampler, score_sampler
from tests.conftest import make_untrained_bridge

FILES = Path(__file__).parents[1] / "golden" / "files"
OFFSET = 1.7e9


def fitted_bridge(offset: float = 0.0):
    """Of random weights, its transform fitted on 2,000 pairs around an offset with a spread of 3,000."""
    u = torch.randn(2000, 2, generator=seeded(0), dtype=torch.float64)
    far = offset + 3e3 * u
    bridge = make_untrained_bridge(2, 2)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.mul_(0.3)
    bridge.transform.fit(Rows.of(Pairs(far, far) if offset else Pairs(far.float(), far.float())))
    return bridge


SAMPLERS = {
    "bridge": lambda: fitted_bridge().sample,
    "sampler": lambda: BridgeSampler(fitted_bridge()).sample,
    "score": lambda: score_sampler(load(FILES / "score.pt"), "ddim", T=3).sample,
    "flow": lambda: flow_sampler(load(FILES / "flow.pt"), "euler", N=3).sample,
    "student": lambda: ConsistencySampler(load(FILES / "consistency.pt")).sample,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_observation_that_no_network_can_take_is_named(name):
    y = torch.tensor([[0.0, 0.0], [3.3e38, -3.3e38]])
    with pytest.raises(CSBError, match=r"not finite.* at observation 1;"):
        SAMPLERS[name]()(y, 4, generator=seeded(1))


def test_so_it_is_by_the_density():
    y = torch.tensor([[0.0, 0.0], [3e38, -3e38]])
    with pytest.raises(CSBError, match="not finite, or out of float32's reach, at observation 1;"):
        fitted_bridge().log_prob(torch.zeros(2, 2), y, 4, seeded(1))


@pytest.mark.parametrize("call", ["sample", "log_prob"])
def test_one_warning_for_observations_far_outside_the_training(call, caplog):
    bridge = fitted_bridge()
    y = torch.tensor([[0.0, 3e3], [1e6, 0.0], [0.0, -1e7]])
    with caplog.at_level(logging.WARNING):
        bridge.sample(y[:1], 2, generator=seeded(1))
        assert not caplog.records
        bridge.sample(y, 2, generator=seeded(1)) if call == "sample" else bridge.log_prob(y, y, 2, seeded(1))
    (record,) = caplog.records
    assert "2 of 3 observations" in record.getMessage()
    assert "the first is number 1" in record.getMessage()


def test_a_file_that_knows_no_range_does_not_warn(caplog):
    csb.load(FILES / "bridge_full.pt", "cpu").sample(torch.full((1, 2), 100.0), 2, generator=seeded(1))
    assert not caplog.records


class TestOffsets:
    def samples(self, offset: float) -> Samples:
        y = offset + torch.tensor([[0.0, 0.0], [3e3, -3e3]], dtype=torch.float64)
        return fitted_bridge(offset).sample(y, 500, generator=seeded(1))

    def test_samples_are_those_without_the_offset(self):
        near, far = self.samples(0.0), self.samples(OFFSET)
        assert near.x.dtype == torch.float32
        assert far.x.dtype == torch.float64
        # The mean that leaves is rounded to float32, by up to 64 of 3,000; y is 1 part in 1,000 off by it.
        torch.testing.assert_close(far.x - OFFSET, near.x.double(), rtol=0.02, atol=100)
        assert far.x.unique().numel() == far.x.numel()

    @pytest.mark.parametrize("kind", [list, torch.Tensor.numpy, torch.clone])
    def test_the_density_too_whatever_holds_the_numbers(self, kind):
        x = torch.tensor([[100.0, -50.0], [4e3, 1e3]], dtype=torch.float64)
        near = fitted_bridge().log_prob(x, x, 8, seeded(2))
        far = [kind(part + OFFSET) if kind is not list else (part + OFFSET).tolist() for part in (x, x)]
        found = fitted_bridge(OFFSET).log_prob(*far, 8, seeded(2))
        torch.testing.assert_close(found, near, rtol=0.02, atol=0.05)
