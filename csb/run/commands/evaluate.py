"""csb evaluate: scores a finished run and compares it."""

import shlex
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.run import provenance
from csb.run.evaluate import compare_run, evaluate
from csb.run.load import load_run
from csb.run.lock import writing
from csb.run.recipe import command_settings
from csb.samplers.registry import BaselineSettings
from csb.schema import Place, Schema, Whole


class EvaluateSettings(Schema):
    """See conf/evaluate.yaml."""

    run: Place = Field(description="the folder of a finished run")
    others: list[Place] = Field(description="folders of more runs on the same problem, to compare with")
    tables: bool = Field(description="compute the scores of the run again")
    seed: Whole = Field(description="of all samples")
    sampler: SamplerSettings = Field(description="how samples are drawn")
    metrics: MetricsSettings = Field(description="how much is drawn")
    baselines: BaselineSettings = Field(description="what is compared with")


def _read(config: DictConfig) -> EvaluateSettings:
    return command_settings(EvaluateSettings, config)


def validate(config: DictConfig, sweep: bool = False) -> None:
    """CSBError where a value is wrong or a run is not there."""
    read = _read(config)
    for folder in (read.run, *read.others):
        load_run(folder).bridge.timesteps(read.sampler.refine, read.sampler.sample_steps)


def main(config: DictConfig) -> None:
    """Evaluates one run."""
    read = _read(config)
    with writing(Path(read.run)):  # the bridge is read, and its results written, while no other process trains it
        _write(read, config)


def _write(read: EvaluateSettings, config: DictConfig) -> None:
    run, others = load_run(read.run), [load_run(folder) for folder in read.others]
    if read.tables:
        evaluate(run, read.sampler, read.metrics, read.seed)
    command = shlex.join(["csb", "evaluate", *HydraConfig.get().overrides.task])
    compare_run(run, others, read.baselines, read.sampler, read.metrics, read.seed, command)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    where, precision = run.bridge.device, run.bridge.precision
    provenance.record(run.folder, "evaluate", run.problem, where, precision, read.seed, plain)
