"""Drift networks by name. A checkpoint names its network here; nothing else can be built from one."""

from typing import Any

from csb.dtypes import float32_layers
from csb.networks.base import ENCODERS, Encoder, Network, build_named, exit_init
from csb.networks.mlp import MLP, Affine
from csb.networks.unet import UNet

NETWORKS: dict[str, type[Network]] = {"mlp": MLP, "affine": Affine, "unet": UNet}


def build_network(spec: dict[str, Any], z_shape: tuple[int, ...], c_shape: tuple[int, ...], heads: int) -> Network:
    """Make a float32 network from plain data: {"name": one of NETWORKS, **options}; lists stand for tuples.

    CSBError for an unknown name, or options that are unknown, missing or out of the range that the network declares.
    """
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    with float32_layers():
        return build_named("network", NETWORKS, options, "network.options", z_shape, c_shape, heads)
