"""Shipped trainings on random pairs of their shapes: how long things take does not depend on what the pairs hold."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from csb.bridge import Bridge, BridgeSpec, build_bridge
from csb.bridge.kernel import automatic_covariance
from csb.problems.standardise import Standardise
from csb.problems.transform import Hole, Transform
from csb.process import Grid, Stream, seeded
from csb.runs.config import RunConfig
from csb.training.pairs import EncodedPairs
from suites.settings import training_config


@dataclass(frozen=True)
class Recipe:
    """What is measured: a checked configuration, and the transform that sets the shapes."""

    name: str
    run: RunConfig
    transform: Transform

    @property
    def device(self) -> torch.device:
        return self.run.device.where

    def pairs(self, n: int) -> EncodedPairs:
        """Standard normal states (n, *z_shape) and conditions (n, *c_shape), on the CPU."""
        generator = seeded(self.run.seed, Stream.SPEED_PAIRS)
        shapes = self.transform.z_shape, self.transform.c_shape
        z, c = (torch.randn(n, *shape, dtype=torch.float32, generator=generator) for shape in shapes)
        return EncodedPairs.of(z, c)

    def observations(self, n: int) -> Tensor:
        """y (n, *y_shape) between 0 and 1."""
        return torch.rand(
            n, *self.transform.y_shape, dtype=torch.float32, generator=seeded(self.run.seed, Stream.SPEED_PAIRS, 1)
        )

    def spec(self, T: int | None = None) -> BridgeSpec:
        """The bridge's description, with T steps in place of the recipe's where given."""
        spec = self.run.bridge_spec(self.transform)
        grid = self.run.grid if T is None else Grid.from_schedule(self.run.schedule, T)
        return spec.replace(alpha_bar=grid.alpha_bar.tolist())

    def bridge(self, T: int | None = None) -> Bridge:
        """Untrained, on the device."""
        return build_bridge(self.spec(T), self.run.seed).to(self.device)

    def of_size(self, side: int) -> "Recipe":
        """The same network on images of ``side`` pixels, half of each side hidden, as in the shipped inpainting."""
        hole = Hole((1, side, side), (side // 4, side // 4, side // 2, side // 2))
        return dataclasses.replace(self, transform=hole)

    def of_dimension(self, d: int) -> "Recipe":
        """The same network on vectors of d coordinates, with the covariance that suits them."""
        covariance = automatic_covariance((d,))
        parts = {name: getattr(self.run, name).replace(covariance=covariance) for name in _KERNELS}
        return dataclasses.replace(self, run=dataclasses.replace(self.run, **parts), transform=Standardise((d,), (d,)))


_KERNELS = ("backward", "forward")


def recipe(experiment: str, overrides: tuple[str, ...]) -> Recipe:
    """The recipe of an experiment of conf/experiment. CSBError for an override that does not fit."""
    run = training_config((f"experiment={experiment}", "progress=false", "logger=none", *overrides))
    return Recipe(experiment, run, run.problem.new_transform())
