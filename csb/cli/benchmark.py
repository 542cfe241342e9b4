"""``csb benchmark``: what only measures csb is no part of it, but of the scripts of a checkout."""

from collections.abc import Callable

from csb.cli.scripts import of_checkout
from csb.schema import Given


def prepare(given: Given) -> Callable[[], None]:
    """The chosen suite, its settings checked. CSBError without a checkout."""
    return of_checkout("suites.benchmark", "benchmark").prepare(given)
