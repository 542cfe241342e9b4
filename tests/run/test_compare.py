"""The comparison of a run with other samplers: the horizon of the guided ones, and the report."""

import json
import math
from pathlib import Path

import pytest
import torch

from csb.evaluation.scores import SamplerSettings
from csb.problems import BOD, PROBLEMS, FilePairs, GaussianMixture, LinearGaussian, MnistInpaint, Pairs, TwoMoons
from csb.problems.rows import Rows
from csb.runs.load import Run
from csb.runs.recipe import BaselineSettings
from csb.runs.report import _description, entries_of
from csb.runs.stages import _shift_and_scale, exact_denoiser, new_denoiser
from csb.samplers import horizon, horizon_bias
from tests.conftest import make_untrained_bridge

PROCESS = {"name": "power", "alpha_bar_end": 0.1, "power": 3.0}
MLP = {"name": "mlp", "width": 8, "depth": 1}


def compared(problem, denoiser, alpha_bar_end=None):
    """TDS in a comparison of an untrained bridge, and the warnings."""
    bridge = make_untrained_bridge(*problem.x_shape, *problem.y_shape)
    run = Run(Path("run"), bridge, {"problem": problem.spec(), "config": {"schedule": PROCESS}})
    settings = BaselineSettings(["tds"], 20, alpha_bar_end, 64, None, "systematic", 0.5, 0.1, {}, {}, 2, 2)
    entries, warnings = entries_of(run, [], denoiser, settings, SamplerSettings(), 0)
    return {row.name: (row, sampler) for row, sampler in entries}, warnings


def trained(problem, alpha_bar_end):
    return new_denoiser(problem, MLP, Rows.of(problem.pairs("train", 2000)), alpha_bar_end, 0)


