"""The bridge: a backward and a forward family of kernels on one grid, and one-pass posterior sampling."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from csb.bridge.check import MOST, Check, ContextReference, assess, embedded, p_values, warned
from csb.bridge.kernel import Direction, Kernel, KernelSpec, heads
from csb.bridge.paths import DensityInfo, check_points, check_skips, estimate, moved, planned_calls, timesteps_of
from csb.bridge.samples import SampleInfo, Samples, call_bar, check_observations, measured, require_finite, warn_far
from csb.bridge.several import check_combine, combined
from csb.bridge.transitions import Transition
from csb.dtypes import Float32Module, Precision, off_meta
from csb.errors import require_flag, require_int
from csb.networks import build_network
from csb.numbers import Numbers, Observed
from csb.problems.transform import Transform, build_transform
from csb.process import Generators, Grid, Noise, initialised, joined, repeated, seeded_or
from csb.process.schedule import MOST_STEPS
from csb.schema import Described, Schema

AlphaBar = Annotated[list[float], Field(min_length=2, max_length=MOST_STEPS + 1)]  # of a grid, T + 1 numbers


def autocast(precision: str | None, device: torch.device) -> AbstractContextManager:
    """Return the context of a precision: bfloat16 matrix products and convolutions for "bf16-mixed"."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


