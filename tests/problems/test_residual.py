"""A start that knows y: the regression against closed forms, and bridges whose posterior is that of the start."""

import math
import pickle

import pytest
import torch

import csb
from csb.errors import CSBError
from csb.problems import LinearGaussian, Pairs, RandomField, TwoMoons
from csb.problems.residual import Residual, with_start
from csb.problems.rows import Rows
from csb.problems.standardise import Standardise
from csb.problems.transform import build_transform
from csb.process import seeded

_N = 4000


def _pairs(n: int = _N, d: int = 3) -> Pairs:
    generator = seeded(3)
    y = torch.randn(n, d, generator=generator)
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.8], [0.3, 0.0, 1.0]])[:d, :d]
    return Pairs(2 * y @ mix + 1 + torch.randn(n, d, generator=generator) @ mix.T, y)


def _fitted(pairs: Pairs, start: str = "residual_full") -> Residual:
    inner = Standardise(tuple(pairs.x.shape[1:]), tuple(pairs.y.shape[1:]))  # type: ignore[arg-type]
    found = with_start(inner, start).fit(Rows.of(pairs))
    assert isinstance(found, Residual)
    return found


@pytest.mark.parametrize("start", ["residual", "residual_full"])
def test_states_come_back_to_x(start: str) -> None:
    pairs = _pairs()
    found = _fitted(pairs, start)
    z = found.encode_x(pairs.x, pairs.y)
    torch.testing.assert_close(found.decode(z, pairs.y), pairs.x, rtol=1e-5, atol=1e-5)


def test_states_of_a_linear_gaussian_problem_are_white() -> None:
    pairs, new = _pairs(), _pairs(3 * _N)
    z = _fitted(pairs).encode_x(new.x[_N:], new.y[_N:])
    joint = torch.cov(torch.cat([z, new.y[_N:]], 1).T)
    torch.testing.assert_close(joint[:3, :3], torch.eye(3), rtol=0, atol=0.08)
    torch.testing.assert_close(joint[:3, 3:], torch.zeros(3, 3), rtol=0, atol=0.05)


def test_leave_one_out_residuals_are_those_of_a_regression_without_the_pair() -> None:
    pairs = _pairs(60)
    inner = Standardise((3,), (3,))
    found = Residual(inner.spec(), full=False).fit(Rows.of(pairs))
    left_out = found.left_out().encode_x(pairs.x, pairs.y) * found.root
    u, c = found.inner.encode_x(pairs.x).double(), found.encode_y(pairs.y).double()
    ones = torch.ones(60, 1, dtype=torch.float64)
    for i in (0, 17, 59):
        rest = torch.arange(60) != i
        design = torch.cat([ones, c], 1)
        alone = u[i] - design[i] @ torch.linalg.lstsq(design[rest], u[rest]).solution
        torch.testing.assert_close(left_out[i].double(), alone, rtol=0.02, atol=0.005)


def test_width_of_new_pairs_is_that_of_training_with_few_pairs_for_many_numbers() -> None:
    generator = seeded(5)
    x, y = torch.randn(2600, 8, generator=generator), torch.randn(2600, 80, generator=generator)
    x = x + y[:, :8]
    found = Residual(Standardise((8,), (80,)).spec(), full=True).fit(Rows.of(Pairs(x[:400], y[:400])))
    trained = found.left_out().encode_x(x[:400], y[:400]).square().mean()
    assert float(trained) == pytest.approx(1, abs=1e-3)
    assert float(found.encode_x(x[400:], y[400:]).square().mean()) == pytest.approx(1, abs=0.1)
    assert float(found.encode_x(x[:400], y[:400]).square().mean()) < 0.75


