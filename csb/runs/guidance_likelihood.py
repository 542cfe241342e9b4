"""The likelihood that guides the samplers of a run: of additive noise, of exact classes, or of a trained classifier."""

import hashlib
import logging
from pathlib import Path

import torch
from torch import Tensor

from csb.dtypes import float32_layers
from csb.errors import CSBError
from csb.files import SUFFIX, load_state, model_file, save_state
from csb.networks.diffusion import Denoiser
from csb.networks.digit_guide import DigitGuide
from csb.problems import AdditiveNoise, ClassProblem, MixtureClass, MnistClass, Pairs, Problem, Simulated
from csb.samplers import ClassLikelihood, GaussianLikelihood, GuidanceLikelihood
from csb.samplers.likelihood import z_variance_of
from csb.training import digit_guide as training

NAME = "guide"  # of the file
_TRAIN = 5_000  # training pairs behind the guidance likelihood's scales
_HELD_OUT = 2_000  # digits that the temperature, and the figures, are computed on
logger = logging.getLogger(__name__)


def can_be_guided(problem: Problem) -> bool:
    """Whether there is a likelihood p(y | x) to guide a denoiser with."""
    return isinstance(problem, AdditiveNoise | ClassProblem)


def guidance_likelihood_of(
    problem: Problem, denoiser: Denoiser, folder: Path, min_std: float, seed: int
) -> GuidanceLikelihood:
    """The guidance likelihood of a problem: for MNIST's classes, of the classifier in ``folder``, trained where need
    be.

    CSBError for a problem that has no likelihood.
    """
    count = _TRAIN if isinstance(problem, Simulated) else min(_TRAIN, problem.sizes["train"])
    train = problem.pairs("train", count)
    if not isinstance(problem, ClassProblem):
        return GaussianLikelihood.of(problem, denoiser, train, min_std)
    z_variance = z_variance_of(denoiser, train.x)
    if isinstance(problem, MixtureClass):
        return ClassLikelihood.of(problem, lambda x, _: problem.log_probabilities(x), z_variance)
    if not isinstance(problem, MnistClass):
        raise CSBError(f"{problem.name} has no classifier to guide with; choose baselines=none")
    model = digit_guide(problem, denoiser, folder, seed)

    def log_probabilities(x: Tensor, alpha_bar: float) -> Tensor:
        return model(x.float(), torch.full((len(x),), alpha_bar, dtype=torch.float32, device=x.device))

    return ClassLikelihood.of(problem, log_probabilities, z_variance)


def digit_guide(problem: MnistClass, denoiser: Denoiser, folder: Path, seed: int) -> DigitGuide:
    """The classifier for a denoiser: that of ``folder/guide.safetensors``, or one trained now and written there.

    The file holds tensors and what the classifier reaches on test digits; one that was made for another denoiser, or is
    damaged, is replaced.
    """
    path, made_for = model_file(folder, NAME), _fingerprint(denoiser)
    if path.exists() and (found := _stored(path, made_for)) is not None:
        return found.to(denoiser.shift.device)
    logger.info("the classifier that guides to a digit is trained now, once: about ten minutes on a CPU core")
    train = problem.pairs("train")
    model = training.train_guide(train.x, _labels(train), denoiser, seed=seed)
    val, test = (problem.first(split, _HELD_OUT) for split in ("val", "test"))
    temperature = training.calibrate(model, val.x, _labels(val), denoiser, seed)
    figures = training.guide_figures(model, test.x, _labels(test), denoiser, seed)
    text = "; ".join(f"{row['accuracy']:.2%} at ᾱ = {row['alpha_bar']:g}" for row in figures)
    logger.info("the guiding classifier reads test digits, denoised: %s; temperature %.2f", text, temperature)
    save_state(folder / f"{NAME}{SUFFIX}", {"denoiser": made_for, "figures": figures, "state": model.state_dict()})
    return model


def _labels(pairs: Pairs) -> Tensor:
    assert pairs.labels is not None
    return pairs.labels


def _fingerprint(denoiser: Denoiser) -> str:
    """SHA-256 of a denoiser's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(denoiser.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _stored(path: Path, made_for: str) -> DigitGuide | None:
    """The classifier of a file, or None, with a warning, where it cannot be used."""
    with float32_layers():
        model = DigitGuide()
    try:
        content = load_state(path)
        if content["denoiser"] != made_for:
            logger.warning("%s was made for another denoiser; training it again", path)
            return None
        model.load_state_dict(content["state"])
    except Exception as error:  # whatever a damaged file raises: it is only a cache
        logger.warning("%s is no guiding classifier (%s); training it again", path, type(error).__name__)
        return None
    return model.eval().requires_grad_(False)
