"""The one exception that users see: a message of one line that names the value, what was expected, and the remedy."""


class CSBError(ValueError):
    """Bad input, configuration or file. The message is complete by itself: entry points print it without a traceback."""
