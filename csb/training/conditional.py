"""Training of the amortized baselines of a bridge, a conditional score and a flow, on the bridge's own pairs.

See :mod:`csb.training.regression` for the losses and :mod:`csb.networks.diffusion` for the models.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from csb.bridge.checkpoint import save
from csb.networks.diffusion import FlowNetwork, ScoreNetwork
from csb.training.bar import Metrics
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.regression import (
    Examples,
    Regression,
    RegressionSettings,
    diffusion_path,
    flow_path,
    train_regression,
)
from csb.training.settings import DeviceSettings, OptimizerSettings


class ConditionalSettings(RegressionSettings):
    """How a score or a flow is trained; ``alpha_bar_end`` is the score's."""

    group = "amortized"


def train_conditional(
    model: ScoreNetwork | FlowNetwork,
    pairs: EncodedPairs | tuple[Tensor, Tensor],
    folder: Path,
    settings: ConditionalSettings,
    optimizer: OptimizerSettings,
    device: DeviceSettings,
    seed: int,
    fingerprint: dict[str, Any],
    about: dict[str, Any],
    resume: bool = False,
    log: Callable[[Metrics, int], None] = lambda metrics, step: None,
    bar: bool = True,
) -> None:
    """Fits the model to encoded pairs and writes ``<kind>.safetensors``; ``<kind>_state.pt`` holds the way there.

    Args:
        model: with initial weights; changed in place. A score brings the schedule that it is trained on.
        pairs: encoded; or z (N, *z_shape) and c (N, *c_shape), on the CPU.
        fingerprint: plain data; a resumed training must have the same.
        about: plain data that goes with the file, to which the seconds and steps of the training are added.

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """

    def predict(batch: Examples) -> Tensor:
        return model.velocity(batch.z, batch.level, model.encode(batch.c))

    path = diffusion_path(model.schedule) if isinstance(model, ScoreNetwork) else flow_path
    task = Regression(
        model.kind,
        model,
        predict,
        as_pairs(pairs),
        path,
        lambda reported: save(model, folder / f"{model.kind}.safetensors", {**about, **reported}),
    )
    train_regression(task, folder, settings, optimizer, device, seed, fingerprint, resume, log, bar)
