"""This machine's memory, and what is too large for it."""

import os

from csb.errors import CSBError


def installed() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(needed: int, what: str, remedy: str, room: int | None = None, where: str = "this machine") -> None:
    """CSBError where so many bytes are more than ``room``, that of ``where``; None: this machine's memory."""
    room = installed() if room is None else room
    if needed > room:
        raise CSBError(
            f"{what} would take about {needed / 2**30:.3g} GiB and {where} has {room / 2**30:.1f} GiB of memory; "
            f"{remedy}"
        )
