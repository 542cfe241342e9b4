"""What Bridge.sample takes and shows: observations of any type, errors, and the progress bar."""

import numpy as np
import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.errors import CSBError
from csb.numbers import as_numbers
from csb.process import seeded
from csb.samplers import BridgeSampler
from tests.conftest import make_untrained_bridge

MASKED = "y holds NaN or infinite values, 1 as float32, in column 1, the first in row 1 (masked is NaN); pass finite"


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
            lambda y: y.numpy().astype(">f4"),
            lambda y: list(y),
        ],
    )
    def test_observations_of_other_types(self, bridge, y, make):
        expected = bridge.sample(y, 2, generator=seeded(1)).x
        assert torch.equal(bridge.sample(make(y), 2, generator=seeded(1)).x, expected)

    @pytest.mark.parametrize("make", [torch.Tensor.clone, torch.Tensor.numpy, torch.Tensor.tolist])
    def test_integers_leave_the_scale_of_pixels_open(self, make):
        part = KernelSpec({"name": "affine", "steps": 1})
        transform = {"name": "pixel_range", "x_shape": [1, 2, 2], "y_shape": [1, 2, 2]}
        bridge = build_bridge(BridgeSpec([1.0, 0.5], transform, part, part))
        y = torch.full((1, 2, 2), 128, dtype=torch.uint8)
        with pytest.raises(CSBError, match=r"y is .*int.*, and whether its pixels lie in 0\.\.255 is not known"):
            bridge.sample(make(y))
        bridge.sample(make(y.float() / 255))


class Column:
    """A series of pandas, as far as it is used."""

    def __init__(self, values, dtype=None):
        self.values, self.dtype = np.asarray(values), dtype or np.asarray(values).dtype

    def to_numpy(self, dtype=None, na_value=None):
        if dtype is None:
            return self.values
        return np.array([na_value if v is None else v for v in self.values], dtype=dtype)


class Frame:
    """A frame of pandas: as a whole an array of objects where its columns have several types."""

    def __init__(self, **columns):
        self.columns, self.held = list(columns), columns

    def __getitem__(self, key):
        return self.held[key]

    def to_numpy(self):
        parts = [column.values for column in self.held.values()]
        same = len({part.dtype for part in parts}) == 1
        return np.stack(parts if same else [part.astype(object) for part in parts], 1)


