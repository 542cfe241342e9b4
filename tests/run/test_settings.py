"""What the data decide where settings are "auto": the grid, the covariance, batches, steps, network, held-out pairs."""

import numpy as np
import pytest
import torch

from csb.bridge.kernel import automatic_covariance
from csb.cli.compose import composed
from csb.errors import CSBError
from csb.process import Power, seeded
from csb.runs.config import read
from csb.runs.load import load_run
from csb.runs.train import train
from csb.training.pairs import EncodedPairs

TINY = [
    "L=1", "T=3", "training.first_steps=4", "training.steps=4", "training.trajectories=64", "metrics.observations=4",
    "metrics.samples=8", "network.options={width: 8, depth: 1}", "logger=none", "trainer.accelerator=cpu",
    "progress=false",
]  # fmt: skip
STEPS = {"two_moons": 11_000, "sbi_gaussian_mixture": 11_000, "sbi_gaussian_linear": 2750, "sir": 2750}  # steps


def config(*overrides):
    return read(composed("train", overrides))


def encoded(width):
    """z | c ~ N(c, diag(1, width²)), c ~ N(0, I)."""
    c = torch.randn(5000, 2, generator=seeded(1))
    return EncodedPairs.of(c + torch.randn(5000, 2, generator=seeded(2)) * torch.tensor([1.0, width]), c)


def of_pairs(folder, n, *overrides, images=False):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 1, 8, 8) if images else (n, 1))
    np.savez(folder / "pairs.npz", x=x, y=x + 0.1 * rng.normal(size=x.shape))
    experiment = "pairs_images" if images else "pairs"
    return config(f"experiment={experiment}", f"data.path={folder / 'pairs.npz'}", f"out={folder}", *overrides)


def test_the_grid_resolves_the_data():
    fine, coarse = (1 - float(config().resolved(encoded(w)).grid.alpha_bar[1]) for w in (0.02, 0.1))
    assert 0 < fine < 0.5 * coarse < 0.01
    run = config("schedule.scale=0.05", "schedule.alpha_bar_end=0.2").resolved(encoded(0.1))
    assert 1 - float(run.grid.alpha_bar[1]) == pytest.approx(0.05**2, rel=1e-6)
    assert isinstance(run.schedule, Power)
    assert run.plain["schedule"] == {"name": "power", "alpha_bar_end": 0.2, "power": run.schedule.power}
    assert run.resolved(encoded(0.5)) is run
    for d, end in ((1, 0.1), (2, 0.1), (10, 0.02)):  # by the number of coordinates, of which y determines one
        z = torch.randn(500, d, generator=seeded(1))
        assert float(config().resolved(EncodedPairs.of(z, z[:, :1])).grid.alpha_bar[-1]) == pytest.approx(end)


def test_covariance_and_weight_decay_by_shape():
    expected = {(1,): "mixture", (4,): "mixture", (5,): "full", (64,): "full", (65,): "low_rank", (1, 9, 9): "low_rank"}
    assert {shape: automatic_covariance(shape) for shape in expected} == expected
    moons, ten = config("experiment=two_moons"), config("experiment=sbi_gaussian_linear")
    assert (moons.backward.covariance, moons.optimizer.weight_decay) == ("mixture", 0)
    assert (ten.backward.covariance, ten.optimizer.weight_decay) == ("full", 0.5)
    own = config("experiment=two_moons", "objective.covariance=diagonal", "optimizer.weight_decay=0.1")
    assert (own.forward.covariance, own.optimizer.weight_decay) == ("diagonal", 0.1)
    assert config("experiment=linear_gaussian", "objective=mean_matching").backward.covariance == "fixed"


