"""Loggers: CSV by default; Weights & Biases and TensorBoard by name."""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from csb.errors import CSBError, in_one_line
from csb.schema import Name, OneOf, Schema

NAMES = ("csv", "wandb", "tensorboard", "none")
MODES = ("auto", "online", "offline", "disabled")


class LoggerSettings(Schema):
    """Which logger."""

    group = "logger"

    name: Annotated[str, OneOf(NAMES)] = Field(default="csv", description="of the logger")
    project: Name = Field(default="csb", description="of Weights & Biases")
    entity: str | None = Field(default=None, description="of Weights & Biases")
    mode: Annotated[str, OneOf(MODES)] = "auto"
    """Of Weights & Biases; "auto": online with a key, else offline."""

    @model_validator(mode="after")
    def _installed(self) -> Self:
        if self.name == "tensorboard":
            try:
                import tensorboard  # noqa: F401
            except ImportError as error:
                raise CSBError(
                    "logger=tensorboard needs the package tensorboard; pip install -e '.[tensorboard]'"
                ) from error
        return self


class Logs:
    """The logger of one run, as a context: metrics, pictures, and an end that leaves nothing open for the next job.

    Each attempt at a run (resumed or not) has a log of its own, so that nothing earlier is overwritten.
    """

    def __init__(self, settings: LoggerSettings, folder: Path, config: dict[str, Any]) -> None:
        self.name = settings.name
        self.logger = self._logger(settings, folder)
        if self.name in ("tensorboard", "wandb"):
            self.logger.log_hyperparams(config)

    @staticmethod
    def _logger(settings: LoggerSettings, folder: Path) -> Any:
        from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # seconds, which sampling spares

        if settings.name == "csv":
            return CSVLogger(folder, name="logs", flush_logs_every_n_steps=1)
        if settings.name == "tensorboard":
            return TensorBoardLogger(folder, name="tensorboard")
        return _wandb(settings, folder) if settings.name == "wandb" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.logger is None:
            return
        self.logger.finalize("failed" if kind else "success")
        if self.name == "wandb":
            self.logger.experiment.finish(exit_code=1 if kind else 0)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Numbers at a step of the axis of all optimiser steps."""
        if self.logger is not None:
            self.logger.log_metrics(values, step)
            self.logger.save()

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG, where the logger takes pictures."""
        if self.name == "wandb":
            self.logger.log_image(name, [str(path)], step=step)
        if self.name == "tensorboard":
            import matplotlib.image

            self.logger.experiment.add_image(name, matplotlib.image.imread(path)[..., :3], step, dataformats="HWC")


def _wandb(settings: LoggerSettings, folder: Path) -> Any:
    """A logger of Weights & Biases. CSBError where it cannot start."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger
    from requests.utils import get_netrc_auth
    from wandb.errors import Error

    mode, of = settings.mode, wandb.setup().settings
    if mode == "auto":
        has_key = os.environ.get("WANDB_API_KEY") or of.api_key or get_netrc_auth(of.base_url)
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    where: Any = {"project": settings.project, "entity": settings.entity, "name": folder.name, "dir": str(folder)}
    try:
        run = wandb.init(**where | {"mode": mode}, reinit="finish_previous")
    except (Error, OSError) as error:
        raise CSBError(
            f"logger=wandb cannot start ({in_one_line(error)}); fix it or choose logger.mode=offline"
        ) from error
    return WandbLogger(experiment=run, save_dir=str(folder), log_model=False)
