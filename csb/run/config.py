"""From a Hydra config to checked, typed settings. Nothing here does any work: a bad config fails before any starts."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from csb.bridge import BridgeSpec, Direction, KernelSpec, build_bridge
from csb.bridge.objectives import Objective, build_objective
from csb.bridge.steps import check_leaps
from csb.errors import CSBError, is_number, is_one_of, require_flag, require_int, require_place
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.networks.conditional import CONDITIONAL, ConditionalSpec, build_conditional
from csb.problems import FilePairs, Problem, build_problem
from csb.problems.scale import finest_scale, pool
from csb.problems.specs import absolute
from csb.problems.transform import Transform
from csb.process import SCHEDULES, SHORT, Grid, Power, Schedule, automatic_horizon, seeded
from csb.process.schedule import LEAST_SCALE
from csb.run.logs import LoggerSettings
from csb.run.recipe import (
    AUTO,
    flatten,
    kernels,
    require_given,
    require_groups,
    require_keys,
    require_teacher,
    resolved_by_count,
    resolved_by_device,
    resolved_by_shape,
    resolved_split,
    settings,
)
from csb.run.room import require_room
from csb.samplers.build import BaselineSettings
from csb.training.conditional import ConditionalSettings
from csb.training.denoiser import DenoiserSettings
from csb.training.distil import DistilSettings
from csb.training.gradients import with_gradients
from csb.training.pairs import EncodedPairs, as_pairs
from csb.training.plan import plan
from csb.training.settings import MOST_ITERATIONS, DeviceSettings, IPFSettings, OptimizerSettings
from csb.training.state import FREE
from csb.training.storage import DTYPES, capacity

_SCALE = 71  # key of the random stream
_FINEST = 1e-3  # standard deviations: of a coordinate that y determines there is no scale to resolve
DISTIL = "distil"
STAGES = ("bridge", "denoiser", *CONDITIONAL, DISTIL)
_FLAGS = ("resume", "overwrite", "progress", "evaluate")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunConfig:
    """A checked configuration. ``plain`` is the whole config as plain data."""

    problem: Problem
    schedule: Schedule
    grid: Grid  # a placeholder until :meth:`resolved`, where the schedule is "auto"
    objective: Objective
    backward: KernelSpec
    forward: KernelSpec
    ipf: IPFSettings
    optimizer: OptimizerSettings
    device: DeviceSettings
    sampler: SamplerSettings
    metrics: MetricsSettings
    logger: LoggerSettings
    denoiser: DenoiserSettings
    amortized: ConditionalSettings
    distil: DistilSettings
    baselines: BaselineSettings
    stage: str
    evaluate: bool
    folder: Path  # of the stage's files
    teacher: Path | None  # of stage=distil: the folder of the finished run
    seed: int
    resume: bool
    overwrite: bool
    progress: bool
    plain: dict[str, Any]

    def bridge_spec(self, transform: Transform) -> BridgeSpec:
        """The description of the bridge, once the data have set the transform."""
        return BridgeSpec(
            self.grid.alpha_bar.tolist(), transform.spec(), self.backward, self.forward, self.device.precision
        )

    def resolved(self, pairs: EncodedPairs | tuple[Tensor, Tensor]) -> "RunConfig":
        """With the schedule "auto" replaced by the power schedule that resolves the encoded pairs (or z, c).

        The scale is read off plain states: at walls, mirrored ones look coarser than the data are.

        √(1−ᾱ_1) is half the data's finest scale (see :mod:`csb.problems.scale`), ᾱ_T
        :func:`csb.process.automatic_horizon` where none is given. Other schedules stay.
        """
        process = self.plain["process"]
        if process["schedule"] != AUTO:
            return self
        scale, pairs = process.get("scale"), as_pairs(pairs)
        if scale is None:
            z, c = pairs.head(pool(pairs.z_shape, self.problem.y_shape))
            scale = min(max(0.5 * finest_scale(z, c, seeded(self.seed, _SCALE)), _FINEST), 0.5)
        end = process["alpha_bar_end"] or automatic_horizon(math.prod(pairs.z_shape))
        schedule = Power.resolving(end, self.grid.T, scale)
        plain = {**self.plain, "process": {"schedule": "power", **vars(schedule)}}
        logger.info("ᾱ_T = %.3g; the first step resolves %.3g: power %.3g", end, scale, schedule.power)
        return replace(self, schedule=schedule, grid=Grid.from_schedule(schedule, self.grid.T), plain=plain)

    def conditional_spec(self, kind: str, transform: Transform) -> ConditionalSpec:
        """The description of the amortized score or flow of the bridge's network, once the data have set the transform.

        The score's schedule is the bridge's with the horizon of the group ``amortized``.
        """
        schedule: dict[str, Any] | None = None
        if kind == "score":
            long = self.schedule.with_horizon(self.amortized.alpha_bar_end)  # of "auto": of the default power
            schedule = {"name": next(name for name, of in SCHEDULES.items() if type(long) is of), **vars(long)}
        return ConditionalSpec(kind, self.backward.network, transform.spec(), schedule, self.device.precision)

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it continues, as dotted names."""
        free = {"name", "resume", "overwrite", "progress", "out", "logger", "metrics", "sampler"}
        free |= {"denoiser", "amortized", "distil", "baselines", "stage", "evaluate", "run"}
        told = flatten({k: v for k, v in self.plain.items() if k not in free} | {"trainer": self.device.fingerprint()})
        told["ipf.cache_spill"] = bool(self.ipf.cache_spill)  # wherever the file lies
        told |= {f"problem.{k}": v for k, v in self.problem.record().items() if k in ("length", "digest")}
        if isinstance(self.problem, FilePairs) and not self.problem.drop_nan:  # as before there was one
            told.pop("problem.drop_nan", None)
        return {key: value for key, value in told.items() if key not in FREE}


