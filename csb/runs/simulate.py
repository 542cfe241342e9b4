"""Problems of a prior and a simulator: two functions, or those of sbi and torch.distributions."""

import inspect
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from csb.errors import CSBError, in_one_line, require_int
from csb.numbers import as_numbers
from csb.problems import FilePairs, Pairs, Rows
from csb.problems.kinds import WHOLE
from csb.problems.sources import LEAST, SCHEME, hold
from csb.process import Stream, seeded
from csb.runs.options import Bounds, by_number, require_kinds, sides
from csb.runs.prior import draws_needed, prior_bounds, require_volume

_NAME = "simulated"  # of the pairs
ROUND = 10_000  # fresh pairs a round of the cache
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Simulation:
    """How pairs are drawn. ``law``: the prior as a distribution, None where it is a function or an array of draws."""

    prior: Any
    law: Any
    simulator: Callable[..., Any]
    batch_size: int
    seed: int

    def pairs(self, n: int, *key: int) -> Pairs:
        """At most n pairs, float32 or float64: a function of the seed and the key. y that are not finite are left out.

        The global generators of torch, numpy and random are put back afterwards.
        """
        with isolate_rng():
            generator = seeded(self.seed, Stream.PROBLEM, *key)
            number = int(torch.randint(2**31, (), generator=generator))
            torch.manual_seed(number)
            np.random.seed(number)  # noqa: NPY002 (simulators use it)
            random.seed(number)
            x = _draws(self.prior, self.law, n)
            return _finite(x, _simulated(self.simulator, x, self.batch_size, generator))


class EndlessPairs(FilePairs):
    """Simulated pairs: own pairs, of which some are held out, and others to learn from in each round of the cache."""

    is_endless = True
    _simulation: _Simulation

    def fresh(self, half_step: int, number: int) -> Rows:
        x, y, _ = self._simulation.pairs(ROUND, half_step, number)
        return Rows.of(Pairs(x.float(), y.float()))


def problem(
    prior: Any,
    simulator: Callable[..., Any],
    n: int | None = None,
    *,
    bounds: Bounds | Literal["prior"] | None = "prior",
    kinds: Mapping[Any, str] | Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 1000,
) -> FilePairs:
    """Make a problem of a prior and a simulator, for ``csb.fit(problem=…)``.

    The global random number generators of torch, numpy and random are seeded for the simulations, and put back
    afterwards. Values of y that are NaN are missing. Pairs whose y holds infinite values, or nothing but NaN, are left
    out with a warning, as of a simulation that failed: what is learned is the posterior given that it did not.

    Args:
        prior: of x: a torch or sbi distribution, a list of independent ones, a function n → (n, d), or an array (n, …)
            of its draws.
        simulator: x (B, d) → y (B, …); a function of one x (d,) will do as well. A y that is no vector, series or set
            (L, d), or image (C, H, W) is flattened. A keyword ``generator``, where it takes one, is a torch.Generator
            for noise.
        n: simulations, 100 or more; of an array of draws, at most its length. None: 10,000 fresh pairs for each round
            of the training's trajectory cache, a function of the seed and the round, so that a resumed training meets
            the same; the pairs for validation and tests stay. Of an array all draws are simulated once.
        bounds: (low, high) of x, as of :func:`csb.fit`; "prior" reads them off the support of a distribution.
        kinds: of the coordinates of x, as of :func:`csb.fit`, by number. With whole ones a prior may have no density;
            it then needs ``bounds``, and so does a category of which fresh pairs are drawn.
        seed: of all simulations.
        batch_size: x that the simulator is given at a time.

    Raises:
        CSBError: numbers out of range; a prior without a density, such as a simplex; a support that is no box, where
            ``bounds`` is "prior"; draws or simulations that are no numbers; too few that are finite.
    """
    if n is not None:
        require_int("n", n, LEAST)
    require_int("seed", seed, 0)
    require_int("batch_size", batch_size, 1)
    if not callable(simulator):
        raise CSBError(f"simulator is a {type(simulator).__name__}; give a function of x")
    require_kinds(kinds)
    is_whole = any(kind in WHOLE for kind in (kinds.values() if isinstance(kinds, Mapping) else kinds or ()))
    law = _distribution(prior)
    if law is not None and not is_whole:  # the prior fills a volume
        d = int(torch.Size(law.batch_shape + law.event_shape).numel())
        with isolate_rng():
            require_volume(law, law.sample((draws_needed(d),)).reshape(-1, d))
    simulation = _Simulation(prior, law, simulator, batch_size, seed)
    draws = law is not None or callable(prior)
    endless = n is None and draws
    most = ROUND if draws else len(cast(Any, prior))
    x, y, _ = simulation.pairs(most if n is None else n)
    if bounds == "prior":
        bounds = None if law is None else prior_bounds(law, x.shape[1])
    held = hold(x.numpy(), y.numpy(), _NAME)  # which the problem holds from its first look at them
    if isinstance(kinds, Mapping):
        kinds = by_number("kinds", kinds, SCHEME + _NAME, [], "real")
    of = {"path": SCHEME + _NAME, "val": "auto", "kinds": tuple(kinds) if kinds else None, **sides(bounds)}
    found = (EndlessPairs if endless else FilePairs)(**of)
    for i, kind in enumerate(found.kinds or ()):
        if endless and kind == "category" and found.support is not None and math.isinf(found.support.high[i]):
            raise CSBError(
                f"coordinate {i} is a category without bounds, and fresh pairs may hold others; give bounds="
            )
    if isinstance(found, EndlessPairs):
        found._simulation = simulation
    found.prepare()
    del held
    return found


