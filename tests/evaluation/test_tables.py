"""Tables and JSON files."""

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from csb.errors import CSBError
from csb.evaluation.table import format_value, markdown_table, print_table
from csb.files import write_json

ROWS = [{"method": "csb", "psnr": 18.71234, "calls": 10}, {"method": "a|b", "psnr": None, "calls": 1000, "ok": True}]


FORMATTED = {
    18.71234: "18.71", 0.99996: "1.000", 9.9996: "10.00", 1234.56: "1235", 123456.0: "1.235e+05", 0.012345: "0.01235",
    -0.5: "-0.5000", 1.2345e-5: "1.234e-05", 0.0: "0.000", math.nan: "nan", math.inf: "inf", 12: "12", 123457: "123457",
    True: "yes", None: "–", "text": "text", torch.tensor(1.5): "1.500", np.float32(0.25): "0.2500", np.int64(3): "3",
}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), FORMATTED.items())
def test_format(value, text: str):
    assert format_value(value) == text


def test_markdown():
    assert markdown_table(ROWS).splitlines() == [
        "| method |  psnr | calls | ok  |",
        "|--------|------:|------:|-----|",
        "| csb    | 18.71 |    10 | –   |",
        r"| a\|b   |     – |  1000 | yes |",
    ]
    assert markdown_table(ROWS, ["calls", "method"]).splitlines()[2] == "|    10 | csb    |"


def printed(rows, title="Title", **console):
    out = io.StringIO()
    print_table(rows, title, console=Console(file=out, **console))
    return out.getvalue()


class Pair(NamedTuple):
    left: float
    right: torch.Tensor


@dataclasses.dataclass
class Record:
    path: Path
    pair: Pair


def test_json_round_trip(tmp_path: Path):
    obj = {"r": Record(Path("a/b"), Pair(math.inf, torch.tensor([1, 2]))), "x": np.float64(0.1), "n": [None, True, "ü"]}
    path = write_json(tmp_path / "deep" / "r.json", obj)
    expected = {"r": {"path": "a/b", "pair": {"left": None, "right": [1, 2]}}, "x": 0.1, "n": [None, True, "ü"]}
    assert json.loads(path.read_text(encoding="utf-8")) == expected
    with pytest.raises(CSBError, match="cannot write"):
        write_json(path, {"bad": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == expected
    assert len(list(path.parent.iterdir())) == 1


WIDE = [{"method": f"m{i}", "coverage_deviation": 5.372e-5 * (i + 1), "psnr_mean_per_image": 19.5} for i in range(9)]


def test_a_table_that_is_too_wide_is_turned():
    """No name and no number is broken over lines."""
    text = printed(WIDE, width=50, force_terminal=True, no_color=True)
    assert all(text.count(f"m{i}") == 1 for i in range(9))
    assert "5.372e-05" in text
    assert text.count("coverage_deviation") == text.count("Title") == 5  # two rows side by side
    assert max(map(cell_len, text.splitlines())) <= 50 + len("\x1b[1m\x1b[0m") * 20


def test_where_there_is_no_terminal_a_wide_one_is_markdown():
    assert printed(WIDE, width=40) == f"Title\n\n{markdown_table(WIDE)}\n"
    text = printed([*ROWS, {"method": "[red]x"}], "A [title]", width=120)
    assert "|--" not in text
    assert all(part in text for part in ("A [title]", "18.71", "a|b", "[red]x", "1000"))
