"""Observations with gaps: what hides values, what the networks see, and that a training takes both."""

import numpy as np
import pytest
import torch

import csb
from csb.bridge.objectives import OBJECTIVES
from csb.errors import CSBError
from csb.networks import build_network
from csb.networks.encoders import with_mask
from csb.process import seeded
from csb.training.pairs import hidden

nan = float("nan")
SHORT = {"first_steps": 30, "steps": 20, "batch_size": 64, "trajectories": 128, "refresh": 20, "patience": 0}


def pairs(n=400, d=3):
    x = torch.randn(n, 2, generator=seeded(1))
    return x, x.repeat(1, d)[:, :d] + 0.3 * torch.randn(n, d, generator=seeded(2))


@pytest.fixture(scope="module")
def bridge():
    return csb.fit(*pairs(), L=2, T=3, training=SHORT | {"missing": 0.5}, progress=False).bridge


def test_the_share_of_what_is_hidden():
    """Of observations with gaps a tenth shows nothing; the others hide a uniform share: of 3 values all with 1/4."""
    c = hidden(torch.zeros(200_000, 3), 0.4, seeded(0))
    gone = c.isnan().sum(1).bincount().double() / len(c)
    expected = torch.tensor([0.6 + 0.36 / 4, 0.36 / 4, 0.36 / 4, 0.36 / 4 + 0.04], dtype=torch.float64)
    torch.testing.assert_close(gone, expected, rtol=0, atol=4e-3)


def test_rows_are_hidden_as_a_whole_and_nothing_is_drawn_at_chance_0():
    c, generator = torch.zeros(1000, 5, 2), seeded(0)
    assert hidden(c, 0.0, generator) is c
    assert torch.equal(generator.get_state(), seeded(0).get_state())
    gone = hidden(c, 1.0, generator).isnan()
    assert torch.equal(gone[..., 0], gone[..., 1])
    assert 0.4 < float(gone.double().mean()) < 0.7


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 3)])
def test_values_and_mask(shape):
    c = torch.randn(5, *shape, generator=seeded(0))
    c[0, 0] = nan
    values, mask = with_mask(c).chunk(2, dim=1 if len(shape) == 3 else -1)
    assert torch.equal(mask == 0, c.isnan())
    assert torch.equal(values, c.nan_to_num(0.0))


def test_missing_values_change_the_context_as_a_value_of_0_does_not():
    network = build_network({"name": "mlp", "width": 8, "missing": True}, (2,), (3,), 1)
    c = torch.tensor([[1.0, 0.0, 2.0], [1.0, nan, 2.0]])
    one, other = network.context(c)
    assert bool(one.isfinite().all() and other.isfinite().all())
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_later_half_steps_see_the_gaps_of_their_trajectories(objective, bridge):
    from csb.training.pairs import EncodedPairs, bytes_per_trajectory, fill

    x, y = pairs(50)
    data = EncodedPairs.of(x, y, missing=1.0)
    for source in ("forward", "backward"):
        cache = fill(bridge, source, OBJECTIVES[objective](), data, 200, (0, 1, 2, 0, 3))
        c = cache.conditions(data, torch.arange(200))
        assert 0.4 < float(c.isnan().double().mean()) < 0.7
        seen = ~c.isnan()
        assert torch.equal(c[seen], y[cache.owner][seen])
        each = bytes_per_trajectory(bridge.transform, bridge.grid.T, OBJECTIVES[objective](), data.missing)
        assert sum(tensor.nbytes for tensor in cache.tensors) == 200 * each


@pytest.mark.nightly
def test_gaps_of_the_data_make_a_bridge_that_takes_them(tmp_path):
    x, y = pairs()
    y[:100, 1] = nan
    run = csb.fit(x, y, L=1, T=2, training=SHORT, progress=False, out=tmp_path / "run")
    again = csb.load(tmp_path / "run")
    assert again.backward_kernel.network.missing
    torch.testing.assert_close(again.transform.y_mean[1], torch.as_tensor(_train_mean(run, 1)), rtol=1e-5, atol=1e-6)
    gaps = torch.tensor([[0.1, nan, 0.2], [nan, nan, nan]])
    assert bool(again.sample(gaps, 5, seed=0).x.isfinite().all())
    csb.fit_score(x, y, T=2, training=SHORT | {"steps": 5}, progress=False).sample(gaps, 2)


def _train_mean(run, column):
    y = run.problem.pairs("train").y[:, column].double()
    return float(y[~y.isnan()].mean())


def test_a_bridge_without_gaps_refuses_them_and_infinite_values_are_never_taken(bridge):
    plain = csb.fit(*pairs(), L=1, T=2, training=SHORT, progress=False).bridge
    with pytest.raises(CSBError, match=r"y holds NaN .* train with training.missing=0.5"):
        plain.sample([0.0, nan, 0.0], 2)
    with pytest.raises(CSBError, match="y holds NaN or infinite values"):
        bridge.sample([0.0, nan, float("inf")], 2)


def test_x_with_gaps_is_refused():
    x, y = pairs()
    x[3, 0] = nan
    with pytest.raises(CSBError, match="holds 1 values that are NaN, infinite or beyond"):
        csb.fit(x, y, progress=False)


def test_masked_values_of_y_are_missing(bridge):
    masked = np.ma.masked_array([0.1, 0.2, 0.3], mask=[False, True, False])
    found, same = (bridge.sample(y, 5, seed=0).x for y in (masked, [0.1, nan, 0.3]))
    assert torch.equal(found, same)
