"""The bridge: a backward and a forward family of kernels on one grid, and one-pass posterior sampling."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from csb.bridge.kernel import Kernel
from csb.bridge.parametrisation import Direction
from csb.bridge.samples import SampleInfo, Samples, check_observations, measured
from csb.errors import CSBError, require_int
from csb.problems.transform import Transform
from csb.process import Generators, Grid, Noise

Precision = Literal["32-true", "bf16-mixed"]


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of a precision: bfloat16 matrix products and convolutions for "bf16-mixed"."""
    if precision == "bf16-mixed":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    if precision == "32-true":
        return nullcontext()
    raise CSBError(f"precision={precision!r} is unknown; choose 32-true or bf16-mixed")


class Bridge(nn.Module):
    """Kernels B_k (towards the data) and F_k (towards N(0, I)), conditioned on y at every step.

    The kernels work on states z and encoded observations c; ``transform`` maps the data (x, y) to them and back.

    Args:
        grid: the grid of T steps.
        backward: the kernels B_k(x_k, y) → law of x_{k−1}.
        forward_kernel: the kernels F_k(x_{k−1}, y) → law of x_k.
        transform: the map between data and states.
        precision: "32-true" or "bf16-mixed", of the network calls in :meth:`sample`.

    Attributes:
        about: plain data that its file holds beside it: problem, config, versions; empty for one that is not loaded.
        spec: the description that its file holds (a :class:`csb.bridge.BridgeSpec`); None for one that is not loaded.
    """

    def __init__(
        self, grid: Grid, backward: Kernel, forward_kernel: Kernel, transform: Transform, precision: str = "32-true"
    ) -> None:
        super().__init__()
        self.grid, self.precision = grid, precision
        self.about: dict[str, Any] = {}
        self.spec: Any = None
        self.backward_kernel, self.forward_kernel = backward, forward_kernel
        self.transform = transform

    def kernel(self, direction: Direction) -> Kernel:
        """The kernels of one direction."""
        return self.backward_kernel if direction == "backward" else self.forward_kernel

    def set_kernel(self, direction: Direction, kernel: Kernel) -> None:
        """Puts other kernels in place of those of one direction."""
        setattr(self, f"{direction}_kernel", kernel)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def sample(
        self,
        y: Tensor,
        n: int = 1,
        *,
        generator: Generators = None,
        batch_size: int = 1024,
        mean_only: bool = False,
        refine: int = 0,
        trajectory: bool = False,
    ) -> Samples:
        """Posterior samples x ~ p(x | y): x_T ~ N(0, I), then T backward steps.

        The noise of a step is drawn for the whole request at once, so that the result does not depend on batch_size.

        Args:
            y: one observation (*y_shape) or several (B, *y_shape).
            n: samples of each observation.
            generator: on the bridge's device; a list of B gives each observation its own numbers; None draws from
                torch's global generator.
            batch_size: states a network call, which bounds the memory of activations.
            mean_only: no noise after x_T: each step moves to its kernel's mean (a deterministic map of x_T).
            refine: rounds of refinement: run F from the samples' x_0 to x_T, then B again.
            trajectory: also return the states of the last backward pass.

        Raises:
            CSBError: y of another shape or not finite; n, batch_size or refine out of range.
        """
        y, single = self._check(y, n, batch_size, refine)
        noise = Noise(generator, len(y), self.device)
        training = self.training
        self.eval()
        try:
            with measured(self.device) as cost, torch.no_grad(), autocast(self.precision, self.device):
                path = self._sample(y, n, noise, batch_size, mean_only, refine, trajectory)
                x = self.transform.decode(path[-1], y.repeat_interleave(n, 0)).unflatten(0, (len(y), n))
                states = torch.stack(path[::-1]).unflatten(1, (len(y), n)).cpu() if trajectory else None
        finally:
            self.train(training)
        calls = self.grid.T * (1 + 2 * refine)
        info = SampleInfo(calls, 0, cost.seconds, cost.peak_memory, trajectory=states)
        return Samples(x[0] if single else x, info)

    def _check(self, y: Tensor, n: int, batch_size: int, refine: int) -> tuple[Tensor, bool]:
        for name, value, low in (("n", n, 1), ("batch_size", batch_size, 1), ("refine", refine, 0)):
            require_int(name, value, low)
        return check_observations(y, self.transform.y_shape, self.device)

    def _sample(
        self, y: Tensor, n: int, noise: Noise, batch: int, mean_only: bool, refine: int, keep: bool
    ) -> list[Tensor]:
        """The states x_T, …, x_0 of the last backward pass, (B·n, *z_shape) each; x_0 alone unless ``keep``."""
        c = self.transform.encode_y(y)
        z = noise.normal(n, *self.transform.z_shape)
        again: tuple[Direction, Direction] = ("forward", "backward")
        passes: tuple[Direction, ...] = ("backward", *again * refine)
        path = [z]
        for direction in passes:
            path = path[-1:]
            codes = self.codes(direction, c, batch)
            for state, _ in self.walk(direction, path[-1], codes, n, noise, batch, mean_only):
                path = [*path, state] if keep else [state]
        return path

    def codes(self, direction: Direction, c: Tensor, batch: int) -> Tensor:
        """The codes of encoded observations c (B, *c_shape), ``batch`` observations a network call."""
        kernel = self.kernel(direction)
        return torch.cat([kernel.encode(part) for part in c.split(batch)])

    def walk(
        self,
        direction: Direction,
        z: Tensor,
        codes: Tensor,
        n: int,
        noise: Noise,
        batch: int,
        mean_only: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The T states that follow z in one direction, one after the other, each with the kernel mean it was drawn at.

        Args:
            direction: of the kernels.
            z: start states (B·n, *z_shape), the n states of an observation side by side.
            codes: (B, …), from :meth:`codes`.
            n: states an observation.
            noise: of the observations behind ``codes``.
            batch, mean_only: see :meth:`sample`.
        """
        kernel, T = self.kernel(direction), self.grid.T
        owner = torch.arange(len(codes), device=z.device).repeat_interleave(n)
        for k in range(T, 0, -1) if direction == "backward" else range(1, T + 1):
            step, states, means = torch.tensor([k], device=z.device), [], []
            numbers = None if mean_only else noise.normal(n, kernel.noise_size, dtype=z.dtype)
            for rows in torch.arange(len(z)).split(batch):
                part = slice(int(rows[0]), int(rows[-1]) + 1)
                law = kernel(z[part], step, codes[owner[part]])
                means.append(law.mean)
                states.append(law.mean if numbers is None else law.draw(numbers[part]))
            z, mean = torch.cat(states), torch.cat(means)
            yield z, mean
