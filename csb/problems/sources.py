"""Where own pairs come from: an .npz file, two .npy files, an HDF5 file, a torch Dataset, or arrays of this process.

All but the first may be larger than memory: only the rows that are asked for are read. Headers are read and checked
before anything is allocated. Nothing is unpickled.
"""

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.lib import format as npy
from torch.utils.data import Dataset

from csb.dtypes import require_memory
from csb.errors import CSBError, in_one_line
from csb.numbers import as_numbers
from csb.problems.parts import joined
from csb.problems.rows import NAMES, Array, Header, Source

LEAST = 100  # pairs
HDF5 = (".h5", ".hdf5", ".hdf")  # suffixes
SCHEME = "dataset:"  # of the path of a Dataset
DATASETS: dict[str, Dataset[Any]] = {}  # by name, in this process
ARRAYS: WeakValueDictionary[str, Source] = WeakValueDictionary()  # those that a problem still holds
PLACES = ("root", "path", "x", "y")  # of data; a problem is the same wherever they lie
SIZES = ("n_train", "n_val", "n_test", "length")  # and however many pairs of it are taken
_MAGIC = b"\x89HDF\r\n\x1a\n"
_CHANNELS = (1, 3, 4)  # of images in common formats
_COPIES = 8  # bytes a number beside those in the file: encoded, in parts and joined
_READERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def open_source(path: str | None, x: str | None, y: str | None) -> Source:
    """The source that these arguments of :class:`csb.problems.pairs.FilePairs` name. Only headers are read.

    CSBError for what is missing or cannot be read, arrays that are no pairs, and fewer than LEAST of them.
    """
    if path is None:
        return _checked(_npy({"x": Path(str(x)), "y": Path(str(y))}))
    if path.startswith(SCHEME):
        name = path.removeprefix(SCHEME)
        return ARRAYS.get(name) or _checked(_items(name))
    file, names = Path(path), {"x": x or "x", "y": y or "y"}
    return _checked(_hdf5(file, names) if _is_hdf5(file) else _npz(file, names))


def _is_hdf5(path: Path) -> bool:
    """By its suffix, or its first bytes."""
    is_named_so = path.suffix.lower() in HDF5
    if is_named_so or not path.is_file():
        return is_named_so
    with _readable(f"{path} cannot be read"), path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@contextmanager
def _readable(fault: str, remedy: str = "write the file again") -> Iterator[None]:
    """CSBError in place of whatever a reader or a user's code raises: broken bytes make a reader raise anything."""
    try:
        yield
    except CSBError:
        raise
    except Exception as error:
        raise CSBError(f"{fault} ({type(error).__name__}: {in_one_line(error)}); {remedy}") from error


def _require_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise CSBError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; give the {what}")


def _fault(name: str, header: Header) -> str:
    """Why an array is neither vectors (N, d) nor images (N, C, H, W) of real numbers, and what to do; else "".

    y may also be series or sets (N, L, d).
    """
    shape = header.shape
    if header.dtype.kind not in "fiub":
        return f"the type {header.dtype}; expected real numbers; convert it, e.g. to float32"
    if len(shape) not in ((2, 4) if name == "x" else (2, 3, 4)):
        rows = "" if name == "x" else ", series or sets (N, L, d)"
        return f"shape {shape}; expected vectors (N, d){rows} or images (N, C, H, W); reshape it"
    last = len(shape) == 4 and shape[3] in _CHANNELS and shape[1] not in _CHANNELS and shape[3] < min(shape[1:3])
    if last and max(shape[1:3]) < 4 * min(shape[1:3]):  # else (N, C, H, W) of an image that is one pixel wide, say
        return f"shape {shape}, which looks like (N, H, W, C); images are (N, C, H, W): give numpy.moveaxis(…, -1, 1)"
    return f"shape {shape}, which holds no numbers; give at least one for each pair" if 0 in shape[1:] else ""


def _checked(source: Source) -> Source:
    faults = [f"{source.labels[name]} has {fault}" for name in NAMES if (fault := _fault(name, source.headers[name]))]
    x, y = (source.headers[name].shape[0] if source.headers[name].shape else 0 for name in NAMES)
    if x != y:
        faults.append(f"{source.where} holds {x} x and {y} y; give one y for each x, in the same order")
    if x < LEAST:
        faults.append(f"{source.where} holds {x} pairs; at least {LEAST} are needed to learn from and to hold out")
    if faults:
        raise CSBError(faults[0])
    return source


