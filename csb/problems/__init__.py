"""Problems: pairs (x, y), their observation model, and exact posteriors where they are known."""

from csb.problems.base import PROBLEMS, LinearProblem, Pairs, Posterior, Problem, Simulated, build_problem
from csb.problems.linear_gaussian import GaussianPosterior, LinearGaussian
from csb.problems.mnist_inpaint import MnistInpaint
from csb.problems.mnist_superres import MnistSuperres
from csb.problems.operators import AveragePool, InpaintBox, Matrix, Operator
from csb.problems.transform import TRANSFORMS, Hole, Identity, PixelRange, Standardise, Transform, build_transform
from csb.problems.two_moons import TwoMoons

__all__ = [
    "PROBLEMS",
    "TRANSFORMS",
    "AveragePool",
    "GaussianPosterior",
    "Hole",
    "Identity",
    "InpaintBox",
    "LinearGaussian",
    "LinearProblem",
    "Matrix",
    "MnistInpaint",
    "MnistSuperres",
    "Operator",
    "Pairs",
    "PixelRange",
    "Posterior",
    "Problem",
    "Simulated",
    "Standardise",
    "Transform",
    "TwoMoons",
    "build_problem",
    "build_transform",
]
