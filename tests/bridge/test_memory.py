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


def a_smaller_one_is_not_known_until_the_mark_is_set_back():
    use(256)
    assert cost(64) is None
    reset_peak(CPU)
    assert 60 * MIB < cost(64) < 80 * MIB


def sampling_leaves_the_mark_alone():
    use(256)
    before = memory(CPU).peak
    info = make_untrained_bridge(3, 2).sample(torch.zeros(4, 2), 8, generator=seeded(0)).info
    assert memory(CPU).peak == before > memory(CPU).now + 128 * MIB
    assert info.peak_memory is None


CASES = [a_smaller_one_is_not_known_until_the_mark_is_set_back, sampling_leaves_the_mark_alone]
SKIPPED = 77


def in_a_process(case):
    """Ends with SKIPPED where the system keeps no highest mark, or does not let it be set back."""
    use(64)
    reset_peak(CPU)
    found = memory(CPU)
    if found is None or found.peak > found.now + 16 * MIB:
        raise SystemExit(SKIPPED)
    case()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_peak_memory(fork_server, case):
    """In a fresh process: what others have left of the heap of this one decides what goes back to the system."""
    process = fork_server.Process(target=in_a_process, args=(case,))
    process.start()
    process.join(120)
    if process.exitcode == SKIPPED:
        pytest.skip("the highest mark of memory cannot be read or set back here")
    assert process.exitcode == 0


def test_without_the_system_nothing_is_known(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.read_bytes", forbidden)
    monkeypatch.setattr("pathlib.Path.write_text", forbidden)
    reset_peak(CPU)
    assert memory(CPU) is None
    assert cost(1) is None
