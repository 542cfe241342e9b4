"""Cholesky factors and solutions of matrices that may be singular."""

import torch

from csb.process import psd_cholesky, psd_solve, seeded


def test_positive_definite_is_as_ever():
    B = torch.randn((3, 5, 9), dtype=torch.float64, generator=seeded(0))
    S = B @ B.mT
    assert torch.equal(psd_cholesky(S), torch.linalg.cholesky(S))
    assert torch.equal(psd_solve(S, B), torch.linalg.solve(S, B))


def test_singular():
    B = (
        torch.randn((5, 2), dtype=torch.float64, generator=seeded(0))
        * torch.tensor([[1.0], [1], [1e-6], [1e6], [0]]).double()
    )
    S = B @ B.T
    L = psd_cholesky(S)
    assert torch.equal(L, L.tril())
    assert torch.allclose(L @ L.T, S, rtol=1e-9, atol=0)
    assert torch.allclose(S @ psd_solve(S, S), S, rtol=1e-6, atol=0)
    assert torch.equal(psd_cholesky(torch.zeros(2, 2)), torch.zeros(2, 2))


def test_not_finite_is_nan():
    S = torch.full((2, 2), torch.nan)
    assert bool(psd_cholesky(S).isnan().any())
    assert bool(psd_solve(S, S).isnan().all())
