"""Files from strangers: one clear line for whatever is wrong with them, nothing run, no memory spent."""

import copy
import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import csb
from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.checkpoint import FORMAT, load_denoiser, save_denoiser
from csb.bridge.folder import CONFIG, WEIGHTS, save_folder
from csb.errors import CSBError
from csb.networks import build_network
from csb.networks.denoiser import DenoiserSpec, build_denoiser
from csb.process import seeded

MLP = {"name": "mlp", "width": 8, "depth": 1}
SPEC = BridgeSpec(
    [1.0, 0.7, 0.1],
    {"name": "standardise", "x_shape": [3], "y_shape": [2]},
    KernelSpec(MLP, "x0", "diagonal"),
    KernelSpec(MLP, "v", "diagonal"),
)
ABOUT = {"problem": {"name": "bod"}, "versions": {"csb": "0.1.0"}}


class Canary:
    """Leaves a file behind when it is unpickled."""

    path = ""

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.fixture
def honest(tmp_path):
    bridge, generator = build_bridge(SPEC, 1), seeded(0)
    with torch.no_grad():
        for tensor in (*bridge.parameters(), *bridge.transform.buffers()):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        bridge.transform.x_log.zero_()  # the states of random weights lie too far out for exponentials
    bridge.spec = SPEC
    save_folder(tmp_path / "bridge", bridge, ABOUT)
    return tmp_path / "bridge"


def edited(change):
    """A case that changes the content of config.json."""

    def case(folder):
        data = json.loads((folder / CONFIG).read_text())
        replaced = change(data)
        (folder / CONFIG).write_text(json.dumps(data if replaced is None else replaced))

    return case


def put(*path_and_value):
    """A case that puts a value at a place in config.json."""
    *path, last, value = path_and_value

    def change(data):
        for key in path:
            data = data[key]
        data[last] = value

    return edited(change)


def drop(*path):
    def change(data):
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return edited(change)


def raw(text, name=CONFIG):
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def tensors(change):
    """A case that changes the tensors."""

    def case(folder):
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return case


def pickled(name):
    """A pickle, or a zip with one inside, in place of a file."""

    def case(folder):
        (folder / name).write_bytes(pickle.dumps(Canary()))

    return case


def torch_file(folder):
    with zipfile.ZipFile(folder / WEIGHTS, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary()))


def truncated(share):
    def case(folder):
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[: int(len(data) * share)])

    return case


def header(entry):
    """A safetensors file whose header lies about its one tensor."""

    def case(folder):
        text = json.dumps({"a": entry}).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)

    return case


