"""The benchmarks of scripts/benchmark.py that are no suites of trainings."""

import pytest
import torch
from benchmark_checks import refuse
from suites.memory import WRITERS
from suites.mixture import MORE

from csb.cli.compose import composed
from csb.runs.config import read


class TestOverheads:
    def test_the_default_is_still_the_overheads_of_a_run(self):
        assert "run is missing; give run=" in refuse()
        assert "nowhere is not a folder" in refuse("run=nowhere")
        assert "repeats=0 is not possible" in refuse("run=nowhere", "repeats=0")


class TestMixture:
    SMALL = ("suite=mixture", "problems=2", "samples=60", "steps=8", "particles=[8,60]", "step_sizes=[0.1]")

    def test_table(self, command):
        done = command(*self.SMALL, script="scripts/benchmark.py")
        assert done.code == 0, done.err
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines() if "│" in line]
        values = {label: [float(cell) for cell in others] for label, *others in cells}
        assert list(values) == [
            "TDS, K = 8", "TDS, K = 60", "bootstrap SMC, K = 60", "DPS, ζ = 0.1", *(label for label, _, _ in MORE)
        ]  # fmt: skip
        assert [of[0] for of in values.values()] == [8, *[60] * (3 + len(MORE))]
        assert all(0 < floor < distance for _, distance, _, floor in values.values())

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("problems=0", "problems=0 is not possible"),
            ("particles=[0]", "particles[0]=0 is not possible"),
            ("particles=[1.5]", "particles[0]=1.5 is not possible; give an integer"),
            ("step_sizes=3", "step_sizes=3 is not possible; give a list"),
            ("particles=[8,8]", "particles=[8, 8] repeats an entry"),
            ("step_sizes=[inf]", "step_sizes[0]=inf is not possible; give a finite number above 0"),
            ("schedule=null", "schedule=null is not possible; give a name or a table"),
            ("schedule.name=auto", "give {name: linear|cosine|power, …}"),
            ("dy=9", "dy"),
            ("+foo=1", "foo"),
            ("+suite.foo=1", "suite.foo is unknown"),
        ],
    )
    def test_bad_config(self, argument, message):
        assert message in refuse(*self.SMALL, argument)


class TestMemory:
    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("pairs=10", "pairs=10 is not possible; give an integer of at least 2000"),
            ("kinds=[]", "kinds=[] is not possible; give a list that is not empty, each one of npy, npz"),
            ("kinds=[csv]", "kinds[0]='csv' is unknown; choose one of npy, npz"),
            ("kinds=[[1]]", "kinds[0]=[1] is unknown"),
            ("steps=0", "steps=0 is not possible"),
            ("+suite.foo=1", "suite.foo is unknown"),
        ],
    )
    def test_bad_config(self, argument, message):
        assert message in refuse("suite=memory", argument)

    def test_the_files_are_what_a_training_reads(self, tmp_path):
        """Both kinds hold the same pairs; x and y go together."""
        given = (["experiment=pairs", *write(tmp_path, 12_000, 3)] for write in WRITERS.values())
        one, two = (read(composed("train", arguments)).problem for arguments in given)
        a, b = one.pairs("train"), two.pairs("train")
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert float((a.y - a.x).std()) == pytest.approx(0.5, rel=0.02)
