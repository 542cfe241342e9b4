"""What the methods of a comparison are made from: a problem, folders with trained models, and the denoiser."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from csb.bridge.checkpoint import load
from csb.dtypes import default_device
from csb.errors import CSBError
from csb.evaluation.results import scoring_transform
from csb.files import checksum, model_file
from csb.networks.diffusion import CONDITIONAL, NetworkDenoiser
from csb.problems import Problem, Transform, build_problem
from csb.problems.sources import PLACES, same_problem
from csb.process import Grid, LinearBeta, Schedule
from csb.runs.config import schedule_of
from csb.runs.folder import stage_files
from csb.runs.guided import Guide, can_be_guided, guide_of
from csb.runs.load import Run, load_run, stored_spec
from csb.runs.recipe import BaselineSettings
from csb.runs.stages import exact_denoiser, load_stage, stored_denoiser
from csb.samplers.diffusion import LONG

MODELS = ("bridge", *(model.file for model in CONDITIONAL.values()), "denoiser", "consistency")  # names of files


def without_places(spec: dict[str, Any]) -> dict[str, Any]:
    """A problem's spec without the places of its data."""
    return {key: value for key, value in spec.items() if key not in PLACES}


@dataclass(frozen=True, eq=False)
class Sources:
    """What the methods are made from.

    Args:
        problem: of the comparison.
        folders: of runs on it, each with some of MODELS.
        source: the folder with the denoiser; None: the first of ``folders``.
        baselines: of the guided samplers.
        schedule: of the guided samplers; None: that of the first run, or LinearBeta.
        device: of networks.

    Raises:
        CSBError: a folder that is missing or holds no model.
    """

    problem: Problem
    folders: tuple[Path, ...]
    source: Path | None
    baselines: BaselineSettings
    schedule: Schedule | None
    device: str = field(default_factory=default_device)

    def __post_init__(self) -> None:
        for folder in (*self.folders, *([] if self.source is None else [self.source])):
            if not any(model_file(folder, name).is_file() for name in MODELS):
                raise CSBError(f"{folder} holds none of {', '.join(MODELS)}; give the folder of a finished training")

    @cached_property
    def transform(self) -> Transform:
        """Tells the unit of scores, and which pixels observations leave open."""
        return scoring_transform(self.problem)

    def _require_same(self, spec: dict[str, Any], path: Path) -> None:
        own, other = (without_places(build_problem(stored_spec(s, path)).spec()) for s in (self.problem.record(), spec))
        if not same_problem(own, other):
            raise CSBError(f"{path} is of {other}, not of {own}; give problem={other['name']} with these values")

    @cached_property
    def runs(self) -> list[Run]:
        """The folders with a bridge. CSBError for one on another problem."""
        found = [load_run(folder, self.device) for folder in self.folders if model_file(folder, "bridge").is_file()]
        for run in found:
            self._require_same(run.about["problem"], run.folder)
        return found

    def models(self, kind: str) -> list[tuple[Path, Any]]:
        """The conditional models of a kind, each with its file. CSBError for one on another problem."""
        found = []
        for folder in self.folders:
            if (path := stage_files(folder, kind)[0]).is_file():
                model = load_stage(folder, kind, self.device)
                self._require_same(model.about["problem"], path)
                found.append((path, model))
        return found

    @property
    def _denoisers(self) -> Path | None:
        return self.source or next(iter(self.folders), None)

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The configuration behind the first bridge, else behind the stored denoiser; empty without either."""
        if self.runs:
            return self.runs[0].config
        folder = self._denoisers
        if folder is None or not (path := model_file(folder, "denoiser")).is_file():
            return {}
        return load(path, of=NetworkDenoiser).about.get("config", {})

    @property
    def _schedule(self) -> Schedule:
        """Before its horizon is set."""
        if self.schedule is not None:
            return self.schedule
        group = self._config.get("schedule")
        return LinearBeta(alpha_bar_end=LONG) if group is None else schedule_of(group)

    @cached_property
    def guide(self) -> Guide:
        """What the guided samplers share, on a grid of ``baselines.T`` steps.

        CSBError where there is no denoiser, or the problem has no likelihood for guidance.
        """
        problem, folder = self.problem, self._denoisers
        if not can_be_guided(problem):
            raise CSBError(f"{problem.name} has no likelihood y = H(x) + noise for guidance")
        denoiser = exact_denoiser(problem) if folder is None else stored_denoiser(problem, folder, self.device)
        if denoiser is None:
            where = "" if folder is None else f", and {folder} holds no denoiser"
            raise CSBError(
                f"the denoiser of {problem.name} is not known in closed form{where}; train it with csb train … "
                f"stage=denoiser, and give its folder as run= or prior="
            )
        precision = self._config.get("trainer", {}).get("precision", "32-true")
        if self.runs:
            precision = self.runs[0].bridge.precision
        return guide_of(problem, denoiser, self._schedule, self.baselines, precision, folder or Path(), 0)

    def guide_at(self, T: int) -> Guide:
        """The guide on a grid of T steps with the same schedule and horizon."""
        schedule = self._schedule.replace(alpha_bar_end=float(self.guide.grid.alpha_bar[-1]))
        return replace(self.guide, grid=Grid.from_schedule(schedule, T))

    @cached_property
    def guide_about(self) -> dict[str, Any]:
        """What the guided samplers depend on beside T and their own arguments, as plain data."""
        file = None if self._denoisers is None else model_file(self._denoisers, "denoiser")
        return {
            "denoiser": None if file is None or exact_denoiser(self.problem) is not None else checksum(file),
            "schedule": {"name": type(self._schedule).__name__, **vars(self._schedule)},
            "alpha_bar_end": float(self.guide.grid.alpha_bar[-1]),
            "min_std": self.baselines.min_std,
            "precision": self.guide.precision,
        }
