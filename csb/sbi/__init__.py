"""Bridges as posteriors of the package sbi (https://sbi.readthedocs.io), and training from its priors and simulators.

**The two packages name things the other way round**: sbi infers parameters theta (θ) from an observation x; a bridge
draws x from an observation y. So theta of sbi is x of csb, and x of sbi is y of csb. Everything in this package speaks
sbi's language at its surface.

A problem of its prior and simulator is :func:`csb.problem`; :func:`csb.fit` trains on it, or on arrays theta and x:

    run = csb.fit(theta, x)
    posterior = csb.sbi.Posterior(run.bridge, prior)

sbi is an extra, ``pip install -e '.[sbi]'``. This module is imported without it; what needs it raises CSBError then.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from csb.errors import CSBError

if TYPE_CHECKING:
    from csb.sbi.posterior import Posterior

__all__ = ["Posterior"]
VERSION = "0.27"  # of sbi: what NeuralPosterior asks for changes from one to the next


def require_sbi() -> None:
    """CSBError unless sbi is installed, in the version that this package is written for."""
    try:
        found = metadata.version("sbi")
    except metadata.PackageNotFoundError as error:
        raise CSBError("the package sbi is not installed; pip install -e '.[sbi]'") from error
    if found.split(".")[:2] != VERSION.split("."):
        raise CSBError(f"sbi {found} is installed and csb needs {VERSION}; pip install -e '.[sbi]'")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_sbi()
    return getattr(import_module(f"{__name__}.posterior"), name)
