"""Files are written whole or not at all, whatever faults meanwhile."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from csb.errors import CSBError
from csb.files import load_state, remove_leftovers, save_state, write_atomically


def fails_in_one_line(action, *parts):
    with pytest.raises(CSBError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


class TestWriteAtomically:
    @pytest.fixture
    def old(self, tmp_path):
        (tmp_path / "file").write_bytes(b"old")
        return tmp_path / "file"

    @staticmethod
    def failing(error):
        def write(file):
            file.write(b"half of the new")
            raise error

        return write

    def test_writes_and_makes_folders(self, tmp_path):
        write_atomically(tmp_path / "a" / "b", lambda file: file.write(b"new"))
        assert (tmp_path / "a" / "b").read_bytes() == b"new"
        assert os.listdir(tmp_path / "a") == ["b"]

    @pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), MemoryError()], ids=repr)
    def test_a_write_that_raises_leaves_the_old_file_alone(self, old, error):
        with pytest.raises(type(error)):
            write_atomically(old, self.failing(error))
        assert old.read_bytes() == b"old"
        assert os.listdir(old.parent) == ["file"]

    def test_a_disk_that_fails_is_one_line(self, old):
        error = OSError(28, "No space left on device")
        fails_in_one_line(lambda: write_atomically(old, self.failing(error)), "cannot write", str(old))
        assert old.read_bytes() == b"old"
        assert os.listdir(old.parent) == ["file"]

    def test_a_folder_in_the_way(self, tmp_path):
        (tmp_path / "file").mkdir()
        fails_in_one_line(lambda: write_atomically(tmp_path / "file", lambda f: f.write(b"x")), "cannot write")
        (tmp_path / "plain").write_text("")
        fails_in_one_line(lambda: write_atomically(tmp_path / "plain" / "x", lambda f: f.write(b"x")), "cannot write")
        assert sorted(os.listdir(tmp_path)) == ["file", "plain"]

    def test_the_old_file_stands_until_the_new_one_is_on_disk(self, old, monkeypatch):
        synced = []
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(old.read_bytes()), fsync(fd)))
        write_atomically(old, lambda file: file.write(b"new"))
        assert synced[0] == b"old"
        assert old.read_bytes() == b"new"

    def test_only_those_of_some_files_are_removed(self, tmp_path):
        for name in (
            ".state.safetensors.abc.tmp",
            ".denoiser_state.safetensors.abc.tmp",
            ".denoiser.safetensors.abc.tmp",
        ):
            (tmp_path / name).write_text("")
        remove_leftovers(tmp_path, "denoiser")
        assert os.listdir(tmp_path) == [".state.safetensors.abc.tmp"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path):
    path = small_disk / "b.safetensors"
    save_state(path, {"x": torch.arange(1000)})
    message = fails_in_one_line(lambda: save_state(path, {"x": torch.zeros(10**6)}), "cannot write")
    assert "free space" in message
    assert torch.equal(load_state(path)["x"], torch.arange(1000))
    assert os.listdir(small_disk) == ["b.safetensors"]
