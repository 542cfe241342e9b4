"""Models in files: exact round trips of every kind, and one line for whatever else a file holds; nothing is run."""

import copy
import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import csb
from csb.bridge import BridgeSpec, KernelSpec, build_bridge, load, save
from csb.bridge.checkpoint import KINDS
from csb.bridge.student import Student, StudentSpec, build_student
from csb.files import FORMAT, checksum, read_tensors, write_tensors
from csb.networks.diffusion import ConditionalSpec, DenoiserSpec, build_conditional, build_denoiser
from csb.process import seeded
from csb.runs.load import CONFIG, WEIGHTS
from tests.conftest import one_line

MLP = {"name": "mlp", "width": 8, "depth": 1}
TRANSFORM = {"name": "standardise", "x_shape": [3], "y_shape": [2]}
BACKWARD, FORWARD = (KernelSpec(MLP, name, "diagonal", variance_floor=1e-4) for name in ("x0", "v"))
ABOUT = {"problem": {"name": "bod", "n_train": 5}, "versions": {"torch": "2"}, "shape": [1, 2], "note": None}
SCHEDULE = {"name": "linear", "alpha_bar_end": 1e-4}
IMAGE = {"name": "pixel_range", "x_shape": [1, 8, 8], "y_shape": [3]}
UNET = {"name": "unet", "channels": 8, "multipliers": [1, 2]}
MODELS = {
    "bridge": lambda: build_bridge(BridgeSpec([1.0, 0.7, 0.1], TRANSFORM, BACKWARD, FORWARD, "bf16-mixed"), 1),
    "score": lambda: build_conditional(ConditionalSpec("score", MLP, TRANSFORM, SCHEDULE), 1),
    "flow": lambda: build_conditional(ConditionalSpec("flow", MLP, TRANSFORM), 1),
    "denoiser": lambda: build_denoiser(DenoiserSpec(MLP, (3,), 1.5), 1),
    "mixture": lambda: build_student(StudentSpec([1, 0.5, 0.1], TRANSFORM, MLP, "x0", "mixture", [1, 2]), 1),
    "generator": lambda: build_student(StudentSpec([1, 0.5, 0.1], IMAGE, UNET, "x0", "generator", [1]), 1),
}
VECTORS = ("bridge", "denoiser", "mixture")


