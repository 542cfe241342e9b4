"""The IPF loop: every trained half-step against the exact recursion, and what stops it."""

from dataclasses import replace

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge, load
from csb.bridge.objectives import OBJECTIVES
from csb.errors import CSBError
from csb.problems import Hole, LinearGaussian
from csb.problems.gaussian_ipf import AffineGaussian, AffineKernel, compose, coupling, exact_ipf, reference_kernels
from csb.process import Grid, Power, Reference, seeded
from csb.training import stage as stage_module
from csb.training import trainer as trainer_module
from csb.training.pairs import EncodedPairs
from csb.training.settings import DeviceSettings, OptimizerSettings, TrainingSettings
from csb.training.stage import Setup
from csb.training.state import load_progress
from csb.training.trainer import BridgeTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*")
GRID = Grid.from_schedule(Power(0.3, 2.0), 4)
FINGERPRINT = {"seed": 0}


def make(
    folder, problem, covariance="diagonal", objective="likelihood", pairs=None, observer=None, lr=5e-2, **settings
):
    d = problem.dx
    part = KernelSpec({"name": "affine", "steps": GRID.T}, "drift", covariance, variance_floor=0.0)
    transform = {"name": "identity", "x_shape": [d], "y_shape": [problem.dy]}
    spec = BridgeSpec(GRID.alpha_bar.tolist(), transform, part, part)
    optimizer = OptimizerSettings(lr=lr, later_lr=lr, ema=0.98, balance=0.0)
    train = problem.pairs("train")
    return BridgeTrainer(
        build_bridge(spec), OBJECTIVES[objective](), EncodedPairs.of(*pairs or (train.x, train.y)),
        TrainingSettings(**{"L": 2, "first_steps": 600, "steps": 600, "batch_size": 1024, "refresh": 200,
                       "trajectories": 16384, "checkpoint_every": 1000, **settings}),
        Setup(folder, optimizer, DeviceSettings("cpu"), 0, FINGERPRINT, {"note": 1}, bar=False), observer=observer,
    )  # fmt: skip


def fitted(path, direction):
    """The affine kernel of each step, k = 1..T, of a saved bridge."""
    bridge = load(path)
    kernel, d = bridge.kernel(direction), bridge.transform.z_shape[0]
    m, found = bridge.transform.c_shape[0], []
    with torch.no_grad():
        for k in range(1, bridge.grid.T + 1):
            x = torch.cat([torch.zeros(1, d), torch.eye(d), torch.zeros(m, d)])
            c = torch.cat([torch.zeros(1 + d, m), torch.eye(m)])
            law = kernel(x, torch.tensor([k]), kernel.encode(c))
            slopes = (law.mean[1:] - law.mean[0]).T
            parts = (slopes[:, :d], slopes[:, d:], law.mean[0], law.covariance()[0])
            found.append(AffineKernel(*(part.double() for part in parts)))
    return found


def exact_steps(problem, objective, iterations):
    zero = torch.zeros(problem.dx)
    return exact_ipf(GRID, problem.G, zero, problem.C, iterations, objective)


def pinned_laws(ends):
    """The laws of x_0..x_T given y between the end points of a coupling."""
    d, reference, laws = len(ends.u) // 2, Reference(GRID), []
    eye = torch.eye(d).double()
    for k in range(GRID.T + 1):
        law = reference.pinned_both(k)
        H = torch.cat([law.near * eye, law.far * eye], 1)
        laws.append(AffineGaussian(H @ ends.U, H @ ends.u, H @ ends.P @ H.T + law.var * eye))
    return laws


def path_laws(problem, steps, i, objective):
    """The exact laws of x_0..x_T given y at which half-step i is fitted."""
    d = problem.dx
    if steps[i].direction == "backward":
        law = AffineGaussian(problem.G, torch.zeros(d).double(), problem.C)
        kernels = list(steps[i - 1].kernels) if i else reference_kernels(GRID, d, problem.dy)
    else:
        law = AffineGaussian(torch.zeros(d, problem.dy).double(), torch.zeros(d).double(), torch.eye(d).double())
        kernels = list(steps[i - 1].kernels[::-1])
    if objective == "bridge_matching":
        return pinned_laws(coupling(law, compose(kernels), steps[i].direction == "backward"))
    laws = [law]
    for kernel in kernels:
        laws.append(law := kernel.push(law))
    return laws if steps[i].direction == "backward" else laws[::-1]


def errors(folder, problem, objective, iterations):
    """(place, error of the mean map, error of the covariance) of each step of each half-step.

    The first is the root mean square difference over the states of the path in units of the exact mean's; the second
    is relative.
    """
    steps = exact_steps(problem, objective, iterations)
    y, noise = problem.pairs("test", 5000).y.double(), torch.randn(5000, problem.dx, generator=seeded(9)).double()
    for i, step in enumerate(steps):
        laws = path_laws(problem, steps, i, objective)
        found = fitted(folder / "half_steps" / f"{i + 1:02d}_{step.direction}.safetensors", step.direction)
        for k, (kernel, exact) in enumerate(zip(found, step.kernels), start=1):
            law = laws[k] if step.direction == "backward" else laws[k - 1]
            x = y @ law.U.T + law.u + noise @ torch.linalg.cholesky(law.P).T
            mean = exact.mean(x, y)
            mean_error = ((kernel.mean(x, y) - mean) ** 2).mean().sqrt() / (mean**2).mean().sqrt()
            variance_error = (kernel.S - exact.S).norm() / exact.S.norm()
            yield f"half-step {i + 1} ({step.direction}), k = {k}", float(mean_error), float(variance_error)


