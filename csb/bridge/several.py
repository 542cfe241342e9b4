r"""Several observations of one unknown: products of bridges' path laws, sampled by sequential Monte Carlo.

For y_1, …, y_m that are independent given x, p(x | y_1, …, y_m) ∝ p(x)^{1−m} ∏_j p(x | y_j). A product of the steps is
not a step of that posterior, not even of Gaussians: y_1 and y_2 are not independent given a noised x_k. The product of
path laws is exact. Where P_j and P, the bridge's laws of x_0, …, x_T given y_j and with y missing, reverse one forward
process that does not depend on y, dP_j/dP = p(y_j | x_0)/p(y_j), and P·∏_j dP_j/dP has the posterior as its law of x_0.

With r_k(x_{k−1}, x_k) = ∏_j B_k(x_{k−1} | x_k, y_j)/B_k(x_{k−1} | x_k), the last kernel that with y missing, and with
S_k = Σ_{l>k} log r_l, n particles follow P·exp(λ_k S_k) from x_T ~ N(0, I), S_T = 0, to λ_0 = 1 (tempering, Neal 2001;
Chopin & Papaspiliopoulos 2020, ch. 17), for k = T, …, 1:

- weigh      log w += (λ_{k−1} − λ_k) S_k + log Z_k(x_k),    Z_k = ∫ B_k(x | x_k) r_k(x, x_k)^{λ_{k−1}} dx
- resample   systematically, where the effective sample size falls below half of n
- propose    x_{k−1} ~ B_k(· | x_k) r_k(·, x_k)^{λ_{k−1}} / Z_k, a Gaussian (:mod:`csb.bridge.product`)

Any λ_k give the same law of x_0. With λ_k = 1 particles would follow ∏_j p(y_j | x_k), which is much narrower than
p(y_1, …, y_m | x_k), and die out. For a Gaussian coordinate with conditional variances C of x_0 given x_k, and ρC
given y_j as well, the two are equally narrow at λ_k = 1/(1 + (m − 1)(1 − ρ)), which tends to 1 as k falls to 0. That is
taken, C and ρC from the kernels (:mod:`csb.bridge.paths`), 1 − ρ as its average over coordinates weighted by itself.

Kernels of covariance "fixed" reverse no process (with m = 20 and T = 8 their product has no finite mass) and are
refused. Diagonal kernels of correlated coordinates reverse one as far as steps are small: of two coordinates with
m = 20 and m ᾱ_T = 0.2 the product has no finite mass at T = 8, and variances are within 1 % at T = 16 and 32. How small
steps have to be depends on the problem, so that diagonal kernels are accepted of a single coordinate alone. The start
of a first iteration leaves out what x_T knows of y, and the process of later ones depends on y a little. With exact
kernels of x ~ N(0, 1) and y = x + noise of variance 0.01 to 4, all y = 2, the mean of x_0 was off by at most, in
standard deviations of the posterior (``python scripts/observations.py product``),

    m ᾱ_T              0.1     0.2     0.3     0.5     1
    m = 2,   L = 1     0.06    0.13    0.21    0.43    9
    m = 2,   L = 2     0.00    0.01    0.04    0.13    9
    m = 100, L = 1     0.01    0.02    0.04    0.07    2

and its variance by 0.4 % at m ᾱ_T = 0.2: the error grows as √m ᾱ_T, until at m ᾱ_T ≈ 1 the product has no finite mass.
MOST is the largest m ᾱ_T that is accepted for m > 1; a single y has the error of plain sampling.
"""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from csb.bridge.product import Ratio, Tilted, ratio
from csb.bridge.samples import SampleInfo, Samples, call_bar, measured, require_finite
from csb.errors import CSBError
from csb.process import Noise
from csb.process.resampling import effective_sample_size, systematic

if TYPE_CHECKING:
    from csb.bridge.bridge import Bridge

MOST = 0.2  # m·ᾱ_T, of more than one observation


