"""Drift networks by name, and classes of a user's own. A file names its network; nothing else is built from it."""

from typing import Any

from csb.errors import CSBError
from csb.networks.base import ENCODERS, NETWORKS, Encoder, Network, build_network, exit_init, is_own
from csb.networks.mlp import MLP, Affine
from csb.networks.unet import UNet
from csb.problems import PROBLEMS, Problem

NETWORKS |= {"mlp": MLP, "affine": Affine, "unet": UNet}


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
