"""What several test folders share: an exact bridge in closed form, and the command line in a process of its own."""

import contextlib
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from csb.bridge import Bridge, BridgeSpec, KernelSpec, build_bridge
from csb.bridge.kernel import coefficients
from csb.bridge.transitions import FullGaussian, MixtureOfGaussians
from csb.errors import CSBError
from csb.networks.diffusion import Denoiser
from csb.problems import LinearGaussian
from csb.problems.gaussian_ipf import AffineKernel, HalfStep, exact_ipf
from csb.process import Grid, Power, seeded
from tests.commands import run_command

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # figures are a processor's; set it to run the tests on a GPU


def pytest_xdist_auto_num_workers(config) -> int:
    """What ``-n auto`` is: a worker a core, four at most; none for a single file, whose tests share fixtures."""
    files = {argument.split("::")[0] for argument in config.args}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    alone = len(files) == 1 and files.pop().endswith(".py")
    return 0 if alone or cores == 1 else min(cores, 4)


# what runs every night, and in .ci/run (-m nightly): documentation, browsers, suites, kills at any instant, whole runs
NIGHTLY = (
    "evaluation/report/test_report_browser.py", "evaluation/suite", "evaluation/test_inflation.py",
    "evaluation/test_scores.py::test_a_calibrated_ensemble", "run/test_digits_training.py",
    "run/test_cli.py::test_a_built_copy",
    "run/test_compare.py::TestReport", "run/test_demo_browser.py",
    "run/test_pairs_training.py", "run/test_sbi.py", "run/test_logs.py::test_each_simulated",
    "run/test_logs.py::test_two_runs", "run/test_suite.py",
    "run/test_benchmarks.py::TestSpeed", "run/test_benchmarks.py::TestTarget", "run/test_sweeps.py::TestHeatMap",
    "run/test_sweeps.py::TestInOtherProcesses", "run/test_sweeps.py::TestLaunchers",
    "samplers/test_painting.py::TestRePaint::test_the_table", "test_docs.py",
    "test_glossary.py::test_what_an_evaluation", "training/test_distributed.py", "training/test_faults.py",
    "metrics/test_distances.py::test_c2st_of_weighted_samples",
    "run/test_demo.py::TestCommand::test_serves_until_stopped[2]",
    "run/test_reproduce.py::TestReproduce::test_another_training",
    "run/test_reproduce.py::test_pairs_that_were_moved[npy]", "run/test_stages.py::test_it_is_compared",
    "run/test_fit.py::test_own_classes_on_the_command_line", "run/test_fit.py::test_two_processes_from_a_script",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items) -> None:
    """Marks what runs every night."""
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(NIGHTLY):
            item.add_marker(pytest.mark.nightly)


def pytest_configure(config) -> None:
    """One thread for each worker and for what it starts: several would wait for each other's cores."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _log_as_before():
    """Takes away what a command of a test set up for logging: its stream ends with the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = [one for one in root.handlers if one in handlers]
    root.setLevel(level)


class ExactBridge(NamedTuple):
    """A bridge whose kernels are those of the closed-form recursion, and the recursion."""

    bridge: Bridge
    spec: BridgeSpec
    grid: Grid
    G: Tensor
    g: Tensor
    C: Tensor
    steps: list[HalfStep]


def full_spread(S: Tensor, unit: Tensor) -> Tensor:
    """What an Affine network holds of a full covariance S (d, d), in units of a variance."""
    factor = torch.linalg.cholesky(S)
    rows = torch.linalg.inv(factor) * factor.diagonal()[:, None]
    return rows.tril(-1) + torch.diag((factor.diagonal() ** 2 / unit).log())


def set_affine(bridge: Bridge, direction: str, kernels: tuple[AffineKernel, ...]) -> None:
    """Writes affine kernels (k = 1..T) into a bridge of Affine networks, whatever their parametrisation."""
    kernel = bridge.kernel(direction)
    skip, gain = coefficients(kernel.parametrisation, bridge.grid, direction)
    with torch.no_grad():
        for k, (M, N, c, S) in enumerate(kernels, start=1):
            beta = bridge.grid.beta[k]
            kernel.network.weight[k] = torch.cat([M - skip[k] * torch.eye(len(M)), N], dim=1) / gain[k]
            kernel.network.bias[k] = c / gain[k]
            if kernel.covariance == "full":
                kernel.network.spread[k] = full_spread(S, beta)
                continue
            if kernel.covariance == "low_rank":  # S = small·I + low·lowᵀ
                small = 0.05 * torch.linalg.eigvalsh(S)[0]
                low = torch.linalg.cholesky(S - small * torch.eye(len(S)))
                kernel.network.spread[k, 0], kernel.network.spread[k, 1:] = (
                    (small / beta).log(),
                    low.T / kernel.table[4, k],
                )
                continue
            assert float((S - torch.diag(S.diagonal())).abs().max()) < 1e-12
            if kernel.covariance == "diagonal":
                kernel.network.spread[k, 0] = (S.diagonal() / beta).log()


