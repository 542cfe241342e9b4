"""What is read from files: whatever else they hold ends in one line, without waiting and without memory."""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile

import pytest
import torch

from csb.errors import CSBError
from csb.files import (
    FORMAT,
    LARGEST,
    Stored,
    load_state,
    model_file,
    read_json,
    read_tensors,
    require_file,
    save_state,
    write_tensors,
)

TENSORS = {"a": torch.arange(12.0).view(3, 4), "b.c": torch.tensor(2.5, dtype=torch.float64), "e": torch.zeros(0, 2)}
HEADER = {"kind": "x", "about": {"note": None, "ᾱ": [0.1, 1e-300], "true": True}}


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "m.safetensors", TENSORS, HEADER)
    return tmp_path / "m.safetensors"


def refused(read, path):
    """The one line of a file that cannot be read, in less than 128 MiB of new memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CSBError) as error:
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def same(found):
    return found.keys() == TENSORS.keys() and all(
        torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in TENSORS.items()
    )


class TestTensors:
    def test_there_and_back(self, path):
        header, tensors = read_tensors(path)
        assert header == HEADER
        assert same(tensors)

    def test_a_flipped_bit_anywhere_is_found_or_harmless(self, path):
        whole = path.read_bytes()
        found = 0
        for position in range(len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            try:
                header, tensors = read_tensors(path)
            except CSBError:
                found += 1
                continue
            assert header in (HEADER, None)  # None: the description's own key, and another file says what it is
            assert same(tensors)
        assert found > 0.9 * len(whole)

    def test_truncated_anywhere(self, path):
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            refused(read_tensors, path)

    @pytest.mark.parametrize("name", ["folder", "pipe", "zero", "missing", "link"])
    @pytest.mark.parametrize("read", [read_tensors, read_json, load_state, require_file])
    @pytest.mark.timeout(20)
    def test_not_a_file(self, tmp_path, read, name):
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "zero").symlink_to("/dev/zero")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        assert "give the folder of a finished run" in refused(read, tmp_path / name)

    @pytest.mark.parametrize("length", [0, LARGEST + 1, 2**40, 2**63, 2**64 - 1])
    def test_a_header_that_claims_much(self, tmp_path, length):
        (tmp_path / "a").write_bytes(struct.pack("<Q", length) + b"{}" * 100)
        os.truncate(tmp_path / "a", 2**40 if length < 2**40 else 300)  # of no bytes on the disk
        refused(read_tensors, tmp_path / "a")

    @pytest.mark.parametrize(
        "entry",
        [
            {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
            {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
            {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 8]},
            {"dtype": "F32", "shape": [1], "data_offsets": [4, 2]},
        ],
    )
    def test_a_header_that_lies(self, tmp_path, entry):
        text = json.dumps({"a": entry}).encode()
        (tmp_path / "a").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
        refused(read_tensors, tmp_path / "a")

    @pytest.mark.parametrize(
        "content", [b"", b"hello\nworld", b"\x80\x04.", b"PK\x03\x04", b"\x00" * 5000, b"\xff\xfe"]
    )
    def test_another_file(self, tmp_path, content):
        (tmp_path / "a").write_bytes(content)
        for read in (read_tensors, load_state):
            assert "is damaged or not a csb file" in refused(read, tmp_path / "a")

    def test_what_is_too_large_is_not_written(self, tmp_path):
        with pytest.raises(CSBError, match=f"expected at most {LARGEST}"):
            write_tensors(tmp_path / "a", {}, {"a": "x" * LARGEST})
        assert os.listdir(tmp_path) == []


class TestJson:
    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"{",
            b"[]",
            b"7",
            b"\xff\xfe\x00",
            b"[" * 10**6,
            b'{"a": NaN}',
            b'{"a": -Infinity}',
            b'{"a": ' + b"9" * 5000,
        ],
    )
    def test_damaged(self, tmp_path, text):
        (tmp_path / "a.json").write_bytes(text)
        refused(read_json, tmp_path / "a.json")

    def test_large(self, tmp_path):
        (tmp_path / "a.json").touch()
        os.truncate(tmp_path / "a.json", 2**40)
        assert f"expected at most {LARGEST}" in refused(read_json, tmp_path / "a.json")

    def test_what_is_missing_is_told(self, tmp_path):
        (tmp_path / "a.json").write_text('{"one": {"two": 3}}')
        found = read_json(tmp_path / "a.json")
        assert isinstance(found["one"], Stored)
        with pytest.raises(CSBError, match=r"a\.json lacks 'three' beside two; restore it"):
            _ = found["one"]["three"]
        assert pickle.loads(pickle.dumps(found)) == found == {"one": {"two": 3}}


class TestArchive:
    def test_a_compressed_one_is_not_unpacked(self, tmp_path):
        """512 MiB of zeros in some 2 MB."""
        with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("a/data.pkl", pickle.dumps({}, 2))
            with archive.open("a/data/0", "w", force_zip64=True) as file:
                for _ in range(8):
                    file.write(bytes(2**26))
        assert "compressed" in refused(load_state, tmp_path / "a.pt")

    def test_one_that_claims_more_than_it_has(self, tmp_path):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a/data.pkl", b"x" * 100)
        data = buffer.getvalue().replace(struct.pack("<II", 100, 100), struct.pack("<II", 2**31, 2**31))
        (tmp_path / "a.pt").write_bytes(data)
        refused(load_state, tmp_path / "a.pt")

    def test_a_pickle_that_makes_memory(self, tmp_path):
        torch.save({"format": FORMAT}, tmp_path / "a.pt")  # as states were kept before
        with zipfile.ZipFile(tmp_path / "a.pt") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            for name, data in members.items():
                attack = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x70\x85R."
                archive.writestr(name, attack if name.endswith("data.pkl") else data)
        assert "it names 'builtins bytearray'" in refused(load_state, tmp_path / "a.pt")

    @pytest.mark.parametrize("save", [save_state, lambda path, data: torch.save(data, path)], ids=["new", "old"])
    def test_truncated_or_flipped(self, tmp_path, save):
        save(tmp_path / "a.pt", {"format": FORMAT, "a": torch.arange(9.0)})
        whole = (tmp_path / "a.pt").read_bytes()
        for length in range(0, len(whole), 50):
            (tmp_path / "a.pt").write_bytes(whole[:length])
            refused(load_state, tmp_path / "a.pt")
        for position in range(0, len(whole), 11):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            (tmp_path / "a.pt").write_bytes(damaged)
            try:
                found = load_state(tmp_path / "a.pt")
            except CSBError:
                continue
            assert torch.equal(found["a"], torch.arange(9.0))


def test_a_model_of_either_suffix_is_found(tmp_path):
    new, old = tmp_path / "half_steps" / "01_backward.safetensors", tmp_path / "half_steps" / "01_backward.pt"
    assert model_file(tmp_path, "half_steps/01_backward") == new
    old.parent.mkdir()
    old.touch()
    assert model_file(tmp_path, "half_steps/01_backward") == old
    shutil.copy(old, new)
    assert model_file(tmp_path, "half_steps/01_backward") == new
