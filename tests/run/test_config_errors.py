"""Bad configurations: one line, exit code 2, no traceback, and nothing made, not even a folder."""

import os

import pytest

from csb.cli import compose as cli
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
    ("problem=nope", "nope", "two_moons"),
    ("schedule=nope", "nope", "cosine"),
    ("network=nope", "nope", "unet"),
    ("objective=nope", "nope", "mean_matching"),
    ("optimizer=nope", "nope", "adamw"),
    ("trainer=nope", "nope", "auto"),
    ("logger=nope", "nope", "wandb"),
    ("problem.name=nope", "problem 'nope' is unknown", "two_moons"),
    ("network.name=nope", "network 'nope' is unknown", "unet"),
    ("objective.name=nope", "objective.name='nope' is unknown", "likelihood"),
    ("objective.covariance=nope", "objective.covariance='nope' is unknown", "diagonal"),
    ("schedule.name=nope", "schedule.name='nope' is unknown", "cosine"),
    ("logger.name=nope", "logger.name='nope' is unknown", "csv"),
    ("network.parametrisation.backward=nope", "network.parametrisation.backward='nope' is unknown", "drift"),
    ("network.parametrisation.forward=nope", "network.parametrisation.forward='nope' is unknown", "x0"),
]


@pytest.mark.parametrize(("argument", "name", "choice"), NAMES, ids=[n[0] for n in NAMES])
def test_unknown_names_are_told_with_their_choices(tmp_path, argument, name, choice):
    message = refuse(argument, f"out={tmp_path}/new")
    assert name in message
    assert choice in message
    assert os.listdir(tmp_path) == []


