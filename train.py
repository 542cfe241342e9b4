"""Trains a conditional Schrödinger bridge: python train.py experiment=mnist_inpaint."""

from typing import Any

import hydra
from omegaconf import DictConfig

from csb.run import cli
from csb.run.jobs import job, validate


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
@cli.told
def main(config: DictConfig) -> dict[str, Any] | None:
    """One job."""
    return job(config)


if __name__ == "__main__":
    cli.run(main, "train", validate, "resume=true (and no overwrite=true) continues from the last checkpoint")
