"""The table of trained half-steps against the exact recursion, on kernels that are exact or wrong by a known amount."""

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.evaluation.gaussian import half_step_table, recursion_table
from csb.problems import LinearGaussian
from csb.problems.gaussian_ipf import exact_ipf
from csb.process import Grid, Power
from tests.conftest import set_affine

PROBLEM, T = LinearGaussian(dx=2, dy=2, seed=1), 4
GRID = Grid.from_schedule(Power(0.3, 2.0), T)


def half_steps(recursion: str, covariance: str, spoil: float = 0.0):
    """The bridges at the end of each half-step of two iterations; ``spoil`` is added to the exact drifts."""
    zero = torch.zeros(2, dtype=torch.float64)
    part = KernelSpec({"name": "affine", "steps": T}, "drift", covariance, variance_floor=0.0)
    transform = {"name": "identity", "x_shape": [2], "y_shape": [2]}
    found = []
    for i, step in enumerate(exact_ipf(GRID, PROBLEM.G, zero, PROBLEM.C, 2, recursion)):
        bridge = build_bridge(BridgeSpec(GRID.alpha_bar.tolist(), transform, part, part))
        set_affine(bridge, step.direction, step.kernels)
        with torch.no_grad():
            bridge.kernel(step.direction).network.bias += spoil
        found.append((f"{i + 1:02d}_{step.direction}", bridge))
    return found


@pytest.mark.parametrize(
    ("recursion", "covariance"),
    [("likelihood", "full"), ("likelihood_diagonal", "diagonal"), ("mean_matching", "fixed")],
)
def test_exact_kernels_have_no_error(recursion, covariance):
    rows = half_step_table(PROBLEM, half_steps(recursion, covariance), recursion)
    assert [row["half_step"] for row in rows] == ["01_backward", "02_forward", "03_backward", "04_forward"]
    for row in rows:
        assert row["mean_map"] < 1e-5
        assert row["displacement"] < 1e-4
        assert ("covariance" in row) == (covariance != "fixed")
        assert row.get("covariance", 0.0) < 1e-5


def test_a_wrong_drift_shows_by_its_size():
    row = half_step_table(PROBLEM, half_steps("likelihood", "full", spoil=0.1), "likelihood")[0]
    beta = GRID.beta[1:]
    wrong = (0.1 * beta).square().sum().sqrt()  # the error of the mean at step k is β_k·.1 in each coordinate
    y = PROBLEM.pairs("test", 20_000).y.double()
    size = 0.0
    for k, kernel in enumerate(exact_ipf(GRID, PROBLEM.G, torch.zeros(2), PROBLEM.C, 1)[0].kernels, start=1):
        alpha_bar = GRID.alpha_bar[k]  # states of the first path: the reference, pinned at the posterior
        cov = alpha_bar * PROBLEM.C + (1 - alpha_bar) * torch.eye(2).double()
        x = alpha_bar.sqrt() * y @ PROBLEM.G.T + torch.randn(len(y), 2).double() @ torch.linalg.cholesky(cov).T
        size += float(kernel.mean(x, y).square().mean())
    assert row["mean_map"] == pytest.approx(float(wrong) / size**0.5, rel=0.02)
    assert row["covariance"] < 1e-5


def test_mean_matching_ends_too_wide_and_less_so_at_more_steps():
    rows = recursion_table(PROBLEM, Power(0.3, 2.0), 5, [10, 50])
    found = {(row["objective"], row["T"]): row for row in rows}
    assert found["likelihood", 10]["cov_error"] < 1e-3
    assert found["mean_matching", 10]["variance_ratio"] > 1.05
    assert found["mean_matching", 50]["cov_error"] < 0.3 * found["mean_matching", 10]["cov_error"]
    assert found["likelihood_diagonal", 50]["cov_error"] < found["likelihood_diagonal", 10]["cov_error"]
