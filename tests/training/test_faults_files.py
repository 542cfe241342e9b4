"""Files that are damaged, foreign or missing, and disks that are full or read-only: one line, or the same weights."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from csb.errors import CSBError
from csb.files import load_state
from csb.training.state import load_progress
from tests.training.fault_runs import (
    FINGERPRINT,
    ONE_LINE,
    At,
    Fault,
    Stop,
    assert_intact,
    assert_same,
    go_on,
    in_a_process,
    make,
    stop,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec.*")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    go_on(folder)
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A training that was left in its third half-step, after a state."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    run = make(folder)
    run.observer = At(2, 8, stop)
    with pytest.raises(Stop):
        run.run(resume=False)
    progress = load_progress(folder / "state.safetensors", FINGERPRINT)
    assert (progress.half_step, progress.step) == (2, 8)
    return folder


@pytest.fixture
def copy(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def foreign_network(data):
    data["weights"] = {f"other.{key}": value for key, value in data["weights"].items()}


def not_finite(data):
    next(v for k, v in data["weights"].items() if v.ndim == 2)[0, 1] = float("nan")


def unknown_field(data):
    data["invention"] = 1


def other_format(data):
    data["format"] = 99


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "the last byte lost": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "zeros, as after a power cut": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("hello"),
    "the start of an archive": lambda path: path.write_bytes(b"PK" + path.read_bytes()),
    "a pickle of code": lambda path: torch.save(os.system, path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
CONTENTS = {
    "another network": (foreign_network, "does not fit the network"),
    "NaN": (not_finite, "holds numbers that are not finite, first in weights"),
    "unknown field": (unknown_field, "is no state of a training"),
    "another format": (other_format, "is not a csb file of format"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state(copy, damage):
    damage(copy / "state.safetensors")
    before = sorted(copy.rglob("*"))
    with pytest.raises(CSBError, match=r"state\.safetensors (is damaged|does not exist|is not a file)") as error:
        make(copy).run(resume=True)
    assert "\n" not in str(error.value)
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize(("change", "message"), CONTENTS.values(), ids=CONTENTS)
def test_a_state_of_something_else(copy, change, message):
    data = load_state(copy / "state.safetensors")
    change(data)
    (copy / "state.safetensors").unlink()
    torch.save(data, copy / "state.pt")  # as an older version
    with pytest.raises(CSBError, match=rf"state\.pt {message}") as error:
        make(copy).run(resume=True)
    assert "\n" not in str(error.value)


def test_a_bridge_in_place_of_a_state(copy):
    golden = Path(__file__).parents[1] / "golden" / "files" / "half_step.pt"
    for file, name, reported in (
        (copy / "half_steps" / "01_backward.safetensors", "state.safetensors", "lacks 'state' beside format, kind"),
        (golden, "state.pt", "is no state of a training; put the right file back"),
    ):
        (copy / "state.safetensors").unlink()
        shutil.copy(file, copy / name)
        with pytest.raises(CSBError, match=rf"{name} {reported}"):
            make(copy).run(resume=True)


@pytest.mark.parametrize("damage", ["half"])
def test_a_damaged_half_step_is_told_when_it_is_the_best(copy, damage):
    DAMAGES[damage](copy / "half_steps" / "02_forward.safetensors")
    with pytest.raises(CSBError, match=r"02_forward\.safetensors is damaged"):
        make(copy).run(resume=True)
    assert load_progress(copy / "state.safetensors", FINGERPRINT).half_step == 4


def test_a_damaged_half_step_of_the_running_one_is_written_again(copy, whole):
    (copy / "half_steps" / "03_backward.safetensors").write_text("left by something else")
    (copy / "bridge.safetensors").write_bytes(b"")
    (copy / ".state.safetensors.abc.tmp").write_bytes(b"half a sta")
    (copy / "half_steps" / ".03_backward.safetensors.abc.tmp").write_bytes(b"")
    go_on(copy)
    assert_same(copy, whole)


def test_files_that_may_not_grow(copy, whole):
    """RLIMIT_FSIZE, which needs no privileges: every write beyond 2 KiB fails."""
    before = (copy / "state.safetensors").read_bytes()
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = make(copy)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(
            CSBError, match=r"cannot write .*state\.safetensors: .*File too large.*; free space"
        ) as error:
            run.run(resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert (copy / "state.safetensors").read_bytes() == before
    assert list(copy.rglob("*.tmp")) == []
    go_on(copy)
    assert_same(copy, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("free", [0, 4], ids="{} pages free".format)
def test_a_full_disk(small_disk, begun, whole, free):
    shutil.copytree(begun, small_disk / "run")
    before = (small_disk / "run" / "state.safetensors").read_bytes()
    space = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes((space.f_bavail - free) * space.f_frsize))
    with pytest.raises(CSBError, match=r"cannot write .*: .*No space left on device.*; free space") as error:
        make(small_disk / "run").run(resume=True)
    assert "\n" not in str(error.value)
    assert (small_disk / "run" / "state.safetensors").read_bytes() == before
    assert list(small_disk.rglob("*.tmp")) == []
    (small_disk / "ballast").unlink()
    go_on(small_disk / "run")
    assert_same(small_disk / "run", whole)


def test_a_disk_that_becomes_read_only(small_disk, begun, whole):
    shutil.copytree(begun, small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(CSBError, match=r"cannot write .*: .*Read-only file system"):
        make(small_disk / "run").run(resume=True)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert_intact(small_disk / "run")
    go_on(small_disk / "run")
    assert_same(small_disk / "run", whole)


def test_a_folder_that_vanishes_while_it_is_written_into(tmp_path):
    """The state is lost with it; what is written later is whole."""
    run = make(tmp_path / "run", select="last")
    run.observer = At(1, 8, lambda: shutil.rmtree(tmp_path / "run"))
    run.run(resume=False)
    assert_intact(tmp_path / "run")
    assert (tmp_path / "run" / "bridge.safetensors").exists()


@pytest.mark.parametrize("where", ["csb.training.trainer.fill", "csb.training.trainer.Batches.__iter__"])
def test_an_error_where_the_data_come_from(copy, whole, monkeypatch, where):
    """As of a worker that dies: it is passed on as it is, and the state is that before."""

    def broken(*arguments, **options):
        raise RuntimeError("a worker died")

    with monkeypatch.context() as patch:
        patch.setattr(where, broken)
        with pytest.raises(RuntimeError, match="a worker died"):
            make(copy).run(resume=True)
    assert_intact(copy)
    go_on(copy)
    assert_same(copy, whole)


def test_a_line_is_all_that_a_full_disk_leaves_behind(fork_server, copy):
    """In a process of its own: the exit code, and the message."""
    code = in_a_process(fork_server, copy, Fault("OSError", 1))
    assert code == ONE_LINE
    assert Path(f"{copy}.error").read_text().count("\n") == 0
