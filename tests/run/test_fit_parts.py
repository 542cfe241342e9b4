"""Bridges of observations with named parts, from csb.fit to a loaded file."""

import numpy as np
import pytest
import torch

import csb
from csb.errors import CSBError
from csb.problems.parts import joined
from csb.process import seeded
from tests.conftest import checked, one_line

STD = 0.5
ROWS = 6
TINY = {"L": 1, "T": 2, "progress": False, "training": {"first_steps": 20, "last_forward": False, "batch_size": 64}}
BOTH = {"readings": "set", "k": "vector"}


def pairs(n, seed=0):
    """x ~ N(0, I) in ℝ², 1 to 6 readings of x_0 with noise N(0, 1), and one of x_1 with noise N(0, ¼)."""
    g = seeded(seed)
    x = torch.randn(n, 2, generator=g)
    readings = x[:, None, :1] + torch.randn(n, ROWS, 1, generator=g)
    count = torch.randint(1, ROWS + 1, (n, 1), generator=g)
    readings[torch.arange(ROWS) >= count] = torch.nan
    return x, {"readings": readings, "k": x[:, 1] + STD * torch.randn(n, generator=g)}


def moments(y):
    """Mean and standard deviation of p(x | y), (B, 2) each."""
    count = (~y["readings"].isnan()).sum((1, 2))
    first, second = 1 / (1 + count), STD**2 / (1 + STD**2)
    mean = torch.stack([first * y["readings"].nansum((1, 2)), y["k"] / (1 + STD**2)], 1)
    return mean, torch.stack([first, torch.full_like(first, second)], 1).sqrt()


@pytest.fixture(scope="module")
def run():
    x, y = pairs(4000)
    training = {"first_steps": 400, "last_forward": False, "batch_size": 256, "lr": 5e-3}
    options = {"network": {"name": "mlp", "width": 32, "depth": 1}, "objective": {"covariance": "diagonal"}}
    encoder = {"readings": {"name": "set", "features": 16}, "k": "vector"}
    return csb.fit(x, y, L=1, T=3, encoder=encoder, training=training, progress=False, **options)


def test_the_posterior_is_the_exact_one(run):
    """Within the errors that a training of seconds leaves: a tenth of the prior's spread."""
    _, y = pairs(300, 1)
    found, (mean, std) = run.bridge.sample(y, 400, seed=0).x, moments(y)
    assert float((found.mean(1) - mean).square().mean(0).sqrt().max()) < 0.1
    assert float((found.std(1) - std).square().mean(0).sqrt().max()) < 0.1


def test_a_loaded_bridge_takes_the_names(run, tmp_path):
    _, y = pairs(12, 2)
    one = {"readings": y["readings"][0][:2].numpy(), "k": float(y["k"][0])}
    bridge = csb.load(run.save(tmp_path / "kept"), "cpu")
    assert bridge.transform.parts == {"k": (1,), "readings": (ROWS, 1)}
    assert torch.equal(bridge.sample(one, 5, seed=0).x, run.bridge.sample(one, 5, seed=0).x)
    flat = joined(y)[0]
    assert torch.equal(bridge.sample(y, 5, seed=0).x, bridge.sample(flat, 5, seed=0).x)
    x = torch.zeros(12, 2)
    assert torch.equal(bridge.log_prob(x, y, generator=seeded(0)), bridge.log_prob(x, flat, generator=seeded(0)))
    assert torch.equal(bridge.check(y).p, bridge.check(flat).p)
    for bad, message in (
        ({"k": [1.0]}, "y lacks the part 'readings'"),
        (y["k"], "or its parts {name: …}: k, read"),
    ):
        with pytest.raises(CSBError, match=message):
            bridge.sample(bad)
    sampler = csb.samplers.BridgeSampler(bridge)
    assert torch.equal(sampler.sample(y, 5, seed=0).x, bridge.sample(y, 5, seed=0).x)


def test_the_command_line_reads_named_arrays(run, tmp_path):
    _, y = pairs(5, 3)
    np.savez(tmp_path / "y.npz", other=0, **{name: values.numpy() for name, values in y.items()})
    kept = run.save(tmp_path / "kept")
    checked("sample", f"run={kept}", f"y={tmp_path}/y.npz", "n=4", f"out={tmp_path}/s.npz")()
    with np.load(tmp_path / "s.npz") as found:
        assert found["x"].shape == (5, 4, 2)
        assert np.array_equal(found["y"], joined(y)[0].numpy(), equal_nan=True)
    np.savez(tmp_path / "y.npz", k=y["k"].numpy(), other=0)
    refused = one_line(lambda: checked("sample", f"run={kept}", f"y={tmp_path}/y.npz", f"out={tmp_path}/s.npz"))
    assert "holds the arrays k, other; give a file with an array named y, or with one array, or k, readings" in refused


def test_order_of_readings_and_filling_change_nothing(run):
    one = np.array([[0.3], [-1.2], [0.9]])
    drawn = run.bridge.sample({"readings": one, "k": 0.2}, 7, seed=0).x
    padded = np.concatenate([one[::-1], np.full((3, 1), np.nan)])
    assert torch.equal(run.bridge.sample({"readings": padded, "k": 0.2}, 7, seed=0).x, drawn)


def test_diagnose_at_named_parts(run):
    found = run.diagnose(observations=60, samples=20, y={"readings": [[0.5], [0.1]], "k": 0.0})
    assert set(found.local) == {"l_c2st", "l_c2st_p"}
    assert "give one observation" in one_line(lambda: run.diagnose(60, 20, y=pairs(2)[1]))


@pytest.mark.nightly
def test_auto_and_an_encoder_of_ones_own(tmp_path):
    x, y = pairs(300)
    run = csb.fit(x, y, encoder={"readings": Halves, "k": "auto"}, out=tmp_path / "own", **TINY)
    encoders = run.bridge.spec.backward.network["encoder"]["encoders"]
    assert encoders == {"k": "vector", "readings": "Halves"}
    again = csb.load(tmp_path / "own", "cpu", networks={"Halves": Halves})
    assert torch.equal(again.sample(y, 2, seed=0).x, run.bridge.sample(y, 2, seed=0).x)
    members = csb.fit(x, y, ensemble=2, **TINY).bridge
    assert members.sample(y, 4, seed=0).x.shape == (300, 4, 2)
    assert csb.fit_score(x, y, **TINY | {"training": {"steps": 5}}).sample(y, 2).x.shape == (300, 2, 2)


class Halves(csb.networks.Encoder):
    def __init__(self, c_shape, width):
        super().__init__(c_shape, width)
        self.layer = torch.nn.Linear(c_shape[0] * c_shape[1], width)

    def forward(self, c):
        return self.layer(c.flatten(1))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"readings": "set"}, "encoder lacks the part 'k'; give one, or auto, for each of k, readings"),
        ({**BOTH, "z": "set"}, "encoder has an unknown part 'z'"),
        ({**BOTH, "k": "series"}, "for series and sets"),
        ({**BOTH, "k": "sets"}, "encoder 'sets' is unknown"),
    ],
)
def test_encoders_that_do_not_fit(encoder, message):
    with pytest.raises(CSBError, match=message):
        csb.fit(*pairs(300), encoder=encoder, **TINY)
