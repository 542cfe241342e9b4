"""Peak memory: measured where it can be known, and nobody's own measurement destroyed."""

import pytest
import torch

from csb.bridge.samples import measured, memory, reset_peak
from csb.process import seeded
from tests.conftest import make_untrained_bridge

CPU = torch.device("cpu")
MIB = 2**20


def use(mib):
    """Takes memory and gives it back: blocks of this size go to the system at once."""
    return float(torch.ones(mib * MIB // 4).sum())


def cost(mib):
    with measured(CPU) as found:
        use(mib)
    return found.peak_memory


@pytest.fixture
def linux():
    """Skips where the system keeps no highest mark, or does not let it be set back."""
    use(64)
    reset_peak(CPU)
    found = memory(CPU)
    if found is None or found.peak > found.now + 16 * MIB:
        pytest.skip("the highest mark of memory cannot be read or set back here")


@pytest.mark.usefixtures("linux")
class TestMemory:
    def test_what_a_block_of_work_takes(self):
        reset_peak(CPU)
        assert 60 * MIB < cost(64) < 80 * MIB

    def test_what_the_allocator_held_unused_counts(self):
        """In blocks too small to be given back to the system one by one; the last one keeps the heap from shrinking."""
        use(31)
        blocks = [torch.ones(20 * MIB // 4) for _ in range(10)]
        last = torch.ones(MIB // 4)
        del blocks
        reset_peak(CPU)
        assert 60 * MIB < cost(64) < 80 * MIB
        assert float(last[0]) == 1

    def test_a_smaller_one_is_not_known_until_the_mark_is_set_back(self):
        use(256)
        assert cost(64) is None
        reset_peak(CPU)
        assert 60 * MIB < cost(64) < 80 * MIB

    def test_one_above_an_earlier_mark_is_known(self):
        use(64)
        assert 250 * MIB < cost(256) < 280 * MIB

    def test_sampling_leaves_the_mark_alone(self):
        use(256)
        before = memory(CPU).peak
        info = make_untrained_bridge(3, 2).sample(torch.zeros(4, 2), 8, generator=seeded(0)).info
        assert memory(CPU).peak == before > memory(CPU).now + 128 * MIB
        assert info.peak_memory is None


def test_without_the_system_nothing_is_known(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.read_text", forbidden)
    monkeypatch.setattr("pathlib.Path.write_text", forbidden)
    reset_peak(CPU)
    assert memory(CPU) is None
    assert cost(1) is None
