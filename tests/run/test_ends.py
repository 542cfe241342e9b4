"""Which errors a command tells in a line of their own."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from csb.cli.ends import explain, terminable
from csb.errors import CSBError, Terminated
from tests.commands import Hook
from tests.conftest import ROOT

NO_MEMORY = "out of memory; lower training.batch_size"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), NO_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), NO_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), NO_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), NO_MEMORY),
        (CSBError("too large; lower n"), "too large; lower n"),
        (TypeError("x"), None),
    ],
)
def test_which_errors_are_explained(error, line):
    """Those of our own, and of a machine without memory; a mistake of the program keeps its traceback."""
    found = explain(error)
    assert found is None if line is None else found.startswith(line)


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_a_signal_that_is_swallowed_is_not_lost():
    """What a library makes of what a handler raises is forgotten, and it does not disturb what is cleaned up."""
    done = []

    @terminable()
    def forgotten():
        with contextlib.suppress(Terminated):
            ask()

    @terminable()
    def taken_for_a_mistake():
        try:
            ask()
        except BaseException:
            raise ValueError("a mistake in the configuration") from None

    @terminable()
    def cleaning_up():
        try:
            ask()
        finally:
            time.sleep(0.3)
            done.append(True)

    for action in (forgotten, taken_for_a_mistake, cleaning_up):
        with pytest.raises(Terminated) as ended:
            action()
        assert ended.value.number == signal.SIGTERM
    assert done == [True]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("hook", [Hook("csb.cli.compose.compose", raises="SIGTERM"),
                                  Hook("omegaconf._utils.get_value_kind", 300, raises="SIGTERM")])  # fmt: skip
def test_a_signal_while_the_configuration_is_composed(command, tmp_path, hook):
    """Hydra takes what the handler raises for a mistake in the configuration."""
    done = command("experiment=two_moons", f"out={tmp_path}", hooks=[hook])
    assert (done.code, done.err.splitlines()[-1][:27]) == (143, "error: terminated by SIGTER")
    assert list(tmp_path.iterdir()) == []


def help_of(*arguments, **options):
    line = [sys.executable, "-m", "csb", *arguments]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.nightly
def test_help_into_a_pipe_that_is_closed():
    process = help_of("train", "--help")
    process.stdout.close()
    said = process.stderr.read()
    process.wait()
    process.stderr.close()
    assert "Traceback" not in said
    assert "BrokenPipeError" not in said


@pytest.mark.nightly
def test_an_output_that_is_not_utf8():
    out, err = help_of("train", "--help", env={**os.environ, "PYTHONIOENCODING": "ascii"}).communicate()
    assert out.isascii()
    assert "training.steps" in out
    assert err == ""