class TestHorizon:
    @pytest.mark.parametrize(
        ("z_std", "least", "expected"),
        [
            (0.0, 0, 1e-4), (1.0, 0, 1e-4), (3.0, 0, 1e-4), (1.0, 1e-3, 1e-3), (1.0, 1e-6, 1e-4), (12.0, 1e-4, 1e-4),
            *((z_std, 0, (0.03 / z_std) ** 2) for z_std in (3.1, 10.0, 300.0)),
        ],
    )  # fmt: skip
    def test_a_large_scale_asks_for_a_long_one(self, z_std, least, expected):
        assert math.isclose(horizon(z_std, least), expected)

    def test_the_raw_mixture_gets_one_that_leaves_no_bias(self):
        problem = GaussianMixture(n_train=5000)
        methods, warnings = compared(problem, exact_denoiser(problem))
        assert warnings == []
        grid, z_std = methods["tds"][1].grid, methods["tds"][1].likelihood.z_variance ** 0.5
        assert z_std > 3
        assert math.isclose(horizon_bias(grid, z_std), 0.03, rel_tol=1e-6)
        assert methods["tds"][0].schedule == f"power, T = 20, ᾱ_T = {(0.03 / z_std) ** 2:.2g}"
        assert methods["bridge_run"][0].schedule == "power, T = 3, ᾱ_T = 0.1"  # its own, whatever the others need
        methods, (warning,) = compared(problem, exact_denoiser(problem), 1e-4)  # a number is taken as it is
        assert methods["tds"][0].schedule == "power, T = 20, ᾱ_T = 0.0001"
        assert warning.startswith("At ᾱ_T = 0.0001 a signal of 0.1")
        assert warning.endswith("their samples are biased. Lower baselines.alpha_bar_end.")

    def test_data_of_unit_scale_get_the_usual_one(self):
        problem = LinearGaussian(n_train=5000)
        methods, warnings = compared(problem, exact_denoiser(problem))
        assert (methods["tds"][0].schedule, warnings) == ("power, T = 20, ᾱ_T = 0.0001", [])

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
    def test_a_trained_denoiser_is_not_asked_beyond_its_own(self, learnt, given, used, warning):
        problem = BOD(n_train=5000)
        methods, warnings = compared(problem, trained(problem, learnt), given)
        assert math.isclose(float(methods["tds"][1].grid.alpha_bar[-1]), used, rel_tol=1e-9)
        assert len(warnings) == bool(warning)
        assert all(warning in one for one in warnings)

    def test_the_scale_of_the_data_is_encoded_away(self):
        """The trained denoiser of the same mixture works on data of about unit scale."""
        problem = GaussianMixture(n_train=5000)
        denoiser = trained(problem, 1e-4)
        assert abs(float(denoiser.encode(problem.pairs("train", 5000).x).std()) - 1) < 0.1
        methods, warnings = compared(problem, denoiser)
        assert math.isclose(float(methods["tds"][1].grid.alpha_bar[-1]), 1e-4, rel_tol=1e-9)
        assert warnings == []

    @pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
    def test_one_row_far_out_does_not_set_the_scale_of_a_denoiser(self, shape):
        x = torch.randn(5000, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = torch.zeros(5000, 1)
        shift, scale = _shift_and_scale(Rows.of(Pairs(x, y)))
        assert torch.allclose(shift, x.mean(0), atol=1e-12)
        assert abs(scale - 1) < 0.02
        x[0] = 1e6
        shift, scale = _shift_and_scale(Rows.of(Pairs(x, y)))
        assert abs(scale - 1) < 0.2
        assert shift.abs().max() < 0.2


def test_a_problem_without_a_likelihood_is_told():
    methods, warnings = compared(TwoMoons(n_train=2000), None)
    assert list(methods) == ["bridge_run", "exact"]
    assert warnings == ["No guided sampler is compared: two_moons has no likelihood y = H(x) + noise for guidance."]
    assert methods["bridge_run"][1].sample(torch.zeros(2), 1).x.isfinite().all()


class TestReport:
    """Through the scripts that a user calls."""

    SMALL = (
        "experiment=linear_gaussian", "name=run", "training.first_steps=40", "training.steps=20", "L=1", "T=4",
        "metrics.exact_samples=200", "progress=false", "logger=none",
    )  # fmt: skip

    @pytest.fixture
    def report(self, command, tmp_path):
        """Runs a script, and gives what it wrote into the report."""

        def run(script, *arguments):
            done = command(*arguments, script=script)
            assert done.code == 0, done.err[-2000:]
            assert "report: " in done.out
            found = json.loads((tmp_path / "run" / "report.json").read_text())
            return found, {method["name"]: method for method in found["methods"]}

        return run

    def test_of_guided_samplers_and_the_exact_posterior(self, command, report, tmp_path):
        done = command(*self.SMALL, f"out={tmp_path}")
        assert done.code == 0, done.err[-2000:]
        found, methods = report(
            "scripts/evaluate.py", f"run={tmp_path / 'run'}", "tables=false", "metrics.exact_samples=400",
            "metrics.exact_observations=3", "metrics.c2st_samples=0", "metrics.compare_samples=50", "baselines.T=40",
            "baselines.methods=[tds,smc,dps,replacement,pigdm,tmpd,guidance]", "metrics.compare_observations=30",
        )  # fmt: skip
        assert list(methods) == ["bridge_run", "tds", "smc", "dps", "pigdm", "tmpd", "guidance", "exact"]  # A A* ≠ cI
        assert any("replacement is left out" in warning for warning in found["warnings"])
        assert (methods["tds"]["forward_evaluations"], methods["tds"]["backward_evaluations"]) == (40, 40)
        assert methods["tds"]["metrics"]["mean_error"] < 0.25 < methods["dps"]["metrics"]["cov_error"]
        assert methods["exact"]["metrics"]["sliced_w"] < 2 * methods["exact"]["metrics"]["sliced_w_floor"]
        assert len(methods["dps"]["sweeps"][0]["rows"]) == 6
        entries = json.loads((tmp_path / "run" / "provenance.json").read_text())
        assert set(entries) == {"bridge", "evaluate"}  # the denoiser is exact
        assert entries["evaluate"]["config"]["baselines"]["T"] == 40

    def test_of_a_training_that_evaluates(self, report, tmp_path):
        found, methods = report(
            "train.py", *self.SMALL, "evaluate=true", f"out={tmp_path}", "metrics.exact_observations=2",
            "metrics.compare_observations=4", "metrics.compare_samples=8", "baselines.T=10",
            "baselines.sweeps.dps=[0.3]", "baselines.sweep_observations=3", "metrics.c2st_samples=50",
            "baselines.methods=[tds,smc,dps,replacement,copaint]",
        )  # fmt: skip
        assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
        assert json.loads((tmp_path / "run" / "result.json").read_text())["sliced_w"] > 0
        assert list(methods) == ["bridge_run", "tds", "smc", "dps", "copaint", "exact"]
        assert methods["tds"]["schedule"] == "power, T = 10, ᾱ_T = 0.0001"
        assert all("c2st" in method["metrics"] for method in methods.values())
        assert (found["observations"], found["samples"]) == (4, 8)

    def test_descriptions_of_problems_hold_no_markup(self):
        for make in (make for make in PROBLEMS.values() if not issubclass(make, FilePairs)):
            text = _description(make.__new__(make))
            assert text
            assert not [mark for mark in (":class:", "`") if mark in text], make
        assert _description(MnistInpaint.__new__(MnistInpaint)).endswith("(Hole).")
