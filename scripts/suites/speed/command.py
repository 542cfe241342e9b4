"""The suite from its settings to its tables: csb benchmark suite=speed."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csb.evaluation.plots import draw_curves
from csb.evaluation.table import markdown_table, print_table
from csb.files import write_json, write_text
from csb.runs.folder import check_writable
from csb.schema import Given
from suites.machine import machine
from suites.speed.figure import speed_panels
from suites.speed.growth import Curve, over_cache, over_L, over_memory, over_size, over_T
from suites.speed.parts import cache_sizes, half_steps, sampling
from suites.speed.recipes import Recipe, recipe
from suites.speed.settings import FULL, QUICK, Extent, SpeedSettings, read
from suites.speed.steps import training_step

logger = logging.getLogger(__name__)
VECTORS, IMAGES = "two_moons", "mnist_inpaint"  # experiments
TARGETS = {"over_network": 1.15, "ratio": 1.1}  # what the ratios are to stay below
_SHOWN = (  # on the terminal
    "recipe", "half_step", "quantity", "unit", "over", "from", "to", "at_from", "at_to", "exponent", "objective",
    "states", "T", "steps_per_s", "over_network", "over_objective", "ratio", "met", "fill_share", "bytes_counted",
    "cache_mib",
)  # fmt: skip
Tables = dict[str, list[dict[str, Any]]]


def check(given: Given) -> Callable[[], None]:
    """Checks the settings. Returns the check of the trainings that are measured, and of the folder."""
    settings = read(given)

    def later() -> None:
        _recipes(settings)
        check_writable(Path(settings.out))

    return later


def _recipes(settings: SpeedSettings) -> tuple[Recipe, Recipe, Extent]:
    """What is measured, vectors and images, and how much."""
    extent = QUICK if settings.quick else FULL
    return recipe(VECTORS, extent.vectors), recipe(IMAGES, extent.images), extent


def speed(given: Given) -> None:
    """Measures everything, prints the tables and writes ``speed.json``, ``speed.md`` and ``speed.png``."""
    settings = read(given)
    vectors, images, extent = _recipes(settings)
    tables, halves = _tables(vectors, images, extent, settings)
    curves = _curves(vectors, images, extent, settings, halves)
    tables["Growth: y ∝ x^exponent"] = [curve.row() for curve in curves]
    out, about = Path(settings.out), machine(vectors.device)
    drawn = draw_curves(out / "speed.png", speed_panels(curves), legends=True)
    write_json(out / "speed.json", {"settings": settings, "machine": about, "tables": tables, "curves": curves})
    text = _head(about, settings, extent.often)
    text += "".join(f"## {title}\n\n{markdown_table(rows)}\n" for title, rows in tables.items())
    write_text(out / "speed.md", text + ("![growth](speed.png)\n" if drawn else ""))
    for title, rows in tables.items():
        print_table(rows, title=title, columns=[key for key in _SHOWN if key in rows[0]])
    logger.info("tables: %s", out / "speed.md")


def _tables(
    vectors: Recipe, images: Recipe, extent: Extent, settings: SpeedSettings
) -> tuple[Tables, list[dict[str, Any]]]:
    """The tables but that of growth, and the rows of the vectors' half-steps."""
    many = [often * settings.repeats for often in extent.often]
    both = list(zip((vectors, images), many, extent.block, extent.shrink, extent.L, extent.states))
    logger.info("training steps")
    steps = [training_step(one, later, block, many) for one, many, block, *_ in both for later in (False, True)]
    logger.info("half-steps")
    halves = [row for one, _, _, shrink, L, _ in both for row in half_steps(one, L, shrink)]
    logger.info("sampling")
    samples = [sampling(one, states, many) for one, many, *_, states in both]
    tables = {
        "Training steps against bare network steps": _judged(steps, "over_network"),
        "Sampling against bare network calls": _judged(samples, "ratio"),
        "Half-steps, shortened": halves,
        "The trajectory cache": [row for one, *_ in both for row in cache_sizes(one)],
    }
    return tables, [row for row in halves if row["recipe"] == vectors.name]


def _judged(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The rows with the target of a ratio, and whether it is met."""
    return [{**row, "target": TARGETS[key], "met": row[key] <= TARGETS[key]} for row in rows]


def _curves(
    vectors: Recipe, images: Recipe, extent: Extent, settings: SpeedSettings, halves: list[dict[str, Any]]
) -> list[Curve]:
    logger.info("growth with T, the cache and the image")
    found = over_T(vectors, extent, settings.repeats) + over_cache(vectors, extent, settings.repeats)
    found += over_size(images, extent, settings.repeats)
    logger.info("memory")
    return [*found, over_L(vectors, halves), *over_memory(vectors, images, extent)]


def _head(about: dict[str, Any], settings: SpeedSettings, often: tuple[int, int]) -> str:
    vectors, images = (each * settings.repeats for each in often)
    reported = ", ".join(f"{key} {value}" for key, value in about.items() if key != "git")
    return (
        f"# Speed\n\n{reported}.\n\n"
        f"Medians of {settings.repeats} timings, of steps and samples of {vectors} (vectors) and {images} (images), "
        f"each taken in turn with what it is compared with. The bare step is forward, backward and optimiser of the "
        f"same network on a batch of the same shape; the training's step also makes the batch, the kernel's law and "
        f"the objective's loss, clips, averages the weights and reports. `objective_ms` is the bare step with law and "
        f"loss; `round_ms` starts a fit, once a cache round. `fill_share` is cache filling "
        f"as a share of a half-step. Memory is the peak beyond what was held before.\n\n"
    )
