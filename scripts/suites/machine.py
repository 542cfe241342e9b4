"""The machine and the code that measured figures belong to."""

import os
from typing import Any

import torch

from csb.runs.folder import device_of, git, versions


def machine(device: torch.device) -> dict[str, Any]:
    """Device, cores, threads of torch, versions and the commit, as plain data."""
    reported, of = device_of(device, None), versions()
    about = {"device": reported["name"], "cores": os.cpu_count(), "threads": reported["threads"]}
    return {**about, "torch": of["torch"], "python": of["python"], "csb": of["csb"], "git": git()}
