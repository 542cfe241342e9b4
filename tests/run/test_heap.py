"""Freed memory is kept for the next tensors."""

import os
import resource

import pytest
import torch

from csb.cli.heap import keep_freed_memory

NOTHING = 77


def faults():
    """Pages that the system hands out while tensors, 60 MiB at a time, come and go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        _ = [torch.ones(20 * 2**18) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def compared():
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        del os.environ[name]
    faults()
    without = faults()
    keep_freed_memory()
    faults()
    if without < 10_000:
        raise SystemExit(NOTHING)
    assert faults() < without / 20


def test_pages_are_not_taken_again_and_again(fork_server):
    process = fork_server.Process(target=compared)
    process.start()
    process.join(120)
    if process.exitcode == NOTHING:
        pytest.skip("this system's C library keeps freed memory by itself")
    assert process.exitcode == 0
