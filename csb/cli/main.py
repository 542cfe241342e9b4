"""The command line: csb COMMAND key=value …, and the scripts, which are one command each."""

import contextlib
import io
import os
import sys
from difflib import get_close_matches

from csb.cli.commands import COMMANDS
from csb.cli.help import command_help, overview

_HELP = ("-h", "--help")


def main(argv: list[str] | None = None, name: str | None = None) -> None:
    """Run a command. What is wrong ends it with one line and exit code 2.

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
    if (text := _information(name, arguments)) is not None:
        try:
            print(text, end="", flush=True)
        except BrokenPipeError:  # nobody reads it any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        print(f"error: {name!r} is no command; {meant}choose among {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    from csb.cli.compose import run  # here, so that help does not wait for torch

    run(name, arguments)


def _information(name: str, arguments: list[str]) -> str | None:
    """The text of a help or of the version; None where a command is to be run."""
    if name in _HELP:
        return overview()
    if name == "--version":
        from csb import __version__

        return f"csb {__version__}\n"
    return command_help(COMMANDS[name]) if name in COMMANDS and any(a in _HELP for a in arguments) else None
