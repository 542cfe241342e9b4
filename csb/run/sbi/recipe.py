"""From a prior and a simulator of sbi to a trained posterior, by experiment=pairs."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from sbi.inference import simulate_for_sbi
from sbi.utils.user_input_checks import process_prior, process_simulator
from torch import Tensor
from torch.distributions import Distribution

from csb.errors import CSBError, require_int
from csb.files import write_atomically
from csb.problems.sources import LEAST
from csb.run import cli
from csb.run.dataset import configured, require_free
from csb.run.load import load_run
from csb.run.sbi.bounds import Side, prior_bounds
from csb.run.sbi.posterior import Posterior
from csb.run.sbi.volume import draws_needed, require_volume
from csb.run.train import check_folder, check_writable, train
from csb.training.fit import with_gradients

Bounds = tuple[Side, Side] | None
Prior = Distribution | Sequence[Distribution]
_OWN = ("experiment", "problem", "data.path", "data.low", "data.high", "out", "name", "seed")  # set by train_posterior
logger = logging.getLogger(__name__)


def pairs_from(
    prior: Prior,
    simulator: Callable[..., Any],
    n: int,
    path: str | Path,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    workers: int = 1,
) -> tuple[Distribution, Path]:
    """Simulates n pairs into a file for experiment=pairs: x of the file is theta, y is what the simulator returned.

    The global random number generators, which sbi seeds, are put back afterwards.

    Args:
        prior: of theta; whatever ``sbi.utils.process_prior`` takes.
        simulator: theta (N, d) → x (N, …), or one theta → one x; whatever ``process_simulator`` takes. An x that is
            neither a vector nor an image (C, H, W) is flattened.
        n: pairs, 100 or more.
        path: of the .npz file.
        seed: of all of them, ≥ 0.
        batch_size: theta that the simulator is given at a time.
        workers: processes.

    Returns:
        The prior as sbi uses it, and the path. Pairs whose x is not finite are left out, with a warning.

    Raises:
        CSBError: numbers out of range, a prior without a density (a simplex, whole numbers), a path that cannot be
            written, too few pairs that are finite.
    """
    require_int("n", n, LEAST)
    for key, value, low in (("seed", seed, 0), ("batch_size", batch_size, 1), ("workers", workers, 1)):
        require_int(key, value, low)
    path = Path(path)
    check_writable(path.parent)
    used, theta, x = _simulate(prior, simulator, n, seed, batch_size, workers)
    theta, x = _finite(theta, x)
    _write(path, theta.cpu().numpy(), x.cpu().numpy())
    return used, path


def _simulate(
    prior: Prior, simulator: Callable[..., Any], n: int, seed: int, batch_size: int = 1, workers: int = 1
) -> tuple[Distribution, Tensor, Tensor]:
    """The prior as sbi uses it, theta (n, d) and x (n, m) or (n, C, H, W). CSBError for a prior without a density."""
    with isolate_rng():
        used, dim, numpy = process_prior(prior)
        torch.manual_seed(seed)
        require_volume(used, used.sample((draws_needed(dim),)).reshape(-1, dim))
        ready = process_simulator(simulator, used, numpy)
        theta, x = simulate_for_sbi(
            ready, used, n, workers, min(batch_size, n), seed=seed, show_progress_bar=False
        )  # fmt: skip
    return used, theta, x if x.ndim in (2, 4) else x.reshape(len(x), -1)


def _write(path: Path, theta: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> None:
    write_atomically(path, lambda file: np.savez(file, x=theta, y=x))


def _finite(theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    valid = torch.isfinite(x).flatten(1).all(1)
    if (kept := int(valid.sum())) < LEAST:
        raise CSBError(f"{kept} of {len(x)} simulated x are finite; at least {LEAST} are needed; fix the simulator")
    if kept < len(x):
        logger.warning(
            "%d of %d simulated x hold NaN or infinite values and are left out: what is learned is the posterior given "
            "that x is finite", len(x) - kept, len(x),
        )  # fmt: skip
    return theta[valid], x[valid]


@with_gradients()
def train_posterior(
    prior: Prior,
    simulator: Callable[..., Any],
    n: int,
    *,
    overrides: Sequence[str] = (),
    out: str | Path = "outputs",
    name: str = "sbi",
    seed: int = 0,
    bounds: Bounds | Literal["prior"] = "prior",
    batch_size: int = 1000,
    workers: int = 1,
) -> Posterior:
    """Simulates n pairs, trains a bridge on them and returns it as a posterior.

    The same as ``python train.py experiment=pairs data.path=<out>/<name>.npz name=<name> …``; the run in <out>/<name>
    can be evaluated, resumed and loaded like any other.

    Args:
        prior, simulator, n, seed, batch_size, workers: as of :func:`pairs_from`; the seed is that of the training too.
        overrides: of the configuration, as on the command line: ["L=2", "ipf.steps=1000"]. overwrite=true replaces a
            run that is there.
        out, name: the run's folder is <out>/<name>.
        bounds: of theta: "prior" reads them off the prior's support; or (low, high), one number or None for each
            coordinate; or None. Samples stay inside (problem.transform, reflect by default).

    Raises:
        CSBError: as of :func:`pairs_from`; a wrong override; a folder that holds a run; whatever training raises.
    """
    require_free(overrides, _OWN, "train_posterior")
    require_int("n", n, LEAST)
    used, theta, x = _simulate(prior, simulator, 1, seed)  # for the shapes, and to see that both work
    if bounds == "prior":
        bounds = prior_bounds(used, theta.shape[1])
    given = ["experiment=pairs", f"out={cli.quoted(str(out))}", f"name={cli.quoted(name)}", f"seed={seed}", *overrides]
    if bounds is not None:
        given += [f"data.{side}={_list(values)}" for side, values in zip(("low", "high"), bounds)]
    with tempfile.TemporaryDirectory() as folder:  # what is wrong is reported before hours of simulation
        _write(trial := Path(folder) / "pairs.npz", *(np.zeros((n, *a.shape[1:]), np.float32) for a in (theta, x)))
        check_folder(configured([*given, f"data.path={cli.quoted(str(trial))}"]))
    path = Path(out) / f"{name}.npz"
    pairs_from(prior, simulator, n, path, seed=seed, batch_size=batch_size, workers=workers)
    run = configured([*given, f"data.path={cli.quoted(str(path))}"])
    train(run)
    return Posterior(load_run(run.folder).bridge, used)


def _list(values: Side) -> str:
    return "[" + ",".join("null" if v is None else repr(float(v)) for v in values) + "]"
