"""What the tests of csb benchmark share."""

import pytest

from csb.errors import CSBError
from csb.cli import compose as cli
from csb.suites.benchmark import validate


def refuse(*arguments):
    """The one line with which the command line refuses."""
    with pytest.raises(CSBError) as error:
        cli.check("benchmark", list(arguments), validate)
    message = str(error.value)
    assert "\n" not in message
    assert 10 < len(message) < 600
    return message
