"""The metrics as users call them: arrays of any kind, and one line for bad ones."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from draws import ensemble, log_weights, normal

from csb import metrics
from csb.errors import CSBError
from csb.filtering import EnKF, Lorenz63, Twin, track, twin
from csb.metrics.distances import frechet, mode_weight_tv, moment_errors, sample_moments
from csb.metrics.ensemble import EnsembleScores, std_error_correlation
from csb.metrics.fidelity import psnr, ssim, ssim_scores
from csb.metrics.order import order_p_value
from csb.process import seeded

SAMPLES, TRUTH = ensemble(shape=(3,))
SCORED = {"samples": SAMPLES, "truth": TRUTH}
CLOUDS = {"a": normal(20, 3), "b": normal(20, 3, key=1)}
RANKS = {"ranks": torch.rand(100, 2, generator=seeded(0))}
X, Y, HERE = normal(60, 2), normal(60, 3, key=1), normal(3, key=2)
LOCAL = {"drawn": normal(60, 2, key=3), "truth": X, "y": Y, "at": HERE, "samples": X[:9]}
IMAGES, DRAWN = torch.rand(2, 1, 8, 8, generator=seeded(1)), torch.rand(2, 3, 1, 8, 8, generator=seeded(2))
PAIR = {"estimate": IMAGES, "truth": IMAGES.flip(0)}
MODES = {"samples": X, "weights": torch.tensor([0.5, 0.5]), "means": X[:2], "covs": torch.eye(2)[None]}
CALLS = [
    *((score, SCORED) for score in (metrics.crps, metrics.energy_score, metrics.spread_skill, std_error_correlation)),
    *((score, SCORED) for score in (metrics.sbc_ranks, metrics.tarp)),
    *((score, CLOUDS) for score in (metrics.c2st, metrics.mmd, metrics.sliced_wasserstein, frechet)),
    *((score, RANKS) for score in (metrics.rank_uniformity, metrics.central_coverage)),
    (metrics.local_c2st, LOCAL),
    (metrics.predictive_p, {"simulated": Y, "at": HERE}),
    (psnr, PAIR),
    (ssim, PAIR),
    (ssim_scores, {"samples": DRAWN, "truth": IMAGES}),
    (mode_weight_tv, MODES),
    (sample_moments, {"samples": X}),
]


def bad(x):
    """By name, what no metric takes in place of an array."""
    return {
        "None": None,
        "a text": "abc",
        "texts": ["a", "b"],
        "an object": object(),
        "rows of two lengths": [[1.0], [1.0, 2.0]],
        "complex": x + 0j,
        "infinite": x.index_fill(0, torch.tensor([0]), math.inf),
        "no dimension": x.flatten()[0],
        "a dimension more": x[None],
        "a column more": torch.cat([x, x], -1),
        "empty": x[:0],
    }


def test_every_metric_of_the_package_is_in_the_table():
    public = {value for value in vars(metrics).values() if hasattr(value, "__wrapped__")}
    assert public <= {function for function, _ in CALLS}


@pytest.mark.parametrize(("function", "arrays"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_arrays_are_told_in_one_line(function, arrays):
    taken = []
    for name, x in arrays.items():
        for what, value in bad(x).items():
            with suppress(CSBError):
                function(**{**arrays, name: value})
                taken.append((name, what))
    assert taken == [(name, "a column more") for name in arrays if len(arrays) == 1]


@pytest.mark.parametrize("kind", [np.asarray, torch.Tensor.tolist])
def test_arrays_of_any_kind_give_the_numbers_of_tensors(kind):
    mask, weights = torch.tensor([True, False, True]), log_weights(9)
    for function, arrays in ((metrics.mmd, CLOUDS), (metrics.crps, {**SCORED, "mask": mask, "log_weights": weights})):
        assert function(**{name: kind(x) for name, x in arrays.items()}) == function(**arrays)


def scored(truth):
    return track(Lorenz63(), EnKF(), 5, truth, 0)


TWIN = twin(Lorenz63(), 3, 0)


@pytest.mark.parametrize(
    ("match", "call"),
    [
        *(
            ("^mask", lambda mask=mask: metrics.crps(SAMPLES, TRUTH, mask))
            for mask in ("abc", [[1], [1, 2]], [1, 0, 1])
        ),
        *(("^seed=", lambda seed=seed: metrics.c2st(**CLOUDS, seed=seed)) for seed in (-1, "a", 2**32)),
        ("^seed=-1", lambda: metrics.local_c2st(**LOCAL, seed=-1)),
        ("no coordinate with a value", lambda: metrics.predictive_p(Y, math.nan * HERE)),
        ("^n_bins=0", lambda: std_error_correlation(SAMPLES, TRUTH, n_bins=0)),
        ("^n_bins=19", lambda: std_error_correlation(SAMPLES, TRUTH, n_bins=19)),
        ("no observation was added", EnsembleScores().compute),
        ("H, W ≥ 6", lambda: ssim(IMAGES[..., :5], IMAGES[..., :5])),
        ("expected one shape", lambda: psnr(IMAGES, IMAGES[0])),
        ("reference has", lambda: moment_errors(X, {"mean": X[0]})),
        ("reference has", lambda: moment_errors(X, {"mean": X[0], "cov": X})),
        ("expected \\(N, L, d\\)", lambda: order_p_value(X, seeded(0))),
        ("give what twin draws", lambda: scored(3)),
        *(
            ("^truth has", lambda truth=truth: scored(truth))
            for truth in (TWIN._replace(y=TWIN.y[:2]), Twin(TWIN.x[:, :2], TWIN.y), Twin(TWIN.x[0], TWIN.y[0]))
        ),
        ("truth x has 9 NaN", lambda: scored(TWIN._replace(x=math.nan * TWIN.x))),
        ("spin_up=-25", lambda: scored(twin(Lorenz63(), 30, 0)).summary(-25)),
    ],
)
def test_bad_options_are_told_in_one_line(match, call):
    with pytest.raises(CSBError, match=match):
        call()


def test_arguments_are_those_of_the_function():
    for call in (lambda: metrics.crps(SAMPLES, TRUTH, None, None, 5), lambda: metrics.crps(SAMPLES)):
        with pytest.raises(TypeError):
            call()
