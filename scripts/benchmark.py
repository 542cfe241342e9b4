"""Overheads of a run, or a suite: python scripts/benchmark.py run=outputs/mnist_inpaint, or suite=sbi."""

import hydra
from omegaconf import DictConfig

from csb.run import cli
from csb.run.benchmark import benchmark, validate


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
@cli.told
def main(config: DictConfig) -> None:
    """One benchmark."""
    benchmark(config)


if __name__ == "__main__":
    cli.run(main, "benchmark", validate, "the same command goes on where a suite was stopped")
