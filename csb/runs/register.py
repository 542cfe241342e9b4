"""Classes of a user's own, known by their names to files and to the command line."""

import sys
from importlib import import_module
from typing import Any, NamedTuple

from csb.errors import CSBError, in_one_line
from csb.networks import ENCODERS, NETWORKS, Encoder, Network
from csb.networks.base import is_own
from csb.problems import PROBLEMS, Problem


def register(cls: Any, name: str | None = None) -> Any:
    """Make a network, an encoder or a problem known by its name, as its decorator.

    A :class:`csb.networks.Network` or :class:`csb.networks.Encoder` goes by the name of its class, a
    :class:`csb.problems.Problem` by its ``name``, where none is given. With such classes in a module ``mine``,
    ``csb train import=mine problem=… network=…`` trains with them, and every command reads such a run:
    ``csb evaluate import=mine run=…``.

    Raises:
        CSBError: a class of another kind, or a name that csb's own classes have.
    """
    kinds: dict[type, Any] = {Network: NETWORKS, Encoder: ENCODERS, Problem: PROBLEMS}
    kind = next((kind for kind in kinds if isinstance(cls, type) and issubclass(cls, kind)), None)
    if kind is None:
        raise CSBError(f"{cls!r:.80} is no Network, Encoder or Problem; register a subclass of one of them")
    name = name or (cls.name if kind is Problem else cls.__name__)
    if name in kinds[kind] and not is_own(kinds[kind][name]):
        raise CSBError(f"{name!r} is the name of one of csb's own classes; choose another one")
    kinds[kind][name] = cls
    return cls


class Imports(NamedTuple):
    """Modules that a user names on the command line, whose classes register themselves, and the folder it ran in."""

    folder: str
    modules: list[str]

    def load(self) -> None:
        """Import the modules, in this process. CSBError for one that cannot be imported."""
        if self.modules and self.folder not in sys.path:
            sys.path.append(self.folder)
        for module in self.modules:
            try:
                import_module(module)
            except Exception as error:  # whatever the user's code raises
                raise CSBError(
                    f"import={module} cannot be imported ({type(error).__name__}: {in_one_line(error)}); give a module "
                    f"of this folder, or one that is installed"
                ) from error
