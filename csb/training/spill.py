"""Trajectories that memory does not hold: numbers of which a part lies in a memory-mapped file.

The file has no name: it is gone when it is closed and when the process ends, however it ends. It is mapped again for
each access, so that its pages do not stay with the process. Its room on the disk is taken before anything is computed.
"""

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from csb.errors import CSBError

_RAW = {2: (torch.int16, np.int16), 4: (torch.int32, np.int32)}  # numpy has no bfloat16


class Spilled:
    """An array (rows, N, *shape), the first ``inside`` of whose N columns lie in memory and the others in a file.

    It is written as ``spilled[row, start:stop] = values`` and read as ``spilled[rows, columns]``, with a row or a
    tensor of rows and a tensor of columns, both on the CPU: what a tensor of the same shape would give.

    Args:
        rows, size, shape: of the array.
        dtype: of its numbers, 2 or 4 bytes each.
        inside: columns in memory, in 0..size − 1.
        folder: of the file.

    Raises:
        CSBError: the file cannot be made, or the disk has no room for it.
    """

    def __init__(
        self, rows: int, size: int, shape: tuple[int, ...], dtype: torch.dtype, inside: int, folder: Path
    ) -> None:
        self.memory = torch.empty((rows, inside, *shape), dtype=dtype)
        self.inside, self._shape = inside, (rows, size - inside, *shape)
        self.spilled_bytes = int(np.prod(self._shape)) * dtype.itemsize
        self._file: Any = _reserved(folder, self.spilled_bytes)
        self.close = weakref.finalize(self, self._file.close)  # of the file; the array is of no use then

    def _mapped(self, mode: Any) -> np.memmap[Any, Any]:
        return np.memmap(self._file, _RAW[self.memory.dtype.itemsize][1], mode, shape=self._shape)

    def __setitem__(self, key: tuple[int, slice], values: Tensor) -> None:
        row, where = key
        within = max(0, min(where.stop, self.inside) - where.start)
        self.memory[row, where.start : where.start + within] = values[:within]
        if within < len(values):
            rest = values[within:].to(self.memory.dtype).contiguous().view(_RAW[self.memory.dtype.itemsize][0])
            start = where.start + within - self.inside
            self._mapped("r+")[row, start : start + len(rest)] = rest.numpy()

    def __getitem__(self, key: tuple[int | Tensor, Tensor]) -> Tensor:
        rows, columns = key
        rows = torch.as_tensor(rows).expand(columns.shape)
        found, outside = torch.empty((len(columns), *self._shape[2:]), dtype=self.memory.dtype), columns >= self.inside
        found[~outside] = self.memory[rows[~outside], columns[~outside]]
        if bool(outside.any()):
            raw = self._mapped("r")[rows[outside].numpy(), columns[outside].numpy() - self.inside]
            found[outside] = torch.from_numpy(np.asarray(raw)).view(self.memory.dtype)
        return found


def _reserved(folder: Path, size: int) -> BinaryIO:
    """A nameless file of so many bytes, all allocated: a full disk shows here, and not when a page is written."""
    file = None
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it is closed with the array
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, 2**20):
                file.write(bytes(min(2**20, size - start)))
            file.flush()
    except OSError as error:
        if file is not None:
            file.close()
        raise CSBError(
            f"the trajectory cache needs {size / 2**20:.0f} MiB in {folder} ({error.strerror}); free space or give "
            f"another folder, ipf.cache_spill=…, and go on with resume=true: nothing is lost"
        ) from error
    return file  # pyright: ignore[reportReturnType]
