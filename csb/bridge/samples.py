"""What every posterior sampler takes and returns."""

import contextlib
import ctypes
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as nnf

from csb.errors import CSBError, in_one_line
from csb.numbers import Numbers, Observed, as_numbers, require_present
from csb.problems.parts import numbers_of
from csb.problems.transform import Transform


@dataclass(frozen=True)
class SampleInfo:
    """What the samples cost, and how they were reached.

    Attributes:
        forward_evaluations, backward_evaluations: passes through the network, and back (guidance), for one sample.
        seconds: wall time of the whole call.
        peak_memory: bytes by which the call raised the memory of the process (CPU) or of the device's allocator at
            most. None where it is not known, as of a call that stays below an earlier one's mark; :func:`reset_peak`
            before it makes it known.
        ess: (B,) effective sample size of the final weights over all n samples; None for unweighted samplers.
        unique_ancestors: (B,) how many of the n starting particles have descendants; None without resampling.
        trajectory: where asked for, (T + 1, B, n, *z_shape), states from k = 0 to T, on the CPU; fewer with skips.
    """

    forward_evaluations: int
    backward_evaluations: int
    seconds: float = 0.0
    peak_memory: int | None = None
    ess: Tensor | None = None
    unique_ancestors: Tensor | None = None
    trajectory: Tensor | None = None


@dataclass(frozen=True)
class Samples:
    """Posterior samples of B observations.

    Attributes:
        x: (B, n, *x_shape), float32; float64 where float32 is too coarse for x, as for seconds since 1970.
        log_weights: (B, n), log of weights of sum 1 an observation, or None where all samples weigh the same.
    """

    x: Tensor
    info: SampleInfo
    log_weights: Tensor | None = None


logger = logging.getLogger(__name__)
REACH = 2.0**23  # of states: beyond it float32 does not hold a unit


def as_floats(
    name: str, value: Numbers, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, any_units: bool
) -> Tensor:
    """Return numbers as a tensor of a dtype on the device; ``shape`` is that of one item.

    CSBError as :func:`csb.numbers.as_numbers`, and for integers where an item is an image (C, H, W) of known units.
    """
    tensor = as_numbers(name, value)
    if len(shape) == 3 and not any_units and not tensor.is_floating_point():
        raise CSBError(
            f"{name} is {tensor.dtype}, and whether its pixels lie in 0..255 is not known; pass floats as trained"
        )
    return tensor.to(device, dtype)


def batched(y: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, bool] | None:
    """Return y as a batch (B, *shape), and whether it was a single observation; None where it is neither.

    Of observations (1,) a bare number is one and (B,) are B, but (1,) is one. Rows that a series or set lacks, of
    observations (L, d), are NaN.
    """
    if len(shape) == 2 and y.ndim in (2, 3) and y.shape[-1] == shape[1] and y.shape[-2] < shape[0]:
        y = nnf.pad(y.double(), (0, 0, 0, shape[0] - y.shape[-2]), value=torch.nan).to(y)
    if shape == (1,) and y.ndim < 2 and tuple(y.shape) != shape:
        return (y.view(1, 1), True) if y.ndim == 0 else (y[:, None], False)
    if tuple(y.shape) == shape:
        return y[None], True
    return (y, False) if y.ndim > 0 and tuple(y.shape[1:]) == shape else None


def packed(y: Any, parts: Mapping[str, tuple[int, ...]] | None) -> Any:
    """Observations {name: values} of a model of named ``parts``, side by side, (B, D), or (D,) of one; others as given.

    CSBError for a name that is missing or unknown, and parts of other shapes or of different numbers of observations.
    """
    if not isinstance(y, Mapping):
        return y
    if parts is None:
        raise CSBError(f"y has the parts {', '.join(map(str, y))} and was one array in training; give one array")
    if odd := [name for name in (*y, *parts) if name not in parts or name not in y]:
        what = "lacks the part" if odd[0] in parts else "has an unknown part"
        raise CSBError(f"y {what} {odd[0]!r:.80}; give {', '.join(parts)}")
    found: list[tuple[Tensor, bool]] = []
    for name, shape in parts.items():
        values = numbers_of(name, y[name])
        if (one := batched(values, shape)) is None:
            given = tuple(values.shape)
            raise CSBError(f"{name} of y has shape {given}; expected {shape} or a batch (B, {str(shape)[1:]}")
        found.append(one)
    if len({len(values) for values, _ in found}) > 1:
        counts = ", ".join(f"{len(values)} {name}" for name, (values, _) in zip(parts, found))
        raise CSBError(f"y holds {counts}; give one of each for every observation")
    flat = torch.cat([values.flatten(1) for values, _ in found], 1)
    return flat[0] if all(single for _, single in found) else flat


