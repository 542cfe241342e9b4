"""Where a training stands, in memory and on disk: plain data, from which a killed run goes on bit for bit."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from csb.errors import CSBError, in_one_line
from csb.files import load_state, save_state
from csb.problems.sources import absolute
from csb.renamed import key_of_today, scores_of_today

FREE = {"optimizer.retries", "training.cache_spill"}  # in which a resumed training may differ; cache_spill is of old
SCORE, EACH = "val_energy_score", "val_energy_each"  # figures of ``calibrate`` by which the best iteration is chosen
_SHOWN = 5  # rows that a message names
SCALED = "val_scaled"  # 1 where they are in units of the spread of x; older versions had them in those of the data
REMEDY = (
    "the last good state is kept: give resume=true optimizer.retries=1 to go on from it with a lower learning rate, or "
    "train again with a lower optimizer.lr or a higher variance floor"
)


class Diverged(CSBError):
    """A number that is not finite, or an exploded loss: other learning rates may get further from the same state."""


def first_bad(value: Any, name: str) -> str | None:
    """Name the first tensor of floats in a nest with numbers that are not finite, and its rows; None without any."""
    if isinstance(value, Tensor):
        if not value.is_floating_point() or bool((finite := torch.isfinite(value.detach())).all()):
            return None
        if value.ndim == 0:
            return f"{name}, a single number"
        bad = (~finite.reshape(len(finite), -1).all(1)).nonzero()[:, 0].tolist()
        shown = ", ".join(map(str, bad[:_SHOWN])) + (", …" if len(bad) > _SHOWN else "")
        return f"{name}, {'row' if len(bad) == 1 else 'rows'} {shown} of {len(value)}"
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # type: ignore[attr-defined]
    elif isinstance(value, list | tuple):
        value = dict(enumerate(value))
    parts = value.items() if isinstance(value, Mapping) else ()
    found = (first_bad(part, f"{name}.{key}" if name else str(key)) for key, part in parts)
    return next((one for one in found if one is not None), None)


@dataclass
class Progress:
    """Where a training stands."""

    half_step: int = 0  # index of the running one; their number when all are done
    step: int = 0  # optimiser steps done in it
    weights: dict[str, Tensor] = field(default_factory=dict)  # the model's state_dict
    average: dict[str, Tensor] | None = None  # the moving average's state_dict, within a half-step
    optimizer: dict[int, Any] | None = None  # its state of each array of weights, within a half-step
    losses: list[float] = field(default_factory=list)  # of each step done in the half-step
    seconds: float = 0.0  # wall time so far
    history: list[dict[str, Any]] = field(default_factory=list)  # diagnostics of each finished half-step
    best: dict[str, Any] | None = None  # lowest validation "loss" of the half-step, its "step" and averaged "weights"
    validated: list[list[float]] = field(default_factory=list)  # [step, loss] of each validation of the half-step
    stopped: bool = False  # whether the half-step has ended before its last step
    retries: list[dict[str, Any]] = field(default_factory=list)  # a record for each return to an earlier state

    def require_finite(self) -> None:
        """Diverged where a number to train on from is not finite."""
        if (found := _first_bad(vars(self))) is not None:
            raise Diverged(f"the state after step {self.step} is not finite, first in {found}; {REMEDY}")


def _first_bad(state: Mapping[str, Any]) -> str | None:
    return first_bad({name: state.get(name) for name in ("weights", "average", "optimizer", "best")}, "")


def save_progress(path: Path, progress: Progress, fingerprint: dict[str, Any]) -> None:
    """Write the state with the fingerprint of its settings. Diverged, and nothing is written, if it is not finite."""
    progress.require_finite()
    save_state(path, {"fingerprint": fingerprint, **vars(progress)})


def load_progress(path: Path, fingerprint: dict[str, Any]) -> Progress:
    """Read a state. CSBError where it is damaged, foreign, or of other settings (named in the message)."""
    data = load_state(path)
    stored = data.pop("fingerprint", None)
    parts = stored, data.get("weights"), data.get("optimizer") or {}
    if not all(isinstance(part, dict) for part in parts) or {*data} - {field.name for field in fields(Progress)}:
        raise CSBError(f"{path} is no state of a training; put the right file back, or train again with overwrite=true")
    if of := _difference(stored, fingerprint):
        raise CSBError(f"{path.parent} was trained {of}")
    if (bad := _first_bad(data)) is not None:
        raise CSBError(f"{path} holds numbers that are not finite, first in {bad}; train again with overwrite=true")
    if (optimizer := data.get("optimizer")) is not None:  # an older version kept all of the optimiser's state_dict
        data["optimizer"] = {int(number): of for number, of in optimizer.get("state", optimizer).items()}
    return Progress(**{**data, "history": scores_of_today(data.get("history", []))})


def _difference(stored: dict[str, Any], now: dict[str, Any]) -> str:
    """The first difference of two fingerprints, in words; "" where there is none.

    Where own pairs lie counts only for an older state, which has no digest of them, and a path as it was given.
    """
    where = now.get("problem.path")
    older = {"optimizer.name": "adamw", "start": "gaussian", "training.missing": 0.0}  # which older states do not name
    stored, now = (
        json.loads(json.dumps(older | {key_of_today(k): v for k, v in one.items()})) for one in (stored, now)
    )
    free = {"problem.path", "problem.x", "problem.y"}
    if "problem.digest" not in stored:
        free = {"problem.digest"}
        spec = {name: stored.get(f"problem.{name}") for name in ("name", "path", "x", "y")}
        found = {f"problem.{name}": value for name, value in absolute(spec).items()}
        stored = {key: found.get(key, value) for key, value in stored.items()}
    differing = sorted(k for k in {*stored, *now} - FREE - free if stored.get(k) != now.get(k))
    differing.sort(key="problem.digest".__eq__)  # what else differs tells more
    if not differing:
        return ""
    if (key := differing[0]) == "problem.digest":
        return (
            f"on other pairs than {where or 'the files'} of now; restore them, or choose overwrite=true or another "
            f"name=…"
        )
    again = "resume with the same settings or choose another name"
    return f"with {key}={stored.get(key)!r}, not {now.get(key)!r}; {again}"


def take_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Give a model the weights of a state_dict. RuntimeError where their names or shapes are others.

    ``load_state_dict`` takes whatever faults it while it copies, as a lack of memory, for a shape that does not fit.
    """
    own = model.state_dict()
    shapes = {name: getattr(value, "shape", None) for name, value in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in own.items()}:
        model.load_state_dict(weights)  # says what does not fit, or knows how it does
        return
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def restore_weights(model: nn.Module, progress: Progress, path: Path) -> None:
    """Give a model the progress's weights. CSBError where they are of another network than the state's file says."""
    try:
        take_weights(model, progress.weights)
    except RuntimeError as error:
        raise CSBError(
            f"{path} does not fit the network ({in_one_line(error)}); it is of another version: train again with "
            f"overwrite=true"
        ) from error


