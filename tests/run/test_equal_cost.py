"""csb compare: budgets, store, tables and picture, what is left out, errors; on the mixture, whose laws are exact."""

import contextlib
import json

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, save
from csb.bridge.student import StudentSpec, build_student
from csb.cli.compose import composed
from csb.errors import CSBError
from csb.evaluation.plots import curves_figure, draw_curves
from csb.evaluation.results import Results, against_exact, draw
from csb.evaluation.rows import Row
from csb.files import checksum
from csb.networks.diffusion import CONDITIONAL
from csb.problems import GaussianMixture
from csb.runs.budgets import KEYS, Budget, Fit, budget_table, cost_panels, ranked, read
from csb.runs.compare import Pace, Work
from csb.runs.guided import particle_counts
from csb.runs.methods import METHODS, Method
from csb.samplers import GUIDED
from tests.commands import Hook
from tests.conftest import make_untrained_bridge, one_line, refused
from tests.samplers.models import untrained

TINY = ["observations=3", "samples=40", "baselines.sweep_observations=2", "baselines.sweep_samples=4"]
SCRIPT = "scripts/compare.py"
PROBLEM = GaussianMixture()


SCHEDULE = {"name": "power", "alpha_bar_end": 0.1, "power": 3.0}
ABOUT = {"problem": PROBLEM.spec(), "config": {"schedule": SCHEDULE}, "versions": {}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with an untrained bridge of T = 3, all baselines and a student of one and two calls."""
    folder = tmp_path_factory.mktemp("run")
    save(make_untrained_bridge(2, 1), folder / "bridge.safetensors", ABOUT)
    for kind, model in CONDITIONAL.items():
        save(untrained(kind, 2, 1), folder / f"{model.file}.safetensors", ABOUT)
    part = KernelSpec({"name": "mlp", "width": 16, "depth": 1}, "v", "diagonal", rank=1, components=3)
    spec = BridgeSpec([1.0, 0.8, 0.4, 0.1], {"name": "standardise", "x_shape": [2], "y_shape": [1]}, part, part)
    student = build_student(StudentSpec(spec.alpha_bar, spec.transform, part.network, "v", "full", [1, 2]))
    of = {"bridge": checksum(folder / "bridge.safetensors")}
    save(student, folder / "consistency.safetensors", ABOUT | of)
    return folder


def opened(tmp_path, *overrides):
    """The work of a comparison."""
    return Work(read(composed("compare", [*TINY, f"out={tmp_path}", *overrides])))


def only(tmp_path, *overrides):
    """The work of a comparison of one method, that method, and its fit to the first budget."""
    work = opened(tmp_path, *overrides)
    (method,) = work.methods
    return work, method, work.fit(method, work.comparison.budgets[0])


def fits(tmp_path, *overrides):
    """What fits each budget, by method."""
    work = opened(tmp_path, *overrides)
    return {one.name: [work.fit(one, budget) for budget in work.comparison.budgets] for one in work.methods}


def test_tables_files_and_going_on(command, tmp_path):
    line = [*TINY, "calls=[4,9]", "seconds=[0.001]", "steps=20", "methods=[tds,smc,dps,exact,score_ddpm]"]
    line += ["baselines.sweeps.dps=[0.1,1]", f"out={tmp_path}"]
    hook = Hook("csb.evaluation.results.against_exact", call=3, raises="KeyboardInterrupt")
    done = command(*line, script=SCRIPT, hooks=[hook])
    assert done.code == 2
    assert done.err.endswith("error: interrupted; the same command goes on where it was stopped\n")
    kept = [one["key"] for one in json.loads((tmp_path / "compare.json").read_text())["entries"]]
    assert next((key["about"]["method"], key["T"]) for key in kept if key["kind"] == "row") == ("tds", 2)
    done = command(*line, script=SCRIPT)
    assert done.code == 0, done.err
    assert "TDS, T = 2:" not in done.out
    assert "at most 4 passes a sample" in done.out
    found = json.loads((tmp_path / "compare.json").read_text())
    assert set(json.loads((tmp_path / "provenance.json").read_text())) == {"compare"}
    tables = found["tables"]
    assert list(tables) == [f"at most {budget} a sample" for budget in ("4 passes", "9 passes", "0.001 seconds")]
    for budget, of in zip((4, 9), tables.values()):
        passes = {row["method"]: row["passes"] for row in of}
        assert passes == {"tds": budget // 2 * 2, "dps": budget // 2 * 2, "smc": budget, "exact": 0}
        assert all(row["metrics"]["sliced_w"] > 0 and row["standard_errors"]["sliced_w"] > 0 for row in of)
    assert all(row["T"] is None or 1 <= row["T"] <= 20 for row in tables["at most 0.001 seconds a sample"])
    assert any("score_ddpm" in note and "no run= or others= has a score" in note for note in found["notes"])
    text = (tmp_path / "compare.md").read_text()
    assert text.startswith("# gaussian_mixture: methods at equal cost\n\n3 test observations × 40 samples, seed 0")
    assert text.count("| exact posterior ") == 3
    assert "```bash\ncsb compare observations=3 samples=40" in text
    assert (tmp_path / "compare.png").exists()
    again = command(*line, script=SCRIPT)
    assert again.code == 0, again.err
    assert "observations × 40 samples" not in again.out  # nothing is drawn again
    assert json.loads((tmp_path / "compare.json").read_text()) == found
    assert (tmp_path / "compare.md").read_text() == text


class TestFit:
    def test_amortized_methods_at_equal_calls(self, tmp_path, run):
        methods = [name for name in METHODS if name not in GUIDED]
        chosen = f"methods=[{','.join(methods)}]"
        found = fits(tmp_path, f"run={run}", chosen, "calls=[1,2,5]", "seconds=[]", "observations=2")
        passes = {name: [fit.row.evaluations if fit.row else None for fit in of] for name, of in found.items()}
        own = {"score_heun": [1, 1, 5], "flow_heun": [None, 2, 4], "bridge": [1, 2, 3], "exact": [0, 0, 0]}
        own["consistency"] = [1, 2, 2]
        assert passes == {name: own.get(name, [1, 2, 5]) for name in methods}
        assert [fit.T for fit in found["bridge"]] == [1, 2, 3]
        assert not any(fit.at_most for of in found.values() for fit in of)

    def test_a_bridge_whose_kernels_take_all_steps_or_none(self, tmp_path):
        save(make_untrained_bridge(2, 1, parametrisation="drift"), tmp_path / "bridge.safetensors", ABOUT)
        (one, two) = fits(tmp_path, f"run={tmp_path}", "methods=[bridge]", "calls=[2,3]", "seconds=[]")["bridge"]
        assert (one.row, one.reason) == (None, "")
        assert two.row.evaluations == 3

    def test_seconds(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Work, "_pace", lambda self, method: Pace(0.5, 0.25))
        found = fits(tmp_path, "methods=[tds,smc,exact]", "calls=[]", "seconds=[0.7,0.75,2,100]", "steps=9")
        assert [fit.T for fit in found["smc"]] == [None, 1, 6, 9]
        assert [fit.T for fit in found["tds"]] == [None, None, 3, 9]
        assert [fit.at_most for fit in found["smc"]] == [False, False, False, True]
        assert all(fit.row.evaluations == 0 for fit in found["exact"])

    def test_the_pace_is_measured_and_kept(self, tmp_path):
        work, method, _ = only(tmp_path, "methods=[smc]", "calls=[1]")
        pace = work._pace(method)
        assert pace.each > 0 <= pace.fixed
        assert opened(tmp_path, "methods=[smc]")._pace(method) == pace

    def test_the_value_of_a_sweep_is_that_of_its_budget(self, tmp_path):
        _, method, fit = only(tmp_path, "methods=[dps]", "baselines.sweeps.dps=[0.1,0.3,1]", "calls=[10]")
        entries = json.loads((tmp_path / "compare.json").read_text())["entries"]
        key, found = next((e["key"], e["found"]) for e in entries if "values" in e["key"])
        assert key["T"] == fit.T == 5
        assert found["options"] == {"step_size": min(found["sweep"]["rows"], key=lambda row: row["energy_score"])["ζ"]}
        assert fit.row.label == f"DPS, {fit.choice}" == f"DPS, ζ = {found['options']['step_size']:g}"
        assert method.make(5, **found["options"]).step_size == found["options"]["step_size"]
        _, _, fit = only(tmp_path, "methods=[dps]", "baselines.sweeps.dps=[1e30]", "calls=[10]")
        assert "every ζ of [1e+30] diverges" in fit.reason

    def test_a_row_is_that_of_the_report(self, tmp_path):
        """The scores are those of csb evaluate's own functions, on the same draws."""
        work, method, fit = only(tmp_path, "methods=[tds]", "calls=[8]")
        y = PROBLEM.pairs("test", 3).y
        drawn = draw(method.make(4), Row("tds", "TDS"), y, 40, 0, 1)
        metrics, errors = against_exact(PROBLEM, drawn, y, 0, work.comparison.metrics)
        assert fit.row.metrics == pytest.approx(metrics)
        assert fit.row.standard_errors == pytest.approx(errors)

    def test_other_settings_are_kept_apart(self, tmp_path):
        changes = ([], ["seed=1"], ["samples=41"], ["schedule={name: cosine, alpha_bar_end: 1e-3}"], [])
        first, *others, again = [only(tmp_path, "methods=[smc]", "calls=[3]", *one)[2].row for one in changes]
        assert first == again
        assert first.metrics not in [row.metrics for row in others]

    def test_no_swept_value_exceeds_the_budget(self, tmp_path):
        for one in (one for one in opened(tmp_path).methods if one.sweep is not None):
            (argument,) = one.trial
            for T in (1, 5, 12):
                each = []
                for value in one.values:
                    with contextlib.suppress(CSBError):  # jumps longer than T
                        each.append(one.make(T, **{argument: value}).evaluations)
                assert one.nfe(T) == max(each)


class TestAdmitted:
    def test_several_runs_and_numbers_of_particles_have_names_of_their_own(self, tmp_path, run):
        methods = opened(tmp_path, f"run={run}", f"others=[{run}]", "baselines.particles=[4,8]").methods
        names = [one.name for one in methods]
        assert len(set(names)) == len(names)
        assert {"bridge_1", "bridge_2", "flow_euler_1", "flow_euler_2", "tds_4", "tds_8", "smc_8"} <= set(names)
        assert all(run.name in one.label for one in methods if one.name.startswith("bridge"))

    def test_what_a_problem_does_not_admit_is_left_out_with_its_reason(self, tmp_path):
        message = one_line(lambda: opened(tmp_path, "problem=two_moons", "+problem.n_val=50"))
        assert "no method can be compared on two_moons (bridge: no run= or others=" in message
        work = opened(tmp_path, "problem=linear_gaussian")
        assert "replacement" not in {one.name for one in work.methods}
        assert any(note.startswith("replacement: A A* of linear_gaussian is not a multiple") for note in work.notes)

    def test_no_training_is_advised_that_cannot_help(self, tmp_path):
        """The denoiser is asked for where it would guide, and not where the problem has no likelihood."""
        message = one_line(lambda: opened(tmp_path, "problem=bod", "methods=[tds,exact]"))
        assert "the denoiser of bod is not known in closed form; train it with" in message
        message = one_line(lambda: opened(tmp_path, "problem=two_moons", "methods=[tds,exact]"))
        assert "two_moons has no likelihood" in message
        assert "train" not in message

    def test_particles_of_images(self):
        baselines = read(composed("compare", [])).baselines
        images = type("Images", (), {"is_image": True})()
        assert particle_counts(baselines, images, True) == [1, 4, 16]
        assert particle_counts(baselines, images, False) == [16]
        assert particle_counts(baselines, PROBLEM, True) == [None]

    def test_a_run_of_another_problem_is_refused(self, tmp_path, run):
        for other in ("problem=linear_gaussian", "+problem.dx=4"):
            message = refused("compare", *TINY, other, f"run={run}", f"out={tmp_path}")
            assert "give problem=gaussian_mixture with these values" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("methods=[exact]", "no method is compared"),
        ("calls=[] seconds=[]", "leave nothing to compare at"),
        ("run=nowhere", "nowhere holds none of bridge, score"),
        ("run=.", "holds none of bridge, score"),
        ("schedule={name:nope}", "schedule.name='nope' is unknown"),
        ("baselines.particles=[7]", "samples=40 is no multiple of 7"),
        ("+nonsense=1", "nonsense"),
    ],
)
def test_refused_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("compare", *TINY, *arguments.split())
    assert list(tmp_path.iterdir()) == []


