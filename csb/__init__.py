"""csb: amortized conditional Schrödinger bridges."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csb import bridge, problems, samplers
    from csb.bridge import Bridge
    from csb.networks.diffusion import Denoiser
    from csb.runs.fit import fit
    from csb.runs.result import Run
    from csb.runs.simulate import problem
    from csb.samplers import GaussianLikelihood

__version__ = "0.1.0"
__all__ = [
    "Denoiser", "GaussianLikelihood", "Run", "__version__", "bridge", "fit", "from_pretrained", "load", "problem",
    "problems", "push_to_hub", "samplers",
]  # fmt: skip
_HOMES = {  # imported when they are asked for: they take torch
    "Denoiser": "csb.networks.diffusion", "GaussianLikelihood": "csb.samplers", "Run": "csb.runs.result",
    "fit": "csb.runs.fit", "problem": "csb.runs.simulate",
}  # fmt: skip
_PACKAGES = ("bridge", "problems", "samplers")  # likewise


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"csb.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'csb' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def load(source: str | Path, device: str | None = None) -> Bridge:
    """A trained bridge, ready to sample: ``csb.load("outputs/two_moons").sample(y, 1000)``.

    Args:
        source: the folder of a finished run, a file that training wrote (bridge.safetensors or one of half_steps/), or
            an exported folder; or "owner/name" on the Hugging Face Hub (needs the extra ``hub``).
        device: where it goes; None: a GPU where there is one, else the CPU.

    Returns:
        The bridge; ``bridge.about`` holds the problem, the configuration and the versions that it was trained with.

    Raises:
        CSBError: nothing is there, or it is damaged, unfinished or of another kind.
    """
    from csb.runs.load import load_any  # here, so that the version can be read without importing torch

    return load_any(source, device)


def from_pretrained(
    source: str | Path, device: str | None = None, revision: str | None = None, token: str | None = None
) -> Bridge:
    """The bridge of an exported folder or of a Hub repository; see :func:`csb.runs.hub.from_pretrained`."""
    from csb.runs import hub

    return hub.from_pretrained(source, device, revision, token)


def push_to_hub(source: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Uploads an exported folder to the Hub and returns its address; see :func:`csb.runs.hub.push_to_hub`."""
    from csb.runs import hub

    return hub.push_to_hub(source, repo_id, private=private, token=token)