def _header(label: str, file: IO[bytes]) -> Header:
    with _readable(f"{label} cannot be read"):
        shape, _, dtype = _READERS[npy.read_magic(file)](file)
        return Header.of(shape, dtype)


def _npz(path: Path, names: dict[str, str]) -> Source:
    """Arrays of an .npz file, as numpy.savez(path, x=x, y=y) writes it: all in memory once one is read."""
    _require_file(path, ".npz file of your pairs (data.path=…)")
    labels, headers = {key: f"{name} of {path}" for key, name in names.items()}, {}
    remedy = "write x and y with numpy.savez(path, x=x, y=y)"
    if path.suffix == ".npy":
        raise CSBError(f"{path} is not an .npz file but one array; give two, data.x={path} data.y=…, and no data.path")
    with _readable(f"{path} is not an .npz file", remedy), zipfile.ZipFile(path) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        if missing := [name for name in names.values() if name not in held]:
            raise CSBError(f"{path} holds {', '.join(held) or 'no array'} and no {missing[0]}; {remedy}")
        for key, name in names.items():
            with _readable(f"{labels[key]} cannot be read"), archive.open(f"{name}.npy") as file:
                headers[key] = _header(labels[key], file)

    @cache
    def arrays() -> dict[str, Array]:
        needed = sum(math.prod(header.shape) * (header.dtype.itemsize + _COPIES) for header in headers.values())
        require_memory(needed, f"the pairs of {path}", "give them as .npy or HDF5, which are read by rows, or fewer")
        with _readable(f"{path} is damaged", "write it again"), np.load(path, allow_pickle=False) as file:
            return {key: file[name] for key, name in names.items()}

    return Source(str(path), labels, lambda _: nullcontext(arrays()), headers, in_memory=True)


def _npy(paths: dict[str, Path]) -> Source:
    """Two .npy files, mapped again for each reading, so that no more pages than one reading needs stay mapped."""
    labels, headers = {name: f"{name} of {path}" for name, path in paths.items()}, {}
    for name, path in paths.items():
        _require_file(path, f".npy file of your {name} (data.{name}=…)")
        with path.open("rb") as file:
            headers[name] = _header(labels[name], file)

    def mapped(name: str) -> Array:
        with _readable(f"{labels[name]} cannot be read"):
            return np.load(paths[name], mmap_mode="r", allow_pickle=False)

    where = ", ".join(map(str, paths.values()))
    return Source(where, labels, lambda names: nullcontext({name: mapped(name) for name in names}), headers)