def made(name):
    """A model of a kind whose tensors are all moved from where they start."""
    model, generator = MODELS[name](), seeded(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model


def content(name):
    """What the file of a model holds: kind, spec, about, weights."""
    model = made(name)
    kind = next(kind for kind, (of, _) in KINDS.items() if isinstance(model.spec, of))
    return {"kind": kind, "spec": model.spec.plain(), "about": copy.deepcopy(ABOUT), "weights": model.state_dict()}


def write(path, data):
    """A file of this content: an older archive where the suffix is .pt."""
    if path.suffix == ".pt":
        names = {"format": FORMAT, "about": data["about"], "weights": data["weights"]}
        return torch.save(names | {data["kind"]: data["spec"]}, path)
    header = {"format": FORMAT, **{key: data[key] for key in ("kind", "spec", "about")}}
    return write_tensors(path, data["weights"], header)


def refused(path, *parts):
    """Loading fails in one line that names the file, and takes less than 256 MiB of new memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = one_line(lambda: load(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    assert len(message) < 700
    assert path.name in message or str(path.parent) in message
    assert [part for part in parts if part not in message] == []


class TestRoundTrip:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    @pytest.mark.parametrize("name", MODELS)
    def test_bitwise(self, name, suffix, tmp_path):
        model, path = made(name), tmp_path / f"a{suffix}"
        save(model, path, ABOUT) if suffix != ".pt" else write(path, content(name))
        again = load(path)
        assert type(again) is type(model)
        assert (again.about, again.spec) == (ABOUT, model.spec)
        assert not again.training
        assert list(again.state_dict()) == list(model.state_dict())
        assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
        assert os.listdir(tmp_path) == [path.name]

    def test_what_is_not_saved(self, tmp_path):
        assert "without a description" in one_line(lambda: save(torch.nn.Linear(1, 1), tmp_path / "a", {}))
        for value in (float("nan"), torch.zeros(1)):
            about = {"a": value}
            assert "not plain data" in one_line(lambda about=about: save(made("flow"), tmp_path / "a", about))
        assert os.listdir(tmp_path) == []

    def test_another_kind(self, tmp_path):
        save(made("flow"), tmp_path / "a", ABOUT)
        assert "a holds a FlowNetwork, not a Bridge" in one_line(lambda: csb.load(tmp_path / "a", "cpu"))
        assert "a holds a FlowNetwork, not a Student" in one_line(lambda: load(tmp_path / "a", of=Student))


def part(data):
    """What describes a network: of a bridge, the backward kernel."""
    return data["spec"].get("backward", data["spec"])


def shaped(data):
    """What describes the shapes of data."""
    return data["spec"].get("transform", data["spec"])


def put(where, **values):
    return lambda data: where(data).update(values)


def network(**values):
    return lambda data: part(data)["network"].update(values)


def tensor(change):
    """A case that replaces the first tensor of a network; of a transform, dtypes may differ from version to version."""

    def case(data):
        name = next(name for name in data["weights"] if "network" in name)
        data["weights"][name] = change(data["weights"][name])

    return case


ALL = {
    "target": network(_target_="os.system", _args_=["touch /tmp/never"]),
    "target in about": lambda d: d["about"].update(problem={"_target_": "os.system"}),
    "network of a module": network(name="os.system"),
    "unknown option": network(exec="true"),
    "unknown field": put(part, hook="os.system"),
    "huge width": network(width=10**9),
    "another depth": network(depth=2),
    "huge x": put(shaped, x_shape=[10**12]),
    "another x": put(shaped, x_shape=[4]),
    "description is a list": lambda d: d.update(spec=[1]),
    "no description": lambda d: d.update(spec=None),
    "about is a list": lambda d: d.update(about=[]),
    "one tensor less": lambda d: d["weights"].pop(next(name for name in d["weights"] if "network" in name)),
    "one tensor more": lambda d: d["weights"].update({"../../outside": torch.zeros(1)}),
    "integers": tensor(lambda t: t.to(torch.int64)),
    "float64": tensor(lambda t: t.double()),
    "another shape": tensor(lambda t: torch.ones(10**6)),
    "nan": tensor(lambda t: torch.full_like(t, torch.nan)),
}
OF_ARCHIVES = {
    "description is a tensor": lambda d: d.update(spec=torch.zeros(3)),
    "weights are a list": lambda d: d.update(weights=[1, 2]),
    "weights hold text": lambda d: d.update(weights={"a": "b"}),
    "about holds a tensor": lambda d: d["about"].update(x=torch.zeros(1)),
    "about holds nan": lambda d: d["about"].update(x=float("nan")),
    "stretched": tensor(lambda t: torch.zeros(1).expand(10**10)),
    "sparse": tensor(lambda t: torch.eye(2).to_sparse()),
}
OF_KINDS = {
    "bridge": [
        put(lambda d: d["spec"], forward=None),
        put(lambda d: d["spec"], precision="1-bit"),
        *(put(lambda d: d["spec"], alpha_bar=grid)
          for grid in ([1.0] * 200_000, ["1", "0.5"], [1.0, 0.5, 0.9], [], [1, 10**400, 0.1])),
        *(put(part, **change) for change in (
            {"parametrisation": "eval"}, {"covariance": "huge"}, {"rank": 10**12}, {"variance_floor": 10**400},
            {"covariance": "mixture", "components": 4096}, {"variance_floor": "__import__('os')"})),
        *(put(shaped, **change) for change in ({"name": "__import__"}, {"name": "csb.problems.transform.Identity"})),
    ],
    "score": [put(part, **change) for change in (
        {"kind": "os.system"}, {"schedule": None}, {"schedule": {"name": "eval"}}, {"precision": 8})],
    "denoiser": [put(part, **change) for change in ({"scale": -1.0}, {"scale": "1"}, {"alpha_bar_end": [1]})],
    "mixture": [put(part, **change) for change in (
        {"law": "os.system"}, {"calls": ["a"]}, {"calls": [9]}, {"components": 4096})],
    "generator": [put(part, **change) for change in ({"noise": 10**8}, {"noise": 4096}, {"law": "mixture"})],
}  # fmt: skip


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that must not appear."""
    monkeypatch.setattr(Canary, "path", str(tmp_path / "ran"))
    yield
    assert not (tmp_path / "ran").exists()
    assert not Path("/tmp/never").exists()


class Canary:
    """Leaves a file behind when it is unpickled."""

    path = ""

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class TestHostile:
    @pytest.mark.parametrize("name", VECTORS)
    @pytest.mark.parametrize("case", [*ALL, *OF_ARCHIVES])
    @pytest.mark.timeout(20)
    def test_of_every_kind(self, tmp_path, canary, name, case):
        for suffix in (".safetensors", ".pt") if case in ALL else (".pt",):
            data = content(name)
            (ALL | OF_ARCHIVES)[case](data)
            write(tmp_path / f"a{suffix}", data)
            refused(tmp_path / f"a{suffix}")

    @pytest.mark.parametrize(
        ("name", "case"), [(name, i) for name, cases in OF_KINDS.items() for i in range(len(cases))]
    )
    @pytest.mark.timeout(20)
    def test_of_one_kind(self, tmp_path, name, case):
        data = content(name)
        OF_KINDS[name][case](data)
        write(tmp_path / "a", data)
        refused(tmp_path / "a")

    @pytest.mark.parametrize("change", [{"format": 99}, {"kind": "os.system"}, {"kind": ["bridge"]}], ids=str)
    def test_another_format(self, tmp_path, change):
        write_tensors(tmp_path / "a", {}, {"format": FORMAT, "kind": "bridge", "spec": {}, "about": {}} | change)
        refused(tmp_path / "a", f"is not a csb file of format {FORMAT}")

    def test_the_line_tells_what_is_wrong(self, tmp_path):
        for change, reported in (
            (network(width=10**9), "network.options.width=1000000000 is not possible; give an integer in 1..65536"),
            (network(_target_="os.system"), "csb runs nothing that a file names"),
            (put(part, rank="a"), "kernel.rank='a' is not possible; give an integer in 1..4096"),
            (put(part, rank=-1), "rank=-1 is not possible"),
        ):
            change(data := content("bridge"))
            write(tmp_path / "a", data)
            refused(tmp_path / "a", reported)

    def test_lists_of_lists_without_end(self, tmp_path, monkeypatch):
        """Of a few bytes in a pickle, where an entry is a reference."""
        monkeypatch.setattr("csb.bridge.checkpoint.LARGEST", 2**20)
        data = content("flow")
        for _ in range(30):
            data["about"] = {"a": [data["about"]] * 10}
        write(tmp_path / "a.pt", data)
        refused(tmp_path / "a.pt", "its description is longer than any of csb's")

    @pytest.mark.parametrize("whole", [True, False], ids=["pickle", "pickle in a zip"])
    def test_pickles_run_nothing(self, tmp_path, canary, whole):
        path = tmp_path / "bridge.pt"
        torch.save({"format": FORMAT, "bridge": Canary()}, path)
        if whole:
            path.write_bytes(pickle.dumps(Canary()))
        refused(path, "is damaged or not a csb file")
        pickle.loads(pickle.dumps(Canary()))  # the attack itself works
        Path(Canary.path).unlink()


class TestOlderFolders:
    """Exported folders of config.json and bare tensors; each test has its own copy of one."""

    @pytest.fixture
    def folder(self, tmp_path):
        files = Path(__file__).parents[1] / "golden" / "files" / "exported"
        return Path(shutil.copytree(files, tmp_path / "exported"))

    def test_loads(self, folder):
        whole = csb.load(folder, "cpu").spec
        assert csb.load(folder / CONFIG, "cpu").spec == csb.load(folder / WEIGHTS, "cpu").spec == whole

    @pytest.mark.parametrize(
        "change", [("format", "9"), ("format", "csb-bridge-9"), ("mlp", "os.system"), ("alpha_bar", "_target_")]
    )
    def test_a_changed_description(self, folder, change):
        text = (folder / CONFIG).read_text()
        assert change[0] in text
        (folder / CONFIG).write_text(text.replace(*change))
        refused(folder / WEIGHTS)

    def test_no_description(self, folder):
        (folder / CONFIG).write_bytes(b"[" * 100_000)
        refused(folder / WEIGHTS, CONFIG)
        (folder / CONFIG).unlink()
        refused(folder / WEIGHTS, CONFIG)

    def test_tensors_of_another_folder(self, folder):
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | {"sha256": checksum(folder / WEIGHTS)}))
        csb.load(folder, "cpu")
        _, tensors = read_tensors(folder / WEIGHTS)
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / WEIGHTS)
        refused(folder / WEIGHTS, "is not the file that config.json beside it describes")


class TestPlaces:
    @pytest.mark.parametrize("source", ["nowhere", "/etc/passwd", "/", "tests", "", "a\0b"])
    def test_not_a_bridge(self, source, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)  # no network here
        one_line(lambda: csb.load(source))

    def test_a_link_out_of_the_folder_is_only_read(self, tmp_path):
        save(made("bridge"), tmp_path / "elsewhere", ABOUT)
        (tmp_path / "bridge").mkdir()
        path = tmp_path / "bridge" / WEIGHTS
        path.symlink_to(tmp_path / "elsewhere")  # as the Hub's cache does
        csb.load(tmp_path / "bridge", "cpu")
        path.unlink()
        path.symlink_to("/etc/passwd")
        refused(path)
