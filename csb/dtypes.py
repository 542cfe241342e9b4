"""float32, in which layers are made and models stay; devices, where bfloat16 is fast, and what memory holds."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from csb.errors import CSBError, in_one_line
from csb.schema import OneOf

Precision = Annotated[str, OneOf(("32-true", "bf16-mixed"))]  # of network calls: that of the weights, or bfloat16

Method = TypeVar("Method", bound=Callable[..., Tensor])


def exact(method: Method) -> Method:
    """The method outside autocast: small matrix products are no place for bfloat16."""

    @functools.wraps(method)
    def wrapped(self: Any, at: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_autocast_enabled(at.device.type):  # a context costs as much as several small operations
            return method(self, at, *args, **kwargs)
        with torch.autocast(at.device.type, enabled=False):
            return method(self, at, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


@contextmanager
def float32_layers() -> Iterator[None]:
    """Inside, layers are made in float32, whatever torch's default dtype is, which they take where none is stated."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


class Float32Module(nn.Module):
    """A module that moves between devices and keeps the dtypes of its tensors.

    ``double``, ``half``, ``bfloat16`` and ``to`` with another dtype raise CSBError before anything is converted:
    states, noise and observations are float32, and a product of them with other weights fails. ``float`` leaves float64
    buffers as they are, which are float64 because float32 cannot hold them.

    Attributes:
        works_in: the dtypes that it can compute in.
    """

    works_in: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What all of torch's moves and conversions go through."""
        asked = fn(torch.empty(0, dtype=torch.float32)).dtype
        if asked not in self.works_in:
            raise CSBError(
                f"a {type(self).__name__} computes in float32 and cannot be converted to {asked}; convert its samples, "
                f"e.g. samples.x.to({asked}); for bfloat16 products set precision='bf16-mixed'"
            )

        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return found if found.dtype == tensor.dtype or asked != torch.float32 else tensor.to(found.device)

        return super()._apply(moved, recurse)


def automatic_precision(where: torch.device) -> str:
    """The precision in which networks run fastest: "bf16-mixed" where the device multiplies bfloat16 itself.

    Elsewhere bfloat16 is emulated, which is far slower than float32.
    """
    if where.type == "cuda":
        own = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        own = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if own else "32-true"


def default_device() -> str:
    """A GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(device: str | torch.device | None) -> str:
    """The device's name, the default's for None. CSBError where nothing can be computed on it."""
    if device is None:
        return default_device()
    try:
        where = torch.device(device)
        if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
            raise RuntimeError("there is no such GPU")
        torch.zeros(1, dtype=torch.float32, device=where).item()
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise CSBError(f"device={device!r} cannot be used here ({in_one_line(error, 80)}); give cpu or cuda") from error
    return str(where)


def off_meta() -> AbstractContextManager[Any]:
    """Inside, small tables are computed on the CPU where the default device is "meta", on which files are checked.

    To compute anything there torch imports its compiler, which takes seconds.
    """
    return torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext()


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
