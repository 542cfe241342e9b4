"""Pictures and diagnostics while a bridge is trained."""

from collections import deque

import torch
from torch import Tensor

from csb.bridge import Bridge, Direction
from csb.evaluation.metrics import sliced_wasserstein
from csb.evaluation.pictures import posterior_grid, posterior_scatter
from csb.problems import Pairs
from csb.process import seeded
from csb.run.config import RunConfig
from csb.run.logs import Logs
from csb.training.plan import HalfStep, plan

_PICTURE, _DIAGNOSTICS = 11, 12  # keys of the random streams
_STATES = 1000  # held-out pairs for the diagnostics


class RunObserver:
    """Implements :class:`csb.training.callbacks.Observer` for a run.

    Args:
        run: the configuration.
        val: held-out pairs.
        logs: where pictures go besides ``pictures/``.
    """

    def __init__(self, run: RunConfig, val: Pairs, logs: Logs) -> None:
        self.run, self.val, self.logs = run, val, logs
        self.plan = plan(run.ipf)

    def _step(self, half_step: HalfStep, step: int) -> int:
        return sum(h.steps for h in self.plan[: half_step.index]) + step

    def within(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        """A picture of posterior samples; none while the forward kernels are fitted, which do not change them."""
        if half_step.direction == "backward" and step < half_step.steps:
            self._picture(bridge, half_step, step)

    def after(self, bridge: Bridge, half_step: HalfStep) -> dict[str, float]:
        """A picture, and how far both ends are from what they must be."""
        self._picture(bridge, half_step, half_step.steps)
        return end_distances(bridge, self.val, self.run.seed) | drift_norm(bridge, half_step, self.val, self.run.seed)

    def _picture(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        rows = self.run.metrics.picture_rows
        x, y = self.val.x[:rows], self.val.y[:rows]
        generator = seeded(self.run.seed, _PICTURE, device=bridge.device)
        image = self.run.problem.is_image
        samples = bridge.sample(y, 32 if image else 1000, generator=generator).x.cpu()
        path = self.run.folder / "pictures" / f"{half_step.name}_{step:06d}.png"
        title = (
            f"{self.run.problem.name}: {half_step.direction} half-step of iteration {half_step.iteration}, step {step}"
        )
        if image:
            posterior_grid(path, x, y, samples, title)
        else:
            posterior_scatter(path, y, samples, self._exact(y), x, title)
        self.logs.picture("samples", path, self._step(half_step, step))

    def _exact(self, y: Tensor) -> Tensor | None:
        if not self.run.problem.has_exact_posterior:
            return None
        laws = [self.run.problem.posterior(one) for one in y]
        return torch.stack([law.sample(1000, seeded(self.run.seed, _PICTURE, i)) for i, law in enumerate(laws)])


@torch.no_grad()
def end_distances(bridge: Bridge, val: Pairs, seed: int) -> dict[str, float]:
    """Sliced Wasserstein distances of both ends on held-out pairs, in state space.

    x0_distance: B run from N(0, I) for the pairs' observations, against the pairs' states. xT_distance: F run from the
    pairs' states, against N(0, I). The floors are the same distances between two independent sets of the right law.
    """
    x, y = val.x[: 2 * _STATES].to(bridge.device), val.y[: 2 * _STATES].to(bridge.device)
    half = len(x) // 2
    z, c = bridge.transform.encode_x(x), bridge.transform.encode_y(y)
    generator = seeded(seed, _DIAGNOSTICS, device=bridge.device)

    def run(direction: Direction, start: Tensor) -> Tensor:
        steps = bridge.walk(direction, start, bridge.codes(direction, c[:half], half), 1, generator, half)
        return deque(steps, maxlen=1)[0][0]

    def distance(a: Tensor, b: Tensor) -> float:
        return sliced_wasserstein(a.flatten(1).cpu(), b.flatten(1).cpu(), seeded(seed, _DIAGNOSTICS, 1))

    noise = [torch.randn(z[:half].shape, device=z.device, generator=generator) for _ in range(3)]
    return {
        "x0_distance": distance(run("backward", noise[0]), z[:half]),
        "x0_floor": distance(z[half : 2 * half], z[:half]),
        "xT_distance": distance(run("forward", z[:half]), noise[1]),
        "xT_floor": distance(noise[2], noise[1]),
    }


@torch.no_grad()
def drift_norm(bridge: Bridge, half_step: HalfStep, val: Pairs, seed: int) -> dict[str, float]:
    """The root mean square of the trained direction's drift (mean − x)/β_k along its own trajectories."""
    x, y = val.x[:_STATES].to(bridge.device), val.y[:_STATES].to(bridge.device)
    z, c = bridge.transform.encode_x(x), bridge.transform.encode_y(y)
    generator = seeded(seed, _DIAGNOSTICS, 2, device=bridge.device)
    direction, T = half_step.direction, bridge.grid.T
    state = z if direction == "forward" else torch.randn(z.shape, device=z.device, generator=generator)
    total, order = 0.0, range(1, T + 1) if direction == "forward" else range(T, 0, -1)
    steps = bridge.walk(direction, state, bridge.codes(direction, c, len(c)), 1, generator, len(c))
    for k, (after, law) in zip(order, steps):
        total += float((((law.mean - state) / bridge.grid.beta[k].item()) ** 2).mean())
        state = after
    return {"drift_norm": (total / T) ** 0.5}
