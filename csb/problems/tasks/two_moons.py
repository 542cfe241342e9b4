r"""Two moons (Greenberg et al. 2019): a posterior of two crescents, sampled exactly.

x ~ U[−1, 1]², a ~ U(−π/2, π/2), r ~ N(.1, .01²),
y = (r cos a + .25, r sin a) + (−|x_1 + x_2|, x_2 − x_1)/√2.

With u = (x_1 + x_2)/√2 and v = (x_2 − x_1)/√2, a rotation, y = m + (−|u|, v) with m the point on the noisy crescent.
Given y the map m ↦ (|u|, v) = (m_1 − y_1, y_2 − m_2) has a Jacobian of absolute value 1 and the prior is flat, so that
the posterior of (|u|, v) is the law of m kept where |u| ≥ 0 and x lies in the box. The sign of u is a fair coin: the
box is symmetric under (x_1, x_2) ↦ (−x_2, −x_1).
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.base import PROBLEMS, Posterior
from csb.problems.bounded import KINDS, Bounded
from csb.problems.transform import Support
from csb.schema import OneOf

_ROUNDS = 2000
_BATCH = 4096


def _crescent(n: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """n draws of m, (n, 2), float64."""
    u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
    r = 0.1 + 0.01 * torch.randn(n, generator=generator, dtype=torch.float64, device=device)
    a = math.pi * (u - 0.5)
    return torch.stack([r * a.cos() + 0.25, r * a.sin()], dim=1)


class TwoMoonsPosterior(Posterior):
    """Exact draws for one y (2,), float64, by inverting the simulator's noise and keeping what lies in the prior."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.y = y

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2), float32. CSBError where y is (nearly) impossible under the prior."""
        kept: list[Tensor] = []
        missing = n
        for _ in range(_ROUNDS):
            if missing <= 0:
                break
            kept.append(self._propose(max(_BATCH, 2 * missing), generator)[:missing])
            missing -= len(kept[-1])
        if missing > 0:
            raise CSBError(
                f"y=({self.y[0]:.4g}, {self.y[1]:.4g}) is (nearly) impossible under the prior of two_moons: "
                f"{n - missing} of {n} draws found; pass an observation that the simulator can produce"
            )
        return torch.cat(kept).float() if kept else torch.empty(0, 2, dtype=torch.float32)

    def _propose(self, n: int, generator: torch.Generator) -> Tensor:
        m = _crescent(n, generator)
        sign = torch.randint(0, 2, (n,), generator=generator, dtype=torch.int64) * 2 - 1
        size, v = m[:, 0] - self.y[0], self.y[1] - m[:, 1]
        u = sign * size
        x = torch.stack([u - v, u + v], dim=1) / math.sqrt(2)
        return x[(size >= 0) & (x.abs() <= 1).all(dim=1)]


@PROBLEMS.register
class TwoMoons(Bounded):
    """x in [−1, 1]², y in ℝ²."""

    transform: Annotated[str, OneOf(KINDS)] = "standardise"

    name = "two_moons"
    x_shape = y_shape = (2,)
    support = Support((-1.0, -1.0), (1.0, 1.0))

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, 2, dtype=torch.float32, generator=generator) - 1

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        shift = torch.stack([-(x[:, 0] + x[:, 1]).abs(), x[:, 1] - x[:, 0]], dim=1) / math.sqrt(2)
        return _crescent(len(x), generator, x.device).to(x.dtype) + shift

    def posterior(self, y: Tensor) -> TwoMoonsPosterior:
        return TwoMoonsPosterior(self.check_observation(y))
