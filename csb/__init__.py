"""csb: amortized conditional Schrödinger bridges."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csb import bridge, filtering, metrics, networks, problems, process, samplers, sbi
    from csb.bridge import Bridge
    from csb.errors import CSBError
    from csb.networks import Encoder, Network
    from csb.networks.diffusion import Denoiser
    from csb.runs.compare import compare
    from csb.runs.fit import distil, fit, fit_denoiser, fit_flow, fit_score
    from csb.runs.register import register
    from csb.runs.result import Run
    from csb.runs.simulate import problem
    from csb.samplers import GaussianLikelihood

__version__ = "0.1.0"
_MODULES = ("bridge", "filtering", "metrics", "networks", "problems", "process", "samplers", "sbi")
_HOMES = {  # what is imported when it is asked for: it takes torch
    "CSBError": "csb.errors", "Denoiser": "csb.networks.diffusion", "GaussianLikelihood": "csb.samplers",
    "Run": "csb.runs.result", "compare": "csb.runs.compare", "distil": "csb.runs.fit", "fit": "csb.runs.fit",
    "fit_denoiser": "csb.runs.fit", "fit_flow": "csb.runs.fit", "fit_score": "csb.runs.fit",
    "problem": "csb.runs.simulate", "register": "csb.runs.register",
}  # fmt: skip
__all__ = [
    "CSBError", "Denoiser", "GaussianLikelihood", "Run", "__version__", "bridge", "compare", "distil", "filtering",
    "fit", "fit_denoiser", "fit_flow", "fit_score", "from_pretrained", "load", "metrics", "networks", "problem",
    "problems", "process", "push_to_hub", "register", "samplers", "sbi",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"csb.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'csb' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


def load(
    source: str | Path, device: str | None = None, networks: Mapping[str, type[Network | Encoder]] | None = None
) -> Any:
    """Load a trained model, ready to sample: ``csb.load("outputs/two_moons").sample(y, 1000)``.

    Args:
        source: the folder of a finished run or an exported one, which give the bridge; a file of any model: a bridge
            (also of one half-step), a score, a flow, a denoiser or a distilled sampler; or "owner/name" on the Hugging
            Face Hub (needs the extra ``hub``).
        device: where it goes; None: a GPU where there is one, else the CPU.
        networks: classes of your own, networks and encoders, by the names that files give them, as in
            ``csb.fit(…, network=MyNet)``: the name of the class.

    Returns:
        The model; its ``about`` holds the problem, the configuration and the versions that it was trained with.

    Raises:
        CSBError: nothing is there, or it is damaged or unfinished, or of a network that is not known.
    """
    from csb.runs.load import load_model  # here, so that the version can be read without importing torch

    return load_model(source, device, networks)


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
