"""Peak memory of a training on pairs that are read by rows, against the size of their files: benchmark suite=memory.

A training of as few pairs as fit comes first: what the program itself takes is in its peak. A process's peak never
falls, so the kinds are taken in the order that is given; an .npz file, which is held in memory, comes last.
The peak of .npy files counts the pages of theirs that are mapped, up to all of a file at once, which the system takes
back when it needs them.
"""

import resource
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from numpy.lib import format as npy
from pydantic import Field

from csb.errors import LARGEST
from csb.evaluation.table import print_table
from csb.runs.folder import check_writable
from csb.runs.train import train
from csb.schema import Count, Given, OneOf, Place, Schema
from suites.settings import suite_settings, training_config

_CHUNK, _FEWEST = 10_000, 2_000
_KINDS = ("npy", "npz")
_TRAINING = [
    "experiment=pairs", "L=1", "T=3", "training.last_forward=false", "training.select=last", "training.batch_size=1024",
    "metrics.observations=100", "metrics.samples=8", "metrics.picture_rows=2", "logger=none", "progress=false",
    "network.options={width: 64, depth: 1}",
]  # fmt: skip


class MemorySettings(Schema):
    """See conf/suite/memory.yaml."""

    pairs: int = Field(ge=_FEWEST, le=LARGEST, description="of the large training")
    width: Count = Field(description="numbers of an x, and of a y")
    steps: Count = Field(description="optimiser steps of each training")
    kinds: list[Annotated[str, OneOf(_KINDS)]] = Field(min_length=1, description="of files, in this order")
    out: Place | None
    """The folder that the files are written in; null: the system's for temporary files."""


def peak_mib() -> float:
    """The most memory that this process has had so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _write(file: IO[bytes], name: str, pairs: int, width: int) -> None:
    """An array in numpy's format, float64, a chunk at a time: x ~ N(0, I), or y = x + ½ N(0, I)."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (pairs, width)}
    npy.write_array_header_1_0(file, header)  # pyright: ignore[reportArgumentType]
    for start in range(0, pairs, _CHUNK):
        rng = np.random.default_rng(start)
        rows = rng.standard_normal((min(_CHUNK, pairs - start), width))
        file.write((rows if name == "x" else rows + 0.5 * rng.standard_normal(rows.shape)).tobytes())


def _npy(folder: Path, pairs: int, width: int) -> list[str]:
    for name in ("x", "y"):
        with (folder / f"{name}.npy").open("wb") as file:
            _write(file, name, pairs, width)
    return [f"data.{name}={folder / f'{name}.npy'}" for name in ("x", "y")]


def _npz(folder: Path, pairs: int, width: int) -> list[str]:
    path = folder / "pairs.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x", "y"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _write(file, name, pairs, width)
    return [f"data.path={path}"]


WRITERS: dict[str, Callable[[Path, int, int], list[str]]] = dict(zip(_KINDS, (_npy, _npz)))


def measure(setup: MemorySettings, kind: str, pairs: int) -> dict[str, Any]:
    """Writes the files, trains for a few steps, and removes everything. A row of the table."""
    with tempfile.TemporaryDirectory(dir=setup.out) as name:
        folder = Path(name)
        data = WRITERS[kind](folder, pairs, setup.width)
        size = sum(path.stat().st_size for path in folder.iterdir())
        train(training_config((*_TRAINING, *data, f"training.first_steps={setup.steps}", f"out={name}")))
    return {"pairs": pairs, "kind": kind, "files_mib": size / 2**20, "peak_mib": peak_mib()}


def read(given: Given) -> MemorySettings:
    """The checked settings. CSBError with one line for the first thing that is wrong."""
    return suite_settings(MemorySettings, given)


def memory(given: Given) -> None:
    """Prints the table."""
    setup = read(given)
    if setup.out is not None:
        check_writable(Path(setup.out))
    rows = [measure(setup, setup.kinds[0], _FEWEST)]
    rows += [measure(setup, kind, setup.pairs) for kind in setup.kinds]
    for row in rows:
        row["above_mib"] = row["peak_mib"] - rows[0]["peak_mib"]
    title = f"Peak memory of a training's first {setup.steps} steps; above_mib: beyond that of {_FEWEST} pairs"
    print_table(rows, title=title)
