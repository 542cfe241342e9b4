"""A hole that may be anywhere, from the training to the report, on fabricated digits and with a tiny network."""

import json

import pytest
import torch
from demo_examples import write_digits
from torch import nn

from csb.cli.compose import composed
from csb.evaluation.scores import MetricsSettings, SamplerSettings
from csb.problems import MovingHole, mnist
from csb.process import seeded
from csb.runs.config import read
from csb.runs.evaluate import compare_run, evaluate
from csb.runs.load import load_run
from csb.runs.train import train

TINY = [
    "experiment=mnist_inpaint_anywhere", "L=1", "T=3", "progress=false", "logger=none", "trainer.precision=32-true",
    "network.options={channels: 8, multipliers: [1, 1], attention: false}", "objective.rank=2",
    "training.batch_size=16", "training.first_steps=60", "training.observe_every=1000",
    "metrics.observations=20", "metrics.samples=4", "metrics.picture_rows=3",
]  # fmt: skip
METRICS = MetricsSettings(observations=20, samples=4, compare_observations=12, compare_samples=4, picture_rows=3)


class Brightness(nn.Module):
    """Reads a digit off the mean brightness: something to call in place of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.arange(10.0) / 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -(x.flatten(1).mean(1, keepdim=True) - self.levels).abs()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anywhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "MD5", write_digits(folder))
        patch.setattr(mnist, "SOURCES", ())
        for module in ("evaluate", "report"):
            patch.setattr(f"csb.runs.{module}.digit_classifier", lambda root, seed=0: (Brightness(), 0.1))
        settings = read(composed("train", [*TINY, f"problem.root={folder}", f"out={folder}"]))
        result = train(settings)
        run = load_run(folder / "mnist_inpaint_anywhere", "cpu")
        sampler = SamplerSettings()
        tables = evaluate(run, sampler, METRICS, 0)
        compare_run(run, [], settings.baselines, sampler, METRICS, 0, "a command", bar=False)
    return run, result, tables


def test_the_bridge_keeps_what_it_sees(trained):
    run, result, _ = trained
    assert isinstance(run.bridge.transform, MovingHole)
    pairs = run.problem.pairs("test")
    x = run.bridge.sample(pairs.y, 4, generator=seeded(0)).x
    known = ~run.bridge.transform.unknown(pairs.y)[:, None].expand_as(x)
    assert torch.equal(x[known], pairs.x[:, None].expand_as(x)[known])
    assert result["psnr_mean"] > 10  # better than a black hole: a bar seen at both ends is continued
    assert 0.5 < result["spread_skill"] < 1.8


def test_scores_count_the_hole_of_each_digit(trained):
    _, result, tables = trained
    figures = {row["figure"]: row["iteration 1"] for row in next(iter(tables.values()))}
    assert figures["known_error"] == 0
    # over the whole image the squared error is a quarter of that inside the hole, which is a quarter of the image
    inside = 10 ** (-figures["psnr_mean"] / 10) * 784 / 196
    assert figures["skill"] ** 2 == pytest.approx(inside, rel=1e-4)
    assert len(tables["pixel std of the last iteration against its error, in ten bins of pixels"]) == 10
    assert result["skill"] > 0


def test_the_report_shows_the_observation_as_one_picture(trained):
    run, _, _ = trained
    report = json.loads((run.folder / "report.json").read_text())
    assert report["observations"] == 12
    assert any("no likelihood" in warning for warning in report["warnings"])
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert (run.folder / "evaluation.png").stat().st_size > 10_000
