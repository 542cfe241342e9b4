"""What the problems on MNIST have in common: 28×28 digits in [0, 1] and their splits."""

from functools import cached_property

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import BLOCK, Pairs, Posterior, Problem, check_request, in_blocks
from csb.problems.tasks.mnist import load_mnist, prepare_mnist

_VAL = 5_000


class MnistProblem(Problem):
    """x (1, 28, 28) in [0, 1] (value/255), digits as labels.

    Splits: train = the first 55,000 of MNIST's training set, val = its last 5,000, test = MNIST's 10,000.
    Subclasses are dataclasses with the field root, the folder that holds (or will hold) MNIST/raw.
    """

    root: str
    is_digit = True
    shared_prior = "mnist"

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (1, 28, 28)

    @property
    def noise_seed(self) -> int:
        """The seed of what is random in the observations, which are frozen."""
        return 0

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": 60_000 - _VAL, "val": _VAL, "test": 10_000}

    @cached_property
    def _splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        data = load_mnist(self.root)
        images, labels = data["train"]
        return {
            "train": (images[:-_VAL], labels[:-_VAL]),
            "val": (images[-_VAL:], labels[-_VAL:]),
            "test": data["test"],
        }

    def prepare(self) -> None:
        prepare_mnist(self.root)

    def pairs(self, split: str, n: int | None = None) -> Pairs:
        """As in :class:`Problem`. CSBError where n exceeds the split."""
        n = check_request(split, n)
        images, labels = self._splits[split]
        if n is not None and n > len(images):
            raise CSBError(f"n={n} pairs are more than the {len(images)} of the split {split!r}; ask for fewer")

        def block(start: int, generator: torch.Generator) -> Pairs:
            part = slice(start, start + BLOCK)
            x = images[part, None].float() / 255
            return Pairs(x, self._observed(x, labels[part], generator), labels[part])

        return in_blocks(self.noise_seed, split, len(images) if n is None else n, block)

    def first(self, split: str, n: int) -> Pairs:
        """As in :class:`Problem`; the files of a split are counted, which ``sizes`` takes for the published ones."""
        return self.pairs(split, min(n, len(self._splits[split][0])))

    def _observed(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """y of images x (B, *x_shape) with labels (B,)."""
        return self.observe(x, generator)

    def impose(self, x: Tensor, y: Tensor) -> Tensor:
        """Pixels clamped to [0, 1]."""
        return x.clamp(0, 1)

    def posterior(self, y: Tensor) -> Posterior:
        """CSBError: p(x | y) of images is not known."""
        raise CSBError(f"the exact posterior of {self.name} is not known; use metrics that need none")
