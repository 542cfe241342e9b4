"""The diagnosis of exact and too narrow posteriors, in closed form where there is one; its figures and files."""

import json
import math
import sys
from dataclasses import replace
from statistics import NormalDist
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.stats import binom

from csb.errors import CSBError
from csb.evaluation.diagnose import diagnose, ecdf_band
from csb.evaluation.diagnose_figures import HalfStepLosses, loss
from csb.metrics.calibration import LEVELS
from tests.metrics.draws import normal

NOISE = torch.tensor([0.1, 0.5, 2.0])  # of y = x + noise, x ~ N(0, 1)
STANDARD = NormalDist()
FIGURES = ["corner", "recovery", "sbc_histogram", "sbc_ecdf", "coverage", "tarp", "z_contraction"]


def pairs(B: int, n: int, scale: float = 1.0, noise: torch.Tensor = NOISE):
    """Posteriors of a linear-Gaussian problem with their std times ``scale``, and truths: (B, n, d), (B, d)."""
    truth = normal(B, len(noise), key=1)
    y, share = truth + noise * normal(B, len(noise), key=2), 1 / (1 + noise**2)
    return (share * y)[:, None] + scale * noise * share.sqrt() * normal(B, n, len(noise), key=3), truth


def column(found, key: str) -> torch.Tensor:
    return torch.tensor([row[key] for row in found.table])


def titles_of(figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.fixture(scope="module")
def exact():
    samples, truth = pairs(600, 100)
    losses = [
        HalfStepLosses(half_step="backward 1", losses=[5.0, 3.0, 2.0, 2.5]),
        {"half_step": "forward 1", "losses": [2.0], "validation": [[1, 1.5]], "kept_step": 1, "stopped": True},
    ]
    names = ["depth (km)", r"$\theta_2$", "x3"]
    return diagnose(samples, truth, prior=normal(2000, 3, key=4), names=names, losses=losses)


def test_an_exact_posterior_has_the_figures_of_theory(exact):
    error, contraction = 4 / math.sqrt(600), 1 / (1 + NOISE**2)
    rms = math.sqrt((1 + 1 / 100) * 99 / 97)  # of finitely many samples
    for key, expected, atol in (
        ("contraction", contraction, 0.06),
        ("correlation", contraction.sqrt(), 0.1),
        ("z_mean", torch.zeros(3), error),
        ("z_rms", torch.full((3,), rms), error / math.sqrt(2)),
        ("coverage_gap", torch.zeros(3), 0.05),
        ("coverage_90", torch.full((3,), 0.9), 0.05),
    ):
        torch.testing.assert_close(column(exact, key), expected, atol=atol, rtol=0, msg=key)
    assert float(column(exact, "sbc_p").min()) > 0.001
    assert [row["parameter"] for row in exact.table] == ["depth (km)", r"$\theta_2$", "x3"]


def test_a_narrow_posterior_covers_too_little():
    """Coverage 2Φ(s z) − 1 at a std s times too small, and z-scores 1/s times too large."""
    found = diagnose(*pairs(800, 200, scale=0.5, noise=NOISE[1:2]), prior=normal(1000, 1, key=4))
    shares = [2 * STANDARD.cdf(0.5 * STANDARD.inv_cdf((1 + c) / 2)) - 1 for c in LEVELS]
    row = found.table[0]
    assert row["coverage_gap"] == pytest.approx(sum(shares) / len(shares) - 0.5, abs=0.05)
    assert row["coverage_90"] == pytest.approx(shares[17], abs=0.07)
    assert row["z_rms"] == pytest.approx(2, abs=0.2)
    assert row["sbc_p"] < 1e-4


@pytest.mark.parametrize("B", [10, 60, 150])
def test_the_band_holds_its_share_of_uniform_ecdfs(B):
    """The share in closed form: counts at the levels are a Markov chain of binomial steps."""
    u, low, high = ecdf_band(B)
    counts, law, before = np.arange(B + 1), np.eye(B + 1)[0], 0.0
    for at, lowest, highest in zip(u, low, high):
        step = binom.pmf(counts[None] - counts[:, None], B - counts[:, None], (at - before) / (1 - before))
        law = (law @ step) * (counts >= round(lowest * B)) * (counts <= round(highest * B))
        before = at
    assert 0.945 < law.sum() < 0.955
    assert ecdf_band(B)[1] is low


def test_the_figures_show_what_their_titles_say(exact):
    assert list(exact.figures) == [*FIGURES, "loss"]
    titles = ["depth (km)", r"$\theta_2$", "x3"]
    for name in ("recovery", "sbc_histogram", "sbc_ecdf", "coverage", "z_contraction"):
        assert titles_of(exact.figures[name]) == titles, name
    corner = exact.figures["corner"].axes
    assert len(corner) == 6
    assert [axes.get_xlabel() for axes in corner[-3:]] == titles
    assert "100 of 600 observations" in exact.figures["recovery"].get_suptitle()
    first, second = exact.figures["loss"].axes
    assert second.get_title(loc="left") == "forward 1 · stopped early"
    assert {line.get_label() for line in second.lines} == {"loss", "running median", "validation", "step kept"}
    assert list(first.lines[0].get_ydata()) == [5.0, 3.0, 2.0, 2.5]


def test_of_many_parameters_the_worst_are_shown(monkeypatch):
    monkeypatch.setattr("csb.evaluation.diagnose.SHOWN", 2)
    samples, truth = pairs(100, 20, noise=torch.full((4,), 0.5))
    samples[:, :, [1, 3]] += 3
    found = diagnose(samples, truth, prior=normal(200, 4, key=4))
    assert titles_of(found.figures["coverage"]) == ["x2", "x4"]
    assert all("the 2 of 4" in found.figures[k].get_suptitle().replace("\n", " ") for k in FIGURES if k != "tarp")
    assert len(found.table) == 4


def test_an_observation_without_truth_in_the_corner_plot():
    samples, truth = pairs(20, 10)
    own = torch.stack([normal(50, key=7), torch.full((50,), 1e-12), 1e9 + normal(50, key=8)], dim=1)
    prior = normal(200, 3, key=4) * torch.tensor([1.0, 1e-11, 5.0]) + torch.tensor([0.0, 0.0, 1e9])
    figure = diagnose(samples, truth, prior=prior, observed=(own, None)).figures["corner"]
    low, high = figure.axes[-1].get_xlim()
    assert 1e9 - 20 < low < high < 1e9 + 20
    assert not figure.axes[0].lines
    assert "truth" not in figure.get_suptitle()


def test_samples_without_spread_have_no_z_score(recwarn):
    samples, truth = pairs(30, 10)
    samples[:, :, 0] = truth[:, :1] + 0.1
    samples[:3, :, 1], truth[:, 2] = 0.1, 0.7
    found = diagnose(samples, truth, prior=normal(200, 3, key=4))
    assert math.isnan(found.table[0]["z_rms"])
    assert found.table[0]["contraction"] == 1
    assert math.isfinite(found.table[1]["z_rms"])
    assert math.isnan(found.table[2]["correlation"])
    for name in ("corner", "recovery", "z_contraction"):
        found.figures[name].draw_without_rendering()
    assert not recwarn.list


def test_one_parameter_and_two_samples():
    samples, truth = pairs(10, 2, noise=NOISE[1:2])
    windows = plt.get_fignums()
    one, again = (diagnose(samples, truth, prior=normal(5, 1, key=4), seed=3).table for _ in range(2))
    assert one == again
    assert plt.get_fignums() == windows


def test_files_and_notebooks(exact, tmp_path, monkeypatch):
    few = {name: exact.figures[name] for name in ("tarp", "loss")}
    found = replace(exact, table=[{**exact.table[0], "z_mean": math.nan, "parameter": "<b>"}], figures=few)
    paths = found.save(tmp_path / "new")
    assert [path.name for path in paths] == ["tarp.png", "loss.png", "table.json", "table.md"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert json.loads(paths[2].read_text())[0]["z_mean"] is None
    assert paths[3].read_text() == str(found)
    page = found._repr_html_()
    assert page.count("<img") == 2
    assert "&lt;b&gt;" in page
    displayed = []
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=displayed.append))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=sys.modules["IPython.display"]))
    found.show()
    assert displayed == [found]


