"""What a trained bridge is, read off the bridge itself and the files beside it. Nothing is written."""

from pathlib import Path
from typing import Any

from csb.bridge import Bridge, Direction
from csb.evaluation.table import format_value, print_table
from csb.files import model_file
from csb.runs.load import load_any, read_history, read_result
from csb.training.state import EACH, chosen_iteration

_NO_SCORES = ("L", "T", "calls", "loss", "x0_distance", "x0_floor", "seconds")  # of result.json: reported elsewhere
_KERNELS: tuple[Direction, ...] = ("backward", "forward")


def inspect(source: str | Path) -> dict[str, Any]:
    """What is known of a bridge, as plain data; None where the source does not say.

    Args:
        source: the folder of a finished run, a file that training wrote, or an exported folder. Scores, seconds and
            half-steps are those of the run's own files, where the source is the run, its bridge's file or a half-step.

    Raises:
        CSBError: nothing is there, or it or a file beside it is damaged.
    """
    path = Path(source)
    bridge = load_any(path, "cpu")
    run = _run_of(path)
    history = [] if run is None else read_history(run)
    whole = run is not None and path.parent.name != "half_steps"
    result: dict[str, Any] = {}
    if run is not None and whole and (run / "result.json").exists():
        result = read_result(run)
    of_file = [row for row in history if row.get("half_step") == path.stem]
    return {
        "source": str(source),
        **facts(bridge),
        "iterations": max((int(row["iteration"]) for row in history), default=None),
        "held": next((row["iteration"] for row in of_file), chosen_iteration(history) if history else None),
        "seconds": result.get("seconds") if whole else next((row.get("seconds") for row in of_file), None),
        "scores": {key: value for key, value in result.items() if key not in _NO_SCORES} or None,
        "half_steps": [{key: value for key, value in row.items() if key != EACH} for row in history] or None,
    }


def facts(bridge: Bridge) -> dict[str, Any]:
    """What the bridge itself says, and what its file says about it."""
    about, alpha_bar = bridge.about, bridge.grid.alpha_bar
    config, problem = mapping(about.get("config")), mapping(about.get("problem"))
    return {
        "task": problem.get("name"),
        "problem": problem or None,
        "x_shape": list(bridge.transform.x_shape),
        "y_shape": list(bridge.transform.y_shape),
        "transform": bridge.transform.name,
        "T": bridge.grid.T,
        "alpha_bar_T": float(alpha_bar[-1]),
        "first_step": float((1 - alpha_bar[1]).sqrt()),
        "objective": mapping(config.get("objective")).get("name"),
        "precision": bridge.precision,
        "parameters": sum(p.numel() for p in bridge.parameters()),
        "kernels": {direction: _kernel(bridge, direction) for direction in _KERNELS},
        "versions": mapping(about.get("versions")) or None,
    }


def _kernel(bridge: Bridge, direction: Direction) -> dict[str, Any]:
    kernel = bridge.kernel(direction)
    spec = getattr(bridge.spec, direction, None)
    options = {} if spec is None else {key: value for key, value in spec.network.items() if key != "name"}
    size = {"low_rank": "rank", "mixture": "components"}.get(kernel.covariance)
    return {
        "network": type(kernel.network).__name__,
        "options": options or None,
        "parameters": sum(p.numel() for p in kernel.parameters()),
        "parametrisation": kernel.parametrisation,
        "covariance": kernel.covariance,
        "covariance_size": None if spec is None or size is None else getattr(spec, size),
    }


def mapping(value: Any) -> dict[str, Any]:
    """The dictionary that a file was to hold; an empty one where it holds something else."""
    return value if isinstance(value, dict) else {}


def _run_of(path: Path) -> Path | None:
    """The folder of the run that the source is, or belongs to; None where there is none."""
    if path.is_dir():
        return path if model_file(path, "bridge").is_file() else None
    if path.parent.name == "half_steps":
        return path.parent.parent
    return path.parent if path.stem == "bridge" else None


def print_inspection(found: dict[str, Any]) -> None:
    """Tables of what :func:`inspect` found, on the terminal."""
    x, y = ("×".join(map(str, found[key])) or "number" for key in ("x_shape", "y_shape"))
    versions = ", ".join(f"{name} {version}" for name, version in (found["versions"] or {}).items())
    rows = {
        "task": found["task"],
        "x, y": f"{x}, {y}",
        "T": found["T"],
        "ᾱ_T": found["alpha_bar_T"],
        "first step, √(1−ᾱ_1)": found["first_step"],
        "objective": found["objective"],
        "transform": found["transform"],
        "precision": found["precision"],
        "parameters": f"{found['parameters']:,}",
        "iterations trained": found["iterations"],
        "iteration held": found["held"],
        "training seconds": found["seconds"],
        "versions": versions or None,
    }
    _table(rows, "bridge", found["source"])
    print_table([{"kernel": name, **_row(one)} for name, one in found["kernels"].items()], title="kernels")
    if arguments := {key: value for key, value in (found["problem"] or {}).items() if key != "name"}:
        _table(arguments, "argument", f"problem {found['task']}")
    if rows := found["half_steps"]:
        shown = ("half_step", "loss", "val_energy_score", "x0_distance", "x0_floor", "seconds")
        print_table(rows, title="half-steps", columns=[c for c in shown if any(c in row for row in rows)])
    if found["scores"]:
        _table(found["scores"], "score", "held-out scores")


def _table(values: dict[str, Any], name: str, title: str) -> None:
    print_table([{name: _told(key), "value": _told(value)} for key, value in values.items()], title=_told(title))


def _row(kernel: dict[str, Any]) -> dict[str, Any]:
    size, options = kernel["covariance_size"], kernel["options"] or {}
    return {
        "network": _told(" ".join([kernel["network"], *(f"{key}={value}" for key, value in options.items())])),
        "parameters": f"{kernel['parameters']:,}",
        "mean": kernel["parametrisation"],
        "covariance": kernel["covariance"] + ("" if size is None else f", {size}"),
    }


def _told(value: Any) -> str:
    """A cell of text that a file may hold: what cannot be printed, such as a terminal's codes, is shown as �."""
    return "".join(c if c.isprintable() else "�" for c in format_value(value))
