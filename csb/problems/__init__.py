"""Problems: pairs (x, y), their observation model, and exact posteriors where they are known."""

from csb.problems.base import (
    PROBLEMS,
    AdditiveNoise,
    ClassProblem,
    LinearProblem,
    Posterior,
    Problem,
    Simulated,
    build_problem,
)
from csb.problems.benchmarks import BOD, SbiGaussianLinear, SbiGaussianLinearUniform, SbiGaussianMixture, TwoMoons
from csb.problems.bounded import Probit, Reflect, Support
from csb.problems.darcy import Darcy
from csb.problems.fields import RandomField
from csb.problems.gaps import LinearGaps, NormalSet
from csb.problems.gaussian_ipf import exact_ipf
from csb.problems.gaussians import GaussianMixture, GaussianPosterior, LinearGaussian, MixtureClass, MixturePosterior
from csb.problems.grid import GridPosterior, GridProblem
from csb.problems.kinds import Mixed
from csb.problems.logistic import Logistic
from csb.problems.mixture import Mixture
from csb.problems.mnist_problem import (
    MnistClass,
    MnistDeblur,
    MnistInpaint,
    MnistInpaintAnywhere,
    MnistProblem,
    MnistSuperres,
)
from csb.problems.modes import Modes
from csb.problems.operators import AveragePool, Blur, ChannelMix, InpaintBox, Matrix, Operator, RandomProjection
from csb.problems.pairs import FilePairs
from csb.problems.photographs import PhotoColour, PhotoDeblur, PhotoInpaint, PhotoSuperres
from csb.problems.pushed import PushedGaussian
from csb.problems.residual import Residual, with_start
from csb.problems.rows import Pairs, Rows, finest_scale
from csb.problems.series import SIR, Counts, Oscillator
from csb.problems.sources import from_dataset
from csb.problems.spectral import Spectral
from csb.problems.standardise import Standardise
from csb.problems.svd import SVD
from csb.problems.transform import TRANSFORMS, Hole, Identity, MovingHole, PixelRange, Transform, build_transform
from csb.problems.wishart import NormalWishart
