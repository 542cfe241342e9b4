"""Samplers behind one protocol: bridges, their students, exact posteriors, conditional models, guided denoisers."""

from csb.process.resampling import RESAMPLING, effective_sample_size
from csb.samplers.base import AmortizedSampler, BridgeSampler, ConsistencySampler, ExactSampler, Sampler
from csb.samplers.conditional import (
    FLOW,
    SCORE,
    FlowSampler,
    MeanFlowSampler,
    MultistepConsistency,
    ScoreSampler,
    flow_sampler,
    score_sampler,
)
from csb.samplers.copaint import CoPaint
from csb.samplers.ddrm import DDRM
from csb.samplers.diffusion import DiffusionSampler, horizon, horizon_bias
from csb.samplers.dps import DPS
from csb.samplers.guidance import ClassifierGuidance
from csb.samplers.ilvr import ILVR
from csb.samplers.likelihood import ClassLikelihood, GaussianLikelihood, GuidanceLikelihood
from csb.samplers.mmps import MMPS
from csb.samplers.pigdm import PiGDM
from csb.samplers.repaint import RePaint
from csb.samplers.replacement import Replacement
from csb.samplers.sda import SDA
from csb.samplers.tds import TDS, BootstrapSMC, ParticleSampler
from csb.samplers.tmpd import TMPD

_METHODS = (
    TDS, BootstrapSMC, DPS, Replacement, RePaint, ILVR,
    CoPaint, PiGDM, DDRM, TMPD, MMPS, SDA,
    ClassifierGuidance,
)  # fmt: skip
GUIDED: dict[str, type[DiffusionSampler]] = {method.name: method for method in _METHODS}
