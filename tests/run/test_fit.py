"""Training from Python: whatever arrays hold the pairs, the result is one; what is wrong is told in one line."""

import inspect
import json
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, Poisson, Uniform
from torch.utils.data import TensorDataset

import csb
from csb.bridge import build_bridge
from csb.cli.commands import Imports
from csb.errors import CSBError
from csb.networks import ENCODERS, NETWORKS, Encoder, Network
from csb.problems import TwoMoons, sources
from csb.runs.fit import Options
from csb.runs.options import configured
from csb.training.stage import Stage
from tests.conftest import checked, one_line

SMALL = {
    "L": 1, "T": 3, "network": {"name": "mlp", "width": 8, "depth": 1}, "progress": False,
    "training": {"first_steps": 12, "steps": 8, "batch_size": 32, "trajectories": 64, "precision": "32-true"},
}  # fmt: skip


def pairs(n=200):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    return x, torch.cat([x, x.sum(1, keepdim=True)], 1) + 0.1


@pytest.fixture(scope="module")
def reference():
    """The run of tensors that others must equal."""
    return csb.fit(*pairs(), **SMALL)


def assert_same(run, reference):
    found, expected = run.bridge.state_dict(), reference.bridge.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def holders(folder):
    """The pairs as people hold them."""
    x, y = (part.numpy() for part in pairs())
    with h5py.File(folder / "pairs.h5", "w") as file:
        file["x"], file["y"] = x, y
    file = h5py.File(folder / "pairs.h5")
    return {
        "float64": (x.astype(np.float64), y.astype(np.float64)), "lists": (x.tolist(), y.tolist()),
        "h5py": (file["x"], file["y"]),
        "frame": (SimpleNamespace(columns=["mass", "spin"], to_numpy=lambda: x), y),
        "dataset": (TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), None),
    }  # fmt: skip


def test_the_holder_of_the_pairs_changes_nothing_and_without_out_nothing_stays(reference, tmp_path, monkeypatch):
    """Neither the settings nor the pairs, and so not the training, which is tried with a frame."""
    held, scratch = holders(tmp_path), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    expected = configured(*pairs(), Options(**SMALL))[0].problem.pairs("train")
    for kind, given in held.items():
        found = configured(*given, Options(**SMALL))[0].problem.pairs("train")
        assert all(torch.equal(a, b) for a, b in zip(found[:2], expected[:2], strict=True)), kind
    run = csb.fit(*held["frame"], **SMALL)
    assert_same(run, reference)
    assert (run.names, reference.names) == (["mass", "spin"], ["x0", "x1"])
    assert run.bridge.sample(pairs()[1][0], 5, seed=0).x.shape == (5, 2)
    del run
    assert not list(scratch.iterdir())


def test_the_command_line_trains_the_same(reference, tmp_path):
    x, y = (part.numpy() for part in pairs())
    np.savez(tmp_path / "pairs.npz", x=x, y=y)
    checked(
        "train", "experiment=pairs", f"data.path={tmp_path}/pairs.npz", "L=1", "T=3", "logger=none", "progress=false",
        "network.options={width: 8, depth: 1}", f"out={tmp_path}", "name=run", "trainer.precision=32-true",
        "training.first_steps=12", "training.steps=8", "training.batch_size=32", "training.trajectories=64",
    )()  # fmt: skip
    assert_same(csb.Run.open(tmp_path / "run"), reference)


def test_a_run_is_kept_opened_and_exported(reference, tmp_path, monkeypatch):
    again = csb.Run.open(reference.save(tmp_path / "kept"))
    y = pairs()[1][:2]
    drawn = reference.bridge.sample(y, 3, seed=1).x
    assert torch.equal(again.bridge.sample(y, 3, seed=1).x, drawn)
    assert torch.equal(csb.load(again.export(tmp_path / "shared")).sample(y, 3, seed=1).x, drawn)
    assert again.scores["iteration"] == 1
    assert again.scores["crps"] > 0
    assert len(str(again).splitlines()) == 5
    assert str(tmp_path / "kept") in again._repr_html_()
    assert "File exists" in one_line(lambda: reference.save(tmp_path / "kept"))
    for name in ("ARRAYS", "DATASETS"):  # as in another process
        monkeypatch.setattr(sources, name, {})
    monkeypatch.setattr("csb.problems.pairs._HELD", {})
    message = one_line(csb.Run.open(tmp_path / "kept").problem.prepare)
    assert "its pairs were given in Python; give them as a file, data=…" in message


