"""Loggers: CSV by default; Weights & Biases and TensorBoard by name."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from csb.errors import CSBError
from csb.schema import Name, OneOf, Schema

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, WandbLogger

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
    """The loggers of one run: metrics, pictures, and an end that leaves nothing open for the next job of a sweep.

    Each attempt at a run (resumed or not) has a log of its own, so that nothing earlier is overwritten.
    """

    def __init__(self, settings: LoggerSettings, folder: Path, config: dict[str, Any]) -> None:
        self.settings = settings
        self.logger: Any = self._make(settings, folder, config)
        if self.logger is not None and settings.name != "csv":
            self.logger.log_hyperparams(config)

    @staticmethod
    def _make(settings: LoggerSettings, folder: Path, config: dict[str, Any]) -> "Logger | None":
        from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # seconds, which sampling spares

        if settings.name == "csv":
            return CSVLogger(folder, name="logs", flush_logs_every_n_steps=1)
        if settings.name == "tensorboard":
            return TensorBoardLogger(folder, name="tensorboard")
        if settings.name == "wandb":
            return Logs._wandb(settings, folder, config)
        return None

    @staticmethod
    def _wandb(settings: LoggerSettings, folder: Path, config: dict[str, Any]) -> "WandbLogger":
        import wandb
        from lightning.pytorch.loggers import WandbLogger
        from wandb.errors import Error

        mode = settings.mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                name=folder.name,
                dir=str(folder),
                mode=mode,  # type: ignore[arg-type]
                reinit="finish_previous",
            )
        except (Error, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CSBError(f"logger=wandb cannot start ({reason}); fix it or choose logger.mode=offline") from error
        return WandbLogger(experiment=run, save_dir=str(folder), log_model=False)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Numbers at a step of the axis of all optimiser steps."""
        if self.logger is not None:
            self.logger.log_metrics(values, step)
            self.logger.save()

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG, where the logger takes pictures."""
        if self.settings.name == "wandb":
            self.logger.log_image(name, [str(path)], step=step)
        if self.settings.name == "tensorboard":
            import matplotlib.image

            self.logger.experiment.add_image(name, matplotlib.image.imread(path)[..., :3], step, dataformats="HWC")

    def close(self, status: str) -> None:
        """Ends the run ("success" or "failed")."""
        if self.logger is not None:
            self.logger.finalize(status)
        if self.logger is not None and self.settings.name == "wandb":
            self.logger.experiment.finish(exit_code=0 if status == "success" else 1)


def _has_key() -> bool:
    """Whether Weights & Biases has a key: in the environment or in the netrc file, as its own client looks."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    return bool(wandb.setup().settings.api_key or _netrc_key())


def _netrc_key() -> str | None:
    import netrc
    from urllib.parse import urlsplit

    import wandb

    host = urlsplit(wandb.setup().settings.base_url).hostname or ""
    try:
        entry = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None
