"""A training that goes wrong: where the first number that is not finite appears, and when a loss counts as exploded."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from csb.errors import CSBError

BLOCK, LAST = 50, 5  # steps whose median loss is looked at: to stop, and before a checkpoint is written
EXPLODED = 1000.0  # multiple of max(1, |lowest median|) by which a median above the lowest counts as exploded
REMEDY = (
    "the last good state is kept: give resume=true optimizer.retries=1 to go on from it with a lower learning rate, or "
    "train again with a lower optimizer.lr or a higher variance floor"
)


class Diverged(CSBError):
    """A number that is not finite, or an exploded loss: other learning rates may get further from the same state."""


class LossWatch:
    """Tells an exploded loss: half of the last steps are far above the lowest earlier median, or the first loss.

    Far is 1000·max(1, |lowest|). A negative log-likelihood is one a coordinate, so it takes errors of 45 standard
    deviations in every coordinate of half the states of a batch, in half of the steps: single bad batches never count.

    Args:
        losses: of all steps of the fit so far, a list that grows; the verdict is a function of it alone.
    """

    def __init__(self, losses: list[float]) -> None:
        self.losses, self.lowest, self.seen = losses, math.inf, 0

    def exploded(self, last: int) -> str | None:
        """How far the median of so many last losses is above the lowest of a block; None where it is not far."""
        losses = self.losses
        for end in range(self.seen + BLOCK, len(losses) + 1, BLOCK):
            self.lowest, self.seen = min(self.lowest, statistics.median(losses[end - BLOCK : end])), end
        if len(losses) < last:
            return None
        lowest, median = min(self.lowest, losses[0]), statistics.median(losses[-last:])
        if median > lowest + EXPLODED * max(1.0, abs(lowest)):
            return f"the median of the last steps is {median:.4g}, the lowest before was {lowest:.4g}"
        return None

    def check(self, last: int, where: str) -> None:
        """Raise Diverged where so many last losses count as exploded; ``where`` is the place in the training."""
        if (found := self.exploded(last)) is not None:
            raise Diverged(f"the loss exploded in {where}: {found}; {REMEDY}")


def not_finite(loss: float, where: str, model: nn.Module, batch: Any) -> CSBError:
    """The error of a loss or a gradient that is not finite, with the first array and rows in which it shows.

    Args:
        loss: of the batch.
        where: of the training.
        model: with the weights that gave the loss, and their gradients.
        batch: the batch, a named tuple.
    """
    what = "the gradient is not finite" if math.isfinite(loss) else f"the loss became {loss}"
    if (found := first_bad(batch, "batch")) is not None:
        return CSBError(
            f"{what} in {where}: already the data of its batch are not finite, first in {found}; fix the data and "
            f"train again"
        )
    weights = dict(model.named_parameters())
    gradients = {name: weight.grad for name, weight in weights.items()} if math.isfinite(loss) else {}
    first = "what the network makes of finite weights and data"
    for kind, values in (("weights", weights), ("gradient of", gradients)):
        if (found := first_bad(values, "")) is not None:
            first = f"the {kind} {found}"
    return Diverged(f"{what} in {where}, first in {first}; {REMEDY}")


def first_bad(value: Any, name: str) -> str | None:
    """The first floating-point tensor in a nest with numbers that are not finite, and their rows; None without any."""
    if isinstance(value, Tensor):
        rows = _rows(value) if value.is_floating_point() else None
        return rows and f"{name}, {rows}"
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # type: ignore[attr-defined]
    elif isinstance(value, list | tuple):
        value = dict(enumerate(value))
    parts = value.items() if isinstance(value, Mapping) else ()
    found = (first_bad(part, f"{name}.{key}" if name else str(key)) for key, part in parts)
    return next((one for one in found if one is not None), None)


def _rows(tensor: Tensor, most: int = 5) -> str | None:
    """The rows of a tensor whose numbers are not all finite, in words; None where all are."""
    finite = torch.isfinite(tensor.detach())
    if bool(finite.all()):
        return None
    if tensor.ndim == 0:
        return "a single number"
    rows = (~finite.flatten(1).all(1) if tensor.ndim > 1 else ~finite).nonzero()[:, 0].tolist()
    shown = ", ".join(map(str, rows[:most])) + (", …" if len(rows) > most else "")
    return f"{'row' if len(rows) == 1 else 'rows'} {shown} of {len(tensor)}"
