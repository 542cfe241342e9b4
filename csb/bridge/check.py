"""Is an observation unlike those of the training? Its distance from them in the embedding, against held-out ones.

The embedding is the context that the backward network's encoder makes of y. It is projected on the leading principal
directions of training contexts and divided by their standard deviations there, with a ridge; the length of what the
directions leave over is one more number, so that nothing far away is overlooked. The distance is the mean one to the
nearest training contexts (Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors"). Mahalanobis's
(Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks") is as
good where contexts are nearly Gaussian, and weaker where they lie on a curve or in parts. A change of y that the
encoder has learned to ignore, as it does not bear on x, is seen less well than in y itself.

Held-out observations served neither the network nor the projection. So, of an observation of the same law, its rank
among them is uniform and p = (1 + #{held-out at least as far})/(n + 1) a valid p-value (Vovk et al. 2005, "Algorithmic
learning in a random world"), whatever the encoder does.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.process import Stream, seeded

MOST = 1000  # training contexts, held-out ones, and observations of a set that are compared
UNUSUAL = 0.01  # p-values below it are warned of
FEWEST_OF_SET = 10
_DIRECTIONS, _NEAREST, _RIDGE = 64, 5, 0.01  # the ridge in units of the mean variance of a coordinate
_PERMUTATIONS = 499
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """How usual B observations are.

    Attributes:
        p: (B,), in [1/(n + 1), 1] for n held-out observations, 1,000 at most: uniform for observations as in training.
        distance: (B,), from training contexts, in their standard deviations; infinite where the context is not finite.
        set_p: of all B together, in [0.002, 1]: of the hypothesis that they follow the law of the held-out ones. None
            for less than 10 of either.
    """

    p: Tensor
    distance: Tensor
    set_p: float | None


@dataclass(frozen=True)
class ContextReference:
    """What contexts are compared with; float32, on the CPU.

    Attributes:
        mean: (d,), of training contexts.
        directions: (d, r), orthonormal.
        scale: (r + 1,), of the projections and of the rest.
        training: (m, r + 1), features of training contexts.
        held_out: (n, r + 1), those of held-out ones.
    """

    mean: Tensor
    directions: Tensor
    scale: Tensor
    training: Tensor
    held_out: Tensor

    @classmethod
    def of(cls, training: Tensor, held_out: Tensor) -> Self:
        """That of contexts (m, d) and (n, d), of which the first 1,000 are taken. CSBError for m < 10 or n < 1."""
        if len(training) < 2 * _NEAREST or len(held_out) < 1:
            raise CSBError(
                f"{len(training)} training and {len(held_out)} held-out observations do not show what is usual; give "
                f"at least {2 * _NEAREST} and 1, better 1000 of each"
            )
        training, held_out = (part[:MOST].flatten(1).double().cpu() for part in (training, held_out))
        mean = training.mean(0)
        _, values, directions = torch.linalg.svd(training - mean, full_matrices=False)
        variance = values.square() / (len(training) - 1)
        r, d = min(_DIRECTIONS, len(values)), len(mean)
        ridge = (_RIDGE * variance.sum() / d).clamp_min(torch.finfo(torch.float32).tiny)
        unit, empty = torch.ones(r + 1), torch.empty(0, r + 1)
        found = cls(mean.float(), directions[:r].T.float().contiguous(), unit, empty, empty)
        scale = (found.features(training).var(0) + ridge).sqrt().float()
        features = ((found.features(part) / scale).float() for part in (training, held_out))
        return cls(found.mean, found.directions, scale, *features)

    def fault(self) -> str:
        """Say why the tensors do not fit together, "" where they do."""
        shapes = {name: tuple(tensor.shape) for name, tensor in vars(self).items()}
        (d, *_), (f, *_) = (*shapes["mean"], 0), (*shapes["scale"], 0)
        (m, *_), (n, *_) = (*shapes["training"], 0), (*shapes["held_out"], 0)
        expected = {"mean": (d,), "directions": (d, f - 1), "scale": (f,), "training": (m, f), "held_out": (n, f)}
        if shapes != expected or not _NEAREST <= m <= MOST or not 0 < n <= MOST:
            return f"its tensors have shapes {shapes}"
        parts = vars(self).values()
        usable = all(one.dtype == torch.float32 and bool(one.isfinite().all()) for one in parts)
        return "" if usable and bool((self.scale > 0).all()) else "it holds no finite numbers, or no scales above 0"

    def features(self, contexts: Tensor) -> Tensor:
        """Contexts (B, …) as features (B, r + 1), float64, on the CPU. CSBError for contexts of another size."""
        contexts = contexts.flatten(1).double().cpu()
        if contexts.shape[1] != len(self.mean):
            raise CSBError(
                f"the reference is of contexts of {len(self.mean)} numbers, not {contexts.shape[1]}: it is of another "
                f"bridge; make it again with bridge.set_reference(y_train, y_held_out)"
            )
        centred = contexts - self.mean
        along = centred @ self.directions.double()
        rest = (centred.square().sum(1) - along.square().sum(1)).clamp_min(0).sqrt()
        return torch.cat([along, rest[:, None]], 1) / self.scale

    def distance(self, features: Tensor) -> Tensor:
        """The mean distance (B,) of features to the nearest of the training."""
        found = torch.cdist(features, self.training.double())
        return found.topk(_NEAREST, largest=False).values.mean(1).nan_to_num(math.inf, math.inf)

    def p_values(self, distance: Tensor) -> Tensor:
        """The share (B,) of held-out observations at least as far, the observation itself counted."""
        usual = self.distance(self.held_out.double()).sort().values
        below = torch.searchsorted(usual, distance)
        return (1 + len(usual) - below).double() / (len(usual) + 1)

    def set_p(self, features: Tensor, seed: int = 0) -> float | None:
        """The p-value of the test by MMD, whether features (B, r + 1) follow the law of the held-out ones.

        Gaussian kernel, its width the median distance of the pooled points, and 499 permutations of these: Gretton et
        al. 2012, "A kernel two-sample test". Of more than 1,000 observations as many are drawn. None for B < 10.
        """
        if min(len(features), len(self.held_out)) < FEWEST_OF_SET:
            return None
        generator = seeded(seed, Stream.CHECK)
        features = features[torch.randperm(len(features), generator=generator)[:MOST]]
        pooled = torch.cat([features, self.held_out.double()])
        distance = torch.cdist(pooled, pooled).nan_to_num(math.inf, math.inf).fill_diagonal_(0)
        known = distance[distance.isfinite() & (distance > 0)]
        width = known.median() if len(known) else torch.tensor(1.0)
        kernel = (-0.5 * (distance / width).square()).exp()
        B, N = len(features), len(pooled)
        orders = torch.stack([torch.randperm(N, generator=generator) for _ in range(_PERMUTATIONS)])
        members = torch.cat([torch.arange(N)[None], orders])[:, :B]
        weights = torch.full((len(members), N), -1 / (N - B), dtype=torch.float64).scatter_(1, members, 1 / B)
        mmd = ((weights @ kernel) * weights).sum(1)
        return float((mmd >= mmd[0] * (1 - 1e-12)).double().mean())


def embedded(bridge: Any, y: Tensor) -> Tensor:
    """The contexts (B, …) that a bridge's backward network makes of checked observations, in full precision."""
    with bridge.frozen(), torch.autocast(bridge.device.type, enabled=False):
        return bridge.contexts("backward", bridge.transform.encode_y(y), MOST)