def test_two_fits_in_one_process_keep_their_own_pairs(reference, tmp_path):
    kept, (x, y) = reference.save(tmp_path / "kept"), pairs()
    second = csb.fit(x, -y, **SMALL)
    for found, expected in ((csb.Run.open(kept), reference), (csb.Run.open(second.folder), second)):
        assert torch.equal(found.problem.pairs("test").y, expected.problem.pairs("test").y)
    assert not torch.equal(reference.problem.pairs("test").y, second.problem.pairs("test").y)
    assert "leave it out" in one_line(lambda: second.compare([reference]))


def test_diagnostics(reference):
    found = reference.diagnose(observations=20, samples=40)
    assert {"corner", "recovery", "sbc_ecdf", "coverage", "tarp", "z_contraction", "loss"} <= set(found.figures)
    assert [row["parameter"] for row in found.table] == ["x0", "x1"]
    assert reference.plot_losses() is not None


class Plain(Network):
    """A network of a user's own."""

    def __init__(self, z_shape, c_shape, heads, *, width: int = 4):
        super().__init__(z_shape, c_shape, heads)
        self.layer = torch.nn.Linear(z_shape[0] + c_shape[0] + 1, heads * z_shape[0])

    def encode(self, c):
        return c

    def forward(self, z, time, context):
        both = torch.cat([z, context, time.expand(len(z))[:, None]], 1)
        return self.layer(both).unflatten(1, (self.heads, *self.z_shape))


class Own(Encoder):
    """An encoder of a user's own."""

    def __init__(self, c_shape, width, *, power: int = 1):
        super().__init__(c_shape, width)
        self.power, self.layer = power, torch.nn.Linear(c_shape[0], width)

    def forward(self, c):
        return self.layer(c) ** self.power


class Wrong(Own):
    def forward(self, c):
        return c


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "cls", "known"), [("network", Plain, NETWORKS), ("encoder", Own, ENCODERS)])
def test_own_classes_need_no_registration(tmp_path, kind, cls, known):
    run = csb.fit(*pairs(), out=tmp_path / "run", **{**SMALL, kind: cls})
    y, file, name = pairs()[1][0], tmp_path / "run" / "bridge.safetensors", cls.__name__
    network = run.bridge.kernel("backward").network
    assert isinstance(network if kind == "network" else network.encoder, cls)
    expected = run.bridge.sample(y, 4, seed=0).x
    del known[name]
    with pytest.raises(CSBError, match=rf"networks=\{{'{name}': My{kind.capitalize()}\}}"):
        csb.load(file)
    assert torch.equal(csb.load(file, networks={name: cls}).sample(y, 4, seed=0).x, expected)


OWN = """
import torch
import csb
from csb.networks import Network
from csb.problems import Simulated

@csb.register
{network}

@csb.register
class Ring(Simulated):
    name, x_shape, y_shape = "ring", (2,), (1,)
    noise: float = 0.1

    def prior(self, n, generator):
        return torch.randn(n, 2, generator=generator)

    def observe(self, x, generator):
        return x.norm(dim=1, keepdim=True) + self.noise * torch.randn(len(x), 1, generator=generator)
"""


def test_own_classes_on_the_command_line(tmp_path):
    """In the process of the command, of a sweep's workers, and of a training on two devices."""
    (tmp_path / "mine.py").write_text(OWN.replace("{network}", inspect.getsource(Plain)))
    train = [
        "train", "import=mine", "problem=ring", "network=Plain", "problem.noise=0.2", "problem.n_train=200", "L=1",
        "training.first_steps=4", "training.steps=4", "training.batch_size=32", "metrics.exact_observations=2",
        "metrics.observations=2", "metrics.samples=4", "metrics.picture_rows=1", "logger=none", "progress=false",
        "out=.",
    ]  # fmt: skip
    two = ["T=3", "name=run", "trainer.devices=2", "trainer.accelerator=cpu"]
    for line in (
        [*train, *two],
        ["sample", "import=mine", "run=run", "observations=2", "n=3"],
        ["train", "-m", *train[1:], "sweep=joblib", "hydra.launcher.n_jobs=2", "T=2,3", "name=swept"],
    ):
        code = f"from csb.cli.main import main; main({line!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "samples.npz")["x"].shape == (2, 3, 2)
    jobs = [json.loads(path.read_text()) for path in (tmp_path / "sweeps" / "swept").glob("*/result.json")]
    assert sorted(job["T"] for job in jobs) == [2, 3]
    assert not [job for job in jobs if "error" in job]


