"""The folders of jobs, which Hydra names by conf/train.yaml."""

import hashlib

from omegaconf import OmegaConf

_LONGEST = 150  # bytes; file systems allow 255
_PLAIN = "defaults"  # the folder of a job without overrides


def job_folder(overrides: str) -> str:
    """A folder's name from a job's overrides: one folder deep, and shortened, with a hash, where it is too long."""
    name = overrides.replace("/", "_") or _PLAIN
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}-{hashlib.sha256(overrides.encode()).hexdigest()[:10]}"


# For hydra.sweep.subdir of conf/train.yaml, also in the worker processes of a launcher, which import this module with
# the job before they name its folder.
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


# For hydra.run.dir: a student goes into the folder of its bridge, or one of its own.
OmegaConf.register_new_resolver("run_folder", lambda own, run, out: str(out or run or own), replace=True)
