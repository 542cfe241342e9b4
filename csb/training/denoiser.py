"""Training of a denoiser of the prior p(x), which the guided samplers need and the bridge does not.

See :mod:`csb.training.regression`: a diffusion on the run's schedule, with a horizon long enough to start from N(0, I).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from csb.bridge.checkpoint import save
from csb.networks.diffusion import NetworkDenoiser
from csb.process import Schedule
from csb.training.bar import Metrics
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.regression import Regression, RegressionSettings, diffusion_path, train_regression
from csb.training.settings import DeviceSettings, OptimizerSettings


class DenoiserSettings(RegressionSettings):
    """How a denoiser is trained."""

    group = "denoiser"


def train_denoiser(
    denoiser: NetworkDenoiser,
    z_0: EncodedPairs | Tensor,
    schedule: Schedule,
    folder: Path,
    settings: DenoiserSettings,
    optimizer: OptimizerSettings,
    device: DeviceSettings,
    seed: int,
    fingerprint: dict[str, Any],
    about: dict[str, Any],
    resume: bool = False,
    log: Callable[[Metrics, int], None] = lambda metrics, step: None,
    bar: bool = True,
) -> NetworkDenoiser:
    """Fits the denoiser to z_0 (N, *x_shape) and writes ``denoiser.safetensors``, on the way ``denoiser_state.pt``.

    Args:
        denoiser: with initial weights, and the horizon that it is trained on; changed in place.
        z_0: encoded training data, on the CPU: states alone, or pairs whose observations are not looked at.
        schedule: of the bridge; its horizon is replaced by the denoiser's.
        fingerprint: plain data; a resumed training must have the same.
        about: plain data that goes with the file.

    Raises:
        CSBError: a state of other settings, a full disk, a diverging loss.
    """
    task = Regression(
        "denoiser",
        denoiser,
        lambda batch: denoiser.velocity(batch.z, batch.level),
        as_pairs(z_0),
        diffusion_path(schedule.with_horizon(denoiser.alpha_bar_end)),
        lambda reported: save(denoiser, folder / "denoiser.safetensors", about),
    )
    train_regression(task, folder, settings, optimizer, device, seed, fingerprint, resume, log, bar)
    return denoiser
