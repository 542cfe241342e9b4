"""Digits of a class, and a hole that may be anywhere: from the training to the report, on fabricated digits."""

import json
import logging

import pytest
import torch
from demo_examples import write_digits

from csb.bridge.checkpoint import save
from csb.cli.compose import composed
from csb.evaluation.scores import MetricsSettings, SamplerSettings
from csb.files import load_state
from csb.metrics.digits import DigitClassifier
from csb.networks.diffusion import DenoiserSpec, MixtureDenoiser, build_denoiser
from csb.problems import MixtureClass, MnistClass, MovingHole, TwoMoons, mnist
from csb.process import seeded
from csb.runs import guided
from csb.runs.config import read
from csb.runs.evaluate import compare_run, evaluate
from csb.runs.guided import can_be_guided, digit_guide, guidance_likelihood_of
from csb.runs.load import load_run
from csb.runs.stages import stored_denoiser
from csb.runs.train import train
from csb.training import regression as training
from tests.conftest import one_line

TINY = [
    "L=1", "T=3", "progress=false", "logger=none", "trainer.precision=32-true", "objective.rank=2",
    "network.options={channels: 8, multipliers: [1, 1], attention: false}", "training.batch_size=16",
    "training.observe_every=1000", "metrics.observations=20", "metrics.samples=4", "metrics.picture_rows=3",
]  # fmt: skip
CLASS = [
    "training.first_steps=4", "training.inflate=false", "training.select=last", "baselines.T=2",
    "baselines.particles=[1,2]", "baselines.sweeps.guidance=[1,2]", "baselines.sweep_observations=2",
    "baselines.sweep_samples=2",
]  # fmt: skip
METRICS = MetricsSettings(observations=20, samples=4, compare_observations=6, compare_samples=4, picture_rows=3)
_TRAIN_GUIDE = training.train_guide


def classifier(root, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DigitClassifier().eval(), 0.1


def denoiser():
    network = {"name": "unet", "channels": 8, "multipliers": [1, 1], "attention": False}
    return build_denoiser(DenoiserSpec(network, (1, 28, 28), 0.5, 1e-3)).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guided, "_TRAIN", 20)
        patch.setattr(guided, "_HELD_OUT", 20)
        patch.setattr(mnist, "MD5", write_digits(folder))
        patch.setattr(mnist, "SOURCES", ())
        patch.setattr(training, "train_guide", lambda *a, seed: _TRAIN_GUIDE(*a, seed=seed, steps=2))
        for module in ("evaluate", "report"):
            patch.setattr(f"csb.runs.{module}.digit_classifier", classifier)
        yield folder


def trained(data, experiment, *more, prior=None):
    """The run, its result, the tables of its evaluation, and the report."""
    own = [f"experiment={experiment}", *TINY, *more, f"problem.root={data}", f"out={data}"]
    settings = read(composed("train", own))
    result = train(settings)
    run = load_run(data / experiment, "cpu")
    if prior is not None:
        save(prior, run.folder / "denoiser.safetensors", {"problem": {"name": "mnist_inpaint"}, "config": {}})
    tables = evaluate(run, SamplerSettings(), METRICS, 0)
    compare_run(run, [], settings.baselines, SamplerSettings(), METRICS, 0, "a command", bar=False)
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert (run.folder / "evaluation.png").stat().st_size > 10_000
    return run, result, tables, json.loads((run.folder / "report.json").read_text())


