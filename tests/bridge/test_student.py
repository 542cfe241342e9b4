"""Students: jumps, their coefficients, warm starts, files, and what is refused."""

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.kernel import PARAMETRISATIONS, coefficients, jump_coefficients
from csb.bridge.student import (
    StudentSpec,
    automatic_law,
    build_student,
    warm_start,
)
from csb.errors import CSBError
from csb.process import Grid, Power, Reference, seeded
from tests.bridge.student_models import exact_student
from tests.conftest import make_untrained_bridge

GRID = Grid.from_schedule(Power(0.1, 2.0), 4)
MLP = {"name": "mlp", "width": 8, "depth": 1}
UNET = {"name": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "patch": 2, "attention": False}
HOLE = {"name": "hole", "x_shape": [1, 8, 8], "box": [2, 2, 4, 4]}
VECTORS = {"name": "standardise", "x_shape": [3], "y_shape": [2]}


def spec(law, **more):
    transform, network = (HOLE, UNET) if law == "generator" else (VECTORS, MLP)
    made = StudentSpec(GRID.alpha_bar.tolist(), transform, network, "v", law, [1, 2, 4], components=3)
    return made.replace(**more)


class TestJumps:
    def test_x0_is_the_output_and_v_turns_the_state(self):
        skip, gain = jump_coefficients("x0", GRID)
        assert skip[1:].abs().max() == 0
        torch.testing.assert_close(gain[1:], torch.ones(4, dtype=torch.float64))
        skip, gain = jump_coefficients("v", GRID)
        torch.testing.assert_close(skip[1:], GRID.alpha_bar[1:].sqrt())
        torch.testing.assert_close(gain[1:], -(1 - GRID.alpha_bar[1:]).sqrt())

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


class TestLevels:
    def test_they_start_at_T_and_fall_evenly(self):
        student = build_student(spec("mixture"))
        assert [student.levels(calls) for calls in (1, 2, 4)] == [[4], [4, 2], [4, 3, 2, 1]]

    def test_calls_that_it_is_not_fitted_for(self):
        with pytest.raises(CSBError, match=r"calls=3 is not among those that the sampler is fitted for; .* 1, 2, 4"):
            build_student(spec("mixture")).levels(3)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_an_exact_student_is_consistent_in_law(k):
    """q_k(· | x_k) = ∫ Π(dx_j | x_k) q_j(· | x_j) where Π is Markov: at the recursion's end, a Schrödinger bridge."""
    _, bridge, _, jumps = exact_student(iterations=12)
    for j in range(1, k):
        step = jumps[k]
        near, far, var = (float(v) for v in Reference(bridge.grid.keep(0, j, k)).pinned_start(2))
        to, there = near * torch.eye(2).double() + far * step.M, jumps[j]
        M, N = there.M @ to, far * there.M @ step.N + there.N
        S = there.M @ (far**2 * step.S + var * torch.eye(2)) @ there.M.T + there.S
        torch.testing.assert_close(M, step.M, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(N, step.N, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(S, step.S, rtol=1e-3, atol=1e-4)


class TestGenerator:
    def test_noise_moves_the_draws_and_its_absence_does_not(self):
        student = build_student(spec("generator", noise=2), 1)
        with torch.no_grad():
            for p in student.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=seeded(2)))
        assert student.noise_size == 2 * 16
        z, code = torch.randn(3, 1, 4, 4, generator=seeded(0)), student.encode(torch.zeros(3, 1, 8, 8))
        noise = torch.randn(3, 32, generator=seeded(3))
        one, same, other = (student.draw(z, torch.tensor([2]), code, e) for e in (noise, noise, noise + 0.5))
        assert one.shape == z.shape
        assert torch.equal(one, same)
        assert not torch.allclose(one, other)


class TestWarmStart:
    def test_a_generator_begins_at_the_mean_that_the_bridge_sees(self):
        part = KernelSpec(UNET, "x0", "low_rank", rank=2)
        bridge = build_bridge(BridgeSpec(GRID.alpha_bar.tolist(), HOLE, part, part), 1)
        with torch.no_grad():
            for p in bridge.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=seeded(2)))
        student = build_student(spec("generator", noise=2, parametrisation="x0"), 3)
        warm_start(student, bridge.backward_kernel)
        z, c = torch.randn(3, 1, 4, 4, generator=seeded(0)), torch.randn(3, 1, 8, 8, generator=seeded(1))
        k = torch.tensor([1, 2, 4])
        drawn = student.draw(z, k, student.encode(c), torch.zeros(3, student.noise_size))
        kernel = bridge.backward_kernel
        out = kernel.network(z, k / 4, kernel.encode(c))[:, 0]
        torch.testing.assert_close(drawn, out)

    def test_a_density_takes_all_but_the_last_layer(self):
        bridge = make_untrained_bridge(3, 2)
        student = build_student(spec("mixture", network={**MLP, "width": 16}))
        before = student.network.exit[1].weight.clone()
        warm_start(student, bridge.backward_kernel)
        assert torch.equal(student.network.entry.weight, bridge.backward_kernel.network.entry.weight)
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
