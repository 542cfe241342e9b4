"""A script of csb in a process of its own, with faults put in: what the process imports by its name."""

import builtins
import os
import pkgutil
import runpy
import signal
import sys
from dataclasses import dataclass
from typing import Any

import torch

from csb.errors import CSBError


@dataclass
class Hook:
    """Kills the process with SIGKILL, sends it another signal, or raises, at the n-th call of a function.

    Attributes:
        name: dotted name of what is replaced, e.g. "os.replace".
        call: which call, from 1.
        before: act before the function runs, otherwise after it.
        raises: name of a builtin exception, or CSBError, to raise in place of the kill, or of a signal to send.
    """

    name: str
    call: int = 1
    before: bool = True
    raises: str = ""

    def install(self) -> None:
        module, _, attribute = self.name.rpartition(".")
        owner = pkgutil.resolve_name(module)
        original, calls = getattr(owner, attribute), 0

        def replaced(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.call and self.before:
                self._act()
            result = original(*args, **kwargs)
            if calls == self.call and not self.before:
                self._act()
            return result

        setattr(owner, attribute, replaced)

    def _act(self) -> None:
        if self.raises == "CSBError":
            raise CSBError("planned failure; try again")
        if self.raises and not self.raises.startswith("SIG"):
            raise getattr(builtins, self.raises)
        os.kill(os.getpid(), signal.Signals[self.raises or "SIGKILL"])


def run_command(
    script: str, arguments: list[str], hooks: list[Hook], folder: str, cwd: str, env: dict[str, Any]
) -> None:
    """In the child: runs a script as from the command line, its output into files."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.chdir(cwd)
    for key, value in env.items():
        os.environ.pop(key, None) if value is None else os.environ.update({key: value})
    torch.set_num_threads(1)
    for hook in hooks:
        hook.install()
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        if (
            "joblib.externals.loky" in sys.modules
        ):  # an interpreter's end stops its workers, that of a fork waits for them
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(kill_workers=True)
