"""Groups of a configuration with a choice to check, and the values "auto" that follow from the data's shape."""

import logging
import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from csb.bridge import KernelSpec
from csb.bridge.kernel import COVARIANCES, MOST, PARAMETRISATIONS, automatic_covariance
from csb.bridge.objectives import OBJECTIVES
from csb.dtypes import automatic_precision
from csb.errors import MOST_DRAWS, CSBError
from csb.metrics.order import most, order_p_value
from csb.networks.diffusion import CONDITIONAL
from csb.networks.encoders import automatic_encoder
from csb.problems import FilePairs, Problem
from csb.problems.parts import views
from csb.problems.residual import with_start
from csb.problems.start import STARTS
from csb.process import Stream, seeded
from csb.process.schedule import MOST_STEPS, Horizon, Steps
from csb.samplers import GUIDED, RESAMPLING
from csb.schema import Count, Kept, OneOf, Place, Positive, Schema, Share, Whole
from csb.training.settings import (
    MOST_ITERATIONS,
    DeviceSettings,
    OptimizerSettings,
    TrainingSettings,
    automatic_weight_decay,
    plan,
)

logger = logging.getLogger(__name__)
_SHARED = ("batch_size", "precision", "particles", "resampling", "ess_threshold")  # given by settings of their own
SWEPT = [name for name, method in GUIDED.items() if method.swept]
Method = Annotated[str, OneOf(GUIDED)]
Draws = Annotated[int, Field(ge=1, le=MOST_DRAWS)]
DISTIL = "distil"
STAGES = ("bridge", "denoiser", *CONDITIONAL, DISTIL)
AUTO = "auto"  # a value that is chosen: from the data, the shape of a state or the number of pairs
ENDLESS = 100_000  # pairs that a problem counts for which simulates others all the time
_ENOUGH, _UNLIKELY = 2000, 0.05  # pairs of rows that show whether these are a set, and the p-value of a series
_DENSE = 2  # coordinates
_MANY = 30_000  # vectors from which on a wide network pays
_TOKENS = 256  # patches of a transformer, at most
# the most states a step of the bridge and the stages beside it, of vectors and of images
_BATCHES = {"training": (1024, 64), "conditional": (1024, 64), "denoiser": (512, 128), "distil": (1024, 64)}


