"""Files: exact round trips, nothing but plain data, and one line for whatever else is found."""

import os
import pickle

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge, load_bridge, save_bridge
from csb.bridge.checkpoint import FORMAT, save
from csb.errors import CSBError
from csb.process import seeded

SPEC = BridgeSpec(
    [1.0, 0.7, 0.1],
    {"name": "standardise", "x_shape": [3], "y_shape": [2]},
    KernelSpec({"name": "mlp", "width": 8, "depth": 1}, "x0", "diagonal", variance_floor=1e-4),
    KernelSpec({"name": "mlp", "width": 8, "depth": 1}, "v", "diagonal", variance_floor=1e-4),
    "32-true",
)
ABOUT = {"problem": {"name": "bod", "n_train": 5}, "versions": {"torch": "2"}, "shape": [1, 2], "note": None}


@pytest.fixture
def bridge():
    bridge, generator = build_bridge(SPEC, 1), seeded(0)
    with torch.no_grad():
        for tensor in (*bridge.parameters(), *bridge.transform.buffers()):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        bridge.transform.x_log.zero_()  # the states of random weights lie too far out for exponentials
    return bridge


@pytest.fixture
def path(bridge, tmp_path):
    save_bridge(tmp_path / "bridge.pt", bridge, SPEC, ABOUT)
    return tmp_path / "bridge.pt"


def fails_in_one_line(action, *parts):
    with pytest.raises(CSBError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


class TestRoundTrip:
    def test_bitwise(self, bridge, path):
        again, about = load_bridge(path)
        assert about == ABOUT
        assert not again.training
        assert list(again.state_dict()) == list(bridge.state_dict())
        for key, value in bridge.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key
        assert torch.equal(again.grid.alpha_bar, torch.tensor(SPEC.alpha_bar, dtype=torch.float64))
        y = torch.randn(3, 2, generator=seeded(1))
        one, two = (b.sample(y, 4, generator=seeded(2)).x for b in (bridge, again))
        assert torch.equal(one, two)

    @pytest.mark.parametrize("kind", ["full", "diagonal", "fixed"])
    def test_each_covariance(self, exact_bridge, tmp_path, kind):
        exact = exact_bridge(kind, correlated=False)
        save_bridge(tmp_path / "b.pt", exact.bridge, exact.spec, {})
        again, _ = load_bridge(tmp_path / "b.pt")
        y = torch.randn(3, 2, generator=seeded(1))
        assert torch.equal(exact.bridge.sample(y, generator=seeded(2)).x, again.sample(y, generator=seeded(2)).x)

    def test_holds_plain_data_only(self, path):
        data = torch.load(path, weights_only=True)

        def walk(value):
            if isinstance(value, dict):
                return {type(value).__name__} | {t for pair in value.items() for v in pair for t in walk(v)}
            if isinstance(value, list):
                return {"list"} | {t for v in value for t in walk(v)}
            return {type(value).__name__}

        assert walk(data) <= {"dict", "OrderedDict", "list", "str", "int", "float", "bool", "NoneType", "Tensor"}

    def test_a_unet_of_a_hole(self, tmp_path):
        part = KernelSpec({"name": "unet", "channels": 8, "multipliers": [1, 2]}, "x0")
        transform = {"name": "hole", "x_shape": [1, 8, 8], "box": [2, 2, 4, 4]}
        spec = BridgeSpec([1.0, 0.5], transform, part, part, "bf16-mixed")
        save_bridge(tmp_path / "b.pt", build_bridge(spec), spec, {})
        again, _ = load_bridge(tmp_path / "b.pt")
        assert again.precision == "bf16-mixed"
        assert again.sample(torch.rand(2, 1, 8, 8), generator=seeded(1)).x.shape == (2, 1, 1, 8, 8)

    def test_is_as_readable_as_any_file(self, path):
        path.with_name("plain").write_text("")
        assert path.stat().st_mode == path.with_name("plain").stat().st_mode


class Hostile:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch '{self.target}'",)


class TestOtherFiles:
    @pytest.mark.parametrize("write", ["torch", "torch-legacy", "pickle", "within"])
    def test_a_hostile_pickle_is_not_run(self, tmp_path, write):
        path, target = tmp_path / "b.pt", tmp_path / "executed"
        if write == "pickle":
            path.write_bytes(pickle.dumps(Hostile(target)))
        elif write == "within":
            save(path, {"format": FORMAT, "bridge": Hostile(target)})
        else:
            torch.save(Hostile(target), path, _use_new_zipfile_serialization=write == "torch")
        fails_in_one_line(lambda: load_bridge(path), str(path), "is damaged or not a csb file")
        assert not target.exists()
        pickle.loads(pickle.dumps(Hostile(target)))  # the attack itself works
        assert target.exists()

    @pytest.mark.parametrize(
        "content", [b"", b"hello\nworld", b"\x80\x04.", b"PK\x03\x04", b"\x00" * 5000, b"\xff\xfe"]
    )
    def test_not_a_checkpoint(self, tmp_path, content):
        (tmp_path / "b.pt").write_bytes(content)
        fails_in_one_line(lambda: load_bridge(tmp_path / "b.pt"), "b.pt", "is damaged or not a csb file")

    def test_truncated_anywhere(self, path):
        whole = path.read_bytes()
        for length in range(0, len(whole), max(1, len(whole) // 60)):
            path.write_bytes(whole[:length])
            fails_in_one_line(lambda: load_bridge(path), "is damaged")

    def test_a_flipped_bit_anywhere_is_found_or_harmless(self, path, bridge):
        whole, generator = path.read_bytes(), seeded(3)
        for position in torch.randint(len(whole), (200,), generator=generator).tolist():
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            try:
                again, about = load_bridge(path)
            except CSBError:
                continue
            assert about == ABOUT
            assert all(torch.equal(again.state_dict()[k], v) for k, v in bridge.state_dict().items())

    @pytest.mark.parametrize("data", [{"weights": {}}, {"format": 99, "bridge": {}}, [1, 2], {"state_dict": {"w": 1}}])
    def test_another_format(self, tmp_path, data):
        torch.save(data, tmp_path / "b.pt")
        fails_in_one_line(lambda: load_bridge(tmp_path / "b.pt"), f"is not a csb file of format {FORMAT}")

    @pytest.mark.parametrize(
        "change",
        [
            lambda d: d.pop("weights"),
            lambda d: d.pop("bridge"),
            lambda d: d.pop("about"),
            lambda d: d["weights"].pop(next(iter(d["weights"]))),
            lambda d: d["weights"].update(more=torch.zeros(1)),
            lambda d: d["bridge"].pop("forward"),
            lambda d: d["bridge"].update(forward=None),
            lambda d: d["bridge"].update(more=1),
            lambda d: d["bridge"].update(alpha_bar="linear"),
            lambda d: d["bridge"]["backward"]["network"].update(name="os.system"),
            lambda d: d["bridge"]["backward"]["network"].update(width=16),
            lambda d: d["bridge"]["backward"].update(network=None),
            lambda d: d["bridge"]["transform"].update(name="csb.problems.transform.Identity"),
            lambda d: d.update(weights=None),
            lambda d: d.update(bridge=[]),
        ],
    )
    def test_a_part_that_does_not_fit(self, path, change):
        data = torch.load(path, weights_only=True)
        change(data)
        torch.save(data, path)
        fails_in_one_line(lambda: load_bridge(path))

    def test_missing_or_a_folder(self, tmp_path):
        fails_in_one_line(lambda: load_bridge(tmp_path / "no.pt"), "no.pt does not exist")
        fails_in_one_line(lambda: load_bridge(tmp_path), "does not exist")
