"""csb sample: posterior samples from a trained bridge, or the student distilled from it, into a file."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from csb.bridge import Bridge
from csb.bridge.check import p_values, warned
from csb.errors import CSBError, in_one_line
from csb.evaluation.scores import SamplerSettings
from csb.files import write_atomically
from csb.process import seeded
from csb.runs.load import load_any, load_ensemble, load_run, problem_of
from csb.samplers import BridgeSampler, ConsistencySampler, Sampler
from csb.schema import Count, Given, Place, Schema, Whole


class SampleSettings(Schema):
    """What is drawn, and from what."""

    run: Place = Field(description="the folder of a finished run, one of its files, or an exported folder")
    y: Place | None = None
    """One observation or several: a .npy file, or an .npz file with an array y or only one, or with the named parts of
    y; null: test observations."""
    observations: Count = Field(default=4, description="how many of the problem's test observations, where y is null")
    n: Count = Field(default=64, description="samples of each observation")
    seed: Whole = Field(default=0, description="of the noise")
    calls: Count | None = Field(default=None, description="network calls of the distilled sampler; null: the bridge")
    out: Place = "samples.npz"
    """The file to write: x (B, n, …), y (B, …) and, where the bridge has held-out y to compare with, p (B,), how usual
    each y is."""
    sampler: SamplerSettings = Field(description="how samples are drawn")


def _student(source: str, calls: int, chosen: SamplerSettings) -> tuple[Bridge, Sampler]:
    """A run's bridge and its student. CSBError where there is none, or options are chosen that only bridges have."""
    default = SamplerSettings()
    for name in ("mean_only", "refine", "sample_steps"):
        if (value := getattr(chosen, name)) != getattr(default, name):
            raise CSBError(f"sampler.{name}={value} is for the bridge, and calls={calls} for its student; give one")
    from csb.runs.stages import student_of  # here: it imports what trains

    run = load_run(source)
    return run.bridge, ConsistencySampler(student_of(run), calls, chosen.batch_size)


def prepare(given: Given) -> Callable[[], None]:
    """The job. CSBError where a value is wrong, or the bridge or the observations cannot be read."""
    own = SampleSettings.read(given)
    out = Path(own.out)
    if out.is_dir() or not out.parent.is_dir():
        raise CSBError(f"out={out} is not a file that can be written; give one in a folder that exists")
    if own.y is not None and out.exists() and out.samefile(own.y):
        raise CSBError(f"out={out} is the file of y, which would be lost; give another one")
    if own.calls is None:
        ensemble = load_ensemble(own.run)
        bridge = load_any(own.run) if ensemble is None else ensemble.bridge
        sampler: Sampler = BridgeSampler(bridge, **vars(own.sampler))
    else:
        bridge, sampler = _student(own.run, own.calls, own.sampler)
    if own.y is not None:
        y = read_observations(own.y, bridge)
        return partial(_run, own, bridge, sampler, lambda: y)
    try:
        problem = problem_of(bridge, own.run)
    except CSBError as error:
        raise CSBError(f"y= is missing, and for test observations {error}; give y=obs.npz") from error
    return partial(_run, own, bridge, sampler, lambda: problem.pairs("test", own.observations).y)


def _run(own: SampleSettings, bridge: Bridge, sampler: Sampler, observed: Callable[[], Tensor]) -> None:
    """Write x (B, n, …), y (B, …) and, where the bridge has a reference, p (B,) of :meth:`Bridge.check` to ``out``."""
    y = observed()
    arrays: dict[str, Any] = {"y": y.numpy()}
    if bridge.reference is not None:
        arrays["p"] = p = p_values(bridge, bridge.observations(y, None)[0])
        if isinstance(sampler, BridgeSampler) and warned(bridge, p):  # then the range of training needs no warning
            sampler.options["check"] = None
    samples = sampler.sample(y, own.n, seeded(own.seed, device=sampler.device))
    arrays["x"] = samples.x.cpu().numpy()
    write_atomically(Path(own.out), lambda file: np.savez(file, **arrays))
    calls = samples.info.forward_evaluations
    print(f"{own.out}: x {tuple(samples.x.shape)}, {calls} network calls a sample, {samples.info.seconds:.2f} s")


def read_observations(path: str | Path, bridge: Bridge) -> Tensor:
    """The observations of a file for a bridge, (B, *y_shape); a single one gives B = 1.

    Args:
        path: a .npy file, or an .npz file with an array named y, or with one array of any name; of y of named parts
            also with an array for each of these names. Pickled objects are never loaded.

    Raises:
        CSBError: no such file or array; as :meth:`csb.bridge.Bridge.observations`.
    """
    return bridge.observations(_array(Path(path), bridge.transform.parts or {}), None)[0].cpu()


def _array(path: Path, parts: Mapping[str, Any]) -> Any:
    if not path.is_file():
        raise CSBError(f"y={path} is not a file; give a .npy or .npz file of observations")
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            names = found.files
            if parts and parts.keys() <= set(names):
                return {part: found[part] for part in parts}
            if "y" in names or len(names) == 1:
                return found["y" if "y" in names else names[0]]
    except MemoryError:
        raise
    except Exception as error:  # damaged headers and archives raise whatever the parser of the moment does
        raise CSBError(f"cannot read y={path} ({in_one_line(error)}); give a .npy or .npz file of numbers") from error
    held = f"the arrays {', '.join(names)}" if names else "no array"
    known = f", or {', '.join(parts)}" if parts else ""
    raise CSBError(f"y={path} holds {held}; give a file with an array named y, or with one array{known}")
