"""requirements.lock: what pyproject.toml asks for, on every Python that csb runs on, with hashes and nothing local."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "requirements.lock").read_text()
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = WHOLE["project"]
PYTHONS = ("3.11", "3.12", "3.13")
ENTRY = re.compile(r"^(?P<pin>[a-z0-9][^\\\n]*?)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)


def locked(python):
    """Name → version of what is installed under a Python on Linux."""
    own = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    where = {
        **default_environment(),
        **own,
        "python_version": python,
        "python_full_version": f"{python}.7",
        "extra": "",
    }
    pins = [Requirement(entry["pin"]) for entry in ENTRY.finditer(TEXT)]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(where)]
    found = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}
    assert len(found) == len(here)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_it_satisfies_the_project_and_the_bounds_of_what_others_bring_along(python):
    found = locked(python)
    asked = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"])]
    bounds = [Requirement(text) for text in WHOLE["tool"]["uv"]["constraint-dependencies"]]
    held = [one for one in bounds if canonicalize_name(one.name) in found]
    assert len(asked) > 20
    assert len(held) > 5
    for one in (*asked, *held):
        version = found.get(canonicalize_name(one.name))
        assert version is not None, f"{one.name} is not locked; run .ci/lock"
        assert one.specifier.contains(version), f"{one} is locked at {version}; run .ci/lock"


def test_every_line_is_a_version_with_hashes():
    """No index, no folder: nothing of the machine that wrote it."""
    rest = ENTRY.sub("", TEXT).split("\n")
    assert [line for line in rest if line and not line.startswith("# ")] == []
    assert "://" not in TEXT
    assert all("==" in entry["pin"] for entry in ENTRY.finditer(TEXT))


def test_the_matrix_holds_every_version():
    pairs = re.search(r'MATRIX="(.*)"', (ROOT / ".ci" / "matrix").read_text())[1].split()
    pythons, torches = ({pair.split(":")[i] for pair in pairs} for i in (0, 1))
    assert pythons == {*PYTHONS}
    assert all(version in Requirement(f"x{PROJECT['requires-python']}").specifier for version in pythons)
    (torch,) = (Requirement(text) for text in PROJECT["dependencies"] if text.startswith("torch>"))
    assert torches == {f"2.{minor}" for minor in range(9, 15)}
    assert [torch.specifier.contains(version) for version in ("2.9", "2.14.1", "2.15")] == [True, True, False]
