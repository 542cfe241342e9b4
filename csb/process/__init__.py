"""The reference process: schedules, the grid of T steps, the laws of its steps, and draws from them."""

from csb.process.random import Generators, Noise, Stream, initialised, joined, noise_like, seeded, seeded_or
from csb.process.reference import Linear, Pinned, Reference, ddim, euler_maruyama, expand, mix, repeated
from csb.process.schedule import SCHEDULES, SHORT, Cosine, Grid, LinearBeta, Power, Schedule, automatic_horizon
from csb.process.semidefinite import psd_cholesky, psd_solve
