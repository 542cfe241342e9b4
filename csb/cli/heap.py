"""What the C library does with memory that is freed."""

import contextlib
import ctypes
import os
import sys

_OPTIONS = ((-1, 256 << 20), (-3, 32 << 20), (-2, 16 << 20))  # of mallopt(3): trim threshold, mmap threshold, top pad


def keep_freed_memory() -> None:
    """Lets GNU's C library keep up to 256 MiB of freed memory for the next tensors; for whoever owns the process.

    By itself it gives the top of its heap back to the system when a large tensor is freed, and takes it again, page by
    page, for the next one. Whether that happens hangs on what else lies on the heap: samples of vectors took up to a
    quarter longer in some processes than in others. Blocks from 32 MiB on go back at once in any case. Where MALLOC_*
    or GLIBC_TUNABLES are set, they decide; elsewhere than under GNU/Linux nothing happens.
    """
    set_already = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if set_already or sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _OPTIONS:
            mallopt(option, value)
