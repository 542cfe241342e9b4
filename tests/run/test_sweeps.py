"""Sweeps: what the report holds, launchers in other processes, and what is refused before any work."""

import json
import os

import numpy as np
import pytest
from conftest import Hook
from omegaconf import OmegaConf
from sweep_checks import assert_reported, texts

from csb.cli import compose as cli
from csb.cli import launch, sweep
from csb.errors import CSBError
from csb.evaluation.sweep import Job, cell_rows, cells, draw_sweep, job_rows, main_score, quantities, sweep_figure
from tests.conftest import checked


def make(L, T, seed=0, error=None, settings=None, **figures):
    return Job(f"{L},{T},{seed},{settings}", L, T, seed, settings or {}, {} if error else figures, error)


class TestCells:
    JOBS = [make(L, T, s, sliced_w=L + T / 10 + s, seconds=60.0 * L, calls=T)
            for L in (1, 2) for T in (5, 10) for s in (0, 1, 2) if (L, T) != (2, 10)]  # fmt: skip

    def test_seeds_are_averaged(self):
        rows = cell_rows(cells(self.JOBS))
        assert [(row["L"], row["T"]) for row in rows] == [(1, 5), (1, 10), (2, 5)]
        assert rows[0]["sliced_w"] == pytest.approx(np.mean([1.5, 2.5, 3.5]))
        assert rows[0]["sliced_w_sd"] == pytest.approx(np.std([1.5, 2.5, 3.5], ddof=1))
        assert (rows[1]["calls"], rows[1]["finished"], rows[1]["failed"]) == (10, 3, 0)

    def test_other_settings_stay_apart_and_order_is_by_number(self):
        jobs = [make(1, T, energy_score=1.0, seconds=1.0, calls=T, settings={"a": a, "b": "1"})
                for a in ("y", "x") for T in (10, 5)]  # fmt: skip
        assert [(row["a"], row["T"]) for row in cell_rows(cells(jobs))] == [("x", 5), ("x", 10), ("y", 5), ("y", 10)]
        assert [(row["a"], row["T"]) for row in job_rows(jobs)] == [("x", 5), ("x", 10), ("y", 5), ("y", 10)]
        assert all("b" not in row for row in cell_rows(cells(jobs)))

    def test_numbers_are_ordered_by_size(self):
        jobs = [make(1, 5, energy_score=1.0, settings={"a": a}) for a in ("10", "9", "x", "1e-3")]
        assert [row["a"] for row in cell_rows(cells(jobs))] == ["1e-3", "9", "10", "x"]

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
        assert (score.key, score.higher) == (key, higher)


def colors(axes, sides):
    """The colour of each cell's square, by (L, T)."""
    Ls, Ts = sides
    found = {}
    for patch in axes.patches:
        x, y = patch.get_xy()
        found[Ls[round(y + 0.5)], Ts[round(x + 0.5)]] = patch
    return found


class TestHeatMap:
    def test_failed_missing_and_best(self):
        jobs = [make(1, 5, psnr_mean_per_image=20.0, seconds=7200.0, calls=5), make(1, 10, error="diverged"),
                make(2, 5, psnr_mean_per_image=21.0, seconds=36000.0, calls=5)]  # fmt: skip
        score = main_score(jobs)
        figure = sweep_figure(cells(jobs), score)
        accuracy, seconds, calls = figure.axes
        assert texts(accuracy) == {(1, 5): "20.0", (1, 10): "failed", (2, 5): "21.0"}
        assert texts(seconds) == {(1, 5): "2.00", (1, 10): "failed", (2, 5): "10.0"}
        assert texts(calls) == {(1, 5): "5", (1, 10): "failed", (2, 5): "5"}
        assert [one.label for one in quantities(cells(jobs), score)][1] == "training time, h"
        found = colors(accuracy, ((1, 2), (5, 10)))
        assert sum(found[2, 5].get_facecolor()[:3]) < sum(found[1, 5].get_facecolor()[:3])  # higher is better: darker
        assert found[1, 10].get_hatch()
        assert (2, 10) not in found
        bold = {t.get_text() for t in accuracy.texts if t.get_weight() == "bold"}
        assert bold == {"21.0"}

    def test_lower_is_better(self):
        jobs = [make(1, T, sliced_w=1 / T, seconds=1.0, calls=T) for T in (5, 10)]
        found = colors(sweep_figure(cells(jobs), main_score(jobs)).axes[0], ((1,), (5, 10)))
        assert sum(found[1, 10].get_facecolor()[:3]) < sum(found[1, 5].get_facecolor()[:3])

    def test_seeds_and_a_row_a_combination(self):
        jobs = [make(1, T, s, sliced_w=0.1 + 0.1 * s, seconds=1.0, calls=T, settings={"a": a})
                for a in "xy" for T in (5, 10) for s in (0, 1)]  # fmt: skip
        jobs.append(make(1, 5, 2, error="x", settings={"a": "y"}))
        figure = sweep_figure(cells(jobs), main_score(jobs))
        assert len(figure.axes) == 6
        assert figure.axes[0].texts[0].get_text() == "0.150\n± 0.071"
        assert figure.axes[3].texts[0].get_text() == "0.150\n± 0.071\n1 failed"
        assert figure.axes[3].get_title(loc="left").startswith("a=y\n")

    def test_all_failed(self):
        jobs = [make(1, T, error="x") for T in (5, 10)]
        figure = sweep_figure(cells(jobs), main_score(jobs))
        assert all(texts(axes) == {(1, 5): "failed", (1, 10): "failed"} for axes in figure.axes)

    def test_none_where_neither_is_swept(self, tmp_path):
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
    found = {job.name: job for job in sweep.collect(tmp_path)}
    assert (found["a"].error, found["a"].settings) == ("did not finish", {"training.x": "1"})
    assert (found["b"].error, found["b"].T) == ("result.json is damaged", 3)
    assert sweep.report(tmp_path)
    assert "2 of them failed" in " ".join(capsys.readouterr().out.split())  # a long path breaks the line


