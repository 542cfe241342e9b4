"""Every figure that a table prints has an entry in the documentation's glossary."""

import json
import re

import pytest

import csb
from csb.evaluation.catalogue import METRICS
from csb.evaluation.sweep import CALLS, MAIN_SCORES, SECONDS
from csb.problems import LinearGaussian, TwoMoons
from csb.runs.evaluate import HALF_STEPS
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "pages" / "glossary.md").read_text()
ENTRIES = {name for entry in re.findall(r"\*\*(`.*?`)\*\*", TEXT) for name in entry.strip("`").split("`, `")}
SMALL = {
    "L": 1, "T": 2, "training": {"first_steps": 4, "steps": 4, "batch_size": 32, "trajectories": 64}, "progress": False,
    "logger": "none",
}  # fmt: skip


def test_what_is_named_beforehand():
    images = {"frechet", "frechet_floor", "variance_ratio", "bin", "pixel_std", "rmse_of_mean", "known_error"}
    sweeps = {SECONDS, CALLS, "L", "T", "seed", "finished", "failed", *MAIN_SCORES}
    assert {*METRICS, *HALF_STEPS, *images, *sweeps, "passes"} - ENTRIES == set()


@pytest.mark.parametrize("problem", [TwoMoons(n_train=500, n_val=100, n_test=100), LinearGaussian(n_train=500)])
def test_what_an_evaluation_prints(problem):
    network = {"network": "affine"} if isinstance(problem, LinearGaussian) else {}
    run = csb.fit(problem=problem, **SMALL, **network)
    tables = run.evaluate(observations=20, samples=8, exact_samples=100, exact_observations=2, c2st_samples=0)
    printed = {key for rows in tables.values() for row in rows for key in row}
    result = {key for key, value in json.loads((run.folder / "result.json").read_text()).items() if value is not None}
    compared = {key for row in csb.compare([run], problem, observations=2, samples=20).rows for key in row}
    assert (printed | result | compared) - ENTRIES - {"method"} == set()