def _distribution(prior: Any) -> Any:
    """The prior as one distribution, or None where it is a function or an array of draws."""
    if isinstance(prior, list | tuple) and prior and all(hasattr(one, "sample") for one in prior):
        parts = [one if one.batch_shape + one.event_shape else one.expand((1,)) for one in prior]
        return _Joint([Independent(one, len(one.batch_shape)) for one in parts])
    return prior if hasattr(prior, "sample") and hasattr(prior, "event_shape") else None


class _Joint(Distribution):
    """Independent distributions of vectors, side by side."""

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = parts
        super().__init__(
            event_shape=torch.Size([sum(int(one.event_shape.numel()) for one in parts)]), validate_args=False
        )

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return constraints.cat([one.support for one in self.parts], 0, [one.event_shape.numel() for one in self.parts])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.cat([one.sample(sample_shape) for one in self.parts], -1)


def _draws(prior: Any, law: Any, n: int) -> Tensor:
    """x (n, d) or (n, C, H, W), float32 or float64."""
    drawn = law.sample((n,)) if law is not None else prior(n) if callable(prior) else prior
    x = as_numbers("draws of the prior", drawn)
    x = x[:, None] if x.ndim == 1 else x
    if len(x) < n or (callable(prior) and len(x) != n):
        raise CSBError(f"the prior gave {len(x)} draws where n={n} were asked for; give as many, or lower n")
    return x[:n].detach().cpu()


def _simulated(simulator: Callable[..., Any], x: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """y (n, m) or (n, C, H, W) of x (n, …), by batches, or one by one where the simulator takes no batch."""
    given = {"generator": generator} if "generator" in inspect.signature(simulator).parameters else {}

    def call(part: Tensor) -> Tensor:
        return as_numbers("what the simulator returned", simulator(part, **given)).cpu()

    state = generator.get_state(), torch.get_rng_state()
    try:
        batched = len(call(x[:2])) == 2  # two rows tell whether it takes a batch
    except Exception:  # whatever a function of one x raises
        batched = False
    generator.set_state(state[0])
    torch.set_rng_state(state[1])
    try:
        y = (
            torch.cat([call(part) for part in x.split(batch_size)])
            if batched
            else torch.stack([call(one) for one in x])
        )
    except CSBError:
        raise
    except Exception as error:
        raise CSBError(
            f"the simulator failed ({type(error).__name__}: {in_one_line(error)}); it is given one x of shape "
            f"{tuple(x.shape[1:])}, or a batch of them"
        ) from error
    return y if y.ndim in (2, 3, 4) else y.reshape(len(y), -1)


def _finite(x: Tensor, y: Tensor) -> Pairs:
    rows = y.double().flatten(1)
    valid = ~rows.isinf().any(1) & ~rows.isnan().all(1)
    if (kept := int(valid.sum())) < LEAST:
        raise CSBError(f"{kept} of {len(y)} simulated y are finite; at least {LEAST} are needed; fix the simulator")
    if kept < len(y):
        logger.warning("%d of %d simulated y are infinite, or all NaN, and are left out", len(y) - kept, len(y))
    return Pairs(x[valid], y[valid])
