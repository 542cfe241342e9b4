"""Encoders of series, sets and images: what must not change a context, and what must."""

import pytest
import torch

import csb
from csb.errors import CSBError
from csb.networks import build_network
from csb.networks.encoders import build_encoder, with_mask
from csb.process import seeded
from csb.runs.fit import Options
from csb.runs.options import configured

nan = float("nan")
SHORT = {"first_steps": 20, "steps": 10, "batch_size": 64, "trajectories": 128, "refresh": 10, "patience": 0}
ROWS = [{"name": "series"}, {"name": "set"}, {"name": "set", "attention": 1}]


def encoder(spec, length=6):
    torch.manual_seed(0)
    return build_encoder(spec, (length, 4), 16).eval()


def rows(length=6):
    return torch.randn(3, length, 2, generator=seeded(length))


@pytest.mark.parametrize("spec", ROWS, ids=str)
def test_how_far_rows_are_filled_up_does_not_matter(spec):
    short, y = encoder(spec), rows()
    long = encoder(spec, 11)
    filled = torch.cat([y, torch.full((3, 5, 2), nan)], 1)
    torch.testing.assert_close(long(with_mask(filled)), short(with_mask(y)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("spec", ROWS, ids=str)
def test_order_matters_to_a_series_and_not_to_a_set(spec):
    net, y = encoder(spec), rows()
    y[1, 4:] = nan
    one, other = net(with_mask(y)), net(with_mask(y[:, torch.tensor([5, 3, 1, 0, 2, 4])]))
    assert torch.equal(one, other) == (spec["name"] == "set")


@pytest.mark.parametrize("spec", ROWS, ids=str)
def test_every_present_value_matters_and_nothing_at_all_has_a_finite_context(spec):
    net, y = encoder(spec), rows()[:1].requires_grad_()
    net(with_mask(y)).square().sum().backward()
    assert y.grad is not None
    assert bool((y.grad.abs() > 1e-8).all())
    nothing = net(with_mask(torch.full((2, 6, 2), nan)))
    assert bool(nothing.isfinite().all())


@pytest.mark.parametrize("spec", ROWS, ids=str)
def test_a_set_of_the_same_row_again_and_again_tells_how_many_there_are(spec):
    net, y = encoder(spec), torch.ones(1, 6, 2)
    fewer = y.clone()
    fewer[:, 3:] = nan
    assert not torch.allclose(net(with_mask(y)), net(with_mask(fewer)), atol=1e-3)


@pytest.mark.parametrize("spec", ROWS, ids=str)
def test_a_small_spread_beside_a_large_mean_is_resolved(spec):
    """Doubling a spread of .01 moves the context about as far as doubling one of .1, and not a tenth as far."""
    net, noise = encoder(spec), rows()[:1]
    one, two, ten, twenty = (net(with_mask(3 + scale * noise)).detach() for scale in (0.01, 0.02, 0.1, 0.2))
    assert float((two - one).norm()) > 0.4 * float((twenty - ten).norm())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 17), (2, 1, 1)])
def test_images_of_any_size(shape):
    net = build_encoder("image", shape, 8)
    assert net(torch.zeros(2, *shape)).shape == (2, 8)


@pytest.mark.parametrize(("name", "shape"), [("image", (4,)), ("set", (4,)), ("series", (1, 4, 4))])
def test_observations_of_another_kind_are_refused(name, shape):
    with pytest.raises(CSBError, match="not for observations"):
        build_encoder(name, shape, 8)


@pytest.mark.parametrize(("shape", "kind"), [((5, 2), "SeriesEncoder"), ((1, 6, 6), "ImageEncoder")])
def test_the_shape_of_y_chooses_the_encoder(shape, kind, caplog):
    x, y = torch.randn(200, 2, generator=seeded(1)), torch.randn(200, *shape, generator=seeded(2))
    with caplog.at_level("INFO"):
        run = csb.fit(x, y, L=1, T=2, training=SHORT, progress=False)
    assert type(run.bridge.backward_kernel.network.encoder).__name__ == kind
    assert f"mlp {kind.removesuffix('Encoder').lower()}, " in caplog.text
    assert run.bridge.sample(y[:3], 4, seed=0).x.shape == (3, 4, 2)


def chosen(y, **options):
    """The encoder of a configuration, without a training."""
    run, scratch = configured(torch.randn(500, 2, generator=seeded(1)), y, Options(L=1, T=2, progress=False, **options))
    scratch.cleanup()
    return run.backward.network["encoder"]


def test_many_rows_in_no_order_are_a_set(caplog):
    noise = torch.randn(500, 8, 1, generator=seeded(2))
    count = 1 + torch.arange(500)[:, None] % 8
    ragged = noise.masked_fill((torch.arange(8) >= count)[..., None], nan)
    with caplog.at_level("INFO"):
        assert [chosen(y) for y in (noise, noise.cumsum(1), noise[:, :2], ragged)] == [
            "set",
            "series",
            "series",
            "series",
        ]
        of_parts = chosen({"a": noise, "b": noise[:, 0], "c": noise}, encoder={"a": "auto", "b": "auto", "c": "series"})
    assert of_parts["encoders"] == {"a": "set", "b": "vector", "c": "series"}
    lines = [record.getMessage() for record in caplog.records if "whose order" in record.getMessage()]
    assert "y: 8 to 8 rows whose order tells nothing (p = " in lines[0]
    assert "of 2800 pairs of neighbours): encoder set; encoder= chooses another" in lines[0]
    assert "y: 8 to 8 rows whose order tells something (p = 0.01 of" in lines[1]
    assert "y: 2 to 2 rows whose order may tell something" in lines[2]
    assert "y: 1 to 8 rows whose order may tell something" in lines[3]
    assert "a: 8 to 8 rows whose order tells nothing" in lines[4]
    assert len(lines) == 5


def test_sets_of_several_sizes(tmp_path):
    """A list of sets is filled up; a set with fewer rows than the largest is an observation as it is."""
    x = torch.randn(200, 2, generator=seeded(1))
    y = [torch.randn(1 + i % 7, 3, generator=seeded(i)).numpy() for i in range(200)]
    run = csb.fit(x, y, encoder="set", L=1, T=2, training=SHORT, progress=False, out=tmp_path / "run")
    assert run.bridge.transform.y_shape == (7, 3)
    bridge = csb.load(tmp_path / "run")
    alone = bridge.sample(y[2], 5, seed=0).x
    assert alone.shape == (5, 2)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(bridge.sample(y[2][order], 5, seed=0).x, alone)
    assert bridge.sample(y[:3], 5, seed=0).x.shape == (3, 5, 2)
    with pytest.raises(CSBError, match="y has shape"):
        bridge.sample(torch.zeros(8, 3), 2)


def test_the_mask_is_an_option_of_every_network():
    network = build_network({"name": "unet", "channels": 8, "missing": True}, (1, 8, 8), (1, 8, 8), 1)
    c = torch.zeros(1, 1, 8, 8)
    c[..., 2:5] = nan
    assert bool(network.context(c).isfinite().all())
    with pytest.raises(CSBError, match="missing='yes' is not possible"):
        build_network({"name": "mlp", "missing": "yes"}, (2,), (2,), 1)


def test_rows_among_parts_need_the_mask_that_named_observations_have():
    spec = {"name": "parts", "shapes": {"a": [3, 1], "b": [2]}, "encoders": {"a": "set", "b": "vector"}}
    assert build_encoder(spec, (10,), 8)(torch.ones(4, 10)).shape == (4, 8)
    with pytest.raises(CSBError, match="but y is one array"):
        build_encoder(spec, (5,), 8)
