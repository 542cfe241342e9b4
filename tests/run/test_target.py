"""Time to a target: when the training ends, what is counted, and what is refused."""

import json

import pytest
from benchmark_checks import refuse
from suites import target
from suites.target import TARGETS, Reached, Watch

from csb.problems import build_problem
from csb.training.settings import HalfStep

TRAIN = [
    "training.first_steps=9", "training.batch_size=32", "network.options={width: 16, depth: 1}", "problem.n_train=500",
    "+problem.n_val=100", "logger=none", "progress=false", "metrics.exact_samples=100", "metrics.exact_observations=1",
    "training.validate_every=100",
]  # fmt: skip


def line(out, *more):
    texts = ",".join(f"'{one}'" for one in TRAIN)
    return ["suite=target", "every=4", "observations=1", "samples=30", f"train=[{texts}]", f"out={out}", *more]


def test_an_easy_target_is_reached_at_the_first_check(command, tmp_path):
    done = command(*line(tmp_path, "threshold=1"), script="scripts/benchmark.py")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "two_moons.json").read_text())
    assert (found["reached"], found["steps"], found["score"], found["threshold"]) == (True, 4, "C2ST", 1)
    (check,) = found["checks"]
    assert check == {key: found[key] for key in ("steps", "seconds", "value")}
    assert 0 < found["value"] <= 1
    assert min(found["seconds"], found["check_seconds"]) > 0
    assert found["train"] == TRAIN
    assert "≤ 1 after 4 steps, " in done.out
    assert not (tmp_path / "two_moons" / "bridge.safetensors").exists()  # it ended there


def test_one_that_is_out_of_reach(command, tmp_path):
    done = command(*line(tmp_path, "threshold=0"), script="scripts/benchmark.py")
    assert done.code == 1
    found = json.loads((tmp_path / "two_moons.json").read_text())
    assert not found["reached"]
    assert [row["steps"] for row in found["checks"]] == [4, 8, 9]  # and at the end
    assert found["value"] == min(row["value"] for row in found["checks"])
    assert "two_moons: 0 was not reached; best C2ST" in done.out


class TestWatch:
    @pytest.fixture
    def clock(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(target.time, "perf_counter", lambda: now[0])
        return now

    def watch(self, clock, values, **own):
        """Checks take 100 s each and find the values in turn."""
        found = iter(values)

        def score(bridge, problem, observations, samples, seed):
            clock[0] += 100
            return next(found)

        class Run:
            problem, seed = build_problem({"name": "two_moons"}), 0

        return Watch(TARGETS["mnist_inpaint"]._replace(score=score, **{"every": 1, **own}), Run())

    def test_checks_are_not_counted(self, clock):
        """PSNR is to be high: 20 ends it."""
        watch, half_step = self.watch(clock, [18.0, 20.0]), HalfStep(0, 1, "backward", 10)
        clock[0] += 7
        watch.within(None, half_step, 2)
        clock[0] += 5
        with pytest.raises(Reached):
            watch.within(None, half_step, 4)
        assert [(row["steps"], row["seconds"], row["value"]) for row in watch.checks] == [(2, 7, 18.0), (4, 12, 20.0)]
        assert watch.checking == 200

    def test_steps_of_earlier_half_steps_count(self, clock):
        watch = self.watch(clock, [1.0, 2.0, 3.0])
        watch.after(None, HalfStep(0, 1, "backward", 10), [0.0] * 6)  # stopped early
        watch.within(None, HalfStep(1, 1, "forward", 10), 2)
        watch.after(None, HalfStep(1, 1, "forward", 10), [0.0] * 10)
        watch.within(None, HalfStep(2, 2, "backward", 10), 3)
        watch.within(None, HalfStep(2, 2, "backward", 10), 10)
        watch.after(None, HalfStep(2, 2, "backward", 10), [0.0] * 10)
        assert [row["steps"] for row in watch.checks] == [6, 19, 26]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("target=nope", "target='nope' is unknown; choose one of two_moons, mnist_inpaint"),
        ("target=[two_moons]", "target=['two_moons'] is unknown"),
        ("threshold=x", "threshold='x' is not possible; give a finite number or null"),
        ("every=0", "every=0 is not possible"),
        ("observations=0", "observations=0 is not possible"),
        ("observations=1000000", "observations=1000000 are more than the"),
        ("train=3", "train=3 is not possible; give a list"),
        ("train=['training.steps=0']", "training.steps=0 is not possible"),
        ("out=null", "out=None is not possible; give a path"),
        ("+foo=1", "foo"),
        ("+suite.foo=1", "suite.foo is unknown"),
    ],
)
def test_bad_config(argument, message):
    assert message in refuse("suite=target", argument)


def test_digits_need_no_data_to_be_checked():
    assert refuse("suite=target", "target=mnist_inpaint", "threshold=[]").startswith("threshold=")
