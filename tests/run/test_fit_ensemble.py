"""Ensembles that csb.fit trains, their folders, and p-values of observations in runs and on the command line."""

import numpy as np
import pytest
import torch

import csb
from csb.bridge import check
from csb.files import CONTEXTS
from tests.conftest import checked, one_line
from tests.run.test_fit import SMALL, pairs

X, Y = pairs(300)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of an ensemble, while the run and its pairs are still here."""
    run = csb.fit(X, Y, ensemble=2, seed=3, **SMALL)
    yield run.save(tmp_path_factory.mktemp("runs") / "kept")
    del run


@pytest.mark.nightly
def test_members_are_runs_of_their_seeds_on_one_split(kept, tmp_path):
    members = [csb.Run.open(kept / f"member_{i}", "cpu") for i in range(2)]
    assert [member.config["seed"] for member in members] == [3, 4]
    assert torch.equal(*(member.problem.pairs("test").y for member in members))
    first, second = (member.bridge.state_dict() for member in members)
    alone = csb.fit(X, Y, seed=3, out=tmp_path / "run" / "member_0", **SMALL).bridge.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in alone.items())
    assert any(not torch.equal(value, second[name]) for name, value in alone.items())
    run = csb.fit(X, Y, ensemble=2, seed=3, out=tmp_path / "run", resume=True, **SMALL)
    drawn = run.bridge.sample(Y[:3], 5, seed=1).x
    for again in (csb.load(kept, "cpu"), csb.Run.open(kept, "cpu").bridge):
        assert torch.equal(again.sample(Y[:3], 5, seed=1).x, drawn)
    assert len(str(run).splitlines()) == 5
    assert "give one of its members" in one_line(lambda: run.export(tmp_path / "shared"))


def test_the_command_line_writes_p_values(kept, tmp_path, monkeypatch):
    """Of one embedding each, without the permutations of a check."""
    embed, seen = check.embedded, []
    monkeypatch.setattr(check, "embedded", lambda bridge, y: seen.append(len(y)) or embed(bridge, y))
    monkeypatch.delattr(check.ContextReference, "set_p")
    np.save(tmp_path / "y.npy", torch.cat([Y[:5], Y[:5] + 1000]).numpy())
    for source in (kept, kept / "member_0"):
        checked("sample", f"run={source}", f"y={tmp_path}/y.npy", "n=4", f"out={tmp_path}/s.npz")()
        with np.load(tmp_path / "s.npz") as found:
            assert found["x"].shape == (10, 4, 2)
            assert (found["p"][5:] == 1 / 31).all()  # of 300 pairs 30 are held out
            assert found["p"][:5].max() > 0.1
    assert seen == [10, 10]


def test_the_reference_of_a_training_is_the_test_split(kept, tmp_path):
    member = csb.Run.open(kept / "member_0", "cpu")
    reference, problem = member.bridge.reference, member.problem
    member.bridge.set_reference(problem.pairs("train").y, problem.pairs("test").y)
    assert torch.equal(member.bridge.reference.held_out, reference.held_out)
    shared = csb.load(member.export(tmp_path / "shared"), "cpu")
    assert torch.equal(shared.reference.held_out, reference.held_out)
    (tmp_path / "shared" / CONTEXTS).unlink()
    assert csb.load(tmp_path / "shared", "cpu").reference is None


@pytest.mark.nightly
def test_members_share_bounds_and_kinds():
    x = torch.stack([X[:, 0], X[:, 1].round()], 1)
    run = csb.fit(x, Y, ensemble=2, kinds={1: "integer"}, bounds={0: (-9, None)}, **SMALL)
    for member in run.bridge.members:
        drawn = member.sample(Y[:3], 20, seed=0).x
        assert torch.equal(drawn[..., 1], drawn[..., 1].round())
        assert float(drawn[..., 0].min()) >= -9
