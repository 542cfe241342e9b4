"""csb: amortized conditional Schrödinger bridges."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csb import bridge, filtering, metrics, networks, problems, process, samplers, sbi
    from csb.bridge.ensemble import Ensemble
    from csb.errors import CSBError
    from csb.networks.diffusion import Denoiser
    from csb.runs.compare import compare
    from csb.runs.export import push_to_hub
    from csb.runs.fit import distil, fit, fit_denoiser, fit_flow, fit_score
    from csb.runs.load import from_pretrained, load, register
    from csb.runs.result import Run
    from csb.runs.simulate import problem
    from csb.samplers import GaussianLikelihood

__version__ = "0.1.0"
_MODULES = ("bridge", "filtering", "metrics", "networks", "problems", "process", "samplers", "sbi")
_HOMES = {  # what is imported when it is asked for: it takes torch
    "CSBError": "csb.errors", "Denoiser": "csb.networks.diffusion", "Ensemble": "csb.bridge.ensemble",
    "GaussianLikelihood": "csb.samplers",
    "Run": "csb.runs.result", "compare": "csb.runs.compare", "distil": "csb.runs.fit", "fit": "csb.runs.fit",
    "fit_denoiser": "csb.runs.fit", "fit_flow": "csb.runs.fit", "fit_score": "csb.runs.fit",
    "from_pretrained": "csb.runs.load", "load": "csb.runs.load", "problem": "csb.runs.simulate",
    "push_to_hub": "csb.runs.export", "register": "csb.runs.load",
}  # fmt: skip
__all__ = [
    "CSBError", "Denoiser", "Ensemble", "GaussianLikelihood", "Run", "__version__", "bridge", "compare", "distil",
    "filtering", "fit", "fit_denoiser", "fit_flow", "fit_score", "from_pretrained", "load", "metrics", "networks",
    "problem", "problems", "process", "push_to_hub", "register", "samplers", "sbi",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"csb.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'csb' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
