"""Trainings record gradients, wherever they are called."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def with_gradients() -> Iterator[None]:
    """Leaves torch's inference mode and no_grad: what is made inside can be trained. Also a decorator."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
