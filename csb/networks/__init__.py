"""Drift networks by name. A file names its network; nothing else is built from it."""

from csb.networks.base import MLP, NETWORKS, Affine, Network, build_network, exit_init
from csb.networks.dit import DiT
from csb.networks.encoders import ENCODERS, Encoder
from csb.networks.images import ImageNetwork
from csb.networks.unet import UNet

NETWORKS |= {"mlp": MLP, "affine": Affine, "unet": UNet, "dit": DiT}
