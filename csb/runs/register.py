"""Classes of a user's own, known by their names to files and to the command line."""

from importlib import import_module
from typing import Any

from csb.errors import CSBError, in_one_line
from csb.networks import ENCODERS, NETWORKS, Encoder, Network
from csb.problems import PROBLEMS, Problem


def register(cls: Any) -> Any:
    """Make a network, an encoder or a problem known by its name, as its decorator.

    A :class:`csb.networks.Network` or :class:`csb.networks.Encoder` goes by the name of its class, a
    :class:`csb.problems.Problem` by its ``name``. With such classes in a module ``mine``,
    ``csb train import=mine problem=… network=…`` trains with them, and every command reads such a run:
    ``csb evaluate import=mine run=…``.

    Raises:
        CSBError: a class of another kind, or a name that csb's own classes have.
    """
    is_class = isinstance(cls, type)
    known: Any  # names and classes
    if is_class and issubclass(cls, Network):
        known, name = NETWORKS, cls.__name__
    elif is_class and issubclass(cls, Encoder):
        known, name = ENCODERS, cls.__name__
    elif is_class and issubclass(cls, Problem):
        known, name = PROBLEMS, cls.name
    else:
        raise CSBError(f"{cls!r:.80} is no Network, Encoder or Problem; register a subclass of one of them")
    if name in known and not is_own(known[name]):
        raise CSBError(f"{name!r} is the name of one of csb's own classes; choose another one")
    known[name] = cls
    return cls


def is_own(cls: type) -> bool:
    """Whether a class is a user's."""
    return not cls.__module__.startswith("csb.")


def import_own(module: str) -> None:
    """Import a module that the user names, whose classes register themselves. CSBError where it cannot be imported."""
    try:
        import_module(module)
    except Exception as error:  # whatever the user's code raises
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        remedy = "give a module of this folder, or one that is installed"
        raise CSBError(f"import={module} cannot be imported ({reason}); {remedy}") from error
