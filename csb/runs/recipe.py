"""The parts of a configuration that make the kernels, and the values "auto" that follow from the data's shape."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from csb.bridge import KernelSpec
from csb.bridge.kernel import COVARIANCES, MOST, PARAMETRISATIONS, automatic_covariance
from csb.bridge.objectives import OBJECTIVES
from csb.dtypes import automatic_precision
from csb.errors import CSBError
from csb.networks.diffusion import CONDITIONAL
from csb.problems import FilePairs, Problem
from csb.process.grid import MOST_STEPS
from csb.schema import OneOf, Place, Schema, Share, Whole
from csb.training.settings import MOST_ITERATIONS, DeviceSettings, TrainingSettings, automatic_weight_decay

DISTIL = "distil"
STAGES = ("bridge", "denoiser", *CONDITIONAL, DISTIL)
AUTO = "auto"  # a value that is chosen: from the data, the shape of a state or the number of pairs
ENDLESS = 100_000  # pairs that a problem counts for which simulates others all the time
_MANY = 30_000  # vectors from which on a wide network pays
# the most states a step of the bridge and the stages beside it, of vectors and of images
_BATCHES = {"training": (1024, 128), "conditional": (1024, 128), "denoiser": (512, 128), "distil": (1024, 64)}


def resolved_by_shape(
    objective: dict[str, Any], optimizer: dict[str, Any], z_shape: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
    """The two groups with the covariance and the weight decay that suit states of this shape, where they are "auto"."""
    if objective.get("covariance") == AUTO:
        fixed = objective.get("name") == "mean_matching"  # which learns no covariance
        objective = {**objective, "covariance": "fixed" if fixed else automatic_covariance(z_shape)}
    if optimizer.get("weight_decay") == AUTO:
        optimizer = {**optimizer, "weight_decay": automatic_weight_decay(z_shape)}
    return {"objective": objective, "optimizer": optimizer}


def resolved_split(group: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """The group ``problem`` with the share of the pairs that validation takes, where it is "auto"."""
    return {**group, "val": problem.held_out} if isinstance(problem, FilePairs) else group


def resolved_by_count(plain: dict[str, Any], z_shape: tuple[int, ...], count: int) -> dict[str, dict[str, Any]]:
    """The groups with numbers for "auto" that suit ``count`` training pairs.

    A batch has no more states than there are pairs, and few pairs are learned, and then overfitted, in few steps.
    """
    is_image = len(z_shape) > 1
    chosen: dict[str, dict[str, float]] = {
        name: {"batch_size": min(of[is_image], count)} for name, of in _BATCHES.items()
    }
    is_small = not is_image and count < _MANY  # a network, for which a higher learning rate is better
    chosen["optimizer"] = {"lr": 2e-3 if is_small else 1e-3}
    if is_image:
        chosen["training"] |= {"first_steps": min(4400, 500 + 5 * count), "steps": min(350, 200 + count // 2)}
    else:
        batch = min(2 ** max(7, round(math.log2(count / 40))), *chosen["training"].values())
        first = min(15000, round(50 * math.sqrt(count)), 2500 + count // 6)
        chosen["training"] = {"first_steps": first, "steps": first // 10, "batch_size": batch}
        chosen["conditional"]["batch_size"] = batch
    groups = {name: _filled(plain[name], of) for name, of in chosen.items() if isinstance(plain.get(name), dict)}
    if (training := groups.get("training", {})).get("trajectories") == AUTO:
        training["trajectories"] = _trajectories(TrainingSettings.read({**training, "L": 1, "trajectories": 1}), plain)
    if isinstance(network := plain.get("network"), dict) and isinstance(network.get("options"), dict):
        size = {"width": 128 if is_small else 256, "depth": 4}
        groups["network"] = {**network, "options": _filled(network["options"], size)}
    return groups


def _filled(group: dict[str, Any], chosen: Mapping[str, float]) -> dict[str, Any]:
    return {key: chosen[key] if value == AUTO and key in chosen else value for key, value in group.items()}


def _trajectories(training: TrainingSettings, plain: dict[str, Any]) -> int:
    """As many as have each state drawn about once before the cache is filled again, 50,000 at most."""
    drawn = training.batch_size * min(training.steps, training.refresh)
    return max(1, min(50_000, drawn // TrainSettings.read({key: plain[key] for key in ("T",) if key in plain}).T))


def resolved_by_device(trainer: dict[str, Any]) -> dict[str, Any]:
    """The group ``trainer``, with the precision that suits the device where it is "auto"."""
    if trainer.get("precision") != AUTO:
        return trainer
    where = DeviceSettings.read({**trainer, "precision": "32-true"}).where
    return {**trainer, "precision": automatic_precision(where)}


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


S = TypeVar("S", bound=Schema)


def suite_settings(kind: type[S], suite: str, given: dict[str, Any]) -> S:
    """The settings of a suite that stand at the top level, beside the group ``suite`` with its name.

    CSBError with one line for the first thing that is wrong.
    """
    plain = dict(given)
    if unknown := [key for key in plain.pop("suite") if key != "name"]:
        raise CSBError(f"suite.{unknown[0]} is unknown; the settings of suite={suite} stand at the top level")
    return kind.read(plain)


class TrainSettings(Schema):
    """What stands at the top level of the configuration of a training."""

    T: int = Field(default=10, ge=1, le=MOST_STEPS, description="steps of the bridge: network calls of a sample")
    L: int = Field(
        default=3, ge=1, le=MOST_ITERATIONS, description="iterations, each a backward and a forward half-step"
    )
    seed: Whole = Field(default=0, description="of weights, batches and noise")
    stage: Annotated[str, OneOf(STAGES)] = "bridge"
    """What is trained: the bridge; the denoiser, which guided samplers need; a score or a flow, to compare the bridge
    with; distil, a sampler of few network calls."""
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
