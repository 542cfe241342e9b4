"""Shares of processes that are put together again, how processes are found, compiling: all without starting any."""

import os

import pytest
import torch

from csb.bridge.objectives import BridgeMatching, Likelihood, MeanMatching
from csb.cli import train
from csb.errors import CSBError
from csb.process import Grid, Power
from csb.training import ranks
from csb.training.half_step import Batches, Draw
from csb.training.pairs import EncodedPairs, fill
from csb.training.ranks import ALONE, Ranks, environment, init
from csb.training.settings import DeviceSettings, HalfStep, TrainingSettings
from csb.training.trainer import compile_networks

GRID = Grid.from_schedule(Power(0.2, 2.0), 3)


class Incomplete(Ranks):
    """A process that is left with its own rows of the cache."""

    def all_reduce(self, rows):
        pass


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("count", [0, 6, 75])
def test_shares_make_up_the_whole(count, size):
    parts = [range(count)[Ranks(rank, size).part(count)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("objective", [Likelihood(), MeanMatching(), BridgeMatching()])
@pytest.mark.parametrize(("source", "size"), [("forward", 23), ("backward", 21)])
def test_the_shares_of_a_cache_are_the_cache_of_one_process(exact_bridge, monkeypatch, objective, source, size):
    """Chunks of 10 among three processes: of the last, of one trajectory, two have none."""
    bridge, pairs = exact_bridge("fixed", 1).bridge, EncodedPairs.of(torch.randn(50, 2), torch.randn(50, 2))
    monkeypatch.setattr("csb.training.pairs._CHUNK", 10)
    whole = fill(bridge, source, objective, pairs, size, (0, 1, 0, 0))
    shares = [fill(bridge, source, objective, pairs, size, (0, 1, 0, 0), ranks=Incomplete(r, 3)) for r in range(3)]
    for parts, expected in zip(zip(*(share.tensors[:-1] for share in shares)), whole.tensors[:-1]):
        torch.testing.assert_close(sum(parts), expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(share.owner, whole.owner) for share in shares)
    assert all(int((share.states[0] == 0).all(1).sum()) >= size // 2 for share in shares)  # the others' rows


@pytest.mark.parametrize("draw_targets", [False, True])
@pytest.mark.parametrize("shared", [1, 3])
def test_the_parts_of_a_batch_are_the_batch(shared, draw_targets):
    def batches(ranks):
        half_step, pairs = HalfStep(0, 1, "backward", 9), EncodedPairs.of(*2 * [torch.arange(40.0)[:, None]])
        draw = Draw(GRID, Likelihood(), 24, shared, 0, draw_targets, ranks)
        return Batches(draw, half_step, pairs, None, (0, 4))

    def tensors(batch):
        var = [] if draw_targets else [batch.target.var]
        return [batch.x, batch.k, batch.c, batch.target.mean, *var]

    parts = zip(*(batches(Ranks(rank, 4)) for rank in range(4)), strict=True)
    for whole, four in zip(batches(ALONE), parts, strict=True):
        assert {len(part.x) for part in four} == {6}
        for expected, *found in zip(tensors(whole), *map(tensors, four), strict=True):
            assert torch.equal(torch.cat(found), expected)


class TestSettings:
    @pytest.mark.parametrize(("batch", "shared"), [(10, 1), (12, 2), (4, 1)])
    def test_uneven_shares(self, batch, shared):
        settings = TrainingSettings(1, 1, 1, batch_size=batch, states_per_pair=shared)
        with pytest.raises(CSBError, match=f"^training.batch_size={batch}, .* give a multiple of {8 * shared}$"):
            DeviceSettings("cpu", 4, num_nodes=2).check(settings, "bridge")

    def test_pairs_that_share_a_batch_unevenly(self):
        with pytest.raises(CSBError, match=r"^training.batch_size=10 is not a multiple of training.states_per_pair=4;"):
            TrainingSettings(1, 10, 10, batch_size=10, states_per_pair=4)

    def test_other_stages(self):
        with pytest.raises(CSBError, match=r"^stage=flow with trainer.devices=2, .* give trainer.devices=1$"):
            DeviceSettings("cpu", 2).check(TrainingSettings(1, 1, 1), "flow")

    def test_options_that_came_later_count_in_a_fingerprint_where_they_are_set(self):
        old = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
        assert DeviceSettings("cpu").fingerprint() == DeviceSettings("cpu", gpu_share=0.5).fingerprint() == old
        assert DeviceSettings("cpu", 2, num_nodes=3).fingerprint() == {**old, "devices": 2, "num_nodes": 3}


class TestProcesses:
    """How a process finds out that it is one of several."""

    @pytest.fixture(autouse=True)
    def _nobody(self, monkeypatch):
        for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "CSB_PARENT"):
            monkeypatch.delenv(name, raising=False)

    @pytest.fixture
    def srun(self, monkeypatch):
        own = {"STEP_NUM_TASKS": 8, "NTASKS": 8, "NTASKS_PER_NODE": 4, "JOB_ID": 123456}
        own |= {"PROCID": 5, "LOCALID": 1, "NODEID": 1, "NODELIST": "gpu[3-4]"}
        for name, value in own.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        monkeypatch.setenv("MASTER_ADDR", "")  # so that it is restored, whatever Lightning sets
        del os.environ["MASTER_ADDR"]

    def test_of_slurm(self, monkeypatch, srun):
        found = environment()
        assert (found.global_rank(), found.local_rank(), found.world_size()) == (5, 1, 8)
        assert found.main_address == "gpu3"
        monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
        with pytest.raises(CSBError, match=r"^srun started 8 tasks without --ntasks-per-node; give it"):
            environment()

    @pytest.mark.parametrize("devices", [2, 16])
    def test_another_number_than_was_started(self, srun, devices):
        with pytest.raises(CSBError, match=rf"trainer.devices={devices} .* takes {devices} processes and 8 were start"):
            init(DeviceSettings("cpu", devices))

    def test_torchrun_for_one_device(self, monkeypatch):
        for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "1")):
            monkeypatch.setenv(name, value)
        assert train.begin(DeviceSettings("cpu"), []) is None  # and process 0 says why, once
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(CSBError, match=r"^torchrun started 2 processes for trainer.devices=1; set trainer.devices"):
            train.begin(DeviceSettings("cpu"), [])
        monkeypatch.setenv("WORLD_SIZE", "1")
        assert train.begin(DeviceSettings("cpu"), []) is ALONE

    def test_several_machines_need_processes_that_have_joined(self):
        with pytest.raises(CSBError, match=r"^trainer.num_nodes=2 needs a process for each device of every machine"):
            train.begin(DeviceSettings("cpu", num_nodes=2), [])
        with pytest.raises(CSBError, match="start it with csb train"):
            Ranks.of(DeviceSettings("cpu", 2))

    def test_too_few_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(CSBError, match=r"^trainer.devices=4 and 1 GPUs are seen here"):
            train.begin(DeviceSettings("auto", 4), [])

    def test_one_device_starts_none_and_shares_nothing(self):
        assert train.begin(DeviceSettings("cpu"), ["no", "command"]) is ALONE
        assert (ALONE.broadcast(3), ALONE.is_rank_zero) == (3, True)
        assert [ranks.reports_first(), ranks.reports_first()] == [True, True]


