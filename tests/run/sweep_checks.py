"""What the report of a sweep is checked for."""

import json

from csb.cli.sweep import collect
from csb.evaluation.sweep import Stat, cell_text, cells, main_score, quantities, sweep_figure


def texts(axes):
    """The word in each cell of a heat map, by (L, T)."""
    Ls = [int(label.get_text()[2:]) for label in axes.get_yticklabels()]
    Ts = [int(label.get_text()[2:]) for label in axes.get_xticklabels()]
    return {(Ls[round(t.get_position()[1])], Ts[round(t.get_position()[0])]): t.get_text() for t in axes.texts}


def assert_reported(sweep):
    """table.json and the heat map's cells show what each job's result.json holds; each cell has one job."""
    results = {(r["L"], r["T"]): r for r in (json.loads(p.read_text()) for p in sweep.glob("*/result.json"))}
    table = json.loads((sweep / "table.json").read_text())
    assert table["score"]["key"] == "sliced_w"
    assert table["score"]["better"] == "lower"
    assert [(row["L"], row["T"]) for row in table["cells"]] == sorted(results)
    for row in table["cells"]:
        result = results[row["L"], row["T"]]
        for key in ("sliced_w", "seconds", "calls"):
            assert row[key] == result.get(key)
        assert "error" in result or result["calls"] == result["T"]
    assert [(row["L"], row["T"]) for row in table["jobs"]] == sorted(results)
    jobs = collect(sweep)
    found, score = cells(jobs), main_score(jobs)
    figure = sweep_figure(found, score)
    for axes, panel in zip(figure.axes, quantities(found, score), strict=True):
        shown = {
            p: "failed" if "error" in r else cell_text(Stat(r[panel.key], None), panel) for p, r in results.items()
        }
        assert texts(axes) == shown
    assert (sweep / "heatmap.png").read_bytes().startswith(b"\x89PNG")
