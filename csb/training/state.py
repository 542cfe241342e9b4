"""Progress on disk: one small plain-data file, written atomically, from which a killed run goes on bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from csb.bridge.checkpoint import FORMAT, load, save
from csb.errors import CSBError


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        half_step: index of the running half-step; the number of half-steps when all are done.
        step: optimiser steps done in it.
        weights: the bridge's state_dict.
        average: the moving average's state_dict, None at the start of a half-step.
        optimizer: the optimiser's state_dict, None at the start of a half-step.
        losses: the loss of each step done in it.
        seconds: wall time spent so far.
        history: one dictionary of diagnostics a finished half-step; "seconds" are those since the training's start.
        best: the lowest validation loss of the running half-step: "loss", "step" and the averaged weights "weights".
        stopped: whether the half-step has ended before its last step.
    """

    half_step: int = 0
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] | None = None
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    stopped: bool = False


def save_progress(path: Path, progress: Progress, fingerprint: dict[str, Any]) -> None:
    """Writes the state with the fingerprint of the settings that it belongs to."""
    save(path, {"format": FORMAT, "fingerprint": fingerprint, **vars(progress)})


def load_progress(path: Path, fingerprint: dict[str, Any]) -> Progress:
    """Reads it again. CSBError where it is damaged, or belongs to other settings (named in the message)."""
    data = load(path)
    data.pop("format")
    stored = data.pop("fingerprint")
    differing = sorted(k for k in {*stored, *fingerprint} if stored.get(k) != fingerprint.get(k))
    if differing:
        key = differing[0]
        raise CSBError(
            f"{path.parent} was trained with {key}={stored.get(key)!r}, not {fingerprint.get(key)!r}; resume with the "
            f"same settings or choose another name"
        )
    return Progress(**data)


def to_cpu(tree: Any) -> Any:
    """The same nest of dictionaries and lists with copies of its tensors on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: to_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [to_cpu(value) for value in tree]
    return tree


__all__ = ["Progress", "load_progress", "save_progress", "to_cpu"]
