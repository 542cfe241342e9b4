"""The groups of settings by name: ``network=unet`` on the command line, and what :func:`csb.fit` takes by default.

A preset names what differs from the defaults of its schema. None stands for what another setting decides, "auto" for
what the data decide (:mod:`csb.runs.recipe`).
"""

import copy
from collections.abc import Mapping
from typing import Any

from csb.evaluation.scores import MetricsSettings, SamplerSettings
from csb.runs.logs import LoggerSettings
from csb.runs.recipe import AUTO, BaselineSettings, NetworkSettings, ObjectiveSettings, TrainSettings
from csb.samplers import GUIDED
from csb.schema import Schema, defaults
from csb.training.settings import (
    ConditionalSettings,
    DenoiserSettings,
    DeviceSettings,
    DistilSettings,
    OptimizerSettings,
    TrainingSettings,
)

Plain = dict[str, Any]
SCHEMAS: dict[str, type[Schema]] = {
    "network": NetworkSettings, "objective": ObjectiveSettings, "training": TrainingSettings,
    "optimizer": OptimizerSettings, "trainer": DeviceSettings, "denoiser": DenoiserSettings,
    "conditional": ConditionalSettings, "distil": DistilSettings, "baselines": BaselineSettings,
    "sampler": SamplerSettings, "metrics": MetricsSettings, "logger": LoggerSettings,
}  # fmt: skip
_COUNTED = {"first_steps": AUTO, "steps": AUTO, "batch_size": AUTO}
_DIT = {"width": 192, "depth": 6, "attention_heads": 3, "patch": AUTO, "skip": True}
_UNET = {"channels": 32, "multipliers": [1, 2], "blocks": 1, "patch": 2, "attention": True, "skip": True}
_SWEEPS = {
    "dps": [0.03, 0.1, 0.3, 1, 3, 10],  # ζ
    "repaint": [1, 5, 10],  # j, levels a jump, at about the same cost
    "ilvr": [0.01, 0.1, 0.3],  # b, the share of the steps near the data that is left alone
    "copaint": [0.1, 0.3, 1],  # ξ
    "pigdm": [0.1, 0.5, 1],  # η
    "ddrm": [0.1, 0.5, 0.85],  # η
    "sda": [0.1, 0.3, 1],  # γ
    "guidance": [1, 2, 4],  # s
}
PRESETS: dict[str, dict[str, Plain]] = {
    "schedule": {  # the schedule's own classes have the ranges
        "auto": {"name": AUTO, "alpha_bar_end": None, "scale": None},
        "cosine": {"name": "cosine", "alpha_bar_end": 1e-3, "offset": 0.008},  # Nichol & Dhariwal 2021
        "linear": {"name": "linear", "alpha_bar_end": 1e-4, "beta_min": 0.1},
        "power": {"name": "power", "alpha_bar_end": 0.1, "power": 4.0},
    },
    "network": {
        "affine": {  # exact for linear-Gaussian problems
            "name": "affine", "options": {"steps": None}, "parametrisation": {"backward": "drift", "forward": "drift"},
        },
        "mlp": {
            "name": "mlp", "options": {"width": AUTO, "depth": AUTO, "film": True},
            "parametrisation": {"backward": "v", "forward": "v"},
        },
        "unet": {"name": "unet", "options": _UNET, "parametrisation": {"backward": "x0", "forward": "v"}},
        "dit": {"name": "dit", "options": _DIT, "parametrisation": {"backward": "x0", "forward": "v"}},
    },
    "objective": {
        "bridge_matching": {"name": "bridge_matching", "covariance": AUTO, "components": 4},
        "likelihood": {"name": "likelihood", "covariance": "diagonal"},
        "likelihood_full": {"name": "likelihood", "covariance": "full"},
        "likelihood_low_rank": {"name": "likelihood", "covariance": "low_rank"},
        "likelihood_mixture": {"name": "likelihood", "covariance": "mixture"},
        "mean_matching": {"name": "mean_matching", "covariance": "fixed", "variance_floor": 0.0},
    },
    "training": {
        "vectors": {**_COUNTED, "states_per_pair": AUTO, "trajectories": AUTO},
        "images": {
            **_COUNTED, "states_per_pair": AUTO, "trajectories": AUTO, "refresh": 350, "last_forward": False,
            "inflate": True, "patience": 0, "checkpoint_every": 100, "observe_every": 400,
        },
        "gaussian": {
            "first_steps": 2000, "steps": 2000, "batch_size": 2048, "refresh": 1000, "trajectories": 196608,
            "patience": 0,
        },
    },
    "optimizer": {
        "adamw": {"lr": AUTO, "weight_decay": AUTO}, "muon": {"name": "muon", "lr": AUTO, "weight_decay": AUTO},
    },
    "trainer": {"auto": {"precision": AUTO}, "default": {}, "bf16": {"precision": "bf16-mixed"}},
    "denoiser": {
        "vectors": {"steps": 6000, "batch_size": AUTO, "lr": 1e-3, "checkpoint_every": 500},
        "images": {"steps": 3000, "batch_size": AUTO, "lr": 2e-3, "checkpoint_every": 200},
    },
    "conditional": {"default": {"steps": None, "batch_size": None, "lr": None, "checkpoint_every": None}},
    "distil": {
        "vectors": {"steps": 10_000, "batch_size": AUTO, "lr": 1e-3, "checkpoint_every": 500},
        "images": {
            "steps": 1800, "batch_size": AUTO, "lr": 1e-3, "checkpoint_every": 100, "components": 8, "rank": 32,
            "patches": [7, 3, 1], "refresh": 600, "trajectories": 8000,
        },
    },
    "baselines": {
        "guided": {"methods": list(GUIDED), "sweeps": _SWEEPS},
        "budgets": {  # as guided, with small sweeps, since each budget has its own
            "methods": list(GUIDED), "sweeps": {**_SWEEPS, "dps": [0.1, 0.3, 1]}, "sweep_observations": 10,
        },
        "none": {"methods": [], "sweeps": _SWEEPS},
    },
    "sampler": {"bridge": {}},
    "metrics": {
        "default": {},
        "full": {
            "observations": 1000, "exact_samples": 10000, "exact_observations": 20, "picture_rows": 8,
            "c2st_samples": 10000, "c2st_observations": 3,
        },
    },
    "logger": {name: {"name": name} for name in ("csv", "none", "tensorboard", "wandb")},
}  # fmt: skip
CHOSEN: dict[str, str] = {
    "schedule": "auto", "network": "mlp", "objective": "bridge_matching", "training": "vectors", "optimizer": "adamw",
    "trainer": "auto", "denoiser": "vectors", "conditional": "default", "distil": "vectors", "baselines": "guided",
    "sampler": "bridge", "metrics": "default", "logger": "csv",
}  # fmt: skip
# what trainings on images have in common: other presets, and other values in them
IMAGES: dict[str, str] = {
    "schedule": "power", "objective": "likelihood_low_rank", "network": "unet", "training": "images",
    "optimizer": "muon", "denoiser": "images", "distil": "images",
}  # fmt: skip
IMAGE_VALUES: Plain = {
    "L": 2, "T": 10,
    "schedule": {"alpha_bar_end": 0.005, "power": 2.7},
    "objective": {"variance_floor": 4e-4, "rank": 32},
    "optimizer": {"lr": 2e-3, "later_lr": 5e-5, "ema": 0.999, "weight_decay": 0.0, "balance": 0.5},
}  # fmt: skip


def preset(group: str, name: str) -> Plain:
    """A group of settings by its preset's name, with the schema's defaults for all that the preset leaves open."""
    base = defaults(SCHEMAS[group]) if group in SCHEMAS else {}
    return {**base, **copy.deepcopy(PRESETS[group][name])}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Plain:
    """``base`` with the values of ``changes``; tables inside are merged likewise."""
    both = dict(base)
    for key, value in changes.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both


def own_pairs(is_image: bool) -> Plain:
    """The settings of a training on one's own pairs, all but the pairs: of images (C, H, W), or of vectors (d,)."""
    chosen = CHOSEN | (IMAGES if is_image else {})
    plain = {**defaults(TrainSettings), **{group: preset(group, name) for group, name in chosen.items()}}
    if not is_image:
        return merged(plain, {"metrics": {"observations": 500}})
    return merged(merged(plain, IMAGE_VALUES), {"training": {"patience": 8}, "metrics": {"observations": 100}})
