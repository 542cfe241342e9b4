"""The settings of a training that is asked for from Python: by arguments, presets and what follows from the data."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.data import Dataset

from csb.errors import CSBError, is_int
from csb.networks import NETWORKS, Encoder, Network
from csb.networks.diffusion import CONDITIONAL
from csb.numbers import as_numbers
from csb.problems import FilePairs, Problem, from_dataset
from csb.problems.rows import Source
from csb.problems.sources import SCHEME, hold, open_source
from csb.runs.config import RunConfig, read
from csb.runs.load import register
from csb.runs.presets import PRESETS, SCHEMAS, merged, own_pairs, preset
from csb.schema import nearest, shown

Bounds = tuple[Any, Any]
_TRAINING = ("training", "optimizer", "trainer")  # the groups of the argument ``training``; no two share a key
_NAME = "arrays"  # of arrays that are given


def configured(x: Any, y: Any, o: Any, stage: str = "bridge") -> tuple[RunConfig, TemporaryDirectory[str] | None]:
    """The checked settings of a training, and the temporary folder of its files where it is given none.

    Args:
        x, y: as of :func:`csb.fit`; ``o`` has its other arguments by their names.
        stage: what is trained.
    """
    columns = getattr(x, "columns", None) if o.names is None else o.names  # a frame's
    names = None if columns is None else [str(name) for name in columns]
    held, problem = _problem(x, y, o, names or [])
    changes = {key: getattr(o, key) for key in ("seed", "progress", "resume", "overwrite")} | {"stage": stage}
    changes |= {key: value for key, value in (("T", o.T), ("L", o.L), ("start", o.start)) if value is not None}
    plain = merged(own_pairs(problem.is_image and o.start != "informed"), changes)  # whose states are vectors
    encoder = _encoder(o.encoder, problem.parts)
    plain["problem"], plain["network"] = problem.spec(), _network(plain["network"], o.network, encoder)
    plain["schedule"] = _group("schedule", plain["schedule"], o.schedule)
    plain["objective"] = _group("objective", plain["objective"], o.objective)
    default = "none" if o.out is None else "csv"
    plain["logger"] = _group("logger", preset("logger", default), default if o.logger is None else o.logger)
    group = {"denoiser": "denoiser", **dict.fromkeys(CONDITIONAL, "conditional")}.get(stage)
    device = {"devices": o.devices, "precision": o.precision, "accelerator": o.accelerator}
    plain = _trained(plain, {**device, **(o.training or {})}, group)
    scratch = TemporaryDirectory(prefix="csb-") if o.out is None else None
    folder = Path(str(o.out)) if scratch is None else Path(scratch.name, "run")
    plain |= {"out": "outputs", "name": problem.name} if scratch else {"out": str(folder.parent), "name": folder.name}
    if names is not None:
        plain["names"] = names
    run = replace(read(plain, problem), folder=folder)
    del held  # the problem has it now
    return run, scratch


def _problem(x: Any, y: Any, o: Any, names: list[str]) -> tuple[Source | None, Problem]:
    """The problem that is given, or that of the arrays; with the arrays, which must outlive the first reading."""
    require_kinds(o.kinds)
    if o.problem is not None:
        if x is not None or y is not None or o.kinds:
            raise CSBError("x, y or kinds and problem are given; give pairs, or a problem that draws them")
        if not isinstance(o.problem, Problem):
            raise CSBError(f"problem={shown(o.problem)} is no csb.problems.Problem; make one with csb.problem(…)")
        return None, o.problem
    if isinstance(x, Dataset) and y is None:
        held, path = None, from_dataset(x, _NAME)
    elif x is None or y is None:
        raise CSBError("x and y are missing; give both, a torch Dataset of pairs as x, or problem=…")
    else:
        held, path = hold(x, y, _NAME), SCHEME + _NAME
    bounds, kinds = o.bounds, o.kinds
    if isinstance(bounds, Mapping):
        pairs = by_number("bounds", bounds, path, names, (None, None))
        if wrong := [pair for pair in pairs if not isinstance(pair, list | tuple) or len(pair) != 2]:
            raise CSBError(f"bounds has {shown(wrong[0])} for a coordinate; give (low, high), None where there is none")
        bounds = [low for low, _ in pairs], [high for _, high in pairs]
    if isinstance(kinds, Mapping):
        kinds = by_number("kinds", kinds, path, names, "real")
    options = {"val": "auto", "seed": o.seed, "drop_nan": o.drop_nan, "kinds": tuple(kinds) if kinds else None}
    return held, FilePairs(path=path, **options, **sides(bounds))


def require_kinds(kinds: Any) -> None:
    """CSBError unless kinds of coordinates are a list, {coordinate: kind} or None."""
    if not isinstance(kinds, Mapping | list | tuple | None):
        raise CSBError(f"kinds={shown(kinds)} is no list; give a kind for each coordinate, or {{coordinate: kind}}")


def by_number(what: str, given: Mapping[Any, Any], path: str, names: list[str], default: Any) -> list[Any]:
    """The values of all coordinates of x, of which some are given by their names or numbers. CSBError for others."""
    found = [default] * open_source(path, None, None).headers["x"].shape[1]
    for key, value in given.items():
        number = names.index(key) if key in names else key
        if not is_int(number) or not 0 <= number < len(found):
            known = f"{', '.join(names) or 'names=[…], which is not given,'} or numbers 0..{len(found) - 1}"
            raise CSBError(f"{what} has no coordinate {shown(key)}; choose among {known}{nearest(key, names)}")
        found[number] = value
    return found


def sides(bounds: Bounds | None) -> dict[str, Any]:
    """Bounds as the arguments low and high of :class:`csb.problems.FilePairs`."""
    try:
        low, high = (None, None) if bounds is None else bounds
    except (TypeError, ValueError):  # of what is no sequence, or not of two
        raise CSBError(f"bounds={shown(bounds)} are no two sides; give (low, high), None where there is none") from None
    return {"low": _side("low", low), "high": _side("high", high)}


def _side(side: str, value: Any) -> Any:
    """Bounds as plain numbers: None, one, or a tuple of numbers and Nones."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple) and any(v is None for v in value):
        return tuple(value)
    numbers = as_numbers(f"bounds ({side})", value).double().reshape(-1).tolist()
    return tuple(v if math.isfinite(v) else None for v in numbers)


