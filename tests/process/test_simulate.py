"""Every law of the reference process against simulated trajectories; seeds."""

import pytest
import torch

from csb.process import Grid, Power, Reference, noise_like, seeded

N, T = 200_000, 5


def simulate(reference, x_0, generator):
    """Trajectories of the reference process from x_0 (B, …): (T + 1, B, …)."""
    path = [x_0]
    for k in range(1, reference.grid.T + 1):
        path.append(reference.step(k).draw(path[-1], generator))
    return torch.stack(path)


@pytest.fixture(scope="module")
def reference():
    return Reference(Grid.from_schedule(Power(0.2, 2.0), T))


@pytest.fixture(scope="module")
def path(reference):
    """Trajectories from a start that is neither Gaussian nor standardised, (T + 1, N), float64."""
    generator = seeded(0, 1)
    x_0 = torch.rand(N, generator=generator, dtype=torch.float64) * 3 - 0.5
    return simulate(reference, x_0, generator)


def regress(target, *inputs):
    """Coefficients with their standard errors, the residual variance with its, and the intercept is tested to be 0."""
    X = torch.stack([torch.ones_like(target), *inputs], dim=1)
    coefficients = torch.linalg.lstsq(X, target[:, None]).solution[:, 0]
    var = (target - X @ coefficients).square().sum() / (len(target) - X.shape[1])
    errors = (var * torch.linalg.inv(X.T @ X).diagonal()).sqrt()
    return coefficients, errors, var, var * (2 / len(target)) ** 0.5


def check(target, inputs, expected, var):
    coefficients, errors, found, error = regress(target, *inputs)
    wanted = torch.stack([torch.zeros((), dtype=torch.float64), *expected])
    assert bool(((coefficients - wanted).abs() < 5 * errors).all())
    assert abs(float(found - var)) < 5 * float(error)


@pytest.mark.parametrize("k", range(1, T + 1))
def test_step_and_marginal(reference, path, k):
    step, marginal = reference.step(k), reference.marginal(k)
    check(path[k], [path[k - 1]], [step.scale], step.var)
    check(path[k], [path[0]], [marginal.scale], marginal.var)


@pytest.mark.parametrize("k", range(2, T + 1))
def test_pinned_start(reference, path, k):
    law = reference.pinned_start(k)
    check(path[k - 1], [path[k], path[0]], [law.near, law.far], law.var)


@pytest.mark.parametrize("k", range(1, T))
def test_pinned_end(reference, path, k):
    law = reference.pinned_end(k)
    check(path[k], [path[k - 1], path[T]], [law.near, law.far], law.var)


@pytest.mark.parametrize("k", range(1, T))
def test_pinned_both(reference, path, k):
    law = reference.pinned_both(k)
    check(path[k], [path[0], path[T]], [law.near, law.far], law.var)


def test_draws_follow_their_laws(reference, path):
    k = torch.randint(1, T, (N,), generator=seeded(2))
    law = reference.pinned_both(k)
    x = law.draw(path[0], path[T], seeded(3))
    standard = (x - law.near * path[0] - law.far * path[T]) / law.var.sqrt()
    check(standard, [path[0], path[T]], [torch.zeros(()).double()] * 2, torch.ones(()).double())
    marginal = reference.marginal(k)
    standard = (marginal.draw(path[0], seeded(4)) - marginal.scale * path[0]) / marginal.var.sqrt()
    check(standard, [path[0]], [torch.zeros(()).double()], torch.ones(()).double())


def test_simulate_keeps_shape_dtype_and_start(reference):
    x_0 = torch.rand(4, 1, 3, 3, generator=seeded(5))
    path = simulate(reference, x_0, seeded(6))
    assert path.shape == (T + 1, 4, 1, 3, 3)
    assert path.dtype == torch.float32
    assert torch.equal(path[0], x_0)
    assert torch.equal(path, simulate(reference, x_0, seeded(6)))


def stream(*keys):
    return torch.rand(4, generator=seeded(*keys)).tolist()


def test_same_keys_same_stream():
    assert stream(3, 1, 4) == stream(3, 1, 4)
    assert noise_like(torch.zeros(3), seeded(1)).tolist() == noise_like(torch.zeros(3), seeded(1)).tolist()


def test_different_keys_different_streams():
    keys = [(s, a, b) for s in range(4) for a in range(4) for b in range(4)]
    assert len({tuple(stream(*k)) for k in keys}) == len(keys)


def test_a_trailing_zero_is_a_key():
    assert len({tuple(stream(*k)) for k in [(1,), (1, 0), (1, 0, 0)]}) == 3


def test_streams_of_neighbouring_keys_are_uncorrelated():
    a, b = (torch.randn(100_000, generator=seeded(0, 0, i)) for i in range(2))
    assert abs(float((a * b).mean())) < 5 / 100_000**0.5


def test_the_global_generator_is_left_alone(reference):
    before = torch.get_rng_state()
    simulate(reference, torch.zeros(3), seeded(1))
    assert torch.equal(torch.get_rng_state(), before)
