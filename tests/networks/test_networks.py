"""What every network promises: shapes, times, independence of the batch, zero at the start, trainable throughout."""

import pytest
import torch

from csb.errors import CSBError
from csb.networks import Affine, build_network
from csb.process import seeded

VECTORS = [
    ({"name": "mlp", "width": 16, "depth": 2}, (3,), (5,)),
    ({"name": "mlp", "width": 16, "depth": 1}, (2, 3), (1, 4, 4)),
    ({"name": "mlp", "width": 16, "depth": 2, "film": True}, (3,), (5,)),
    ({"name": "affine", "steps": 4}, (3,), (5,)),
]
UNET = {"name": "unet", "channels": 8}
DIT = {"name": "dit", "width": 32, "depth": 2, "attention_heads": 2}
I8S = [
    pytest.param(UNET, (1, 14, 14), (1, 28, 28), id="hole"),
    pytest.param(UNET, (1, 28, 28), (1, 7, 7), id="low-resolution"),
    pytest.param({**UNET, "margin": 2, "multipliers": [1, 2, 3]}, (1, 14, 14), (1, 28, 28), id="margin"),
    pytest.param({**UNET, "patch": 4, "blocks": 2}, (2, 8, 8), (3, 16, 16), id="patch-4"),
    pytest.param({**UNET, "patch": 1}, (1, 5, 7), (1, 5, 7), id="odd-patch-1"),
    pytest.param({**UNET, "patch": 3, "skip": True}, (2, 8, 13), (1, 8, 13), id="odd-patch-3"),
    pytest.param({**UNET, "patch": 4}, (1, 7, 9), (1, 15, 11), id="odd-hole"),
    pytest.param({**UNET, "patch": 4, "margin": 50}, (1, 6, 10), (1, 12, 20), id="hole-across-patches"),
    pytest.param({**UNET, "attention": False, "multipliers": [2]}, (1, 8, 8), (1, 8, 8), id="one-level"),
    pytest.param(UNET, (1, 8, 8), (3,), id="vector-observation"),
    pytest.param({**UNET, "skip": True}, (1, 14, 14), (2, 28, 28), id="skip-hole"),
    pytest.param({**UNET, "skip": True}, (2, 8, 8), (1, 4, 4), id="skip-low-resolution"),
    pytest.param({**UNET, "skip": True}, (1, 8, 8), (3,), id="skip-vector-observation"),
    pytest.param(DIT, (1, 14, 14), (1, 28, 28), id="dit-hole"),
    pytest.param({**DIT, "margin": 2}, (1, 14, 14), (1, 28, 28), id="dit-margin"),
    pytest.param({**DIT, "patch": 3, "skip": True}, (3, 13, 18), (1, 7, 9), id="dit-odd-patch-3"),
    pytest.param({**DIT, "patch": 4, "skip": True}, (1, 1, 40), (1, 20, 31), id="dit-one-row"),
    pytest.param(DIT, (2, 5, 7), (6,), id="dit-vector-observation"),
]
ALL = VECTORS + I8S