def _group(plain: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(group := plain.get(name), dict):
        raise CSBError(f"{name}={group!r} is not a group of settings; choose a file of conf/{name}")
    return dict(group)


def schedule_of(group: dict[str, Any]) -> Schedule:
    """The schedule of the group ``process``. CSBError for an unknown name or a value that does not fit.

    "auto" is a power schedule of the default power until the data are seen (:meth:`RunConfig.resolved`).
    """
    group = dict(group)
    name = group.pop("schedule", None)
    if name == AUTO:
        scale = group.pop("scale", None)
        if scale is not None and (not is_number(scale) or not LEAST_SCALE < scale < 1):
            raise CSBError(
                f"process.scale={scale!r} is not possible; give a number between {LEAST_SCALE} and 1, or null"
            )
        name = "power"
        if group.get("alpha_bar_end", 0) is None:
            group["alpha_bar_end"] = SHORT
        if "power" in group:
            raise CSBError(f"process.power={group['power']!r} is chosen by process.schedule=auto; use process=power")
    if not is_one_of(name, SCHEDULES):
        raise CSBError(f"process.schedule={name!r} is unknown; choose one of {', '.join((*SCHEDULES, AUTO))}")
    for key, value in group.items():
        if not is_number(value):
            raise CSBError(f"process.{key}={value!r} is not a number; give one")
    return settings(SCHEDULES[name], "process", group)


def _amortized(group: dict[str, Any], ipf: IPFSettings) -> ConditionalSettings:
    """The settings of a score or flow, which takes the bridge's optimiser steps in all where none are given."""
    if group.get("steps", 0) is None:
        group["steps"] = sum(half_step.steps for half_step in plan(ipf))
    return settings(ConditionalSettings, "amortized", group)


def read(config: DictConfig) -> RunConfig:
    """The checked settings of a config. Raises CSBError with one line for the first thing that is wrong."""
    require_groups(config, ("problem", "ipf", "optimizer"))
    require_given(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return read_plain(plain)


@with_gradients()
def read_plain(given: Mapping[str, Any]) -> RunConfig:
    """The checked settings of plain data, in which no text is resolved: that of a file is data."""
    plain = {str(key): value for key, value in given.items()}
    require_keys("the configuration", plain, ("L", "T", "seed", "name", "out", "stage", "run", *_FLAGS))
    for name in ("out", "name"):
        require_place(name, plain[name] if isinstance(plain[name], str) or plain[name] is None else str(plain[name]))
    if not is_one_of(plain["stage"], STAGES):
        raise CSBError(f"stage={plain['stage']!r} is unknown; choose one of {', '.join(STAGES)}")
    for name in _FLAGS:
        require_flag(name, plain[name])
    if plain["resume"] and plain["overwrite"]:
        raise CSBError("resume=true and overwrite=true contradict each other; give one of them")
    require_teacher(plain["stage"] == DISTIL, plain["run"])
    require_int("seed", plain["seed"], 0)
    require_int("L", plain["L"], 1, MOST_ITERATIONS)
    plain["trainer"] = resolved_by_device(_group(plain, "trainer"))
    plain["problem"] = absolute(_group(plain, "problem"))  # so that a run is opened from anywhere
    problem = build_problem(plain["problem"])
    plain["problem"] = resolved_split(plain["problem"], problem)
    z_shape = problem.new_transform().z_shape
    plain |= resolved_by_shape(_group(plain, "objective"), _group(plain, "optimizer"), z_shape)
    plain |= resolved_by_count(plain, z_shape, problem.sizes["train"])
    schedule, objective = schedule_of(_group(plain, "process")), plain["objective"]
    backward, forward = kernels(_group(plain, "network"), objective)
    ipf = settings(IPFSettings, "ipf", {"L": plain["L"], **_group(plain, "ipf")})
    distil = settings(DistilSettings, "distil", _group(plain, "distil"))
    teacher = None if plain["run"] is None else Path(str(plain["run"]))
    run = RunConfig(
        problem=problem,
        schedule=schedule,
        grid=Grid.from_schedule(schedule, plain["T"]),
        objective=build_objective(objective["name"]),
        backward=backward,
        forward=forward,
        ipf=ipf,
        optimizer=settings(OptimizerSettings, "optimizer", plain["optimizer"]),
        device=settings(DeviceSettings, "trainer", plain["trainer"]),
        sampler=settings(SamplerSettings, "sampler", _group(plain, "sampler")),
        metrics=settings(MetricsSettings, "metrics", _group(plain, "metrics")),
        logger=settings(LoggerSettings, "logger", _group(plain, "logger")),
        denoiser=settings(DenoiserSettings, "denoiser", _group(plain, "denoiser")),
        amortized=_amortized(_group(plain, "amortized"), ipf),
        distil=distil,
        baselines=settings(BaselineSettings, "baselines", _group(plain, "baselines")),
        stage=plain["stage"],
        evaluate=plain["evaluate"],
        folder=Path(str(plain["out"])) / str(plain["name"]) if teacher is None else Path(distil.out or teacher),
        teacher=teacher,
        seed=plain["seed"],
        resume=plain["resume"],
        overwrite=plain["overwrite"],
        progress=plain["progress"],
        plain=plain,
    )
    run.device.check(run.ipf, run.stage)
    for check in (_check_pairs, _check_sampler, require_room, _check_network, _check_data, _check_horizons):
        check(run)
    return run


def _check_pairs(run: RunConfig) -> None:
    """CSBError where a file of pairs holds x that the network is not for, or too few pairs are held out to score."""
    problem, network = run.problem, run.backward.network["name"]
    if not isinstance(problem, FilePairs):
        return
    if (held := problem.sizes["test"]) < 2:
        raise CSBError(
            f"test={problem.test} holds out {held} pair; calibration needs 2 or more, better hundreds; raise it"
        )
    if problem.is_image == (network == "unet"):
        return
    kind, experiment = ("images", "pairs_images") if problem.is_image else ("vectors", "pairs")
    raise CSBError(
        f"network={network} is not for x of shape {problem.x_shape} in {problem.path}; use experiment={experiment}, "
        f"which is for {kind}"
    )


def _check_sampler(run: RunConfig) -> None:
    """CSBError for a number of sampling steps that the bridge cannot take: the scores after training would fail."""
    steps, T = run.sampler.sample_steps, run.grid.T
    if steps is None:
        return
    require_int("sampler.sample_steps", steps, 1, T)
    kernels: dict[Direction, KernelSpec] = {"backward": run.backward, "forward": run.forward}
    for direction, spec in kernels.items():
        if direction == "backward" or run.sampler.refine:
            check_leaps(direction, spec.parametrisation, spec.covariance, steps, T)


def _check_network(run: RunConfig) -> None:
    """Builds the bridge once, and the model of the stage, so that wrong network options show at once."""
    build_bridge(run.bridge_spec(run.problem.new_transform()))
    if run.stage in CONDITIONAL:
        build_conditional(run.conditional_spec(run.stage, run.problem.new_transform()))


def _check_data(run: RunConfig) -> None:
    """CSBError for a cache that holds no trajectory, or a split with fewer pairs than are asked of it."""
    z_shape, sizes, ipf = run.problem.new_transform().z_shape, run.problem.sizes, run.ipf
    capacity(
        z_shape, run.grid.T, run.objective, ipf.trajectories, ipf.cache_bytes,
        dtype=DTYPES[ipf.cache_dtype], spill=bool(ipf.cache_spill),
    )  # fmt: skip
    require_pairs(sizes["train"], run.ipf)
    name = "exact_observations" if run.problem.has_exact_posterior else "observations"
    scored = 2 if isinstance(run.problem, FilePairs) else getattr(run.metrics, name)  # of own pairs what there is
    for key, split, wanted in (
        (f"metrics.{name}", "test", scored),
        ("metrics.picture_rows", "val", max(2, run.metrics.picture_rows)),
    ):
        if sizes[split] < wanted:
            raise CSBError(f"{key} needs {wanted} pairs and the split {split!r} holds {sizes[split]}; lower it")


def _check_horizons(run: RunConfig) -> None:
    """CSBError for a horizon that the schedule cannot have, where a denoiser is trained or guided samplers run."""
    if run.stage == "denoiser" or run.evaluate:
        run.schedule.with_horizon(run.denoiser.alpha_bar_end)
    if run.evaluate and run.baselines.alpha_bar_end is not None:
        Grid.from_schedule(run.schedule.with_horizon(run.baselines.alpha_bar_end), run.baselines.T)


def require_pairs(count: int, ipf: IPFSettings) -> None:
    """CSBError where there are fewer training pairs than states in a batch."""
    if count < ipf.batch_size:
        raise CSBError(f"{count} training pairs are fewer than ipf.batch_size={ipf.batch_size}; lower it")