class Bridge(Float32Module):
    """Kernels B_k (towards the data) and F_k (towards N(0, I)), conditioned on y at every step.

    Args:
        grid: of T steps.
        backward: the kernels B_k(x_k, y) → law of x_{k−1}.
        forward_kernel: the kernels F_k(x_{k−1}, y) → law of x_k.
        transform: maps the data (x, y) to the kernels' states z and encoded observations c, and back.
        precision: "32-true" or "bf16-mixed", of the network calls in :meth:`sample`.

    Attributes:
        about: plain data that its file holds beside it: problem, config, versions.
        spec: the :class:`BridgeSpec` that its file holds; None where it was not built of one.
        reference: what :meth:`check` compares with, in a file beside the bridge's; None where there is none.
    """

    def __init__(
        self, grid: Grid, backward: Kernel, forward_kernel: Kernel, transform: Transform, precision: str = "32-true"
    ) -> None:
        super().__init__()
        self.grid, self.precision = grid, precision
        self.about: dict[str, Any] = {}
        self.spec: Any = None
        self.reference: ContextReference | None = None
        self.backward_kernel, self.forward_kernel = backward, forward_kernel
        self.transform = transform

    def kernel(self, direction: Direction) -> Kernel:
        return self.backward_kernel if direction == "backward" else self.forward_kernel

    def set_kernel(self, direction: Direction, kernel: Kernel) -> None:
        setattr(self, f"{direction}_kernel", kernel)

    @property
    def missing(self) -> bool:
        return self.backward_kernel.network.missing  # whether values of observations may be, which are NaN

    @property
    def device(self) -> torch.device:
        return self.backward_kernel.table.device  # asked for often: parameters() walks through all modules

    def sample(
        self,
        y: Observed,
        n: int = 1,
        *,
        seed: int | None = None,
        generator: Generators = None,
        batch_size: int = 1024,
        mean_only: bool = False,
        refine: int = 0,
        trajectory: bool = False,
        sample_steps: int | None = None,
        progress: bool = False,
        combine: str | None = None,
        check: bool | None = False,
    ) -> Samples:
        """Draw posterior samples x ~ p(x | y): x_T ~ N(0, I), then T backward steps. batch_size changes no sample.

        Args:
            y: one observation (*y_shape) or several (B, *y_shape), as :func:`csb.numbers.as_numbers` takes numbers, or
                {name: …} of named parts; of one coordinate also a bare number or (B,). Images in [0, 1] must be floats.
            n: samples of each observation.
            seed, generator: one of them, of all random numbers. The generator is on the bridge's device; a list of B
                gives each observation its own numbers; without both, torch's global generator draws.
            batch_size: states a network call, which bounds the memory of activations.
            mean_only: no noise after x_T: each step moves to its kernel's mean (a deterministic map of x_T).
            refine: rounds of refinement: run F from the samples' x_0 to x_T, then B again.
            trajectory: also return the states of the last backward pass.
            sample_steps: S ≤ T network calls a pass in place of T, by skips (:mod:`csb.bridge.paths`), which need
                kernels that predict x_0, ε or v with a learned covariance. None or T: every step, as trained.
            progress: show a bar over the network calls on standard error.
            combine: "product": y (m, *y_shape) are observations of one unknown, independent given x, and the samples,
                weighted, of p(x | y_1, …, y_m), as of one observation (:mod:`csb.bridge.several`).
            check: warn of p < .01 in :meth:`check`, not of y far outside the training's range; None: of neither.

        CSBError for an argument out of its range, too little memory, impossible skips, and states that are not finite.
        """
        n, batch_size = require_int("n", n, 1), require_int("batch_size", batch_size, 1)
        timesteps = self.timesteps(refine := require_int("refine", refine, 0), sample_steps)
        flags = dict(mean_only=mean_only, trajectory=trajectory, progress=progress, check=check is not None and check)
        for name, value in flags.items():
            require_flag(name, value)
        y, single = self.observations(y, check)
        generator = seeded_or(generator, seed, self.device)
        if combine is not None:
            check_combine(combine, mean_only=mean_only, refine=refine, trajectory=trajectory, sample_steps=sample_steps)
            return combined(self, y, n, Noise(generator, 1, self.device), batch_size, progress)
        noise = Noise(generator, len(y), self.device)
        calls = (len(timesteps) - 1) * (1 + 2 * refine)
        bar = call_bar(calls * math.ceil(len(y) * n / batch_size), progress)
        with self.frozen(), measured(self.device) as cost, bar as tick:
            c, path = self.transform.encode_y(y), [noise.normal(n, *self.transform.z_shape)]
            step_noise = None if mean_only else noise
            passes: Any = ("backward", *("forward", "backward") * refine)
            for direction in passes:
                contexts = self.contexts(direction, c, batch_size)
                path = path[-1:]
                for state in self.walk(direction, path[-1], contexts, step_noise, batch_size, timesteps, tick):
                    path = [*path, state] if trajectory else [state]
            x = self.transform.decode(path[-1], repeated(y, n)).unflatten(0, (len(y), n))
            require_finite("the bridge", x)
            states = torch.stack(path[::-1]).unflatten(1, (len(y), n)).cpu() if trajectory else None
        return Samples(x[0] if single else x, SampleInfo(calls, 0, cost.seconds, cost.peak_memory, trajectory=states))

    def log_prob(
        self,
        x: Numbers,
        y: Observed,
        n: int = 64,
        generator: Generators = None,
        *,
        batch_size: int = 1024,
        with_info: bool = False,
    ) -> Tensor | Any:
        """Estimate log p(x | y), the log-density of what :meth:`sample` draws with all T steps and its noise.

        Importance sampling over paths from x: a lower bound in expectation that tends to the exact value as n grows
        (:mod:`csb.bridge.paths`). A probability-flow ODE would not do: the density that a discretised flow carries
        along is that of a deterministic map, from mean to mean, which leaves out the kernels' variances.

        Args:
            x: for one observation one point (*x_shape) or several (m, *x_shape); for B observations one point each
                (B, *x_shape) or several (B, m, *x_shape). The 1 of a single coordinate may be left out.
            y: one observation (*y_shape) or several (B, *y_shape).
            n: paths for each point.
            generator, batch_size: see :meth:`sample`.
            with_info: also return a :class:`csb.bridge.paths.DensityInfo`: effective sample sizes, errors and cost.

        Returns:
            float32 of x's shape without *x_shape, −∞ outside the support of a bounded problem.

        CSBError as :meth:`sample`; NotImplementedError where samples have no density, as clamped pixels have none.
        """
        n, batch_size = require_int("n", n, 1), require_int("batch_size", batch_size, 1)
        require_flag("with_info", with_info)
        y, single = self.observations(y)
        x, shape = check_points(x, self.transform, len(y), single, self.device)
        noise = Noise(generator, len(y), self.device)
        with self.frozen(), measured(self.device) as cost:
            value, ess, error, proposal = estimate(self, x, y, n, noise, batch_size)
        require_finite("the density", value.nan_to_num(torch.nan, torch.inf, 0.0))  # −∞ is that of no density
        if not with_info:
            return value.view(shape)
        calls = self.grid.T * (2 if proposal == "forward" else 1)
        info = DensityInfo(ess.view(shape), error.view(shape), proposal, calls, cost.seconds, cost.peak_memory)
        return value.view(shape), info

    def check(self, y: Observed, seed: int = 0) -> Check:
        """Tell how usual observations (as in :meth:`sample`) are, by their embedding (:mod:`csb.bridge.check`).

        ``seed`` is of the permutations behind ``set_p``. CSBError as :meth:`sample`, and without a reference.
        """
        return assess(self, self.observations(y, None)[0], seed)

    def set_reference(self, training: Observed, held_out: Observed) -> None:
        """Set what :meth:`check` compares with. A training does it by itself; an older bridge may be given one.

        Of ``training``, m ≥ 10 of the observations (m, *y_shape) that it was trained on, and ``held_out``, others of
        the same law that no decision of the training rests on, 1,000 each are kept at most.
        """
        of = (embedded(self, self.observations(part, None)[0][:MOST]) for part in (training, held_out))
        self.reference = ContextReference.of(*of)

    def observations(self, y: Observed, check: bool | None = False) -> tuple[Tensor, bool]:
        """Return y as a batch, and whether it was a single one; warn as :meth:`sample` does. CSBError as there."""
        maps, dtype = self.transform, self.transform.dtype_of("y")
        y, single = check_observations(y, maps.y_shape, self.device, dtype, maps.any_units, self.missing, maps.parts)
        if check is not None and not (check and warned(self, p_values(self, y))):
            warn_far(maps, y)
        return y, single

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Put the bridge in evaluation mode, without gradients, at its precision, and restore its mode."""
        training = self.training
        if training:  # a loaded bridge is not, and is spared two walks through all of its modules
            self.eval()
        try:
            with torch.no_grad(), autocast(self.precision, self.device):
                yield
        finally:
            if training:
                self.train()

    def timesteps(self, refine: int, sample_steps: int | None) -> list[int]:
        """Return the states that a pass visits, by k, ascending. CSBError for skips that are not possible."""
        T = self.grid.T
        timesteps = timesteps_of(self.grid, T if sample_steps is None else sample_steps)
        for kernel in (self.backward_kernel, self.forward_kernel)[: 2 if refine else 1]:
            check_skips(kernel.direction, kernel.parametrisation, kernel.covariance, len(timesteps) - 1, T)
        return timesteps

    def contexts(self, direction: Direction, c: Tensor, batch: int) -> Tensor:
        """Return the contexts of encoded observations c (B, *c_shape), ``batch`` of them a network call."""
        kernel = self.kernel(direction)
        return joined([kernel.encode(part) for part in c.split(batch)])

    def walk(
        self,
        direction: Direction,
        z: Tensor,
        contexts: Tensor,
        noise: Noise | None,
        batch: int,
        timesteps: list[int] | None = None,
        after: Callable[[Transition], object] = lambda law: None,
    ) -> Iterator[Tensor]:
        """Yield the states that follow z in one direction, one after the other.

        Args:
            direction: of the kernels.
            z: start states (B·n, *z_shape), the n states of an observation side by side.
            contexts: (B, …), from :meth:`contexts`.
            noise: of the observations behind ``contexts``; None: each step moves to its kernel's mean.
            batch: states a network call.
            timesteps: to visit, ascending from 0 to T; None: all.
            after: called after each network call, with the law that it gives.
        """
        kernel = self.kernel(direction)
        n, size = len(z) // len(contexts), kernel.noise_size
        ks = torch.arange(self.grid.T + 1, device=z.device)
        parts = [slice(start, start + batch) for start in range(0, len(z), batch)]
        kept = repeated(contexts, n) if len(parts) == 1 else None  # of a single batch, copied once for all steps
        owner = torch.arange(len(z), device=z.device) // n
        for k, skip in planned_calls(self.grid, direction, timesteps):
            step, states = ks[k : k + 1], []
            numbers = None if noise is None else noise.normal(n, size, dtype=z.dtype)
            for part in parts:
                here = z[part]
                law = kernel(here, step, contexts[owner[part]] if kept is None else kept)
                states.append(moved(law, here, skip, None if numbers is None else numbers[part]))
                after(law)
            yield (z := joined(states))


class BridgeSpec(Schema):
    """All that is needed to make a bridge, but its weights."""

    group = "bridge"

    alpha_bar: AlphaBar
    transform: Described  # {"name": one of csb.problems.TRANSFORMS, **arguments}
    backward: KernelSpec
    forward: KernelSpec
    precision: Precision = "32-true"  # of the network calls in :meth:`Bridge.sample`


def build_bridge(spec: BridgeSpec, seed: int = 0) -> Bridge:
    """Make a bridge with initial weights that are a function of the seed."""
    with off_meta():
        grid = Grid(torch.tensor(spec.alpha_bar, dtype=torch.float64))
    transform = build_transform(spec.transform)

    def kernel(direction: Direction, part: KernelSpec) -> Kernel:
        count = heads(part.covariance, transform.z_shape, part.rank, part.components)
        network = build_network(part.network, transform.z_shape, transform.c_shape, count)
        return Kernel(
            network, grid, direction, part.parametrisation, part.covariance, part.variance_floor, part.components
        )

    with initialised(seed):
        backward, forward = kernel("backward", spec.backward), kernel("forward", spec.forward)
    bridge = Bridge(grid, backward, forward, transform, spec.precision)
    bridge.spec = spec
    return bridge