@pytest.mark.parametrize(
    ("n", "batches", "val", "steps", "width", "trajectories"),
    [
        (100, (65, 65, 65, 65), 25, (1612, 40), 128, 260),
        (500, (128, 128, 400, 400), 50, (4000, 100), 128, 1280),
        (12_500, (256, 256, 1024, 512), 1250, (11_000, 275), 128, 7040),
        (50_000, (512, 512, 1024, 512), 5000, (15_000, 650), 128, 33_280),
        (-100, (64, 64, 64, 65), 25, (825, 132), None, 844),
        (-1000, (64, 64, 64, 128), 100, (3000, 150), None, 960),
    ],
)
def test_few_pairs_take_small_batches_few_steps_and_a_small_network(
    tmp_path, n, batches, val, steps, width, trajectories
):
    """n < 0: images."""
    run = of_pairs(tmp_path, abs(n), images=n < 0)
    sizes = tuple(of.batch_size for of in (run.training, run.conditional, run.distil, run.denoiser))
    assert sizes == batches
    assert (run.training.first_steps, run.training.steps) == steps
    assert run.plain["training"]["batch_size"] == run.fingerprint()["training.batch_size"] == batches[0]
    assert run.training.trajectories == trajectories
    assert run.plain["network"]["options"].get("width") == width
    test = abs(n) // 10
    assert run.problem.sizes == {"train": abs(n) - val - test, "val": val, "test": test}
    assert run.plain["problem"]["val"] == run.fingerprint()["problem.val"] == val / abs(n)
    assert run.training.patience == 8


@pytest.mark.nightly
def test_more_unknowns_and_rows_take_fewer_steps_of_as_many_pairs():
    steps = {name: config(f"problem={name}", "problem.n_train=10000").training.first_steps for name in STEPS}
    assert steps == STEPS


def test_one_or_two_unknowns_take_a_small_network_and_half_the_states():
    for name, size, width, rate in (("two_moons", 512, 128, 2e-3), ("sbi_gaussian_linear", 1024, 256, 1e-3)):
        run = config(f"problem={name}", "problem.n_train=100000")
        assert run.training.batch_size == run.conditional.batch_size == size
        assert run.backward.network["width"] == width
        assert run.optimizer.lr == rate


SIDES = {(28, 28): 4, (64, 64): 4, (65, 64): 8, (130, 200): 16, (1, 40): 2}


@pytest.mark.parametrize(("size", "patch"), SIDES.items())
def test_a_transformer_compares_at_most_256_patches(tmp_path, size, patch):
    x = np.random.default_rng(0).normal(size=(150, 1, *size)).astype(np.float32)
    np.savez(tmp_path / "pairs.npz", x=x, y=x[:, 0, 0, :2])
    small = ["network.options.width=32", "network.options.depth=1", "network.options.attention_heads=1"]
    run = config(
        "experiment=pairs_images", "network=dit", *small, "objective.rank=1", f"data.path={tmp_path}/pairs.npz"
    )
    assert run.plain["network"]["options"]["patch"] == run.backward.network["patch"] == patch


@pytest.mark.nightly
def test_series_are_encoded_once_for_four_states():
    shared = {name: config(f"problem={name}").training.states_per_pair for name in ("sir", "normal_set", "two_moons")}
    assert shared == {"sir": 4, "normal_set": 4, "two_moons": 1}
    assert config("problem=sir", "training.batch_size=6").training.states_per_pair == 2
    assert config("problem=sir", "training.batch_size=6", "training.states_per_pair=3").training.states_per_pair == 3


def test_what_was_given_stays(tmp_path):
    given = ["training.batch_size=16", "training.steps=7", "distil.batch_size=300", "data.val=7", "T=5"]
    run = of_pairs(tmp_path, 100, *given, "network.options.width=7")
    assert (run.training.batch_size, run.conditional.batch_size, run.distil.batch_size) == (16, 16, 300)
    assert (run.training.steps, run.training.trajectories, run.problem.sizes["val"]) == (7, 16 * 7 // 5, 7)
    assert run.plain["network"]["options"] == {"width": 7, "depth": 4, "film": True}
    moons = config("schedule=power", "schedule.power=3")
    assert moons.resolved(encoded(0.1)) is moons
    with pytest.raises(CSBError, match=r"65 training pairs are fewer than training.batch_size=1024; lower it"):
        of_pairs(tmp_path, 100, "training.batch_size=1024")


def test_a_hundred_pairs_are_trained_on_and_scored(tmp_path):
    run = of_pairs(tmp_path, 100, *TINY)
    result = train(run)
    assert np.isfinite(result["energy_score"])
    loaded = load_run(run.folder)
    assert loaded.about["config"]["training"]["batch_size"] == 65
    assert loaded.bridge.sample(torch.zeros(1, 1), 3).x.isfinite().all()
    assert train(of_pairs(tmp_path, 100, *TINY, "training.batch_size=65", "resume=true")) == result