def check_observations(
    y: Observed,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    any_units: bool,
    missing: bool = False,
    parts: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Tensor, bool]:
    """Return y, or {name: values} of ``parts``, as a batch (B, *shape), and whether it was a single observation.

    CSBError where y is not made of numbers, of another shape, empty, infinite, or NaN where nothing may be ``missing``.
    """
    y = as_floats("y", packed(y, parts), shape, device, dtype, any_units)
    found = batched(y, shape)
    if found is None or len(found[0]) == 0:
        expected = f"y has shape {tuple(y.shape)}; expected {shape} or a batch (B, {str(shape)[1:]}"
        expected += f", or its parts {{name: …}}: {', '.join(parts)}" if parts else ""
        raise CSBError(expected if found is None else "y holds no observation; pass at least one")
    remedy = "pass finite observations; of which values may be missing, train with training.missing=0.5"
    require_present("y", found[0], remedy, missing)
    return found


def warn_far(transform: Transform, y: Tensor) -> None:
    """Warn once where checked observations lie far outside what training saw."""
    if len(far := transform.is_far(y).nonzero()):
        logger.warning(
            "%d of %d observations lie far outside those of the training, the first is number %d: what is drawn there "
            "is a guess; check its values and units",
            len(far), len(y), int(far[0]),
        )  # fmt: skip


def require_finite(
    name: str, values: Tensor, remedy: str = "check the values and units of y", reach: float = math.inf
) -> None:
    """Raise CSBError that names the first observation of values (B, …) that are not finite, or not below ``reach``."""
    if len(bad := (~(values.abs() < reach)).flatten(1).any(1).nonzero()):
        raise CSBError(
            f"{name} diverged: its states are not finite, or out of float32's reach, at observation {int(bad[0])}; "
            f"{remedy}"
        )


@contextlib.contextmanager
def call_bar(total: int, show: bool) -> Iterator[Callable[[object], None]]:
    """Show a bar over ``total`` network calls on standard error; calling what it gives counts one."""
    if not show:
        yield lambda law: None
        return
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("network calls", total=total)
        yield lambda law: bar.advance(task)


class Cost:
    """What :func:`measured` fills in, as in :class:`SampleInfo`."""

    seconds: float = 0.0
    peak_memory: int | None = None


@contextlib.contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measure wall time and peak memory of drawing on a device. CSBError where an array does not fit into memory."""
    cost = Cost()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    before, start = memory(device), time.perf_counter()
    try:
        yield cost
    except (MemoryError, RuntimeError, TypeError) as error:  # a TypeError of a size that no integer of torch's holds
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory|verflow", str(error)):
            raise
        reported = in_one_line(error, 120)
        raise CSBError(f"the memory of {device} does not hold all of it at once ({reported}); draw fewer") from error
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cost.seconds = time.perf_counter() - start
    after = memory(device)
    if before is not None and after is not None and after.peak > before.peak:
        cost.peak_memory = after.peak - before.now


class Memory(NamedTuple):
    """Bytes in use, and the highest mark so far."""

    now: int
    peak: int


def memory(device: torch.device) -> Memory | None:
    """Return memory in use: the CUDA allocator's on GPUs, the process's resident set on Linux; None elsewhere."""
    if device.type == "cuda":
        return Memory(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        found = dict(re.findall(rb"^(VmRSS|VmHWM):\s*(\d+) kB", Path("/proc/self/status").read_bytes(), re.MULTILINE))
        return Memory(int(found[b"VmRSS"]) * 1024, int(found[b"VmHWM"]) * 1024)


def reset_peak(device: torch.device) -> None:
    """Set the highest mark back to what is in use, where the system allows it: for whoever owns the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # GNU's C library: unused memory would raise no mark
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # man 5 proc
