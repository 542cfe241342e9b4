"""Files are written whole or not at all, whatever faults meanwhile."""

import os
import subprocess

import pytest
import torch

from csb.files import load_state, remove_leftovers, save_state, write_atomically
from tests.conftest import one_line


@pytest.fixture
def old(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    return tmp_path / "file"


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), MemoryError(), OSError(28, "No space left on device")], ids=repr
)
def test_a_write_that_raises_leaves_the_old_file_alone(old, error):
    def write(file):
        file.write(b"half of the new")
        raise error

    if isinstance(error, OSError):
        assert f"cannot write {old}" in one_line(lambda: write_atomically(old, write))
    else:
        with pytest.raises(type(error)):
            write_atomically(old, write)
    assert old.read_bytes() == b"old"
    assert os.listdir(old.parent) == ["file"]


def test_a_folder_or_a_file_in_the_way(old, tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", old / "x"):
        assert "cannot write" in one_line(lambda path=path: write_atomically(path, lambda file: file.write(b"x")))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_the_old_file_stands_until_the_new_one_is_on_disk(old, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(old.read_bytes()), fsync(fd)))
    write_atomically(old, lambda file: file.write(b"new"))
    assert synced[0] == b"old"
    assert old.read_bytes() == b"new"


def test_only_leftovers_of_some_files_are_removed(tmp_path):
    for name in ("state", "denoiser_state", "denoiser"):
        (tmp_path / f".{name}.safetensors.abc.tmp").touch()
    remove_leftovers(tmp_path, "denoiser")
    assert os.listdir(tmp_path) == [".state.safetensors.abc.tmp"]


def test_a_full_disk(tmp_path):
    """A file system of 1 MiB; needs the right to mount."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        path = tmp_path / "b.safetensors"
        save_state(path, {"x": torch.arange(1000)})
        message = one_line(lambda: save_state(path, {"x": torch.zeros(10**6)}))
        assert "cannot write" in message
        assert "free space" in message
        assert torch.equal(load_state(path)["x"], torch.arange(1000))
        assert os.listdir(tmp_path) == ["b.safetensors"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
