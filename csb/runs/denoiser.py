"""The denoiser that goes with a run: exact where it is known, else trained and kept beside the bridge."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csb.bridge.checkpoint import load
from csb.errors import CSBError
from csb.files import model_file, remove_leftovers
from csb.networks.diffusion import Denoiser, DenoiserSpec, MixtureDenoiser, NetworkDenoiser, build_denoiser
from csb.problems import PROBLEMS, GaussianMixture, LinearGaussian, Mixture, MixtureClass, Problem, SbiGaussianLinear
from csb.problems.rows import Moments, Rows
from csb.problems.scale import ROWS, bulk, columns, pool
from csb.runs import provenance
from csb.runs.config import schedule_of
from csb.runs.folder import require_same_pairs
from csb.runs.load import stored_spec
from csb.runs.recipe import flatten
from csb.training.fit import with_gradients
from csb.training.pairs import EncodedPairs
from csb.training.regression import train_by_regression
from csb.training.settings import DenoiserSettings, DeviceSettings, OptimizerSettings
from csb.training.stage import Setup

logger = logging.getLogger(__name__)


def exact_denoiser(problem: Problem) -> Denoiser | None:
    """The denoiser in closed form, or None where there is none."""
    if isinstance(problem, GaussianMixture | MixtureClass | SbiGaussianLinear):
        return MixtureDenoiser(problem.mixture)
    if isinstance(problem, LinearGaussian):
        return MixtureDenoiser(Mixture.isotropic(problem.dx, 1.0))
    return None


def new_denoiser(
    problem: Problem, network: dict[str, Any], data: Rows, alpha_bar_end: float, seed: int
) -> NetworkDenoiser:
    """An untrained denoiser for the x of data: digits from [0, 1] to [−1, 1], of all else the bulk to unit scale."""
    shift, scale = (torch.full(problem.x_shape, 0.5), 0.5) if problem.is_digit else _shift_and_scale(data)
    denoiser = build_denoiser(
        DenoiserSpec(network=network, x_shape=problem.x_shape, scale=scale, alpha_bar_end=alpha_bar_end), seed
    )
    denoiser.shift.copy_(shift)
    return denoiser


def _shift_and_scale(data: Rows) -> tuple[Tensor, float]:
    """Of x: the mean of each number and the root mean square of their standard deviations.

    Where those of a column or channel do not fit its bulk, its median and the width of the bulk.
    """
    numbers, parts = Moments(), Moments()
    for block in data.blocks():
        numbers.update(block.x.flatten(1))
        parts.update(block.x)
    head = data.head(min(ROWS, pool(data.x_shape, data.y_shape))).x
    centre, spread = (v.view(-1, *[1] * (len(data.x_shape) - 1)) for v in bulk(columns(head), parts.mean, parts.std))
    far = spread != parts.std.view_as(spread)
    shift = torch.where(far, centre, numbers.mean.view(data.x_shape))
    std = torch.where(far, spread, numbers.std.view(data.x_shape))
    return shift, float(std.square().mean().sqrt())


@with_gradients()
def train_stage(problem: Problem, config: dict[str, Any], folder: Path, seed: int, resume: bool, bar: bool) -> Denoiser:
    """Trains the denoiser of a problem into ``folder/denoiser.safetensors``, or continues; nothing where it is exact.

    ``config`` is the whole configuration of a training, checked, as plain data.
    """
    if (exact := exact_denoiser(problem)) is not None:
        logger.info("the denoiser of %s is known in closed form; there is nothing to train", problem.name)
        return exact
    network = {"name": config["network"]["name"], **(config["network"].get("options") or {})}
    own = DenoiserSettings.read(config["denoiser"])
    optimizer = OptimizerSettings.read(config["optimizer"])
    device, schedule = DeviceSettings.read(config["trainer"]), schedule_of(config["schedule"])
    problem.prepare()
    remove_leftovers(folder, "denoiser")
    rows = problem.rows("train")
    denoiser = new_denoiser(problem, network, rows, own.alpha_bar_end, seed)
    groups = {name: config[name] for name in ("schedule", "optimizer", "denoiser")}
    groups["trainer"] = device.fingerprint()
    fingerprint = flatten({"problem": problem.record(), "network": network, "seed": seed, **groups})
    del fingerprint["denoiser.checkpoint_every"]  # the training does not depend on it
    about = {"problem": problem.record(), "config": config, "versions": provenance.versions()}
    resumed = resume and model_file(folder, "denoiser_state").exists()
    provenance.record(folder, "denoiser", problem, device.where, device.precision, seed, config, resumed)
    setup = Setup(folder, optimizer, device, seed, fingerprint, about, bar=bar)
    long = schedule.replace(alpha_bar_end=denoiser.alpha_bar_end)
    train_by_regression(denoiser, _states(denoiser, rows), long, own, setup, resume)
    return denoiser


def _states(denoiser: Denoiser, rows: Rows) -> EncodedPairs:
    """The states of x alone, without observations."""
    shift, scale = denoiser.shift.cpu().clone(), denoiser.scale

    def encode(x: Tensor, y: Tensor | None = None) -> Tensor:
        return (x - shift) / scale

    return EncodedPairs(rows, denoiser.x_shape, encode, lambda y: y.new_empty(len(y), 0))


def stored_denoiser(problem: Problem, folder: Path, device: str | torch.device) -> Denoiser | None:
    """The exact denoiser, or the one trained into the folder, or None.

    A denoiser knows nothing of observations: that of another problem with the same prior, e.g. any on MNIST, will do.
    CSBError where it is of another prior.
    """
    if (exact := exact_denoiser(problem)) is not None:
        return exact
    path = model_file(folder, "denoiser")
    if not path.exists():
        return None
    denoiser = load(path, device, NetworkDenoiser)
    about = denoiser.about
    name = stored_spec(about["problem"], path)["name"]
    other = PROBLEMS.get(name)
    shared = other is not None and other.shared_prior != "" and other.shared_prior == problem.shared_prior
    if not (name == problem.name or shared) or denoiser.x_shape != problem.x_shape:
        raise CSBError(f"{path} is a denoiser of {name}, not {problem.name}; remove it")
    if name == problem.name:
        require_same_pairs(folder, about, problem)
    return denoiser
