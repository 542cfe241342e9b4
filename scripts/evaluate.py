"""Scores a finished run: python scripts/evaluate.py run=outputs/mnist_inpaint."""

from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from csb.errors import require_int
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.run import cli
from csb.run.config import settings
from csb.run.evaluate import evaluate
from csb.run.load import load_run, run_folder


def _read(config: DictConfig) -> tuple[str, int, SamplerSettings, MetricsSettings]:
    folder = run_folder(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    require_int("seed", plain["seed"], 0)
    sampler = settings(SamplerSettings, "sampler", plain["sampler"])
    return folder, plain["seed"], sampler, settings(MetricsSettings, "metrics", plain["metrics"])


@hydra.main(config_path="../conf", config_name="evaluate", version_base="1.3")
@cli.told
def main(config: DictConfig) -> None:
    """Evaluates one run."""
    folder, seed, sampler, metrics = _read(config)
    evaluate(load_run(folder), sampler, metrics, seed)


if __name__ == "__main__":
    cli.run(main, "evaluate", lambda config, sweep: load_run(_read(config)[0]), "nothing was changed")