def test_the_store_finds_what_it_keeps(tmp_path):
    key = {"b": [1, 2], "a": {"x": 0.1}, "t": (1.5, None)}
    store = Results(tmp_path / "a.json")
    assert store.load(key) is None
    store.save(key, {"value": torch.tensor(2.0)})
    store.save({**key, "b": [1]}, {"value": 3})
    assert Results(tmp_path / "a.json").load({"a": {"x": 0.1}, "t": [1.5, None], "b": [1, 2]}) == {"value": 2.0}
    store.write({"tables": {"t": [1]}})
    assert json.loads((tmp_path / "a.json").read_text())["tables"] == {"t": [1]}
    assert Results(tmp_path / "a.json").load(key) == {"value": 2.0}
    for text in ("{", "[]", '{"format": "other"}', '{"format": "csb-compare-1", "entries": [{"key": 1}]}'):
        (tmp_path / "compare.json").write_text(text)
        assert "is damaged or of another kind; remove it" in refused("compare", *TINY, f"out={tmp_path}")


def fit(name, crps, error=None, T=5, reference=False, passes=10, seconds=0.0123, label=None, **metrics):
    row = Row(
        name, label or name, forward_evaluations=passes, seconds=seconds, reference=reference,
        metrics={"crps": crps, "energy_score": 2.0, **metrics},
        standard_errors={} if error is None else {"crps": error},
    )  # fmt: skip
    method = Method(name, label or name, lambda T: None, lambda T: passes, reference=reference)
    return Fit(Budget("passes", 10), method, row, T)


