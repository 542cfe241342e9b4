"""Writes the golden set: python tests/golden/make.py FOLDER (a few minutes). Never run it over tests/golden/files.

The files in tests/golden/files were written by the version of the commit that added them. What they hold must load, and
draw the samples stored beside it, for ever; a new kind of file is added beside them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TINY = [
    "L=1", "T=3", "training.first_steps=40", "training.steps=20", "training.batch_size=64", "training.trajectories=256",
    "training.checkpoint_every=20", "training.validate_every=20", "metrics.exact_observations=2",
    "metrics.exact_samples=100", "metrics.picture_rows=2", "logger=none", "progress=false",
]  # fmt: skip
SMALL = ["network.options.width=8", "network.options.depth=1", "network.options.film=false"]
MOONS = ["experiment=two_moons", "problem.n_train=1000", *SMALL]
IMAGES = [
    "experiment=pairs_images", "data.path=images.npz",
    "network.options={channels: 8, multipliers: [1], blocks: 1, patch: 2, attention: false}", "objective.rank=2",
]  # fmt: skip
KERNELS = {  # a vector bridge of each covariance
    "fixed": ["objective=mean_matching"],
    "diagonal": ["objective=likelihood"],
    "mixture": ["objective.covariance=mixture", "problem.transform=probit"],
    "full": ["objective.covariance=full", "problem.transform=standardise"],
    "low_rank": ["objective=likelihood_low_rank", "objective.rank=1"],
}


def csb(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "csb", *arguments], check=True, stdout=subprocess.DEVNULL)


def main(out: Path) -> None:
    """Trains one tiny model of each kind in a temporary folder and copies its files to ``out``."""
    out.mkdir(parents=True)
    os.chdir(tempfile.mkdtemp(prefix="csb-golden-"))
    os.environ["OMP_NUM_THREADS"] = "1"
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1, 4, 4)).astype(np.float32)
    np.savez("images.npz", x=x, y=x.mean((2, 3)) + 0.1 * rng.normal(size=(400, 1)).astype(np.float32))
    for name, options in KERNELS.items():
        csb("train", *MOONS, *TINY, *options, f"name={name}")
        shutil.copy(f"outputs/{name}/bridge.pt", out / f"bridge_{name}.pt")
    csb("train", *IMAGES, *TINY, "name=image")
    shutil.copy("outputs/image/bridge.pt", out / "bridge_image.pt")
    shutil.copy("outputs/full/half_steps/02_forward.pt", out / "half_step.pt")
    for stage in ("score", "flow"):
        csb("train", *MOONS, *TINY, "conditional.steps=20", f"stage={stage}", "name=mixture")
        shutil.copy(f"outputs/mixture/{stage}.pt", out / f"{stage}.pt")
    csb("train", *MOONS, *TINY, "denoiser.steps=20", "stage=denoiser", "name=mixture")
    shutil.copy("outputs/mixture/denoiser.pt", out / "denoiser.pt")
    distil = ["distil.steps=20", "distil.batch_size=64", "distil.trajectories=256", "distil.calls=[1,2]"]
    csb("train", *MOONS, *TINY, *KERNELS["mixture"], *distil, "stage=distil", "run=outputs/mixture")
    shutil.copy("outputs/mixture/consistency.pt", out / "consistency.pt")
    csb("export", "run=outputs/full", f"out={out / 'exported'}")
    (out / "exported" / "samples.png").unlink(missing_ok=True)
    shutil.rmtree("outputs/full/pictures", ignore_errors=True)
    shutil.copytree("outputs/full", out / "run")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
