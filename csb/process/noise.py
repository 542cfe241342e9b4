"""Random numbers for several observations, from one generator or from one for each observation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.process.reference import joined

Generators = torch.Generator | Sequence[torch.Generator] | None


class Noise:
    """The random numbers of B observations, n rows for each.

    With one generator (or None, torch's global one) all numbers of a call come from it. With a list of B, those of
    observation i come from generator i alone, so that they are the same whatever stands beside it in the batch.

    Args:
        generator: one, a list of B, or None; on ``device``.
        observations: B ≥ 1.
        device: where the numbers are needed.

    Raises:
        CSBError: anything but generators, or a list of another length.
    """

    def __init__(self, generator: Generators, observations: int, device: torch.device | str = "cpu") -> None:
        if generator is not None and not isinstance(generator, torch.Generator):
            if not isinstance(generator, Sequence) or not all(isinstance(one, torch.Generator) for one in generator):
                raise CSBError(f"generator={generator!r} is no torch.Generator; give one, a list of them, or None")
            if len(generator) != observations:
                raise CSBError(
                    f"{len(generator)} generators were given for {observations} observations; give one for each, or one"
                )
            self.parts: list[torch.Generator | None] = list(generator)
        else:
            self.parts = [generator]
        self.generator, self.observations, self.device = generator, observations, device

    def normal(self, n: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers (B·n, *shape), the n rows of an observation side by side."""
        rows = n * self.observations // len(self.parts)
        found = [torch.randn((rows, *shape), dtype=dtype, device=self.device, generator=part) for part in self.parts]
        return joined(found)

    def uniform(self, n: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Uniform numbers in [0, 1), (B·n, *shape), the n rows of an observation side by side."""
        rows = n * self.observations // len(self.parts)
        return torch.cat(
            [torch.rand((rows, *shape), dtype=dtype, device=self.device, generator=part) for part in self.parts]
        )
