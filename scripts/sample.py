"""Draws posterior samples from a finished run: python scripts/sample.py run=outputs/two_moons n=1000 out=s.npz."""

import zipfile
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from csb.bridge.checkpoint import write_atomically
from csb.errors import CSBError, require_int
from csb.evaluation.settings import SamplerSettings
from csb.process import seeded
from csb.run import cli
from csb.run.config import settings
from csb.run.load import Run, load_run, run_folder


def _read(config: DictConfig) -> tuple[Run, SamplerSettings, dict[str, Any]]:
    plain: Any = OmegaConf.to_container(config)
    for name, low in (("observations", 1), ("n", 1), ("seed", 0)):
        require_int(name, plain[name], low)
    out = Path(str(plain["out"]))
    if plain["out"] is None or out.is_dir() or not out.parent.is_dir():
        raise CSBError(f"out={plain['out']} is not a file that can be written; give one in a folder that exists")
    return load_run(run_folder(config)), settings(SamplerSettings, "sampler", plain["sampler"]), plain


def _observations(run: Run, plain: dict[str, Any]) -> Tensor:
    if plain["y"] is None:
        return run.problem.pairs("test", plain["observations"]).y
    try:
        y = torch.from_numpy(np.load(plain["y"], allow_pickle=False)).float()
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CSBError(f"cannot read y={plain['y']} ({error}); give a .npy file of numbers") from error
    return y[None] if tuple(y.shape) == run.bridge.transform.y_shape else y


@hydra.main(config_path="../conf", config_name="sample", version_base="1.3")
@cli.told
def main(config: DictConfig) -> None:
    """Writes x (B, n, …) and y (B, …) to ``out``."""
    run, sampler, plain = _read(config)
    y = _observations(run, plain)
    generator = seeded(plain["seed"], device=run.bridge.device)
    samples = run.bridge.sample(y, plain["n"], generator=generator, **vars(sampler))
    x = samples.x.cpu().numpy()
    write_atomically(Path(plain["out"]), lambda file: np.savez(file, x=x, y=y.numpy()))
    calls = samples.info.forward_evaluations
    print(f"{plain['out']}: x {tuple(samples.x.shape)}, {calls} network calls a sample, {samples.info.seconds:.2f} s")


if __name__ == "__main__":
    cli.run(main, "sample", lambda config, sweep: _read(config), "nothing was changed")
