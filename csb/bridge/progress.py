"""The progress bar of a sampling call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tick = Callable[[], None]


def silent() -> None:
    """The tick of no bar."""


@contextmanager
def network_calls(total: int, show: bool) -> Iterator[Tick]:
    """A bar over ``total`` network calls, on standard error, where wanted; calling what it gives counts one."""
    if not show:
        yield silent
        return
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("network calls", total=total)
        yield lambda: bar.advance(task)
