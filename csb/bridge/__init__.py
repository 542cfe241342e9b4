"""The bridge: kernels of both directions, one-pass sampling, the objectives that fit them, and their files."""

from csb.bridge.bridge import Bridge, BridgeSpec, autocast, build_bridge
from csb.bridge.checkpoint import load, save
from csb.bridge.density import DensityInfo
from csb.bridge.kernel import Kernel, KernelSpec
from csb.bridge.samples import SampleInfo, Samples
from csb.bridge.skipping import Direction
from csb.bridge.transitions import Transition
