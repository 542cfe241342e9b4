r"""Distilled samplers of a bridge: they draw X_0 | X_k, y in one network call, where the bridge takes k.

A consistency model (Song, Dhariwal, Chen & Sutskever 2023) maps every state of a deterministic path to its end. The
bridge's path is random, and no function of x_k alone can have its ends; what can be the same along a path is a *law*.
Let p(x_0, x_T | y) be the end points of the bridge's paths, x_T ~ N(0, I), and Π their *reciprocal process*: the
reference process pinned at both ends. For k ≥ j ≥ 0, as the pinned reference is Markov given its ends,

    Π(x_j | x_0, x_k, x_T, y) = N(near·x_k + far·x_0, β̃ I),    the step pinned at x_0 that leads from k to j        (1)
    Π(x_0 | x_k, y) = ∫ Π(dx_j | x_k, y) Π(x_0 | x_j, x_k, y).                                                       (2)

A distilled sampler (a student of the bridge, in the names here) is a family q_k(x_0 | x_k, y), fitted to
Π(x_0 | x_k, y) by a strictly proper scoring rule on pairs (x_k, x_0) of Π: end points from the frozen bridge, x_k
between them by :meth:`csb.process.Reference.pinned_both`. Where it fits,

- one call is exact: x_T ~ N(0, I), x_0 ~ q_T(· | x_T, y) have the end points' law;
- so is every further one: with (x_0, x_k) from Π, a draw x_j by (1) has Π's law together with x_0, and
  x_0' ~ q_j(· | x_j, y) makes (x_0', x_j) a pair of Π again. The marginal of x_0 is the bridge's after each call.

So 1, 2 or 4 calls draw the same law, up to the fits; a call from a smaller k has a narrower law to fit, and forgets the
errors of the call before as far as the noise of x_j covers them. Nothing is asked of the bridge: the pinned reference
joins the end points whatever kernels gave them. For the Schrödinger bridge, and every bridge in the reciprocal class, Π
is the bridge's own path law, X_0 depends on X_k alone, and (2) reads q_k = ∫ B(dx_j | x_k) q_j(· | x_j): the law of the
end is the same from every state of a path, the self-consistency of Song et al. with laws in place of points.
"""

import math
from abc import abstractmethod
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from csb.bridge.bridge import AlphaBar
from csb.bridge.kernel import COVARIANCES, MAX_FULL, Kernel, Parametrisation, Some, heads, jump_coefficients
from csb.bridge.paths import timesteps_of
from csb.dtypes import Precision
from csb.errors import CSBError
from csb.networks import Network, build_network
from csb.networks.diffusion import ConditionalModel
from csb.problems.transform import build_transform
from csb.process import Grid, expand, initialised
from csb.schema import Count, Described, Distinct, OneOf, Schema, Share

GENERATOR = "generator"
LAWS = (*(name for name in COVARIANCES if name != "fixed"), GENERATOR)


def automatic_law(z_shape: tuple[int, ...]) -> str:
    """Return what suits states of this shape: "mixture" for vectors of at most 64 coordinates, else "generator"."""
    return "mixture" if len(z_shape) == 1 and z_shape[0] <= MAX_FULL else GENERATOR


class StudentSpec(Schema):
    """All that makes a distilled sampler but its weights."""

    alpha_bar: AlphaBar  # of the bridge's grid
    transform: Described  # {"name": one of csb.problems.TRANSFORMS, **arguments}, the bridge's
    network: dict[str, Any]  # {"name": one of csb.networks.NETWORKS, **options}
    parametrisation: Parametrisation  # how the mean of x_0 is read from the network
    law: Annotated[str, OneOf(LAWS)]  # "generator", or the covariance of a :class:`TransitionStudent`
    calls: Annotated[list[Count], Distinct, Field(min_length=1)]  # of the network, each in 1..T, that it is fitted for
    components: Some = 32  # Gaussians of a mixture
    rank: Some = 8  # directions of a low-rank covariance
    noise: Some = 4  # channels of ε beside the state's (numbers, for vectors) of a generator
    variance_floor: Share = 1e-6  # see :class:`csb.bridge.kernel.Kernel`
    precision: Precision = "32-true"  # of the network calls while sampling

    @model_validator(mode="after")
    def _has_as_many_steps(self) -> Self:
        if max(self.calls) >= len(self.alpha_bar):
            T = len(self.alpha_bar) - 1
            raise CSBError(f"calls={self.calls} is not possible for a bridge of T={T} steps; give numbers in 1..{T}")
        return self


