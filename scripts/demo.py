"""A page to try a bridge on digits: python scripts/demo.py run=outputs/mnist_inpaint_anywhere."""

import hydra
from omegaconf import DictConfig

from csb.run import cli
from csb.run.demo import demo, validate


@hydra.main(config_path="../conf", config_name="demo", version_base="1.3")
@cli.told
def main(config: DictConfig) -> None:
    """The page of one run."""
    demo(config)


if __name__ == "__main__":
    cli.run(main, "demo", validate, "nothing was changed")
