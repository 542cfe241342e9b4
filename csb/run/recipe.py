"""The parts of a configuration that make the kernels, and the values "auto" that follow from the data's shape."""

import dataclasses
from typing import Any

from omegaconf import DictConfig, OmegaConf

from csb.bridge import KernelSpec
from csb.bridge.kernel import MOST, automatic_covariance
from csb.dtypes import automatic_precision
from csb.errors import CSBError, is_number, require_int, require_place
from csb.problems import FilePairs, Problem
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
    where = settings(DeviceSettings, "trainer", {**trainer, "precision": "32-true"}).where
    return {**trainer, "precision": automatic_precision(where)}


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def require_given(config: DictConfig) -> None:
    """CSBError for a value that has to be given and was not (??? in conf/)."""
    for key, value in flatten(OmegaConf.to_container(config, resolve=False)).items():
        if value == "???":
            raise CSBError(f"{key} is missing; give {key}=…")


def require_groups(config: DictConfig, names: tuple[str, ...]) -> None:
    """CSBError where a group that others refer to is none, before anything is looked up in it."""
    for name in names:
        if not isinstance(group := config.get(name), DictConfig):
            raise CSBError(f"{name}={group!r} is not a group of settings; choose a file of conf/{name}")


def require_keys(group: str, values: dict[str, Any], keys: tuple[str, ...]) -> None:
    """CSBError for a key that was deleted."""
    for key in keys:
        if key not in values:
            raise CSBError(f"{group} lacks {key}; give {key}=…, or do not delete it")


def settings(kind: type, name: str, values: dict[str, Any]) -> Any:
    """A settings dataclass from a config group. CSBError for a key that it does not have or lacks."""
    if not isinstance(values, dict):
        raise CSBError(f"{name}={values!r} is not a group of settings; choose a file of conf/{name}")
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}
    if unknown := [key for key in values if key not in known]:
        raise CSBError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    needed = (key for key, field in known.items() if field.default is dataclasses.MISSING)
    require_keys(name, values, tuple(needed))
    return kind(**values)


def suite_settings(kind: type, suite: str, config: DictConfig) -> Any:
    """The settings of a suite that stand at the top level, beside the group ``suite`` with its name.

    CSBError with one line for the first thing that is wrong.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if unknown := [key for key in plain.pop("suite") if key != "name"]:
        raise CSBError(f"suite.{unknown[0]} is unknown; the settings of suite={suite} stand at the top level")
    return settings(kind, f"suite/{suite}", plain)


def require_teacher(distils: bool, run: Any) -> None:
    """CSBError where the stage that distils a run was given none, or another stage was given one."""
    if distils and run is None:
        raise CSBError("stage=distil lacks run=; give the folder of a finished run, e.g. run=outputs/two_moons")
    if distils:
        require_place("run", run)
    if not distils and run is not None:
        raise CSBError(f"run={run} is of stage=distil alone; leave it out, or give stage=distil")


def kernels(network: dict[str, Any], objective: dict[str, Any]) -> tuple[KernelSpec, KernelSpec]:
    """The kernels of both directions, backward first, of the groups network and objective.

    CSBError for the first value that is wrong.
    """
    parametrisation = network.get("parametrisation")
    if not isinstance(parametrisation, dict) or set(parametrisation) != {"backward", "forward"}:
        raise CSBError(f"network.parametrisation={parametrisation!r}; give {{backward: …, forward: …}}")
    options = network.get("options") or {}
    if not isinstance(options, dict):
        raise CSBError(f"network.options={options!r} is not a group of settings; give {{key: value, …}}")
    require_keys("objective", objective, ("name", "covariance", "rank", "components", "variance_floor"))
    spec, covariance = {"name": network.get("name"), **options}, objective["covariance"]
    floor = objective["variance_floor"]
    if not is_number(floor):
        raise CSBError(f"objective.variance_floor={floor!r} is not a number; give 0 or more")
    require_int("objective.rank", objective["rank"], 1, MOST)
    require_int("objective.components", objective["components"], 1, MOST)
    if objective["name"] == "mean_matching" and covariance != "fixed":
        raise CSBError(f"objective.covariance={covariance!r} cannot be fitted by mean_matching; use fixed")
    backward, forward = (
        KernelSpec(spec, parametrisation[side], covariance, objective["rank"], floor, objective["components"])
        for side in ("backward", "forward")
    )
    return backward, forward