def build(spec, z_shape, c_shape, heads=2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(spec, z_shape, c_shape, heads)


def randomise(network):
    """Random weights everywhere: a zero-initialised network hides what it depends on."""
    generator = seeded(1)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return network.eval().requires_grad_(False)


def inputs(z_shape, c_shape, batch=4):
    generator = seeded(2)
    return torch.randn(batch, *z_shape, generator=generator), torch.randn(batch, *c_shape, generator=generator)


@pytest.mark.parametrize(("spec", "z_shape", "c_shape"), ALL)
class TestEveryNetwork:
    @torch.no_grad()
    def test_a_batch_is_its_items(self, spec, z_shape, c_shape):
        network, (z, c) = randomise(build(spec, z_shape, c_shape)), inputs(z_shape, c_shape)
        time = torch.tensor([0.25, 1.0, 0.25, 0.5])
        whole, code = network(z, time, network.encode(c)), network.encode(c)
        assert whole.shape == (4, 2, *z_shape)
        assert whole.dtype == torch.float32
        for i in range(4):
            alone = network(z[i : i + 1], time[i : i + 1], network.encode(c[i : i + 1]))
            assert float((alone[0] - whole[i]).abs().max()) < 1e-5 * float(whole.abs().max())
        one = network(z, torch.tensor([0.75]), code)  # one time is that time for all
        each = network(z, torch.full((4,), 0.75), code)
        assert float((one - each).abs().max()) < 1e-5 * float(one.abs().max())
        others = [network(z, torch.tensor([0.25]), code), network(z + 1, torch.tensor([0.75]), code)]
        others.append(network(z, torch.tensor([0.75]), network.encode(c + 1)))
        assert not any(torch.allclose(one, other, atol=1e-3) for other in others)

    def test_gradients_reach_every_parameter(self, spec, z_shape, c_shape):
        # Zero-initialised layers block the gradient of what lies behind them; three steps later none is blocked.
        network, (z, c) = build(spec, z_shape, c_shape), inputs(z_shape, c_shape, 8)
        time = torch.arange(1, 9) % 4 / 4 + 0.25
        moved = {name: torch.zeros(()) for name, _ in network.named_parameters()}
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for step in range(5):
            out = network(z, time, network.encode(c))
            target = torch.randn(out.shape, generator=seeded(3, step))
            optimizer.zero_grad()
            ((out - target) ** 2).mean().backward()
            optimizer.step()
            for name, p in network.named_parameters():
                assert p.grad is not None, name
                moved[name] = moved[name] + p.grad.abs().sum()
        assert [name for name, total in moved.items() if not total > 0] == []


@pytest.mark.parametrize(("spec", "z_shape", "c_shape"), VECTORS[:2] + I8S)
def test_mean_and_variance_start_at_zero_and_a_covariances_factors_small(spec, z_shape, c_shape):
    # At 0, a saddle point of the likelihood, the factors would stay there.
    network, (z, c) = build(spec, z_shape, c_shape, heads=5), inputs(z_shape, c_shape)
    out = network(z, torch.rand(4), network.encode(c)).detach()
    assert torch.equal(out[:, :2], torch.zeros(4, 2, *z_shape))
    for head in out[:, 2:].unbind(1):
        assert 1e-4 < float(head.std()) < 0.5
    alone = build(spec, z_shape, c_shape, heads=1)
    assert torch.equal(alone(z, torch.rand(4), alone.encode(c)), torch.zeros(4, 1, *z_shape))


@pytest.mark.parametrize("T", [3, 7, 10, 49, 1000])
def test_affine_is_the_affine_map_of_its_step_at_every_k(T):
    network, (z, c), k = randomise(Affine((3,), (5,), 2, steps=T)), inputs((3,), (5,), T), torch.arange(1, T + 1)
    out = network(z, k.float() / T, network.encode(c))
    expected = (network.weight[k] @ torch.cat([z, c], 1)[:, :, None])[..., 0] + network.bias[k]
    torch.testing.assert_close(out[:, 0], expected)
    torch.testing.assert_close(out[:, 1:], network.spread[k])


@torch.no_grad()
def test_film_scales_the_features_of_each_block_by_the_observation():
    film, plain = (randomise(build({**VECTORS[0][0], "film": film}, (3,), (5,))) for film in (True, False))
    plain.load_state_dict({name: value for name, value in film.state_dict().items() if name != "gains.weight"})
    (z, c), time = inputs((3,), (5,)), torch.tensor([0.5])
    code = plain.encode(c)
    h, embedding = plain.entry(z) + code, torch.nn.functional.silu(plain.time(time))
    for i, block in enumerate(plain.blocks):
        a, b = block.film(embedding).chunk(2, dim=1)
        gain = torch.nn.functional.silu(code) @ film.gains.weight[16 * i : 16 * (i + 1)].T
        h = h + block.outer(torch.nn.functional.silu(block.inner(block.norm(h)) * (1 + a + gain) + b))
    torch.testing.assert_close(film(z, time, film.encode(c)), plain.exit(h).unflatten(1, (2, 3)))
    film.gains.weight.zero_()
    torch.testing.assert_close(film(z, time, film.encode(c)), plain(z, time, code))


@torch.no_grad()
def test_only_informed_numbers_are_read_and_get_outputs():
    network = randomise(build({**VECTORS[0][0], "informed": 2}, (5,), (3,)))
    (z, c), time = inputs((5,), (3,)), torch.tensor([0.5])
    out = network(z, time, network.encode(c))
    assert out.shape == (4, 2, 5)
    assert torch.equal(out[..., 2:], torch.zeros(4, 2, 3))
    assert bool((out[..., :2] != 0).all())
    z[:, 2:] += 1
    assert torch.equal(network(z, time, network.encode(c)), out)


class TestUNetSees:
    """Random weights, a hole of 14×14 in 28×28: which pixels of the observation matter?"""

    def test_pixels_far_outside_the_window_and_far_corners_of_the_state(self):
        network, (z, c) = randomise(build(UNET, (1, 14, 14), (1, 28, 28))), inputs((1, 14, 14), (1, 28, 28), 1)
        time, code = torch.tensor([0.5]), network.encode(c)
        out = network(z, time, code)
        for row in (0, 14, 27):
            other = c.clone()
            other[0, 0, row, 0] += 1
            assert float((network(z, time, network.encode(other)) - out).abs().max()) > 1e-4
        z[0, 0, 0, 0] += 1  # attention carries one corner of the hole to the opposite one
        assert float((network(z, time, code) - out).abs()[0, :, 0, -1, -1].max()) > 1e-5

    @pytest.mark.parametrize(("patch", "margin", "rows"), [(2, 0, 7), (2, 1, 9), (2, 99, 14), (4, 0, 5), (1, 0, 14)])
    def test_window(self, patch, margin, rows):
        # The hole spans pixels 7..20: patches of 2 from 3 to 10 (8 of them) and so on.
        network = build({**UNET, "patch": patch, "margin": margin}, (1, 14, 14), (1, 28, 28))
        first, last = 7 // patch - margin, 20 // patch + margin
        assert network.rows == range(max(0, first), min(28 // patch, last + 1))
        assert network.columns == network.rows
        assert len(network.rows) >= rows

    def test_the_state_lies_where_the_hole_is(self):
        """Convolutions alone: an observed pixel beside the hole acts most on the state's nearest edge."""
        spec = {**UNET, "attention": False, "multipliers": [1], "patch": 1, "margin": 3}
        network, (z, c) = randomise(build(spec, (1, 6, 6), (1, 12, 12))), inputs((1, 6, 6), (1, 12, 12), 1)
        code, cells = network.encode(c), network.channels * len(network.rows) * len(network.columns)
        for row, nearest in ((2, 0), (9, 5)):  # just above and just below the hole of rows 3..8
            other = c.clone()
            other[0, 0, row, 6] += 3
            mixed = torch.cat([network.encode(other)[:, :cells], code[:, cells:]], dim=1)
            time = torch.tensor([0.5])
            change = (network(z, time, mixed) - network(z, time, code)).abs().sum((0, 1, 2, 4))
            assert int(change.argmax()) == nearest


@torch.no_grad()
def test_skip_adds_state_and_observation_to_the_mean():
    shapes = (2, 6, 6), (1, 12, 12)
    skip, plain = (randomise(build({**UNET, "skip": of}, *shapes)) for of in (True, False))
    plain.load_state_dict({name: value for name, value in skip.state_dict().items() if not name.startswith("gains.")})
    (z, c), time = inputs(*shapes), torch.tensor([0.5])
    skip.gains.weight.zero_()
    skip.gains.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))  # by channel: of z's first, z's second, c
    hole, out = c[:, 0, 3:9, 3:9], plain(z, time, plain.encode(c))
    out[:, 0, 0] += z[:, 0] + 2 * z[:, 1] + 3 * hole
    out[:, 0, 1] += 4 * z[:, 0] + 5 * z[:, 1] + 6 * hole
    torch.testing.assert_close(skip(z, time, skip.encode(c)), out)


V, I8 = (2,), (1, 8, 8)


@pytest.mark.parametrize(
    ("spec", "z_shape", "c_shape", "message"),
    [
        ({"name": "resnet"}, V, V, "network 'resnet' is unknown; choose one of mlp, affine, unet, dit"),
        ({"name": "mlp", "layers": 3}, V, V, "network.options has no setting 'layers'; choose among width, d"),
        ({"name": "mlp", "encoder": "nope"}, V, V, "encoder 'nope' is unknown; choose one of vector"),
        ({"name": "mlp", "encoder": {"name": "vector", "w": 1}}, V, V, "network.options.encoder has no setting 'w'"),
        ({"name": "affine"}, V, V, "network.options.steps is missing"),
        ({"name": "unet"}, V, V, "network=unet needs images"),
        ({"name": "unet"}, (1, 4, 4), (2, 2), "network=unet needs images"),
        ({"name": "dit"}, V, V, "network=dit needs images"),
        ({"name": "dit", "width": 48}, I8, I8, "network.options.width=48 is not possible; give a multiple of 32"),
        ({"name": "dit", "attention_heads": 5}, I8, I8, "network.options.attention_heads=5 do not divide width=192"),
        ({"name": "unet", "channels": 12}, I8, I8, "network.options.channels=12 is not possible; give a multiple of"),
        ({"name": "unet", "multipliers": []}, I8, I8, "network.options.multipliers=() is not possible"),
    ],
)
def test_errors(spec, z_shape, c_shape, message):
    with pytest.raises(CSBError) as error:
        build_network(spec, z_shape, c_shape, 2)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
