"""A bridge as a ``NeuralPosterior`` of sbi 0.27.

theta of sbi is x of the bridge, x of sbi is its y. Nothing here reads sbi's trained networks: sbi's diagnostics and
plots only ask a posterior for samples, and some for a density.
"""

import logging
import math
from typing import Any, NoReturn

import torch
from sbi.inference.posteriors.base_posterior import NeuralPosterior
from sbi.inference.potentials.base_potential import BasePotential
from sbi.samplers.rejection.rejection import accept_reject_sample
from sbi.utils.sbiutils import within_support
from sbi.utils.user_input_checks_utils import move_distribution_to_device
from torch import Tensor
from torch.distributions import Distribution

from csb.bridge import Bridge
from csb.errors import CSBError
from csb.numbers import Numbers, as_numbers, require_present
from csb.runs.prior import require_volume

_CORRECTION = 10_000  # samples that the share of a posterior inside the prior's support is estimated from, as sbi's own
_LEAST_SHARE = 1e-3  # of that many samples or more, below which drawing again is given up
logger = logging.getLogger(__name__)


class _Density(BasePotential):
    """log p(theta | x) of a posterior, where sbi asks for a potential."""

    def __init__(self, posterior: "Posterior") -> None:
        super().__init__(prior=None, device=posterior.bridge.device)
        self.posterior = posterior

    def __call__(self, theta: Tensor, track_gradients: bool = True) -> Tensor:
        return self.posterior.log_prob(theta, self.x_o, norm_posterior=False, track_gradients=track_gradients)


