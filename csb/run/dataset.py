"""A training on a torch Dataset, from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from torch.utils.data import Dataset

from csb.errors import CSBError
from csb.problems import FilePairs, from_dataset
from csb.run import cli
from csb.run.config import RunConfig, read
from csb.run.load import Run, load_run
from csb.run.train import train
from csb.training.fit import with_gradients

_OWN = ("experiment", "problem", "data.path", "out", "name")  # set by train_dataset


def configured(overrides: Sequence[str]) -> RunConfig:
    """The checked settings of ``csb train`` with these overrides. CSBError where they are wrong, or train no bridge."""
    outer = GlobalHydra.instance().hydra  # of a program that is run by Hydra itself
    GlobalHydra.instance().clear()
    try:
        run = cli.checked("train", overrides, read)
    finally:
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
    if run.stage != "bridge":
        raise CSBError(f"stage={run.stage} trains no bridge; leave stage out")
    return run


def require_free(overrides: Sequence[str], own: Sequence[str], function: str) -> None:
    """CSBError for an override of what a function sets itself."""
    for override in overrides:
        if override.partition("=")[0].lstrip("+~") in own:
            raise CSBError(f"overrides hold {override}, which {function} sets itself; use its arguments")


@with_gradients()
def train_dataset(
    dataset: Dataset[Any], *, overrides: Sequence[str] = (), out: str | Path = "outputs", name: str = "pairs"
) -> Run:
    """Trains a bridge on the pairs of a Dataset, which may be larger than memory, and returns the run.

    The same as ``csb train experiment=pairs`` (of images: pairs_images) on a file of the same pairs, bit for bit. The
    run in <out>/<name> can be sampled from anywhere; what needs its pairs again (an evaluation, another stage) needs
    :func:`csb.problems.from_dataset` with the same name first.

    Args:
        dataset: map-style, with items (x, y); see :func:`csb.problems.from_dataset`.
        overrides: of the configuration, as on the command line: ["L=2", "ipf.steps=1000", "resume=true"].
        out, name: the run's folder is <out>/<name>.

    Raises:
        CSBError: items that are no pairs of finite numbers; a wrong override; a folder that holds a run; whatever
            training raises.
    """
    require_free(overrides, _OWN, "train_dataset")
    path = from_dataset(dataset, name)
    experiment = "pairs_images" if FilePairs(path=path).is_image else "pairs"
    places = [f"{key}={cli.quoted(str(value))}" for key, value in (("data.path", path), ("out", out), ("name", name))]
    run = configured([f"experiment={experiment}", *places, *overrides])
    train(run)
    return load_run(run.folder)