def _hdf5(path: Path, names: dict[str, str]) -> Source:
    """Two datasets of an HDF5 file, by h5py, opened again for each reading."""
    try:
        h5py = import_module("h5py")
    except ImportError as error:
        raise CSBError(f"reading {path} needs the package h5py; run pip install -e '.[hdf5]'") from error
    labels = {key: f"{name} of {path}" for key, name in names.items()}

    def dataset(file: Any, key: str) -> Any:
        if hasattr(found := file.get(names[key]), "shape"):
            return found
        what = "a group" if found is not None else f"not among {', '.join(file) or 'nothing'}"
        raise CSBError(f"{labels[key]} is {what}; name the datasets x and y, or give their names as data.x=… data.y=…")

    @contextmanager
    def opened(keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        _require_file(path, "HDF5 file of your pairs (data.path=…)")
        with _readable(f"{path} cannot be read as HDF5", "write it again"), h5py.File(path, "r") as file:
            yield {key: dataset(file, key) for key in keys}

    with opened(NAMES) as arrays:
        return Source(str(path), labels, opened, Header.of_all(arrays))


@dataclass(frozen=True, eq=False)
class _Column:
    """x, or y, of the items of a Dataset, which indexes like an array."""

    shape: tuple[int, ...]
    dtype: Any
    item: Callable[[int], Array]

    def __getitem__(self, rows: Any) -> Array:
        numbers = range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist()
        return np.stack([self.item(number) for number in numbers])


def _items(name: str) -> Source:
    """The items (x, y) of a map-style torch Dataset, each fetched once in a reading."""
    where = f"the dataset {name!r}"
    if name not in DATASETS:
        raise CSBError(
            f"{where} is not here: its pairs were given in Python; give them as a file, data=…, or call "
            f"csb.problems.from_dataset(dataset, {name!r}) in this process first"
        )
    dataset: Any = DATASETS[name]

    def pair(index: int) -> dict[str, Array]:
        with _readable(f"item {index} of {where} cannot be had", "fix it"):
            item = dataset[index]
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise CSBError(f"an item of {where} is a {type(item).__name__}; expected a pair (x, y) of arrays")
            labels = (f"{key} of item {index} of {where}" for key in NAMES)
            parts = (torch.atleast_1d(as_numbers(label, part)).cpu().numpy() for label, part in zip(labels, item))
            return dict(zip(NAMES, parts))

    first = pair(0)

    def columns(names: tuple[str, ...]) -> dict[str, _Column]:
        once = cache(pair)

        def part(key: str, index: int) -> Array:
            found, shape = once(index)[key], first[key].shape
            if found.shape != shape:
                label = f"{key} of item {index} of {where}"
                raise CSBError(f"{label} has shape {found.shape} and that of item 0 {shape}; give all the same")
            return found

        return {k: _Column((len(dataset), *first[k].shape), first[k].dtype, partial(part, k)) for k in names}

    labels = {key: f"{key} of {where}" for key in NAMES}
    return Source(where, labels, lambda names: nullcontext(columns(names)), Header.of_all(columns(NAMES)))


def from_dataset(dataset: Dataset[Any], name: str = "pairs") -> str:
    """Makes a torch Dataset known in this process, as own pairs. Returns its path, for ``data.path=…``.

    Its items are fetched when they are needed, one at a time, and each of them twice before a training starts: to be
    checked, and for mean and standard deviation. An item must be the same whenever it is fetched.

    Args:
        dataset: map-style, with items (x, y): numbers of any type, each a vector (d,) or an image (C, H, W). CSBError
            for others.
        name: by which bridges remember it; an earlier dataset of this name is replaced.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise CSBError(
            f"{type(dataset).__name__} is no map-style Dataset: it lacks __getitem__ or __len__; an IterableDataset "
            f"cannot be shuffled, write its pairs to a file"
        )
    DATASETS[name] = dataset
    return SCHEME + name


def hold(x: Any, y: Any, name: str) -> Source:
    """Makes arrays x (N, …) and y (N, …) known in this process by a name, for as long as what is returned is held.

    CSBError for values that are no numbers, other shapes, and fewer than LEAST pairs.

    Args:
        x, y: tensors, arrays, lists, frames, which are copied into memory; or memory maps and datasets of HDF5, which
            are read by rows. y may be named parts, {name: (N, …)}, which are copied into memory.
        name: by which specs remember them.
    """
    y, parts = joined(y) if isinstance(y, Mapping) else (y, None)
    given = dict(zip(NAMES, (x, y)))
    by_rows = [k for k, v in given.items() if isinstance(v, np.memmap) or type(v).__module__.startswith("h5py.")]
    arrays = {k: value if k in by_rows else as_numbers(k, value).cpu().numpy() for k, value in given.items()}
    ARRAYS[name] = source = _checked(Source.of("the arrays", arrays, not by_rows, parts))
    return source


def same_problem(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two specs are of one problem, whatever their places and sizes; of own pairs, whether these are the same.

    A spec without a digest, as older files hold it, fits any.
    """
    free = {*PLACES, *SIZES} | _unknown(one, other)
    return all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - free)


def same_pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two specs are of one problem with the same pairs and splits, wherever a file of the same digest lies."""
    unknown = _unknown(one, other)
    free = unknown or {"path", "x", "y"}
    one, other = absolute(one), absolute(other)
    return all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - free)


def _unknown(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {"digest"} if one.get("digest") is None or other.get("digest") is None else set()


def absolute(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with absolute paths of the files of own pairs, which are then found from any working directory."""
    if spec.get("name") != "pairs":
        return dict(spec)
    files = ("path",) if spec.get("path") else ("x", "y")  # with a path, x and y name arrays in it
    given = {key: spec.get(key) for key in files}
    of_files = {key: v for key, v in given.items() if isinstance(v, str) and v and not v.startswith(SCHEME)}
    return {**spec, **{key: os.path.abspath(value) for key, value in of_files.items()}}
