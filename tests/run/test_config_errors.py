"""Bad configurations: one line, exit code 2, no traceback, and nothing made, not even a folder.

What a key's values may be, tests/test_schema.py and tests/run/test_bad_input.py ask of every key without Hydra.
"""

import os

import pytest

from csb.cli import compose as cli
from csb.cli.main import main
from csb.cli.sweep import job_folder
from tests.conftest import refused

REFUSED = [  # arguments, and what the line says
    ("experiment=nope", "nope", "mnist_inpaint"),
    ("problem.name=nope", "problem 'nope' is unknown", "two_moons"),
    ("training.stps=1", "training has no setting 'stps'", "(did you mean steps?)"),
    ("foo=1", "there is no setting 'foo'", "training"),
    ("+problem.foo=1", "problem has no setting 'foo'", "n_train"),
    ("+network.options.foo=1", "network.options has no setting 'foo'", "width"),
    ("+baselines.options.dps={zeta:1}", "baselines.options.dps has no setting 'zeta'", "batch_size,"),
    ("~baselines.sweeps.dps", "baselines.sweeps.dps is missing; give a list of values of step_size"),
    ("training.cache_bytes=10", "training.cache_bytes=10 cannot hold one trajectory"),
    ("sampler.sample_steps=50", "sampler.sample_steps=50 is not possible; give an integer in 1..10"),
    ("trainer.devices=3", "training.batch_size=512, that of all devices together, is not divided evenly among 3"),
    ("T=[1", "T=[1 does not parse; close each bracket"),
    ("name=[a=b]", "name=[a=b] does not parse"),
    ("=3", "override must be a string or a list"),
    ("T=${nowhere}", "nowhere"),
    ("T=3,5", "Ambiguous value for argument 'T=3,5'"),
    ("resume=true overwrite=true", "resume=true and overwrite=true contradict each other"),
    ("objective=mean_matching objective.covariance=diagonal", "mean_matching"),
    ("experiment=mnist_inpaint network.options.channels=20", "channels=20 is not possible; give a multiple of 8"),
    ("experiment=mnist_inpaint objective.covariance=full", "covariance=full"),
    ("network=unet", "network=unet needs images"),
    ("problem.n_train=100 training.batch_size=512", "100 training pairs are fewer than training.batch_size=512"),
    ("schedule=linear evaluate=true baselines.alpha_bar_end=0.99", "beta_min=0.1 is outside [0, 0.0101]"),
    ("schedule=linear stage=denoiser denoiser.alpha_bar_end=0.99", "beta_min=0.1 is outside [0, 0.0101]"),
    ("--multirun problem=two_moons,nope", "nope"),
    ("-m T=range(0,3)", "T=0 is not possible; give an integer in 1..10000"),
    ("-m training.stps=1,2", "training has no setting 'stps'"),
    ("-m T=interval(0,1)", "T=interval(0,1) is not a supported kind of sweep; list the values, key=a,b"),
    ("-m T=2,3 stage=score", "stage=score, evaluate=False cannot be swept over"),
    ("-m T=2,3 evaluate=true", "evaluate=True cannot be swept over"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), [(one, says) for one, *says in REFUSED], ids=[one[0] for one in REFUSED]
)
def test_one_line_before_any_folder_is_made(tmp_path, arguments, says):
    message = refused("train", *arguments.split(), f"out={tmp_path}/new")
    assert all(part in message for part in says), message
    assert os.listdir(tmp_path) == []


def test_folders_that_cannot_be_taken(tmp_path):
    (tmp_path / "name").write_text("mine")
    assert "name: File exists" in refused("train", f"out={tmp_path}", "name=name")
    assert refused("train", "out=/proc/x").startswith("cannot write to /proc/x/two_moons: ")
    assert (tmp_path / "name").read_text() == "mine"
    for file in ("state.safetensors", "bridge.safetensors"):
        folder = tmp_path / file.split(".")[0]
        folder.mkdir()
        (folder / file).touch()
        assert "already holds a run" in refused("train", f"out={tmp_path}", f"name={folder.name}")
    message = refused("train", f"out={tmp_path}", "name=bridge", "resume=true")
    assert "no state.safetensors to resume from" in message


def test_every_job_of_a_good_sweep_is_checked(tmp_path):
    seen = []

    def note(given):
        seen.append((given["problem"]["name"], given["T"]))
        return lambda: None

    cli.check_sweep("train", ["-m", "T=2,3", "problem=two_moons,bod", "++problem.n_val=7", f"out={tmp_path}/n"], note)
    assert sorted(seen) == [(p, t) for p in ("bod", "two_moons") for t in (2, 3)]


def test_names_of_the_folders_of_jobs():
    assert job_folder("problem.root=/data/x,T=2") == "problem.root=_data_x,T=2"
    names = [job_folder(",".join(f"key{i}=ä{i}" for i in range(60)) + f",T={t}") for t in (2, 3)]
    assert names[0] != names[1]
    assert all(len(name.encode()) < 200 for name in names)


class TestCommandLine:
    @pytest.mark.parametrize("arguments", ["T=0", "-m T=3,0", "--cfg job foo=1"])
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
        main(["train", "--cfg", "job", "experiment=bod", "training.steps=7"])
        out = capsys.readouterr().out
        assert "name: bod" in out
        assert "steps: 7" in out
        assert os.listdir(tmp_path) == []

    @pytest.mark.nightly
    def test_data_that_cannot_be_had(self, tmp_path, capfd, monkeypatch):
        """No files, and a network that is a closed port."""
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "")
        with pytest.raises(SystemExit) as end:
            main(["train", "experiment=mnist_inpaint", f"problem.root={tmp_path}/data", f"out={tmp_path}/out"])
        out, err = capfd.readouterr()
        assert end.value.code == 2
        assert err.strip().splitlines()[-1].startswith("error: MNIST is not available: put train-images")
        assert "Traceback" not in err + out
        assert list((tmp_path / "out").rglob("*.safetensors")) == []