VALUES = [
    ("T=0", "T=0 is not possible; give an integer in 1..10000"),
    ("T=1.5", "T=1.5 is not possible; give an integer in 1..10000"),
    ("T=abc", "T='abc' is not possible; give an integer in 1..10000"),
    ("T=true", "T=True is not possible; give an integer in 1..10000"),
    ("T=null", "T=None is not possible; give an integer in 1..10000"),
    ("L=0", "L=0 is not possible"),
    ("L=2.5", "L=2.5 is not possible"),
    ("L=many", "L='many' is not possible"),
    ("seed=-1", "seed=-1 is not possible"),
    ("seed=x", "seed='x' is not possible"),
    ("foo=1", "foo"),
    ("training.foo=1", "foo"),
    ("+training.foo=1", "foo"),
    ("+optimizer.foo=1", "foo"),
    ("+metrics.foo=1", "foo"),
    ("+trainer.foo=1", "foo"),
    ("+problem.foo=1", "problem has no setting 'foo'"),
    ("+process.foo=1", "foo"),
    ("+network.options.foo=1", "network.options has no setting 'foo'"),
    ("network.options.width=0", "width=0 is not possible"),
    ("network.options=3", "network.options=3"),
    ("network.parametrisation=v", "network.parametrisation='v'"),
    ("optimizer.lr=-1", "optimizer.lr=-1 is not possible"),
    ("optimizer.lr=fast", "optimizer.lr='fast' is not possible"),
    ("optimizer.ema=1", "optimizer.ema=1 is not possible"),
    ("training.steps=0", "training.steps=0 is not possible"),
    ("training.last_forward=3", "training.last_forward=3"),
    ("training.cache_bytes=10", "training.cache_bytes=10 cannot hold one trajectory"),
    ("schedule.alpha_bar_end=2", "schedule.alpha_bar_end=2 is not possible; give a number in (0, 1) or null"),
    ("schedule.alpha_bar_end=x", "schedule.alpha_bar_end='x' is not possible; give a number"),
    ("+schedule.power=-1", "schedule has no setting 'power'; choose among alpha_bar_end, scale"),
    ("schedule.scale=2", "schedule.scale=2 is not possible"),
    ("sampler.sample_steps=50", "sampler.sample_steps=50 is not possible; give an integer in 1..10"),
    ("sampler.sample_steps=0", "sampler.sample_steps=0 is not possible"),
    ("training.select=worst", "training.select='worst' is unknown"),
    ("training.patience=-1", "training.patience=-1"),
    ("objective.components=0", "objective.components=0"),
    ("problem.n_train=0", "problem.n_train=0 is not possible; give an integer of at least 1"),
    ("problem.n_train=lots", "problem.n_train='lots' is not possible; give an integer"),
    ("problem.transform=clamp", "transform='clamp' is unknown; choose one of standardise, reflect, probit"),
    ("objective.variance_floor=-1", "objective.variance_floor=-1 is not possible; give a number in [0, 1]"),
    ("objective.variance_floor=x", "objective.variance_floor='x' is not possible"),
    ("trainer.precision=16", "precision=16 is unknown"),
    ("trainer.accelerator=quantum", "trainer.accelerator='quantum'"),
    ("trainer.devices=0", "trainer.devices=0"),
    ("trainer.devices=auto", "trainer.devices='auto' is not possible; give an integer of at least 1"),
    ("trainer.num_nodes=0", "trainer.num_nodes=0 is not possible"),
    (
        "trainer.devices=3",
        "training.batch_size=1024, that of all devices together, is not divided evenly among 3 of them",
    ),
    ("trainer.strategy=fsdp", "trainer.strategy='fsdp' is unknown; choose one of auto, ddp"),
    ("trainer.compile=1", "trainer.compile=1 is not possible; give true or false"),
    ("trainer.cuda_graphs=1", "trainer.cuda_graphs=1 is not possible; give true or false"),
    ("trainer.gpu_share=2", "trainer.gpu_share=2 is not possible; give a number in [0, 1]"),
    ("logger.mode=loud", "mode"),
    ("metrics.picture_rows=99", "metrics.picture_rows=99 is not possible"),
    ("metrics.exact_samples=x", "metrics.exact_samples='x' is not possible"),
    ("metrics.c2st_observations=0", "metrics.c2st_observations=0 is not possible"),
    ("baselines.min_std=0", "baselines.min_std=0 is not possible; give a finite number above 0"),
    ("baselines.min_std=inf", "baselines.min_std=inf is not possible"),
    ("baselines.alpha_bar_end=0", "baselines.alpha_bar_end=0 is not possible; give a number in (0, 1) or null"),
    ("baselines.alpha_bar_end=1", "baselines.alpha_bar_end=1 is not possible"),
    ("baselines.alpha_bar_end=far", "baselines.alpha_bar_end='far' is not possible"),
    ("baselines.sweeps.dps=[0]", "baselines.sweeps.dps[0]=0 is not possible; give a finite number above 0"),
    ("baselines.sweeps.dps=[0.1,inf]", "baselines.sweeps.dps[1]=inf is not possible"),
    ("baselines.sweeps.dps=[true]", "baselines.sweeps.dps[0]=True is not possible"),
    ("baselines.sweeps.dps=[]", "baselines.sweeps.dps=[] is not possible; give a list that is not empty"),
    ("baselines.sweeps.dps=1", "baselines.sweeps.dps=1 is not possible; give a list"),
    ("+baselines.sweeps.tds=[1]", "baselines.sweeps has no setting 'tds'; choose among dps"),
    ("baselines.sweeps=null", "baselines.sweeps=None is not possible; give a table"),
    ("~baselines.sweeps.dps", "baselines.sweeps.dps is missing; give a list of values of step_size"),
    ("+baselines.options.dsp={}", "baselines.options has no setting 'dsp'; choose among tds, smc, dps, replacement"),
    ("+baselines.options.dps=1", "baselines.options.dps=1 is not possible; give a table"),
    (
        "+baselines.options.dps={zeta: 1}",
        "baselines.options.dps has no setting 'zeta'; choose among batch_size,",
    ),
    ("baselines.ess_threshold=1.5", "baselines.ess_threshold=1.5 is not possible; give a number in [0, 1]"),
    ("baselines.particles=[0]", "baselines.particles[0]=0 is not possible"),
    ("baselines.methods=[nope]", "baselines.methods[0]='nope' is unknown; choose one of tds"),
    ("sampler.batch_size=0", "sampler.batch_size=0 is not possible"),
    ("sampler.refine=-1", "sampler.refine=-1 is not possible"),
    ("sampler.mean_only=7", "sampler.mean_only=7"),
    ("resume=perhaps", "resume='perhaps' is not possible; give true or false"),
    ("overwrite=1", "overwrite=1 is not possible; give true or false"),
    ("network=unet", "network=unet needs images"),
    ("training=null", "training"),
    ("problem=null", "problem"),
    ("T=[1", "no viable alternative at input '[1'"),
    ("T", "T"),
    ("=3", "override must be a string or a list"),
    ("T=${nowhere}", "nowhere"),
    ("~objective.covariance", "covariance"),
    ("name=null", "name"),
    ("out=null", "out"),
]


@pytest.mark.parametrize(("argument", "message"), VALUES, ids=[v[0] for v in VALUES])
def test_bad_values(tmp_path, argument, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = [] if argument.startswith("out") else [f"out={tmp_path}/new"]
    assert message in refuse(argument, *where)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["training.batch_size=10", "training.states_per_pair=4"],
            "training.batch_size=10 is not a multiple of training.states_per_pair=4",
        ),
        (["resume=true", "overwrite=true"], "resume=true and overwrite=true contradict each other"),
        (["objective=mean_matching", "objective.covariance=diagonal"], "mean_matching"),
        (["experiment=mnist_inpaint", "network.options.patch=3"], "patch=3 does not divide the 28×28 image"),
        (
            ["experiment=mnist_inpaint", "problem.hole=13"],
            "problem.hole=13 is not possible; give a multiple of 2",
        ),
        (
            ["experiment=mnist_inpaint", "network.options.channels=20"],
            "channels=20 is not possible; give a multiple of 8",
        ),
        (["experiment=mnist_inpaint", "objective.covariance=full"], "covariance=full"),
        (["problem.n_train=100", "training.batch_size=512"], "100"),
        (["schedule=linear", "evaluate=true", "baselines.alpha_bar_end=0.99"], "beta_min=0.1 is outside [0, 0.0101]"),
        (["schedule=linear", "stage=denoiser", "denoiser.alpha_bar_end=0.99"], "beta_min=0.1 is outside [0, 0.0101]"),
    ],
    ids=" ".join,
)
def test_values_that_do_not_go_together(tmp_path, arguments, message):
    assert message in refuse(*arguments, f"out={tmp_path}/new")
    assert os.listdir(tmp_path) == []


