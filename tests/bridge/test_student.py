"""Students: jumps, their coefficients, warm starts, and what is refused; exact ones of affine bridges' reciprocals."""

from typing import NamedTuple

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.kernel import PARAMETRISATIONS, coefficients, jump_coefficients
from csb.bridge.student import StudentSpec, automatic_law, build_student, warm_start
from csb.errors import CSBError
from csb.problems.gaussian_ipf import AffineGaussian, AffineKernel, compose
from csb.process import Grid, Power, Reference, seeded
from tests.conftest import full_spread, make_exact_bridge, make_untrained_bridge, move_weights

GRID = Grid.from_schedule(Power(0.1, 2.0), 4)
MLP = {"name": "mlp", "width": 8, "depth": 1}
UNET = {"name": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "patch": 2, "attention": False}
HOLE = {"name": "hole", "x_shape": [1, 8, 8], "box": [2, 2, 4, 4]}
VECTORS = {"name": "standardise", "x_shape": [3], "y_shape": [2]}


class ExactStudent(NamedTuple):
    """A student, its bridge, and the law of x_0 given y."""

    student: object
    bridge: object
    law: AffineGaussian


def reciprocal_jump(whole, grid, k):
    """Π(x_0 | x_k, y) for end points x_T ~ N(0, I), x_0 | x_T ~ ``whole``."""
    near, far, var = (float(v) for v in Reference(grid).pinned_both(k))
    identity = torch.eye(2).double()
    law = AffineGaussian(whole.N, whole.c, whole.M @ whole.M.T + whole.S)
    to = near * whole.M + far * identity
    P = to @ to.T + near**2 * whole.S + var * identity
    J = (near * law.P + far * whole.M) @ torch.linalg.inv(P)
    return AffineKernel(J, law.U - near * J @ law.U, law.u - near * J @ law.u, law.P - J @ P @ J.T)


def exact_student(iterations=1, calls=(1, 2, 4), T=4):
    """Of the bridge after a few iterations, with T steps: far from the Schrödinger bridge after one."""
    exact = make_exact_bridge("full", iterations=iterations, T=T)
    whole = compose(exact.steps[-2].kernels[::-1])  # x_T ↦ x_0
    own = exact.spec.alpha_bar, exact.spec.transform, {"name": "affine", "steps": T}, "v", "full", list(calls)
    student = build_student(StudentSpec(*own, variance_floor=0.0))
    with torch.no_grad():
        for k in range(1, T + 1):
            M, N, c, S = reciprocal_jump(whole, exact.grid, k)
            skip, gain = student.kernel.table[1:3, k].double()
            student.network.weight[k] = torch.cat([M - skip * torch.eye(2), N], dim=1) / gain
            student.network.bias[k] = c / gain
            student.network.spread[k] = full_spread(S, 1 - exact.grid.alpha_bar[k])
    return ExactStudent(student, exact.bridge, AffineGaussian(whole.N, whole.c, whole.M @ whole.M.T + whole.S))


def spec(law, **more):
    transform, network = (HOLE, UNET) if law == "generator" else (VECTORS, MLP)
    made = StudentSpec(GRID.alpha_bar.tolist(), transform, network, "v", law, [1, 2, 4], components=3)
    return made.replace(**more)


class TestJumps:
    @pytest.mark.parametrize("name", [name for name in PARAMETRISATIONS if name != "drift"])
    def test_the_mean_is_what_a_step_with_the_same_output_says_of_x0(self, name):
        x, out = torch.randn(2, 5, dtype=torch.float64, generator=seeded(0))
        step, jump = coefficients(name, GRID, "backward"), jump_coefficients(name, GRID)
        for k in range(1, 5):
            law = Reference(GRID).pinned_start(k)
            said = (step.skip[k] * x + step.gain[k] * out - law.near * x) / law.far
            torch.testing.assert_close(jump.skip[k] * x + jump.gain[k] * out, said)

    def test_at_output_zero_the_law_is_the_reference_with_data_from_the_standard_normal(self):
        student = build_student(spec("full"))
        with torch.no_grad():
            for p in student.parameters():
                p.zero_()
        z, k = torch.randn(4, 3, generator=seeded(1)), torch.tensor([1, 2, 3, 4])
        law = student.kernel(z, k, student.encode(torch.zeros(4, 2)))
        torch.testing.assert_close(law.mean, GRID.alpha_bar[k].sqrt().float()[:, None] * z)
        expected = (1 - GRID.alpha_bar[k]).float()[:, None, None] * torch.eye(3)
        torch.testing.assert_close(law.covariance(), expected, rtol=1e-4, atol=2e-6)


def test_levels_start_at_T_and_fall_evenly():
    student = build_student(spec("mixture"))
    assert [student.levels(calls) for calls in (1, 2, 4)] == [[4], [4, 2], [4, 3, 2, 1]]
    with pytest.raises(CSBError, match=r"calls=3 is not among those that the sampler is fitted for; .* 1, 2, 4"):
        student.levels(3)


def test_noise_moves_the_draws_of_a_generator_and_its_absence_does_not():
    student = move_weights(build_student(spec("generator", noise=2), 1))
    assert student.noise_size == 2 * 16
    z, context = torch.randn(3, 1, 4, 4, generator=seeded(0)), student.encode(torch.zeros(3, 1, 8, 8))
    noise = torch.randn(3, 32, generator=seeded(3))
    one, same, other = (student.draw(z, torch.tensor([2]), context, e) for e in (noise, noise, noise + 0.5))
    assert one.shape == z.shape
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


class TestWarmStart:
    def test_a_generator_begins_at_the_mean_that_the_bridge_sees(self):
        part = KernelSpec(UNET, "x0", "low_rank", rank=2)
        kernel = move_weights(build_bridge(BridgeSpec(GRID.alpha_bar.tolist(), HOLE, part, part), 1)).backward_kernel
        student = build_student(spec("generator", noise=2, parametrisation="x0"), 3)
        warm_start(student, kernel)
        z, c = torch.randn(3, 1, 4, 4, generator=seeded(0)), torch.randn(3, 1, 8, 8, generator=seeded(1))
        k = torch.tensor([1, 2, 4])
        drawn = student.draw(z, k, student.encode(c), torch.zeros(3, student.noise_size))
        torch.testing.assert_close(drawn, kernel.network(z, k / 4, kernel.encode(c))[:, 0])

    def test_a_density_takes_all_but_the_last_layer(self):
        teacher, student = make_untrained_bridge(3, 2), build_student(spec("mixture", network={**MLP, "width": 16}))
        before = student.network.exit[1].weight.clone()
        warm_start(student, teacher.backward_kernel)
        assert torch.equal(student.network.entry.weight, teacher.backward_kernel.network.entry.weight)
        assert torch.equal(student.network.exit[1].weight, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"law": "nope"}, "law='nope' is unknown; choose one of diagonal, low_rank, full, mixture, generator"),
        ({"calls": [5]}, r"calls=\[5\] is not possible for a bridge of T=4 steps; give numbers in 1..4"),
        ({"network": UNET}, "network=unet needs images"),
    ],
)
def test_what_cannot_be_built(change, message):
    with pytest.raises(CSBError, match=message):
        build_student(spec("mixture").replace(**change))


def test_the_law_that_suits_a_shape():
    assert [automatic_law(shape) for shape in ((2,), (64,), (65,), (1, 4, 4))] == ["mixture"] * 2 + ["generator"] * 2