def directory(name):
    def case(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return case


def nested(data):
    deep: dict = {}
    data["about"]["deep"] = deep
    for _ in range(100):
        deep["more"] = deep = {}


NETWORK = ("bridge", "backward", "network")
CASES = {
    "no json": raw("{"),
    "not utf-8": raw(b"\xff\xfe\x00"),
    "empty config": raw(""),
    "a list": raw("[]"),
    "a number": raw("7"),
    "deep recursion": raw("[" * 100_000),
    "deep nesting": edited(nested),
    "another format": put("format", "csb-bridge-999"),
    "no format": drop("format"),
    "nan": raw(json.dumps({"format": "csb-bridge-1", "bridge": {"alpha_bar": [float("nan")]}, "about": {}})),
    "no bridge": drop("bridge"),
    "bridge is a list": put("bridge", []),
    "no about": drop("about"),
    "about is text": put("about", "import os"),
    "target": put(*NETWORK, {"_target_": "os.system", "_args_": ["touch /tmp/never"]}),
    "target beside": put(*NETWORK, {**MLP, "_target_": "os.system"}),
    "target in about": put("about", "problem", {"_target_": "os.system", "command": "true"}),
    "target as transform": put("bridge", "transform", {"_target_": "builtins.eval", "x": "1"}),
    "network of a module": put(*NETWORK, "name", "os.system"),
    "network is a path": put(*NETWORK, "name", "../../etc/passwd"),
    "network name is a list": put(*NETWORK, "name", ["mlp"]),
    "unknown transform": put("bridge", "transform", "name", "__import__"),
    "unknown option": put(*NETWORK, "exec", "true"),
    "unknown field": put("bridge", "hook", "os.system"),
    "unknown parametrisation": put("bridge", "backward", "parametrisation", "eval"),
    "unknown covariance": put("bridge", "backward", "covariance", "huge"),
    "unknown precision": put("bridge", "precision", "1-bit"),
    "width is text": put(*NETWORK, "width", "8"),
    "width is negative": put(*NETWORK, "width", -8),
    "width is a boolean": put(*NETWORK, "width", True),
    "huge width": put(*NETWORK, "width", 10**9),
    "absurd width": put(*NETWORK, "width", 10**30),
    "huge depth": put(*NETWORK, "depth", 10**9),
    "another depth": put(*NETWORK, "depth", 2),
    "huge rank": put("bridge", "backward", "rank", 10**12),
    "huge mixture": edited(lambda d: d["bridge"]["backward"].update(covariance="mixture", components=10**8)),
    "huge x": put("bridge", "transform", "x_shape", [10**12]),
    "huge image": put("bridge", "transform", "x_shape", [10**5, 10**5, 10**5]),
    "x of no size": put("bridge", "transform", "x_shape", []),
    "x of size 0": put("bridge", "transform", "x_shape", [0]),
    "x is text": put("bridge", "transform", "x_shape", "3"),
    "another x": put("bridge", "transform", "x_shape", [4]),
    "huge grid": put("bridge", "alpha_bar", [1.0] * 200_000),
    "grid of text": put("bridge", "alpha_bar", ["1", "0.5"]),
    "grid rises": put("bridge", "alpha_bar", [1.0, 0.5, 0.9]),
    "empty grid": put("bridge", "alpha_bar", []),
    "grid is null": put("bridge", "alpha_bar", None),
    "grid beyond floats": put("bridge", "alpha_bar", [1, 10**400, 0.1]),
    "floor beyond floats": put("bridge", "backward", "variance_floor", 10**400),
    "infinite floor": raw('{"format": "csb-bridge-1", "bridge": {"variance_floor": 1e999}, "about": {}}'),
    "negative floor": put("bridge", "backward", "variance_floor", -1.0),
    "floor is text": put("bridge", "backward", "variance_floor", "__import__('os')"),
    "no kernel": drop("bridge", "forward"),
    "kernel is null": put("bridge", "forward", None),
    "no config": lambda folder: (folder / CONFIG).unlink(),
    "config is a folder": directory(CONFIG),
    "weights are a folder": directory(WEIGHTS),
    "no tensors": raw(b"", WEIGHTS),
    "truncated": truncated(0.5),
    "truncated header": truncated(0.01),
    "pickle as tensors": pickled(WEIGHTS),
    "pickle as config": pickled(CONFIG),
    "torch file as tensors": torch_file,
    "header claims much": header({"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}),
    "header claims negative": header({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}),
    "header of a strange type": header({"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 8]}),
    "header overlaps": header({"dtype": "F32", "shape": [1], "data_offsets": [4, 2]}),
    "header length lies": raw(struct.pack("<Q", 2**62) + b"{}", WEIGHTS),
    "one tensor less": tensors(lambda t: t.pop("backward_kernel.inflation")),
    "one tensor more": tensors(lambda t: t.update({"../../outside": torch.zeros(1)})),
    "a tensor of integers": tensors(
        lambda t: t.update({"backward_kernel.inflation": torch.ones((), dtype=torch.int64)})
    ),
    "a tensor of another shape": tensors(lambda t: t.update({"backward_kernel.inflation": torch.ones(10**6)})),
    "nan weights": tensors(lambda t: t["transform.x_mean"].fill_(float("nan"))),
}


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """Files that must not appear."""
    monkeypatch.setattr(Canary, "path", str(tmp_path / "ran"))
    yield
    assert not (tmp_path / "ran").exists()
    assert not Path("/tmp/never").exists()


def refused(source):
    """Loading fails in one line, and takes less than 256 MiB of new memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CSBError) as error:
        csb.load(source, "cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 700
    assert str(Path(source).name) in message or str(Path(source).parent) in message
    return message


class TestFolder:
    def test_the_honest_one_loads(self, honest):
        bridge = csb.load(honest, "cpu")
        assert bridge.about == ABOUT
        assert bridge.sample(torch.zeros(2), 3).x.shape == (3, 3)
        assert csb.load(honest / CONFIG, "cpu").spec == csb.load(honest / WEIGHTS, "cpu").spec == SPEC

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.timeout(20)
    def test_hostile(self, honest, canary, case):
        CASES[case](honest)
        refused(honest)

    def test_the_line_tells_what_is_wrong(self, honest):
        put(*NETWORK, "width", 10**9)(honest)
        assert "bridge.backward.network.width is 1000000000" in refused(honest)
        put(*NETWORK, {"_target_": "os.system"})(honest)
        assert "csb runs nothing that a file names" in refused(honest)


def checkpoint(spec=None, weights=None, about=None):
    bridge = build_bridge(SPEC, 1)
    return {
        "format": FORMAT,
        "bridge": SPEC.plain() if spec is None else spec,
        "weights": bridge.state_dict() if weights is None else weights,
        "about": ABOUT if about is None else about,
    }


def spec_with(change):
    spec = copy.deepcopy(SPEC.plain())
    change(spec)
    return spec


def stretched():
    """Weights of 8 bytes that claim to be large, by strides of 0."""
    return {**build_bridge(SPEC, 1).state_dict(), "backward_kernel.inflation": torch.zeros(1).expand(10**10)}


def wide():
    """A network far wider than the bytes of its file: all weights are one number, by strides of 0."""
    network = {"name": "mlp", "width": 8000, "depth": 1}
    spec = spec_with(lambda s: [s[direction].update(network=network) for direction in ("backward", "forward")])
    with torch.device("meta"):
        kernels = build_network(network, (3,), (2,), 2).state_dict()
    weights = build_bridge(SPEC, 1).state_dict()
    for direction in ("backward", "forward"):
        for name, tensor in kernels.items():
            weights[f"{direction}_kernel.network.{name}"] = torch.zeros(1).expand(tensor.shape)
    return checkpoint(spec, {name: t for name, t in weights.items() if ".blocks.1" not in name})


CHECKPOINTS = {
    "wide": wide,
    "target": lambda: checkpoint(spec_with(lambda s: s["backward"]["network"].update(_target_="os.system"))),
    "huge width": lambda: checkpoint(spec_with(lambda s: s["backward"]["network"].update(width=10**9))),
    "huge depth": lambda: checkpoint(spec_with(lambda s: s["forward"]["network"].update(depth=10**9))),
    "spec is a tensor": lambda: checkpoint(torch.zeros(3)),
    "weights are a list": lambda: checkpoint(weights=[1, 2]),
    "weights hold text": lambda: checkpoint(weights={"a": "b"}),
    "about holds a tensor": lambda: checkpoint(about={"x": torch.zeros(1)}),
    "about is a list": lambda: checkpoint(about=[]),
    "integer keys": lambda: checkpoint(about={1: 2}),
    "stretched": lambda: checkpoint(weights=stretched()),
    "sparse": lambda: checkpoint(
        weights={**build_bridge(SPEC, 1).state_dict(), "backward_kernel.inflation": torch.eye(2).to_sparse()}
    ),
    "complex": lambda: checkpoint(
        weights={**build_bridge(SPEC, 1).state_dict(), "backward_kernel.inflation": torch.ones((), dtype=torch.cfloat)}
    ),
    "another format": lambda: {**checkpoint(), "format": 99},
    "a list": lambda: [1, 2, 3],
}


class TestFile:
    @pytest.mark.parametrize("case", CHECKPOINTS)
    @pytest.mark.timeout(20)
    def test_hostile(self, tmp_path, canary, case):
        torch.save(CHECKPOINTS[case](), tmp_path / "bridge.pt")
        refused(tmp_path / "bridge.pt")

    @pytest.mark.parametrize("whole", [True, False], ids=["pickle", "pickle in a zip"])
    def test_pickles_run_nothing(self, tmp_path, canary, whole):
        path, data = tmp_path / "bridge.pt", pickle.dumps(Canary())
        if whole:
            path.write_bytes(data)
        else:
            torch.save({"format": FORMAT, "bridge": Canary()}, path)
        refused(path)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
    def test_truncated(self, tmp_path, share):
        buffer = io.BytesIO()
        torch.save(checkpoint(), buffer)
        data = buffer.getvalue()
        (tmp_path / "bridge.pt").write_bytes(data[: int(share * len(data))])
        refused(tmp_path / "bridge.pt")


OTHERS = {
    "huge width": lambda spec: spec["network"].update(width=10**9),
    "huge x": lambda spec: spec.update(x_shape=[10**12]),
    "target": lambda spec: spec["network"].update(_target_="os.system"),
    "a list": lambda spec: spec.update(network=[]),
    "no network": lambda spec: spec.pop("network"),
}


class TestDenoiser:
    @pytest.mark.parametrize("case", OTHERS)
    @pytest.mark.timeout(20)
    def test_hostile(self, tmp_path, case):
        denoiser = build_denoiser(DenoiserSpec(MLP, (3,), 1.0))
        save_denoiser(tmp_path / "denoiser.pt", denoiser, {})
        load_denoiser(tmp_path / "denoiser.pt")
        data = torch.load(tmp_path / "denoiser.pt", weights_only=True)
        OTHERS[case](data["denoiser"])
        torch.save(data, tmp_path / "denoiser.pt")
        with pytest.raises(CSBError) as error:
            load_denoiser(tmp_path / "denoiser.pt")
        assert "\n" not in str(error.value)


class TestPlaces:
    @pytest.mark.parametrize(
        "source", ["nowhere", "../nowhere", "/etc/passwd", "/", "tests", "a/b/c", "outputs/../../etc", "", "~", "a\0b"]
    )
    def test_not_a_bridge(self, source, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)  # no network here
        with pytest.raises(CSBError) as error:
            csb.load(source)
        assert "\n" not in str(error.value)

    def test_a_link_out_of_the_folder_is_only_read(self, honest, tmp_path):
        shutil.move(honest / WEIGHTS, tmp_path / "elsewhere")  # as the Hub's cache does
        (honest / WEIGHTS).symlink_to(tmp_path / "elsewhere")
        csb.load(honest, "cpu")
        (honest / WEIGHTS).unlink()
        (honest / WEIGHTS).symlink_to("/etc/passwd")
        refused(honest)
