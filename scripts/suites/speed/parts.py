"""What half-steps, caches and sampling of the shipped trainings take."""

import tempfile
from pathlib import Path
from typing import Any

from csb.bridge.objectives import OBJECTIVES
from csb.training.pairs import bytes_per_trajectory, capacity, fill
from csb.training.settings import TrainingSettings
from csb.training.stage import Setup
from csb.training.trainer import BridgeTrainer
from suites.speed.recipes import Recipe
from suites.timing import sampling_overhead

_FEW = 32  # trajectories whose bytes are counted


def _shrunk(training: TrainingSettings, L: int, by: int) -> TrainingSettings:
    """Half-steps of fewer steps, trajectories and steps a round, in the same proportions, without early stopping."""
    steps, refresh, trajectories = (max(1, n // by) for n in (training.steps, training.refresh, training.trajectories))
    return training.replace(
        L=L, first_steps=steps, steps=steps, refresh=refresh, trajectories=trajectories, last_forward=True,
        patience=0, inflate=False, select="last",
    )  # fmt: skip


def half_steps(recipe: Recipe, L: int, shrink: int) -> list[dict[str, Any]]:
    """A row for each half-step of a real training of L iterations, shortened ``shrink`` times.

    ``fill_share``: cache filling as a share of the half-step's time, both as long as each other's shortening; seconds:
    since the training's start.
    """
    run = recipe.run
    training = _shrunk(run.training, L, shrink)
    with tempfile.TemporaryDirectory() as folder:
        trainer = BridgeTrainer(
            recipe.bridge(), run.objective, recipe.pairs(max(training.trajectories, training.batch_size)),
            training, Setup(Path(folder), run.optimizer, run.device, run.seed, bar=False),
        )  # fmt: skip
        history = trainer.run(resume=False).history
    keys = ("half_step", "iteration", "fill_share", "seconds")
    return [{"recipe": recipe.name, "steps": training.steps, **{key: row[key] for key in keys}} for row in history]


def cache_sizes(recipe: Recipe) -> list[dict[str, Any]]:
    """A row for each objective: bytes of a trajectory as counted and as budgeted, and MiB of the recipe's cache."""
    rows = []
    T, training = recipe.run.grid.T, recipe.run.training
    bridge = recipe.bridge().eval()
    for name in OBJECTIVES:
        objective = OBJECTIVES[name]()
        cache = fill(bridge, "forward", objective, recipe.pairs(_FEW), _FEW, (0,))
        counted = sum(tensor.nbytes for tensor in cache.tensors)
        each = bytes_per_trajectory(recipe.transform, T, objective, training.missing)
        held = capacity(each, training.trajectories, training.cache_bytes)
        rows.append(
            {
                "recipe": recipe.name, "objective": name, "T": T, "bytes_counted": counted / _FEW,
                "bytes_budgeted": each, "trajectories": held, "cache_mib": held * each / 2**20,
            }
        )  # fmt: skip
    return rows


def sampling(recipe: Recipe, states: int, repeats: int) -> dict[str, Any]:
    """Sampling ``states`` of 16 observations, or fewer, against its bare network calls."""
    observations = min(16, states)
    y = recipe.observations(observations)
    return {"recipe": recipe.name, **sampling_overhead(recipe.bridge().eval(), y, states // observations, repeats)}
