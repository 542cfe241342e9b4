"""A stationary start against the exact posterior of random fields, and its map and density."""

import pytest
import torch

from csb.bridge import Bridge, BridgeSpec, KernelSpec, build_bridge, load, save
from csb.errors import CSBError
from csb.problems import Pairs, RandomField
from csb.problems.residual import with_start
from csb.problems.rows import Rows
from csb.problems.spectral import Spectral
from csb.problems.standardise import Standardise
from csb.process import seeded


def _fitted(problem: RandomField) -> Spectral:
    found = with_start(problem.new_transform(), "spectral").fit(problem.rows("train"))
    assert isinstance(found, Spectral)
    return found


@pytest.mark.parametrize("side", [16, pytest.param(32, marks=pytest.mark.nightly)])
def test_the_start_is_the_posterior_of_a_blurred_field_at_every_size(side: int) -> None:
    problem = RandomField(seen="blur", side=side, n_train=3000)
    start, y = _fitted(problem), problem.pairs("test", 3).y
    z = torch.randn(1500, *problem.x_shape, generator=seeded(1))
    drawn = start.decode(z, y.repeat_interleave(500, 0)).unflatten(0, (3, 500)).double()
    exact = torch.stack([problem.gain @ one.double().flatten() for one in y]).view(3, *problem.x_shape)
    var = float(problem.posterior_cov.diagonal().mean())
    mean = start.decode(torch.zeros(3, *problem.x_shape), y).double()
    assert float((mean - exact).square().mean()) < 4 / 3000 * var
    assert float((drawn - exact[:, None]).square().mean()) == pytest.approx(var, rel=0.02)


def test_the_mean_of_fields_seen_by_blocks_is_the_exact_one() -> None:
    problem = RandomField(seen="blocks", side=16, n_train=5000)
    start, y = _fitted(problem), problem.pairs("test", 50).y
    exact = (y.flatten(1).double() @ problem.gain.T).view(-1, *problem.x_shape)
    mean = start.decode(torch.zeros(50, *problem.x_shape), y).double()
    assert float((mean - exact).square().mean()) < 0.01 * float(problem.posterior_cov.diagonal().mean())


def _colours(n: int, height: int = 5, width: int = 6) -> Pairs:
    generator = seeded(4)
    y = torch.randn(n, 1, height, width, generator=generator)
    e = torch.randn(n, 2, height, width, generator=generator)
    return Pairs(torch.cat([y + 0.5 * e[:, :1], e.sum(1, keepdim=True) - y.roll(1, 3)], 1), y)


@pytest.mark.parametrize("kind", ["spectral", "residual"])
@pytest.mark.parametrize("width", [6, 7])
def test_states_of_several_channels_are_white_and_come_back(width: int, kind: str) -> None:
    pairs = _colours(4000, width=width)
    start = with_start(Standardise((2, 5, width), (1, 5, width)), kind).fit(Rows.of(pairs))
    z = start.encode_x(pairs.x, pairs.y)
    torch.testing.assert_close(start.decode(z, pairs.y), pairs.x, rtol=1e-4, atol=1e-4)
    joint = torch.cov(torch.cat([z.flatten(1), pairs.y.flatten(1)], 1).T)
    d = z[0].numel()
    assert float((joint[:d, :d] - torch.eye(d)).abs().max()) < 0.12
    assert float(joint[:d, d:].abs().max()) < 0.12


@pytest.mark.parametrize("kind", ["spectral", "residual"])
@pytest.mark.parametrize("width", [4, 5])
def test_density_follows_the_map(width: int, kind: str) -> None:
    pairs = _colours(500, 3, width)
    start = with_start(Standardise((2, 3, width), (1, 3, width)), kind).fit(Rows.of(pairs))
    y = pairs.y[:1]
    slope = torch.autograd.functional.jacobian(lambda v: start.encode_x(v[None], y)[0], pairs.x[0])
    expected = torch.linalg.slogdet(slope.reshape(6 * width, 6 * width).double())[1]  # type: ignore[union-attr]
    torch.testing.assert_close(start.log_jacobian(pairs.x[:1])[0], expected, rtol=1e-3, atol=1e-3)


def test_images_of_two_sizes_and_vectors_are_refused() -> None:
    for shapes in (((1, 8, 8), (1, 4, 3)), ((3,), (3,))):
        with pytest.raises(CSBError, match="start=spectral is for x and y that are images of one size"):
            with_start(Standardise(*shapes), "spectral")  # type: ignore[arg-type]


def test_an_untrained_bridge_draws_the_start_and_so_does_its_file(tmp_path) -> None:
    """With the v parametrisation it begins as the reference process, which is the bridge of white states."""
    problem = RandomField(seen="blur", side=16, n_train=2000)
    start, y = _fitted(problem), problem.pairs("test", 2).y
    network = {"name": "unet", "channels": 8, "multipliers": [1], "patch": 4, "attention": False}
    kernel = KernelSpec(network=network)
    bridge = build_bridge(BridgeSpec(alpha_bar=[1, 0.5, 0.1], transform=start.spec(), backward=kernel, forward=kernel))
    bridge.transform.load_state_dict(start.state_dict())
    drawn = bridge.sample(y, 300, seed=1).x
    exact = torch.stack([problem.gain @ one.double().flatten() for one in y]).view(2, *problem.x_shape)
    var = float(problem.posterior_cov.diagonal().mean())
    assert float((drawn.mean(1) - exact).square().mean()) < 0.01 * var
    assert float(drawn.var(1).mean()) == pytest.approx(var, rel=0.03)
    save(bridge, tmp_path / "bridge.safetensors", {})
    assert torch.equal(load(tmp_path / "bridge.safetensors", of=Bridge).sample(y, 300, seed=1).x, drawn)