class Posterior(NeuralPosterior):
    """p(theta | x) of a trained bridge, for whatever in sbi takes a posterior: ``run_sbc``, ``run_tarp``, ``LC2ST``, ….

    Random numbers come from torch's global generator, as everywhere in sbi: ``torch.manual_seed`` repeats them.

    Args:
        bridge: theta is its x, flattened to vectors of d numbers; x is its y.
        prior: where given, samples outside its support are drawn again, and :meth:`log_prob` is −∞ there. A bridge
            trained with the prior's bounds (``transform=reflect`` or ``probit``) has none outside.

    Raises:
        CSBError: a prior whose support has no volume, as a simplex or whole numbers.
    """

    def __init__(self, bridge: Bridge, prior: Distribution | None = None) -> None:
        if prior is not None:
            require_volume(prior)
        self.bridge, self.prior = bridge, prior
        super().__init__(_Density(self), device=bridge.device)
        self._purpose = f"It draws samples by a bridge, in {bridge.grid.T} network calls each."
        if prior is not None and bridge.device.type != "cpu":
            self.prior = move_distribution_to_device(prior, bridge.device)

    @property
    def device(self) -> torch.device:
        """Where samples are drawn, and what they come on."""
        return self.bridge.device

    def to(self, device: str | torch.device) -> "Posterior":
        """Moves the bridge, the prior and the default x to a device."""
        x = self.default_x
        self.__init__(self.bridge.to(device), self.prior)
        if self.prior is not None:
            self.prior = move_distribution_to_device(self.prior, self.bridge.device)
        return self if x is None else self.set_default_x(x)  # type: ignore[return-value]

    def sample(
        self,
        sample_shape: torch.Size | tuple[int, ...] = (),
        x: Tensor | None = None,
        show_progress_bars: bool = False,
        **options: Any,
    ) -> Tensor:
        """Samples at one observation, (*sample_shape, d).

        Args:
            sample_shape: e.g. (1000,); () for one theta, (0,) for none.
            x: the observation, of the shape of the bridge's y, flattened or not; None takes the default x.
            show_progress_bars: whether drawing again outside the prior's support shows one.
            options: as of :meth:`sample_batched`.

        Raises:
            CSBError: an x of another shape, or several; not finite; as :meth:`sample_batched`.
        """
        y = self._observation(x)
        return self._draw(sample_shape, y, show_progress_bars, **options).squeeze(-2)

    def sample_batched(
        self,
        sample_shape: torch.Size | tuple[int, ...],
        x: Tensor,
        show_progress_bars: bool = False,
        **options: Any,
    ) -> Tensor:
        """Samples at B observations, (*sample_shape, B, d).

        Args:
            sample_shape: e.g. (1000,) for each observation.
            x: (B, …).
            show_progress_bars: as of :meth:`sample`.
            options: ``max_sampling_batch_size`` (1024 states a network call), ``reject_outside_prior`` (True),
                ``max_sampling_time`` (None; seconds, of drawing again).

        Raises:
            CSBError: an x of another shape or not finite; fewer than one in 1,000 of 10,000 samples or more lie inside
                the prior's support, or the time is over.
        """
        return self._draw(sample_shape, self._observations(x), show_progress_bars, **options)

    def _draw(
        self,
        sample_shape: torch.Size | tuple[int, ...],
        y: Tensor,
        progress: bool,
        max_sampling_batch_size: int = 1024,
        reject_outside_prior: bool = True,
        max_sampling_time: float | None = None,
    ) -> Tensor:
        """(*sample_shape, B, d) for observations y (B, *y_shape)."""
        try:
            shape = torch.Size(sample_shape)
        except TypeError:
            shape = torch.Size((-1,))
        if min(shape, default=0) < 0:
            raise CSBError(f"sample_shape={sample_shape!r} is no tuple of numbers ≥ 0; give e.g. (1000,)")
        if not shape.numel():
            d = math.prod(self.bridge.transform.x_shape)
            return torch.empty((*shape, len(y), d), dtype=torch.float32, device=self.device)

        def propose(sample_shape: torch.Size, **given: Tensor) -> Tensor:
            x = self.bridge.sample(given["condition"], sample_shape.numel(), batch_size=max_sampling_batch_size).x
            return x.flatten(2).transpose(0, 1)

        if self.prior is None or not reject_outside_prior:
            theta = propose(shape, condition=y)
        else:
            theta = self._accepted(propose, shape.numel(), y, progress, max_sampling_time)
        return theta.reshape(*shape, *theta.shape[1:])

    def _accepted(self, propose: Any, n: int, y: Tensor, progress: bool, seconds: float | None) -> Tensor:
        """(n, B, d): samples outside the prior's support are drawn again, at most for so many seconds."""
        drawn, inside = 0, torch.zeros(len(y), dtype=torch.int64)

        def lack(after: str = "") -> CSBError:
            worst = int(inside.argmin())
            return CSBError(
                f"{int(inside[worst])} of {drawn} samples of observation {worst} lie in the prior's support{after}; "
                f"train with the prior's bounds or longer, see whether the simulator makes such an x, or sample with "
                f"reject_outside_prior=False"
            )

        def tried(sample_shape: torch.Size, **given: Tensor) -> Tensor:
            if drawn >= _CORRECTION and int(inside.min()) < _LEAST_SHARE * drawn:
                raise lack()
            return propose(sample_shape, **given)

        def accept(theta: Tensor) -> Tensor:
            nonlocal drawn, inside
            found = within_support(self.prior, theta)
            drawn, inside = drawn + len(theta), inside + found.sum(0).cpu()
            return found

        try:
            return accept_reject_sample(
                tried, accept, n, show_progress_bars=progress, proposal_sampling_kwargs={"condition": y},
                max_sampling_time=seconds,
            )[0]  # fmt: skip
        except RuntimeError as error:
            if "max_sampling_time" in str(error):
                raise lack(f" after {seconds:g} s") from error
            raise

    def log_prob(
        self,
        theta: Tensor,
        x: Tensor | None = None,
        norm_posterior: bool = True,
        track_gradients: bool = False,
        n: int = 64,
    ) -> Tensor:
        """log p(theta | x) at one observation, (m,) for theta (m, d), by ``Bridge.log_prob``.

        Args:
            theta: (m, d) or (d,).
            x: as of :meth:`sample`.
            norm_posterior: with a prior: divide by the share of the bridge's samples inside the prior's support,
                estimated from 10,000 of them; where none of them is inside, by 1/10,000, with a warning.
            track_gradients: must be False.
            n: as of ``Bridge.log_prob``, which estimates the density.

        Raises:
            NotImplementedError: gradients are asked for, or the bridge has no density.
            CSBError: as of :meth:`sample`; a theta of another length.
        """
        y = self._observation(x)
        theta = torch.atleast_2d(as_numbers("theta", theta).float())
        return self._log_prob(theta[:, None], y, norm_posterior, track_gradients, n)[:, 0]

    def log_prob_batched(
        self, theta: Tensor, x: Tensor, norm_posterior: bool = True, track_gradients: bool = False, n: int = 64
    ) -> Tensor:
        """log p(theta | x) for theta (*sample_shape, B, d) at x (B, …): (*sample_shape, B); see :meth:`log_prob`."""
        y = self._observations(x)
        values = as_numbers("theta", theta).float()
        if values.ndim < 2 or values.shape[-2] != len(y):
            raise CSBError(f"theta has shape {tuple(values.shape)} and there are {len(y)} x; give (…, {len(y)}, d)")
        flat = values.reshape(-1, *values.shape[-2:])
        return self._log_prob(flat, y, norm_posterior, track_gradients, n).reshape(values.shape[:-1])

    def _log_prob(self, theta: Tensor, y: Tensor, normed: bool, gradients: bool, n: int) -> Tensor:
        """(m, B) for theta (m, B, d) and y (B, *y_shape)."""
        if gradients:
            raise NotImplementedError("log_prob is an estimate without gradients; use track_gradients=False")
        shape = self.bridge.transform.x_shape
        if theta.shape[-1] != math.prod(shape):
            raise CSBError(f"theta holds {theta.shape[-1]} numbers; the bridge's x of shape {shape} {math.prod(shape)}")
        theta = theta.to(self.device)
        found = self.bridge.log_prob(theta.transpose(0, 1).unflatten(2, shape), y, n=n).transpose(0, 1)
        if self.prior is None:
            return found
        found = torch.where(within_support(self.prior, theta), found, -torch.inf)
        if not normed:
            return found
        drawn = self._draw((_CORRECTION,), y, False, reject_outside_prior=False)
        inside = within_support(self.prior, drawn).sum(0)
        for i in (inside == 0).nonzero()[:, 0].tolist():
            logger.warning(
                "none of %d samples of observation %d lies inside the prior's support: its log_prob is normalised by a "
                "share of 1/%d and too low; train with the prior's bounds or longer",
                _CORRECTION, i, _CORRECTION,
            )  # fmt: skip
        return found - (inside.clamp_min(1).double() / _CORRECTION).log().to(found.dtype)

    def map(self, *args: Any, **options: Any) -> NoReturn:
        """NotImplementedError: sbi climbs the density by its gradient; a bridge's is a noisy estimate without one."""
        raise NotImplementedError("a bridge has no gradient of its density to climb; take the mean of samples, or KDE")

    def _observations(self, x: Numbers) -> Tensor:
        """x as a batch (B, *y_shape) on the bridge's device. CSBError for another shape or values not finite."""
        shape = self.bridge.transform.y_shape
        size, x = math.prod(shape), as_numbers("x", x).to(self.device, self.bridge.transform.dtype_of("y"))
        if tuple(x.shape) in (shape, (size,)):
            x = x[None]
        if x.ndim < 2 or len(x) == 0 or math.prod(x.shape[1:]) != size:
            raise CSBError(f"x has shape {tuple(x.shape)}; expected {shape} or a batch (B, {str(shape)[1:]}")
        x = x.reshape(-1, *shape)
        require_present("x", x, "pass finite observations")
        return x

    def _observation(self, x: Tensor | None) -> Tensor:
        """One x, or the default x, as (1, *y_shape); CSBError for several."""
        shape = self.bridge.transform.y_shape
        given = self._x_else_default_x(None) if x is None else as_numbers("x", x)
        if given.numel() == math.prod(shape):  # of any shape, with or without a batch dimension
            return self._observations(given.reshape(1, *shape))
        y = self._observations(given)
        raise CSBError(f"x holds {len(y)} observations; use the batched method, which takes several")
