"""The order of half-steps."""

from dataclasses import dataclass

from csb.bridge import Direction
from csb.training.settings import IPFSettings


@dataclass(frozen=True)
class HalfStep:
    """One fit of one direction's kernels. ``iteration`` counts from 1, ``index`` from 0 over all half-steps."""

    index: int
    iteration: int
    direction: Direction
    steps: int

    @property
    def source(self) -> Direction:
        """The direction of the frozen kernels whose trajectories are fitted."""
        return "forward" if self.direction == "backward" else "backward"

    @property
    def name(self) -> str:
        """E.g. "02_forward", the stem of the half-step's files."""
        return f"{self.index + 1:02d}_{self.direction}"


def plan(settings: IPFSettings) -> list[HalfStep]:
    """Backward, forward, backward, …: 2 L half-steps, or 2 L − 1 without the last forward one."""
    count = 2 * settings.L - (0 if settings.last_forward else 1)
    return [
        HalfStep(i, i // 2 + 1, "forward" if i % 2 else "backward", settings.steps if i else settings.first_steps)
        for i in range(count)
    ]