def _network(default: dict[str, Any], given: Any, encoder: Any) -> dict[str, Any]:
    """The group ``network``; classes become known by their names, which the files of the run hold."""
    if isinstance(given, type) and issubclass(given, Network):
        found = {**default, "name": register(given).__name__, "options": {}}
    else:
        found = _group("network", default, given)
    return found if encoder is None else merged(found, {"options": {"encoder": encoder}})


def _encoder(given: Any, parts: Mapping[str, Any] | None) -> Any:
    """An encoder as plain data; of y of named ``parts`` also {name: encoder}, which is checked to have them all."""
    if isinstance(given, type) and issubclass(given, Encoder):
        return register(given).__name__
    if parts is None and isinstance(given, Mapping) and "name" not in given:
        raise CSBError(f"encoder={shown(given)} has no name; give {{'name': …, **options}}: y has no named parts")
    if parts is None or not isinstance(given, Mapping) or ("name" in given and given.keys() != parts.keys()):
        return given
    if odd := sorted(given.keys() ^ parts.keys()):
        what = "lacks the part" if odd[0] in parts else "has an unknown part"
        raise CSBError(f"encoder {what} {shown(odd[0])}; give one, or auto, for each of {', '.join(parts)}")
    return {"name": "parts", "shapes": dict(parts), "encoders": {name: _encoder(given[name], None) for name in parts}}


def _group(group: str, default: dict[str, Any], given: Any) -> dict[str, Any]:
    """A group of settings: the default, a preset by its name, or {"name": …, **options} over the preset or default."""
    if given is None:
        return default
    values = {"name": given} if isinstance(given, str) else given
    if not isinstance(values, Mapping):
        raise CSBError(f"{group}={shown(given)} is not possible; give a name, or {{'name': …, **options}}")
    name, known = values.get("name"), {**PRESETS[group], **(NETWORKS if group == "network" else {})}
    if name is not None and name not in known:
        raise CSBError(
            f"{group}={shown(name)} is unknown; choose one of {', '.join(known)}{nearest(name, list(known))}"
        )
    rest = {key: value for key, value in values.items() if key != "name"}
    base = preset(group, name) if name in PRESETS[group] else {**default, **({} if name is None else {"name": name})}
    if group == "network":
        own = {key: rest.pop(key) for key in ("parametrisation",) if key in rest}
        of_name = base.get("options") if name is None or name in PRESETS[group] else None
        return {**base, **own, "options": {**(of_name or {}), **rest}}
    return {**base, **rest}


def _trained(plain: dict[str, Any], given: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    """The settings with those of ``training``, each in the group that has it: first that of the stage."""
    homes = {key: of for of in _TRAINING for key in SCHEMAS[of].model_fields if key != "L"}
    homes |= {} if group is None else dict.fromkeys(SCHEMAS[group].model_fields, group)
    for key, value in given.items():
        if key not in homes:
            known = ", ".join(sorted(homes))
            raise CSBError(f"training has no setting {shown(key)}; choose among {known}{nearest(key, list(homes))}")
        plain = merged(plain, {homes[key]: {key: value}})
    return plain
