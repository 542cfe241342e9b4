"""A training done again with the configuration, seed and data of the first, and compared with it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from csb.bridge.checkpoint import load
from csb.errors import CSBError
from csb.files import checksum, model_file
from csb.renamed import groups_of_today
from csb.runs.config import RunConfig, read
from csb.runs.folder import PROVENANCE, check_folder, data_of, environment, read_provenance, stage_files
from csb.runs.load import half_step_files, read_result, stored_spec
from csb.runs.recipe import DISTIL, flatten
from csb.runs.stages import stage_job, teacher
from csb.runs.train import train
from csb.schema import Schema

_ROUNDING = 1e-5  # of float32 numbers of about one, on another processor


class _Part(Schema):
    """A part of an entry of ``provenance.json``, in which more may stand."""

    model_config = ConfigDict(extra="ignore")


class _Entry(_Part):
    seed: int


class _Device(_Part):
    device: str
    threads: Annotated[int, Field(ge=1, le=4096)]  # more than one machine has


class _Data(_Part):
    files: dict[str, str]
    sha256: str
    first: list[float]
    pairs: int


class _Config(_Part):
    trainer: dict[str, Any]
    problem: dict[str, Any]
    training: dict[str, Any]
    distil: dict[str, Any]


@dataclass(frozen=True)
class Reproduction:
    """A training that is done again.

    Attributes:
        folder: of the first.
        first: its entry in ``provenance.json``.
        run: the configuration of the second.
        tolerance: see :func:`agrees`.
    """

    folder: Path
    first: dict[str, Any]
    run: RunConfig
    tolerance: float

    def check(self) -> None:
        """CSBError where the folder of the second cannot be written or holds a run, or the data are others."""
        if self.run.folder.resolve() == self.folder.resolve():
            raise CSBError(f"out={self.run.folder} is the folder of the first training; choose another one")
        if self.run.stage == DISTIL:
            path = model_file(teacher(self.run).folder, "bridge")
            if checksum(path) != self.first.get("bridge"):
                raise CSBError(f"{path} is another bridge than that of the first training; restore it")
        self.run.problem.prepare()
        require_same_data(self.first["data"], data_of(self.run.problem), self.tolerance)
        check_folder(self.run)

    def differences(self) -> list[dict[str, Any]]:
        """What of the environment is not as it was: rows with its name, then and now."""
        device = self.run.device
        found = environment(device.where, device.precision)
        then, now = (flatten({part: one[part] for part in found}) for one in (self.first, found))
        names = sorted(then.keys() | now.keys())
        return [{"of": n, "then": then.get(n), "now": now.get(n)} for n in names if then.get(n) != now.get(n)]

    def train(self) -> None:
        """Trains, with as many threads as the first time: sums of other lengths round otherwise."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.first["device"]["threads"])
        try:
            (train if self.run.stage == "bridge" else stage_job)(self.run)
        finally:
            torch.set_num_threads(before)

    def compare(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of weights, a file each, and of the figures of ``result.json``."""
        stage, one, two = self.run.stage, self.folder, self.run.folder
        files, figures = [stage_files(one, stage)[0]], []
        if stage == "bridge":
            files += half_step_files(one)
            figures = figure_rows(
                *({k: v for k, v in read_result(run).items() if k != "seconds"} for run in (one, two))
            )
        weights = []
        for path in files:
            name = path.relative_to(one)
            other = model_file(two, str(name.with_suffix("")))
            weights.append(weight_row(str(name), load(path).state_dict(), load(other).state_dict()))
        return {"weights": weights, "figures": figures}


def reproduction(
    folder: Path, stage: str, out: Path | None, tolerance: float, data: str | None, flags: Mapping[str, bool]
) -> Reproduction:
    """The reproduction of a stage's training in a folder.

    ``flags``: resume, overwrite and progress of the second training. CSBError where the first is not finished or its
    environment is not known, and as :func:`csb.runs.config.read`.
    """
    path, _ = stage_files(folder, stage)
    if not path.is_file():
        raise CSBError(f"run={folder} holds no {path.name}; give the folder of a finished training of stage={stage}")
    first = read_provenance(folder).get(stage)
    if not isinstance(first, dict):
        raise CSBError(f"{folder / PROVENANCE} does not say how {path.name} was made; train it again")
    if isinstance(first.get("config"), dict):
        first["config"] = groups_of_today(first["config"])
    entry = f"{folder / PROVENANCE}: {stage}"
    _Entry.read(first, entry)
    for name, part in {"config": _Config, "device": _Device, "data": _Data}.items():
        part.read(first.get(name), f"{entry}.{name}")
    config, problem = first["config"], first["config"]["problem"]
    new = folder.with_name(f"{folder.resolve().name}_reproduced") if out is None else out
    plain = {**config, **flags, "stage": stage, "evaluate": False, "logger": {"name": "none"}}
    plain |= {"out": str(new.parent), "name": new.name, "seed": first["seed"], "run": None}
    plain["trainer"] = {**config["trainer"], "accelerator": "cpu" if first["device"]["device"] == "cpu" else "auto"}
    if stage == DISTIL:
        plain["run"] = str(folder) if model_file(folder, "bridge").is_file() else config["run"]
        plain["distil"] = {**config["distil"], "out": str(new)}
    plain["training"] = {k: v for k, v in config["training"].items() if k != "cache_spill"}  # of older versions
    plain["problem"] = stored_spec(problem, folder) if data is None else _moved(problem, data)
    return Reproduction(folder, first, read(plain), tolerance)


def _moved(problem: dict[str, Any], data: str) -> dict[str, Any]:
    """The problem's spec with another place of its data; of two .npy files the folder. CSBError where it has none."""
    if "path" in problem and problem["path"] is None:
        return {**problem, **{key: str(Path(data) / Path(problem[key]).name) for key in ("x", "y")}}
    places = [place for place in ("root", "path") if place in problem]
    if not places:
        raise CSBError(f"data={data} has no meaning for {problem.get('name')}, whose pairs are drawn; leave it out")
    return {**problem, places[0]: data}


def require_same_data(then: dict[str, Any], now: dict[str, Any], tolerance: float) -> None:
    """CSBError where the data are not those of the first training.

    Pairs that are drawn may be rounded otherwise on another machine: with a tolerance, numbers that are near will do.
    """
    if sorted(then["files"].values()) != sorted(now["files"].values()):
        reported = ", ".join(f"{name} {value}" for name, value in {**then["files"], **now["files"]}.items())
        raise CSBError(f"the data differ from those of the first training ({reported}); give them with data=…")
    if then["sha256"] == now["sha256"]:
        return
    same_length = len(then["first"]) == len(now["first"])
    near = same_length and all(math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
                               for a, b in zip(then["first"], now["first"]))  # fmt: skip
    if not near:
        raise CSBError(
            f"the first {now['pairs']} training pairs differ from those of the first training (SHA-256 "
            f"{now['sha256'][:12]}…, not {then['sha256'][:12]}…); use the version of csb and torch that made them"
        )
    if tolerance == 0:
        raise CSBError(
            "the training pairs differ in rounding from those of the first training, so that nothing can be the same "
            "bit for bit; give tolerance=0.05 or the like"
        )


def weight_row(name: str, one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> dict[str, Any]:
    """A file's weights compared: whether they are the same bit for bit, and the largest difference.

    "relative" is that difference by the largest weight of the first; both are None for tensors of other shapes.
    """
    shapes = [{key: tensor.shape for key, tensor in weights.items()} for weights in (one, two)]
    if shapes[0] != shapes[1]:
        return {"file": name, "identical": False, "difference": None, "relative": None}
    identical = all(torch.equal(one[key], two[key]) for key in one)
    largest = max((float((one[key] - two[key]).abs().max()) for key in one if one[key].numel()), default=0.0)
    scale = max((float(one[key].abs().max()) for key in one if one[key].numel()), default=0.0)
    return {"file": name, "identical": identical, "difference": largest, "relative": largest / scale if scale else 0.0}


def figure_rows(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of both, their difference, and that by the larger of them; None where one lacks it."""
    rows = []
    for key in dict.fromkeys([*one, *two]):
        a, b = one.get(key), two.get(key)
        if isinstance(a, int | float) and isinstance(b, int | float):
            difference, scale = abs(a - b), max(abs(a), abs(b))
        else:
            difference, scale = 0.0 if a == b and key in one and key in two else None, 0.0
        relative = difference if not difference or difference is None else difference / scale
        rows.append({"figure": key, "first": a, "again": b, "difference": difference, "relative": relative})
    return rows


def agrees(found: Mapping[str, list[dict[str, Any]]], tolerance: float) -> bool:
    """Whether two trainings agree.

    With no tolerance: every weight bit for bit, and every figure. With one: every figure's relative difference is
    within it; where there are no figures, that of the weights.
    """
    if tolerance == 0:
        return all(row["identical"] for row in found["weights"]) and all(r["difference"] == 0 for r in found["figures"])
    rows = found["figures"] or found["weights"]
    return all(row["relative"] is not None and row["relative"] <= tolerance for row in rows)