class TestTable:
    def test_the_best_is_first_and_references_are_last(self):
        fits = [fit("b", 0.3), fit("exact", 0.01, reference=True), fit("none", None), fit("a", 0.1)]
        assert [one.name for one in ranked([one.row for one in fits], "crps")] == ["a", "b", "none", "exact"]
        assert [line["method"] for line in budget_table(fits, "images")] == ["a", "b", "none", "exact"]
        fits = [fit("a", 0.1, psnr_mean_per_image=10.0), fit("b", 0.2, psnr_mean_per_image=20.0)]
        assert [one.name for one in ranked([one.row for one in fits], "psnr_mean_per_image")] == ["b", "a"]

    def test_marks_within_a_standard_error_of_the_difference(self):
        fits = [fit("a", 0.10, 0.03), fit("b", 0.14, 0.03), fit("c", 0.15, 0.03), fit("e", 0.01, 0.1, reference=True)]
        cells = {line["method"]: line["CRPS ↓"] for line in budget_table(fits, "images", ("<", ">"))}
        assert cells == {"a": "<0.1000 ± 0.03>", "b": "<0.1400 ± 0.03>", "c": "0.1500 ± 0.03", "e": "0.01000 ± 0.1"}

    def test_what_no_row_has_is_no_column_and_what_one_lacks_is_a_dash(self):
        one, two = budget_table([fit("a", 0.1), fit("b", 0.2, energy_score=None)], "images")
        assert list(one) == ["method", "T", "passes", "seconds", "CRPS ↓", "Energy score ↓"]
        assert (one["T"], one["passes"], one["seconds"], two["Energy score ↓"]) == (5, "10", "0.012", "–")
        assert all(key in KEYS["images"] for key in ("crps", "energy_score"))

    def test_budgets_in_words(self):
        budgets = (("passes", 10), ("seconds", 0.1), ("passes", 1), ("seconds", 1.0))
        assert [Budget(*one).text for one in budgets] == ["10 passes", "0.1 seconds", "1 pass", "1 second"]


