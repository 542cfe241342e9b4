"""Drift networks by name. A checkpoint names its network here; nothing else can be built from one."""

import inspect
from typing import Any

from csb.dtypes import float32_layers
from csb.errors import CSBError, is_one_of
from csb.networks.base import Network
from csb.networks.mlp import MLP, Affine
from csb.networks.unet import UNet

NETWORKS: dict[str, type[Network]] = {"mlp": MLP, "affine": Affine, "unet": UNet}


def build_network(spec: dict[str, Any], z_shape: tuple[int, ...], c_shape: tuple[int, ...], heads: int) -> Network:
    """A float32 network from plain data: {"name": one of NETWORKS, **options}. CSBError on unknown names or options."""
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    name = options.pop("name", None)
    if not is_one_of(name, NETWORKS):
        raise CSBError(f"network {name!r} is unknown; choose one of {', '.join(NETWORKS)}")
    parameters = inspect.signature(NETWORKS[name]).parameters
    known = [key for key, p in parameters.items() if p.kind == p.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            raise CSBError(f"network {name!r} has no option {key!r}; it takes {', '.join(known)}")
    for key in known:
        if key not in options and parameters[key].default is inspect.Parameter.empty:
            raise CSBError(f"network {name!r} lacks the option {key!r}; give it")
    with float32_layers():
        return NETWORKS[name](z_shape, c_shape, heads, **options)


__all__ = ["MLP", "NETWORKS", "Affine", "Network", "UNet", "build_network"]
