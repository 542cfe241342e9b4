"""Pairs in arrays of this process."""

from contextlib import nullcontext
from typing import Any

import numpy as np

from csb.numbers import as_numbers
from csb.problems.rows import NAMES, Source
from csb.problems.sources import ARRAYS, of_arrays


class Held:
    """Arrays x (N, …) and y (N, …) of this process, under a name for as long as a problem holds them.

    Args:
        x, y: tensors, arrays, lists, frames, which are copied into memory; or memory maps and datasets of HDF5, which
            are read by rows.
        name: by which specs remember them.

    Raises:
        CSBError: values that are no numbers, other shapes, fewer than 100 pairs.
    """

    def __init__(self, x: Any, y: Any, name: str) -> None:
        self.in_memory = not any(_is_by_rows(value) for value in (x, y))
        self.arrays = {key: _held(key, value) for key, value in zip(NAMES, (x, y))}
        self.source()
        ARRAYS[name] = self

    def source(self) -> Source:
        """The arrays to be read by rows; it holds them."""
        labels = {key: key for key in NAMES}
        return of_arrays("the arrays", labels, lambda _: nullcontext(self.arrays), {}, in_memory=self.in_memory)


def _is_by_rows(value: Any) -> bool:
    return isinstance(value, np.memmap) or type(value).__module__.startswith("h5py.")


def _held(name: str, value: Any) -> Any:
    if _is_by_rows(value):
        return value
    return as_numbers(name, value).cpu().numpy()
