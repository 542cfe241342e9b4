"""The problems on MNIST: 28×28 digits in [0, 1], their splits, and what is seen of them."""

from functools import cached_property
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from csb.problems.base import BLOCK, PROBLEMS, ClassProblem, LinearProblem, Pairs, in_blocks, requested
from csb.problems.downloads import Files
from csb.problems.mnist import files_of, load_mnist
from csb.problems.operators import AveragePool, Blur, Box, InpaintBox
from csb.problems.pixels import PixelProblem
from csb.problems.transform import Hole, MovingHole
from csb.schema import Noise, OneOf, Spread, Whole

_VAL = 5_000


class MnistProblem(PixelProblem):
    """x (1, 28, 28) in [0, 1] (value/255), digits as labels, read from MNIST/raw in ``root``, or fetched into it.

    Splits: train = the first 55,000 of MNIST's training set, val = its last 5,000, test = MNIST's 10,000.
    """

    is_digit = True
    shared_prior = "mnist"
    x_shape = y_shape = (1, 28, 28)

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": 60_000 - _VAL, "val": _VAL, "test": 10_000}

    @cached_property
    def _splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        (images, labels), test = load_mnist(self.root).values()
        return {"train": (images[:-_VAL], labels[:-_VAL]), "val": (images[-_VAL:], labels[-_VAL:]), "test": test}

    @classmethod
    def files(cls, root: str) -> Files:
        return files_of(root)

    def pairs(self, split: str, n: int | None = None) -> Pairs:
        """As in :class:`Problem`. CSBError where n exceeds the split."""
        n = requested(split, n, lambda split: len(self._splits[split][0]))
        images, labels = self._splits[split]

        def block(start: int, generator: torch.Generator) -> Pairs:
            part = slice(start, start + BLOCK)
            x = images[part, None].float() / 255
            return Pairs(x, self._observed(x, labels[part], generator), labels[part])

        frozen = getattr(self, "seed", 0)  # of what is random in the observations
        return in_blocks(frozen, split, n, block)

    def first(self, split: str, n: int) -> Pairs:
        """As in :class:`Problem`; the files of a split are counted, which ``sizes`` takes for the published ones."""
        return self.pairs(split, min(n, len(self._splits[split][0])))

    def _observed(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """y of images x (B, *x_shape) with labels (B,)."""
        return self.observe(x, generator)


@PROBLEMS.register
class MnistClass(MnistProblem, ClassProblem):
    """y = the digit's label as a one-hot vector (10,): class-conditional generation (Wu et al. 2023, §5.2)."""

    name = "mnist_class"
    classes = 10
    y_shape = (10,)

    def _observed(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return self.one_hot(labels)


class NoisyMnist(MnistProblem, LinearProblem):
    """y = A x + N(0, noise²), frozen for each split by the seed; noise is on the scale of pixels in [0, 1]."""

    last: ClassVar[tuple[str, ...]] = ("noise", "seed")
    noise: Noise = 0.1
    seed: Whole = 0

    @property
    def noise_std(self) -> float:
        return self.noise


@PROBLEMS.register
class MnistDeblur(NoisyMnist):
    """y = x blurred by a Gaussian of ``blur`` pixels, black beyond the edge, and noise, (1, 28, 28)."""

    blur: Spread = 2.0

    name = "mnist_deblur"

    @property
    def operator(self) -> Blur:
        return Blur(self.x_shape, self.blur)


@PROBLEMS.register
class MnistSuperres(NoisyMnist):
    """y = means of factor × factor blocks of x, and noise, (1, 28/factor, 28/factor)."""

    factor: Annotated[int, OneOf((2, 4, 7, 14, 28))] = 4

    name = "mnist_superres"

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (1, 28 // self.factor, 28 // self.factor)

    @property
    def operator(self) -> AveragePool:
        return AveragePool(self.x_shape, self.factor)


@PROBLEMS.register
class MnistInpaint(MnistProblem, LinearProblem):
    """y = x without noise, hole × hole pixels in the centre set to 0; the bridge runs over these (:class:`Hole`)."""

    hole: Annotated[int, Field(ge=2, le=28, multiple_of=2)] = 14

    name = "mnist_inpaint"
    noise_std = 0.0

    @property
    def box(self) -> Box:
        """(top, left, height, width) of the hole."""
        start = (28 - self.hole) // 2
        return (start, start, self.hole, self.hole)

    @property
    def operator(self) -> InpaintBox:
        return InpaintBox(self.x_shape, self.box)

    def new_transform(self) -> Hole:
        return Hole(self.x_shape, self.box)


@PROBLEMS.register
class MnistInpaintAnywhere(MnistProblem):
    """hole × hole pixels anywhere are unknown; y = the digit with 0 there, and a map of what is known, (2, 28, 28).

    Each pair's hole has an integer position, uniform over all that lie in the image and frozen for each split by the
    seed; there is no noise. The bridge runs over the hole (:class:`MovingHole`), one for all places.
    """

    hole: Annotated[int, Field(ge=2, le=26, multiple_of=2)] = 14
    seed: Whole = 0

    name = "mnist_inpaint_anywhere"
    y_shape = (2, 28, 28)

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        corners = torch.randint(29 - self.hole, (2, len(x)), generator=generator, device=generator.device)
        return self.new_transform().observe(x, *corners.to(x.device))

    def new_transform(self) -> MovingHole:
        return MovingHole(self.x_shape, self.hole)
