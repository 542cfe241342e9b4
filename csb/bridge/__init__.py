"""The bridge: kernels of both directions, one-pass sampling, the objectives that fit them, and their files."""

from csb.bridge.bridge import Bridge, BridgeSpec, autocast, build_bridge
from csb.bridge.check import Check
from csb.bridge.checkpoint import load, save
from csb.bridge.ensemble import Disagreement, Ensemble
from csb.bridge.kernel import Direction, Kernel, KernelSpec
from csb.bridge.paths import DensityInfo
from csb.bridge.samples import SampleInfo, Samples
from csb.bridge.transitions import Transition
