"""The optimiser of images: which weights it moves by orthogonal steps, and how far."""

import pytest
import torch
from torch import nn

from csb.networks import build_network
from csb.process import initialised, seeded
from csb.training.muon import GAIN, Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_singular_values_become_one_and_the_vectors_stay(shape):
    u = torch.randn(shape, generator=seeded(0))
    found = orthogonal(u)
    left, _, right = torch.linalg.svd(u, full_matrices=False)
    inner = left.mT @ found @ right.mT
    values = inner.diagonal()
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3  # what five iterations give (Jordan et al. 2024)
    torch.testing.assert_close(inner, values.diag(), rtol=0, atol=1e-4)


def test_kernels_inside_a_network_take_orthogonal_steps_and_all_else_those_of_adamw():
    spec = {"name": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "skip": True}
    networks = []
    for _ in range(2):
        with initialised(0):
            networks.append(build_network(spec, (1, 8, 8), (1, 8, 8), 2))
    muon, adamw = Muon(networks[0], 1e-3), torch.optim.AdamW(networks[1].parameters(), 1e-3)
    inner = {id(p) for p in muon.param_groups[1]["params"]}
    before = [p.detach().clone() for p in networks[0].parameters()]
    for p, q in zip(networks[0].parameters(), networks[1].parameters()):
        p.grad = torch.randn(p.shape, generator=seeded(p.numel()))
        q.grad = p.grad.clone()
    muon.step()
    adamw.step()
    names = []
    for (name, p), q, was in zip(networks[0].named_parameters(), networks[1].parameters(), before):
        if id(p) not in inner:
            assert torch.equal(p, q), name
            continue
        names.append(name)
        step = (p - was).detach().flatten(1)
        gain = GAIN * 1e-3 * max(1.0, step.shape[0] / step.shape[1]) ** 0.5
        assert float(torch.linalg.matrix_norm(step, 2)) == pytest.approx(gain, rel=0.35)
    assert {"down.0.conv_1.weight", "middle.1.conv_2.weight", "attend.qkv.weight", "encoder.near.conv_1.weight"} <= {
        *names
    }
    assert not [name for name in names if "entry" in name or "exit" in name or "film" in name]


def test_its_state_is_kept():
    def steps(optimizer, layers, numbers):
        for i in numbers:
            optimizer.zero_grad()
            layers(torch.randn(4, 3, generator=seeded(i))).square().sum().backward()
            optimizer.step()

    found = []
    for stops in ((4,), (2, 4)):  # before these steps it is stopped, and gone on with
        with initialised(1):
            layers = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
        state, begin = {}, 0
        for stop in stops:
            optimizer = Muon(layers, 1e-3)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            steps(optimizer, layers, range(begin, stop))
            state, begin = optimizer.state_dict()["state"], stop
        found.append([p.detach().clone() for p in layers.parameters()])
    assert all(map(torch.equal, *found))


def test_without_a_layer_inside_it_is_adamw():
    with initialised(0):
        networks = [build_network({"name": "affine", "steps": 2}, (2,), (1,), 2) for _ in range(2)]
    optimizers = Muon(networks[0], 1e-3), torch.optim.AdamW(networks[1].parameters(), 1e-3)
    for network, optimizer in zip(networks, optimizers):
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert all(map(torch.equal, networks[0].parameters(), networks[1].parameters()))


def test_without_any_other_weights_it_is_muon():
    with initialised(0):
        layer = nn.Linear(3, 3, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.eye(3)
    Muon(layer, 1e-3, fused=True).step()
    assert not torch.equal(layer.weight, before)
