"""csb compare: budgets, the store, what is left out, errors; on the mixture, whose denoiser and posterior are exact."""

import contextlib
import json

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, save
from csb.bridge.student import StudentSpec, build_student
from csb.cli import compare
from csb.cli.compose import composed
from csb.errors import CSBError
from csb.files import checksum
from csb.problems import GaussianMixture
from csb.process import seeded
from csb.runs.budgets.methods import METHODS
from csb.runs.budgets.settings import read
from csb.runs.budgets.store import Store
from csb.runs.budgets.work import Pace, Work
from csb.samplers.registry import GUIDED
from tests.conftest import checked, make_untrained_bridge
from tests.samplers.conditional_models import untrained

TINY = ["observations=3", "samples=40", "baselines.sweep_observations=2", "baselines.sweep_samples=4"]
SCRIPT = "scripts/compare.py"
PROBLEM = GaussianMixture()


def about(problem=PROBLEM):
    process = {"name": "power", "alpha_bar_end": 0.1, "power": 3.0}
    return {"problem": problem.spec(), "config": {"schedule": process}, "versions": {}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with an untrained bridge of T = 3, score, flow and student of one and two calls."""
    folder = tmp_path_factory.mktemp("run")
    save(make_untrained_bridge(2, 1), folder / "bridge.safetensors", about())
    for kind in ("score", "flow"):
        save(untrained(kind, 2, 1), folder / f"{kind}.safetensors", about())
    spec = _spec("v")
    student = StudentSpec(spec.alpha_bar, spec.transform, spec.backward.network, "v", "full", [1, 2])
    save(
        build_student(student),
        folder / "consistency.safetensors",
        about() | {"bridge": checksum(folder / "bridge.safetensors")},
    )
    return folder


def _spec(parametrisation):
    """That of make_untrained_bridge."""
    part = KernelSpec({"name": "mlp", "width": 16, "depth": 1}, parametrisation, "diagonal", rank=1, components=3)
    return BridgeSpec([1.0, 0.8, 0.4, 0.1], {"name": "standardise", "x_shape": [2], "y_shape": [1]}, part, part)


def configured(*overrides):
    return composed("compare", [*TINY, *overrides])


def opened(tmp_path, *overrides):
    """The work and contenders of a comparison."""
    return compare._open(read(configured(f"out={tmp_path}", *overrides)))


def refused(*overrides):
    """The one line with which the command line refuses."""
    with pytest.raises(CSBError) as error:
        checked("compare", *TINY, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestCommand:
    def test_tables_files_and_going_on(self, command, tmp_path):
        line = [*TINY, "calls=[4,9]", "seconds=[0.001]", "steps=20", "baselines.sweeps.dps=[0.1,1]", f"out={tmp_path}"]
        done = command(*line, script=SCRIPT)
        assert done.code == 0, done.err
        assert "at most 4 passes a sample" in done.out
        found = json.loads((tmp_path / "compare.json").read_text())
        assert set(json.loads((tmp_path / "provenance.json").read_text())) == {"compare"}
        tables = found["tables"]
        assert list(tables) == [f"at most {budget} a sample" for budget in ("4 passes", "9 passes", "0.001 seconds")]
        for budget, of in zip((4, 9), tables.values()):
            passes = {row["method"]: row["passes"] for row in of}
            assert passes["tds"] == passes["dps"] == budget // 2 * 2
            assert passes["smc"] == passes["replacement"] == budget
            assert passes["exact"] == 0
            assert all(row["metrics"]["sliced_w"] > 0 and row["standard_errors"]["sliced_w"] > 0 for row in of)
        assert all(row["T"] is None or 1 <= row["T"] <= 20 for row in tables["at most 0.001 seconds a sample"])
        assert any("score_ddpm" in note and "no run= or others= has a score" in note for note in found["notes"])
        text = (tmp_path / "compare.md").read_text()
        assert text.startswith("# gaussian_mixture: methods at equal cost\n\n3 test observations × 40 samples, seed 0")
        assert text.count("| exact posterior ") == 3
        assert "```bash\ncsb compare observations=3 samples=40" in text
        assert (tmp_path / "compare.png").exists()
        before = (tmp_path / "compare.json").read_text(), text
        again = command(*line, script=SCRIPT)
        assert again.code == 0, again.err
        assert "observations × 40 samples" not in again.out  # nothing is drawn again
        assert ((tmp_path / "compare.json").read_text(), (tmp_path / "compare.md").read_text()) == before

    def test_the_rows_of_a_run_that_was_stopped_are_kept(self, command, tmp_path):
        from tests.conftest import Hook

        line = [*TINY, "calls=[4]", "seconds=[]", "methods=[tds,smc,exact]", f"out={tmp_path}"]
        hook = Hook("csb.runs.budgets.work.against_exact", call=2, raises="KeyboardInterrupt")
        done = command(*line, script=SCRIPT, hooks=[hook])
        assert done.code == 2
        assert done.err.endswith("error: interrupted; the same command goes on where it was stopped\n")
        (kept,) = json.loads((tmp_path / "compare.json").read_text())["entries"]
        assert (kept["key"]["about"]["method"], kept["key"]["T"]) == ("tds", 2)
        done = command(*line, script=SCRIPT)
        assert done.code == 0, done.err
        assert "TDS, T = 2" not in done.out
        assert "bootstrap SMC, T = 4: 3 observations" in done.out


class TestFit:
    def fits(self, tmp_path, *overrides):
        work, found, _ = opened(tmp_path, *overrides)
        return {c.name: [work.fit(c, budget) for budget in work.comparison.budgets] for c in found}

    def test_amortized_methods_at_equal_calls(self, tmp_path, run):
        methods = [name for name in METHODS if name not in GUIDED]
        budgets = (1, 2, 5)
        found = self.fits(
            tmp_path, f"run={run}", f"methods=[{','.join(methods)}]", "calls=[1,2,5]", "seconds=[]", "observations=2"
        )
        assert set(found) == set(methods)
        passes = {name: [fit.row.passes if fit.row else None for fit in of] for name, of in found.items()}
        own = {"score_heun": [1, 1, 5], "flow_heun": [None, 2, 4], "bridge": [1, 2, 3], "exact": [0, 0, 0]}
        own["consistency"] = [1, 2, 2]
        assert passes == {name: own.get(name, list(budgets)) for name in methods}
        assert [fit.row.T for fit in found["bridge"]] == [1, 2, 3]
        assert not any(fit.at_most for of in found.values() for fit in of)

    def test_a_bridge_whose_kernels_take_all_steps_or_none(self, tmp_path):
        bridge = make_untrained_bridge(2, 1, parametrisation="drift")
        save(bridge, tmp_path / "bridge.safetensors", about())
        (one, two) = self.fits(tmp_path, f"run={tmp_path}", "methods=[bridge]", "calls=[2,3]", "seconds=[]")["bridge"]
        assert (one.row, one.reason) == (None, "")
        assert two.row.passes == 3

    def test_several_runs_are_told_apart(self, tmp_path, run):
        _, found, _ = opened(tmp_path, f"run={run}", f"others=[{run}]", "methods=[bridge,flow_euler]")
        assert [c.name for c in found] == ["bridge_1", "bridge_2", "flow_euler_1", "flow_euler_2"]
        assert all(run.name in c.label for c in found)

    def test_seconds(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Work, "_pace", lambda self, contender, effort: Pace(0.5, 0.25))
        found = self.fits(tmp_path, "methods=[tds,smc,exact]", "calls=[]", "seconds=[0.7,0.75,2,100]", "steps=9")
        assert [fit.row and fit.row.T for fit in found["smc"]] == [None, 1, 6, 9]
        assert [fit.row and fit.row.T for fit in found["tds"]] == [None, None, 3, 9]
        assert [fit.at_most for fit in found["smc"]] == [False, False, False, True]
        assert all(fit.row.passes == 0 for fit in found["exact"])

    def test_the_pace_is_measured_and_kept(self, tmp_path):
        work, (one,), _ = opened(tmp_path, "methods=[smc]")
        pace = work._pace(one, one.passes)
        assert pace.each > 0
        assert pace.fixed >= 0
        assert opened(tmp_path, "methods=[smc]")[0]._pace(one, one.passes) == pace

    def test_the_value_of_a_sweep_is_that_of_its_budget(self, tmp_path, monkeypatch):
        work, (one,), _ = opened(tmp_path, "methods=[dps]", "baselines.sweeps.dps=[0.1,0.3,1]", "calls=[10]")
        fit = work.fit(one, work.comparison.budgets[0])
        entry = next(e for e in json.loads((tmp_path / "compare.json").read_text())["entries"] if "values" in e["key"])
        rows, options = entry["found"]["sweep"]["rows"], entry["found"]["options"]
        assert entry["key"]["T"] == fit.row.T == 5
        assert options == {"step_size": min(rows, key=lambda row: row["energy_score"])["ζ"]}
        assert fit.row.choice == f"ζ = {options['step_size']:g}"
        y = work.test.y[:1]
        sampler = one.make(5, **options)
        assert sampler.step_size == options["step_size"]
        assert sampler.sample(y, 2, seeded(0)).info.forward_evaluations == 5

    def test_a_method_that_diverges_is_told_and_not_tried_again(self, tmp_path, caplog):
        work, (one,), _ = opened(tmp_path, "methods=[dps]", "baselines.sweeps.dps=[1e30]", "calls=[10]")
        assert "every ζ of [1e+30] diverges" in work.fit(one, work.comparison.budgets[0]).reason

    def test_a_row_is_that_of_the_report(self, tmp_path):
        """The scores are those of csb evaluate's own functions, on the same draws."""
        from csb.evaluation.comparison import Method, against_exact, draw

        work, (one,), _ = opened(tmp_path, "methods=[tds]", "calls=[8]")
        row = work.fit(one, work.comparison.budgets[0]).row
        y = PROBLEM.pairs("test", 3).y
        drawn = draw(Method("tds", "TDS", one.make(4)), y, 40, 0, 1)
        metrics, errors = against_exact(PROBLEM, drawn, y, 0, work.comparison.metrics)
        assert row.metrics == pytest.approx(metrics)
        assert row.standard_errors == pytest.approx(errors)

    @pytest.mark.parametrize("change", ["seed=1", "samples=41", "schedule={name: cosine, alpha_bar_end: 1e-3}"])
    def test_other_settings_are_kept_apart(self, tmp_path, change):
        rows = []
        for more in ([], [change], []):
            work, (one,), _ = opened(tmp_path, "methods=[smc]", "calls=[3]", *more)
            rows.append(work.fit(one, work.comparison.budgets[0]).row)
        assert rows[0] == rows[2]
        assert rows[1].metrics != rows[0].metrics


class TestEveryMethod:
    def test_no_swept_value_exceeds_the_budget(self, tmp_path):
        _, found, _ = opened(tmp_path)
        for one in found:
            if one.sweep is None:
                continue
            (argument,) = one.trial
            for T in (1, 2, 5, 12):
                each = []
                for value in one.values:
                    with contextlib.suppress(CSBError):  # jumps longer than T
                        each.append(one.make(T, **{argument: value}).evaluations)
                assert one.passes(T) == max(each)


class TestAdmitted:
    def test_what_a_problem_does_not_admit_is_left_out_with_its_reason(self, tmp_path):
        comparison = read(configured("problem=two_moons", "+problem.n_val=50", f"out={tmp_path}"))
        with pytest.raises(CSBError, match=r"no method can be compared on two_moons \(bridge: no run= or others="):
            compare._open(comparison)
        comparison = read(configured("problem=linear_gaussian", f"out={tmp_path}"))
        _, found, notes = compare._open(comparison)
        assert "replacement" not in {one.name for one in found}
        assert any(note.startswith("replacement: A A* of linear_gaussian is not a multiple") for note in notes)

    def test_particles_of_images(self, monkeypatch):
        from csb.runs.guided import particle_counts

        baselines = read(configured()).baselines
        images = type("Images", (), {"is_image": True})()
        assert particle_counts(baselines, images, True) == [1, 4, 16]
        assert particle_counts(baselines, images, False) == [16]
        assert particle_counts(baselines, PROBLEM, True) == [None]

    def test_the_folder_of_the_denoiser_is_asked_for(self, tmp_path):
        comparison = read(configured("problem=bod", f"out={tmp_path}", "methods=[tds,exact]"))
        with pytest.raises(CSBError, match="the denoiser of bod is not known in closed form; train it with"):
            compare._open(comparison)

    def test_a_run_of_another_problem_is_refused(self, tmp_path, run):
        assert "give problem=gaussian_mixture with these values" in refused(
            "problem=linear_gaussian", f"run={run}", f"out={tmp_path}"
        )
        assert "give problem=gaussian_mixture" in refused("+problem.dx=4", f"run={run}", f"out={tmp_path}")


class TestRefused:
    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("methods=[nope]", "methods[0]='nope' is unknown; choose one of bridge, score_ddpm"),
            ("methods=[dps,dps]", "methods=['dps', 'dps'] repeats an entry"),
            ("methods=[]", "methods=[] is not possible; give a list that is not empty"),
            ("methods=[exact]", "no method is compared"),
            ("calls=[0]", "calls[0]=0 is not possible; give an integer of at least 1"),
            ("calls=[1.5]", "calls[0]=1.5 is not possible"),
            ("seconds=[-1]", "seconds[0]=-1 is not possible; give a finite number above 0"),
            ("seconds=3", "seconds=3 is not possible"),
            ("steps=0", "steps=0 is not possible"),
            ("observations=1", "observations=1 is not possible"),
            ("samples=1", "samples=1 is not possible"),
            ("c2st_samples=-1", "c2st_samples=-1 is not possible"),
            ("seed=-1", "seed=-1 is not possible"),
            ("run=nowhere", "run=nowhere is not a folder"),
            ("others=3", "others=3 is not possible"),
            ("prior=nowhere", "nowhere is not a folder"),
            ("out=''", "out='' names no folder"),
            ("schedule=3", "schedule=3 is not possible; give a name or a table"),
            ("schedule={name: nope}", "schedule.name='nope' is unknown"),
            ("baselines.particles=[7]", "samples=40 is no multiple of 7"),
            ("baselines.sweeps.dps=[]", "baselines.sweeps.dps=[] is not possible"),
            ("problem=nope", "nope"),
            ("problem=null", "problem"),
            ("+nonsense=1", "nonsense"),
        ],
    )
    def test_one_line(self, argument, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert message in refused(argument)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_to_compare_at(self):
        assert "leave nothing to compare at" in refused("calls=[]", "seconds=[]")

    def test_a_folder_without_models(self, tmp_path):
        assert "holds none of bridge, score" in refused(f"run={tmp_path}")

    def test_a_damaged_file(self, tmp_path):
        for text in ("{", "[]", '{"format": "other"}', '{"format": "csb-compare-1", "entries": [{"key": 1}]}'):
            (tmp_path / "compare.json").write_text(text)
            assert "is damaged or of another kind; remove it" in refused(f"out={tmp_path}")


def test_the_store_finds_what_it_keeps(tmp_path):
    store = Store(tmp_path / "a.json")
    key = {"b": [1, 2], "a": {"x": 0.1}, "t": (1.5, None)}
    assert store.load(key) is None
    store.save(key, {"value": torch.tensor(2.0)})
    store.save({**key, "b": [1]}, {"value": 3})
    assert Store(tmp_path / "a.json").load({"a": {"x": 0.1}, "t": [1.5, None], "b": [1, 2]}) == {"value": 2.0}
    store.write({"tables": {"t": [1]}})
    assert json.loads((tmp_path / "a.json").read_text())["tables"] == {"t": [1]}
    assert Store(tmp_path / "a.json").load(key) == {"value": 2.0}


def test_names_are_unique(tmp_path, run):
    _, found, _ = opened(tmp_path, f"run={run}", f"others=[{run}]", "baselines.particles=[4,8]")
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    assert {"tds_4", "tds_8", "smc_8"} <= set(names)
