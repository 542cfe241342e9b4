"""csb reproduce: a training done again with what is stored beside it, and compared."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from csb.cli.train import begin
from csb.evaluation.table import print_table
from csb.files import write_json
from csb.runs.recipe import STAGES
from csb.runs.reproduce import Reproduction, agrees, reproduction
from csb.schema import Given, OneOf, Place, Schema


class ReproduceSettings(Schema):
    """What is trained again, and how near it must come."""

    run: Place = Field(description="the folder of a finished training")
    stage: Annotated[str, OneOf(STAGES)] = Field(default="bridge", description="what is trained again")
    out: Place | None = Field(
        default=None, description="a new folder for it; null: beside run, with _reproduced at its end"
    )
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """0: every weight and figure the same; more, for another machine: the largest relative difference of a figure."""
    data: Place | None = None
    """Another place of the data: the folder of MNIST or of two .npy files, or the file of pairs; null: that of the
    first training."""
    resume: bool = Field(default=False, description="go on with a reproduction that was interrupted")
    overwrite: bool = Field(default=False, description="replace one that is there")
    progress: bool = Field(default=True, description="show the progress bar")


def _read(given: Given) -> Reproduction:
    own = ReproduceSettings.read(given)
    flags = {"resume": own.resume, "overwrite": own.overwrite, "progress": own.progress}
    out = None if own.out is None else Path(own.out)
    return reproduction(Path(own.run), own.stage, out, own.tolerance, own.data, flags)


def prepare(given: Given) -> Callable[[], None]:
    """The second training. CSBError where a value is wrong, there is no such training, or the folder is taken."""
    again = _read(given)
    again.check()  # in all processes before they join: what is written later belongs to this training
    return partial(_run, again)


def _run(again: Reproduction) -> None:
    """Train again and compare. Exit code 1 where the two trainings do not agree."""
    ranks = begin(again.run.device, ["reproduce", *sys.argv[1:]])
    if ranks is None:
        return
    reported = again.differences()
    if ranks.is_rank_zero:
        if reported:
            print_table(reported, title="what is not as it was")
        else:
            print("versions, commit and device are as they were")
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
    if not good:
        print(f"error: {again.run.folder} does not agree with {again.folder}; the tables tell how far", file=sys.stderr)
        raise SystemExit(1)
    same = all(row["identical"] for row in found["weights"])
    print("it agrees: " + ("bit for bit" if same else f"within {again.tolerance:g}"))
