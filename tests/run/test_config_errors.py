"""Bad configurations: one line, exit code 2, no traceback, and nothing made, not even a folder.

What a key's values may be, tests/test_schema.py and tests/run/test_bad_input.py ask of every key without Hydra.
"""

import os

import pytest

from csb.cli import compose as cli
from csb.cli.main import main
from csb.cli.sweep import job_folder
from csb.errors import CSBError
from tests.conftest import checked


def refuse(*arguments):
    """The one line with which the command line refuses."""
    with pytest.raises(CSBError) as error:
        checked("train", *arguments)
    message = str(error.value)
    assert "\n" not in message
    assert 10 < len(message) < 600
    return message


NAMES = [
    ("experiment=nope", "nope", "mnist_inpaint"),
    ("network=nope", "nope", "unet"),
    ("problem.name=nope", "problem 'nope' is unknown", "two_moons"),
    ("network.name=nope", "network 'nope' is unknown", "unet"),
    ("objective.covariance=nope", "objective.covariance='nope' is unknown", "diagonal"),
    ("schedule.name=nope", "schedule.name='nope' is unknown", "cosine"),
    ("network.parametrisation.backward=nope", "network.parametrisation.backward='nope' is unknown", "drift"),
    ("trainer.strategy=fsdp", "trainer.strategy='fsdp' is unknown", "auto, ddp"),
    ("training.stps=1", "training has no setting 'stps'", "(did you mean steps?)"),
    ("foo=1", "there is no setting 'foo'", "training"),
    ("+problem.foo=1", "problem has no setting 'foo'", "n_train"),
    ("+network.options.foo=1", "network.options has no setting 'foo'", "width"),
    ("+baselines.sweeps.tds=[1]", "baselines.sweeps has no setting 'tds'", "dps"),
    ("+baselines.options.dps={zeta: 1}", "baselines.options.dps has no setting 'zeta'", "batch_size,"),
]


@pytest.mark.parametrize(("argument", "name", "choice"), NAMES, ids=[n[0] for n in NAMES])
def test_unknown_names_are_told_with_their_choices(tmp_path, argument, name, choice):
    message = refuse(argument, f"out={tmp_path}/new")
    assert name in message
    assert choice in message
    assert os.listdir(tmp_path) == []


VALUES = [
    ("T=true", "T=True is not possible; give an integer in 1..10000"),
    ("network.options.width=0", "width=0 is not possible"),
    ("training.cache_bytes=10", "training.cache_bytes=10 cannot hold one trajectory"),
    ("schedule.alpha_bar_end=2", "schedule.alpha_bar_end=2 is not possible; give a number in (0, 1) or null"),
    ("sampler.sample_steps=50", "sampler.sample_steps=50 is not possible; give an integer in 1..10"),
    ("trainer.devices=3", "training.batch_size=1024, that of all devices together, is not divided evenly among 3"),
    ("metrics.picture_rows=99", "metrics.picture_rows=99 is not possible"),
    ("baselines.sweeps.dps=[0.1,inf]", "baselines.sweeps.dps[1]=inf is not possible"),
    ("~baselines.sweeps.dps", "baselines.sweeps.dps is missing; give a list of values of step_size"),
    ("network=unet", "network=unet needs images"),
    ("problem=null", "problem=null is not possible; give a name or a table"),
    ("T=[1", "T=[1 does not parse; close each bracket"),
    ("name=[a=b]", "name=[a=b] does not parse"),
    ("=3", "override must be a string or a list"),
    ("T=${nowhere}", "nowhere"),
    ("T=3,5", "Ambiguous value for argument 'T=3,5'"),
    ("name=null", "name=None is not possible; give a path"),
    ("resume=true overwrite=true", "resume=true and overwrite=true contradict each other"),
    ("training.batch_size=10 training.states_per_pair=4", "is not a multiple of training.states_per_pair=4"),
    ("objective=mean_matching objective.covariance=diagonal", "mean_matching"),
    ("experiment=mnist_inpaint network.options.patch=3", "patch=3 does not divide the 28×28 image"),
    ("experiment=mnist_inpaint network.options.channels=20", "channels=20 is not possible; give a multiple of 8"),
    ("experiment=mnist_inpaint objective.covariance=full", "covariance=full"),
    ("problem.n_train=100 training.batch_size=512", "100 training pairs are fewer than training.batch_size=512"),
    ("schedule=linear evaluate=true baselines.alpha_bar_end=0.99", "beta_min=0.1 is outside [0, 0.0101]"),
    ("schedule=linear stage=denoiser denoiser.alpha_bar_end=0.99", "beta_min=0.1 is outside [0, 0.0101]"),
]


