"""What sampling costs beyond its network calls."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from csb.bridge import Bridge, autocast


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def sampling_overhead(bridge: Bridge, y: Tensor, n: int, repeats: int = 7) -> dict[str, float]:
    """The time of :meth:`Bridge.sample` against T bare calls of the backward network on a batch of the same size.

    The two are timed in turn, ``repeats`` times; the medians are compared.

    Args:
        bridge: in its own precision, on its own device.
        y: (B, *y_shape).
        n: samples an observation; B·n states make one network call.
    """
    network, T, rows = bridge.backward_kernel.network, bridge.grid.T, len(y) * n
    z = torch.randn(rows, *bridge.transform.z_shape, device=bridge.device)
    c = bridge.transform.encode_y(y.to(bridge.device))

    def bare() -> None:
        with torch.no_grad(), autocast(bridge.precision, bridge.device):
            for k in range(T, 0, -1):
                network(z, torch.tensor([k / T], device=z.device), code)

    with torch.no_grad(), autocast(bridge.precision, bridge.device):
        code = bridge.codes("backward", c, rows).repeat_interleave(n, 0)
    times: dict[str, list[float]] = {"sample": [], "bare": []}
    for _ in range(repeats + 1):  # the first of each warms up
        times["bare"].append(_seconds(bare, bridge.device))
        times["sample"].append(_seconds(lambda: bridge.sample(y, n, batch_size=rows), bridge.device))
    sample, calls = (statistics.median(times[key][1:]) for key in ("sample", "bare"))
    return {"states": rows, "T": T, "sample_ms": 1e3 * sample, "calls_ms": 1e3 * calls, "ratio": sample / calls}
