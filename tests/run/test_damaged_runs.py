"""A run's folder from elsewhere, damaged or hostile: one line, nothing resolved, nothing made at a place it names."""

import copy
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import csb
from csb.bridge.checkpoint import save
from csb.cli.sample import read_observations
from csb.errors import CSBError
from csb.files import read_tensors, write_tensors
from csb.runs.folder import PROVENANCE
from csb.runs.inspection import inspect
from csb.runs.load import finished, load_run
from csb.runs.reproduce import reproduction
from csb.runs.stages import students_of

GOLDEN = Path(__file__).parents[1] / "golden" / "files" / "run"
FLAGS = {"resume": False, "overwrite": True, "progress": False}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(GOLDEN, tmp_path / "run"))


def in_one_line(action):
    """The line of the CSBError that an action ends in; None where it ends well."""
    try:
        action()
    except CSBError as error:
        message = str(error)
    else:
        return None
    assert "\n" not in message
    return message


def again(run):
    """All that csb reproduce looks at before it trains."""
    made = reproduction(run, "bridge", run.with_name("again"), 0.0, None, FLAGS)
    made.check()
    made.differences()
    return made


class TestFiles:
    @pytest.mark.parametrize("name", ["history.json", "result.json", PROVENANCE])
    @pytest.mark.parametrize("content", [b"", b"[1]", b"7", b"[" * 100_000, b"\xff", b'{"a": NaN}'])
    def test_damaged(self, run, name, content):
        (run / name).write_bytes(content)
        read = {"history.json": lambda: load_run(run).history, PROVENANCE: lambda: again(run)}
        message = in_one_line(read.get(name, lambda: inspect(run)))
        assert message is not None
        assert name in message
        if name != PROVENANCE:
            assert in_one_line(lambda: inspect(run)) is not None
        if name == "result.json":
            assert finished(run) is None

    @pytest.mark.parametrize(
        "name", ["history.json", "result.json", PROVENANCE, "bridge.pt", "half_steps/02_forward.pt"]
    )
    @pytest.mark.timeout(30)
    def test_pipes_and_devices(self, run, name):
        (run / name).unlink()
        (run / name).symlink_to("/dev/zero")
        assert "is not a file" in (in_one_line(lambda: again(run) if name == PROVENANCE else inspect(run)) or "")
        (run / name).unlink()
        os.mkfifo(run / name)
        assert "is not a file" in (in_one_line(lambda: again(run) if name == PROVENANCE else inspect(run)) or "")

    def test_odd_names_of_half_steps_are_none(self, run):
        names = [name for name, _ in load_run(run).half_steps]
        for name in ("²_backward.pt", "x_backward.safetensors", "_.pt", "03_backward.tmp"):
            (run / "half_steps" / name).write_text("")
        assert [name for name, _ in load_run(run).half_steps] == names
        assert names == ["01_backward", "02_forward"]

    def test_new_files_beside_older_ones(self, run):
        """As a resumed run leaves them: the new ones count."""
        bridge = csb.load(run / "half_steps" / "02_forward.pt", "cpu")
        for name in ("bridge", "half_steps/02_forward"):
            save(bridge, run / f"{name}.safetensors", {"problem": {"name": "bod"}})
            (run / f"{name}.pt").write_bytes(b"damaged")
        found = load_run(run)
        assert found.about == {"problem": {"name": "bod"}}
        assert [name for name, _ in found.half_steps] == ["01_backward", "02_forward"]
        assert students_of(found) == {}

    @pytest.mark.parametrize("key", ["config", "versions", "problem"])
    def test_what_the_bridge_does_not_say(self, run, key):
        found = load_run(run)
        del found.about[key]
        message = in_one_line(lambda: (found.about["versions"], found.config["schedule"], found.problem))
        assert message is not None
        assert f"bridge.pt lacks '{key}'" in message