@pytest.mark.parametrize(("arguments", "message"), VALUES, ids=[v[0] for v in VALUES])
def test_bad_values(tmp_path, arguments, message):
    assert message in refuse(*arguments.split(), f"out={tmp_path}/new")
    assert os.listdir(tmp_path) == []


class TestFolder:
    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "out").write_text("mine")
        assert "out" in refuse(f"out={tmp_path}/out")
        (tmp_path / "name").write_text("mine")
        assert "name is a file" in refuse(f"out={tmp_path}", "name=name")
        assert refuse("out=/proc/x").startswith("cannot write to /proc/x/two_moons: ")
        assert (tmp_path / "out").read_text() == (tmp_path / "name").read_text() == "mine"

    def test_another_run(self, tmp_path):
        for file in ("state.safetensors", "bridge.safetensors"):
            folder = tmp_path / file.split(".")[0]
            folder.mkdir()
            (folder / file).write_text("")
            assert "already holds a run" in refuse(f"out={tmp_path}", f"name={folder.name}")
        assert "no state.safetensors to resume from" in refuse(f"out={tmp_path}", "name=bridge", "resume=true")


class TestSweeps:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("-m T=3,5 L=1,x", "L='x' is not possible"),
            ("--multirun problem=two_moons,nope", "nope"),
            ("-m T=range(0,3)", "T=0 is not possible; give an integer in 1..10000"),
            ("-m training.stps=1,2", "training has no setting 'stps'"),
            ("-m T=interval(0,1)", "T=interval(0,1) is not a supported kind of sweep; list the values, key=a,b"),
            ("-m T=2,3 stage=score", "stage=score, evaluate=False cannot be swept over"),
        ],
    )
    def test_one_bad_value_stops_all(self, tmp_path, arguments, message):
        assert message in refuse(*arguments.split(), f"out={tmp_path}/new")
        assert os.listdir(tmp_path) == []

    def test_good_ones_pass(self, tmp_path):
        seen = []
        arguments = ["-m", "T=2,3", "problem=two_moons,bod", "+problem.n_val=7", f"out={tmp_path}/new"]

        def note(given):
            seen.append((given["problem"]["name"], given["T"]))
            return lambda: None

        cli.check_sweep("train", arguments, note)
        assert sorted(seen) == [(p, t) for p in ("bod", "two_moons") for t in (2, 3)]

    def test_names_of_folders(self):
        assert job_folder("problem.root=/data/x,T=2") == "problem.root=_data_x,T=2"
        names = [job_folder(",".join(f"key{i}=ä{i}" for i in range(60)) + f",T={t}") for t in (2, 3)]
        assert names[0] != names[1]
        assert all(len(name.encode()) < 200 for name in names)


class TestCommandLine:
    """The same through csb.cli.main."""

    @pytest.mark.parametrize("arguments", ["T=0", "-m T=3,0", "foo=1", "--cfg job foo=1"])
    def test_exit_code_and_one_line(self, tmp_path, capsys, monkeypatch, arguments):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main(["train", *arguments.split(), f"out={tmp_path}/new"])
        out, err = capsys.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
        assert os.listdir(tmp_path) == []

    def test_a_config_is_shown(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        main(["train", "--cfg", "job", "experiment=bod", "ipf.steps=7"])
        out = capsys.readouterr().out
        assert "name: bod" in out
        assert "steps: 7" in out
        assert os.listdir(tmp_path) == []

    def test_data_that_cannot_be_had(self, tmp_path, capfd, monkeypatch):
        """No files, no network: pip and torchvision are pointed at a closed port."""
        monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        environment = {
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1",
            "PIP_RETRIES": "0",
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
        }  # fmt: skip
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            main(["train", "experiment=mnist_inpaint", f"problem.root={tmp_path}/data", f"out={tmp_path}/out"])
        out, err = capfd.readouterr()
        assert end.value.code == 2
        assert err.strip().splitlines()[-1].startswith("error: MNIST is not available: put the four")
        assert "Traceback" not in err + out
        assert list((tmp_path / "out").rglob("*.safetensors")) == []