class Student(ConditionalModel):
    """q_k(x_0 | x_k, y) for the levels k that its numbers of calls visit."""

    kind = "student"
    noise_size: int  # how many standard normal numbers one draw takes

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__(build_transform(spec.transform), spec.precision)
        self.spec = spec
        self.missing = spec.network.get("missing", False)
        self.grid = Grid(torch.tensor(spec.alpha_bar, dtype=torch.float64))

    @property
    @abstractmethod
    def network(self) -> Network: ...

    def levels(self, calls: int) -> list[int]:
        """Return the states k from which ``calls`` calls start, T first; CSBError where it is not fitted for them."""
        if calls not in self.spec.calls:
            fitted = ", ".join(map(str, self.spec.calls))
            raise CSBError(f"calls={calls!r} is not among those that the sampler is fitted for; choose one of {fitted}")
        return timesteps_of(self.grid, calls)[:0:-1]

    def encode(self, c: Tensor) -> Tensor:
        return self.network.context(c)

    @abstractmethod
    def draw(self, z: Tensor, k: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        """Draw x_0 (B, *z_shape) given states z at k, (B,) or (1,), contexts (B, …) and noise (B, noise_size)."""


class TransitionStudent(Student):
    """q_k is a density, ``kernel(z, k, context)`` of the jump k → 0, fitted by the logarithmic score: for vectors."""

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__(spec)
        z_shape, c_shape = self.transform.z_shape, self.transform.c_shape
        network = build_network(spec.network, z_shape, c_shape, heads(spec.law, z_shape, spec.rank, spec.components))
        self.kernel = Kernel(
            network, self.grid, "backward", spec.parametrisation, spec.law, spec.variance_floor, spec.components,
            jump=True,
        )  # fmt: skip
        self.noise_size = self.kernel.noise_size

    @property
    def network(self) -> Network:
        return self.kernel.network

    def draw(self, z: Tensor, k: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        return self.kernel(z, k, context).draw(noise)


class Generator(Student):
    """x_0 = skip_k·x_k + gain_k·out, where the network sees x_k and noise ε as channels; for images.

    It is fitted by the energy score (:mod:`csb.training.distil`).
    """

    skip: Tensor
    gain: Tensor

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__(spec)
        channels, *size = self.transform.z_shape
        self.body = build_network(spec.network, (channels + spec.noise, *size), self.transform.c_shape, 1)
        for name, value in jump_coefficients(spec.parametrisation, self.grid)._asdict().items():
            self.register_buffer(name, value.float(), persistent=False)
        self.noise_size = spec.noise * math.prod(size)

    @property
    def network(self) -> Network:
        return self.body

    def draw(self, z: Tensor, k: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        extra = noise.view(len(z), self.spec.noise, *z.shape[2:])
        out = self.body(torch.cat([z, extra], dim=1), k.to(z.dtype) / self.grid.T, context).to(z.dtype)
        return expand(self.skip[k], z) * z + expand(self.gain[k], z) * out[:, 0, : z.shape[1]]


def build_student(spec: StudentSpec, seed: int = 0) -> TransitionStudent | Generator:
    """Make a distilled sampler with initial weights that are a function of the seed."""
    with initialised(seed):
        return Generator(spec) if spec.law == GENERATOR else TransitionStudent(spec)


@torch.no_grad()
def warm_start(student: Student, teacher: Kernel) -> None:
    """Give the sampler the weights of the bridge's backward network, tensor by tensor where the shapes agree.

    Of a generator's first and last layers, which have more channels, the state's: it begins as the bridge's mean of x_0
    moved by ε, whose weights stay random: at zero all draws coincide, and no gradient of the energy score parts them.
    """
    known = teacher.network.state_dict()
    for name, own in student.network.state_dict().items():
        source = known.get(name)
        if source is None or source.ndim != own.ndim:
            continue
        differing = sum(a != b for a, b in zip(own.shape, source.shape))
        if not differing or (differing == 1 and isinstance(student, Generator)):
            common = tuple(slice(0, min(a, b)) for a, b in zip(own.shape, source.shape))
            own[common] = source[common]
