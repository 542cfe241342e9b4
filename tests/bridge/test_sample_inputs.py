"""What Bridge.sample takes and shows: observations of any type, errors, and the progress bar."""

import math

import numpy as np
import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.errors import CSBError
from csb.process import seeded
from tests.conftest import make_untrained_bridge


@pytest.fixture(scope="module")
def bridge():
    return make_untrained_bridge(3, 2).eval()


@pytest.fixture
def y():
    return torch.randn(4, 2, generator=seeded(1))


class TestObservations:
    @pytest.mark.parametrize(
        "make",
        [
            torch.Tensor.tolist,
            torch.Tensor.numpy,
            lambda y: tuple(map(tuple, y.tolist())),
            lambda y: y.double().numpy(),
            lambda y: y.numpy().astype(">f4"),
            lambda y: y.flip(0).numpy()[::-1],
            lambda y: list(y),
            lambda y: y.numpy().astype(np.longdouble),
        ],
    )
    def test_observations_of_other_types(self, bridge, y, make):
        expected = bridge.sample(y, 2, generator=seeded(1)).x
        assert torch.equal(bridge.sample(make(y), 2, generator=seeded(1)).x, expected)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
    def test_integers(self, bridge, dtype):
        y = torch.tensor([[3, 1], [0, 7]], dtype=dtype)
        expected = bridge.sample(y.float(), 2, generator=seeded(1)).x
        for same in (y, y.numpy(), y.tolist()):
            assert torch.equal(bridge.sample(same, 2, generator=seeded(1)).x, expected)

    @pytest.mark.parametrize("make", [torch.Tensor.clone, torch.Tensor.numpy, torch.Tensor.tolist])
    def test_integers_leave_the_scale_of_pixels_open(self, make):
        part = KernelSpec({"name": "affine", "steps": 1})
        transform = {"name": "pixel_range", "x_shape": [1, 2, 2], "y_shape": [1, 2, 2]}
        bridge = build_bridge(BridgeSpec([1.0, 0.5], transform, part, part))
        y = torch.full((1, 2, 2), 128, dtype=torch.uint8)
        with pytest.raises(CSBError, match=r"y is .*int.*, and whether its pixels lie in 0\.\.255 is not known"):
            bridge.sample(make(y))
        bridge.sample(make(y.float() / 255))


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (torch.zeros(3), {}, "y has shape (3,); expected (2,) or a batch (B, 2,)"),
        (torch.zeros(4, 3), {}, "y has shape (4, 3); expected (2,)"),
        (torch.zeros(()), {}, "y has shape (); expected (2,)"),
        (torch.zeros(1, 4, 2), {}, "y has shape (1, 4, 2); expected (2,)"),
        (torch.zeros(0, 2), {}, "y holds no observation"),
        (torch.tensor([0.0, float("nan")]), {}, "y holds NaN or infinite values"),
        (torch.tensor([[0.0, float("inf")]]), {}, "y holds NaN or infinite values"),
        (torch.tensor([1e300, 0.0], dtype=torch.float64), {}, "y holds NaN or infinite values"),
        (
            torch.zeros(2, dtype=torch.bool),
            {},
            "y is torch.bool; pass a tensor, an array or a nested list of real numbers",
        ),
        ("01", {}, "y is str; pass a tensor, an array or a nested list of real numbers"),
        (torch.zeros(2, dtype=torch.complex64), {}, "y is torch.complex64; pass a tensor"),
        ([0.0, None], {}, "y holds values of type object; pass a tensor"),
        ([True, False], {}, "y holds values of type bool; pass a tensor"),
        (["0", "1"], {}, "y holds values of type <U1; pass a tensor"),
        ([[0.0, 1.0], [0.0]], {}, "y is a list that is no rectangular array; pass a tensor"),
        ({0.0, 1.0}, {}, "y is set; pass a tensor"),
        (1.0, {}, "y is float; pass a tensor"),
        ([0.0, 1.0, 2.0], {}, "y has shape (3,); expected (2,) or a batch (B, 2,)"),
        ([], {}, "y has shape (0,); expected (2,)"),
        ([0.0, math.nan], {}, "y holds NaN or infinite values"),
        (np.array([1e300, 0.0]), {}, "y holds NaN or infinite values"),
        (torch.zeros(2), {"n": 0}, "n=0 is not possible; give an integer of at least 1"),
        (torch.zeros(2), {"n": 2.0}, "n=2.0 is not possible"),
        (torch.zeros(2), {"n": True}, "n=True is not possible"),
        (torch.zeros(2), {"batch_size": 0}, "batch_size=0 is not possible"),
        (torch.zeros(2), {"refine": -1}, "refine=-1 is not possible; give an integer of at least 0"),
    ],
    ids=str,
)
def test_errors(bridge, y, options, message):
    with pytest.raises(CSBError) as error:
        bridge.sample(y, **{"generator": seeded(1), **options})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


class TestProgress:
    @pytest.mark.parametrize(("options", "calls"), [({}, 9), ({"refine": 1}, 27), ({"sample_steps": 2}, 6)])
    def test_the_bar_counts_every_network_call(self, bridge, y, options, calls, capsys):
        seen = []
        hooks = [
            bridge.kernel(d).network.register_forward_hook(lambda *_: seen.append(1)) for d in ("backward", "forward")
        ]
        silent = bridge.sample(y, 2, generator=seeded(1), batch_size=3, **options)
        assert capsys.readouterr() == ("", "")
        shown = bridge.sample(y, 2, generator=seeded(1), batch_size=3, progress=True, **options)
        for hook in hooks:
            hook.remove()
        out, err = capsys.readouterr()
        assert out == ""
        assert f"{calls}/{calls}" in err  # steps × batches of 3 of 8 states
        assert len(seen) == 2 * calls
        assert torch.equal(silent.x, shown.x)

    def test_it_is_closed_by_an_error(self, bridge, y):
        hook = bridge.backward_kernel.network.register_forward_hook(lambda *_: 1 / 0)
        for _ in range(2):  # rich allows one live bar at a time
            with pytest.raises(ZeroDivisionError):
                bridge.sample(y, 2, generator=seeded(1), progress=True)
        hook.remove()
        assert not bridge.training
