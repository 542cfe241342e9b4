"""The tables of a suite: a row a method, T and L; columns for each number of training pairs.

A row of results is what :func:`suites.scores.score.scores_of` gives, with "problem", "label" (of the
method), "pairs" (None: it was not trained), "T" and "L" (None where they have no meaning), "seed" and "train_seconds".
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from suites.scores.published import Published

Row = Mapping[str, Any]
Table = list[dict[str, Any]]
ERRORS = {  # columns of the second table
    "mean_error": "mean", "cov_error": "covariance", "skew_error": "skewness", "kurtosis_error": "kurtosis",
}  # fmt: skip


class Group(NamedTuple):
    """Results that differ in training pairs and seed only; they make one row of a table, or one line of a chart."""

    label: str
    T: int | None
    L: int | None
    rows: list[Row]

    def at(self, pairs: int | None) -> list[Row]:
        """Those of a number of training pairs; what was not trained belongs to every number."""
        return [row for row in self.rows if row["pairs"] in (pairs, None)]


def count_text(n: int) -> str:
    """E.g. "100k" for 100,000."""
    return f"{n // 1000}k" if n >= 1000 and n % 1000 == 0 else str(n)


def problems_of(rows: Sequence[Row]) -> list[str]:
    """The problems, in order of appearance."""
    return list(dict.fromkeys(row["problem"] for row in rows))


def pairs_of(rows: Sequence[Row]) -> list[int]:
    """The numbers of training pairs, ascending."""
    return sorted({row["pairs"] for row in rows if row["pairs"] is not None})


def groups_of(rows: Sequence[Row], problem: str) -> list[Group]:
    """The groups of one problem, in order of appearance."""
    groups: dict[tuple, Group] = {}
    for row in rows:
        if row["problem"] == problem:
            key = (row["label"], row["T"], row["L"])
            groups.setdefault(key, Group(*key, [])).rows.append(row)
    return list(groups.values())


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of values and its standard error, None for one value."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return statistics.mean(values), error


def pooled(rows: Sequence[Row], key: str) -> tuple[float, float | None] | None:
    """A score's mean over seeds, then observations, and its standard error over observations (None for one of them).

    None where no row has the score.
    """
    each = [row[f"{key}_each"] for row in rows if f"{key}_each" in row]
    if not each:
        return None
    return mean_and_error([statistics.mean(of_one) for of_one in zip(*each)])


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.mean(values) if values else None


def _with_error(found: tuple[float, float | None] | None) -> str | None:
    if found is None:
        return None
    mean, error = found
    return f"{mean:.3f}" if error is None else f"{mean:.3f} ± {error:.3f}"


def _sliced(rows: Sequence[Row], floor: float | None) -> str | None:
    found = pooled(rows, "sliced_w")
    if found is None:
        return None
    return f"{found[0]:.4g}" if floor is None else f"{found[0]:.4g} ({floor:.4g})"


def _floor(groups: Sequence[Group]) -> float | None:
    """Sliced W of exact against exact samples, of the rows that were not trained."""
    found = pooled([row for group in groups for row in group.rows if row["pairs"] is None], "sliced_w")
    return None if found is None else found[0]


def _accuracy(groups: Sequence[Group], pairs: Sequence[int], published: Sequence[Published]) -> Table:
    """C2ST, sliced W and costs; published numbers of the same training pairs below."""
    table, floor = [], _floor(groups)
    for group in groups:
        costs = {"calls": group.rows[0]["calls"], "seconds / 10k samples": _mean(group.rows, "seconds")}
        row: dict[str, Any] = {"method": group.label, "T": group.T, "L": group.L, **costs}
        for n in pairs:
            row[f"C2ST, {count_text(n)}"] = _with_error(pooled(group.at(n), "c2st"))
        for n in pairs:
            row[f"sliced W (floor), {count_text(n)}"] = _sliced(group.at(n), floor)
        for n in pairs:
            row[f"training s, {count_text(n)}"] = _mean(group.at(n), "train_seconds")
        table.append(row)
    theirs = [one for one in published if one.pairs in pairs]
    for method, source in dict.fromkeys((one.method, one.source) for one in theirs):
        same = [one for one in theirs if (one.method, one.source) == (method, source)]
        values = {f"C2ST, {count_text(one.pairs)}": f"{one.c2st:.3f}" for one in same}
        table.append({"method": f"{method} ({source})", "calls": same[0].calls, **values})
    return table


def _errors(groups: Sequence[Group], pairs: Sequence[int]) -> Table:
    """Errors of the moments, averaged over observations."""
    table = []
    for group in groups:
        row: dict[str, Any] = {"method": group.label, "T": group.T, "L": group.L}
        for key, name in ERRORS.items():
            for n in pairs:
                found = pooled(group.at(n), key)
                if found is not None:
                    row[f"{name}, {count_text(n)}"] = found[0]
        table.append(row)
    return table


def _moments(rows: Sequence[Row]) -> Table:
    """Moments at the published observation, a row each result, the exact ones on top; empty where none were taken."""
    rows = [row for row in rows if row.get("moments")]
    if not rows:
        return []
    about = ("label", "pairs", "T", "L", "seed")
    lines = [({"label": "exact, by quadrature"}, rows[0]["moments"]["exact"])]
    lines += [({key: row[key] for key in about}, row["moments"]["found"]) for row in rows if row["pairs"] is not None]
    return [{key: head.get(key) for key in about} | _flat(moments) for head, moments in lines]


def _flat(moments: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """{"mean": [a, b]} as {"mean_1": a, "mean_2": b}."""
    return {f"{key}_{i}": v for key, values in moments.items() for i, v in enumerate(values, start=1)}


def suite_tables(rows: Sequence[Row], published: Sequence[Published]) -> dict[str, Table]:
    """Tables by title, up to three a problem: accuracy and cost, errors of moments, moments at a published y.

    Args:
        rows: see the module.
        published: numbers of others; those of the same problem and number of pairs are shown.
    """
    tables: dict[str, Table] = {}
    for problem in problems_of(rows):
        groups, own = groups_of(rows, problem), [row for row in rows if row["problem"] == problem]
        pairs = pairs_of(own)
        tables[problem] = _accuracy(groups, pairs, [one for one in published if one.problem == problem])
        if pairs:
            tables[f"{problem}: errors of the moments"] = _errors(groups, pairs)
        if moments := _moments(own):
            tables[f"{problem}: moments at the published observation"] = moments
    return tables