def resolved(plain: Mapping[str, Any], problem: Problem, top: "TrainSettings") -> dict[str, Any]:
    """The groups of a configuration with numbers in place of "auto" and of null.

    What suits the device, the shape of a state and the number of training pairs: a batch has no more states than there
    are pairs, and few pairs are learned, and then overfitted, in few steps. Null is the value of the bridge.
    """
    z_shape, found = with_start(problem.new_transform(), top.start).z_shape, dict(plain)
    is_long = any(len(shape) > 1 for shape in (problem.parts or {"y": problem.y_shape}).values())
    chosen = _by_count(z_shape, is_long, ENDLESS if problem.is_endless else problem.sizes["train"])
    fixed = plain["objective"].get("name") == "mean_matching"  # which learns no covariance
    chosen["objective"] = {"covariance": "fixed" if fixed else automatic_covariance(z_shape)}
    chosen["optimizer"]["weight_decay"] = automatic_weight_decay(z_shape)
    if plain["trainer"].get("precision") == AUTO:
        where = DeviceSettings.read({**plain["trainer"], "precision": "32-true"}).where
        chosen["trainer"] = {"precision": automatic_precision(where)}
    if isinstance(problem, FilePairs):  # with the share of the pairs that validation takes
        found["problem"] = {**plain["problem"], "val": problem.held_out}
    options = plain["network"].get("options")
    if isinstance(options, dict):
        options = _filled(_filled(options, chosen.pop("options")), {"steps": top.T}, None)
        if plain["network"]["name"] == "mlp" and (problem.parts or is_long):
            options = {"encoder": AUTO, **options}
        if "encoder" in options:
            options["encoder"] = _encoder(options["encoder"], problem)
        found["network"] = {**plain["network"], "options": options}
    for name in chosen.keys() & found.keys():
        found[name] = _filled(found[name], chosen[name])
    one, group = {"trajectories": 1, "states_per_pair": 1}, found["training"]
    training = TrainingSettings.read({"L": top.L, **_filled(group, one)})
    states = training.batch_size * min(training.steps, training.refresh)
    found["training"] = _filled(group, {
        # rows take more time to encode than states to fit, images about as much
        "states_per_pair": math.gcd(2 if len(z_shape) > 1 else 4, training.batch_size) if is_long else 1,
        "trajectories": max(1, min(50_000, states // top.T)),  # each state is drawn about once in a round
    })  # fmt: skip
    bridge = {
        "steps": sum(half_step.steps for half_step in plan(training)), "batch_size": training.batch_size,
        "lr": OptimizerSettings.read(found["optimizer"]).lr, "checkpoint_every": training.checkpoint_every,
    }  # fmt: skip
    return found | {"conditional": _filled(found["conditional"], bridge, None)}


def _encoder(given: Any, problem: Problem) -> Any:
    """An encoder of y, with what suits y, or each of its parts, for "auto"."""
    if (parts := problem.parts) is None:
        return _chosen(problem, {"y": problem.y_shape})["y"] if given == AUTO else given
    if given == AUTO:
        given = {"name": "parts", "shapes": dict(parts), "encoders": dict.fromkeys(parts, AUTO)}
    if isinstance(given, dict) and given.get("name") == "parts" and isinstance(of := given.get("encoders"), dict):
        shapes = {name: shape for name, shape in parts.items() if of.get(name) == AUTO}
        given = {**given, "encoders": {**of, **_chosen(problem, shapes)}}
    return given


def _chosen(problem: Problem, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Encoders by the shapes of y, or of some of its parts; rows are a set where their order is seen to tell nothing.

    That is where many pairs of neighbouring rows look as those of a random order do (:mod:`csb.metrics.order`). What is
    chosen, and why, is said in one line.
    """
    found = {name: automatic_encoder(shape) for name, shape in shapes.items()}
    for name in [name for name, encoder in found.items() if encoder == "series"]:
        number = list(problem.parts).index(name) if problem.parts else 0
        y = views(problem.first("train", most(shapes[name])).y, problem.parts)[number]
        p, pairs = order_p_value(y, seeded(0, Stream.ORDER))
        is_set = pairs >= _ENOUGH and p >= _UNLIKELY
        found[name] = "set" if is_set else "series"
        told = "tells nothing" if is_set else "tells something" if p < _UNLIKELY else "may tell something"
        there = ~y.isnan()
        sizes = there.any(2).sum(1)
        ragged = there == (torch.arange(y.shape[1]) < sizes[:, None])[..., None]  # each filled up at its end alone
        rows = f"{int(sizes.min())} to {int(sizes.max())} rows" if bool(ragged.all()) else "rows with gaps"
        logger.info(
            "%s: %s whose order %s (p = %.2g of %d pairs of neighbours): encoder %s; encoder= chooses another",
            name, rows, told, p, pairs, found[name],
        )  # fmt: skip
    return found


def _by_count(z_shape: tuple[int, ...], is_long: bool, count: int) -> dict[str, dict[str, Any]]:
    """Numbers that suit so many training pairs, by their groups; "options" are the network's.

    Pairs of one or two unknowns lie dense: more steps do not overfit them, and sharp modes need these, of a small
    network on half the states, which learns as much in under half the time. Of rows and images (``is_long``) the
    encoder limits what is learned before.
    """
    is_image, is_dense = len(z_shape) > 1, math.prod(z_shape) <= _DENSE and not is_long
    chosen: dict[str, dict[str, Any]] = {
        name: {"batch_size": min(of[is_image], count)} for name, of in _BATCHES.items()
    }
    is_small = not is_image and (is_dense or count < _MANY)  # a network, for which a higher learning rate is better
    chosen["optimizer"] = {"lr": 2e-3 if is_small else 1e-3}
    chosen["options"] = {"width": 128 if is_small else 256, "depth": 4}
    if is_image:
        chosen["options"]["patch"] = _patch(z_shape[1:])
        chosen["training"] |= {"first_steps": min(3000, 500 + 5 * count), "steps": min(150, 100 + count // 2)}
    else:
        batch = min(2 ** max(7, round(math.log2(count / 50))), count, 512 if is_dense else 1024)
        steps = min(15000, round(50 * math.sqrt(count)), 1500 + count // 8)
        first = min(15000, 4 * steps) if is_dense else steps
        chosen["training"] = {"first_steps": first, "steps": steps // 10, "batch_size": batch}
        chosen["conditional"]["batch_size"] = batch
    return chosen


def _patch(size: tuple[int, ...]) -> int:
    """The side of a transformer's patches: 4, finer for narrow images, coarser for large ones.

    The cost of attention grows with the square of their number.
    """
    patch = 2 if min(size) < 8 else 4
    while math.prod(-(-side // patch) for side in size) > _TOKENS:
        patch *= 2
    return patch


def _filled(group: dict[str, Any], chosen: Mapping[str, Any], empty: str | None = AUTO) -> dict[str, Any]:
    """The group with what is chosen for the keys that are "auto", or null."""
    return {key: chosen[key] if value == empty and key in chosen else value for key, value in group.items()}


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class TrainSettings(Schema):
    """What stands at the top level of the configuration of a training."""

    T: int = Field(default=10, ge=1, le=MOST_STEPS, description="steps of the bridge: network calls of a sample")
    L: int = Field(
        default=3, ge=1, le=MOST_ITERATIONS, description="iterations, each a backward and a forward half-step"
    )
    start: Annotated[str, OneOf(STARTS)] = "gaussian"
    """What sampling starts from: "gaussian", N(0, I), or N(m(y), S) of a regression of x on y, with S diagonal,
    of images stationary ("residual"), or full ("residual_full", or "informed" for states of many numbers, vectors whose
    first numbers y tells of), or of one filter of images, S stationary ("spectral"); see csb.problems.start."""
    seed: Whole = Field(default=0, description="of weights, batches and noise")
    stage: Annotated[str, OneOf(STAGES)] = "bridge"
    """What is trained: the bridge; the denoiser, which guided samplers need; a score, a flow, a mean flow or a
    consistency model, to compare the bridge with; distil, a sampler of few network calls."""
    run: Place | None = Field(default=None, description="of stage=distil: the folder of the finished run to distil")
    out: Place = Field(default="outputs", description="the folder of all runs")
    name: Place = Field(default="${problem.name}", description="of the run's folder in it")
    resume: bool = Field(default=False, description="go on with an interrupted training")
    overwrite: bool = Field(default=False, description="replace what the folder holds")
    progress: bool = Field(default=True, description="show a bar")
    evaluate: bool = Field(default=False, description="compare with other samplers at the end, as csb evaluate does")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.resume and self.overwrite:
            raise CSBError("resume=true and overwrite=true contradict each other; give one of them")
        if self.stage == DISTIL and self.run is None:
            raise CSBError("stage=distil lacks run=; give the folder of a finished run, e.g. run=outputs/two_moons")
        if self.stage != DISTIL and self.run is not None:
            raise CSBError(f"run={self.run} is of stage=distil alone; leave it out, or give stage=distil")
        return self


class ObjectiveSettings(Schema):
    """What is fitted, and the covariance of the kernels."""

    group = "objective"

    name: Annotated[str, OneOf(OBJECTIVES)] = Field(description="of the objective")
    covariance: Annotated[str, OneOf(COVARIANCES)] = Field(description="of the kernels")
    rank: int = Field(default=8, ge=1, le=MOST, description='directions of the covariance "low_rank"')
    components: int = Field(default=8, ge=1, le=MOST, description='Gaussians of the covariance "mixture"')
    variance_floor: Share = 1e-6
    """The least variance of a coordinate, in units of the reference's."""

    @model_validator(mode="after")
    def _can_be_fitted(self) -> Self:
        if self.name == "mean_matching" and self.covariance != "fixed":
            raise CSBError(f"objective.covariance={self.covariance!r} cannot be fitted by mean_matching; use fixed")
        return self


class Parametrisations(Schema):
    """How the mean is read from each direction's network."""

    group = "network.parametrisation"

    backward: Annotated[str, OneOf(PARAMETRISATIONS)] = Field(description="of the backward kernels")
    forward: Annotated[str, OneOf(PARAMETRISATIONS)] = Field(description="of the forward kernels")


class NetworkSettings(Schema):
    """The networks of both directions."""

    group = "network"

    name: str = Field(description="of the kind of network")
    options: dict[str, Any] | None = Field(default=None, description="of this kind")
    parametrisation: Parametrisations = Field(description="of the kernels")


def kernels(network: NetworkSettings, objective: ObjectiveSettings) -> tuple[KernelSpec, KernelSpec]:
    """The kernels of both directions, backward first, of the groups network and objective."""
    spec = {"name": network.name, **(network.options or {})}
    covariance = objective.model_dump(exclude={"name"})
    backward, forward = (
        KernelSpec(network=spec, parametrisation=parametrisation, **covariance)
        for parametrisation in (network.parametrisation.backward, network.parametrisation.forward)
    )
    return backward, forward


class BaselineSettings(Schema):
    """The guided samplers of a comparison."""

    group = "baselines"

    methods: list[Method] = Field(description="names of guided samplers")
    T: Steps = Field(default=100, description="steps of their grid, on the bridge's schedule family")
    alpha_bar_end: Horizon | None = None
    """Its horizon; null: one that suits the data, see csb.samplers.diffusion.horizon."""
    batch_size: Count = Field(default=256, description="states a network call")
    particles: Annotated[list[Draws], Field(min_length=1)] | None = None
    """Of TDS, one method each; the bootstrap filter takes the last. null: 1, 4 and 16 for images, and for vectors one
    run of all samples."""
    resampling: Annotated[str, OneOf(RESAMPLING)] = Field(default="systematic", description="of the particle samplers")
    ess_threshold: Share = 0.5
    """Share of the particles below which the effective sample size makes them resample."""
    min_std: Positive = 1.0
    """Stands for the noise of noise-free observations, in units of their spread."""
    sweeps: dict[Annotated[str, OneOf(SWEPT)], Annotated[list[Annotated[Positive, Kept]], Field(min_length=1)]]
    """By method, the values of the argument that is swept, of which the best energy score is taken."""
    options: dict[Method, dict[str, Any]] = Field(default={}, description="by method, further arguments of its class")
    sweep_observations: Draws = Field(default=20, description="validation observations of a sweep")
    sweep_samples: int = Field(default=8, ge=2, le=MOST_DRAWS, description="samples of each")

    @model_validator(mode="after")
    def _of_methods(self) -> Self:
        faults = [
            f"baselines.sweeps.{name} is missing; give a list of values of {swept[0]}"
            for name in self.methods
            if (swept := GUIDED[name].swept) and name not in self.sweeps
        ]
        for name, given in self.options.items():
            own = {key: value for key, value in given.items() if key not in _SHARED}
            shared = sorted(set(given) - set(own))
            faults += [f"baselines.options.{name}.{key} is for all methods; leave it out there" for key in shared]
            GUIDED[name].Settings.read(own, f"baselines.options.{name}")
        if faults:
            raise CSBError(faults[0])
        return self
