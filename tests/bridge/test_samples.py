"""What samplers take and show: numbers of any type, errors, the progress bar, warnings, offsets, and memory."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import csb
from csb.bridge import BridgeSpec, KernelSpec, build_bridge, load
from csb.bridge.samples import measured, memory, reset_peak
from csb.errors import CSBError
from csb.numbers import as_numbers
from csb.problems import Pairs
from csb.problems.rows import Rows
from csb.process import seeded
from csb.samplers import BridgeSampler, ConsistencySampler, flow_sampler, score_sampler
from tests.conftest import make_untrained_bridge, one_line

FILES = Path(__file__).parents[1] / "golden" / "files"


@pytest.fixture(scope="module")
def bridge():
    return make_untrained_bridge(3, 2).eval()


Y = torch.randn(4, 2, generator=seeded(1))


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

    def __repr__(self):  # of a test's name: the same in all processes
        return f"Frame({', '.join(self.columns)})"

    def to_numpy(self):
        parts = [column.values for column in self.held.values()]
        same = len({part.dtype for part in parts}) == 1
        return np.stack(parts if same else [part.astype(object) for part in parts], 1)


EYE = [[1, 0], [0, 1]]
SAME = [  # as the identity matrix
    EYE,
    [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])],
    torch.eye(2).double(),
    torch.tensor(EYE, dtype=torch.bool),
    torch.tensor(EYE, dtype=torch.uint16),
    torch.tensor(EYE, dtype=torch.bfloat16),
    np.array(EYE, np.float32),
    np.array(EYE, np.uint64),
    np.array(EYE, ">f4"),
    np.ma.array(EYE, mask=False),
    Frame(a=Column([1.0, 0.0]), b=Column([0.0, 1.0])),
    Frame(a=Column([1, 0]), b=Column([False, True])),
    Frame(a=Column([1.0, 0.0]), b=Column(np.array([0, 1], object), np.dtype("int64"))),
    [Column([1.0, 0.0]), Column([0.0, 1.0])],
]


@pytest.mark.parametrize("same", SAME, ids=lambda value: type(value).__name__)
def test_every_kind_of_numbers_counts_as_floats(bridge, same):
    expected = bridge.sample(torch.eye(2), 2, generator=seeded(1)).x
    assert torch.equal(bridge.sample(same, 2, generator=seeded(1)).x, expected)
    assert torch.equal(as_numbers("y", same).double(), torch.eye(2).double())


def test_large_integers_keep_their_size():
    assert as_numbers("y", np.array([2**64 - 2**12], np.uint64)).tolist() == [2.0**64 - 2**12]
    assert as_numbers("y", np.array([2**53 + 1], np.uint64)).tolist() == [2**53 + 1]


@pytest.mark.parametrize("make", [torch.Tensor.clone, torch.Tensor.numpy, torch.Tensor.tolist])
@pytest.mark.parametrize("name", ["pixel_range", "standardise"])
def test_integers_are_pixels_of_own_units_or_leave_their_scale_open(make, name):
    part = KernelSpec({"name": "affine", "steps": 1})
    transform = {"name": name, "x_shape": [1, 2, 2], "y_shape": [1, 2, 2]}
    bridge = build_bridge(BridgeSpec([1.0, 0.5], transform, part, part))
    y = torch.full((1, 2, 2), 128, dtype=torch.uint8)
    if name == "pixel_range":
        with pytest.raises(CSBError, match=r"y is .*int.*, and whether its pixels lie in 0\.\.255 is not known"):
            bridge.sample(make(y))
        y = y / 255
    expected = bridge.sample(y.float(), 2, generator=seeded(1)).x
    assert torch.equal(bridge.sample(make(y), 2, generator=seeded(1)).x, expected)
    assert torch.equal(BridgeSampler(bridge).sample(make(y), 2, seeded(1)).x, expected)


def test_options_may_be_integers_of_numpy(bridge):
    options, whole = {"n": 3, "batch_size": 5, "refine": 1, "sample_steps": 2}, np.uint8
    expected = bridge.sample(Y, **options, generator=seeded(1)).x
    options = {name: whole(value) for name, value in options.items()}
    assert torch.equal(bridge.sample(Y, **options, generator=seeded(1), mean_only=np.bool_(False)).x, expected)
    assert BridgeSampler(bridge).sample(Y, whole(3), seeded(1)).x.shape == (4, 3, 3)
    assert bridge.log_prob(torch.zeros(4, 3), Y, whole(4), seeded(1), batch_size=whole(5)).shape == (4,)


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

    def test_points_that_are_refused(self, bridge):
        with pytest.raises(CSBError, match=r"x has shape \(3, 1\); expected"):
            bridge.log_prob([0.5, 0.6, 0.7], [1.0, 2.0])
        with pytest.raises(CSBError, match=r"x holds NaN .*, 1 as float32, in column 0, the first in row 1"):
            bridge.log_prob(np.ma.array([0.5, 0.6], mask=[0, 1]), 1.0)


MASKED = "y holds NaN or infinite values, 1 as float32, in column 1, the first in row 1 (masked is NaN); pass finite"
TEXT, MISSING = np.array(["u", "v"], object), np.array([None, 1], object)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (torch.zeros(0, 2), {}, "y holds no observation"),
        ("01", {}, "y is str; pass a tensor, an array or a nested list of real numbers"),
        (torch.zeros(2, dtype=torch.complex64), {}, "y is torch.complex64; pass a tensor"),
        ([0.0, None], {}, "y holds values of type object; pass a tensor"),
        ([[0.0, 1.0], [0.0]], {}, "y is a list that is no rectangular array; pass a tensor"),
        (np.ma.array([[0.0, 1.0], [2.0, 3.0]], mask=[[0, 0], [0, 1]]), {}, MASKED),
        ([np.ma.array([0.0, 1.0]), np.ma.array([0.0, 1.0], mask=[0, 1])], {}, MASKED),
        (np.array([1e300, 0.0]), {}, "y holds NaN or infinite values"),
        (Frame(a=Column([1.0, 0.0]), kind=Column(TEXT, "category")), {}, "column 'kind' of y holds values of type cat"),
        (Frame(a=Column([1.0, 0.0]), b=Column(MISSING, np.dtype("int64"))), {}, "y holds NaN or infinite values, 1 as"),
        (torch.zeros(2), {"refine": -1}, "refine=-1 is not possible; give an integer of at least 0"),
    ],
    ids=str,
)
def test_errors(bridge, y, options, message):
    assert one_line(lambda: bridge.sample(y, **options)).startswith(message)


class TestProgress:
    @pytest.mark.parametrize(("options", "calls"), [({"refine": 1}, 27), ({"sample_steps": 2}, 6)])
    def test_the_bar_counts_every_network_call(self, bridge, options, calls, capsys):
        silent = bridge.sample(Y, 2, generator=seeded(1), batch_size=3, **options)
        assert capsys.readouterr() == ("", "")
        shown = bridge.sample(Y, 2, generator=seeded(1), batch_size=3, progress=True, **options)
        out, err = capsys.readouterr()
        assert out == ""
        assert f"{calls}/{calls}" in err  # steps × batches of 3 of 8 states
        assert torch.equal(silent.x, shown.x)

    def test_it_is_closed_by_an_error(self, bridge):
        hook = bridge.backward_kernel.network.register_forward_hook(lambda *_: 1 / 0)
        for _ in range(2):  # rich allows one live bar at a time
            with pytest.raises(ZeroDivisionError):
                bridge.sample(Y, 2, generator=seeded(1), progress=True)
        hook.remove()
        assert not bridge.training


OFFSET = 1.7e9


def fitted_bridge(offset: float = 0.0):
    """Of random weights, its transform fitted on 2,000 pairs around an offset with a spread of 3,000."""
    far = offset + 3e3 * torch.randn(2000, 2, generator=seeded(0), dtype=torch.float64)
    bridge = make_untrained_bridge(2, 2)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.mul_(0.3)
    bridge.transform.fit(Rows.of(Pairs(far, far) if offset else Pairs(far.float(), far.float())))
    return bridge


FAR_OUT = {
    "bridge": lambda y: fitted_bridge().sample(y, 4),
    "sampler": lambda y: BridgeSampler(fitted_bridge()).sample(y, 4),
    "score": lambda y: score_sampler(load(FILES / "score.pt"), "ddim", T=3).sample(y, 4),
    "flow": lambda y: flow_sampler(load(FILES / "flow.pt"), "euler", N=3).sample(y, 4),
    "student": lambda y: ConsistencySampler(load(FILES / "consistency.pt")).sample(y, 4),
    "density": lambda y: fitted_bridge().log_prob(torch.zeros(2, 2), y, 4),
}


@pytest.mark.parametrize("name", FAR_OUT)
def test_an_observation_that_no_network_can_take_is_named(name):
    with pytest.raises(CSBError, match=r"not finite.* at observation 1;"):
        FAR_OUT[name](torch.tensor([[0.0, 0.0], [3.3e38, -3.3e38]]))


@pytest.mark.parametrize("call", ["sample", "log_prob"])
def test_one_warning_for_observations_far_outside_the_training(call, caplog):
    bridge = fitted_bridge()
    y = torch.tensor([[0.0, 3e3], [1e6, 0.0], [0.0, -1e7]])
    with caplog.at_level(logging.WARNING):
        bridge.sample(y[:1], 2)
        csb.load(FILES / "bridge_full.pt", "cpu").sample(torch.full((1, 2), 100.0), 2)  # a file that knows no range
        assert not caplog.records
        bridge.sample(y, 2) if call == "sample" else bridge.log_prob(y, y, 2)
    (record,) = caplog.records
    assert "2 of 3 observations" in record.getMessage()
    assert "the first is number 1" in record.getMessage()


def test_samples_are_those_without_an_offset():
    near, far = (
        fitted_bridge(offset).sample(torch.tensor([[0.0, 0.0], [3e3, -3e3]]).double() + offset, 500, seed=1).x
        for offset in (0.0, OFFSET)
    )
    assert (near.dtype, far.dtype) == (torch.float32, torch.float64)
    # The mean that leaves is rounded to float32, by up to 64 of 3,000; y is 1 part in 1,000 off by it.
    torch.testing.assert_close(far - OFFSET, near.double(), rtol=0.02, atol=100)
    assert far.unique().numel() == far.numel()


@pytest.mark.parametrize("kind", [torch.Tensor.tolist, torch.Tensor.numpy, torch.clone])
def test_so_are_densities_whatever_holds_the_numbers(kind):
    x = torch.tensor([[100.0, -50.0], [4e3, 1e3]], dtype=torch.float64)
    near = fitted_bridge().log_prob(x, x, 8, seeded(2))
    found = fitted_bridge(OFFSET).log_prob(kind(x + OFFSET), kind(x + OFFSET), 8, seeded(2))
    torch.testing.assert_close(found, near, rtol=0.02, atol=0.05)


CPU, MIB = torch.device("cpu"), 2**20
SKIPPED = 77


def cost(mib):
    """Takes memory and gives it back: blocks of this size go to the system at once. Returns the peak."""
    with measured(CPU) as found:
        torch.ones(mib * MIB // 4).sum()
    return found.peak_memory


def memory_of_calls():
    """Ends with SKIPPED where the system keeps no highest mark, or does not let it be set back."""
    cost(64)
    reset_peak(CPU)
    found = memory(CPU)
    if found is None or found.peak > found.now + 16 * MIB:
        raise SystemExit(SKIPPED)
    cost(256)
    assert cost(64) is None  # a smaller one is not known until the mark is set back
    before = memory(CPU).peak
    info = make_untrained_bridge(3, 2).sample(torch.zeros(4, 2), 8, generator=seeded(0)).info
    assert memory(CPU).peak == before > memory(CPU).now + 128 * MIB  # sampling leaves the mark alone
    assert info.peak_memory is None
    reset_peak(CPU)
    assert 60 * MIB < cost(64) < 80 * MIB


@pytest.mark.nightly
def test_peak_memory(fork_server):
    """In a fresh process: what others have left of the heap of this one decides what goes back to the system."""
    process = fork_server.Process(target=memory_of_calls)
    process.start()
    process.join(120)
    if process.exitcode == SKIPPED:
        pytest.skip("the highest mark of memory cannot be read or set back here")
    assert process.exitcode == 0


def test_without_the_system_nothing_is_known_of_memory(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.read_bytes", forbidden)
    monkeypatch.setattr("pathlib.Path.write_text", forbidden)
    reset_peak(CPU)
    assert memory(CPU) is None
    assert cost(1) is None
