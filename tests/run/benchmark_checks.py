"""What the tests of csb benchmark share."""

import pytest

from csb.errors import CSBError
from tests.conftest import checked


def refuse(*arguments):
    """The one line with which the command line refuses."""
    with pytest.raises(CSBError) as error:
        checked("benchmark", *arguments)
    message = str(error.value)
    assert "\n" not in message
    assert 10 < len(message) < 600
    return message