class TestClass:
    def test_scores_are_those_of_a_class(self, data):
        """The report compares what needs no residuals; the denoiser of the same prior will do."""
        _, result, tables, report = trained(data, "mnist_class", *CLASS, prior=denoiser())
        (row,) = next(iter(tables.values()))
        for figures in (result, row):
            assert not [key for key in figures if "psnr" in key]
            assert figures["energy_score"] > 0
        scores = {"digit_accuracy", "frechet", "variance_ratio", "energy_score"}
        assert scores | {"digit_entropy", "frechet_floor"} <= set(row)
        assert row["calls"] == 3
        found = {method["name"]: method for method in report["methods"]}
        assert list(found)[:5] == ["bridge_mnist_class", "tds_1", "tds_2", "smc_2", "guidance"]
        left_out = "DPS is left out: mnist_class has no likelihood y = H(x) + noise"
        assert any(left_out in warning for warning in report["warnings"])
        for method in found.values():
            assert scores <= set(method["metrics"])
            assert not [key for key in method["metrics"] if "psnr" in key or "ssim" in key]
        assert len(found["guidance"]["sweeps"][0]["rows"]) == 2

    def test_the_guiding_classifier_is_kept_for_its_denoiser(self, data, tmp_path, caplog):
        problem, one = MnistClass(root=str(data)), denoiser()
        first = digit_guide(problem, one, tmp_path, 0)
        caplog.clear()
        caplog.set_level(logging.WARNING)
        again = digit_guide(problem, one, tmp_path, 1)  # from the file, whatever the seed
        assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))
        assert not caplog.records
        figures = load_state(tmp_path / "guide.safetensors")["figures"]
        assert [row["alpha_bar"] for row in figures] == [1.0, 0.9, 0.5, 0.1, 0.01]
        with torch.no_grad():
            next(one.parameters()).add_(1)
        digit_guide(problem, one, tmp_path, 0)
        assert "was made for another denoiser" in caplog.text
        (tmp_path / "guide.safetensors").write_bytes(b"no file of torch's")
        digit_guide(problem, one, tmp_path, 0)
        assert "is no guiding classifier" in caplog.text

    def test_a_denoiser_of_another_prior_is_refused(self, tmp_path):
        save(denoiser(), tmp_path / "denoiser.safetensors", {"problem": {"name": "two_moons"}, "config": {}})
        message = one_line(lambda: stored_denoiser(MnistClass(), tmp_path, "cpu"))
        assert "is a denoiser of two_moons, not mnist_class; remove it" in message

    def test_exact_classes_need_no_training(self, tmp_path, monkeypatch):
        monkeypatch.setattr(guided, "_TRAIN", 5000)
        problem = MixtureClass(n_train=6000)
        found = guidance_likelihood_of(problem, MixtureDenoiser(problem.mixture), tmp_path, 1.0, 0)
        x, y = problem.pairs("test", 5)[:2]
        expected = (problem.mixture.responsibilities(x.double()) * y).sum(1).log()
        torch.testing.assert_close(found.log_prob(y, x.double(), 0.5), expected)
        assert found.z_variance == pytest.approx(float(problem.mixture.cov.diagonal().mean()), rel=0.05)
        assert not can_be_guided(TwoMoons())
        assert not list(tmp_path.iterdir())


def test_a_hole_anywhere(data):
    """The bridge keeps what it sees, and scores count the hole of each digit."""
    run, result, tables, report = trained(data, "mnist_inpaint_anywhere", "training.first_steps=60")
    assert isinstance(run.bridge.transform, MovingHole)
    pairs = run.problem.pairs("test")
    x = run.bridge.sample(pairs.y, 4, generator=seeded(0)).x
    known = ~run.bridge.transform.unknown(pairs.y)[:, None].expand_as(x)
    assert torch.equal(x[known], pairs.x[:, None].expand_as(x)[known])
    assert result["psnr_mean"] > 10  # better than a black hole: a bar seen at both ends is continued
    assert 0.5 < result["spread_skill"] < 1.8
    figures = {row["figure"]: row["iteration 1"] for row in next(iter(tables.values()))}
    assert figures["known_error"] == 0
    # over the whole image the squared error is a quarter of that inside the hole, which is a quarter of the image
    inside = 10 ** (-figures["psnr_mean"] / 10) * 784 / 196
    assert figures["skill"] ** 2 == pytest.approx(inside, rel=1e-4)
    assert len(tables["pixel std of the last iteration against its error, in ten bins of pixels"]) == 10
    assert any("no likelihood" in warning for warning in report["warnings"])
