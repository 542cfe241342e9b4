"""The one exception that users see."""


class CSBError(ValueError):
    """Bad input, configuration or file.

    The message is one line, complete by itself: it names the value, what was expected, and the remedy. Entry points
    print it without a traceback.
    """
