"""Which errors a command tells in a line of their own."""

import errno

import pytest
import torch

from csb.errors import CSBError
from csb.run.ends import explain, is_out_of_memory


def raised(error, of=None, hidden=False):
    """The error, raised while another was handled."""
    try:
        try:
            raise of or error
        except type(of or error):
            if hidden:
                raise error from None
            raise error  # noqa: B904 (its context is what matters here)
    except Exception as found:
        return found


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        raised(TypeError("unsupported callable"), MemoryError()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_memory(error):
    assert is_out_of_memory(error)
    assert explain(error).startswith("out of memory; lower ipf.batch_size")


def test_what_came_of_something_else_is_not_explained():
    for error in (
        TypeError("x"),
        raised(TypeError("x"), ValueError()),
        raised(TypeError("x"), MemoryError(), hidden=True),
    ):
        assert explain(error) is None


def test_an_error_of_our_own_keeps_its_line():
    assert explain(raised(CSBError("too large; lower n"), MemoryError())) == "too large; lower n"
