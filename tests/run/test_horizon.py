"""The horizon of the guided samplers: what suits the data, what is given, and what the denoiser was trained on."""

import math
from pathlib import Path

import pytest
import torch

from csb.evaluation.scores import SamplerSettings
from csb.problems import BOD, GaussianMixture, LinearGaussian, Pairs, TwoMoons
from csb.problems.rows import Rows
from csb.runs.load import Run
from csb.runs.report import entries_of
from csb.runs.stages import _shift_and_scale, exact_denoiser, new_denoiser
from csb.samplers import horizon, horizon_bias
from csb.samplers.registry import BaselineSettings
from tests.conftest import make_untrained_bridge

PROCESS = {"name": "power", "alpha_bar_end": 0.1, "power": 3.0}
MLP = {"name": "mlp", "width": 8, "depth": 1}


def compared(problem, denoiser, alpha_bar_end):
    """TDS in a comparison of an untrained bridge, and the warnings."""
    bridge = make_untrained_bridge(*problem.x_shape, *problem.y_shape)
    run = Run(Path("run"), bridge, {"problem": problem.spec(), "config": {"schedule": PROCESS}})
    settings = BaselineSettings(["tds"], 20, alpha_bar_end, 64, None, "systematic", 0.5, 0.1, {}, {}, 2, 2)
    entries, warnings = entries_of(run, [], denoiser, settings, SamplerSettings(), 0)
    return {row.name: (row, sampler) for row, sampler in entries}, warnings


def trained(problem, alpha_bar_end):
    return new_denoiser(problem, MLP, Rows.of(problem.pairs("train", 2000)), alpha_bar_end, 0)


@pytest.mark.parametrize(
    ("z_std", "least", "expected"),
    [(0.0, 0, 1e-4), (1.0, 0, 1e-4), (3.0, 0, 1e-4), (1.0, 1e-3, 1e-3), (1.0, 1e-6, 1e-4), (12.0, 1e-4, 1e-4)],
)
def test_horizons(z_std, least, expected):
    assert math.isclose(horizon(z_std, least), expected)


@pytest.mark.parametrize("z_std", [3.1, 10.0, 300.0])
def test_a_large_scale_asks_for_a_long_one(z_std):
    assert math.isclose(math.sqrt(horizon(z_std)) * z_std, 0.03)


def test_the_raw_mixture_gets_one_that_leaves_no_bias():
    problem = GaussianMixture(n_train=5000)
    methods, warnings = compared(problem, exact_denoiser(problem), None)
    assert warnings == []
    grid, z_std = methods["tds"][1].grid, methods["tds"][1].likelihood.z_variance ** 0.5
    assert z_std > 3
    assert math.isclose(horizon_bias(grid, z_std), 0.03, rel_tol=1e-6)
    assert methods["tds"][0].schedule == f"power, T = 20, ᾱ_T = {(0.03 / z_std) ** 2:.2g}"
    assert methods["bridge_run"][0].schedule == "power, T = 3, ᾱ_T = 0.1"  # its own, whatever the others need


def test_a_number_is_taken_as_it_is_and_warned_of():
    problem = GaussianMixture(n_train=5000)
    methods, warnings = compared(problem, exact_denoiser(problem), 1e-4)
    assert methods["tds"][0].schedule == "power, T = 20, ᾱ_T = 0.0001"
    (warning,) = warnings
    assert warning.startswith("At ᾱ_T = 0.0001 a signal of 0.1")
    assert warning.endswith("their samples are biased. Lower baselines.alpha_bar_end.")


def test_data_of_unit_scale_get_the_usual_one():
    problem = LinearGaussian(n_train=5000)
    methods, warnings = compared(problem, exact_denoiser(problem), None)
    assert methods["tds"][0].schedule == "power, T = 20, ᾱ_T = 0.0001"
    assert warnings == []


@pytest.mark.parametrize(
    ("learnt", "given", "used", "warning"),
    [
        (1e-4, None, 1e-4, ""),
        (1e-5, None, 1e-4, ""),
        (1e-3, None, 1e-3, ""),
        (0.01, None, 0.01, "Lower denoiser.alpha_bar_end and train it again."),
        (1e-4, 1e-4, 1e-4, ""),
        (1e-4, 0.02, 0.02, "Lower baselines.alpha_bar_end."),
        (1e-4, 1e-6, 1e-6, "the denoiser was trained down to 0.0001 only"),
        (0.0, None, 1e-4, ""),  # not known
    ],
)
def test_a_trained_denoiser_is_not_asked_beyond_its_own(learnt, given, used, warning):
    problem = BOD(n_train=5000)
    methods, warnings = compared(problem, trained(problem, learnt), given)
    assert math.isclose(float(methods["tds"][1].grid.alpha_bar[-1]), used, rel_tol=1e-9)
    assert len(warnings) == bool(warning)
    assert all(warning in one for one in warnings)


def test_the_scale_of_the_data_is_encoded_away():
    """The trained denoiser of the same mixture works on data of about unit scale."""
    problem = GaussianMixture(n_train=5000)
    denoiser = trained(problem, 1e-4)
    assert abs(float(denoiser.encode(problem.pairs("train", 5000).x).std()) - 1) < 0.1
    methods, warnings = compared(problem, denoiser, None)
    assert math.isclose(float(methods["tds"][1].grid.alpha_bar[-1]), 1e-4, rel_tol=1e-9)
    assert warnings == []


def test_a_problem_without_a_likelihood_is_told():
    problem = TwoMoons(n_train=2000)
    methods, warnings = compared(problem, None, None)
    assert list(methods) == ["bridge_run", "exact"]
    assert warnings == ["No guided sampler is compared: two_moons has no likelihood y = H(x) + noise for guidance."]
    assert torch.equal(methods["bridge_run"][1].sample(torch.zeros(2), 1).x.isfinite(), torch.ones(1, 2).bool())


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_one_row_far_out_does_not_set_the_scale_of_a_denoiser(shape):
    x = torch.randn(5000, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(5000, 1)
    shift, scale = _shift_and_scale(Rows.of(Pairs(x, y)))
    assert torch.allclose(shift, x.mean(0), atol=1e-12)
    assert abs(scale - 1) < 0.02
    x[0] = 1e6
    shift, scale = _shift_and_scale(Rows.of(Pairs(x, y)))
    assert abs(scale - 1) < 0.2
    assert shift.abs().max() < 0.2