class TestCompile:
    def test_no_compiler(self, monkeypatch):
        monkeypatch.setattr("csb.training.settings.shutil.which", lambda name: None)
        with pytest.raises(CSBError, match=r"^trainer.compile=true finds no C\+\+ compiler here"):
            DeviceSettings("cpu", compile=True)

    @pytest.mark.parametrize(
        ("options", "asked"),
        [
            ({}, []),
            ({"compile": True}, [{"dynamic": True, "mode": None}] * 2),
            ({"compile": True, "cuda_graphs": True}, [{"dynamic": True, "mode": "reduce-overhead"}] * 2),
        ],
    )
    def test_only_where_it_is_asked_for(self, exact_bridge, monkeypatch, options, asked):
        bridge, found = exact_bridge("full", 1).bridge, []
        for kernel in (bridge.backward_kernel, bridge.forward_kernel):
            monkeypatch.setattr(kernel.network, "compile", lambda **how: found.append(how))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("csb.training.settings.importlib.util.find_spec", lambda name: name)
        compile_networks(bridge, DeviceSettings(**options))
        assert found == asked
        assert {bridge.backward_kernel.replayed, bridge.forward_kernel.replayed} == {"cuda_graphs" in options}

    @pytest.mark.parametrize(("accelerator", "compiled"), [("cpu", True), ("auto", False)])
    def test_cuda_graphs_need_a_gpu_and_compiled_networks(self, monkeypatch, accelerator, compiled):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("csb.training.settings.shutil.which", lambda name: "/usr/bin/g++")
        with pytest.raises(CSBError, match=r"^trainer.cuda_graphs=true needs a GPU and trainer.compile=true; here are"):
            DeviceSettings(accelerator, compile=compiled, cuda_graphs=True)