def test_density_follows_the_map() -> None:
    pairs = _pairs()
    found = _fitted(pairs)
    x, y = pairs.x[:1], pairs.y[:1]
    slope = torch.autograd.functional.jacobian(lambda v: found.encode_x(v[None], y)[0], x[0])
    expected = torch.linalg.slogdet(slope.double())[1]  # type: ignore[union-attr]
    torch.testing.assert_close(found.log_jacobian(x)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_file_holds_the_start() -> None:
    pairs = _pairs()
    found = _fitted(pairs)
    again = build_transform(found.spec())
    before = again.encode_x(pairs.x, pairs.y)
    again.load_state_dict(found.state_dict())
    assert not torch.equal(again.encode_x(pairs.x, pairs.y), before)
    torch.testing.assert_close(again.encode_x(pairs.x, pairs.y), found.encode_x(pairs.x, pairs.y))
    torch.testing.assert_close(pickle.loads(pickle.dumps(found)).encode_y(pairs.y), found.encode_y(pairs.y))


def test_one_step_is_exact_where_the_start_is_the_posterior() -> None:
    problem = LinearGaussian(n_train=20_000)
    training = {"last_forward": False, "first_steps": 300}
    run = csb.fit(problem=problem, T=1, L=1, start="residual_full", training=training, progress=False)
    y = problem.pairs("test", 20).y
    drawn = run.bridge.sample(y, 4000, seed=1).x.double()
    for x, exact in zip(drawn, map(problem.posterior, y)):
        assert float((x.mean(0) - exact.mean).norm()) < 0.12 * math.sqrt(float(exact.cov.trace()))
        torch.testing.assert_close(torch.cov(x.T), exact.cov, rtol=0, atol=0.12 * float(exact.cov.diagonal().max()))


def test_mirrored_states_lie_beyond_the_bound_and_decode_to_the_same_x() -> None:
    problem = TwoMoons(n_train=2000, transform="reflect")
    pairs = problem.pairs("train")
    found = with_start(problem.new_transform(), "residual_full").fit(Rows.of(pairs))
    z, c = found.encode_x(pairs.x, pairs.y), found.encode_y(pairs.y)
    moved = found.preimage(z, seeded(1), c)
    assert 0 < int((moved != z).any(1).sum()) < len(z)
    torch.testing.assert_close(found.decode(moved, pairs.y), pairs.x, rtol=0, atol=1e-4)


def test_density_of_a_bridge_with_a_start_is_normalised() -> None:
    x, y = _pairs(2000, 1)[:2]
    training = {"last_forward": False, "first_steps": 100}
    bridge = csb.fit(x, y, T=3, L=1, start="residual", training=training, progress=False).bridge
    at = torch.linspace(-12, 14, 400)[:, None]
    density = bridge.log_prob(at, y[0], 16, seeded(2)).exp()
    assert float(torch.trapezoid(density, at[:, 0])) == pytest.approx(1, abs=0.05)


def test_gaps_and_series_are_refused() -> None:
    pairs = _pairs(200)
    y = pairs.y.clone()
    y[3, 1] = torch.nan
    with pytest.raises(CSBError, match="needs observations without gaps"):
        _fitted(Pairs(pairs.x, y))
    with pytest.raises(CSBError, match="needs y of one vector or image"):
        with_start(Standardise((3,), (5, 2)), "residual")  # type: ignore[arg-type]
    with pytest.raises(CSBError, match=r"start=residual with training.missing=0.5 is not possible"):
        csb.fit(pairs.x, pairs.y, start="residual", training={"missing": 0.5}, progress=False)
    with pytest.raises(CSBError, match="two pairs for each of 3 numbers"):
        _fitted(Pairs(*(part[:5] for part in pairs[:2])))
    network = {"name": "mlp", "parametrisation": {"backward": "x0", "forward": "v"}}
    with pytest.raises(CSBError, match=r"network.parametrisation.backward=x0 is not for start=informed"):
        csb.fit(pairs.x, pairs.y, start="informed", network=network)


def _seen_by_three(n: int, d: int = 24) -> Pairs:
    """x ~ N(0, C) of d coordinates, y three linear functions of it with noise, bent."""
    generator = seeded(8)
    mix, A = torch.randn(d, d, generator=generator), torch.randn(3, d, generator=generator) / math.sqrt(d)
    x = torch.randn(n, d, generator=generator) @ mix.T
    seen = x @ A.T
    return Pairs(x, torch.sinh(0.2 * (seen + 0.5 * torch.randn(n, 3, generator=generator))))


def test_informed_coordinates_come_first_and_the_others_are_noise_that_y_does_not_tell_of() -> None:
    pairs, new = _seen_by_three(6000), _seen_by_three(12_000)
    found = _fitted(pairs, "informed")
    assert found.informed == 3
    z, y = found.encode_x(new.x[6000:], new.y[6000:]), new.y[6000:]
    torch.testing.assert_close(torch.cov(z.T), torch.eye(24), rtol=0, atol=0.1)
    v = torch.asinh(y)
    across = torch.corrcoef(torch.cat([z, v, v.square(), z[:, :3].square()], 1).T)[3:24, 24:]
    assert float(across.abs().max()) < 6 / math.sqrt(6000)
    torch.testing.assert_close(found.decode(z, y), new.x[6000:], rtol=1e-3, atol=1e-3)
    at = y.new_zeros(1, 24)
    torch.testing.assert_close(found.log_jacobian(at), _fitted(pairs).log_jacobian(at), rtol=1e-3, atol=0)


def test_a_regression_of_noise_informs_of_one_coordinate_at_most() -> None:
    x, y = torch.randn(3000, 30, generator=seeded(1)), torch.randn(3000, 30, generator=seeded(2))
    assert _fitted(Pairs(x, y), "informed").informed == 1


@pytest.mark.nightly
def test_a_bridge_of_informed_coordinates_samples_the_posterior_of_a_field() -> None:
    problem = RandomField(side=16, seen="points", n_train=5000, n_val=50, n_test=50)
    training = {"last_forward": False, "first_steps": 30}
    run = csb.fit(problem=problem, T=4, L=1, start="informed", training=training, progress=False)
    network = run.bridge.spec.backward.network
    assert network["name"] == "mlp"
    assert 1 < network["informed"] <= 64
    y = problem.pairs("test", 8).y
    x = run.bridge.sample(y, 2000, seed=1).x.flatten(2).double()
    exact = [problem.posterior(one) for one in y]
    std = exact[0].cov.diagonal().sqrt()
    mean = torch.stack([one.mean.flatten() for one in exact])
    assert float(((x.mean(1) - mean) / std).square().mean().sqrt()) < 0.2
    assert float((x.std(1) / std - 1).square().mean().sqrt()) < 0.08
