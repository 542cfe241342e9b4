"""Ensembles: whose samples are pooled, and their disagreement in closed form."""

import math

import pytest
import torch

import csb
from csb.bridge.ensemble import _disagreement
from csb.process import seeded
from tests.conftest import make_untrained_bridge, one_line

Y = torch.tensor([[0.0, 0.5], [1.0, -1.0]])


def shifted(*offsets):
    """One bridge several times, whose samples lie around different offsets."""
    members = [make_untrained_bridge(3, 2).eval() for _ in offsets]
    for member, offset in zip(members, offsets, strict=True):
        member.transform.x_mean += offset
    return csb.Ensemble(members)


def test_samples_are_spread_evenly_over_the_members():
    ensemble = shifted(0, 1000, 2000)
    found = ensemble.sample(Y, 100, seed=1)
    member = (found.x[..., 0] / 1000).round()  # (2, 100)
    for k in (3, 30, 100):  # also of the first k
        counts = torch.stack([(member[:, :k] == i).sum(1) for i in range(3)])
        assert counts.min() >= k // 3
        assert counts.max() <= -(-k // 3)
    assert not torch.equal(member[0], member[1])
    assert torch.equal(ensemble.sample(Y, 100, seed=1).x, found.x)
    assert not torch.equal(ensemble.sample(Y, 100, seed=2).x, found.x)
    assert ensemble.sample(Y[0], 2, seed=1).x.shape == (2, 3)
    assert found.info.forward_evaluations == 3
    apart = ensemble.disagreement(Y, 50)
    assert float(apart.mean.min()) > 0.99
    assert apart.energy.shape == (2,)
    own, alone = (ensemble.sample(y, 5, generator=[seeded(i) for i in range(len(y))]) for y in (Y, Y[:1]))
    torch.testing.assert_close(own.x[:1], alone.x)  # a generator each: its samples are those without the other


def test_disagreement_in_closed_form():
    """Members N(±a, 1): a²/(1 + a²) of the pooled variance; the energy distance of two normals."""
    a, n, M = 0.5, 100, 6
    offset = a * torch.tensor([1.0, -1.0]).repeat(M // 2)[:, None, None]
    known = torch.zeros(M, 2 * n, 1)  # a coordinate that is known takes no part
    draws = [torch.randn(M, 2 * n, 1, generator=seeded(i)) + offset for i in range(40)]
    found = torch.tensor([_disagreement(torch.cat([one, known], 2).double()) for one in draws])
    mean, energy = found[:, 0].mean(), 1 / (1 / found[:, 1]).mean()  # the denominator is the noisy part
    assert float(mean) == pytest.approx(a / math.sqrt(1 + a**2), rel=0.02)
    apart = 2 * a * math.erf(a) + 2 / math.sqrt(math.pi) * math.exp(-(a**2))  # E|X − X' + 2a|
    own = 2 / math.sqrt(math.pi)
    share = (M / 2) / (M - 1)  # of pairs of members that differ
    assert float(energy) == pytest.approx(1 + share * n * (2 * apart - 2 * own) / (2 * own), rel=0.1)


def test_what_is_no_ensemble():
    one, other = make_untrained_bridge(3, 2), make_untrained_bridge(2, 2)
    for call, message in (
        (lambda: csb.Ensemble([]), "0 members are no ensemble"),
        (lambda: csb.Ensemble([one, other]), "member 1 has x and y of shapes ((2,), (2,))"),
        (lambda: csb.Ensemble([one]).disagreement(Y), "nobody to disagree with"),
        (lambda: csb.Ensemble([one]).sample(Y, trajectory=True), "ensemble.members[0]"),
    ):
        assert message in one_line(call)