def short(tiny, out, *more):
    kept = [a for a in tiny if not a.startswith(("L=", "T=", "training.first_steps", "training.steps"))]
    return ["-m", *kept, "training.first_steps=4", "training.steps=4", "L=1", f"out={out}", *more]


class TestLaunchers:
    """Jobs in other processes."""

    def test_submitit(self, command, tiny, tmp_path):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        done = command(*short(tiny, tmp_path, "T=2,3", "hydra/launcher=submitit_local"), timeout=900)
        assert done.code == 0, done.err
        (folder,) = (tmp_path / "sweeps").iterdir()
        assert sorted(p.parent.name[-30:] for p in folder.glob("*/bridge.safetensors")) == sorted(
            p.name[-30:] for p in folder.iterdir() if p.is_dir() and p.name != ".submitit"
        )
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


def test_ctrl_c_reports_what_is_there(command, tiny, tmp_path):
    hook = Hook("csb.training.half_step.HalfStepModule.training_step", call=15, raises="KeyboardInterrupt")
    done = command(*short(tiny, tmp_path, "T=2,3,4"), hooks=[hook])
    assert done.code == 2, done.err
    assert "interrupted; resume=true" in done.err
    assert "1 of them failed" in done.out
    (folder,) = (tmp_path / "sweeps").iterdir()
    jobs = json.loads((folder / "table.json").read_text())["jobs"]
    assert [job.get("error") for job in jobs] == [None, "did not finish"]


