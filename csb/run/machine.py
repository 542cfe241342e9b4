"""The machine that measured times belong to."""

import os
import platform
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Device, cores, threads of torch, and versions, as plain data."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"torch": str(torch.__version__), "python": platform.python_version()}
    return {"device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}
