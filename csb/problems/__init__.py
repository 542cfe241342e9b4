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
from csb.problems.bounded import Probit, Reflect
from csb.problems.exact.gaussian import exact_ipf
from csb.problems.exact.mixture import Mixture
from csb.problems.holes import Hole, MovingHole
from csb.problems.operators import AveragePool, Blur, InpaintBox, Matrix, Operator, RandomProjection
from csb.problems.pairs import FilePairs
from csb.problems.rows import Pairs, Rows
from csb.problems.scale import finest_scale
from csb.problems.sources import from_dataset
from csb.problems.standardise import Standardise
from csb.problems.svd import SVD
from csb.problems.tasks.bod import BOD
from csb.problems.tasks.gaussians import (
    GaussianMixture,
    GaussianPosterior,
    LinearGaussian,
    MixtureClass,
    MixturePosterior,
)
from csb.problems.tasks.mnist_problem import (
    MnistClass,
    MnistDeblur,
    MnistInpaint,
    MnistInpaintAnywhere,
    MnistProblem,
    MnistSuperres,
)
from csb.problems.tasks.sbi import SbiGaussianLinear, SbiGaussianLinearUniform, SbiGaussianMixture
from csb.problems.tasks.two_moons import TwoMoons
from csb.problems.transform import TRANSFORMS, Identity, PixelRange, Support, Transform, build_transform
