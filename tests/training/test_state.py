"""Weights that pass from one model to another."""

import pytest
import torch
from torch import nn

from csb.problems import Reflect
from csb.training.state import take_weights


def two():
    generator = torch.Generator().manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2)]
    for model in models:
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return models


def test_parameters_and_buffers_are_copied_in_place():
    model, other = two()
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    take_weights(model, other.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert tensor.data_ptr() == before[name]


@pytest.mark.parametrize("change", [{"0.bias": torch.zeros(3)}, {"more": torch.zeros(1)}, {"0.bias": [0.0, 0.0]}])
def test_what_does_not_fit(change):
    model, other = two()
    with pytest.raises(RuntimeError, match=next(iter(change))):
        take_weights(model, {**other.state_dict(), **change})


def test_what_strikes_a_copy_is_raised_as_it_is(monkeypatch):
    def interrupted(*args, **kwargs):
        raise MemoryError

    model, other = two()
    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    with pytest.raises(MemoryError):
        take_weights(model, other.state_dict())


def test_weights_of_an_older_version():
    transform = Reflect((2,), (2,), [0.0, 0.0], [1.0, 1.0])
    weights = {name: tensor + 1 for name, tensor in transform.state_dict().items() if name != "softness"}
    take_weights(transform, weights)
    assert torch.equal(transform.x_mean, weights["x_mean"])