class TestFigure:
    FITS = [
        fit("a", 0.2, 0.01, seconds=0.01, label="A"), fit("a", 0.1, 0.01, T=50, passes=100, seconds=0.1, label="A"),
        fit("b", 0.3, T=10, seconds=0.02, label="B, K = 4"), fit("exact", 0.05, reference=True),
    ]  # fmt: skip

    def test_a_line_a_method_in_both_panels(self, tmp_path):
        figure = curves_figure(cost_panels(self.FITS, "images", "a title"))
        for axes, costs in zip(figure.axes, (([10, 100], [10]), ([0.01, 0.1], [0.02]))):
            lines = [container[0] for container in axes.containers]
            found = [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]
            assert found == [(costs[0], [0.2, 0.1]), (costs[1], [0.3])]
            assert axes.get_xscale() == axes.get_yscale() == "log"
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B, K = 4", "exact"]
        assert draw_curves(tmp_path / "a.png", cost_panels(self.FITS, "images", "a title"))
        assert not draw_curves(tmp_path / "a.png", cost_panels(self.FITS[-1:], "images", "a title"))
        assert not (tmp_path / "a.png").exists()

    def test_scores_that_are_not_positive_have_a_linear_axis(self):
        figure = curves_figure(cost_panels([*self.FITS, fit("c", -0.1)], "images", "a title"))
        assert [axes.get_yscale() for axes in figure.axes] == ["linear"] * 2
