"""The scoring of one job, in a process of its own: python -m suites.sbi.work FOLDER PROCESSES."""

import logging
import sys
from pathlib import Path
from typing import Any

from csb.cli.ends import fail
from csb.errors import CSBError
from csb.evaluation.results import Results
from csb.files import checksum, read_json, write_json
from csb.problems import build_problem
from csb.runs.folder import writing
from suites.sbi.methods import METHODS
from suites.scores import Scores, ScoreSettings, score_sampler

logger = logging.getLogger(__name__)


def work(folder: Path, processes: int) -> None:
    """Scores every sampler of the job that ``folder/task.json`` describes, and writes ``folder/job.json``."""
    task = read_json(folder / "task.json")
    problem, settings = build_problem(task["spec"]), ScoreSettings(**task["score"])
    problem.prepare()
    store = Results(folder / "scores.json")
    rows: list[dict[str, Any]] = []
    for T in task["T"]:
        for one in METHODS[task["method"]].candidates(folder, T, problem):
            if one.L is not None and task["iterations"] is not None and one.L not in task["iterations"]:
                continue
            source = None if one.source is None else checksum(one.source)
            about = {"label": one.label, "T": T, "L": one.L}
            sampler = {**about, "source": source, "problem": task["spec"], "csb": task["csb"]}
            scores = score_sampler(one.sampler, problem, settings, Scores(store, sampler), processes)
            head = {key: task[key] for key in ("problem", "method", "pairs", "seed")}
            rows.append({**head, **about, "T": T or None, "train_seconds": one.train_seconds, **scores})
            logger.info("%s, T = %s, L = %s: sliced W %.4g, C2ST %s", one.label, T, one.L, scores["sliced_w"],
                        scores.get("c2st"))  # fmt: skip
    write_json(folder / "job.json", {**task, "rows": rows})


def main() -> None:
    """Ends with one line and exit code 2 where the job's files are not what they must be."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        with writing(folder := Path(sys.argv[1])):
            work(folder, int(sys.argv[2]))
    except CSBError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
