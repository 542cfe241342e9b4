"""csb: amortized conditional Schrödinger bridges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csb.bridge import Bridge

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(source: str | Path, device: str | None = None) -> Bridge:
    """A trained bridge, ready to sample: ``csb.load("outputs/two_moons").sample(y, 1000)``.

    Args:
        source: the folder of a finished run, a file that training wrote (bridge.pt or one of half_steps/), or an
            exported folder.
        device: where it goes; None: a GPU where there is one, else the CPU.

    Returns:
        The bridge; ``bridge.about`` holds the problem, the configuration and the versions that it was trained with.

    Raises:
        CSBError: nothing is there, or it is damaged, unfinished or of another kind.
    """
    from csb.run.load import load_any  # here, so that the version can be read without importing torch

    return load_any(source, device)
