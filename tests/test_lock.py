"""requirements.lock: what pyproject.toml asks for, on every Python that csb runs on, with hashes and nothing local."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRY = re.compile(r"^(?P<pin>[a-z0-9][^\\\n]*?)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)


def environment(python):
    """The markers' values on Linux under a Python."""
    own = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    return {**default_environment(), **own, "python_version": python, "python_full_version": f"{python}.7", "extra": ""}


def locked(python):
    """Name → version of what is installed under a Python."""
    pins = [Requirement(entry["pin"]) for entry in ENTRY.finditer(TEXT)]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment(python))]
    names = [canonicalize_name(pin.name) for pin in here]
    assert len(set(names)) == len(names)
    return {name: str(pin.specifier).removeprefix("==") for name, pin in zip(names, here)}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_it_satisfies_the_project(python):
    found, project = locked(python), PROJECT["project"]
    asked = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["test"])]
    assert len(asked) > 20
    for one in asked:
        version = found.get(canonicalize_name(one.name))
        assert version is not None, f"{one.name} is not locked; run .ci/lock"
        assert one.specifier.contains(version), f"{one} is locked at {version}; run .ci/lock"


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_it_keeps_to_the_bounds_of_what_others_bring_along(python):
    found = locked(python)
    bounds = [Requirement(text) for text in PROJECT["tool"]["uv"]["constraint-dependencies"]]
    held = [one for one in bounds if canonicalize_name(one.name) in found]
    assert len(held) > 5
    for one in held:
        assert one.specifier.contains(found[canonicalize_name(one.name)]), f"{one}; run .ci/lock"


def test_every_line_is_a_version_with_hashes():
    """No index, no folder: nothing of the machine that wrote it."""
    rest = ENTRY.sub("", TEXT).split("\n")
    assert [line for line in rest if line and not line.startswith("# ")] == []
    assert "://" not in TEXT
    assert all("==" in entry["pin"] for entry in ENTRY.finditer(TEXT))


@pytest.mark.parametrize(
    ("arguments", "message"), [(("3.12",), "give a Python and a torch"), (("9.9", "2.9"), "there is no python9.9")]
)
def test_the_matrix_refuses(arguments, message):
    done = subprocess.run([ROOT / ".ci" / "matrix", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_matrix_holds_every_version():
    text = (ROOT / ".ci" / "matrix").read_text()
    pairs = dict.fromkeys(re.search(r'MATRIX="(.*)"', text)[1].split())
    pythons, torches = ({pair.split(":")[i] for pair in pairs} for i in (0, 1))
    project = PROJECT["project"]
    assert all(version in Requirement(f"x{project['requires-python']}").specifier for version in pythons)
    assert pythons == {"3.11", "3.12", "3.13"}
    assert torches == {f"2.{minor}" for minor in range(9, 15)}
    (torch,) = (Requirement(text) for text in project["dependencies"] if text.startswith("torch>"))
    assert torch.specifier.contains("2.9")
    assert torch.specifier.contains("2.14.1")
    assert not torch.specifier.contains("2.15")
