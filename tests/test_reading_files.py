"""What is read from files: whatever else they hold ends in one line, without waiting and without memory."""

import io
import json
import os
import pickle
import resource
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
    write_tensors,
)

TENSORS = {"a": torch.arange(12.0).view(3, 4), "b.c": torch.tensor(2.5, dtype=torch.float64), "e": torch.zeros(0, 2)}
HEADER = {"kind": "x", "about": {"note": None, "ᾱ": [0.1, 1e-300], "true": True}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a"


def refused(read, path):
    """The one line of a file that cannot be read, in less than 128 MiB of new memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CSBError) as error:
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def check_tensors(found):
    assert found.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def read_written(path):
    header, tensors = read_tensors(path)
    assert header in (HEADER, None)  # None: of the description's own key, and another file says what it is
    check_tensors(tensors)


WRITERS = {
    "tensors": (lambda path: write_tensors(path, TENSORS, HEADER), read_written, 1, 0.9),
    "older": (
        lambda path: torch.save({"format": FORMAT, **TENSORS}, path),
        lambda path: check_tensors(load_state(path)),
        11,
        0.5,
    ),
}


@pytest.mark.parametrize(("write", "read", "every", "least"), WRITERS.values(), ids=WRITERS)
def test_truncated_and_flipped_anywhere(path, write, read, every, least):
    """A cut file is refused, a flipped bit is found or harmless."""
    write(path)
    read(path)
    whole, found = path.read_bytes(), 0
    for length in range(0, len(whole), every):
        path.write_bytes(whole[:length])
        refused(read, path)
    positions = range(0, len(whole), every)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            read(path)
        except CSBError:
            found += 1
    assert found > least * len(positions)


def test_there_and_back(path):
    write_tensors(path, TENSORS, HEADER)
    assert read_tensors(path)[0] == HEADER
    with pytest.raises(CSBError, match=f"expected at most {LARGEST}"):
        write_tensors(path.with_name("b"), {}, {"a": "x" * LARGEST})
    assert os.listdir(path.parent) == ["a"]


@pytest.mark.parametrize("name", ["folder", "pipe", "zero", "missing", "link"])
@pytest.mark.parametrize("read", [read_tensors, read_json, load_state, require_file])
@pytest.mark.timeout(20)
def test_not_a_file(tmp_path, read, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "give the folder of a finished run" in refused(read, tmp_path / name)


@pytest.mark.parametrize("length", [0, LARGEST + 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_much(path, length):
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 100)
    os.truncate(path, 2**40 if length < 2**40 else 300)  # of no bytes on the disk
    refused(read_tensors, path)


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets"),
    [("F32", [10**12], [0, 4 * 10**12]), ("F32", [-2], [0, 8]), ("OBJECT", [1], [0, 8]), ("F32", [1], [4, 2])],
)
def test_a_header_that_lies(path, dtype, shape, offsets):
    text = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    refused(read_tensors, path)


@pytest.mark.parametrize("content", [b"", b"hello\nworld", b"\x80\x04.", b"PK\x03\x04", b"\x00" * 5000, b"\xff\xfe"])
def test_another_file(path, content):
    path.write_bytes(content)
    for read in (read_tensors, load_state):
        assert "is damaged or not a csb file" in refused(read, path)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"7", b"\xff\xfe\x00", b"[" * 10**6, b'{"a": NaN}', b'{"a": -Infinity}', b"9" * 5000],
    ids=lambda text: repr(text[:10]),
)
def test_damaged_json(path, text):
    path.write_bytes(text)
    refused(read_json, path)


def test_large_json(path):
    path.touch()
    os.truncate(path, 2**40)
    assert f"expected at most {LARGEST}" in refused(read_json, path)


def test_what_json_lacks_is_told(path):
    path.write_text('{"one": {"two": 3}}')
    found = read_json(path)
    assert isinstance(found["one"], Stored)
    with pytest.raises(CSBError, match=r"a lacks 'three' beside two; restore it"):
        _ = found["one"]["three"]
    assert pickle.loads(pickle.dumps(found)) == found == {"one": {"two": 3}}


def test_an_archive_that_is_compressed_is_not_unpacked(path):
    """512 MiB of zeros in some 2 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        with archive.open("a/data/0", "w", force_zip64=True) as file:
            for _ in range(8):
                file.write(bytes(2**26))
    assert "compressed" in refused(load_state, path)


def test_an_archive_that_claims_more_than_it_has(path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"x" * 100)
    path.write_bytes(buffer.getvalue().replace(struct.pack("<II", 100, 100), struct.pack("<II", 2**31, 2**31)))
    refused(load_state, path)


def test_an_archive_whose_pickle_makes_memory(path):
    torch.save({"format": FORMAT}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    attack = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x70\x85R."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, attack if name.endswith("data.pkl") else data)
    assert "it names 'builtins bytearray'" in refused(load_state, path)


def test_a_model_of_either_suffix_is_found(tmp_path):
    new, old = (tmp_path / "half_steps" / f"01_backward{suffix}" for suffix in (".safetensors", ".pt"))
    old.parent.mkdir()
    for existing, expected in ((None, new), (old, old), (new, new)):
        if existing is not None:
            existing.touch()
        assert model_file(tmp_path, "half_steps/01_backward") == expected
