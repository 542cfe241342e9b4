"""Where own pairs come from: an .npz file, two .npy files, an HDF5 file, or a torch Dataset. All but the first may be
larger than memory: only the rows that are asked for are read.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from csb.errors import CSBError, in_one_line
from csb.numbers import as_numbers
from csb.problems.pairs_file import (
    MISSING,
    NAMES,
    REMEDY,
    SOME,
    Header,
    as_floats,
    check_headers,
    is_wide,
    read_header,
    read_headers,
    read_pairs,
)
from csb.problems.rows import block_rows

Array = np.ndarray[Any, Any]
HDF5 = (".h5", ".hdf5", ".hdf")  # suffixes
SCHEME = "dataset:"  # of the path of a Dataset
DATASETS: dict[str, Dataset[Any]] = {}  # by name, in this process
_MAGIC = b"\x89HDF\r\n\x1a\n"


class Source(ABC):
    """N pairs.

    Args:
        where: what messages call them.
        labels: what messages call x and y.
        headers: their shapes (N, …) and types.

    Raises:
        CSBError: what :func:`csb.problems.pairs_file.check_headers` refuses; on reading, values that are not finite,
            and pairs that are no longer there.
    """

    in_memory: bool = False

    def __init__(self, where: str, labels: dict[str, str], headers: dict[str, Header]) -> None:
        check_headers(headers, labels, where)
        self.where, self.labels, self.headers = where, labels, headers

    def __len__(self) -> int:
        return self.headers["x"].shape[0]

    @abstractmethod
    def _raw(self, rows: Array | slice, names: tuple[str, ...]) -> list[Array]:
        """These rows of x, of y or of both, in their own type; a slice has a start and a stop."""

    @cached_property
    def wide(self) -> dict[str, bool]:
        """Whether x, and y, are read as float64: some rows from the beginning to the end tell."""
        rows = np.linspace(0, len(self) - 1, min(SOME, len(self))).astype(np.int64)
        typed = {name: np.can_cast(header.dtype, np.float32) for name, header in self.headers.items()}
        return {name: not typed[name] and is_wide(self._raw(rows, (name,))[0]) for name in NAMES}

    def _take(self, rows: Array | slice, names: tuple[str, ...]) -> list[Tensor]:
        """These rows of x, of y or of both, float32, or float64 where float32 is too coarse."""
        return [_tensor(array, self.wide[name]) for name, array in zip(names, self._raw(rows, names))]

    def read(self, rows: Tensor, names: tuple[str, ...] = NAMES) -> list[Tensor]:
        """The rows (B,), int64, of x, of y or of both, float32 or float64, checked to be finite."""
        found = self._take(rows.numpy(), names)
        for name, values in zip(names, found):
            if not bool(torch.isfinite(values).all()):
                row = int(rows[~torch.isfinite(values).flatten(1).all(1)][0])
                raise CSBError(f"{self.labels[name]} holds values in row {row} that are {MISSING}; {REMEDY}")
        return found

    def blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(first row, x, y) of all pairs in the order of the source, float32 or float64, not checked."""
        size = block_rows(self.headers["x"].shape[1:], self.headers["y"].shape[1:])
        for start in range(0, len(self), size):
            x, y = self._take(slice(start, min(start + size, len(self))), NAMES)
            yield start, x, y

    def _changed(self, name: str, header: Header) -> CSBError:
        old = self.headers[name]
        return CSBError(
            f"{self.labels[name]} was {old.dtype} of shape {old.shape} and is {header.dtype} of shape {header.shape} "
            f"now; restore it, and do not write to it while it is used"
        )


class Npz(Source):
    """Arrays of an .npz file, all of them in memory once one is read."""

    in_memory = True

    def __init__(self, path: Path, names: tuple[str, str]) -> None:
        self.path, self.names = path, names
        labels = {key: f"{name} of {path}" for key, name in zip(NAMES, names)}
        super().__init__(str(path), labels, read_headers(path, names))
        self._arrays: dict[str, Tensor] = {}

    def _raw(self, rows: Array | slice, names: tuple[str, ...]) -> list[Array]:
        return [part.numpy() for part in self._take(rows, names)]

    def _take(self, rows: Array | slice, names: tuple[str, ...]) -> list[Tensor]:
        if not self._arrays:
            self._arrays = dict(zip(NAMES, read_pairs(self.path, self.names)))
        at = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return [self._arrays[name][at] for name in names]


