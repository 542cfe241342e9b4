"""Drift networks by name. A checkpoint names its network here; nothing else can be built from one."""

from typing import Any

from csb.dtypes import float32_layers
from csb.errors import CSBError, is_one_of
from csb.networks.base import Network, exit_init
from csb.networks.encoders import ENCODERS, Encoder
from csb.networks.mlp import MLP, Affine
from csb.networks.unet import UNet
from csb.schema import arguments_of, shown

NETWORKS: dict[str, type[Network]] = {"mlp": MLP, "affine": Affine, "unet": UNet}


def build_network(spec: dict[str, Any], z_shape: tuple[int, ...], c_shape: tuple[int, ...], heads: int) -> Network:
    """Make a float32 network from plain data: {"name": one of NETWORKS, **options}.

    CSBError for an unknown name, or options that are unknown, missing or out of the range that the network declares.
    """
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    name = options.pop("name", None)
    if not is_one_of(name, NETWORKS):
        raise CSBError(
            f"network {shown(name)} is unknown; choose one of {', '.join(NETWORKS)}; one of your own is known after "
            f"import=its_module, or in csb.load(…, networks={{{shown(name)}: MyNetwork}})"
        )
    arguments_of(NETWORKS[name].__init__, keyword_only=True).read(options, "network.options")
    with float32_layers():
        return NETWORKS[name](z_shape, c_shape, heads, **options)