class TestRefused:
    """Before any folder is made."""

    def refuse(self, *arguments):
        with pytest.raises(CSBError) as found:
            checked("train", *arguments)
        assert "\n" not in str(found.value)
        return str(found.value)

    @pytest.mark.parametrize("options", [["trainer.devices=4"], ["trainer.devices=2", "trainer.num_nodes=2"]])
    def test_several_devices_a_job(self, tmp_path, options):
        message = self.refuse("-m", "T=2,3", *options, f"out={tmp_path}/new")
        assert "with 4 devices a job" in message
        assert "sweep=joblib" in message
        assert "sweep=slurm" in message
        assert os.listdir(tmp_path) == []

    def slurm(self, monkeypatch, tmp_path, *options):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        monkeypatch.setattr(launch.shutil, "which", lambda name: f"/usr/bin/{name}")
        return ["-m", "T=2,3", "sweep=slurm", "trainer.devices=4", "trainer.num_nodes=2", *options, f"out={tmp_path}/n"]

    def test_slurm_starts_a_task_for_each_device(self, monkeypatch, tmp_path):
        arguments, seen = self.slurm(monkeypatch, tmp_path), []
        monkeypatch.setattr(cli, "check_launch", lambda config: seen.append(config) or launch.check_launch(config))
        found = checked("train", *arguments)
        assert (found.launcher, found.jobs) == (launch.SLURM, 2)
        own = seen[0].hydra.launcher
        assert (own.tasks_per_node, own.nodes, own.gpus_per_node) == (4, 2, 4)

    @pytest.mark.parametrize(("option", "value"), [("tasks_per_node", 1), ("nodes", 3)])
    def test_tasks_that_do_not_fit_the_devices(self, monkeypatch, tmp_path, option, value):
        message = self.refuse(*self.slurm(monkeypatch, tmp_path, f"hydra.launcher.{option}={value}"))
        assert f"hydra.launcher.{option}={value} does not fit trainer." in message

    def test_the_slurm_settings_fit_the_launcher(self, monkeypatch, tmp_path):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        monkeypatch.setattr(launch.shutil, "which", lambda name: f"/usr/bin/{name}")
        arguments = ["-m", "T=2,3", "problem=two_moons,bod", "sweep=slurm", f"out={tmp_path}/new"]
        found = cli.check_sweep("train", arguments, lambda given: lambda: None)
        assert (found.launcher, found.jobs, found.parallel) == (launch.SLURM, 4, 0)
        assert {folder.name for folder in found.folders} == {"two_moons", "bod"}

    def test_hydra_mode(self, tmp_path):
        assert "add -m" in self.refuse("hydra.mode=MULTIRUN", "T=2", f"out={tmp_path}/new")

    def test_no_slurm_here(self, monkeypatch, tmp_path):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        monkeypatch.setattr(launch.shutil, "which", lambda name: None)
        assert "finds no sbatch" in self.refuse("-m", "T=2,3", "sweep=slurm", f"out={tmp_path}/new")

    def test_a_launcher_without_the_flag(self, tmp_path):
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        assert "add -m" in self.refuse("sweep=joblib", f"out={tmp_path}/new")

    @pytest.mark.parametrize("n", ["0", "x"])
    def test_number_of_jobs(self, tmp_path, n):
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        assert "n_jobs" in self.refuse("-m", "T=2,3", "sweep=joblib", f"hydra.launcher.n_jobs={n}", f"out={tmp_path}/n")

    @pytest.mark.parametrize(
        ("text", "package"), [("joblib", "hydra-joblib-launcher"), ("submitit_slurm", "hydra-submitit-launcher")]
    )
    def test_a_launcher_that_is_not_installed(self, text, package):
        message = launch.explain_missing(f"In 'sweep/x': Could not find 'hydra/launcher/{text}' Available options")
        assert message == f"the launcher {text} needs the package {package}; run pip install -e '.[sweep]'"


class TestWorkers:
    def test_each_keeps_a_gpu_of_its_own_while_there_are_enough(self, monkeypatch, tmp_path):
        """Five workers on three GPUs; one ends and another takes its place."""
        monkeypatch.setenv("CSB_GPU_SLOTS", f"5:{tmp_path}")
        locks = []

        def worker():
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
            monkeypatch.setattr(launch, "_held", [])
            launch.take_gpu()
            first = os.environ["CUDA_VISIBLE_DEVICES"]
            launch.take_gpu()  # its second job
            assert os.environ["CUDA_VISIBLE_DEVICES"] == first
            locks.append(launch._held[0])
            return first

        assert [worker() for _ in range(5)] == ["2", "5", "7", "2", "5"]
        locks[2].close()
        assert worker() == "7"

    def test_none_where_no_slots_are_set(self, monkeypatch):
        monkeypatch.delenv("CSB_GPU_SLOTS", raising=False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        launch.take_gpu()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"

    @pytest.mark.parametrize(("jobs", "threads"), [(2, "4"), (8, "1"), (100, "1")])
    def test_they_share_the_cores(self, monkeypatch, jobs, threads):
        monkeypatch.setattr(launch, "cores", lambda: 8)
        config = OmegaConf.create({"hydra": {"launcher": {"n_jobs": -1}}})
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        at_once = launch.parallel(config, launch.JOBLIB, jobs)
        assert at_once == min(jobs, 8)
        with launch.prepared(launch.Launch(launch.JOBLIB, jobs, at_once, ())):
            assert os.environ["OMP_NUM_THREADS"] == threads
        assert "OMP_NUM_THREADS" not in os.environ
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        with launch.prepared(launch.Launch(launch.JOBLIB, jobs, at_once, ())):
            assert os.environ["OMP_NUM_THREADS"] == "3"

    @pytest.mark.parametrize(
        ("target", "job_id", "same"),
        [("a.SlurmLauncher", "7_1", True), ("a.SlurmLauncher", "8_1", False), ("a.BasicLauncher", "7_1", False)],
    )
    def test_a_job_that_slurm_starts_again_is_told_by_its_id(self, target, job_id, same):
        config = OmegaConf.create({"launcher": {"_target_": target}})
        assert launch.is_requeued(config, job_id, {"id": "7_1"}) is same
        assert not launch.is_requeued(config, job_id, None)
