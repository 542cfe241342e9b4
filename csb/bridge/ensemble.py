"""Several bridges as one: their samples pooled, and how far they disagree about an observation.

Bridges that differ in their initial weights and batches alone agree where data and training decide, and not elsewhere:
their spread shows what one training leaves open (Lakshminarayanan et al. 2017, "Simple and scalable predictive
uncertainty estimation using deep ensembles").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csb.bridge.bridge import Bridge
from csb.bridge.samples import SampleInfo, Samples
from csb.errors import CSBError, require_int
from csb.numbers import Observed
from csb.process import Generators, Noise, Stream, seeded, seeded_or

_OF_FIRST = (
    "transform", "grid", "backward_kernel", "device", "about", "reference", "missing", "observations", "check",
    "contexts", "frozen",
)  # fmt: skip


@dataclass(frozen=True)
class Disagreement:
    """How far members differ at B observations, float64.

    Attributes:
        mean: (B,), in [0, 1], the standard deviation of the members' means over that of the pooled samples, the root
            mean square over coordinates, without what finite draws bring about: 0 where members agree, near 1 where
            each member's samples are narrow beside their differences.
        energy: (B,), the energy distance of two members' draws over that of two draws of one member, means over all
            such pairs, in units of the pooled standard deviations: about 1 where members agree, and growing with n
            where they do not (Székely & Rizzo 2013, "Energy statistics").
    """

    mean: Tensor
    energy: Tensor


class Ensemble(nn.Module):
    """Bridges of one problem, sampled as their equally weighted mixture.

    Args:
        members: trained bridges, whose x and y have the same shapes.

    Attributes:
        members: as given.
        transform, grid, backward_kernel, device, about, reference, missing, observations, check, contexts, frozen:
            those of the first member.
    """

    def __init__(self, members: Sequence[Bridge]) -> None:
        super().__init__()
        members = list(members)
        if not members or not all(isinstance(member, Bridge) for member in members):
            raise CSBError(f"{len(members)} members are no ensemble; give a list of bridges, e.g. run.bridge of each")
        shapes = [(tuple(one.transform.x_shape), tuple(one.transform.y_shape)) for one in members]
        if odd := [i for i, shape in enumerate(shapes) if shape != shapes[0]]:
            raise CSBError(
                f"member {odd[0]} has x and y of shapes {shapes[odd[0]]} and member 0 of {shapes[0]}; give bridges of "
                f"one problem"
            )
        self.members: Any = nn.ModuleList(members)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.members[0], name) if name in _OF_FIRST else super().__getattr__(name)

    def sample(
        self,
        y: Observed,
        n: int = 1,
        *,
        seed: int | None = None,
        generator: Generators = None,
        check: bool | None = False,
        **options: Any,
    ) -> Samples:
        """Draw pooled samples: one of each member in a random order, again and again; the first k are spread evenly.

        Args:
            y, n, seed, generator: as of :meth:`Bridge.sample`.
            check: as there, by the first member.
            **options: batch_size, mean_only, refine, sample_steps and progress, as there.

        CSBError as there, and for ``trajectory`` and ``combine``.
        """
        n, M = require_int("n", n, 1), len(self.members)
        for name in ("trajectory", "combine"):
            if value := options.pop(name, None):
                raise CSBError(f"{name}={value!r} is for one bridge; draw from ensemble.members[0]")
        generator = seeded_or(generator, seed, self.device)
        each = -(-n // M)
        found = [
            member.sample(y, each, generator=generator, check=None if i else check, **options)
            for i, member in enumerate(self.members)
        ]
        shape = tuple(self.transform.x_shape)
        x = torch.stack([one.x.view(-1, each, *shape) for one in found], 2)  # (B, each, M, *x_shape)
        order = Noise(generator, len(x), self.device).uniform(each, M).argsort(1).to(x.device)
        rows = torch.arange(len(order), device=x.device)[:, None]
        pooled = x.flatten(0, 1)[rows, order].view(len(x), each * M, *shape)[:, :n]
        infos = [one.info for one in found]
        peak = max((info.peak_memory for info in infos if info.peak_memory is not None), default=None)
        calls, seconds = max(info.forward_evaluations for info in infos), sum(info.seconds for info in infos)
        single = found[0].x.ndim == 1 + len(shape)
        return Samples(pooled[0] if single else pooled, SampleInfo(calls, 0, seconds, peak))

    def disagreement(self, y: Observed, n: int = 200, *, seed: int = 0, **options: Any) -> Disagreement:
        """Tell how far the members differ at observations, from 2·n samples of each.

        Args:
            y: as of :meth:`Bridge.sample`.
            n: samples of a draw, of which each member makes two, n ≥ 2.
            seed: of all samples.
            **options: of :meth:`Bridge.sample`.

        CSBError as there, and for less than two members.
        """
        n, M = require_int("n", n, 2), len(self.members)
        if M < 2:
            raise CSBError("one member has nobody to disagree with; give at least two bridges")
        generator = seeded(seed, Stream.ENSEMBLE, device=self.device)
        shape = tuple(self.transform.x_shape)
        drawn = [member.sample(y, 2 * n, generator=generator, **options).x.cpu().double() for member in self.members]
        x = torch.stack([one.view(-1, 2 * n, *shape).flatten(2) for one in drawn], 1)  # (B, M, 2n, d)
        found = [torch.stack(_disagreement(one)) for one in x]
        return Disagreement(*torch.stack(found).unbind(1))


def _disagreement(x: Tensor) -> tuple[Tensor, Tensor]:
    """The figures of one observation, from samples (M, 2n, d)."""
    M, count, _ = x.shape
    pooled = x.flatten(0, 1).var(0)
    varies = pooled > 0
    x, pooled = x[..., varies], pooled[varies]
    if not bool(varies.any()):
        return torch.zeros((), dtype=x.dtype), torch.ones((), dtype=x.dtype)
    noise = x.var(1).mean(0) / count
    between = (x.mean(1).var(0, correction=0) - noise * (M - 1) / M) / pooled
    draws = (x / pooled.sqrt()).view(2 * M, count // 2, -1)
    points = draws.flatten(0, 1)
    distance = torch.cdist(points, points).view(2 * M, count // 2, 2 * M, count // 2).mean((1, 3))
    own = distance.diagonal()
    energy = 2 * distance - own[:, None] - own
    number = torch.arange(2 * M)
    of_two = number[:, None] // 2 != number // 2
    of_one = ~of_two & (number[:, None] != number)
    return between.mean().clamp_min(0).sqrt(), energy[of_two].mean() / energy[of_one].mean()
