"""The test of rows in no order: its size for sets, and its power for series."""

import math

import pytest
import torch
from scipy.stats import binom

from csb.metrics.order import most, order_p_value, ranks
from csb.process import seeded

N, L, RUNS = 150, 15, 20


def autoregressive(phi, generator):
    noise = torch.randn(N, L, 1, generator=generator)
    rows = [noise[:, 0]]
    for t in range(1, L):
        rows.append(phi * rows[-1] + math.sqrt(1 - phi**2) * noise[:, t])
    return torch.stack(rows, 1)


def p_values(draw):
    return [order_p_value(draw(seeded(i)), seeded(i, 1))[0] for i in range(RUNS)]


def readings(g):
    """Counts of a rate of their own, of any number of rows."""
    rate = (5 * torch.rand(N, 1, 1, generator=g)).expand(N, L, 1)
    count = torch.randint(1, L + 1, (N, 1, 1), generator=g)
    return torch.poisson(rate, generator=g).masked_fill(torch.arange(L)[:, None] >= count, torch.nan)


@pytest.mark.parametrize("draw", [readings, lambda g: torch.randn(N, L, 2, generator=g).exp()])
def test_sets_are_called_series_as_rarely_as_is_said(draw):
    assert sum(p < 0.05 for p in p_values(draw)) <= binom.ppf(0.999, RUNS, 0.05)


@pytest.mark.parametrize(
    "draw",
    [
        lambda g: autoregressive(0.3, g),
        lambda g: autoregressive(-0.3, g),
        lambda g: torch.randn(N, L, 1, generator=g) * autoregressive(0.7, g).exp(),
        lambda g: torch.randn(N, L, 1, generator=g) + torch.linspace(-1, 1, L)[:, None],
        lambda g: (
            torch.randn(N, L, 1, generator=g) + torch.linspace(-1, 1, L)[:, None] * torch.randn(N, 1, 1, generator=g)
        ),
    ],
    ids=["correlated", "alternating", "clusters", "shared course", "own trends"],
)
def test_series_are_found(draw):
    assert sum(p < 0.05 for p in p_values(draw)) >= 0.9 * RUNS


def test_ranks_know_ties_and_gaps():
    found = ranks(torch.tensor([3.0, 1.0, math.nan, 3.0]))
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 6, math.nan, 2 / 3]), equal_nan=True)


def test_pairs_of_neighbours_are_counted():
    y = torch.randn(3, 4, 1, generator=seeded(0))
    y[0, 2:], y[1] = torch.nan, torch.nan
    assert order_p_value(y, seeded(0))[1] == 1 + 0 + 3


def test_of_many_columns_the_first_count():
    """The memory would grow with their square."""
    y = torch.randn(20, 6, 40, generator=seeded(0))
    assert order_p_value(y, seeded(1)) == order_p_value(y[..., :32], seeded(1))
    assert most((6, 1000)) == most((6, 32))