KINDS = {  # covariance of the kernels, the recursion's objective
    "diagonal": ("diagonal", "likelihood_diagonal"),
    "full": ("full", "likelihood"),
    "low_rank": ("low_rank", "likelihood"),
    "fixed": ("fixed", "mean_matching"),
}


def make_exact_bridge(
    kind: str = "full", iterations: int = 6, T: int = 4, correlated: bool = True, parametrisation: str = "drift"
) -> ExactBridge:
    """Two dimensions, at the end of the recursion of the given iterations.

    Args:
        kind: one of KINDS.
        iterations, T: of the recursion.
        correlated: whether the coordinates of x | y are; if not, diagonal kernels reach the posterior exactly.
        parametrisation: of the kernels.
    """
    covariance, objective = KINDS[kind]
    grid = Grid.from_schedule(Power(0.3, 2.0), T)
    G, C = torch.tensor([[0.8, -0.3], [0.2, 0.5]]).double(), torch.diag(torch.tensor([0.15, 0.5])).double()
    if correlated:
        problem = LinearGaussian(dx=2, dy=2, seed=1)
        G, C = problem.G, problem.C
    steps = exact_ipf(grid, G, torch.tensor([0.3, -0.2]), C, iterations, objective)
    part = KernelSpec({"name": "affine", "steps": T}, parametrisation, covariance, rank=2, variance_floor=0.0)
    transform = {"name": "identity", "x_shape": [2], "y_shape": [2]}
    spec = BridgeSpec(grid.alpha_bar.tolist(), transform, part, part)
    bridge = build_bridge(spec)
    set_affine(bridge, "backward", steps[-2].kernels)
    set_affine(bridge, "forward", steps[-1].kernels)
    return ExactBridge(bridge, spec, grid, G, torch.tensor([0.3, -0.2]).double(), C, steps)


def unpacked(root):
    """The rows and conditional variances of a full law whose precision is rootᵀ root, (…, d, d) lower triangular."""
    var = root.diagonal(dim1=-2, dim2=-1) ** -2
    return root * var.sqrt()[..., None], var


def mixture_of(log_weights, means, rows, var):
    """The mixture of given Gaussians: means (B, M, *z_shape), rows (B, M, d, d), var (B, M, d)."""

    def parts(chosen):
        each = (means, rows, var)
        taken = each if chosen is None else [part[torch.arange(len(chosen)), chosen][:, None] for part in each]
        return FullGaussian(*(part.flatten(0, 1) for part in taken))

    return MixtureOfGaussians(log_weights, parts)


@pytest.fixture
def exact_bridge() -> Callable[..., ExactBridge]:
    """Makes an :class:`ExactBridge`; see :func:`make_exact_bridge`."""
    return make_exact_bridge


TINY = [
    "problem=two_moons", "problem.n_train=500", "+problem.n_val=100", "+problem.n_test=20",
    "network.options={width: 16, depth: 1}", "L=2", "T=3", "progress=false", "logger=none",
    "training.batch_size=32", "training.first_steps=12", "training.steps=10", "training.refresh=4",
    "training.trajectories=64",
    "training.checkpoint_every=3", "training.observe_every=1000", "metrics.exact_samples=100",
    "metrics.exact_observations=1", "metrics.picture_rows=1",
]  # fmt: skip


def checked(name: str, *arguments: str) -> Any:
    """Checks a command's arguments as the command line does. Returns what would do the work, of a sweep its launch."""
    from csb.cli import compose, train
    from csb.cli.commands import COMMANDS, named

    if "-m" in arguments or "--multirun" in arguments:
        return compose.check_sweep(name, list(arguments), train.validate)
    return named(COMMANDS[name].prepare)(compose.composed(name, arguments))


