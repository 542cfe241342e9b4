"""The command line csb: every command, its help, its errors, and that an installed copy works."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import csb
from csb.bridge.checkpoint import load, save
from csb.cli import compose as cli
from csb.cli.commands import COMMANDS, CONF, find_conf, schema_of
from csb.cli.help import choices, command_help, groups, of_schema
from csb.cli.main import main
from csb.cli.sample import read_observations
from csb.files import json_text
from csb.runs.inspection import inspect, print_inspection
from csb.runs.presets import SCHEMAS
from csb.training.state import EACH, SCORE, best_iteration
from tests.conftest import checked, one_line, refused

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [(name, arguments) for name, one in COMMANDS.items() for arguments, _ in one.examples]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    (folder := tmp_path / "here").mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def file(exact_bridge, tmp_path):
    """A bridge in a file of its own, with nothing beside it, for x and y in two dimensions."""
    made = exact_bridge()
    save(made.bridge, tmp_path / "bridge.safetensors", {"versions": {"csb": "9.9"}})
    return tmp_path / "bridge.safetensors"


class TestHelp:
    def test_overview_lists_every_command_with_an_example(self, capsys):
        main(["--version"])
        assert capsys.readouterr().out == f"csb {csb.__version__}\n"
        texts = []
        for arguments in ([], ["-h"], ["--help"]):
            main(arguments)
            texts.append(capsys.readouterr().out)
        assert texts[0] == texts[1] == texts[2]
        for name, one in COMMANDS.items():
            assert one.summary in texts[0]
            assert f"csb {name} {one.examples[0][0]}" in texts[0]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_key_and_group_says_what_it_means(self, capsys, name):
        """The keys of the schema at the top level, and those of each group, with a preset or a schema of its own."""
        main([name, "--help"])
        kind, text = schema_of(COMMANDS[name]), capsys.readouterr().out
        assert text.startswith(f"usage: csb {name} ")
        assert all(f"csb {name} {arguments}" in text for arguments, _ in COMMANDS[name].examples)
        assert max(map(len, text.splitlines())) <= 120
        for group in groups(name):
            about = f"{group.key}={group.chosen}: {group.note}; choose among {', '.join(choices(group.key))}"
            assert about in " ".join(text.split())
            if (of := SCHEMAS.get(group.key)) is not None:
                assert all(f"  {group.key}.{key} " in text for key in of.model_fields if key not in of.alone)
        for entry in [] if kind is None else of_schema(kind):
            assert re.fullmatch(r".{3,} \(.*(default .*|required)\)", entry.text), entry
            assert f"  {entry.key} " in text or entry.key in SCHEMAS

    def test_the_keys_of_a_suite_are_all_there(self):
        text = command_help(COMMANDS["benchmark"])
        config = yaml.safe_load((CONF / "suite" / "overheads.yaml").read_text())
        assert all(f"  {key} " in text for key in config if key != "suite")

    def test_help_and_version_do_not_wait_for_torch(self):
        code = (
            "import sys; from csb.cli.main import main; main(['-h']); main(['--version']); exit('torch' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0

    @pytest.mark.parametrize(("name", "arguments"), EXAMPLES, ids=[" ".join(one) for one in EXAMPLES])
    def test_every_example_composes_and_is_valid(self, name, arguments, here):
        """A training is checked as well; other commands need a run."""
        if name != "train":
            assert cli.composed(name, shlex.split(arguments))
            return
        x = np.random.default_rng(0).normal(size=(5000, 2))
        np.savez("pairs.npz", x=x, y=x[:, :1])
        checked("train", *shlex.split(arguments))


class TestRefused:
    def test_unknown_commands_keys_flags_and_sweeps(self, capsys):
        for command, message in (
            ("smaple", "did you mean sample? choose among train, evaluate"),
            ("run=outputs", "'run=outputs' is no command"),
        ):
            with pytest.raises(SystemExit) as end:
                main([command])
            assert end.value.code == 2
            assert message in capsys.readouterr().err
        assert "no setting 'nonsense'; choose among sampler, y" in refused("sample", "run=x", "nonsense=1")
        assert "--nonsense is not supported" in refused("inspect", "--nonsense")
        assert "csb export cannot be swept over" in refused("export", "-m", "run=a,b")

    @pytest.mark.parametrize("name", ["evaluate", "sample", "inspect", "export"])
    def test_no_run(self, name):
        more = ["out=new"] if name == "export" else []
        assert "run is missing; give run=" in refused(name, *more)
        assert "nowhere" in one_line(lambda: checked(name, "run=nowhere", *more)())

    def test_values(self, file, tmp_path):
        source = f"run={file}"
        assert "out is missing; give out=" in refused("export", source)
        assert "does not say which problem it is for; give y=" in refused("sample", source)
        np.save(tmp_path / "y.npy", np.zeros((1, 2)))
        line = (f"y={tmp_path}/y.npy", f"out={tmp_path}/y.npy")
        assert "which would be lost" in refused("sample", source, *line)


class TestSample:
    def test_from_a_file_alone(self, file, tmp_path):
        np.savez(tmp_path / "obs.npz", other=np.zeros(3), y=np.array([[0.5, 1.0], [0.0, -1.0], [2.0, 0.0]]))
        line = [f"run={file}", f"y={tmp_path}/obs.npz", "n=50", "seed=3", f"out={tmp_path}/s.npz"]
        main(["sample", *line])
        with np.load(tmp_path / "s.npz") as found:
            y = torch.from_numpy(found["y"])
            assert found["y"].tolist() == [[0.5, 1.0], [0.0, -1.0], [2.0, 0.0]]
            want = csb.load(file).sample(y, 50, generator=torch.Generator().manual_seed(0)).x
            assert found["x"].shape == want.shape
            assert np.abs(found["x"].mean(1) - want.mean(1).numpy()).max() < 0.6  # other draws of the same laws
        main([*line[:-1], f"out={tmp_path}/t.npz"], name="sample")  # as scripts/sample.py does it
        assert (np.load(tmp_path / "t.npz")["x"] == np.load(tmp_path / "s.npz")["x"]).all()

    def test_test_observations_of_a_run_or_its_file(self, tiny_run, here, capsys):
        for source in (tiny_run, tiny_run / "bridge.safetensors"):
            main(["sample", f"run={source}", "n=5", "observations=3"])
            assert "samples.npz: x (3, 5, 2), 3 network calls a sample" in capsys.readouterr().out
        assert [path.name for path in here.iterdir()] == ["samples.npz"]


class TestObservations:
    """What the bridge itself refuses, tests/bridge/test_samples.py asks."""

    @pytest.fixture
    def read(self, tmp_path, exact_bridge):
        def read(save=np.savez, **arrays):
            save(tmp_path / "obs.npz", **arrays)
            return read_observations(tmp_path / "obs.npz", exact_bridge().bridge)

        return read

    def test_one_or_several(self, read):
        values = np.array([[1, 0], [0, 1], [1, 1]], dtype=">f8")
        y = read(whatever=values)
        assert y.dtype == torch.float32
        assert y.tolist() == [[1, 0], [0, 1], [1, 1]]
        assert read(y=values[0], more=np.zeros(9), save=np.savez_compressed).tolist() == [[1, 0]]

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"a": np.zeros(2), "b": np.zeros(2)}, "holds the arrays a, b; give a file with an array named y"),
            ({}, "holds no array"),
            ({"y": np.array([{}, None], dtype=object)}, "Object arrays cannot be loaded when allow_pickle=False"),
        ],
    )
    def test_refused(self, read, arrays, message):
        assert message in one_line(lambda: read(**arrays))

    @pytest.mark.parametrize("content", [b"1,2\n3,4\n", b"PK\x03\x04broken"])
    def test_what_is_no_file_of_numpys(self, tmp_path, file, content):
        bridge = csb.load(file, "cpu")
        (tmp_path / "y.npz").write_bytes(content)
        assert "cannot read y=" in one_line(lambda: read_observations(tmp_path / "y.npz", bridge))
        assert "is not a file" in one_line(lambda: read_observations(tmp_path, bridge))


class TestInspect:
    def test_a_run(self, tiny_run, capsys, here):
        main(["inspect", f"run={tiny_run}", "json=true"])
        found = json.loads(capsys.readouterr().out)
        bridge, result = load(tiny_run / "bridge.safetensors"), json.loads((tiny_run / "result.json").read_text())
        history = json.loads((tiny_run / "history.json").read_text())
        kernel = {"network": "MLP", "parametrisation": bridge.backward_kernel.parametrisation, "covariance": "mixture"}
        expected = {
            "task": "two_moons", "x_shape": [2], "y_shape": [2], "T": 3, "iterations": 2,
            "alpha_bar_T": pytest.approx(float(bridge.grid.alpha_bar[3])),
            "first_step": pytest.approx(float(bridge.grid.beta[1]) ** 0.5),
            "held": best_iteration([row for row in history if SCORE in row]), "objective": "bridge_matching",
            "parameters": sum(p.numel() for p in bridge.parameters()), "seconds": result["seconds"],
            "half_steps": [{key: v for key, v in row.items() if key != EACH} for row in history],
        }  # fmt: skip
        assert {key: found[key] for key in expected} == expected
        assert {key: found["kernels"]["backward"][key] for key in kernel} == kernel
        assert found["versions"]["csb"] == csb.__version__
        assert found["scores"]["sliced_w"] == result["sliced_w"]
        half_step = inspect(tiny_run / "half_steps" / "03_backward.safetensors")
        assert (half_step["held"], half_step["iterations"], half_step["scores"]) == (2, 2, None)
        assert half_step["seconds"] == history[2]["seconds"]

    def test_tables_and_nothing_is_written(self, tiny_run, here, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "150")
        before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
        main(["inspect", f"run={tiny_run}"])
        out = capsys.readouterr().out
        for text in ("two_moons", "ᾱ_T", "bridge_matching", "iteration held", "02_forward", "sliced_w", "MLP"):
            assert text in out
        assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before
        assert list(here.iterdir()) == []

    def test_a_file_alone_and_no_codes_for_the_terminal(self, file, capsys):
        found = inspect(file)
        assert found["task"] is found["scores"] is found["held"] is found["half_steps"] is found["seconds"] is None
        assert (found["T"], found["versions"]) == (4, {"csb": "9.9"})
        assert json.loads(json_text(found)) == found
        print_inspection({**found, "task": "\x1b[2Jx", "problem": {"name": "x", "root": "\x1b]0;y\x07"}})
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "�[2Jx" in out


def test_export_and_evaluate(tiny_run, here, file, tmp_path, capsys):
    new, folder = tmp_path / "new", shutil.copytree(tiny_run, tmp_path / "run")
    main(["export", f"run={file}", f"out={new}", "licence=mit"])
    assert f"load it with csb.load('{new}')" in capsys.readouterr().out
    assert "license: mit" in (new / "README.md").read_text()
    assert "holds an exported bridge; choose overwrite=true" in refused("export", f"run={file}", f"out={new}")
    line = [
        f"run={folder}", "baselines=none", "metrics.exact_samples=100", "metrics.exact_observations=2",
        "metrics.c2st_samples=0", "metrics.compare_observations=2", "metrics.compare_samples=4",
    ]  # fmt: skip
    main(["evaluate", *line])
    assert json.loads((folder / "report.json").read_text())["command"] == shlex.join(["csb", "evaluate", *line])
    assert list(here.iterdir()) == []


def test_conf_inside_the_package_comes_first(tmp_path):
    assert find_conf() == CONF == ROOT / "conf"
    package = tmp_path / "site-packages" / "csb"
    package.mkdir(parents=True)
    (tmp_path / "site-packages" / "conf").mkdir()
    assert find_conf(package) == tmp_path / "site-packages" / "conf"
    (package / "conf").mkdir()
    (package / "conf" / "train.yaml").touch()
    assert find_conf(package) == package / "conf"


def test_a_built_copy_holds_everything_and_runs_anywhere(tmp_path):
    pytest.importorskip("setuptools")
    source, built, here = tmp_path / "source", tmp_path / "built", tmp_path / "here"
    source.mkdir()
    here.mkdir()
    for name in ("csb", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    line = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)]
    done = subprocess.run(line, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, folder in (("csb", built / "csb"), ("conf", built / "csb" / "conf")):
        for path in (source / name).rglob("*"):
            assert (folder / path.relative_to(source / name)).exists(), path
    code = "import csb.cli.compose as cli; print(cli.CONF); cli.composed('train', ['experiment=bod'])"
    environment = {"PYTHONPATH": str(built), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=here, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"{built / 'csb' / 'conf'}\n", 0), done.stderr
    assert list(here.iterdir()) == []


def test_any_folder_reaches_the_training():
    for text in ("a b", "it's", "a,b=c", "back\\slash", "\\'", "end\\", "{x}", ""):
        (override,) = cli.OverridesParser.create().parse_overrides([f"out={cli.quoted(text)}"])
        assert override.value() == text
