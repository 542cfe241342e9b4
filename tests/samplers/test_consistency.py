"""Samples of students, exact and fitted: the bridge's law at every number of calls; pixels (see test_protocol.py)."""

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
from tests.bridge.test_student import HOLE, UNET, exact_student
from tests.conftest import make_exact_bridge, move_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*")
Y = torch.tensor([0.7, -1.2])


def check_moments(x, law, slack=0.0):
    """Mean and covariance of x (n, 2) are those of an affine law at Y, to four standard errors and the slack."""
    mean, P = law.U @ Y.double() + law.u, law.P
    n, x, std = len(x), x.double(), P.diagonal().sqrt()
    assert bool(((x.mean(0) - mean).abs() < (4 / n**0.5 + slack) * std).all())
    scale = (P.square() + P.diagonal()[:, None] * P.diagonal()).sqrt()
    assert bool(((torch.cov(x.T) - P).abs() < (4 / n**0.5 + slack) * scale).all())


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("calls", [1, 2, 4])
def test_an_exact_student_draws_the_law_of_its_bridge(calls, iterations):
    """Also of one that is no Schrödinger bridge, whose own states between the ends have another law than Π's."""
    student, bridge, law = exact_student(iterations=iterations)
    found = ConsistencySampler(student, calls, batch_size=50_000).sample(Y, 100_000, seeded(calls))
    assert found.info.forward_evaluations == calls
    check_moments(found.x, law)
    if calls == 1:
        check_moments(bridge.sample(Y, 100_000, generator=seeded(7), batch_size=50_000).x, law)


@pytest.mark.parametrize("law", ["full", "generator"])
def test_a_fitted_student_reaches_the_law_of_its_bridge(tmp_path, law):
    """By likelihood and by energy score alike, whose optimum in the class of affine maps is the exact law."""
    bridge = make_exact_bridge("full", iterations=2)
    own = DistilSettings(
        calls=[1, 2], law=law, components=1, steps=300, trajectories=30_000, cache_bytes=2**26, checkpoint_every=1000,
        rank=1, noise=2, draws=4, patches=[], batch_size=1024, refresh=150, lr=3e-2,
    )  # fmt: skip
    network = {"name": "affine", "steps": 4}
    spec = StudentSpec(bridge.spec.alpha_bar, bridge.spec.transform, network, "v", law, own.calls, 1, noise=own.noise)
    student, c = build_student(spec), torch.randn(20_000, 2, generator=seeded(1))
    setup = Setup(tmp_path, OptimizerSettings(ema=0.98, clip=10.0), DeviceSettings("cpu"), 0, bar=False)
    train_student(student, bridge.bridge, EncodedPairs.of(torch.zeros_like(c), c), own, setup)
    for calls in (1, 2):
        x = ConsistencySampler(student, calls).sample(Y, 50_000, seeded(3)).x
        check_moments(x, exact_student(iterations=2).law, slack=0.05)


@pytest.mark.parametrize("calls", [1, 2])
def test_known_pixels_are_those_of_the_observation(calls):
    student = move_weights(build_student(StudentSpec([1.0, 0.5, 0.1], HOLE, UNET, "x0", "generator", [1, 2], noise=1)))
    y = torch.rand(2, 1, 8, 8, generator=seeded(3))
    y[:, :, 2:6, 2:6] = 0
    x = ConsistencySampler(student, calls).sample(y, 6, seeded(1)).x
    known = (student.transform.known == 1).expand(2, 6, 1, 8, 8)
    assert torch.equal(x[known], y[:, None].expand_as(x)[known])
    assert 0 <= float(x[~known].min()) <= float(x[~known].max()) <= 1
    assert float(x.std(1).max()) > 0.01


def test_states_that_are_not_finite_are_told():
    student = exact_student().student
    with torch.no_grad():
        student.network.bias.fill_(torch.inf)
    with pytest.raises(CSBError, match=r"not finite, .*; distil the bridge again"):
        ConsistencySampler(student).sample(Y, 2)
