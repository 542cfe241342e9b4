"""Sweeps: what the report holds, launchers in other processes, and what is refused before any work."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from csb.cli import compose as cli
from csb.cli import launch, sweep
from csb.cli.main import main
from csb.cli.sweep import collect
from csb.errors import CSBError
from csb.evaluation.sweep import (
    Job,
    Stat,
    cell_rows,
    cell_text,
    cells,
    draw_sweep,
    job_rows,
    main_score,
    quantities,
    sweep_figure,
)
from csb.runs import train
from tests.commands import Hook
from tests.conftest import checked, refused


def make(L, T, seed=0, error=None, settings=None, **figures):
    return Job(f"{L},{T},{seed},{settings}", L, T, seed, settings or {}, {} if error else figures, error)


def figure_of(jobs):
    return sweep_figure(cells(jobs), main_score(jobs))


def ticks(axes):
    """The values of L and T of a heat map's rows and columns."""
    return [
        [int(label.get_text()[2:]) for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    ]


def texts(axes):
    """The word in each cell of a heat map, by (L, T)."""
    Ls, Ts = ticks(axes)
    return {(Ls[round(t.get_position()[1])], Ts[round(t.get_position()[0])]): t.get_text() for t in axes.texts}


def squares(axes):
    """The square of each cell, by (L, T)."""
    Ls, Ts = ticks(axes)
    return {(Ls[round(patch.get_y() + 0.5)], Ts[round(patch.get_x() + 0.5)]): patch for patch in axes.patches}


def brightness(patch):
    return sum(patch.get_facecolor()[:3])


def assert_reported(folder):
    """table.json and the heat map's cells show what each job's result.json holds; each cell has one job."""
    results = {(r["L"], r["T"]): r for r in (json.loads(p.read_text()) for p in folder.glob("*/result.json"))}
    table = json.loads((folder / "table.json").read_text())
    assert (table["score"]["key"], table["score"]["better"]) == ("sliced_w", "lower")
    assert [(row["L"], row["T"]) for row in table["cells"]] == sorted(results)
    assert [(row["L"], row["T"]) for row in table["jobs"]] == sorted(results)
    for row in table["cells"]:
        result = results[row["L"], row["T"]]
        assert all(row[key] == result.get(key) for key in ("sliced_w", "seconds", "calls"))
        assert "error" in result or result["calls"] == result["T"]
    jobs = collect(folder)
    panels = quantities(main_score(jobs))
    for axes, panel in zip(figure_of(jobs).axes, panels, strict=True):
        shown = {
            p: "failed" if "error" in r else cell_text(Stat(r[panel.key], None), panel) for p, r in results.items()
        }
        assert texts(axes) == shown
    assert (folder / "heatmap.png").read_bytes().startswith(b"\x89PNG")


class TestCells:
    def test_seeds_are_averaged(self):
        jobs = [make(L, T, s, sliced_w=L + T / 10 + s, seconds=60.0 * L, calls=T)
                for L in (1, 2) for T in (5, 10) for s in (0, 1, 2) if (L, T) != (2, 10)]  # fmt: skip
        rows = cell_rows(cells(jobs))
        assert [(row["L"], row["T"]) for row in rows] == [(1, 5), (1, 10), (2, 5)]
        assert rows[0]["sliced_w"] == pytest.approx(np.mean([1.5, 2.5, 3.5]))
        assert rows[0]["sliced_w_sd"] == pytest.approx(np.std([1.5, 2.5, 3.5], ddof=1))
        assert (rows[1]["calls"], rows[1]["finished"], rows[1]["failed"]) == (10, 3, 0)

    def test_other_settings_stay_apart_and_order_is_by_number(self):
        jobs = [make(1, T, energy_score=1.0, seconds=1.0, calls=T, settings={"a": a, "b": "1"})
                for a in ("y", "10", "9", "1e-3") for T in (10, 5)]  # fmt: skip
        for rows in (cell_rows(cells(jobs)), job_rows(jobs)):
            assert [(row["a"], row["T"]) for row in rows] == [(a, T) for a in ("1e-3", "9", "10", "y") for T in (5, 10)]
        assert all("b" not in row for row in cell_rows(cells(jobs)))

    @pytest.mark.parametrize(
        ("figures", "key", "higher"),
        [
            ({"energy_score": 1.0, "psnr_mean_per_image": 20.0}, "psnr_mean_per_image", True),
            ({"energy_score": 1.0, "crps": 1.0}, "energy_score", False),
            ({"sliced_w": 1.0, "energy_score": 2.0}, "sliced_w", False),
        ],
    )
    def test_main_score(self, figures, key, higher):
        score = main_score([make(1, 2, **figures), make(1, 3, error="x")])
        assert score is not None
        assert (score.key, score.direction == "higher") == (key, higher)


class TestHeatMap:
    def test_failed_missing_and_best(self):
        jobs = [make(1, 5, psnr_mean_per_image=20.0, seconds=7200.0, calls=5), make(1, 10, error="diverged"),
                make(2, 5, psnr_mean_per_image=21.0, seconds=36000.0, calls=5)]  # fmt: skip
        accuracy, seconds, calls = figure_of(jobs).axes
        assert texts(accuracy) == {(1, 5): "20.0", (1, 10): "failed", (2, 5): "21.0"}
        assert texts(seconds) == {(1, 5): "7200", (1, 10): "failed", (2, 5): "36000"}
        assert texts(calls) == {(1, 5): "5", (1, 10): "failed", (2, 5): "5"}
        assert [panel.label for panel in quantities(main_score(jobs))][1] == "training time, s"
        found = squares(accuracy)
        assert brightness(found[2, 5]) < brightness(found[1, 5])  # higher is better: darker
        assert found[1, 10].get_hatch()
        assert (2, 10) not in found
        assert {t.get_text() for t in accuracy.texts if t.get_weight() == "bold"} == {"21.0"}

    def test_seeds_and_a_row_a_combination(self):
        jobs = [make(1, T, s, sliced_w=0.1 + 0.1 * s, seconds=1.0, calls=T, settings={"a": a})
                for a in "xy" for T in (5, 10) for s in (0, 1)]  # fmt: skip
        axes = figure_of([*jobs, make(1, 5, 2, error="x", settings={"a": "y"})]).axes
        assert len(axes) == 6
        assert axes[0].texts[0].get_text() == "0.150\n± 0.071"
        assert axes[3].texts[0].get_text() == "0.150\n± 0.071\n1 failed"
        assert axes[3].get_title(loc="left").startswith("a=y\n")

    def test_lower_is_better_all_failed_and_neither_swept(self, tmp_path):
        found = squares(figure_of([make(1, T, sliced_w=1 / T, seconds=1.0, calls=T) for T in (5, 10)]).axes[0])
        assert brightness(found[1, 10]) < brightness(found[1, 5])
        for axes in figure_of([make(1, T, error="x") for T in (5, 10)]).axes:
            assert texts(axes) == {(1, 5): "failed", (1, 10): "failed"}
        path = tmp_path / "heatmap.png"
        path.write_bytes(b"of an earlier sweep")
        jobs = [make(1, 5, s, sliced_w=1.0, seconds=1.0, calls=5) for s in (0, 1)]
        assert not draw_sweep(path, cells(jobs), main_score(jobs))
        assert not path.exists()


def test_jobs_without_a_result_and_damaged_ones_are_told(tmp_path, capsys):
    sweep.write_marker(tmp_path / "a", ["+training.x=1", "T=2", "sweep=joblib"], 1, 2, 0, "0", ["sweep"])
    sweep.write_marker(tmp_path / "b", ["T=3"], 1, 3, 0, "1", [])
    (tmp_path / "b" / "result.json").write_text("{")
    (tmp_path / ".submitit").mkdir()
    found = {job.name: job for job in collect(tmp_path)}
    assert (found["a"].error, found["a"].settings) == ("did not finish", {"training.x": "1"})
    assert (found["b"].error, found["b"].T) == ("result.json is damaged", 3)
    assert sweep.report(tmp_path)
    assert "2 of them failed" in " ".join(capsys.readouterr().out.split())  # a long path breaks the line


@pytest.fixture(scope="module")
def line(tiny, tmp_path_factory):
    """A sweep's command, all but what is swept."""
    kept = [one for one in tiny if not one.startswith(("L=", "T="))]
    return ["train", "-m", *kept, "training.select=last", f"out={tmp_path_factory.mktemp('sweep')}"]


@pytest.fixture(scope="module")
def swept(line):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("csb.runs.train.RunObserver._picture", lambda *_: None)
        main([*line, "L=1,2", "T=2"])
    (folder,) = Path(line[-1].removeprefix("out="), "sweeps").iterdir()
    return folder


class TestInThisProcess:
    def test_every_job_has_its_result_and_a_row(self, swept):
        found = []
        for path in swept.glob("*/result.json"):
            result, config = json.loads(path.read_text()), json.loads((path.parent / "config.json").read_text())
            found.append((result["L"], result["T"]))
            assert (config["L"], config["T"]) == found[-1]
            assert len(list((path.parent / "half_steps").iterdir())) == 2 * result["L"]
            assert (path.parent / "bridge.safetensors").exists()
            assert f"T = {result['T']} steps" in (path.parent / "train.log").read_text()
        assert sorted(found) == [(1, 2), (2, 2)]
        assert_reported(swept)
        grid, _, per_job = (swept / "table.md").read_text().partition("\n## Jobs\n\n")
        assert grid.startswith("## L × T: sliced_w, Sliced W (lower is better)")
        assert len(grid.strip().splitlines()) == 6
        head, *jobs = per_job.strip().splitlines()
        assert re.findall(r"\w+", head)[:3] == ["job", "L", "T"]
        assert len(jobs) == 1 + 2

    def test_it_resumes(self, swept, line, capsys):
        before = {p: p.read_bytes() for p in swept.glob("*/*.json")}
        main([*line, "L=1,2", "T=2", "resume=true"])
        assert {p: p.read_bytes() for p in before} == before
        assert capsys.readouterr().out.count("2 jobs in") == 1

    @pytest.mark.nightly
    def test_a_job_that_fails_leaves_the_others_and_is_told_in_its_row(self, swept, line, capsys, monkeypatch):
        """One is there already and refused, which its result does not notice; a new one fails before its first step."""

        def planned(*_):
            raise CSBError("planned failure; try again")

        before = {p: p.read_bytes() for p in swept.glob("*/result.json")}
        monkeypatch.setattr(train, "build_bridge", planned)
        main([*line, "L=1", "T=2,4"])
        out, err = capsys.readouterr()
        after = {p: p.read_bytes() for p in swept.glob("*/result.json")}
        assert len(after) == 3
        assert all(after[p] == content for p, content in before.items())
        assert "already holds a run" in out + err
        assert "1 of them failed" in " ".join(out.split())
        assert "planned failure" in (swept / "table.md").read_text()
        assert "Traceback" not in out + err
        assert_reported(swept)


def short(tiny, out, *more):
    kept = [a for a in tiny if not a.startswith(("L=", "T=", "training.first_steps", "training.steps"))]
    return ["-m", *kept, "training.first_steps=4", "training.steps=4", "L=1", f"out={out}", *more]


class TestInOtherProcesses:
    def test_submitit(self, command, tiny, tmp_path):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        done = command(*short(tiny, tmp_path, "T=2,3", "hydra/launcher=submitit_local"), timeout=900)
        assert done.code == 0, done.err
        (folder,) = (tmp_path / "sweeps").iterdir()
        assert len(list(folder.glob("*/bridge.safetensors"))) == 2
        assert "2 jobs in" in done.out
        assert "failed" not in done.out
        assert "Traceback" not in done.err
        assert_reported(folder)

    def test_joblib_and_a_job_that_fails(self, command, tiny, tmp_path):
        """One of two jobs finds a folder where its config.json is to be."""
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        folder = tmp_path / "sweeps" / "two_moons"
        (folder / "T2" / "config.json").mkdir(parents=True)
        line = short(tiny, tmp_path, "T=2,3", "sweep=joblib", "hydra.launcher.n_jobs=1", "hydra.sweep.subdir=T${T}")
        done = command(*line, timeout=900)
        assert done.code == 0, done.err
        assert "config.json" in json.loads((folder / "T2" / "result.json").read_text())["error"]
        assert "2 jobs in" in done.out
        assert "1 of them failed" in done.out
        assert_reported(folder)
        settings = [json.loads(path.read_text())["settings"] for path in folder.glob("*/job.json")]
        assert len(settings) == 2
        assert all("sweep" not in found for found in settings)

    def test_ctrl_c_reports_what_is_there(self, command, tiny, tmp_path):
        hook = Hook("csb.training.half_step.HalfStepModule.training_step", call=15, raises="KeyboardInterrupt")
        done = command(*short(tiny, tmp_path, "T=2,3,4"), hooks=[hook])
        assert done.code == 2, done.err
        assert "interrupted; resume=true" in done.err
        assert "1 of them failed" in done.out
        (folder,) = (tmp_path / "sweeps").iterdir()
        jobs = json.loads((folder / "table.json").read_text())["jobs"]
        assert [job.get("error") for job in jobs] == [None, "did not finish"]


DEVICES = "trainer.devices=4 trainer.num_nodes=2"


class TestLaunchers:
    """What is refused before any folder is made, and what Slurm is asked for."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("-m T=2,3 trainer.devices=4", "with 4 devices a job"),
            ("-m T=2,3 trainer.devices=2 trainer.num_nodes=2", "with 4 devices a job"),
            ("hydra.mode=MULTIRUN T=2", "add -m"),
            ("sweep=joblib", "add -m"),
            ("-m T=2,3 sweep=joblib hydra.launcher.n_jobs=0", "n_jobs"),
            ("-m T=2,3 sweep=joblib hydra.launcher.n_jobs=x", "n_jobs"),
            (
                f"-m T=2,3 sweep=slurm {DEVICES} hydra.launcher.tasks_per_node=1",
                "tasks_per_node=1 does not fit trainer.",
            ),
            (f"-m T=2,3 sweep=slurm {DEVICES} hydra.launcher.nodes=3", "nodes=3 does not fit trainer."),
        ],
    )
    def test_refused(self, tmp_path, monkeypatch, arguments, message):
        monkeypatch.setattr(launch.shutil, "which", lambda name: f"/usr/bin/{name}")
        assert message in refused("train", *arguments.split(), f"out={tmp_path}/new")
        assert os.listdir(tmp_path) == []

    def test_slurm_starts_a_task_for_each_device(self, monkeypatch, tmp_path):
        monkeypatch.setattr(launch.shutil, "which", lambda name: f"/usr/bin/{name}")
        seen, given = [], ["-m", "T=2,3", "problem=two_moons,bod", "sweep=slurm", *DEVICES.split(), f"out={tmp_path}/n"]
        monkeypatch.setattr(cli, "check_launch", lambda config: seen.append(config) or launch.check_launch(config))
        found = checked("train", *given)
        assert (found.launcher, found.jobs, found.parallel) == (launch.SLURM, 4, 0)
        assert {folder.name for folder in found.folders} == {"two_moons", "bod"}
        own = seen[0].hydra.launcher
        assert (own.tasks_per_node, own.nodes, own.gpus_per_node) == (4, 2, 4)
        monkeypatch.setattr(launch.shutil, "which", lambda name: None)
        assert "finds no sbatch" in refused("train", *given)

    @pytest.mark.parametrize(
        ("text", "package"), [("joblib", "hydra-joblib-launcher"), ("submitit_slurm", "hydra-submitit-launcher")]
    )
    def test_one_that_is_not_installed(self, text, package):
        message = launch.explain_missing(f"In 'sweep/x': Could not find 'hydra/launcher/{text}' Available options")
        assert message == f"the launcher {text} needs the package {package}; run pip install -e '.[sweep]'"


class TestWorkers:
    def test_each_keeps_a_gpu_of_its_own_while_there_are_enough(self, monkeypatch):
        def worker(name):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
            monkeypatch.setattr(launch.multiprocessing, "current_process", lambda: SimpleNamespace(name=name))
            for _ in range(2):  # two jobs
                launch.take_gpu()
            return os.environ["CUDA_VISIBLE_DEVICES"]

        assert [worker(f"LokyProcess-{i}") for i in range(1, 6)] == ["2", "5", "7", "2", "5"]
        assert worker("MainProcess") == "2,5,7"

    @pytest.mark.parametrize(("jobs", "threads"), [(2, "4"), (8, "1"), (100, "1")])
    def test_they_share_the_cores(self, monkeypatch, jobs, threads):
        monkeypatch.setattr(launch, "cores", lambda: 8)
        config = OmegaConf.create({"hydra": {"launcher": {"n_jobs": -1}}})
        at_once = launch.parallel(config, launch.JOBLIB, jobs)
        assert at_once == min(jobs, 8)
        for before, within in ((None, threads), ("3", "3")):
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            if before:
                monkeypatch.setenv("OMP_NUM_THREADS", before)
            with launch.prepared(launch.Launch(launch.JOBLIB, jobs, at_once, ())):
                assert os.environ["OMP_NUM_THREADS"] == within
            assert os.environ.get("OMP_NUM_THREADS") == before

    @pytest.mark.parametrize(
        ("target", "job_id", "same"),
        [("a.SlurmLauncher", "7_1", True), ("a.SlurmLauncher", "8_1", False), ("a.BasicLauncher", "7_1", False)],
    )
    def test_a_job_that_slurm_starts_again_is_told_by_its_id(self, target, job_id, same):
        config = OmegaConf.create({"launcher": {"_target_": target}})
        assert launch.is_requeued(config, job_id, {"id": "7_1"}) is same
        assert not launch.is_requeued(config, job_id, None)
