"""A bridge of low-rank kernels that reproduces an exact full-rank one: sampling draws the common factors."""

import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.process import seeded
from tests.conftest import make_exact_bridge

N = 40_000


def test_low_rank_kernels_reach_the_posterior_of_full_ones():
    exact = make_exact_bridge("full", iterations=8)
    part = KernelSpec({"name": "affine", "steps": exact.grid.T}, "drift", "low_rank", rank=2, variance_floor=0.0)
    bridge = build_bridge(BridgeSpec(exact.grid.alpha_bar.tolist(), exact.spec.transform, part, part))
    kernel, source = bridge.backward_kernel, exact.bridge.backward_kernel.network
    with torch.no_grad():
        kernel.network.weight.copy_(source.weight)
        kernel.network.bias.copy_(source.bias)
        for k, (_, _, _, S) in enumerate(exact.steps[-2].kernels, start=1):
            small = 0.5 * torch.linalg.eigvalsh(S)[0]  # diag(small) + low·lowᵀ = S
            kernel.network.spread[k, 0] = (small / exact.grid.beta[k]).log()
            low = torch.linalg.cholesky(S - small * torch.eye(2).double())
            kernel.network.spread[k, 1:] = low.T / kernel.steps[4, k]
    y = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
    for x, one in zip(bridge.sample(y, N, generator=seeded(1)).x, y):
        mean = exact.G @ one.double() + exact.g
        assert bool(((x.double().mean(0) - mean).abs() < 5 * (exact.C.diagonal() / N).sqrt() + 1e-3).all())
        torch.testing.assert_close(x.double().T.cov(), exact.C, rtol=0.04, atol=0.004)


def test_samples_do_not_depend_on_the_batch_size():
    bridge = make_exact_bridge("full").bridge
    part = KernelSpec({"name": "mlp", "width": 16, "depth": 1}, "v", "low_rank", rank=1)
    bridge = build_bridge(BridgeSpec(bridge.grid.alpha_bar.tolist(), bridge.transform.spec(), part, part))
    y = torch.randn(3, 2, generator=seeded(2))
    whole, parts = (bridge.sample(y, 5, generator=seeded(3), batch_size=b).x for b in (100, 4))
    torch.testing.assert_close(whole, parts)
