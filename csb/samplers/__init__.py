"""Posterior samplers behind one protocol: the bridge, exact posteriors, and methods that guide a denoiser."""

from csb.samplers.amortized import BridgeSampler, ExactSampler
from csb.samplers.base import Draws, Sampler
from csb.samplers.diffusion import DiffusionSampler, horizon, horizon_bias
from csb.samplers.dps import DPS
from csb.samplers.likelihood import Likelihood
from csb.samplers.replacement import Replacement
from csb.samplers.resampling import RESAMPLING, effective_sample_size
from csb.samplers.smc import TDS, BootstrapSMC, ParticleSampler

__all__ = [
    "DPS",
    "RESAMPLING",
    "TDS",
    "BootstrapSMC",
    "BridgeSampler",
    "DiffusionSampler",
    "Draws",
    "ExactSampler",
    "Likelihood",
    "ParticleSampler",
    "Replacement",
    "Sampler",
    "effective_sample_size",
    "horizon",
    "horizon_bias",
]
