"""The progress bar of a sampling call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def network_calls(total: int, show: bool) -> Iterator[Callable[[object], None]]:
    """A bar over ``total`` network calls, on standard error, where wanted.

    Calling what it gives counts one, whatever is passed.
    """
    if not show:
        yield lambda law: None
        return
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("network calls", total=total)
        yield lambda law: bar.advance(task)