class Npy(Source):
    """Two .npy files, mapped again for each reading, so that no more pages than one reading needs stay mapped."""

    def __init__(self, x: Path, y: Path) -> None:
        self.paths = {"x": x, "y": y}
        labels = {name: f"{name} of {path}" for name, path in self.paths.items()}
        headers = {}
        for name, path in self.paths.items():
            if not path.is_file():
                raise CSBError(f"{path} is not a file; give the .npy file of your {name} (data.{name}=…)")
            with path.open("rb") as file:
                headers[name] = read_header(labels[name], file)
        super().__init__(f"{x}, {y}", labels, headers)
        for name in NAMES:
            self._map(name)  # a file that ends too soon is reported now

    def _map(self, name: str) -> Array:
        try:
            array = np.load(self.paths[name], mmap_mode="r", allow_pickle=False)
        except Exception as error:  # broken bytes make a reader raise anything
            raise CSBError(
                f"{self.labels[name]} cannot be read ({in_one_line(error)}); write the file again"
            ) from error
        if (found := Header(array.shape, array.dtype)) != self.headers[name]:
            raise self._changed(name, found)
        return array

    def _raw(self, rows: Array | slice, names: tuple[str, ...]) -> list[Array]:
        return [self._map(name)[rows] for name in names]


class Hdf5(Source):
    """Two datasets of an HDF5 file, by h5py, opened again for each reading."""

    def __init__(self, path: Path, names: tuple[str, str]) -> None:
        self.path, self.names = path, dict(zip(NAMES, names))
        labels = {key: f"{name} of {path}" for key, name in self.names.items()}
        with self._open() as file:
            headers = {key: _hdf5_header(labels[key], path, file, name) for key, name in self.names.items()}
        super().__init__(str(path), labels, headers)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            h5py = import_module("h5py")
        except ImportError as error:
            raise CSBError(f"reading {self.path} needs the package h5py; run pip install 'csb[hdf5]'") from error
        if not self.path.is_file():
            raise CSBError(f"{self.path} does not exist; give the HDF5 file of your pairs (data.path=…)")
        try:
            with h5py.File(self.path, "r") as file:
                yield file
        except CSBError:
            raise
        except Exception as error:  # broken bytes make a reader raise anything
            raise CSBError(f"{self.path} cannot be read as HDF5 ({in_one_line(error)}); write it again") from error

    def _raw(self, rows: Array | slice, names: tuple[str, ...]) -> list[Array]:
        found = []
        with self._open() as file:
            for key in names:
                held = file.get(self.names[key])
                if held is None or (now := Header(held.shape, held.dtype)) != self.headers[key]:
                    raise self._changed(key, now if held is not None else Header((), np.dtype("V")))
                if isinstance(rows, slice):
                    found.append(held[rows])
                else:  # h5py wants them in order and each once
                    unique, back = np.unique(rows, return_inverse=True)
                    found.append(held[unique][back])
        return found


def _hdf5_header(label: str, path: Path, file: Any, name: str) -> Header:
    """Of the dataset of a file. CSBError where there is none."""
    held = file.get(name)
    if held is None or not hasattr(held, "shape"):
        what = "a group" if held is not None else f"not among {', '.join(file) or 'nothing'}"
        raise CSBError(f"{label} is {what}; name the datasets x and y, or give their names as data.x=… data.y=…")
    return Header(held.shape or (), held.dtype)


