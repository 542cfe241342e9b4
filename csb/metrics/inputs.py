"""What the metrics take: checked posterior samples, truths, masks, and the weights of weighted samples.

Log-weights are natural logarithms of weights of sum 1, as in :class:`csb.bridge.samples.Samples`; −∞ is a sample that
does not count, None gives all samples the same weight.
"""

import math

import numpy as np
import torch
from torch import Generator, Tensor

from csb.errors import CSBError
from csb.numbers import as_numbers
from csb.process.resampling import invert

ALONE = 1e-8  # 1 − Σw² below this: one sample has all the weight, and nothing is known about the spread
_SUM = 1e-4  # how far float32 log-weights may be from the sum 1


def finite(name: str, x: Tensor) -> Tensor:
    """x, detached. CSBError where it is no array of real numbers, empty or not finite."""
    x = as_numbers(name, x)
    bad = x.numel() - int(torch.isfinite(x).sum())
    if bad or not x.numel():
        raise CSBError(f"{name} has {bad} NaN or infinite values of {x.numel()}; give finite ones; check its source")
    return x


def selection(mask: Tensor | None, B: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The mask, of ``shape`` for all observations or (B, *shape), as a boolean tensor (B, P); all True for None.

    CSBError for other shapes or types, and where the observations have not as many coordinates each, at least one.
    """
    if mask is None:
        return torch.ones(1, dtype=torch.bool, device=device).expand(B, math.prod(shape))
    try:
        mask = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
    except (TypeError, ValueError) as error:
        raise CSBError(f"mask is {type(mask).__name__}; give True and False in the shape {shape}") from error
    if mask.dtype != torch.bool or tuple(mask.shape) not in (shape, (B, *shape)):
        raise CSBError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}; expected torch.bool of shape {shape} or {(B, *shape)}"
        )
    flat = mask.to(device).expand(B, *shape).flatten(1)
    least, most = flat.sum(1).aminmax()
    if least == 0 or least != most:
        raise CSBError(f"mask selects {int(least)} to {int(most)} coordinates; select as many for each, at least one")
    return flat


def ensembles(
    samples: Tensor, truth: Tensor, mask: Tensor | None = None, log_weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Checked samples (B, n, P) and truth (B, P), in their own dtype, mask (B, P) and weights (B, n), on one device."""
    samples, truth = finite("samples", samples), finite("truth", truth)
    if samples.ndim < 3 or samples.shape[:1] + samples.shape[2:] != truth.shape:
        shapes = f"samples have shape {tuple(samples.shape)}, truth {tuple(truth.shape)}"
        raise CSBError(f"{shapes}; expected (B, n, *shape) and (B, *shape), the same B and shape")
    if samples.shape[1] < 2:
        raise CSBError(f"samples hold n={samples.shape[1]} draws an observation; the scores need at least 2")
    keep = selection(mask, len(truth), tuple(truth.shape[1:]), samples.device)
    return samples.flatten(2), truth.to(samples.device).flatten(1), keep, ensemble_weights(log_weights, samples)


def ensemble_weights(log_weights: Tensor | None, samples: Tensor) -> Tensor:
    """Weights (B, n), float64, of sum 1, for samples (B, n, …). ``log_weights``: (B, n), (n,) for all B, or None."""
    B, n = samples.shape[:2]
    return _weights("log_weights", log_weights, ((B, n), (n,)), samples.device).expand(B, n)


def cloud_weights(name: str, log_weights: Tensor | None, cloud: Tensor) -> Tensor:
    """Weights (n,), float64, of sum 1, for a point cloud (n, …); ``name`` is that of the argument, for errors."""
    return _weights(name, log_weights, ((len(cloud),),), cloud.device)


def _weights(
    name: str, log_weights: Tensor | None, shapes: tuple[tuple[int, ...], ...], device: torch.device
) -> Tensor:
    """exp of log-weights of one of the shapes (…, n), float64, made to sum to 1; equal weights (n,) for None."""
    if log_weights is None:
        n = shapes[0][-1]
        return torch.full((n,), 1 / n, dtype=torch.float64, device=device)
    log_weights = as_numbers(name, log_weights)
    if tuple(log_weights.shape) not in shapes:
        raise CSBError(f"{name} has shape {tuple(log_weights.shape)}; expected {' or '.join(map(str, shapes))}")
    w = log_weights.double().exp()
    total = w.sum(-1, keepdim=True)
    if not bool(((total - 1).abs() <= _SUM).all()):
        worst = float(total.flatten()[(total - 1).abs().argmax()])
        raise CSBError(f"{name} has weights of sum {worst:.6g}; expected 1; subtract logsumexp over the samples")
    return (w / total).to(device)


def concentration(w: Tensor) -> float:
    """Σw² = 1/n_eff of weights (n,); exactly 1 where one sample has (nearly) all the weight."""
    square = float(w.square().sum())
    return 1.0 if 1 - square < ALONE else square


def ratio(a: float, b: float) -> float:
    """a/b; ∞ for b = 0, NaN for 0/0."""
    return a / b if b else (math.inf if a else math.nan)


def pairs_share(w: Tensor) -> float:
    """1/(1 − Σw²), by which sums over pairs i ≠ j become means; 0 where one sample has all the weight."""
    alone = concentration(w)
    return 0.0 if alone == 1 else 1 / (1 - alone)


def systematic(w: Tensor, n: int, offset: float) -> Tensor:
    """Systematic resampling: n indices (int64, ascending), at the levels (i + offset)/n of the cumulated weights."""
    levels = (torch.arange(n, dtype=w.dtype, device=w.device) + offset) / n
    return invert(w[None], levels[None])[0]


def uniform(generator: Generator, *shape: int, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1), float64, drawn where the generator lives and moved to ``device``."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).to(device)


def posterior_mean(samples: Tensor, log_weights: Tensor | None = None) -> Tensor:
    """The mean of each observation's samples (B, n, *shape), weighted by (B, n) or (n,): (B, *shape), float64."""
    w, x = ensemble_weights(log_weights, samples), finite("samples", samples).flatten(2)
    return torch.stack([v @ s.double() for v, s in zip(w, x)]).view(len(x), *samples.shape[2:])
