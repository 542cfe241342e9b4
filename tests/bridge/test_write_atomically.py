"""Files are written whole or not at all, whatever faults meanwhile."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from csb.errors import CSBError, Terminated
from csb.files import FORMAT, load_state, remove_leftovers, save_state, write_atomically

STRUCK = 3  # exit code


def fails_in_one_line(action, *parts):
    with pytest.raises(CSBError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def struck_before_the_end(path):
    """In a process of its own: no memory when torch is about to end its archive."""

    def leave(self, *args):
        raise MemoryError

    torch.serialization._open_zipfile_writer_buffer.__exit__ = leave
    try:
        save_state(path, {"format": FORMAT, "x": torch.zeros(3)})
    except MemoryError:
        code = STRUCK
    os._exit(code)


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

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("write\nfailed")], ids=repr)
    def test_a_disk_that_fails_is_one_line(self, old, error):
        fails_in_one_line(lambda: write_atomically(old, self.failing(error)), "cannot write", str(old))
        assert old.read_bytes() == b"old"
        assert os.listdir(old.parent) == ["file"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated(), MemoryError()], ids=repr)
    def test_what_interrupts_the_writer_of_torch_is_raised_as_it_is(self, old, error, monkeypatch):
        """Its archive, closed in the middle of a record, adds a RuntimeError."""

        class Writer(torch._C.PyTorchFileWriter):
            def write_record(self, name, data, size):
                super().write_record(name, data, size)
                raise error

            def write_end_of_file(self):
                raise RuntimeError("unexpected pos 64 vs 0")

        monkeypatch.setattr(torch._C, "PyTorchFileWriter", Writer)
        with pytest.raises(type(error)) as raised:
            save_state(old, {"format": FORMAT, "x": torch.zeros(3)})
        assert raised.value is error
        assert old.read_bytes() == b"old"
        assert os.listdir(old.parent) == ["file"]

    def test_an_archive_that_was_not_ended_does_not_end_the_process(self, old, fork_server):
        """It writes its end when it is destroyed, after the file was closed."""
        process = fork_server.Process(target=struck_before_the_end, args=(old,))
        process.start()
        process.join(120)
        assert process.exitcode == STRUCK
        assert old.read_bytes() == b"old"
        assert os.listdir(old.parent) == ["file"]

    def test_what_was_handled_before_a_write_is_not_its_cause(self, old):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            fails_in_one_line(lambda: write_atomically(old, self.failing(RuntimeError("no room"))), "no room")

    def test_is_as_readable_as_any_file(self, tmp_path):
        write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
        (tmp_path / "plain").write_text("")
        assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode

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

    def test_leftovers_are_removed(self, tmp_path):
        for name in (".state.pt.abc.tmp", "state.pt", "other.tmp"):
            (tmp_path / name).write_text("")
        remove_leftovers(tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["other.tmp", "state.pt"]

    def test_only_those_of_some_files_are_removed(self, tmp_path):
        for name in (".state.pt.abc.tmp", ".denoiser_state.pt.abc.tmp", ".denoiser.pt.abc.tmp"):
            (tmp_path / name).write_text("")
        remove_leftovers(tmp_path, "denoiser")
        assert os.listdir(tmp_path) == [".state.pt.abc.tmp"]


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
    path = small_disk / "b.pt"
    save_state(path, {"format": FORMAT, "x": torch.arange(1000)})
    message = fails_in_one_line(lambda: save_state(path, {"format": FORMAT, "x": torch.zeros(10**6)}), "cannot write")
    assert "free space" in message
    assert torch.equal(load_state(path)["x"], torch.arange(1000))
    assert os.listdir(small_disk) == ["b.pt"]
