"""The diagnosis of a run's bridge on its own held-out pairs, parameter by parameter, with the parameters' names."""

from typing import Any

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.evaluation.diagnose import Diagnosis, diagnose
from csb.problems import Pairs
from csb.runs.load import Run

_PRIOR = 5000  # draws of the prior, and of the posterior of one observation, in the corner plot


def names_of(run: Run) -> list[str]:
    """The names of the coordinates of a vector x, as given or x0, x1, ….  CSBError for images."""
    shape = run.bridge.transform.x_shape
    if len(shape) != 1:
        raise CSBError(f"x of shape {shape} is an image, whose pixels have no names; use run.evaluate()")
    given = run.config.get("names") or []
    return [str(name) for name in given] or [f"x{i}" for i in range(shape[0])]


def losses_of(run: Run) -> list[dict[str, Any]]:
    """The losses of each half-step, as :class:`csb.evaluation.diagnose_figures.HalfStepLosses` has them."""
    return [{"half_step": row["half_step"], **row["curve"]} for row in run.history if "curve" in row]


def diagnose_run(run: Run, test: Pairs, samples: Tensor, generator: torch.Generator, seed: int) -> Diagnosis:
    """Diagnose samples (B, n, d) of the run's bridge for held-out pairs.

    The corner plot is of the first pair, with more samples, drawn with the generator. CSBError for images, and for
    fewer than 10 pairs.
    """
    first = run.bridge.sample(test.y[0], _PRIOR, generator=generator).x.cpu()
    return diagnose(
        samples, test.x, prior=run.problem.first("train", _PRIOR).x, names=names_of(run),
        observed=(first, test.x[0]), losses=losses_of(run), seed=seed,
    )  # fmt: skip
