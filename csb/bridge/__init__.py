"""The bridge: kernels of both directions, one-pass sampling, the objectives that fit them, and their files."""

from csb.bridge.bridge import Bridge, autocast
from csb.bridge.checkpoint import load, save
from csb.bridge.density import DensityInfo
from csb.bridge.kernel import Kernel
from csb.bridge.parametrisation import Direction
from csb.bridge.samples import SampleInfo, Samples
from csb.bridge.specs import BridgeSpec, KernelSpec, build_bridge
from csb.bridge.transitions import Transition