class TestFolder:
    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "out").write_text("mine")
        assert "out" in refuse(f"out={tmp_path}/out")
        (tmp_path / "name").write_text("mine")
        assert "name is a file" in refuse(f"out={tmp_path}", "name=name")
        assert (tmp_path / "out").read_text() == (tmp_path / "name").read_text() == "mine"

    def test_a_folder_that_cannot_be_made(self):
        assert refuse("out=/proc/x").startswith("cannot write to /proc/x/two_moons: ")

    def test_another_run(self, tmp_path):
        for file in ("state.safetensors", "bridge.safetensors"):
            (tmp_path / file).mkdir()
            (tmp_path / file / "run").mkdir()
        for file in ("state.safetensors", "bridge.safetensors"):
            folder = tmp_path / "a" / file.split(".")[0]
            folder.mkdir(parents=True)
            (folder / file).write_text("")
            assert "already holds a run" in refuse(f"out={folder.parent}", f"name={folder.name}")
        assert "no state.safetensors to resume from" in refuse(f"out={tmp_path}/a", "name=bridge", "resume=true")


class TestSweeps:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["T=3,0"], "T=0 is not possible; give an integer in 1..10000"),
            (["T=3,5", "L=1,2,x"], "L='x' is not possible"),
            (["problem=two_moons,nope"], "nope"),
            (["network=mlp,unet"], "network=unet needs images"),
            (["T=range(0,3)"], "T=0 is not possible; give an integer in 1..10000"),
            (["training.steps=choice(10,-1)"], "training.steps=-1 is not possible"),
        ],
        ids=" ".join,
    )
    @pytest.mark.parametrize("flag", ["-m", "--multirun"])
    def test_one_bad_value_stops_all(self, tmp_path, flag, arguments, message):
        assert message in refuse(flag, *arguments, f"out={tmp_path}/new")
        assert os.listdir(tmp_path) == []

    def test_good_ones_pass(self, tmp_path):
        seen = []
        arguments = ["-m", "T=2,3", "L=1,2", "problem=two_moons,bod", "+problem.n_val=7", f"out={tmp_path}/new"]

        def note(given):
            seen.append((given["problem"]["name"], given["T"], given["L"]))
            return lambda: None

        cli.check_sweep("train", arguments, note)
        assert sorted(seen) == [(p, t, n) for p in ("bod", "two_moons") for t in (2, 3) for n in (1, 2)]

    def test_a_comma_without_the_flag(self, tmp_path):
        assert "T" in refuse("T=3,5", f"out={tmp_path}/new")
        assert os.listdir(tmp_path) == []


def exits(done, message):
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert message in done.err


class TestCommandLine:
    """The same through train.py, in processes of their own."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["T=0"], "T=0 is not possible; give an integer in 1..10000"),
            (["problem=nope"], "nope"),
            (["-m", "T=3,0"], "T=0 is not possible; give an integer in 1..10000"),
            (["--multirun", "L=1,x"], "L='x'"),
            (["foo=1"], "foo"),
            (["T=[1"], "no viable alternative at input '[1'"),
        ],
        ids=" ".join,
    )
    def test_exit_code_and_one_line(self, command, tmp_path, arguments, message):
        exits(command(*arguments, f"out={tmp_path}/new", cwd=tmp_path), message)
        assert os.listdir(tmp_path) == []

    def test_help(self, command, tmp_path):
        done = command("--help", cwd=tmp_path)
        assert done.code == 0
        assert "mnist_inpaint" in done.out
        done = command("--cfg", "job", "experiment=bod", cwd=tmp_path)
        assert done.code == 0
        assert "name: bod" in done.out
        assert os.listdir(tmp_path) == []

    def test_data_that_cannot_be_had(self, command, tmp_path):
        """No files, no network: pip and torchvision are pointed at a closed port."""
        environment = {
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": None, "PIP_CONFIG_FILE": os.devnull,
            "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": "",
            "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "PIP_NO_INDEX": "1",
        }  # fmt: skip
        arguments = ["experiment=mnist_inpaint", f"problem.root={tmp_path}/data", f"out={tmp_path}/out"]
        done = command(*arguments, env=environment, timeout=60)
        assert done.code == 2
        assert done.err.strip().splitlines()[-1].startswith("error: MNIST is not available: put the four")
        assert "Traceback" not in done.err + done.out
        assert list((tmp_path / "out").rglob("*.safetensors")) == []
