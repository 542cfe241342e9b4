"""Where the configuration files are: conf/ of the checkout, or its copy in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def find_conf(package: Path = _PACKAGE) -> Path:
    """The folder that holds train.yaml and its groups.

    A checkout has it beside the package, a wheel inside. Inside comes first: no checkout has one there, while
    site-packages may hold a ``conf`` of someone else's.
    """
    inside = package / "conf"
    return inside if (inside / "train.yaml").is_file() else package.parent / "conf"


CONF = find_conf()
