"""A sweep: the folders of its jobs, and at its end tables and heat maps over them."""

from pathlib import Path
from typing import Any

from csb import files
from csb.errors import CSBError
from csb.evaluation.heatmap import draw_sweep
from csb.evaluation.sweep import Job, cell_rows, cells, is_swept, job_rows, main_score
from csb.evaluation.table import markdown_table, print_table, write_json, write_text
from csb.renamed import scores_of_today

MARKER = "job.json"  # written when a job begins, so that one that is killed shows in the table
UNFINISHED = "did not finish"
_APART = ("L", "T", "seed")


def write_marker(
    folder: Path, overrides: list[str], L: int, T: int, seed: int, job_id: str, left_out: list[str]
) -> None:
    """Notes in the job's folder what it is, but for the keys ``left_out``; ``job_id`` is the launcher's."""
    pairs = (text.lstrip("+~").partition("=") for text in overrides)
    settings = {key: value for key, _, value in pairs if key not in (*_APART, *left_out)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MARKER, {"id": job_id, "L": L, "T": T, "seed": seed, "settings": settings})


def read_json(path: Path) -> dict[str, Any] | None:
    """None where the file is not there; an error as its content where it is damaged."""
    try:
        return files.read_json(path) if path.exists() else None
    except CSBError:
        return {"error": f"{path.name} is damaged"}


def collect(folder: Path) -> list[Job]:
    """The jobs found in the folder of a sweep, by name."""
    jobs = []
    for path in sorted(folder.glob("*/")):
        begun, result = read_json(path / MARKER), scores_of_today(read_json(path / "result.json"))
        if begun is None and result is None:
            continue
        begun, result = begun or {}, {"error": UNFINISHED} if result is None else dict(result)
        error, known = result.pop("error", None), {**result, **begun}
        L, T, seed = (known.get(key) for key in _APART)
        jobs.append(Job(path.name, L, T, seed, begun.get("settings", {}), {} if error else result, error))
    return jobs


def report(folder: Path) -> bool:
    """Prints the tables of a sweep, over L × T and one row a job, and writes them and the heat map into its folder.

    ``table.md``, ``table.json`` and ``heatmap.png``; the heat map and the table over L × T where one of them is swept.
    False where the folder holds no job. CSBError where it cannot be written.
    """
    jobs = collect(folder)
    if not jobs:
        return False
    found, score, rows = cells(jobs), main_score(jobs), job_rows(jobs)
    failed = sum(job.error is not None for job in jobs)
    title = f"{len(jobs)} jobs in {folder}" + (f", {failed} of them failed" if failed else "")
    text, table = "", []
    if is_swept(found):
        table = cell_rows(found)
        name = f"L × T: {score.key}, {score.label} ({score.direction})" if score else "L × T"
        print_table(table, title=name)
        text = f"## {name}\n\n{markdown_table(table)}\n## Jobs\n\n"
    print_table([{k: v for k, v in row.items() if k != "job"} for row in rows], title=title)  # the names are long
    write_text(folder / "table.md", text + markdown_table(rows))
    about = {"key": score.key, "label": score.label, "better": "higher" if score.higher else "lower"} if score else None
    write_json(folder / "table.json", {"score": about, "cells": table, "jobs": rows})
    if draw_sweep(folder / "heatmap.png", found, score):
        print(f"heat map: {folder / 'heatmap.png'}")
    return True
