"""Samples of students, exact and fitted: the bridge's law at every number of calls; batches, generators, pixels."""

import pytest
import torch

from csb.bridge.student import StudentSpec, build_student
from csb.errors import CSBError
from csb.process import seeded
from csb.samplers import ConsistencySampler
from csb.training.distil import DistilSettings, train_student
from csb.training.pairs import EncodedPairs
from csb.training.settings import DeviceSettings, OptimizerSettings
from csb.training.stage import Setup
from tests.bridge.student_models import exact_student
from tests.bridge.test_student import HOLE, UNET
from tests.conftest import make_exact_bridge

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*")
Y = torch.tensor([0.7, -1.2])


def check_moments(x, law, y=Y, slack=0.0):
    """Mean and covariance of x (n, 2) are those of an affine law at y, to four standard errors and the slack."""
    mean, P = law.U @ y.double() + law.u, law.P
    n, x = len(x), x.double()
    std = P.diagonal().sqrt()
    assert bool(((x.mean(0) - mean).abs() < (4 / n**0.5 + slack) * std).all())
    scale = (P.square() + P.diagonal()[:, None] * P.diagonal()).sqrt()
    assert bool(((torch.cov(x.T) - P).abs() < (4 / n**0.5 + slack) * scale).all())


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("calls", [1, 2, 4])
def test_an_exact_student_draws_the_law_of_its_bridge(calls, iterations):
    """Also of one that is no Schrödinger bridge, whose own states between the ends have another law than Π's."""
    student, bridge, law, _ = exact_student(iterations=iterations)
    found = ConsistencySampler(student, calls, batch_size=50_000).sample(Y, 100_000, seeded(calls))
    assert found.info.forward_evaluations == calls
    check_moments(found.x, law)
    check_moments(bridge.sample(Y, 100_000, generator=seeded(7), batch_size=50_000).x, law)


def distilled(law, folder, **more):
    """A student of an affine bridge of four steps, fitted for a few seconds; and the exact law of the bridge."""
    exact, bridge = exact_student(iterations=2), make_exact_bridge("full", iterations=2)
    given = {"rank": 1, "noise": 2, "draws": 4, "patches": [], "batch_size": 1024, "refresh": 150, "lr": 3e-2}
    own = DistilSettings(**{
        "calls": [1, 2], "law": law, "components": 1, "steps": 300, "trajectories": 30_000, "cache_bytes": 2**26,
        "checkpoint_every": 1000, **given, **more,
    })  # fmt: skip
    network = {"name": "affine", "steps": 4}
    spec = StudentSpec(bridge.spec.alpha_bar, bridge.spec.transform, network, "v", law, own.calls, 1, noise=own.noise)
    student, c = build_student(spec), torch.randn(20_000, 2, generator=seeded(1))
    optimizer = OptimizerSettings(ema=0.98, clip=10.0)
    device, pairs = DeviceSettings("cpu"), EncodedPairs.of(torch.zeros_like(c), c)
    train_student(student, bridge.bridge, pairs, own, Setup(folder, optimizer, device, 0, bar=False))
    return student, exact.law


@pytest.mark.parametrize("law", ["full", "generator"])
def test_a_student_reaches_the_law_of_its_bridge(tmp_path, law):
    """By likelihood and by energy score alike, whose optimum in the class of affine maps is the exact law."""
    student, exact = distilled(law, tmp_path)
    for calls in (1, 2):
        check_moments(ConsistencySampler(student, calls).sample(Y, 50_000, seeded(3)).x, exact, slack=0.05)


class TestSampler:
    def test_the_batch_size_changes_nothing(self):
        student = exact_student().student
        y = torch.stack([Y, -Y, 2 * Y])
        whole, parts = (ConsistencySampler(student, 2, size).sample(y, 50, seeded(1)).x for size in (1024, 7))
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)

    def test_a_generator_for_each_observation(self):
        sampler = ConsistencySampler(exact_student().student, 4)
        y = torch.stack([Y, -Y])
        both = sampler.sample(y, 5, [seeded(1), seeded(2)]).x
        torch.testing.assert_close(both[1:], sampler.sample(y[1:], 5, [seeded(2)]).x)

    @pytest.mark.parametrize("calls", [1, 2])
    def test_known_pixels_are_those_of_the_observation(self, calls):
        spec = StudentSpec([1.0, 0.5, 0.1], HOLE, UNET, "x0", "generator", [1, 2], noise=1)
        student = build_student(spec, 1)
        with torch.no_grad():
            for p in student.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=seeded(2)))
        y = torch.rand(2, 1, 8, 8, generator=seeded(3))
        y[:, :, 2:6, 2:6] = 0
        x = ConsistencySampler(student, calls).sample(y, 6, seeded(1)).x
        known = (student.transform.known == 1).expand(2, 6, 1, 8, 8)
        assert torch.equal(x[known], y[:, None].expand_as(x)[known])
        inside = x[~known]
        assert 0 <= float(inside.min()) <= float(inside.max()) <= 1
        assert float(x.std(1).max()) > 0.01

    def test_states_that_are_not_finite_are_told(self):
        student = exact_student().student
        with torch.no_grad():
            student.network.bias.fill_(torch.inf)
        with pytest.raises(CSBError, match=r"not finite, .*; distil the bridge again"):
            ConsistencySampler(student).sample(Y, 2)
