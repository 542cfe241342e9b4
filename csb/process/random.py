"""Random numbers: generators that are functions of seeds and keys, the keys of all streams, and noise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor

from csb.dtypes import float32_layers
from csb.errors import CSBError

Generators = torch.Generator | Sequence[torch.Generator] | None


@unique
class Stream(IntEnum):
    """The key of each use of random numbers. Files and figures depend on the keys: a new use takes a new one."""

    CACHE = 1  # trajectories of a half-step
    BATCH = 2  # of a half-step
    EXAMPLES = 3  # batches of a denoiser, score or flow
    VALIDATION = 4  # states and trajectories of the validation loss
    DISTIL_CACHE = 5
    DISTIL_BATCH = 6
    PICTURE = 11  # drawn during training
    DIAGNOSTICS = 12  # of the end points and the drift; with 1, 2 and 3 for their parts
    SCORES = 21  # of a training, against exact posteriors
    EXACT_KERNELS = 31  # states at which kernels are compared with exact ones
    INFLATION = 41
    SELECTION = 42  # of the best iteration
    FILTER_ANALYSES = 43
    FILTER_FEATURES = 44
    FILTER_TWIN = 45
    FILTER_MEMBERS = 46
    IMAGES = 47  # scores of images
    EVALUATION_PICTURE = 51
    COMPARISON_DRAW = 61
    COMPARISON_EXACT = 62
    COMPARISON_RANKS = 63
    COMPARISON_TARP = 64
    COMPARISON_SLICES = 65
    SPEED_PAIRS = 66
    DEQUANTISED = 70  # whole numbers, for their scales
    SCALE = 71  # of the data, for the automatic schedule
    REFLECTED_SCALE = 72  # of the data, for the softness of bounds
    FIRST_SAMPLES = 73  # that are timed at the end of a training
    HELD_OUT_DRAW = 74
    HELD_OUT_RANKS = 75
    HELD_OUT_TARP = 76
    DIAGNOSIS = 77  # of a posterior; with 0, 1, 2 for ranks, TARP and bands
    SUITE_DRAW = 81
    SUITE_EXACT = 82
    SUITE_SLICES = 83
    SUITE_REFERENCE = 84
    GUIDE = 91  # the classifier that guides to a digit; with 0, 1, 2 for weights, batches and levels
    TARGET_EXACT = 92
    TARGET_DRAW = 93
    CHECK = 94  # of a set of observations: permutations
    ENSEMBLE = 95  # samples by which members are compared
    ORDER = 96  # permutations of rows, whether they are a set
    PROBLEM = 1000  # constants of a problem: its matrix, its weights, the order of own pairs
    PROBLEM_MATRIX = 1001  # of a problem that also has weights


def seeded(seed: int, *keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator that is a pure function of (seed, keys): e.g. (seed, half_step, round, step).

    Streams of different keys are independent (numpy's SeedSequence hashing), so a resumed run needs no saved RNG state.
    """
    if any(not isinstance(number, int | np.integer) or number < 0 for number in (seed, *keys)):
        raise CSBError(f"seed={seed!r} with keys {keys} is not possible; seeds and keys are integers of at least 0")
    state = np.random.SeedSequence(seed, spawn_key=keys).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state) & 0x7FFF_FFFF_FFFF_FFFF)


def seeded_or(generator: Generators, seed: int | None, device: torch.device) -> Generators:
    """The generator, or one of a seed. CSBError where both are given."""
    if seed is None:
        return generator
    if generator is not None:
        raise CSBError(f"seed={seed} and a generator are given; give one of them")
    return seeded(seed, device=device)


@contextmanager
def initialised(seed: int) -> Iterator[None]:
    """Inside, layers made on the CPU get float32 weights that are a function of the seed.

    torch's global generators are left as they were, those of GPUs untouched: ``torch.manual_seed`` seeds them too.
    """
    with torch.random.fork_rng(devices=[]), float32_layers():
        torch.default_generator.manual_seed(seed)
        yield


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise of x's shape, dtype and device, from the generator (on that device)."""
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


def joined(parts: list[Tensor]) -> Tensor:
    """The batches (B, …) one after the other; a single one as it is, not a copy as torch.cat makes."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Noise:
    """The random numbers of B observations, n rows for each.

    With one generator on ``device`` (or None, torch's global one) all numbers of a call come from it. With a list of B,
    those of observation i come from generator i alone, so that they are the same whatever stands beside it in the
    batch. CSBError for anything else.
    """

    def __init__(self, generator: Generators, observations: int, device: torch.device | str = "cpu") -> None:
        parts = generator if isinstance(generator, Sequence) else [generator]
        fault = ""
        if not all(isinstance(one, torch.Generator) for one in parts) and generator is not None:
            fault = f"generator={generator!r} is no torch.Generator; give one, a list of them, or None"
        elif isinstance(generator, Sequence) and len(parts) != observations:
            fault = f"{len(parts)} generators were given for {observations} observations; give one for each, or one"
        if fault:
            raise CSBError(fault)
        self.parts: list[torch.Generator | None] = list(parts)
        self.generator, self.observations, self.device = generator, observations, device

    def normal(self, n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers (B·n, *shape), the n rows of an observation side by side."""
        return self._drawn(torch.randn, n, shape, dtype)

    def uniform(self, n: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """As :meth:`normal`, uniform in [0, 1)."""
        return self._drawn(torch.rand, n, shape, dtype)

    def _drawn(self, draw: Callable[..., Tensor], n: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        rows = n * self.observations // len(self.parts)
        return joined([draw((rows, *shape), dtype=dtype, device=self.device, generator=part) for part in self.parts])
