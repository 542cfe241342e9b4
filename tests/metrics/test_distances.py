"""Distances between point clouds against closed forms, and against POT and scikit-learn."""

import math
from statistics import NormalDist

import numpy as np
import ot
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from csb.errors import CSBError
from csb.metrics.distances import c2st, mmd, mode_weight_tv, sliced_wasserstein
from csb.problems.mixture import Mixture
from csb.process import seeded
from tests.metrics.draws import log_weights, normal, point_mass


def test_sliced_wasserstein_of_shifted_clouds():
    """SW_2² = |δ|²/d, whatever the law and the sizes."""
    a, shift = normal(300, 6), normal(6, key=1)
    distance = sliced_wasserstein(a, a + shift, seeded(0), n_projections=20_000)
    assert distance**2 == pytest.approx(float(shift.square().sum()) / 6, rel=0.03)
    shift = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    distance = sliced_wasserstein(normal(4000, 3), normal(3000, 3, key=1) + shift, seeded(0), n_projections=1000)
    assert distance**2 == pytest.approx(3.0, rel=0.06)
    assert sliced_wasserstein(a, a, seeded(5)) == 0


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_equals_pot(p):
    a, b, w, v = normal(40, 3), 1.5 * normal(25, 3, key=1) + 0.4, log_weights(40), log_weights(25, key=8)
    theta = torch.randn(16, 3, generator=seeded(0), dtype=torch.float64)
    theta = (theta / theta.norm(dim=1, keepdim=True)).T.numpy()
    for one, other in ((w, v), (w, None), (None, v), (None, None), (point_mass(40), v)):
        found = sliced_wasserstein(a, b, seeded(0), 16, p, log_weights_a=one, log_weights_b=other)
        masses = [None if x is None else x.exp().numpy() for x in (one, other)]
        expected = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), *masses, projections=theta, p=p)
        assert found == pytest.approx(float(expected), rel=1e-8)


def test_mmd_equals_the_double_sum():
    a, b, w, v = normal(30, 3), normal(20, 3, key=1) + 0.5, log_weights(30), log_weights(20, key=8)
    for one, other in ((w, v), (None, None)):
        p, q = ((torch.ones(n).double() / n if x is None else x.exp()) for x, n in ((one, 30), (other, 20)))
        total = 0.0
        for x, u in ((a, p), (b, q)):
            kernel = torch.from_numpy(rbf_kernel(x, gamma=1 / (2 * 1.3**2))).fill_diagonal_(0)
            total += float(u @ kernel @ u) / (1 - float(u.square().sum()))
        total -= 2 * float(p @ torch.from_numpy(rbf_kernel(a, b, gamma=1 / (2 * 1.3**2))) @ q)
        assert mmd(a, b, 1.3, log_weights_a=one, log_weights_b=other) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (0.0, 2.0), (0.0, 1.0)])
def test_mmd_of_two_gaussians_is_their_closed_form_on_average(shift, scale):
    """Squared MMD of N(0, I) and N(shift·1, scale² I) in two dimensions: each E k is a Gaussian integral."""
    h = 1.1

    def mean_kernel(var, gap):
        return h * h / (h * h + var) * math.exp(-gap * gap / (h * h + var))

    exact = mean_kernel(2, 0) + mean_kernel(2 * scale**2, 0) - 2 * mean_kernel(1 + scale**2, shift)
    pairs = zip(normal(200, 100, 2), shift + scale * normal(200, 80, 2, key=1))
    found = torch.tensor([mmd(a, b, h) for a, b in pairs], dtype=torch.float64)
    error = float(found.std()) / math.sqrt(200)
    assert error < 0.005
    assert float(found.mean()) == pytest.approx(exact, abs=3 * error)  # unbiased


def test_mmd_takes_the_median_distance_and_bears_point_masses():
    a, b = normal(40, 2), normal(40, 2, key=1) + 3
    assert mmd(a, b) == mmd(a, b, float(torch.nn.functional.pdist(torch.cat([a, b])).median()))
    k = math.exp(-float((a[2] - b[2]).square().sum()) / (2 * 1.5**2))
    both = {"log_weights_a": point_mass(40), "log_weights_b": point_mass(40)}
    assert mmd(a, b, 1.5, **both) == pytest.approx(2 - 2 * k, rel=1e-12)


def bayes(shift):
    """The accuracy of the best classifier of N(0, 1) and N(shift, 1)."""
    return NormalDist().cdf(shift / 2)