def assert_recursion(folder, problem, objective, iterations, tolerance):
    found = list(errors(folder, problem, objective, iterations))
    assert len(found) == 2 * iterations * GRID.T
    wrong = [f"{place}: {mean:.1%}, {var:.1%}" for place, mean, var in found if max(mean, var) > tolerance]
    assert wrong == []


@pytest.mark.parametrize(
    ("objective", "covariance", "recursion"),
    [
        ("likelihood", "diagonal", "likelihood"),
        ("mean_matching", "fixed", "mean_matching"),
        ("bridge_matching", "diagonal", "bridge_matching"),
    ],
)
@pytest.mark.parametrize("L", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_every_half_step_is_the_exact_one_in_one_dimension(tmp_path, objective, covariance, recursion, L):
    n, tolerance, fewer = (50_000, 0.04, {}) if L == 2 else (20_000, 0.06, {"first_steps": 400, "steps": 450})
    problem = LinearGaussian(dx=1, dy=1, n_train=n)
    progress = (run := make(tmp_path, problem, covariance, objective, L=L, **fewer)).run(resume=False)
    assert_recursion(tmp_path, problem, recursion, L, tolerance)
    assert [row["half_step"] for row in progress.history] == [half_step.name for half_step in run.plan]
    last = load(tmp_path / "bridge.safetensors")
    assert last.about == {"note": 1}
    for key, value in load(tmp_path / "half_steps" / f"{run.plan[-1].name}.safetensors").state_dict().items():
        assert torch.equal(value, last.state_dict()[key])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "covariance", "recursion"),
    [
        ("likelihood", "full", "likelihood"),
        ("likelihood", "diagonal", "likelihood_diagonal"),
        ("mean_matching", "fixed", "mean_matching"),
        ("bridge_matching", "full", "bridge_matching"),
    ],
)
def test_every_half_step_is_the_exact_one_in_two_dimensions(tmp_path, objective, covariance, recursion):
    problem = LinearGaussian(dx=2, dy=2, seed=1, n_train=100_000)
    settings = {"L": 3, "first_steps": 1500, "steps": 1500, "batch_size": 4096, "trajectories": 32768}
    make(tmp_path, problem, covariance, objective, **settings).run(resume=False)
    assert_recursion(tmp_path, problem, recursion, 3, 0.04)


SHORT = {"first_steps": 8, "steps": 6, "batch_size": 64, "refresh": 4, "trajectories": 64, "checkpoint_every": 3}


@pytest.fixture(scope="module")
def small():
    return LinearGaussian(dx=1, dy=1, n_train=200)


class TestALossThatIsNotFinite:
    def test_in_a_cached_half_step(self, tmp_path, small, monkeypatch):
        make(tmp_path / "whole", small, **SHORT).run(resume=False)
        run, fill = make(tmp_path / "run", small, **SHORT), trainer_module.fill

        def poisoned(*args, **options):
            cache = fill(*args, **options)
            if args[5][1:3] == (2, 1):  # the third half-step's second round, steps 4 and 5
                cache.states.fill_(float("nan"))
            return cache

        monkeypatch.setattr(trainer_module, "fill", poisoned)
        with pytest.raises(CSBError, match="the loss became nan in half-step 03_backward at step 4") as error:
            run.run(resume=False)
        assert "\n" not in str(error.value)
        progress = load_progress(run.setup.folder / "state.safetensors", FINGERPRINT)
        assert (progress.half_step, progress.step) == (2, 4)
        assert all(bool(torch.isfinite(value).all()) for value in progress.weights.values())
        assert not (tmp_path / "run" / "bridge.safetensors").exists()
        # With the cause removed the run goes on from there as if nothing had happened.
        monkeypatch.setattr(trainer_module, "fill", fill)
        make(tmp_path / "run", small, **SHORT).run(resume=True)
        one, two = (load(tmp_path / name / "bridge.safetensors").state_dict() for name in ("whole", "run"))
        assert all(torch.equal(one[key], two[key]) for key in one)


class Watching:
    """Records what it is shown."""

    def __init__(self):
        self.calls, self.weights = [], []

    def within(self, bridge, half_step, step):
        self.calls.append((half_step.name, step))
        self.weights.append(bridge.kernel(half_step.direction).network.weight.clone())

    def after(self, bridge, half_step, losses):
        self.calls.append((half_step.name, "end"))
        return {"seen": float(len(self.calls))}


