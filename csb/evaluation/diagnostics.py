"""What a half-step has reached: the laws of both ends, and the size of the drift."""

from collections import deque

import torch
from torch import Tensor

from csb.bridge import Bridge, Direction
from csb.metrics.distances import sliced_wasserstein
from csb.problems import Pairs
from csb.process import Noise, Stream, seeded

_PREIMAGE = 3
_STATES = 1000  # held-out pairs


def _states(bridge: Bridge, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """States that decode to x with observations y, of the law that the bridge is trained on."""
    generator = seeded(seed, Stream.DIAGNOSTICS, _PREIMAGE, device=x.device)
    return bridge.transform.preimage(bridge.transform.encode_x(x, y), generator)


@torch.no_grad()
def end_distances(bridge: Bridge, val: Pairs, seed: int) -> dict[str, float]:
    """Sliced Wasserstein distances of both ends on held-out pairs, in state space.

    x0_distance: B run from N(0, I) for the pairs' observations, against the pairs' states. xT_distance: F run from the
    pairs' states, against N(0, I). The floors are the same distances between two independent sets of the right law.
    """
    x, y = val.x[: 2 * _STATES].to(bridge.device), val.y[: 2 * _STATES].to(bridge.device)
    half = len(x) // 2
    z, c = _states(bridge, x, y, seed), bridge.transform.encode_y(y)
    generator = seeded(seed, Stream.DIAGNOSTICS, device=bridge.device)

    def run(direction: Direction, start: Tensor) -> Tensor:
        draws = Noise(generator, half, start.device)
        steps = bridge.walk(direction, start, bridge.contexts(direction, c[:half], half), draws, half)
        return deque(steps, maxlen=1)[0]

    def distance(a: Tensor, b: Tensor) -> float:
        return sliced_wasserstein(a.flatten(1).cpu(), b.flatten(1).cpu(), seeded(seed, Stream.DIAGNOSTICS, 1))

    noise = [torch.randn(z[:half].shape, dtype=z.dtype, device=z.device, generator=generator) for _ in range(3)]
    return {
        "x0_distance": distance(run("backward", noise[0]), z[:half]),
        "x0_floor": distance(z[half : 2 * half], z[:half]),
        "xT_distance": distance(run("forward", z[:half]), noise[1]),
        "xT_floor": distance(noise[2], noise[1]),
    }


@torch.no_grad()
def drift_norm(bridge: Bridge, direction: Direction, val: Pairs, seed: int) -> dict[str, float]:
    """The root mean square of a direction's drift (mean − x)/β_k along its own trajectories."""
    x, y = val.x[:_STATES].to(bridge.device), val.y[:_STATES].to(bridge.device)
    z, c = _states(bridge, x, y, seed), bridge.transform.encode_y(y)
    generator = seeded(seed, Stream.DIAGNOSTICS, 2, device=bridge.device)
    T = bridge.grid.T
    state = z if direction == "forward" else torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator)
    total, order = 0.0, range(1, T + 1) if direction == "forward" else range(T, 0, -1)
    draws, laws = Noise(generator, len(c), state.device), []
    steps = bridge.walk(direction, state, bridge.contexts(direction, c, len(c)), draws, len(c), after=laws.append)
    for k, after in zip(order, steps):
        total += float((((laws.pop().mean - state) / bridge.grid.beta[k].item()) ** 2).mean())
        state = after
    return {"drift_norm": (total / T) ** 0.5}
