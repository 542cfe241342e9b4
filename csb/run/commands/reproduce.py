"""csb reproduce: a training done again with what is stored beside it, and compared."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from csb.evaluation.tables import print_table, write_json
from csb.run.config import STAGES
from csb.run.processes import begin
from csb.run.recipe import command_settings
from csb.run.reproduce import Reproduction, agrees, prepare
from csb.schema import OneOf, Place, Schema


class ReproduceSettings(Schema):
    """See conf/reproduce.yaml."""

    run: Place = Field(description="the folder of a finished training")
    stage: Annotated[str, OneOf(STAGES)] = Field(description="what is trained again")
    out: Place | None = Field(description="a new folder for it; null: beside run, with _reproduced at its end")
    tolerance: Annotated[float, Field(ge=0)]
    """0: every weight and figure the same; more, for another machine: the largest relative difference of a figure."""
    data: Place | None
    """Another place of the data: the folder of MNIST or of two .npy files, or the file of pairs; null: that of the
    first training."""
    resume: bool = Field(description="go on with a reproduction that was interrupted")
    overwrite: bool = Field(description="replace one that is there")
    progress: bool = Field(description="show the progress bar")


def _read(config: DictConfig) -> Reproduction:
    own = command_settings(ReproduceSettings, config)
    flags = {"resume": own.resume, "overwrite": own.overwrite, "progress": own.progress}
    return prepare(Path(own.run), own.stage, None if own.out is None else Path(own.out), own.tolerance, own.data, flags)


def validate(config: DictConfig, sweep: bool = False) -> Callable[[], None]:
    """CSBError where a value is wrong or there is no such training. Returns the check of data and folder."""
    return _read(config).check


def main(config: DictConfig) -> None:
    """Trains again and compares. Exit code 1 where the two trainings do not agree."""
    again = _read(config)
    again.check()  # in all processes before they join: what is written later belongs to this training
    ranks = begin(again.run.device, ["reproduce", *sys.argv[1:]])
    if ranks is None:
        return
    reported = again.differences()
    if ranks.is_rank_zero and reported:
        print_table(reported, title="what is not as it was")
    elif ranks.is_rank_zero:
        print("versions, commit and device are as they were")
    if ranks.is_rank_zero:
        print("the data are the same")
    again.train()
    if not ranks.is_rank_zero:
        return
    found = again.compare()
    for title, rows in found.items():
        if rows:
            print_table(rows, title=f"{title}, {again.folder} and {again.run.folder}")
    good = agrees(found, again.tolerance)
    about = {"run": again.folder, "environment": reported, "tolerance": again.tolerance, "agrees": good}
    write_json(again.run.folder / "reproduced.json", {**about, **found})
    if good:
        same = all(row["identical"] for row in found["weights"])
        print("it agrees: " + ("bit for bit" if same else f"within {again.tolerance:g}"))
        return
    print(f"error: {again.run.folder} does not agree with {again.folder}; the tables tell how far", file=sys.stderr)
    raise SystemExit(1)
