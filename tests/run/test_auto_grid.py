"""schedule=auto: the grid that the data ask for; objective.covariance=auto: the covariance that their shape does."""

import pytest
import torch

from csb.bridge.kernel import automatic_covariance
from csb.cli.compose import composed
from csb.process import Power, seeded
from csb.runs.config import RunConfig, read
from csb.training.pairs import EncodedPairs


def config(*overrides: str) -> RunConfig:
    return read(composed("train", overrides))


def pairs(width):
    """z | c ~ N(c, diag(1, width²)), c ~ N(0, I)."""
    c = torch.randn(5000, 2, generator=seeded(1))
    return EncodedPairs.of(c + torch.randn(5000, 2, generator=seeded(2)) * torch.tensor([1.0, width]), c)


def test_finer_data_have_finer_first_steps():
    first = [1 - float(config().resolved(pairs(w)).grid.alpha_bar[1]) for w in (0.02, 0.1)]
    assert 0 < first[0] < 0.5 * first[1] < 0.01


def test_a_given_scale_and_what_is_kept_of_it():
    run = config("schedule.scale=0.05", "schedule.alpha_bar_end=0.2").resolved(pairs(0.1))
    assert 1 - float(run.grid.alpha_bar[1]) == pytest.approx(0.05**2, rel=1e-6)
    assert isinstance(run.schedule, Power)
    assert run.plain["schedule"] == {"name": "power", "alpha_bar_end": 0.2, "power": run.schedule.power}
    assert run.resolved(pairs(0.5)) is run


def test_horizon_by_the_number_of_coordinates():
    for d, end in ((1, 0.1), (2, 0.1), (10, 0.02)):
        z = torch.randn(500, d, generator=seeded(1))
        assert float(config().resolved(EncodedPairs.of(z, z[:, :1])).grid.alpha_bar[-1]) == pytest.approx(
            end
        )  # y determines a coordinate


def test_other_schedules_stay():
    run = config("schedule=power", "schedule.power=3")
    assert run.resolved(pairs(0.1)) is run


@pytest.mark.parametrize(
    ("shape", "covariance"),
    [
        ((1,), "mixture"),
        ((4,), "mixture"),
        ((5,), "full"),
        ((64,), "full"),
        ((65,), "low_rank"),
        ((1, 9, 9), "low_rank"),
    ],
)
def test_covariance_by_shape(shape, covariance):
    assert automatic_covariance(shape) == covariance


def test_weight_decay_by_shape():
    assert config("experiment=two_moons").optimizer.weight_decay == 0
    run = config("experiment=sbi_gaussian_linear")
    assert run.optimizer.weight_decay == run.plain["optimizer"]["weight_decay"] == 0.5
    assert config("experiment=two_moons", "optimizer.weight_decay=0.1").optimizer.weight_decay == 0.1
    for experiment in ("linear_gaussian", "mnist_inpaint"):
        assert config(f"experiment={experiment}").optimizer.weight_decay == 0


def test_covariance_of_the_default_recipe():
    assert config("experiment=two_moons").backward.covariance == "mixture"
    assert config("experiment=sbi_gaussian_linear").backward.covariance == "full"
    assert config("experiment=two_moons", "objective.covariance=diagonal").forward.covariance == "diagonal"
    assert config("experiment=linear_gaussian", "objective=mean_matching").backward.covariance == "fixed"
