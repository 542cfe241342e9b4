"""The settings of the suite of speeds, and how much it measures."""

from dataclasses import dataclass

from pydantic import Field

from csb.schema import Count, Given, Place, Schema


class SpeedSettings(Schema):
    """See conf/suite/speed.yaml."""

    group = "suite"

    name: str = Field(description="of the suite")
    out: Place = Field(description="the folder of the results")
    quick: bool = Field(description="a tiny version of everything, which tells nothing but that it works")
    repeats: Count = Field(description="of each timing")


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        vectors, images: overrides of the two shipped trainings.
        block: optimiser steps of the vectors' and of the images' training between two steps of what they are compared
            with.
        often: how many times ``repeats`` of such blocks, and of samples, are timed: the shorter, the more.
        shrink: by how much the vectors' and the images' half-steps are shortened: steps, trajectories and rounds
            alike, so that shares stay what they are.
        L: iterations of those trainings.
        states: of one sampling of vectors and of images.
        T, caches, batches, dims, sizes: steps, trajectories, batch sizes, coordinates of vectors and sides of images
            in pixels, over which growth is measured.
        batch: of the growth in ``dims`` and ``sizes``.
    """

    vectors: tuple[str, ...]
    images: tuple[str, ...]
    block: tuple[int, int]
    often: tuple[int, int]
    shrink: tuple[int, int]
    L: tuple[int, int]
    states: tuple[int, int]
    T: tuple[int, ...]
    caches: tuple[int, ...]
    batches: tuple[int, ...]
    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    batch: int


FULL = Extent(
    vectors=(),
    images=(),
    block=(10, 2),
    often=(10, 2),
    shrink=(10, 25),
    L=(3, 2),
    states=(1024, 256),
    T=(2, 5, 10, 20, 40),
    caches=(1024, 4096, 16384, 65536),
    batches=(256, 1024, 4096),
    dims=(2, 8, 32),
    sizes=(28, 64, 128),
    batch=16,
)
QUICK = Extent(
    vectors=("network.options={width: 16, depth: 1}", "training.batch_size=32"),
    images=(
        "network.options={channels: 8, multipliers: [1], blocks: 1, patch: 2, attention: false}",
        "objective.rank=2",
        "training.batch_size=8",
    ),
    block=(2, 1),
    often=(1, 1),
    shrink=(250, 175),
    L=(2, 1),
    states=(32, 8),
    T=(2, 4),
    caches=(64, 128),
    batches=(16, 32),
    dims=(2, 4),
    sizes=(8, 16),
    batch=4,
)


def read(given: Given) -> SpeedSettings:
    """The settings of the group ``suite``. CSBError with one line for the first thing that is wrong."""
    return SpeedSettings.read(given["suite"])