class Items(Source):
    """The items (x, y) of a map-style torch Dataset, fetched in this process."""

    def __init__(self, name: str) -> None:
        where = f"the dataset {name!r}"
        if name not in DATASETS:
            raise CSBError(
                f"{where} is not here: it was made in Python; call csb.problems.from_dataset(dataset, {name!r}) in "
                f"this process first"
            )
        self.dataset = DATASETS[name]
        labels = {key: f"{key} of {where}" for key in NAMES}
        self.where = where
        x, y = self._item(0)
        count = len(self.dataset)  # pyright: ignore[reportArgumentType]
        super().__init__(where, labels, {key: _item_header(v, count) for key, v in zip(NAMES, (x, y))})

    def _item(self, index: int) -> tuple[Tensor, Tensor]:
        try:
            return self._pair(index, self.dataset[index])
        except CSBError:
            raise
        except Exception as error:  # whatever a user's code raises
            raise CSBError(
                f"item {index} of {self.where} cannot be had ({type(error).__name__}: {in_one_line(error)}); fix it"
            ) from error

    def _pair(self, index: int, item: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise CSBError(f"an item of {self.where} is a {type(item).__name__}; expected a pair (x, y) of arrays")
        x, y = (
            torch.atleast_1d(as_numbers(f"{n} of item {index} of {self.where}", part)) for n, part in zip(NAMES, item)
        )
        return x, y

    def _raw(self, rows: Array | slice, names: tuple[str, ...]) -> list[Array]:
        wanted = list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows.tolist()
        if len(self.dataset) != len(self):  # pyright: ignore[reportArgumentType]
            length = len(self.dataset)  # pyright: ignore[reportArgumentType]
            raise CSBError(f"{self.where} held {len(self)} items and holds {length} now; its length must not change")
        found: list[list[Tensor]] = [[] for _ in names]
        for index in wanted:
            pair = dict(zip(NAMES, self._item(index)))
            for name, parts in zip(names, found):
                if (shape := tuple(pair[name].shape)) != self.headers[name].shape[1:]:
                    raise CSBError(
                        f"{name} of item {index} of {self.where} has shape {shape} and that of item 0 "
                        f"{self.headers[name].shape[1:]}; give all the same"
                    )
                parts.append(pair[name].cpu())
        return [torch.stack(parts).numpy() for parts in found]


def _item_header(value: Tensor, count: int) -> Header:
    return Header((count, *value.shape), np.dtype(str(value.dtype).removeprefix("torch.")))


def _tensor(array: Array, wide: bool) -> Tensor:
    """A copy, which holds no file open."""
    found = as_floats(array, wide)
    return torch.from_numpy(found.copy() if array.dtype == found.dtype else found)


def from_dataset(dataset: Dataset[Any], name: str = "pairs") -> str:
    """Makes a torch Dataset known in this process, as own pairs. Returns its path, for ``data.path=…``.

    Its items are fetched when they are needed, one at a time, and each of them twice before a training starts: to be
    checked, and for mean and standard deviation. An item must be the same whenever it is fetched.

    Args:
        dataset: map-style, with items (x, y): numbers of any type, each a vector (d,) or an image (C, H, W).
        name: by which bridges remember it; an earlier dataset of this name is replaced.

    Raises:
        CSBError: no map-style Dataset; an empty name.
    """
    if not name or not isinstance(name, str):
        raise CSBError(f"name={name!r} is no name of a dataset; give letters")
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise CSBError(
            f"{type(dataset).__name__} is no map-style Dataset: it lacks __getitem__ or __len__; an IterableDataset "
            f"cannot be shuffled, write its pairs to a file"
        )
    DATASETS[name] = dataset
    return SCHEME + name


def open_source(path: str | None, x: str | None, y: str | None) -> Source:
    """The source that these arguments of :class:`csb.problems.pairs.FilePairs` name. Only headers are read."""
    if path is None:
        assert x is not None
        assert y is not None
        return Npy(Path(x), Path(y))
    if path.startswith(SCHEME):
        return Items(path.removeprefix(SCHEME))
    names = (x or "x", y or "y")
    return (Hdf5 if _is_hdf5(Path(path)) else Npz)(Path(path), names)


def _is_hdf5(path: Path) -> bool:
    """By its first bytes; of a file that is not there, or has no HDF5 in it, by its name."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                return True
    except OSError:
        pass
    return path.suffix.lower() in HDF5
