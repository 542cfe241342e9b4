"""The loop: every trained half-step against the exact recursion, what it shows, validation and selection."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge, load
from csb.bridge.objectives import OBJECTIVES
from csb.errors import CSBError
from csb.problems import Hole, LinearGaussian, RandomField
from csb.problems.gaussian_ipf import AffineGaussian, AffineKernel, compose, coupling, exact_ipf, reference_kernels
from csb.process import Reference, seeded
from csb.training import stage as stage_module
from csb.training import trainer as trainer_module
from csb.training.half_step import HalfStepModule, Validation
from csb.training.pairs import EncodedPairs
from csb.training.settings import DeviceSettings, OptimizerSettings, TrainingSettings
from csb.training.stage import Setup
from csb.training.state import SCORE
from csb.training.trainer import BridgeTrainer
from tests.training.runs import GRID, encoded, make, progress_of, tensors

LONG = {"first_steps": 600, "steps": 600, "batch_size": 1024, "refresh": 200, "trajectories": 16384,
        "checkpoint_every": 1000}  # fmt: skip
SHORT = {"first_steps": 8, "steps": 6, "batch_size": 64, "refresh": 4, "trajectories": 64, "checkpoint_every": 3}
RATES = {"lr": 5e-2, "later_lr": 5e-2, "ema": 0.98, "balance": 0.0}
SMALL = LinearGaussian(dx=1, dy=1, n_train=200)


def affine(folder, problem=SMALL, covariance="diagonal", objective="likelihood", **options):
    """A training of affine kernels, whose half-steps are known."""
    kernel = KernelSpec({"name": "affine", "steps": GRID.T}, "drift", covariance, variance_floor=0.0)
    return make(
        folder, kernel, objective, problem, RATES, **{**SHORT, "observe_every": 2000, "calibrate": None, **options}
    )


def weights(path):
    return load(path).state_dict()


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def fitted(path, direction):
    """The affine kernel of each step, k = 1..T, of a saved bridge."""
    bridge = load(path)
    kernel, (d,), (m,) = bridge.kernel(direction), bridge.transform.z_shape, bridge.transform.c_shape
    x = torch.cat([torch.zeros(1, d), torch.eye(d), torch.zeros(m, d)])
    context = kernel.encode(torch.cat([torch.zeros(1 + d, m), torch.eye(m)]))
    with torch.no_grad():
        for k in range(1, bridge.grid.T + 1):
            law = kernel(x, torch.tensor([k]), context)
            slopes = (law.mean[1:] - law.mean[0]).T
            parts = (slopes[:, :d], slopes[:, d:], law.mean[0], law.covariance()[0])
            yield AffineKernel(*(part.double() for part in parts))


def path_laws(problem, steps, i, objective):
    """The exact laws of x_0..x_T given y at which half-step i is fitted."""
    d, backward, eye = problem.dx, steps[i].direction == "backward", torch.eye(problem.dx).double()
    zero, path = torch.zeros(d, problem.dy).double(), steps[i - 1].kernels
    if backward:
        law = AffineGaussian(problem.G, zero[:, 0], problem.C)
        kernels = list(path) if i else reference_kernels(GRID, d, problem.dy)
    else:
        law, kernels = AffineGaussian(zero, zero[:, 0], eye), list(path[::-1])
    if objective == "bridge_matching":
        ends, laws = coupling(law, compose(kernels), backward), []
        for k in range(GRID.T + 1):
            pinned = Reference(GRID).pinned_both(k)
            H = torch.cat([pinned.near * eye, pinned.far * eye], 1)
            laws.append(AffineGaussian(H @ ends.U, H @ ends.u, H @ ends.P @ H.T + pinned.var * eye))
        return laws
    laws = [law]
    for kernel in kernels:
        laws.append(law := kernel.push(law))
    return laws if backward else laws[::-1]


def assert_recursion(folder, problem, objective, iterations, tolerance):
    """Each step's mean map and covariance are those of the exact recursion, relative to the tolerance.

    The error of the map is the root mean square difference over the states of the path in units of the exact mean's.
    """
    steps, wrong = exact_ipf(GRID, problem.G, torch.zeros(problem.dx), problem.C, iterations, objective), []
    assert len(steps) == 2 * iterations
    y, noise = problem.pairs("test", 5000).y.double(), torch.randn(5000, problem.dx, generator=seeded(9)).double()
    for i, step in enumerate(steps):
        laws, name = path_laws(problem, steps, i, objective), f"{i + 1:02d}_{step.direction}"
        found = fitted(folder / "half_steps" / f"{name}.safetensors", step.direction)
        for k, (kernel, exact) in enumerate(zip(found, step.kernels, strict=True), start=1):
            law = laws[k] if step.direction == "backward" else laws[k - 1]
            x = y @ law.U.T + law.u + noise @ torch.linalg.cholesky(law.P).T
            mean = exact.mean(x, y)
            mean_error = ((kernel.mean(x, y) - mean) ** 2).mean().sqrt() / (mean**2).mean().sqrt()
            variance_error = (kernel.S - exact.S).norm() / exact.S.norm()
            if max(mean_error, variance_error) > tolerance:
                wrong.append(f"{name}, k = {k}: {float(mean_error):.1%}, {float(variance_error):.1%}")
    assert wrong == []


@pytest.mark.parametrize(
    ("objective", "covariance"),
    [("likelihood", "diagonal"), ("mean_matching", "fixed"), ("bridge_matching", "diagonal")],
)
@pytest.mark.parametrize("L", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_every_half_step_is_the_exact_one_in_one_dimension(tmp_path, objective, covariance, L):
    n, tolerance, fewer = (50_000, 0.04, {}) if L == 2 else (20_000, 0.06, {"first_steps": 400, "steps": 450})
    problem = LinearGaussian(dx=1, dy=1, n_train=n)
    run = affine(tmp_path, problem, covariance, objective, L=L, **LONG | fewer)
    progress = run.run(resume=False)
    assert_recursion(tmp_path, problem, objective, L, tolerance)
    assert [row["half_step"] for row in progress.history] == [half_step.name for half_step in run.plan]
    assert load(tmp_path / "bridge.safetensors").about == {"note": 1}
    assert same(
        weights(tmp_path / "bridge.safetensors"), weights(tmp_path / f"half_steps/{run.plan[-1].name}.safetensors")
    )


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
    longer = {"L": 3, "first_steps": 1500, "steps": 1500, "batch_size": 4096, "trajectories": 32768}
    affine(tmp_path, problem, covariance, objective, **LONG | longer).run(resume=False)
    assert_recursion(tmp_path, problem, recursion, 3, 0.04)


def test_a_loss_that_is_not_finite_in_a_cached_half_step(tmp_path, monkeypatch):
    affine(tmp_path / "whole").run(resume=False)
    fill = trainer_module.fill

    def poisoned(*args, **options):
        cache = fill(*args, **options)
        if args[5][1:3] == (2, 1):  # the third half-step's second round, steps 4 and 5
            cache.states.fill_(float("nan"))
        return cache

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "fill", poisoned)
        with pytest.raises(CSBError, match=r"^the loss became nan in half-step 03_backward at step 4.*\Z"):
            affine(tmp_path / "run").run(resume=False)
    progress = progress_of(tmp_path / "run")
    assert (progress.half_step, progress.step) == (2, 4)
    assert all(bool(torch.isfinite(value).all()) for value in progress.weights.values())
    assert not (tmp_path / "run" / "bridge.safetensors").exists()
    # With the cause removed the run goes on from there as if nothing had happened.
    affine(tmp_path / "run").run(resume=True)
    assert same(tensors(tmp_path / "run"), tensors(tmp_path / "whole"))


class Watching:
    """Records what it is shown."""

    def __init__(self):
        self.calls = []

    def within(self, bridge, half_step, step):
        self.calls.append((half_step.name, step))

    def after(self, bridge, half_step, losses):
        self.calls.append((half_step.name, "end"))
        return {"seen": float(len(self.calls))}


class TestTheLoop:
    def test_observer_and_log_which_change_nothing(self, tmp_path):
        watching, logged = Watching(), []
        run = affine(tmp_path / "seen", observer=watching, observe_every=4, log=lambda *of: logged.append(of))
        progress = run.run(resume=False)
        first = [("01_backward", step) for step in (1, 2, 4, 8, "end")]  # early pictures too
        others = [(name, step) for name in ("02_forward", "03_backward", "04_forward") for step in (4, "end")]
        assert watching.calls == first + others
        assert [row["seen"] for row in progress.history] == [5.0, 7.0, 9.0, 11.0]
        assert [(step, [key for key in metrics if key.endswith("seen")]) for metrics, step in logged] == [
            (8, ["backward/seen"]), (14, ["forward/seen"]), (20, ["backward/seen"]), (26, ["forward/seen"]),
        ]  # fmt: skip
        assert progress.half_step == 4
        affine(tmp_path / "alone").run(resume=False)
        assert same(tensors(tmp_path / "seen"), tensors(tmp_path / "alone"))

    def test_the_cache_keeps_to_its_budget(self, tmp_path):
        run = affine(tmp_path, cache_bytes=1000)
        assert run.cache_size == 1000 // (4 * 5 + 8)
        history = run.run(resume=False).history
        assert history[0]["cache_mib"] == 0
        assert all(0 < row["cache_mib"] * 2**20 <= 1000 for row in history[1:])

    def test_backward_half_steps_are_calibrated_before_they_are_saved(self, tmp_path):
        seen = []

        def calibrate(bridge):
            seen.append(len(list((tmp_path / "half_steps").glob("*.safetensors"))))
            bridge.backward_kernel.inflation.fill_(1.5)
            return {"inflation": 1.5}

        history = affine(tmp_path, calibrate=calibrate, inflate=True).run(resume=False).history
        assert seen == [0, 2]
        assert [row.get("inflation") for row in history] == [1.5, None, 1.5, None]
        for name in ("half_steps/01_backward.safetensors", "half_steps/03_backward.safetensors", "bridge.safetensors"):
            assert float(load(tmp_path / name).backward_kernel.inflation) == 1.5


def test_a_unet_resumes_bit_for_bit(tmp_path, monkeypatch):
    """On smooth 8×8 images without their middle 4×4 pixels; it dies at a checkpoint and goes on from there."""
    x, hole = torch.rand(80, 1, 2, 2, generator=seeded(1)), Hole((1, 8, 8), (2, 2, 4, 4))
    x = torch.nn.functional.interpolate(x, size=(8, 8), mode="bilinear")
    part = KernelSpec({"name": "unet", "channels": 8, "margin": 1}, "x0")
    spec = BridgeSpec(GRID.alpha_bar.tolist(), hole.spec(), part, part, "bf16-mixed")
    settings = TrainingSettings(L=1, first_steps=3, steps=4, batch_size=16, states_per_pair=4, refresh=2,
                                trajectories=32, checkpoint_every=1)  # fmt: skip

    def train(name, resume):
        setup = Setup(tmp_path / name, OptimizerSettings(), DeviceSettings("cpu", precision="bf16-mixed"), 0, bar=False)
        pairs = EncodedPairs.of(hole.encode_x(x), hole.encode_y(x))
        BridgeTrainer(build_bridge(spec), OBJECTIVES["likelihood"](), pairs, settings, setup).run(resume)
        return weights(tmp_path / name / "bridge.safetensors")

    whole, save, calls = train("whole", False), stage_module.save_progress, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 5:
            raise OSError("power cut")
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "save_progress", dying)
        with pytest.raises(OSError, match="power cut"):
            train("run", False)
    assert same(train("run", True), whole)


@pytest.mark.nightly
def test_a_dit_learns_the_posterior_of_a_blurred_field(tmp_path):
    """Its mean is K y. Untrained, the bridge draws the reference process, whatever y is."""
    problem = RandomField(seen="blur", side=16, n_train=2000)
    network = {"name": "dit", "width": 64, "depth": 2, "attention_heads": 2, "patch": 4, "skip": True}
    part, shape = KernelSpec(network, "x0"), list(problem.x_shape)
    bridge = build_bridge(BridgeSpec([1, 0.95, 0.7, 0.1], {"name": "identity", "x_shape": shape, "y_shape": shape},
                                     part, part))  # fmt: skip
    y = problem.pairs("test", 50).y
    exact = (y.double().flatten(1) @ problem.gain.T).view_as(y)

    def error():
        return float((bridge.sample(y, 16, seed=1).x.mean(1) - exact).square().mean())

    start = error()
    settings = TrainingSettings(L=1, first_steps=80, steps=1, batch_size=64, last_forward=False)
    setup = Setup(tmp_path, OptimizerSettings(lr=2e-3, ema=0.9), DeviceSettings("cpu"), 0, bar=False)
    BridgeTrainer(bridge, OBJECTIVES["likelihood"](), encoded(problem), settings, setup).run(False)
    assert error() < 0.15 * start


def validated(folder, patience, **options):
    """A training that looks at validation pairs every second step."""
    longer = {"L": 1, "first_steps": 20, "steps": 12, "refresh": 5, "validate_every": 2, "patience": patience}
    return affine(folder, val=encoded(SMALL, "val", 100), **longer | options)


class TestEarlyStopping:
    @pytest.fixture
    def scripted(self, monkeypatch):
        """Sets validation losses, of each batch; returns the averaged weights at each evaluation."""

        def script(*values):
            values, seen = iter(values), []

            def losses(validation):
                seen.append(validation.module.average.module.network.weight.clone())
                found = next(values)
                return found if isinstance(found, list) else [found, found]

            monkeypatch.setattr(Validation, "losses", losses)
            return seen

        return script

    @pytest.mark.parametrize(
        ("end", "best", "kept"), [(2, 1, 4), ([1, 1.2], [1, 1], 8), ([1.2, 1.3], [1, 1], 4)], ids=str
    )
    def test_it_stops_and_keeps_the_best_weights_unless_those_of_the_end_are_as_good(
        self, tmp_path, scripted, end, best, kept
    ):
        """Differences of 0 and .2: a mean of .1 with a standard error of .1. Of .2 and .3: .25, and .05."""
        seen = scripted(3, 1, 2, 2, end, best)  # it stops at step 8, the best is of step 4; then end and best again
        row = validated(tmp_path, 2, last_forward=False).run(resume=False).history[0]
        assert (row["steps"], row["best_step"], row["kept_step"], row["val_loss"]) == (8, 4, kept, 1)
        weight = load(tmp_path / "bridge.safetensors").backward_kernel.network.weight
        assert torch.equal(weight, seen[3 if kept == 8 else 1])

    def test_every_half_step_starts_afresh(self, tmp_path, scripted):
        scripted(*range(10, 0, -1), 9, 8, 7, 6, 5, 4)
        history = validated(tmp_path, 3).run(resume=False).history
        assert [(row["steps"], row["best_step"]) for row in history] == [(20, 20), (12, 12)]

    def test_no_patience_no_validation(self, tmp_path, scripted):
        seen = scripted()
        assert "val_loss" not in validated(tmp_path, 0).run(resume=False).history[0]
        assert seen == []

    @pytest.mark.parametrize("objective", ["likelihood", "bridge_matching"])
    def test_the_loss_is_that_of_training(self, tmp_path, monkeypatch, objective):
        """Before and after a first half-step, always on the same states."""
        monkeypatch.setattr("csb.training.half_step._STATES", 4096)
        run = validated(tmp_path, 1000, objective=objective, first_steps=200, refresh=200, validate_every=100)
        module = HalfStepModule(run.bridge, run.plan[0], OBJECTIVES[objective](), run.setup.optimizer)
        draw = replace(run.draw, draw_targets=not module.kernel.integrates_targets)
        validation = Validation(module, draw, run.val, None)
        losses = validation.losses()
        assert validation.losses() == losses
        assert run.run(resume=False).history[0]["val_loss"] < sum(losses) / len(losses) - 0.02


@pytest.mark.parametrize(
    ("scores", "options", "name"),
    [
        ((3, 1, 2), {}, "04_forward"),
        ((1, 2, 3), {}, "02_forward"),
        ((1, 2, 3), {"select": "last"}, "06_forward"),
        ((3, 2, 1), {"last_forward": False}, "05_backward"),
    ],
    ids=str,
)
def test_the_best_iteration_goes_into_the_bridge(tmp_path, scores, options, name):
    run = affine(
        tmp_path, calibrate=partial(lambda script, bridge: {SCORE: next(script)}, iter(scores)), L=3, **options
    )
    run.run(resume=False)
    stored = weights(tmp_path / "bridge.safetensors")
    assert same(stored, weights(tmp_path / f"half_steps/{name}.safetensors"))
    assert not same(stored, weights(tmp_path / "half_steps" / "03_backward.safetensors"))
    assert same(stored, run.bridge.state_dict())


@pytest.mark.parametrize(
    ("options", "half_steps"),
    [({"patience": 8}, 3), ({"patience": 8, "select": "last"}, 6), ({"patience": 0}, 6)],
    ids=str,
)
def test_it_ends_with_an_iteration_that_gains_nothing(tmp_path, options, half_steps):
    """Whether it is asked once more, or not, after the second iteration's samples are found to be worse."""
    scores = iter(range(1, 4))
    run = affine(tmp_path, calibrate=lambda bridge: {SCORE: float(next(scores))}, L=3, **options)
    assert len(run.run(resume=False).history) == half_steps
    again = affine(tmp_path, calibrate=None, L=3, **options)
    assert again.run(resume=True).history == run.progress.history
