"""The parts of a configuration that make the kernels, and the values "auto" that follow from the data's shape."""

from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from csb.bridge import KernelSpec
from csb.bridge.kernel import COVARIANCES, MOST, PARAMETRISATIONS, automatic_covariance
from csb.bridge.objectives import OBJECTIVES
from csb.dtypes import automatic_precision
from csb.errors import CSBError
from csb.problems import FilePairs, Problem
from csb.schema import OneOf, Schema, Share
from csb.training.settings import DeviceSettings, automatic_weight_decay

AUTO = "auto"  # a value that is chosen: from the data, the shape of a state or the number of pairs
# the most states a step, of vectors and of images
_BATCHES = {"ipf": (1024, 128), "amortized": (1024, 128), "denoiser": (512, 128), "distil": (1024, 64)}
_STEPS = ((15000, 1500), (4400, 350))  # the most of the first half-step and of a later one


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

    A batch has no more states than there are pairs, and few pairs are overfitted after a few hundred passes.
    """
    is_image = len(z_shape) > 1
    first, later = _STEPS[is_image]
    chosen: dict[str, dict[str, int]] = {
        name: {"batch_size": min(of[is_image], count)} for name, of in _BATCHES.items()
    }
    chosen["ipf"] |= {"first_steps": min(first, 500 + 5 * count), "steps": min(later, 200 + count // 2)}
    groups = {name: plain[name] for name in chosen if isinstance(plain.get(name), dict)}
    return {
        name: {key: chosen[name][key] if v == AUTO and key in chosen[name] else v for key, v in group.items()}
        for name, group in groups.items()
    }


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
