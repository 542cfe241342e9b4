"""Samplers behind one protocol: bridges, their students, exact posteriors, scores, flows, guided denoisers."""

from csb.samplers.amortized import AmortizedSampler, BridgeSampler, ConsistencySampler, ExactSampler
from csb.samplers.base import Sampler
from csb.samplers.conditional import FLOW, SCORE, FlowSampler, ScoreSampler, flow_sampler, score_sampler
from csb.samplers.copaint import CoPaint
from csb.samplers.diffusion import DiffusionSampler, horizon, horizon_bias
from csb.samplers.gradient import DPS, ClassifierGuidance
from csb.samplers.likelihood import ClassLikelihood, GuidanceLikelihood, Likelihood
from csb.samplers.linear import DDRM, MMPS, TMPD, PiGDM
from csb.samplers.painting import ILVR, RePaint, Replacement
from csb.samplers.resampling import RESAMPLING, effective_sample_size
from csb.samplers.sda import SDA
from csb.samplers.tds import TDS, BootstrapSMC, ParticleSampler
