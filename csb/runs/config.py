"""From plain data to checked, typed settings. Nothing here does any work: a bad config fails before any starts."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from csb.bridge import BridgeSpec, Direction, KernelSpec, build_bridge
from csb.bridge.objectives import OBJECTIVES, Objective
from csb.bridge.paths import check_skips
from csb.errors import CSBError, is_one_of, require_int
from csb.evaluation.scores import MetricsSettings, SamplerSettings
from csb.networks import NETWORKS, ImageNetwork
from csb.networks.diffusion import CONDITIONAL, ConditionalSpec, build_conditional
from csb.networks.encoders import is_own
from csb.problems import FilePairs, Problem, build_problem, with_start
from csb.problems.rows import Rows, finest_scale, pool
from csb.problems.sources import absolute
from csb.problems.start import STARTS
from csb.problems.transform import Transform
from csb.process import SCHEDULES, SHORT, Grid, Power, Schedule, Stream, automatic_horizon, seeded
from csb.process.schedule import LEAST_SCALE
from csb.runs.logs import LoggerSettings
from csb.runs.presets import PRESETS, SCHEMAS
from csb.runs.recipe import (
    AUTO,
    BaselineSettings,
    NetworkSettings,
    ObjectiveSettings,
    TrainSettings,
    flatten,
    kernels,
    resolved,
)
from csb.schema import Schema
from csb.training.fit import with_gradients
from csb.training.pairs import EncodedPairs, bytes_per_trajectory, capacity
from csb.training.settings import (
    DTYPES,
    ConditionalSettings,
    DenoiserSettings,
    DeviceSettings,
    DistilSettings,
    OptimizerSettings,
    TrainingSettings,
)
from csb.training.state import FREE

_HELD = ("optimizer", "sampler", "metrics", "logger", "denoiser", "conditional", "distil", "baselines")
_FINEST = 1e-3  # standard deviations: of a coordinate that y determines there is no scale to resolve
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
    training: TrainingSettings
    optimizer: OptimizerSettings
    device: DeviceSettings
    sampler: SamplerSettings
    metrics: MetricsSettings
    logger: LoggerSettings
    denoiser: DenoiserSettings
    conditional: ConditionalSettings
    distil: DistilSettings
    baselines: BaselineSettings
    stage: str
    evaluate: bool
    folder: Path  # of the stage's files
    start: str  # one of csb.problems.residual.STARTS
    teacher: Path | None  # of stage=distil: the folder of the finished run
    seed: int
    resume: bool
    overwrite: bool
    progress: bool
    plain: dict[str, Any]

    def new_transform(self) -> Transform:
        """The map between data and the bridge's states, still to be fitted."""
        return with_start(self.problem.new_transform(), self.start)

    def make_transform(self, rows: Rows) -> Transform:
        """The map between data and the bridge's states, fitted to training pairs."""
        return self.new_transform().fit(self.problem.checked(rows))

    def bridge_spec(self, transform: Transform) -> BridgeSpec:
        """The description of the bridge, once the data have set the transform."""
        backward, forward = (
            of.replace(network=self._network(of.network, transform)) for of in (self.backward, self.forward)
        )
        return BridgeSpec(
            alpha_bar=self.grid.alpha_bar.tolist(), transform=transform.spec(), backward=backward, forward=forward,
            precision=self.device.precision,
        )  # fmt: skip

    def _network(self, spec: dict[str, Any], transform: Transform) -> dict[str, Any]:
        """The network's description, with what the transform has found.

        Observations have gaps where the training shows any; rows may be padded.
        """
        gaps = self.training.missing > 0 or transform.has_gaps or transform.has_rows
        found = {"missing": True} if gaps else {}
        if spec["name"] == "mlp" and transform.informed is not None:
            found |= {"informed": transform.informed}
        return {**spec, **found}

    def resolved(self, pairs: EncodedPairs, informed: int | None = None) -> "RunConfig":
        """With the schedule "auto" replaced by the power schedule that resolves the encoded pairs.

        Of states whose first numbers alone are ``informed``, it is that of these.

        The scale is read off plain states: at bounds, mirrored ones look coarser than the data are.

        √(1−ᾱ_1) is half the data's finest scale (see :mod:`csb.problems.rows`), ᾱ_T
        :func:`csb.process.automatic_horizon` where none is given. Other schedules stay.
        """
        group = self.plain["schedule"]
        if group["name"] != AUTO:
            return self
        scale = group.get("scale")
        if scale is None:
            z, c = pairs.head(pool(pairs.z_shape, self.problem.y_shape))
            if pairs.transform is not None:
                z = pairs.transform.dequantised(z, seeded(self.seed, Stream.DEQUANTISED), c)
            z = z if informed is None else z[:, :informed]
            finest = finest_scale(z, c, seeded(self.seed, Stream.SCALE), self.problem.parts)
            scale = min(max(0.5 * finest, _FINEST), 0.5)
        end = group["alpha_bar_end"] or automatic_horizon(informed or math.prod(pairs.z_shape))
        schedule = Power.resolving(end, self.grid.T, scale)
        plain = {**self.plain, "schedule": {"name": "power", **vars(schedule)}}
        logger.info("ᾱ_T = %.3g; the first step resolves %.3g: power %.3g", end, scale, schedule.power)
        return replace(self, schedule=schedule, grid=Grid.from_schedule(schedule, self.grid.T), plain=plain)

    def conditional_spec(self, kind: str, transform: Transform) -> ConditionalSpec:
        """The description of an amortized baseline of the bridge's network, once the data have set the transform.

        The score's schedule is the bridge's with the horizon of the group ``conditional``.
        """
        schedule: dict[str, Any] | None = None
        if kind == "score":
            long = self.schedule.replace(alpha_bar_end=self.conditional.alpha_bar_end)  # "auto": default power
            schedule = {"name": next(name for name, of in SCHEDULES.items() if type(long) is of), **vars(long)}
        return ConditionalSpec(
            kind=kind, network=self._network(self.backward.network, transform), transform=transform.spec(),
            schedule=schedule, precision=self.device.precision,
        )  # fmt: skip

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it continues, as dotted names."""
        free = {"name", "resume", "overwrite", "progress", "out", "logger", "metrics", "sampler"}
        free |= {"denoiser", "conditional", "distil", "baselines", "stage", "evaluate", "run", "names"}
        reported = flatten(
            {k: v for k, v in self.plain.items() if k not in free} | {"trainer": self.device.fingerprint()}
        )
        reported |= {f"problem.{k}": v for k, v in self.problem.record().items() if k in ("length", "digest")}
        if isinstance(self.problem, FilePairs):  # as before there were these
            reported = {k: v for k, v in reported.items() if v or k not in ("problem.drop_nan", "problem.kinds")}
        return {key: value for key, value in reported.items() if key not in FREE}


class AutoSchedule(Schema):
    """A power schedule that is chosen once the data are seen."""

    group = "schedule"

    alpha_bar_end: Annotated[float, Field(gt=0, lt=1)] | None
    """The horizon; null: by the number of coordinates."""
    scale: Annotated[float, Field(gt=LEAST_SCALE, lt=1)] | None = None
    """What the first step resolves; null: half the finest structure of the data."""


def schedule_of(group: dict[str, Any]) -> Schedule:
    """The schedule of the group ``schedule``. CSBError for an unknown name or a value that does not fit.

    "auto" is a power schedule of the default power until the data are seen (:meth:`RunConfig.resolved`).
    """
    name, options = group.get("name"), {key: value for key, value in group.items() if key != "name"}
    if name == AUTO:
        return Power(alpha_bar_end=AutoSchedule.read(options).alpha_bar_end or SHORT)
    if not is_one_of(name, SCHEDULES):
        raise CSBError(f"schedule.name={name!r} is unknown; choose one of {', '.join((*SCHEDULES, AUTO))}")
    return SCHEDULES[name].read(options)


@with_gradients()
def read(given: Mapping[str, Any], problem: Problem | None = None) -> RunConfig:
    """The checked settings of plain data. Raises CSBError with one line for the first thing that is wrong.

    ``problem`` is that of the group of this name, where it is made already.
    """
    plain = dict(given)
    plain |= {key: str(plain[key]) for key in ("out", "name") if isinstance(plain.get(key), int | float)}  # of old runs
    top = TrainSettings.read({key: plain[key] for key in TrainSettings.model_fields if key in plain})
    for name in ("problem", *PRESETS):
        if not isinstance(plain.get(name), dict):
            raise CSBError(f"{name}={plain.get(name)!r} is not a group of settings; choose a file of conf/{name}")
    plain["problem"] = absolute(plain["problem"])  # so that a run is opened from anywhere
    problem = build_problem(plain["problem"]) if problem is None else problem
    plain = resolved(plain, problem, top)
    schedule, chosen = schedule_of(plain["schedule"]), ObjectiveSettings.read(plain["objective"])
    backward, forward = kernels(NetworkSettings.read(plain["network"]), chosen)
    groups: dict[str, Any] = {name: SCHEMAS[name].read(plain[name]) for name in _HELD}
    distil, teacher = groups["distil"], None if top.run is None else Path(top.run)
    run = RunConfig(
        problem=problem,
        schedule=schedule,
        grid=Grid.from_schedule(schedule, top.T),
        objective=OBJECTIVES[chosen.name](),
        backward=backward,
        forward=forward,
        training=TrainingSettings.read({"L": top.L, **plain["training"]}),
        device=DeviceSettings.read(plain["trainer"]),
        folder=Path(top.out) / top.name if teacher is None else Path(distil.out or teacher),
        teacher=teacher,
        plain=plain,
        **groups,
        **{
            name: getattr(top, name)
            for name in ("stage", "evaluate", "start", "seed", "resume", "overwrite", "progress")
        },
    )
    run.device.check(run.training, run.stage)
    for check in (_check_pairs, _check_start, _check_bridge, _check_data):
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
    of, is_image = NETWORKS.get(network), len(run.new_transform().z_shape) == 3
    if of is not None and not is_own(of) and is_image != issubclass(of, ImageNetwork):
        kind, experiment = ("images", "pairs_images") if problem.is_image else ("vectors", "pairs")
        raise CSBError(
            f"network={network} is not for x of shape {problem.x_shape} in {problem.path}; use "
            f"experiment={experiment}, which is for {kind}"
        )


def _check_start(run: RunConfig) -> None:
    """CSBError where the start does not go with gaps, or with how the mean is read."""
    if run.start != STARTS[0] and run.training.missing > 0:
        raise CSBError(
            f"start={run.start} with training.missing={run.training.missing:g} is not possible: it needs all of y; "
            f"choose start=gaussian, or training.missing=0"
        )
    for direction, spec in (("backward", run.backward), ("forward", run.forward)):
        if run.start == "informed" and spec.parametrisation != "v":  # with output 0 it alone is the reference process
            raise CSBError(
                f"network.parametrisation.{direction}={spec.parametrisation} is not for start=informed, whose network "
                f"leaves coordinates out; choose v"
            )


def _check_bridge(run: RunConfig) -> None:
    """Builds the bridge once, and the model of the stage, so that wrong options show at once; likewise horizons.

    CSBError also for a number of sampling steps that the bridge cannot take: the scores after training would fail.
    """
    steps, T, schedule = run.sampler.sample_steps, run.grid.T, run.schedule
    kernels: dict[Direction, KernelSpec] = {"backward": run.backward, "forward": run.forward}
    if steps is not None:
        require_int("sampler.sample_steps", steps, 1, T)
        for direction, spec in kernels.items():
            if direction == "backward" or run.sampler.refine:
                check_skips(direction, spec.parametrisation, spec.covariance, steps, T)
    build_bridge(run.bridge_spec(run.new_transform()))
    if run.stage in CONDITIONAL:
        build_conditional(run.conditional_spec(run.stage, run.problem.new_transform()))
    if run.stage == "denoiser" or run.evaluate:
        schedule.replace(alpha_bar_end=run.denoiser.alpha_bar_end)
    if run.evaluate and run.baselines.alpha_bar_end is not None:
        Grid.from_schedule(schedule.replace(alpha_bar_end=run.baselines.alpha_bar_end), run.baselines.T)


def _check_data(run: RunConfig) -> None:
    """CSBError for a cache that holds no trajectory, or a split with fewer pairs than are asked of it."""
    maps, sizes, training = run.new_transform(), run.problem.sizes, run.training
    each = bytes_per_trajectory(maps, run.grid.T, run.objective, training.missing, DTYPES[training.cache_dtype])
    capacity(each, training.trajectories, training.cache_bytes)
    require_pairs(sizes["train"], run.training)
    name = "exact_observations" if run.problem.has_exact_posterior else "observations"
    scored = 2 if isinstance(run.problem, FilePairs) else getattr(run.metrics, name)  # of own pairs what there is
    for key, split, wanted in (
        (f"metrics.{name}", "test", scored),
        ("metrics.picture_rows", "val", max(2, run.metrics.picture_rows)),
    ):
        if sizes[split] < wanted:
            raise CSBError(f"{key} needs {wanted} pairs and the split {split!r} holds {sizes[split]}; lower it")


def require_pairs(count: int, training: TrainingSettings) -> None:
    """CSBError where there are fewer training pairs than states in a batch."""
    if count < training.batch_size:
        raise CSBError(f"{count} training pairs are fewer than training.batch_size={training.batch_size}; lower it")