def to_cpu(tree: Any) -> Any:
    """Copy the tensors in a nest of dictionaries and lists to the CPU."""
    return apply_to_collection(tree, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))


def best_iteration(rows: list[dict[str, Any]]) -> int:
    """Return the earliest iteration whose score is not worse than the lowest by more than its standard error.

    Iterations are scored on the same pairs, so the error is that of the mean of the paired differences. Where further
    ones gain nothing that the pairs can show, what they add is the error of their fits. ``rows`` are of the history;
    those in other units than the last one's, of a training that an older version began, take no part.
    """
    rows = [row for row in rows if row.get(SCALED) == rows[-1].get(SCALED)]
    best = min(rows, key=lambda row: row[SCORE])

    def error(row: dict[str, Any]) -> float:
        each, lowest = row.get(EACH), best.get(EACH)
        if not each or not lowest or not len(each) == len(lowest) > 1:
            return 0.0
        own, other = torch.tensor([each, lowest], dtype=torch.float64)
        return float((own - other).std()) / math.sqrt(len(each))

    return next(int(row["iteration"]) for row in rows if row[SCORE] <= best[SCORE] + error(row) or row is best)


def chosen_iteration(history: list[dict[str, Any]]) -> int:
    """Return that which the run's bridge file holds: of scored iterations the best, else the last."""
    scored = [row for row in history if SCORE in row]
    return best_iteration(scored) if scored else int(history[-1]["iteration"])


def end_figures(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the diagnostics of the chosen iteration's backward half-step; empty without a history."""
    rows = [row for row in history if row["direction"] == "backward"]
    return next((row for row in rows if row["iteration"] == chosen_iteration(rows)), {}) if rows else {}