class TestTheLoop:
    def test_observer_and_log(self, tmp_path, small):
        watching, logged = Watching(), []
        run = make(tmp_path, small, observer=watching, observe_every=4, **SHORT)
        run.setup = replace(run.setup, log=lambda metrics, step: logged.append((step, metrics)))
        progress = run.run(resume=False)
        assert watching.calls == [
            ("01_backward", 1), ("01_backward", 2), ("01_backward", 4), ("01_backward", 8), ("01_backward", "end"),
            ("02_forward", 4), ("02_forward", "end"), ("03_backward", 4), ("03_backward", "end"), ("04_forward", 4),
            ("04_forward", "end"),
        ]  # fmt: skip
        assert [row["seen"] for row in progress.history] == [5.0, 7.0, 9.0, 11.0]
        assert [(s, [k for k in m if k.endswith("seen")]) for s, m in logged if "lr" not in m] == [
            (8, ["backward/seen"]), (14, ["forward/seen"]), (20, ["backward/seen"]), (26, ["forward/seen"]),
        ]  # fmt: skip
        assert progress.half_step == 4

    def test_observing_changes_nothing(self, tmp_path, small):
        make(tmp_path / "a", small, **SHORT).run(resume=False)
        make(tmp_path / "b", small, observer=Watching(), observe_every=1, **SHORT).run(resume=False)
        one, two = (load(tmp_path / name / "bridge.safetensors").state_dict() for name in "ab")
        assert all(torch.equal(one[key], two[key]) for key in one)

    def test_without_the_last_forward(self, tmp_path, small):
        progress = make(tmp_path, small, last_forward=False, **SHORT).run(resume=False)
        assert [row["half_step"] for row in progress.history] == ["01_backward", "02_forward", "03_backward"]
        whole = load(tmp_path / "bridge.safetensors")
        second = load(tmp_path / "half_steps" / "02_forward.safetensors")
        for key, value in second.forward_kernel.state_dict().items():
            assert torch.equal(value, whole.forward_kernel.state_dict()[key])

    def test_the_cache_keeps_to_its_budget(self, tmp_path, small):
        run = make(tmp_path, small, **SHORT, cache_bytes=1000)
        assert run.cache_size == 1000 // (4 * 5 + 8)
        history = run.run(resume=False).history
        assert history[0]["cache_mib"] == 0
        assert all(0 < row["cache_mib"] * 2**20 <= 1000 for row in history[1:])


def small_images(n=80):
    """Smooth 8×8 images without their middle 4×4 pixels: the transform, and pairs in state space."""
    x = torch.rand(n, 1, 2, 2, generator=seeded(1))
    x = torch.nn.functional.interpolate(x, size=(8, 8), mode="bilinear")
    hole = Hole((1, 8, 8), (2, 2, 4, 4))
    return hole, (hole.encode_x(x), hole.encode_y(x))


@pytest.mark.parametrize(("precision", "call"), [("32-true", 2), ("bf16-mixed", 5)])
def test_a_unet_resumes_bit_for_bit(tmp_path, monkeypatch, precision, call):
    """The training dies at one of its checkpoints and goes on from there."""
    hole, pairs = small_images()
    part = KernelSpec({"name": "unet", "channels": 8, "margin": 1}, "x0")
    spec = BridgeSpec(GRID.alpha_bar.tolist(), hole.spec(), part, part, precision)
    settings = TrainingSettings(L=1, first_steps=3, steps=4, batch_size=16, states_per_pair=4, refresh=2,
                                trajectories=32, checkpoint_every=1)  # fmt: skip

    def train(name, resume):
        BridgeTrainer(
            build_bridge(spec), OBJECTIVES["likelihood"](), EncodedPairs.of(*pairs), settings,
            Setup(tmp_path / name, OptimizerSettings(), DeviceSettings("cpu", precision=precision), 0, bar=False),
        ).run(resume)  # fmt: skip
        return load(tmp_path / name / "bridge.safetensors").state_dict()

    whole, save, calls = train("whole", False), stage_module.save_progress, []

    def dying(*args):
        calls.append(1)
        if len(calls) == call:
            raise OSError("power cut")
        save(*args)

    monkeypatch.setattr(stage_module, "save_progress", dying)
    with pytest.raises(OSError, match="power cut"):
        train("run", False)
    monkeypatch.setattr(stage_module, "save_progress", save)
    again = train("run", True)
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_backward_half_steps_are_calibrated_before_they_are_saved(tmp_path):
    problem, seen = LinearGaussian(dx=2, dy=2, n_train=2048), []

    def calibrate(bridge):
        seen.append(len(list((tmp_path / "half_steps").glob("*.safetensors"))))
        bridge.backward_kernel.inflation.fill_(1.5)
        return {"inflation": 1.5}

    trainer = make(tmp_path, problem, first_steps=2, steps=2, inflate=True)
    trainer.calibrate = calibrate
    history = trainer.run(resume=False).history
    assert seen == [0, 2]
    assert [row.get("inflation") for row in history] == [1.5, None, 1.5, None]
    for name in ("half_steps/01_backward.safetensors", "half_steps/03_backward.safetensors", "bridge.safetensors"):
        assert float(load(tmp_path / name).backward_kernel.inflation) == 1.5