def test_what_cannot_be_imported_or_registered(tmp_path):
    message = one_line(Imports(str(tmp_path), ["nowhere"]).load)
    assert "import=nowhere cannot be imported (ModuleNotFoundError" in message
    own = type("Mine", (TwoMoons,), {"__module__": "mine"})
    for cls, message in ((int, "no Network, Encoder or"), (3, "is no Network"), (own, "one of csb's own")):
        assert message in one_line(lambda cls=cls: csb.register(cls))


@pytest.mark.nightly
def test_kinds_and_bounds_by_name_or_number(tmp_path):
    y, names = pairs()[1], ["rate", "phase", "count", "group"]
    x = torch.stack([y[:, 0].exp(), (3 * y[:, 1]).sin(), y[:, 2].exp().floor(), (y[:, :2] > 0).sum(1)], 1)
    bounds, kinds = {"rate": (0, None), 1: (-1.0, 1.0)}, {"phase": "angle", 2: "integer", "group": "category"}
    csb.fit(x, y, names=names, bounds=bounds, kinds=kinds, **SMALL, out=tmp_path / "run")
    bridge = csb.load(tmp_path / "run")
    spec = bridge.transform.spec()
    assert (spec["low"], spec["high"]) == ([0.0, -1.0, None, 0.0], [None, 1.0, None, 2.0])
    assert spec["kinds"] == ["real", "angle", "integer", "category"]
    assert bool(bridge.log_prob(bridge.sample(y[:3], 50).x, y[:3], 8).isfinite().all())  # where samples may be
    for wrong, message in (
        ({"kinds": {"phse": "angle"}}, "choose among rate, phase, count, group or numbers 0..3 (did you mean phase?)"),
        ({"kinds": {"phase": "angel"}}, "kinds[1]='angel' is unknown; choose one of real, angle"),
        ({"bounds": {4: (0, 1)}}, "bounds has no coordinate 4"),
        ({"bounds": {"rate": 0}}, "bounds has 0 for a coordinate; give (low, high)"),
        ({"bounds": 5}, "bounds=5 are no two sides; give (low, high)"),
        ({"bounds": (0, 1, 2)}, "bounds=(0, 1, 2) are no two sides; give (low, high)"),
        ({"encoder": {"a": "set"}}, "encoder={'a': 'set'} has no name"),
        ({"problem": TwoMoons(), "kinds": {0: "angle"}}, "give pairs, or a problem"),
    ):
        assert message in one_line(lambda wrong=wrong: csb.fit(x, y, names=names, **wrong, **SMALL))
    assert "not known to denoisers" in one_line(lambda: csb.fit_denoiser(x, kinds=["real"] * 4, progress=False))


def counts(n):
    return torch.stack([torch.randn(n), torch.randint(4, (n,)).float()], 1)


def gaussian(n):
    return torch.randn(n, 1)


def test_a_problem_of_two_functions():
    def simulator(theta, generator):
        return theta + 0.1 * torch.randn(theta.shape, generator=generator)

    one, two, other = [csb.problem(gaussian, simulator, 300, seed=s).pairs("train") for s in (0, 0, 1)]
    assert torch.equal(torch.cat([one.x, one.y]), torch.cat([two.x, two.y]))
    assert not torch.equal(one.x, other.x)
    assert abs(float((one.y - one.x).std()) - 0.1) < 0.02


def test_a_problem_of_distributions_keeps_their_box_and_the_random_state():
    state, numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (simulators use it)
    prior = [Uniform(torch.zeros(1), torch.ones(1)), Normal(0.0, 1.0)]
    found = csb.problem(prior, lambda theta: [float(theta[0]), 2.0 * float(theta[1])], 150)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy).all()  # noqa: NPY002
    assert found.support.low == (0.0, -torch.inf)
    assert found.support.high == (1.0, torch.inf)
    x, y, _ = found.pairs("train")
    assert torch.allclose(y[:, 1], 2 * x[:, 1])


