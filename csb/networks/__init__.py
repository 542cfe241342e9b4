"""Drift networks by name. A checkpoint names its network here; nothing else can be built from one."""

from csb.networks.base import ENCODERS, NETWORKS, Encoder, Network, build_network, exit_init
from csb.networks.mlp import MLP, Affine
from csb.networks.unet import UNet

NETWORKS |= {"mlp": MLP, "affine": Affine, "unet": UNet}