class TestPlaces:
    def test_no_folder_is_made_or_filled(self, run, tmp_path):
        """Nor is MNIST fetched to where a file says that it lies."""
        bridge = csb.load(run, "cpu")
        for root in ("elsewhere", "\0", 7, None):
            save(bridge, run / "bridge.safetensors", {"problem": {"name": "mnist_inpaint", "root": root}})
            assert load_run(run).problem.root == "data"
        (tmp_path / "elsewhere" / "MNIST" / "raw").mkdir(parents=True)
        assert load_run(run).problem.root == "data"
        header, tensors = read_tensors(run / "bridge.safetensors")
        write_tensors(run / "bridge.safetensors", tensors, {**header, "about": {"problem": {"name": ["bod"]}}})
        assert "does not say which problem it is for" in (in_one_line(lambda: load_run(run).problem) or "")
        assert [path.name for path in (tmp_path / "elsewhere").rglob("*")] == ["MNIST", "raw"]


class TestReproduce:
    def changed(self, run, entry):
        (run / PROVENANCE).write_text(json.dumps({"bridge": entry}))

    def test_every_key_that_is_missing_or_of_another_type(self, run):
        """One line, or a part that nothing needs."""
        whole = json.loads((run / PROVENANCE).read_text())["bridge"]
        self.changed(run, whole)
        again(run)

        def places(data, at=()):
            for key, value in data.items():
                yield (*at, key)
                yield from places(value, (*at, key)) if isinstance(value, dict) else ()

        messages = []
        for place in places(whole):
            for value in ("renamed", None, [], "x"):
                entry = copy.deepcopy(whole)
                part = entry
                for key in place[:-1]:
                    part = part[key]
                old = part.pop(place[-1])
                part[place[-1] + "_" * (value == "renamed")] = old if value == "renamed" else value
                self.changed(run, entry)
                messages.append(in_one_line(lambda: again(run)))
        assert sum(message is not None for message in messages) > 0.5 * len(messages)

    @pytest.mark.parametrize(
        ("place", "value", "reported"),
        [
            (("config", "trainer"), None, "bridge.config.trainer=None is not possible; give a table"),
            (("data", "files"), {"a": 1}, "bridge.data.files.a=1 is not possible; give a text"),
            (("data", "first"), ["a"], "bridge.data.first[0]='a' is not possible; give a finite number"),
            (("device", "threads"), "x", "bridge.device.threads='x' is not possible; give an integer in 1..4096"),
            (("device", "threads"), 10**6, "device.threads=1000000 is not possible"),
        ],
    )
    def test_the_line_names_the_place(self, run, place, value, reported):
        entry = json.loads((run / PROVENANCE).read_text())["bridge"]
        entry[place[0]][place[1]] = value
        self.changed(run, entry)
        assert reported in (in_one_line(lambda: again(run)) or "")

    def test_nothing_is_resolved_or_made(self, run, tmp_path, monkeypatch):
        monkeypatch.setenv("CASE_TOKEN", "s3cret-t0ken")
        entry = json.loads((run / PROVENANCE).read_text())["bridge"]
        entry["config"]["note"] = "${oc.env:CASE_TOKEN}"
        self.changed(run, entry)
        made = again(run)
        assert made.run.plain["note"] == "${oc.env:CASE_TOKEN}"


class TestObservations:
    """Files of y that are damaged in ways of their own."""

    @pytest.mark.parametrize("case", ["header", "no array", "encrypted", "method"])
    def test_one_line(self, tmp_path, case):
        buffer, path = io.BytesIO(), tmp_path / "y"
        np.save(buffer, np.zeros((3, 2), np.float32))
        if case == "header":
            path.write_bytes(buffer.getvalue().replace(b"}", b"y", 1))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("y.npy", b"hello" if case == "no array" else buffer.getvalue())
            data = bytearray(path.read_bytes())
            for mark, flag, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
                at = data.find(mark)
                data[at + flag] |= case == "encrypted"
                data[at + method] = 99 if case == "method" else data[at + method]
            path.write_bytes(data)
        assert f"y={path}" in (in_one_line(lambda: read_observations(path, (2,))) or "")
