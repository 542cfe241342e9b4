"""The command line: csb COMMAND key=value …, and the scripts, which are one command each."""

import contextlib
import io
import sys
from difflib import get_close_matches

from csb.cli.commands import COMMANDS
from csb.cli.help import command_help, overview

_HELP = ("-h", "--help")


def main(argv: list[str] | None = None, name: str | None = None) -> None:
    """Runs a command. What is wrong ends it with one line and exit code 2.

    Args:
        argv: the arguments, those of the process for None.
        name: of the command, where they do not begin with it.
    """
    for stream in (sys.stdout, sys.stderr):  # what an output cannot show, e.g. in a Latin-1 locale, is shown as ?
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # of a closed one
                stream.reconfigure(errors="replace")
    arguments = sys.argv[1:] if argv is None else argv
    if name is None:
        name, *arguments = arguments or ["--help"]
        if name in _HELP:
            _show(overview())
            return
        if name == "--version":
            from csb import __version__

            _show(f"csb {__version__}\n")
            return
        if name not in COMMANDS:
            print(f"error: {_unknown(name)}", file=sys.stderr)
            raise SystemExit(2)
    if any(argument in _HELP for argument in arguments):
        _show(command_help(COMMANDS[name]))
        return
    from csb.cli import compose as cli  # here, so that help does not wait for torch

    cli.run(name, arguments)


def _show(text: str) -> None:
    """Prints help; where nobody reads it any more, it ends quietly."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        from csb.cli.ends import fail  # here, so that help does not wait for torch

        fail(None)


def _unknown(name: str) -> str:
    """What is said of a command that there is not, in one line."""
    near = get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{name!r} is no command; {meant}choose among {', '.join(COMMANDS)}"
