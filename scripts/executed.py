"""Counts the files of csb that a task runs through: python scripts/executed.py

Four tasks are traced, each in a process of its own: (a) from y to the samples of ``csb sample``; (b) from Hydra's
parsing of ``T=5`` to the first optimiser step of ``csb train``; (c) from a row of ``pairs.npz`` to that step; (d) from
that step to the next. A file counts where one of its functions is called; importing it alone does not. The lines are
those of the functions, which ``--files`` names. ``--root`` counts another copy of csb, whose environment is that of
this Python.
"""

import argparse
import inspect
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PAIRS = [
    "experiment=pairs", "data.path=pairs.npz", "T=5", "L=1", "training.first_steps=2", "training.steps=2",
    "training.batch_size=64",
    "training.trajectories=64", "network.options={width: 8, depth: 1}", "metrics.observations=20", "metrics.samples=8",
    "metrics.picture_rows=2", "logger=none", "progress=false", "out=runs", "name=run",
]  # fmt: skip
TRAIN = ("train", ["overwrite=true", *PAIRS])
PARSED, STEP = "parsed", "a step"
TASKS = {  # the command, its arguments, and the file that is opened when the task begins, or what else begins it
    "from y to samples": ("sample", ["run=runs/run", "y=y.npy", "n=10", "out=samples.npz"], "y.npy"),
    "from T=5 to the first step": (*TRAIN, PARSED),
    "from a row to the step": (*TRAIN, "pairs.npz"),
    "from one step to the next": (*TRAIN, STEP),
}


class Reached(BaseException):
    """The task's end."""


class Trace:
    """Notes the files of csb in which functions are called, while it is on."""

    def __init__(self, package: Path) -> None:
        self.package, self.on, self.seen = str(package.resolve()) + os.sep, False, set[CodeType]()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """The trace function; lines are not traced."""
        code = frame.f_code
        if not self.on or event != "call" or code in self.seen or not code.co_filename.startswith(self.package):
            return
        if code.co_flags & inspect.CO_OPTIMIZED and not self._importing(frame):  # no body of a module or class
            self.seen.add(code)

    def report(self) -> str:
        """A line a function: its file, the lines it takes, and its name."""
        rows = []
        for code in self.seen:
            last = max(line for _, _, line in code.co_lines() if line is not None)
            rows.append(f"{code.co_filename[len(self.package) :]} {code.co_firstlineno} {last} {code.co_qualname}")
        return "\n".join(sorted(rows))

    def _importing(self, frame: FrameType | None) -> bool:
        """Whether a module of csb is being imported by what calls the frame."""
        while frame is not None:
            if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(self.package):
                return True
            frame = frame.f_back
        return False

    def install(self) -> None:
        """Traces all threads."""
        sys.settrace(self)  # type: ignore[arg-type]
        threading.settrace(self)  # type: ignore[arg-type]


def trace(task: str) -> None:
    """Runs a task in this process and prints its functions, one a line."""
    import torch
    from hydra.core.override_parser.overrides_parser import OverridesParser

    import csb.cli.main

    noted = Trace(Path(csb.cli.main.__file__).parents[1])
    command, arguments, begins = TASKS[task]
    parse = OverridesParser.parse_overrides

    def parsing(*arguments: Any, **options: Any) -> Any:
        noted.on = noted.on or begins == PARSED
        return parse(*arguments, **options)

    def step(*_: Any, **__: Any) -> None:
        if begins == STEP and not noted.on:
            noted.on = True
            return
        noted.on = False  # what runs while the program ends is no part of the task
        raise Reached

    def audit(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and str(given[0]).endswith(begins):
            noted.on = True
        if event == "open" and ".samples.npz" in str(given[0]):  # the samples are drawn; what follows is the end
            noted.on = False

    OverridesParser.parse_overrides = parsing  # type: ignore[method-assign]
    if command == "train":
        torch.optim.AdamW.step = step  # type: ignore[method-assign]
    sys.addaudithook(audit)
    sys.argv = ["csb", command, *arguments]
    noted.install()
    try:
        csb.cli.main.main()
    except (Reached, SystemExit):
        pass
    finally:
        sys.settrace(None)
    print("FILES", noted.report(), sep="\n")


def main() -> None:
    """Prints a table of the tasks, with the files where ``--files`` is given."""
    parser = argparse.ArgumentParser(description="Counts the files of csb that a task runs through.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the folder that holds csb/")
    parser.add_argument("--files", action="store_true", help="print their names")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        trace(given.task)
        return
    import numpy as np

    environment = {**os.environ, "PYTHONPATH": str(given.root.resolve()), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        x = np.random.default_rng(0).normal(size=(400, 2))
        np.savez(Path(folder) / "pairs.npz", x=x, y=x + 1)
        np.save(Path(folder) / "y.npy", x[:3] + 1)
        train = [sys.executable, "-m", "csb", "train", *PAIRS]
        subprocess.run(train, cwd=folder, env=environment, check=True, capture_output=True)
        for task in TASKS:
            line = [sys.executable, str(Path(__file__).resolve()), "--task", task]
            done = subprocess.run(line, cwd=folder, env=environment, check=True, capture_output=True, text=True)
            called = [row.split(" ", 3) for row in done.stdout.partition("FILES\n")[2].splitlines()]
            files: dict[str, list[str]] = {}
            lines = set[tuple[str, int]]()
            for name, first, last, function in called:
                files.setdefault(name, []).append(function)
                lines |= {(name, line) for line in range(int(first), int(last) + 1)}
            print(f"{task}: {len(files)} files of csb, {len(called)} functions of {len(lines)} lines")
            if given.files:
                print(*(f"  {name}: {', '.join(functions)}" for name, functions in files.items()), sep="\n")


if __name__ == "__main__":
    main()