def assess(bridge: Any, y: Tensor, seed: int) -> Check:
    """What :meth:`csb.bridge.Bridge.check` returns of checked observations."""
    reference = _reference_of(bridge)
    features = reference.features(embedded(bridge, y))
    distance = reference.distance(features)
    return Check(reference.p_values(distance), distance, reference.set_p(features, seed))


def p_values(bridge: Any, y: Tensor) -> Tensor:
    """The p-values (B,) alone of :meth:`csb.bridge.Bridge.check`, of checked observations."""
    reference = _reference_of(bridge)
    return reference.p_values(reference.distance(reference.features(embedded(bridge, y))))


def warned(bridge: Any, p: Tensor) -> bool:
    """Warn once where p-values (B,) are below .01; False where too few observations are held out to say so."""
    if 1 / (len(bridge.reference.held_out) + 1) >= UNUSUAL:
        return False
    if len(found := (p < UNUSUAL).nonzero()):
        logger.warning(
            "%d of %d observations are unlike those of the training (p < %g, as one in %.0f usual ones has), the first "
            "is number %d: what is drawn there is a guess; check its values and units",
            len(found), len(p), UNUSUAL, 1 / UNUSUAL, int(found[0]),
        )  # fmt: skip
    return True


def _reference_of(bridge: Any) -> ContextReference:
    if bridge.reference is None:
        raise CSBError(
            "this bridge came without observations to check y against; give it some with "
            "bridge.set_reference(y_train, y_held_out), or train again"
        )
    return bridge.reference
