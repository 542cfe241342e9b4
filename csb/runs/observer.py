"""Pictures and diagnostics while a bridge is trained."""

import torch
from torch import Tensor

from csb.bridge import Bridge
from csb.evaluation.diagnose_figures import HalfStepLosses, loss
from csb.evaluation.diagnostics import drift_norm, end_distances
from csb.evaluation.pictures import draw_samples
from csb.evaluation.style import write_png
from csb.problems import Pairs
from csb.process import Stream, seeded
from csb.runs.config import RunConfig
from csb.runs.logs import Logs
from csb.training.settings import HalfStep, plan


class RunObserver:
    """Implements :class:`csb.training.trainer.Observer` for a run.

    Args:
        run: the configuration.
        val: held-out pairs.
        logs: where pictures go besides ``pictures/``.
        draws: whether there are pictures: a folder that nobody keeps needs none.
    """

    def __init__(self, run: RunConfig, val: Pairs, logs: Logs, draws: bool = True) -> None:
        self.run, self.val, self.logs, self.draws = run, val, logs, draws
        self.plan = plan(run.training)

    def _step(self, half_step: HalfStep, step: int) -> int:
        return sum(h.steps for h in self.plan[: half_step.index]) + step

    def within(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        """A picture of posterior samples; none while the forward kernels are fitted, which do not change them."""
        if self.draws and half_step.direction == "backward" and step < half_step.steps:
            self._picture(bridge, half_step, step)

    def after(self, bridge: Bridge, half_step: HalfStep, losses: list[float]) -> dict[str, float]:
        """A sample picture, the loss curve, and how far both ends are from what they must be."""
        if self.draws:
            self._picture(bridge, half_step, half_step.steps)
            path = self.run.folder / "pictures" / f"{half_step.name}_loss.png"
            write_png(path, loss([HalfStepLosses(half_step=half_step.name, losses=losses)]))
        return end_distances(bridge, self.val, self.run.seed) | drift_norm(
            bridge, half_step.direction, self.val, self.run.seed
        )

    def _picture(self, bridge: Bridge, half_step: HalfStep, step: int) -> None:
        rows = self.run.metrics.picture_rows
        x, y = self.val.x[:rows], self.val.y[:rows]
        generator = seeded(self.run.seed, Stream.PICTURE, device=bridge.device)
        count = 32 if self.run.problem.is_image else 1000
        samples = bridge.sample(y, count, generator=generator).x.cpu()
        path = self.run.folder / "pictures" / f"{half_step.name}_{step:06d}.png"
        title = (
            f"{self.run.problem.name}: {half_step.direction} half-step of iteration {half_step.iteration}, step {step}"
        )
        if draw_samples(path, self.run.problem, x, y, samples, self._exact(y), title) is not None:
            self.logs.picture("samples", path, self._step(half_step, step))

    def _exact(self, y: Tensor) -> Tensor | None:
        if not self.run.problem.has_exact_posterior:
            return None
        laws = [self.run.problem.posterior(one) for one in y]
        return torch.stack([law.sample(1000, seeded(self.run.seed, Stream.PICTURE, i)) for i, law in enumerate(laws)])
