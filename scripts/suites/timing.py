"""What sampling costs beyond its network calls, and how things are timed against each other."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from csb.bridge import Bridge, autocast


def now(device: torch.device) -> float:
    """Seconds on a clock, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved(actions: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """The median seconds of each action.

    The actions are timed in turn (A B C A B C …), so that what else the machine does falls on all of them alike; a
    first round warms up.

    Args:
        actions: by name.
        repeats: timings of each, ≥ 1.
        device: where they work.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats + 1):
        for name, action in actions.items():
            start = now(device)
            action()
            times[name].append(now(device) - start)
    return {name: statistics.median(of[1:]) for name, of in times.items()}


def sampling_overhead(bridge: Bridge, y: Tensor, n: int, repeats: int = 7) -> dict[str, float]:
    """The time of :meth:`Bridge.sample` against T bare calls of the backward network on a batch of the same size.

    The two are timed in turn, ``repeats`` times; the medians are compared.

    Args:
        bridge: in its own precision, on its own device.
        y: (B, *y_shape).
        n: samples an observation; B·n states make one network call.
    """
    network, T, rows = bridge.backward_kernel.network, bridge.grid.T, len(y) * n
    z = torch.randn(rows, *bridge.transform.z_shape, dtype=torch.float32, device=bridge.device)
    c = bridge.transform.encode_y(y.to(bridge.device))

    def bare() -> None:
        with torch.no_grad(), autocast(bridge.precision, bridge.device):
            for k in range(T, 0, -1):
                network(z, torch.tensor([k / T], dtype=z.dtype, device=z.device), context)

    with torch.no_grad(), autocast(bridge.precision, bridge.device):
        context = bridge.contexts("backward", c, rows).repeat_interleave(n, 0)
    actions = {"bare": bare, "sample": lambda: bridge.sample(y, n, batch_size=rows)}
    found = interleaved(actions, repeats, bridge.device)
    sample, calls = found["sample"], found["bare"]
    return {"states": rows, "T": T, "sample_ms": 1e3 * sample, "calls_ms": 1e3 * calls, "ratio": sample / calls}