def test_only_the_last_half_steps_are_drawn():
    figure = loss([HalfStepLosses(half_step=f"backward {i}", losses=[1.0, 0.5]) for i in range(20)])
    assert titles_of(figure) == [f"backward {i}" for i in range(4, 20)]
    assert "the last 16 of 20" in figure.get_suptitle()


SAMPLES, TRUTH = pairs(12, 4)
PRIOR = normal(20, 3, key=4)


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("list", {"samples": SAMPLES.tolist()}),
        ("the same B and shape", {"samples": SAMPLES[:, :, :2]}),
        ("at least 2", {"samples": SAMPLES[:, :1]}),
        ("posterior_grid", {"samples": SAMPLES[..., None, None], "truth": TRUTH[..., None, None]}),
        ("at least 10", {"samples": SAMPLES[:1], "truth": TRUTH[:1]}),
        ("NaN", {"samples": SAMPLES * math.nan}),
        ("infinite", {"truth": TRUTH.index_fill(0, torch.tensor([1]), math.inf)}),
        *(("prior", {"prior": prior}) for prior in (PRIOR[:, :2], PRIOR[0])),
        ("leave out", {"prior": torch.ones(20, 3)}),
        *(("3 different texts", {"names": names}) for names in (["a", "b"], ["a", "a", "b"], "abc", 5)),
        ("formula", {"names": ["a", "b", r"$\nothing$"]}),
        ("pair", {"observed": SAMPLES[0]}),
        *(("observed", {"observed": observed}) for observed in ((SAMPLES[0], TRUTH), (SAMPLES[0][:, :2], None))),
        *(("losses", {"losses": [{"half_step": "b", "losses": losses}]}) for losses in ([], [math.nan])),
        ("losses", {"losses": [3]}),
        ("seed", {"seed": -1}),
    ],
)
def test_bad_input_ends_in_one_line(word, change):
    arguments = {"samples": SAMPLES, "truth": TRUTH, "prior": PRIOR} | change
    with pytest.raises(CSBError, match=word):
        diagnose(**arguments)