def one_line(action: Callable[[], Any]) -> str:
    """The line of the CSBError that an action ends in."""
    with pytest.raises(CSBError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    return message


def refused(command: str, *arguments: str) -> str:
    """The one line with which a command refuses its arguments."""
    message = one_line(lambda: checked(command, *arguments))
    assert 10 < len(message) < 600
    return message


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides of a training of a few dozen steps: half-steps of 12, 10, 10 and 10, rounds of 4."""
    return TINY.copy()


STAGES = [
    *TINY, "conditional.batch_size=32", "conditional.checkpoint_every=10", "distil.calls=[1,2]", "distil.components=3",
    "distil.steps=22", "distil.refresh=8", "distil.batch_size=32", "distil.trajectories=64",
    "distil.checkpoint_every=5", "denoiser.steps=4", "denoiser.batch_size=32",
]  # fmt: skip


@pytest.fixture(scope="session")
def run_with_stages(tmp_path_factory) -> Path:
    """The folder of a run on two moons with the models of all stages, as ``command`` trains them.

    It must not be changed.
    """
    from csb.cli.compose import composed
    from csb.networks.diffusion import CONDITIONAL
    from csb.runs.config import read
    from csb.runs.stages import stage_job
    from csb.runs.train import train

    own = [*STAGES, f"out={tmp_path_factory.mktemp('shared')}", "name=run"]
    first, threads = read(composed("train", own)), torch.get_num_threads()
    torch.set_num_threads(1)
    train(first)
    baselines = [[f"stage={kind}"] for kind in CONDITIONAL]
    for stage in (["stage=denoiser"], *baselines, ["stage=distil", f"run={first.folder}"]):
        stage_job(read(composed("train", [*own, *stage])))
    torch.set_num_threads(threads)
    return first.folder


@pytest.fixture
def run_copy(run_with_stages, tmp_path) -> Path:
    """A copy of it, of the test's own."""
    return shutil.copytree(run_with_stages, tmp_path / "run")


@pytest.fixture(scope="session")
def tiny_run(tiny, tmp_path_factory) -> Path:
    """The folder of a finished tiny training through the command line; nothing may be written there."""
    from csb.cli.main import main

    out = tmp_path_factory.mktemp("tiny")
    main(["train", *tiny, f"out={out}"])
    return out / "two_moons"


def find_chromium() -> str:
    """Its path; skips the test where there is none, and fails it where CSB_REQUIRE_CHROMIUM=1 says there must be."""
    found = shutil.which("chromium")
    if found is None:
        assert os.environ.get("CSB_REQUIRE_CHROMIUM") != "1", "CSB_REQUIRE_CHROMIUM=1, but chromium is not installed"
        pytest.skip("chromium is not installed")
    return found


class Finished(NamedTuple):
    """What a command left: its exit code (−9 where it was killed) and its output."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def fork_server():
    """A server that has imported everything and forks a child a command: seconds less than a fresh interpreter."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["csb.cli.train", "csb.cli.compose", "tests.commands"])
    return context


@pytest.fixture(scope="session")
def command(fork_server, tmp_path_factory):
    """Runs ``train.py`` in a process of its own: command(*arguments, hooks=(), kill_after=None, cwd=…, env={})."""

    def run(*arguments, script="train.py", hooks=(), kill_after=None, cwd=ROOT, env=None, timeout=600):
        folder = tmp_path_factory.mktemp("command")
        args = (str(ROOT / script), list(arguments), list(hooks), str(folder), str(cwd), env or {})
        process = fork_server.Process(target=run_command, args=args)
        process.start()
        process.join(kill_after if kill_after is not None else timeout)
        if process.is_alive():
            process.kill()
            process.join()
            assert kill_after is not None, f"no end within {timeout} s: {(folder / 'stderr').read_text()}"
        return Finished(process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text())

    return run


class Moved(Denoiser):
    """The exact denoiser of a mixture of z = (x − shift)/scale."""

    def __init__(self, mixture, shift, scale):
        super().__init__(torch.full((mixture.means.shape[1],), shift), scale)
        self.mixture = mixture

    def forward(self, z, alpha_bar):
        return self.mixture.denoise(z, float(alpha_bar))


@contextlib.contextmanager
def default_dtype(dtype):
    """torch's default dtype set for a block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def move_weights(model, size=0.1):
    """Moves the weights away from zero, so that every part of the model has an effect."""
    generator = seeded(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return model


def make_untrained_bridge(dx, dy, covariance="diagonal", parametrisation="v"):
    """A bridge on vectors whose weights are moved away from zero, so that every part of it has an effect."""
    part = KernelSpec({"name": "mlp", "width": 16, "depth": 1}, parametrisation, covariance, rank=1, components=3)
    transform = {"name": "standardise", "x_shape": [dx], "y_shape": [dy]}
    return move_weights(build_bridge(BridgeSpec([1.0, 0.8, 0.4, 0.1], transform, part, part), seed=3))
