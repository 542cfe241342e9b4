"""Digits of a class, from the training to the report, on fabricated digits and with tiny networks."""

import json
import logging

import pytest
import torch
from demo_examples import write_digits

from csb.bridge.checkpoint import save
from csb.cli.compose import composed
from csb.errors import CSBError
from csb.evaluation.scores import MetricsSettings, SamplerSettings
from csb.files import load_state
from csb.metrics.digits import DigitClassifier
from csb.networks.diffusion import DenoiserSpec, MixtureDenoiser, build_denoiser
from csb.problems import MixtureClass, MnistClass, TwoMoons, mnist
from csb.runs import guided
from csb.runs.config import read
from csb.runs.evaluate import compare_run, evaluate
from csb.runs.guided import can_be_guided, digit_guide, guidance_likelihood_of
from csb.runs.load import load_run
from csb.runs.stages import stored_denoiser
from csb.runs.train import train
from csb.training import regression as training

TINY = [
    "experiment=mnist_class", "L=1", "T=3", "progress=false", "logger=none", "trainer.precision=32-true",
    "network.options={channels: 8, multipliers: [1, 1], attention: false}", "objective.rank=2",
    "training.batch_size=16",
    "training.first_steps=4", "training.observe_every=1000", "training.inflate=false", "training.select=last",
    "baselines.T=2", "baselines.particles=[1,2]", "baselines.sweeps.guidance=[1,2]", "baselines.sweep_observations=2",
    "baselines.sweep_samples=2", "metrics.observations=20", "metrics.samples=4", "metrics.picture_rows=3",
]  # fmt: skip
METRICS = MetricsSettings(observations=20, samples=4, compare_observations=6, compare_samples=4, picture_rows=3)


def classifier(root, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DigitClassifier().eval(), 0.1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guided, "_TRAIN", 20)
        patch.setattr(guided, "_HELD_OUT", 20)
        patch.setattr(mnist, "MD5", write_digits(folder))
        patch.setattr(mnist, "SOURCES", ())
        patch.setattr(training, "train_guide", lambda *a, seed: _TRAIN_GUIDE(*a, seed=seed, steps=2))
        yield folder


_TRAIN_GUIDE = training.train_guide


def denoiser():
    network = {"name": "unet", "channels": 8, "multipliers": [1, 1], "attention": False}
    return build_denoiser(DenoiserSpec(network, (1, 28, 28), 0.5, 1e-3)).eval()


@pytest.fixture(scope="module")
def trained(data):
    with pytest.MonkeyPatch.context() as patch:
        for module in ("evaluate", "report"):
            patch.setattr(f"csb.runs.{module}.digit_classifier", classifier)
        settings = read(composed("train", [*TINY, f"problem.root={data}", f"out={data}"]))
        result = train(settings)
        run = load_run(data / "mnist_class", "cpu")
        about = {"problem": {"name": "mnist_inpaint"}, "config": {}}  # the same prior, so that its denoiser will do
        save(denoiser(), run.folder / "denoiser.safetensors", about)
        tables = evaluate(run, SamplerSettings(), METRICS, 0)
        compare_run(run, [], settings.baselines, SamplerSettings(), METRICS, 0, "a command", bar=False)
    return run, result, tables


def test_scores_are_those_of_a_class(trained):
    _, result, tables = trained
    (row,) = next(iter(tables.values()))
    for figures in (result, row):
        assert not [key for key in figures if "psnr" in key]
        assert figures["energy_score"] > 0
    assert {"digit_accuracy", "digit_entropy", "frechet", "frechet_floor", "variance_ratio", "calls"} <= set(row)
    assert row["calls"] == 3


def test_the_report_compares_what_needs_no_residuals(trained):
    run, _, _ = trained
    report = json.loads((run.folder / "report.json").read_text())
    found = {method["name"]: method for method in report["methods"]}
    assert list(found)[:5] == ["bridge_mnist_class", "tds_1", "tds_2", "smc_2", "guidance"]
    assert any("DPS is left out: mnist_class has no likelihood y = H(x) + noise" in w for w in report["warnings"])
    for method in found.values():
        assert {"digit_accuracy", "frechet", "variance_ratio", "energy_score"} <= set(method["metrics"])
        assert not [key for key in method["metrics"] if "psnr" in key or "ssim" in key]
    assert len(found["guidance"]["sweeps"][0]["rows"]) == 2
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert (run.folder / "evaluation.png").stat().st_size > 10_000


def test_the_guiding_classifier_is_kept_for_its_denoiser(data, tmp_path, caplog):
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


def test_a_denoiser_of_another_prior_is_refused(tmp_path):
    save(denoiser(), tmp_path / "denoiser.safetensors", {"problem": {"name": "two_moons"}, "config": {}})
    with pytest.raises(CSBError, match="is a denoiser of two_moons, not mnist_class; remove it"):
        stored_denoiser(MnistClass(), tmp_path, "cpu")


def test_exact_classes_need_no_training(tmp_path, monkeypatch):
    monkeypatch.setattr(guided, "_TRAIN", 5000)
    problem = MixtureClass(n_train=6000)
    found = guidance_likelihood_of(problem, MixtureDenoiser(problem.mixture), tmp_path, 1.0, 0)
    x, y = problem.pairs("test", 5)[:2]
    expected = (problem.mixture.responsibilities(x.double()) * y).sum(1).log()
    torch.testing.assert_close(found.log_prob(y, x.double(), 0.5), expected)
    assert found.z_variance == pytest.approx(float(problem.mixture.cov.diagonal().mean()), rel=0.05)
    assert not can_be_guided(TwoMoons())
    assert not list(tmp_path.iterdir())
