"""L-C2ST and the predictive check on a Gaussian problem, where right and wrong posteriors are known."""

import json

import pytest
import torch

import csb
from csb.errors import CSBError
from csb.metrics.local import local_c2st, predictive_p
from csb.process import seeded


def problem(n=600, width=1.0, shift=0.0, seed=0):
    """x ~ N(0, I), y = x + N(0, I): samples of N(y/2 + shift·[y_1 > 0], width²/2), for n observations, and 500 at 1."""
    x = torch.randn(n, 2, generator=seeded(seed))
    y = x + torch.randn(n, 2, generator=seeded(seed, 1))

    def drawn(y, key):
        noise = torch.randn(y.shape, generator=seeded(seed, key))
        return y / 2 + shift * (y[:, :1] > 0) + width * noise / 2**0.5

    at = torch.ones(2)
    return drawn(y, 2), x, y, at, drawn(at.expand(500, 2), 3)


def test_a_right_posterior_passes():
    p = [local_c2st(*problem(seed=seed), seed=seed, permutations=9).p for seed in range(4)]
    assert max(p) > 0.3
    assert sum(p) / 4 > 0.15


@pytest.mark.parametrize("wrong", [{"width": 1.8}, {"shift": 1.0}])
def test_a_wrong_posterior_does_not(wrong):
    found = csb.metrics.local_c2st(*problem(**wrong), seed=1, permutations=19)
    assert found.p == 0.05
    assert found.statistic > 0.004


def test_a_posterior_that_is_wrong_elsewhere_alone_has_a_smaller_statistic_here():
    drawn, x, y, _, _ = problem(shift=1.5)
    away = -2 * torch.ones(2)
    there = away / 2 + torch.randn(500, 2, generator=seeded(9)) / 2**0.5
    here = local_c2st(*problem(shift=1.5), permutations=1).statistic
    assert local_c2st(drawn, x, y, away, there, permutations=1).statistic < here / 3


def test_the_predictive_p_is_uniform_and_small_for_a_value_far_away():
    y = torch.randn(400, 999, 5, generator=seeded(1))
    p = torch.tensor([predictive_p(one[1:], one[0]) for one in y])
    assert 0.45 < float(p.mean()) < 0.55
    assert 0.06 < float((p < 0.1).double().mean()) < 0.14
    assert predictive_p(y[0], torch.full((5,), 6.0)) == pytest.approx(1 / 1000)


def test_values_that_are_missing_do_not_count():
    y = torch.randn(999, 3, generator=seeded(2))
    at = torch.tensor([0.5, float("nan"), -0.2])
    assert predictive_p(y, at) == pytest.approx(predictive_p(y[:, [0, 2]], at[[0, 2]]), abs=1e-12)


def test_what_cannot_be_judged():
    drawn, x, y, at, samples = problem(60)
    with pytest.raises(CSBError, match="do not fit; give"):
        local_c2st(drawn[:30], x, y, at, samples)
    with pytest.raises(CSBError, match="do not fit; give"):
        predictive_p(y[:5], at)


@pytest.mark.nightly
def test_diagnose_at_an_observation(tmp_path):
    x = torch.randn(1000, 2, generator=seeded(1))
    small = {"first_steps": 20, "steps": 10, "batch_size": 64}
    run = csb.fit(x, x + torch.randn(1000, 2, generator=seeded(2)), L=1, T=2, training=small, progress=False)
    found = run.diagnose(observations=60, samples=20, y=[0.3, -0.1])
    assert set(found.local) == {"l_c2st", "l_c2st_p"}
    assert found.rows == [*found.table, {"parameter": "at y", **found.local}]
    found.save(tmp_path)
    assert json.loads((tmp_path / "table.json").read_text()) == found.rows
    assert found.local["l_c2st_p"] <= 1
    with pytest.raises(CSBError, match="give one observation"):
        run.diagnose(observations=60, samples=20, y=[[0.3, -0.1], [0.0, 0.0]])
    task = csb.fit(problem=csb.problems.LinearGaps(n_train=500), L=1, T=2, training=small, progress=False)
    local = task.diagnose(observations=60, samples=20, y=task.problem.pairs("test", 1).y[0]).local
    assert 0 < local["predictive_p"] <= 1
