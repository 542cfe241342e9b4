"""csb evaluate: scores a finished run and compares it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from csb.errors import CSBError, require_int, require_place
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.run import provenance
from csb.run.config import settings
from csb.run.evaluate import compare_run, evaluate
from csb.run.load import load_run, run_folder
from csb.run.lock import writing
from csb.samplers.build import BaselineSettings


@dataclass(frozen=True)
class _Config:
    folder: str
    others: list[str]
    tables: bool
    seed: int
    sampler: SamplerSettings
    metrics: MetricsSettings
    baselines: BaselineSettings


def _read(config: DictConfig) -> _Config:
    folder = run_folder(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    require_int("seed", plain["seed"], 0)
    if not isinstance(plain["others"], list) or not isinstance(plain["tables"], bool):
        raise CSBError(
            f"others={plain['others']!r}, tables={plain['tables']!r}; give a list of folders, and true or false"
        )
    return _Config(
        folder, [str(require_place("others", one)) for one in plain["others"]], plain["tables"], plain["seed"],
        settings(SamplerSettings, "sampler", plain["sampler"]), settings(MetricsSettings, "metrics", plain["metrics"]),
        settings(BaselineSettings, "baselines", plain["baselines"]),
    )  # fmt: skip


def validate(config: DictConfig, sweep: bool = False) -> None:
    """CSBError where a value is wrong or a run is not there."""
    read = _read(config)
    for folder in (read.folder, *read.others):
        load_run(folder).bridge.stops(1, read.sampler.batch_size, read.sampler.refine, read.sampler.sample_steps)


def main(config: DictConfig) -> None:
    """Evaluates one run."""
    read = _read(config)
    with writing(Path(read.folder)):  # the bridge is read, and its results written, while no other process trains it
        _write(read, config)


def _write(read: _Config, config: DictConfig) -> None:
    run, others = load_run(read.folder), [load_run(folder) for folder in read.others]
    if read.tables:
        evaluate(run, read.sampler, read.metrics, read.seed)
    command = shlex.join(["csb", "evaluate", *HydraConfig.get().overrides.task])
    compare_run(run, others, read.baselines, read.sampler, read.metrics, read.seed, command)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    where, precision = run.bridge.device, run.bridge.precision
    provenance.record(run.folder, "evaluate", run.problem, where, precision, read.seed, plain)
