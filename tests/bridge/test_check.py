"""How usual observations are: p-values are uniform, shifts are found, what they rest on goes with the files."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest

import csb
from csb.bridge import load, save
from csb.bridge.check import ContextReference
from csb.errors import CSBError
from csb.files import CONTEXTS, read_tensors, write_tensors
from csb.problems import LinearGaussian, TwoMoons
from csb.process import seeded
from tests.conftest import make_untrained_bridge, one_line

FILES = Path(__file__).parents[1] / "golden" / "files"
PROBLEMS = {"two_moons": TwoMoons(), "linear_gaussian": LinearGaussian()}


@pytest.fixture(scope="module", params=PROBLEMS)
def case(request):
    """An encoder of random weights, 1,000 held-out observations, and 500 pairs that are neither these nor learned."""
    problem = PROBLEMS[request.param]
    train, test = problem.pairs("train", 1000), problem.pairs("test", 1500)
    bridge = make_untrained_bridge(train.x.shape[1], train.y.shape[1]).eval()
    bridge.transform.fit(problem.rows("train"))
    bridge.set_reference(train.y, test.y[:1000])
    return problem, bridge, test.x[1000:], test.y[1000:]


def test_p_values_of_usual_observations_are_uniform(case):
    _, bridge, _, y = case
    found = bridge.check(y)
    assert kstest(found.p, "uniform").pvalue > 0.01
    assert 0.01 < found.set_p <= 1
    assert bridge.check(y[:9]).set_p is None
    assert torch.equal(bridge.check(y[0]).p, found.p[:1])


# Least shares of p < .05: of noise twice and four times as wide, then of shifts of the first coordinate by 1, 2 and 3
# standard deviations. The noise of two moons is .01 where y is 1 wide: nothing shows that it is wider.
POWER = {"two_moons": (0.3, 0.6, 0.8), "linear_gaussian": (0.25, 0.75, 0.05, 0.2, 0.5)}


def test_power(case):
    problem, bridge, x, y = case
    first, noise = torch.eye(y.shape[1])[0] * y.std(0), torch.randn(y.shape, generator=seeded(7))
    factors = (2, 4) if hasattr(problem, "forward") else ()
    wider = [problem.forward(x) + factor * problem.noise_std * noise for factor in factors]
    moved = wider + [y + size * first for size in (1, 2, 3)]
    shares = [float((bridge.check(one).p < 0.05).double().mean()) for one in moved]
    assert all(share >= least for share, least in zip(shares, POWER[problem.name], strict=True)), shares
    far = bridge.check(y[:20] + 100 * first)
    assert torch.equal(far.p, torch.full((20,), 1 / 1001, dtype=torch.float64))
    assert bridge.check(y[:30] + first).set_p < 0.01
    assert bridge.check(torch.full_like(y[:1], 3e38)).p.item() == pytest.approx(1 / 1001)


def test_distances_and_p_values_in_closed_form():
    """Of contexts on a line, whose variance is known, the distance is that of the five nearest in its unit."""
    training = torch.arange(11.0)[:, None] - 5
    reference = ContextReference.of(training, torch.tensor([[0.0], [20.0], [30.0]]))
    unit = (11 * 1.01) ** 0.5  # variance of −5, …, 5 with n − 1, and the ridge of its hundredth
    distance = reference.distance(reference.features(torch.tensor([[0.0], [25.0], [90.0]])))
    torch.testing.assert_close(distance, torch.tensor([6 / 5, 22.0, 87.0]).double() / unit, rtol=1e-6, atol=1e-6)
    assert reference.p_values(distance + 1e-9).tolist() == [3 / 4, 2 / 4, 1 / 4]


def test_sets_of_usual_observations_have_uniform_p_values():
    draw = torch.randn(2000, 3, generator=seeded(1))
    reference = ContextReference.of(draw[:100], draw[100:200])
    sets = reference.features(draw[200:]).split(40)
    assert kstest([reference.set_p(one, seed) for seed, one in enumerate(sets)], "uniform").pvalue > 0.01


def test_directions_that_are_not_kept():
    """64 directions are kept of 200: what moves in others alone is seen by the length of the rest."""
    training = torch.randn(300, 200, generator=seeded(2)) * torch.linspace(1, 0.05, 200)
    reference = ContextReference.of(training[:200], training[200:])
    moved = training[200:] + 0.7 * (torch.arange(200) >= 100)
    p = reference.p_values(reference.distance(reference.features(moved)))
    assert float((p < 0.05).double().mean()) > 0.9


def test_one_warning_in_plain_words(case, caplog):
    _, bridge, _, y = case
    usual = y[bridge.check(y).p > 0.5][:3]
    plain = bridge.sample(usual, 2, seed=1).x
    with caplog.at_level(logging.WARNING):
        assert torch.equal(bridge.sample(usual, 2, seed=1, check=True).x, plain)
        assert not caplog.records
        bridge.sample(usual + 1000, 2, check=None)
        assert not caplog.records
        bridge.sample(torch.cat([usual, usual + 1000]), 2, check=True)
    (record,) = caplog.records
    assert "3 of 6 observations are unlike those of the training" in record.getMessage()
    assert "the first is number 3" in record.getMessage()


def test_the_file_beside_a_bridge(case, tmp_path):
    _, bridge, _, y = case
    path, about = tmp_path / "bridge.safetensors", {}
    save(bridge, path, about)
    assert torch.equal(load(path).check(y[:20]).p, bridge.check(y[:20]).p)
    other = make_untrained_bridge(3, 2)
    save(other, tmp_path / "other.safetensors", about)
    assert load(tmp_path / "other.safetensors").reference is None  # the file is of the bridge beside it
    save(bridge, path, about)
    for part, tensor in vars(bridge.reference).items():
        for wrong in (tensor[:0], tensor[..., None].contiguous(), tensor * torch.nan):
            header, tensors = read_tensors(tmp_path / CONTEXTS)
            write_tensors(tmp_path / "bad" / CONTEXTS, {**tensors, part: wrong}, header)
            shutil.copy(path, tmp_path / "bad")
            assert "is not what csb writes beside a bridge" in one_line(lambda: load(tmp_path / "bad" / path.name))
    (tmp_path / CONTEXTS).write_bytes(b"no tensors")
    assert "damaged" in one_line(lambda: load(path))


def test_bridges_without_a_reference():
    bridge, y = csb.load(FILES / "bridge_full.pt", "cpu"), torch.randn(40, 2, generator=seeded(3))
    for call in (lambda: bridge.check(y), lambda: bridge.sample(y, check=True)):
        assert "give it some with bridge.set_reference(y_train, y_held_out), or train again" in one_line(call)
    bridge.set_reference(y[:20], y[20:])
    assert bridge.check(y[20:]).p.min() == pytest.approx(2 / 21)  # the farthest is as far as itself
    with pytest.raises(CSBError, match="5 training and 20 held-out observations do not show what is usual"):
        bridge.set_reference(y[:5], y[20:])
