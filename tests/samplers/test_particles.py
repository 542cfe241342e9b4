"""What the particle filters promise of runs, weights, ancestors and settings."""

import pytest
import torch

from csb.errors import CSBError
from csb.networks.diffusion import MixtureDenoiser
from csb.problems import GaussianMixture
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import TDS, BootstrapSMC, GaussianLikelihood

PROBLEM = GaussianMixture(dx=4, dy=2, seed=1)
Y = PROBLEM.pairs("test", 3).y


def build(method, **options):
    denoiser = MixtureDenoiser(PROBLEM.mixture)
    model = GaussianLikelihood.of(PROBLEM, denoiser, PROBLEM.pairs("train", 500))
    return method(denoiser, model, Grid.from_schedule(LinearBeta(1e-4), 6), **options)


def test_all_runs_weigh_the_same():
    found = build(TDS, particles=8).sample(Y[0], 40, seeded(1))
    torch.testing.assert_close(found.log_weights.exp().view(5, 8).sum(1), torch.full((5,), 0.2).double())


def test_runs_are_resampled_each_by_itself():
    """Three runs: even, with one heavy particle, and far less likely than the others, which must not count."""
    log_w = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -9.0, -9.0, -9.0], [-99.0, -99.0, -90.0, -99.0]]).double()
    chosen, after = build(TDS)._resample(log_w, torch.full((3, 4), 0.5, dtype=torch.float64))
    assert chosen.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 10, 10, 10, 10]
    assert torch.equal(after, torch.zeros_like(log_w))
    log_w[0, 0] = -0.1
    chosen, after = build(TDS)._resample(log_w, torch.full((3, 4), 0.5, dtype=torch.float64))
    assert chosen.tolist()[:4] == [0, 1, 2, 3]
    assert torch.equal(after[0], log_w[0])  # weights of a run that is not resampled are kept


def test_ancestors_stay_in_their_run():
    info = build(TDS, particles=1).sample(Y, 12, seeded(1)).info
    assert info.unique_ancestors.tolist() == [12, 12, 12]


def test_without_resampling_all_ancestors_live():
    found = build(TDS, ess_threshold=0.0).sample(Y, 12, seeded(1))
    assert found.info.unique_ancestors.tolist() == [12, 12, 12]
    assert float(found.info.ess.max()) < 12


@pytest.mark.parametrize("resampling", ["systematic", "stratified", "multinomial", "residual"])
def test_resampling_at_every_step_keeps_the_weights_even(resampling):
    found = build(TDS, ess_threshold=1.0, resampling=resampling).sample(Y, 32, seeded(1))
    assert float(found.info.ess.min()) > build(TDS, ess_threshold=0.0).sample(Y, 32, seeded(1)).info.ess.min()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "particles=0 is not possible"),
        ({"resampling": "best"}, "resampling='best' is unknown; choose one of systematic, stratified"),
        ({"ess_threshold": 1.5}, r"tds.ess_threshold=1.5 is not possible; give a number in \[0, 1\]"),
        ({"precision": "fp8"}, "precision='fp8' is unknown"),
    ],
    ids=str,
)
def test_errors(options, message):
    with pytest.raises(CSBError, match=message):
        build(TDS, **options)


def test_n_must_be_whole_runs():
    with pytest.raises(CSBError, match="n=20 is no multiple of particles=8"):
        build(BootstrapSMC, particles=8).sample(Y, 20, seeded(1))
