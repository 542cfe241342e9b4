"""The model card of an exported bridge: what it is, what it was trained on, how good it is, and how to load it."""

from typing import Any

from csb.bridge import Bridge
from csb.evaluation.table import format_value, markdown_table
from csb.runs.hub import PICTURE
from csb.runs.inspection import mapping

_FIGURES = {  # of result.json, and what they are
    "sliced_w": "sliced Wasserstein-1 distance to the exact posterior",
    "sliced_w_floor": "that of as many exact samples",
    "mean_error": "relative error of the posterior mean",
    "cov_error": "relative error of the posterior covariance",
    "crps": "continuous ranked probability score in units of the prior's standard deviation, lower is better",
    "energy_score": "energy score in the same units, lower is better",
    "spread_skill": "spread/skill, a ratio of standard deviations, 1 where calibrated",
    "spread_skill_fair": "spread/skill corrected for the number of samples",
    "psnr_mean_per_image": "PSNR of the posterior mean, dB",
    "psnr_sample": "PSNR of single samples, dB",
    "coverage_deviation": "mean deviation of coverage from its level",
    "tarp_deviation": "mean deviation of TARP from its level",
    "deviation_floor": "that of an exact posterior",
}


def model_card(bridge: Bridge, about: dict[str, Any], licence: str | None, pictured: bool) -> str:
    """The Markdown of the card; ``about`` has problem, config, versions and training, any of which may be missing."""
    problem, config, training = (mapping(about.get(key)) for key in ("problem", "config", "training"))
    name = str(problem.get("name", "unknown problem"))
    front = ["---", "library_name: csb", "tags:", "- schroedinger-bridge", "- simulation-based-inference"]
    front += [f"license: {licence}"] if licence else []
    parts = [
        "\n".join([*front, "---"]),
        f"# Conditional Schrödinger bridge: {name}",
        f"Draws posterior samples of x given y for any y in one trajectory of {bridge.grid.T} network calls.",
        *([f"![posterior samples]({PICTURE})"] if pictured else []),
        "## Use",
        _use(bridge),
        "## What it is",
        markdown_table(_facts(bridge, problem, config)),
    ]
    if figures := _scores(training):
        parts += ["## Figures", "As measured at the end of the training.", markdown_table(figures)]
    versions = mapping(about.get("versions"))
    if versions:
        parts += ["Trained with " + ", ".join(f"{key} {value}" for key, value in versions.items()) + "."]
    stated = f"The weights are under the licence `{licence}`." if licence else "No licence is stated for the weights."
    return "\n\n".join([*parts, "## Licence", stated]) + "\n"


def _use(bridge: Bridge) -> str:
    shape = ", ".join(map(str, bridge.transform.y_shape))
    return f"""```python
import csb, torch

bridge = csb.load("this/folder")  # or the name of this repository on the Hub
y = torch.zeros({shape})  # one observation; or a batch (B, {shape})
x = bridge.sample(y, 1000).x  # (1000, {", ".join(map(str, bridge.transform.x_shape))})
```"""


def _facts(bridge: Bridge, problem: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    kernel = bridge.backward_kernel
    objective = mapping(config.get("objective")).get("name")
    weights = sum(p.numel() for p in bridge.parameters())
    facts = {
        "x": tuple(bridge.transform.x_shape),
        "y": tuple(bridge.transform.y_shape),
        "training pairs": problem.get("n_train"),
        "steps T": bridge.grid.T,
        "iterations L": config.get("L"),
        "ᾱ_T": float(bridge.grid.alpha_bar[-1]),
        "objective": objective,
        "kernels": f"{type(kernel.network).__name__}, covariance {kernel.covariance}, {kernel.parametrisation}",
        "parameters": f"{weights:,}",
        "transform": type(bridge.transform).__name__,
    }
    return [{"property": key, "value": format_value(value)} for key, value in facts.items() if value is not None]


def _scores(training: dict[str, Any]) -> list[dict[str, Any]]:
    known = {key: text for key, text in _FIGURES.items() if isinstance(training.get(key), int | float)}
    return [{"figure": f"{key}: {text}", "value": format_value(training[key])} for key, text in known.items()]