@pytest.mark.nightly
def test_a_problem_with_kinds():
    """Fresh pairs hold whole numbers of a prior that has no density."""
    prior, bounds = [Uniform(torch.zeros(1), torch.ones(1)), Poisson(3 * torch.ones(1))], ([0, 0], [1, 40])
    found = csb.problem(prior, lambda x: x + 0.1, bounds=bounds, kinds={1: "integer"})
    assert found.kinds == ("real", "integer")
    assert found.new_transform().spec()["kinds"] == ["real", "integer"]
    fresh = found.fresh(0, 0).head(100).x
    assert torch.equal(fresh[:, 1], fresh[:, 1].round())
    run = csb.fit(problem=found, L=1, T=2, training={"first_steps": 20, "steps": 5, "batch_size": 32}, progress=False)
    drawn = run.bridge.sample(found.pairs("test", 3).y, 20, seed=0).x
    assert torch.equal(drawn[..., 1], drawn[..., 1].round())


def test_simulations_are_flattened_and_left_out_where_they_are_not_finite(caplog):
    for inner, kept in (((3, 4), (3, 4)), ((1, 3, 4), (1, 3, 4)), ((1, 1, 3, 4), (12,))):  # a series, and an image
        found = csb.problem(torch.randn(100, 2), lambda theta, i=inner: torch.rand(len(theta), *i), 100)
        assert found.y_shape == kept
    gaps = csb.problem(
        torch.randn(1000, 2), lambda theta: torch.where(theta[:, :1] > 1, theta * torch.tensor([1, torch.nan]), theta)
    )
    assert sum(gaps.sizes.values()) == 1000  # a value that is missing is no failure
    found = csb.problem(torch.randn(1000, 2), lambda theta: torch.where(theta[:, :1] > 1, torch.nan, theta))
    assert not found.is_endless  # an array of draws is simulated once
    assert 800 < sum(found.sizes.values()) < 880  # Φ(1) = .841
    assert float(found.pairs("train").x[:, 0].max()) <= 1
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: csb.fit(), "x and y are missing"),
        (lambda: csb.fit(*pairs(), problem=TwoMoons()), "give pairs, or a problem"),
        (lambda: csb.fit(problem=3), "problem=3 is no csb.problems.Problem"),
        (lambda: csb.fit(pairs(50)[0], pairs(50)[1]), "holds 50 pairs; at least 100"),
        (lambda: csb.fit(pairs()[0], pairs(300)[1]), "200 x and 300 y"),
        (lambda: csb.fit("a", pairs()[1]), "x is str"),
        (lambda: csb.fit(pairs()[0] * torch.nan, pairs()[1], **SMALL), "NaN, infinite"),
        (lambda: csb.fit(*pairs(), network="mpl"), "did you mean mlp"),
        (lambda: csb.fit(*pairs(), training={"stepz": 3}), "did you mean steps"),
        (lambda: csb.fit(*pairs(), encoder="none", **SMALL), "encoder 'none' is unknown; choose one of vector"),
        (lambda: csb.fit(*pairs(), encoder=Wrong, **SMALL), "Wrong gives contexts of shape (3,); expected (8,)"),
        (lambda: csb.fit(*pairs(), encoder="vector", **{**SMALL, "network": Plain}), "has no setting 'encoder'"),
        (lambda: csb.fit(*pairs(), devices=2, accelerator="cpu", **SMALL), "devices=2 lacks out="),
        (lambda: csb.fit(*pairs(), devices=2, accelerator="cpu", out="new", **SMALL), "torchrun --standalone --nproc"),
        (lambda: csb.fit(*pairs(), ensemble=1), "ensemble=1 is not possible; give an integer in 2..1000"),
        (lambda: csb.fit(*pairs(), ensemble=2, devices=2), "train members one by one"),
        (lambda: csb.fit_score(*pairs(), ensemble=2), "no setting 'ensemble'"),
        (lambda: csb.problem(torch.randn(50, 2), lambda x: x, 100), "50 draws where n=100"),
        (lambda: csb.problem(torch.randn(200, 2), 3, 200), "simulator is a int"),
        (lambda: csb.problem(torch.randn(200, 2), lambda x: 1 / 0, 200), "ZeroDivisionError"),
        (lambda: csb.problem(torch.randn(200, 2), lambda x: x * torch.nan, 200), "0 of 200 simulated y are finite"),
        (lambda: csb.problem(Independent(Normal(torch.zeros(2), 1.0), 1), lambda x: x, 5), "n=5"),
        (lambda: csb.problem([Poisson(3 * torch.ones(1))] * 2, lambda x: x, kinds=["integer"] * 2), "give bounds="),
        (lambda: csb.problem(counts, lambda x: x, kinds={1: "category"}), "a category without bounds"),
        (lambda: csb.problem(counts, lambda x: x, kinds={2: "category"}), "kinds has no coordinate 2"),
        (lambda: csb.problem(counts, lambda x: x, kinds=5), "kinds=5 is no list"),
        (lambda: csb.fit(*pairs(), kinds=np.array(["real"] * 3)), "is no list; give a kind for each coordinate"),
        (lambda: csb.compare([3], TwoMoons()), "3 is no sampler"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    assert message in one_line(call)


def test_the_other_models(tmp_path):
    small = {**SMALL, "training": {"steps": 6, "batch_size": 32, "precision": "32-true"}}
    score, flow = csb.fit_score(*pairs(), **small), csb.fit_flow(*pairs(), **small)
    denoiser = csb.fit_denoiser(pairs()[0], out=tmp_path / "prior", **small)
    assert score.sample(pairs()[1][0], 3).x.shape == flow.sample(pairs()[1][0], 3).x.shape == (3, 2)
    assert torch.equal(csb.load(tmp_path / "prior" / "denoiser.safetensors").shift, denoiser.shift)


@pytest.mark.nightly
def test_distilled_and_compared():
    problem = TwoMoons(n_train=500, n_val=100, n_test=100)
    run = csb.fit(problem=problem, **SMALL)
    student = csb.distil(run, calls=(1, 2), steps=6, batch_size=32, trajectories=64, progress=False)
    one = csb.samplers.ConsistencySampler(student, calls=1)
    found = csb.compare([run, one], problem, nfe=[1, 3], observations=2, samples=50)
    assert [row["NFE"] for row in found.rows] == [1, 1, 3, 1]
    assert found.table().count("\n") == 6
    assert "<table>" in found._repr_html_()


def test_options_of_encoders():
    csb.register(Own)
    run, _ = configured(*pairs(), Options(encoder={"name": "Own", "power": 2}, schedule="linear", **SMALL))
    bridge = build_bridge(run.bridge_spec(run.problem.new_transform()), 0)
    assert bridge.kernel("backward").network.encoder.power == 2


def test_fresh_pairs_for_each_round():
    """A function of the seed and the round alone; what is held out is no part of them."""
    made = [csb.problem(gaussian, lambda x: x + 0.1, seed=seed) for seed in (0, 0, 1)]
    rounds = [one.fresh(1, 2).head(500)[0] for one in made]
    assert torch.equal(rounds[0], rounds[1])
    assert not torch.equal(rounds[0], rounds[2])
    assert not torch.equal(rounds[0], made[0].fresh(1, 3).head(500)[0])
    assert not torch.equal(rounds[0], made[0].fresh(2, 2).head(500)[0])
    assert not torch.isin(rounds[0], made[0].pairs("val").x).any()


def test_a_training_on_fresh_pairs_is_resumed_bit_for_bit(tmp_path):
    seen = []

    def simulator(x):
        seen.append(len(x))
        return x + torch.randn_like(x)

    def run(out, resume=False):
        settings = {**SMALL["training"], "refresh": 5, "checkpoint_every": 3}
        problem = csb.problem(gaussian, simulator)
        return csb.fit(problem=problem, **{**SMALL, "training": settings}, out=tmp_path / out, resume=resume)

    whole = run("whole")
    assert sum(seen) > 10_000 * 5  # the held-out pairs, then 3 rounds of the first half-step and 2 of the other
    original = Stage.save

    def stop(stage, fit, step):
        original(stage, fit, step)
        if stage.progress.half_step == 1 and step == 6:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "save", stop)
        stopped = run("cut")
    assert stopped.interrupted
    assert stopped.scores == {}
    assert bool(torch.isfinite(stopped.bridge.sample(torch.zeros(1), 20, seed=0).x).all())
    assert_same(run("cut", resume=True), whole)


SCRIPT = """
import sys
import numpy as np
import csb

x = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
run = csb.fit(x, x + 0.1, devices=2, accelerator="cpu", out=sys.argv[1], L=1, T=3, progress=False,
              network={"name": "mlp", "width": 8, "depth": 1},
              training={"first_steps": 6, "steps": 4, "batch_size": 32})
assert run.bridge.sample(x[:1], 3, seed=0).x.shape == (1, 3, 2)
"""


@pytest.mark.timeout(300)
def test_two_processes_from_a_script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py", "run"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(csb.Run.open(tmp_path / "run").history) == 2