class TestNumbers:
    @pytest.mark.parametrize(
        "same",
        [
            torch.tensor([[1, 0], [0, 1]], dtype=torch.bool),
            torch.tensor([[1, 0], [0, 1]], dtype=torch.uint16),
            np.array([[1, 0], [0, 1]], np.uint64),
            np.array([[1, 0], [0, 1]], ">i4"),
            torch.tensor([[1, 0], [0, 1]], dtype=torch.bfloat16),
            np.ma.array([[1, 0], [0, 1]], mask=False),
            Frame(a=Column([1.0, 0.0]), b=Column([0.0, 1.0])),
            Frame(a=Column([1, 0]), b=Column([False, True])),
            Frame(a=Column([1.0, 0.0]), b=Column(np.array([0, 1], object), np.dtype("int64"))),
            [Column([1.0, 0.0]), Column([0.0, 1.0])],
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_every_kind_counts_as_floats(self, bridge, same):
        expected = bridge.sample(torch.eye(2), 2, generator=seeded(1)).x
        assert torch.equal(bridge.sample(same, 2, generator=seeded(1)).x, expected)
        assert torch.equal(as_numbers("y", same).double(), torch.eye(2).double())

    def test_large_integers_keep_their_size(self):
        assert as_numbers("y", np.array([2**64 - 2**12], np.uint64)).tolist() == [2.0**64 - 2**12]
        assert as_numbers("y", np.array([2**53 + 1], np.uint64)).tolist() == [2**53 + 1]

    def test_a_column_without_numbers_is_named(self, bridge):
        frame = Frame(a=Column([1.0, 0.0]), kind=Column(np.array(["u", "v"], object), "category"))
        with pytest.raises(CSBError, match=r"^column 'kind' of y holds values of type category; leave it out"):
            bridge.sample(frame)

    def test_a_missing_value_of_a_frame_is_nan(self, bridge):
        frame = Frame(a=Column([1.0, 0.0]), b=Column(np.array([None, 1], object), np.dtype("int64")))
        with pytest.raises(CSBError, match="in column 1, the first in row 0"):
            bridge.sample(frame)

    @pytest.mark.parametrize("make", [torch.Tensor.clone, torch.Tensor.numpy, torch.Tensor.tolist])
    def test_pixels_of_own_units_may_be_integers(self, make):
        part = KernelSpec({"name": "affine", "steps": 1})
        transform = {"name": "standardise", "x_shape": [1, 2, 2], "y_shape": [1, 2, 2]}
        bridge = build_bridge(BridgeSpec([1.0, 0.5], transform, part, part))
        y = torch.full((1, 2, 2), 128, dtype=torch.uint8)
        expected = bridge.sample(y.float(), 2, generator=seeded(1)).x
        assert torch.equal(bridge.sample(make(y), 2, generator=seeded(1)).x, expected)
        assert torch.equal(BridgeSampler(bridge).sample(make(y), 2, seeded(1)).x, expected)

    @pytest.mark.parametrize("whole", [np.uint8])
    def test_integers_of_numpy(self, bridge, y, whole):
        options = {"n": whole(3), "batch_size": whole(5), "refine": whole(1), "sample_steps": whole(2)}
        expected = bridge.sample(y, **{k: int(v) for k, v in options.items()}, generator=seeded(1)).x
        found = bridge.sample(y, **options, generator=seeded(1), mean_only=np.bool_(False)).x
        assert torch.equal(found, expected)
        assert BridgeSampler(bridge).sample(y, whole(3), seeded(1)).x.shape == (4, 3, 3)
        x = torch.zeros(4, 3)
        value = bridge.log_prob(x, y, whole(4), seeded(1), batch_size=whole(5))
        assert torch.equal(value, bridge.log_prob(x, y, 4, seeded(1), batch_size=5))


class TestOneCoordinate:
    @pytest.fixture
    def bridge(self):
        return make_untrained_bridge(1, 1).eval()

    @pytest.mark.parametrize("number", [0.5, np.float32(0.5), torch.tensor(0.5), [0.5], [[0.5]]])
    def test_a_bare_number_is_one_observation(self, bridge, number):
        expected = bridge.sample(torch.tensor([0.5]), 2, generator=seeded(1)).x
        assert torch.equal(bridge.sample(number, 2, generator=seeded(1)).x.view(2, 1), expected)

    @pytest.mark.parametrize(
        ("x", "y", "full_x", "full_y"),
        [
            (0.5, 1.0, [0.5], [1.0]),
            ([0.5, 0.7], 1.0, [[0.5], [0.7]], [1.0]),
            ([0.5, 0.7], [1.0, 2.0], [[0.5], [0.7]], [[1.0], [2.0]]),
            ([[0.5, 0.6, 0.7]] * 2, [1.0, 2.0], [[[0.5], [0.6], [0.7]]] * 2, [[1.0], [2.0]]),
            ([0.5], [[1.0]], [[0.5]], [[1.0]]),
        ],
    )
    def test_densities(self, bridge, x, y, full_x, full_y):
        expected = bridge.log_prob(full_x, full_y, 4, seeded(1))
        assert torch.equal(bridge.log_prob(x, y, 4, seeded(1)), expected)

    def test_points_that_do_not_go_with_the_observations(self, bridge):
        with pytest.raises(CSBError, match=r"x has shape \(3, 1\); expected"):
            bridge.log_prob([0.5, 0.6, 0.7], [1.0, 2.0])
        with pytest.raises(
            CSBError, match="x holds NaN or infinite values, 1 as float32, in column 0, the first in row 1"
        ):
            bridge.log_prob(np.ma.array([0.5, 0.6], mask=[0, 1]), 1.0)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (torch.zeros(3), {}, "y has shape (3,); expected (2,) or a batch (B, 2,)"),
        (torch.zeros(0, 2), {}, "y holds no observation"),
        (torch.tensor([0.0, float("nan")]), {}, "y holds NaN or infinite values"),
        ("01", {}, "y is str; pass a tensor, an array or a nested list of real numbers"),
        (torch.zeros(2, dtype=torch.complex64), {}, "y is torch.complex64; pass a tensor"),
        ([0.0, None], {}, "y holds values of type object; pass a tensor"),
        ([[0.0, 1.0], [0.0]], {}, "y is a list that is no rectangular array; pass a tensor"),
        (np.ma.array([[0.0, 1.0], [2.0, 3.0]], mask=[[0, 0], [0, 1]]), {}, MASKED),
        ([np.ma.array([0.0, 1.0]), np.ma.array([0.0, 1.0], mask=[0, 1])], {}, MASKED),
        (np.array([1e300, 0.0]), {}, "y holds NaN or infinite values"),
        (torch.zeros(2), {"n": 0}, "n=0 is not possible; give an integer of at least 1"),
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
    @pytest.mark.parametrize(("options", "calls"), [({"refine": 1}, 27), ({"sample_steps": 2}, 6)])
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