def test_c2st_of_one_law_and_of_two():
    a, b = normal(300, 1), normal(300, 1, key=1)
    assert c2st(a, b) == pytest.approx(0.5, abs=0.06)
    assert c2st(a, b + 2) == pytest.approx(bayes(2), abs=0.04)
    assert c2st(100 + 50 * a, 100 + 50 * (b + 2)) == pytest.approx(bayes(2), abs=0.04)  # scaled by a
    assert c2st(a, b + 20) == 1


@pytest.mark.parametrize(("d", "n", "shift"), [(2, 500, 0.7), pytest.param(8, 150, 1.0, marks=pytest.mark.nightly)])
def test_c2st_is_that_of_sbibm(d, n, shift):
    """Within the standard error of both; in eight dimensions the network learns its points by heart."""
    a, b = normal(n, d).float(), normal(n, d, key=1).float()
    b[:, 0] += shift
    network = MLPClassifier((10 * d, 10 * d), max_iter=10_000, random_state=1)
    data = ((torch.cat([a, b]) - a.mean(0)) / a.std(0)).numpy()
    folds = KFold(5, shuffle=True, random_state=1)
    theirs = cross_val_score(network, data, np.repeat([0, 1], n), cv=folds).mean()
    assert c2st(a, b) == pytest.approx(theirs, abs=2 * math.sqrt(0.25 / n))


def test_c2st_has_randomness_of_its_own_and_learns_in_inference_mode():
    state = torch.get_rng_state()
    a, b = normal(40, 2), normal(40, 2, key=1) + 3
    found = c2st(a, b, seed=3)
    with torch.inference_mode():
        assert c2st(a, b, seed=3) == found
    assert torch.equal(torch.get_rng_state(), state)


def test_c2st_of_weighted_samples():
    a, wide = normal(200, 1), 3 * normal(200, 1, key=1)
    log_w = (0.5 * (1 / 9 - 1) * wide[:, 0].square()).log_softmax(0)  # N(0, 9) weighted to N(0, 1)
    plain = c2st(a, wide)
    assert c2st(a, wide, log_weights_b=log_w) < plain - 0.05
    assert c2st(a, wide, log_weights_b=torch.full((200,), -math.log(200))) == plain
    assert c2st(a, wide, log_weights_a=point_mass(200)) > 0.9


MIXTURE = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([[0.0, 0], [8, 0], [0, 8]], dtype=torch.float64),
    torch.eye(2, dtype=torch.float64)[None],
)


def tv(samples, mixture=MIXTURE, log_weights=None):
    return mode_weight_tv(samples, mixture.weights, mixture.means, mixture.covs, log_weights)


def test_mode_weights_of_counted_and_of_exact_samples():
    x = MIXTURE.means.repeat_interleave(torch.tensor([5, 3, 2]), 0)
    assert tv(x) == pytest.approx(0, abs=1e-12)
    assert tv(x[:5]) == pytest.approx(0.5)  # two modes of weights 0.3 and 0.2 are lost
    assert tv(x, log_weights=point_mass(10, at=9)) == pytest.approx(0.8)
    floor = sum(math.sqrt(w * (1 - w) / (2 * math.pi * 20_000)) for w in (0.5, 0.3, 0.2))
    assert sum(tv(MIXTURE.sample(20_000, seeded(3, i))) for i in range(20)) / 20 == pytest.approx(floor, rel=0.35)


def test_responsibilities_tell_overlapping_modes():
    means = torch.tensor([[0.0, 0], [1, 0]], dtype=torch.float64)
    mixture = Mixture(torch.tensor([0.9, 0.1], dtype=torch.float64), means, torch.eye(2, dtype=torch.float64)[None])
    assert tv(mixture.sample(40_000, seeded(4)), mixture) < 0.01


A, B, NAN = normal(6, 2), normal(6, 2, key=1), torch.full((6, 2), math.nan)


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("b has 12 NaN", lambda: mmd(A, NAN)),
        (r"expected \(N, d\)", lambda: sliced_wasserstein(A, B[:, :1], seeded(0))),
        ("n_projections=0 is not possible", lambda: sliced_wasserstein(A, B, seeded(0), n_projections=0)),
        ("log_weights_a has weights of sum 6", lambda: mmd(A, B, log_weights_a=torch.zeros(6))),
        (r"log_weights_b has shape \(5,\)", lambda: mmd(A, B, log_weights_b=torch.zeros(5))),
        ("as many", lambda: c2st(A, B[:5])),
        ("at least 5", lambda: c2st(A[:4], B[:4])),
        ("at least 2", lambda: mmd(A[:1], B)),
        ("bandwidth=0", lambda: mmd(A, B, 0)),
    ],
)
def test_bad_input_is_refused(match, call):
    with pytest.raises(CSBError, match=match):
        call()