def combined(bridge: "Bridge", y: Tensor, n: int, noise: Noise, batch: int, progress: bool) -> Samples:
    """Draw n weighted samples of the one unknown that the observations y (m, *y_shape) are of.

    Args:
        bridge: fitted with some y missing.
        y: checked observations, independent given x.
        n: particles. Where few ``unique_ancestors`` are left of them, more should be drawn.
        noise: of one observation.
        batch, progress: see :meth:`csb.bridge.Bridge.sample`.

    Returns:
        Samples as of one observation: x (n, *x_shape), log_weights (n,) of weights of sum 1, ESS and ancestors ().

    Raises:
        CSBError: a bridge that products are not sound for, or a product that is no Gaussian at some state.
    """
    require_products(bridge, y)
    T, m, maps = bridge.grid.T, len(y), bridge.transform
    with bridge.frozen(), measured(bridge.device) as cost, call_bar(T * (m + 1) * -(-n // batch), progress) as tick:
        c = maps.encode_y(y)
        contexts = bridge.contexts("backward", torch.cat([torch.full_like(c[:1], torch.nan), c]), batch)
        z, ancestors = noise.normal(n, *maps.z_shape), torch.arange(n, device=bridge.device)
        log_w = torch.zeros(1, n, dtype=torch.float64, device=bridge.device)
        total, power = log_w[0], 0.0  # S_k and λ_k
        for k in range(T, 0, -1):
            r = _ratio(bridge, z, k, contexts, batch, tick)
            power, before = r.temper(m, bridge.grid, k), power
            law = r.tilted(power)
            log_w = log_w + (power - before) * total + law.log_z
            numbers = noise.normal(n, z[0].numel(), dtype=z.dtype)
            if float(effective_sample_size(log_w)) < n / 2:
                chosen = systematic(log_w, noise.uniform(n)[None])[0]
                r, law = Ratio(*(rows[chosen] for rows in r)), Tilted(*(rows[chosen] for rows in law))
                ancestors, total, log_w = ancestors[chosen], total[chosen], torch.zeros_like(log_w)
            u = law.draw(numbers)
            z, total = r.mean + u.view_as(z).to(z), total + r.log(u)
        x = maps.decode(z, y[:1].expand(n, *y.shape[1:]))
        require_finite("the bridge", x[None])
    ess, unique = effective_sample_size(log_w)[0], torch.tensor(len(ancestors.unique()))
    info = SampleInfo(T * (m + 1), 0, cost.seconds, cost.peak_memory, ess=ess, unique_ancestors=unique)
    return Samples(x, info, log_w.log_softmax(1)[0])


def _ratio(bridge: "Bridge", z: Tensor, k: int, contexts: Tensor, batch: int, tick: Callable[[object], None]) -> Ratio:
    """r_k at states z (n, *z_shape), from contexts (1 + m, …), of which the first has y missing."""
    step = torch.tensor([k], device=z.device)

    def laws(part: Tensor) -> Iterator[Any]:
        for context in contexts:
            law = bridge.backward_kernel(part, step, context.expand(len(part), *context.shape))
            tick(law)
            yield law

    each = (laws(part) for part in z.split(batch))
    return Ratio(*(torch.cat(parts) for parts in zip(*(ratio(next(of), of) for of in each))))


def require_products(bridge: "Bridge", y: Tensor) -> None:
    """CSBError where products given y (m, *y_shape) of a bridge's kernels, horizon and states are not sound."""
    covariance, m, end, fault = bridge.backward_kernel.covariance, len(y), float(bridge.grid.alpha_bar[-1]), ""
    if covariance != "full" and (covariance != "diagonal" or math.prod(bridge.transform.z_shape) > 1):
        fault = f"covariance={covariance}; expected full: train it with objective.covariance=full"
    elif not bridge.missing:
        fault = "a network that does not know missing values; train it with training.missing=0.5"
    elif m > 1 and m * end > 1.01 * MOST:
        fault = (
            f"ᾱ_T={end:.3g} for m={m} observations; expected at most {MOST}/m: "
            f"train with schedule.alpha_bar_end={MOST / m:.3g}"
        )
    elif bridge.transform.unknown(y) is not None or _moves(bridge, y):
        fault = f"transform={bridge.transform.name}, whose states depend on y; expected another, as standardise"
    if fault:
        raise CSBError(f"combine=product is not possible for a bridge with {fault}")


def _moves(bridge: "Bridge", y: Tensor) -> bool:
    """Whether one state decodes to something else with y missing than given the observations y (m, *y_shape)."""
    given = torch.cat([torch.full_like(y[:1], torch.nan), y])
    x = bridge.transform.decode(torch.ones(len(given), *bridge.transform.z_shape, device=y.device), given)
    return not torch.equal(x, x[:1].expand_as(x))


def check_combine(combine: str, **options: Any) -> None:
    """CSBError for an unknown way to combine, and for options of :meth:`Bridge.sample` that it has no use for."""
    if combine != "product":
        raise CSBError(f"combine={combine!r:.60} is unknown; give product, or leave it out")
    if given := [name for name, value in options.items() if value]:
        raise CSBError(f"{', '.join(given)} cannot go with combine=product, which takes all steps once; leave it out")
