"""Fenced code blocks of a Markdown page, and what runs or checks each of them."""

import contextlib
import importlib.metadata
import os
import re
import shlex
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from suites.benchmark import SUITES

from csb.cli import compose as cli
from csb.cli.commands import COMMANDS
from tests.conftest import checked

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w*)")
COMMENT = re.compile(r"^ *<!-- *(?P<key>[\w ]+?)(?:: *(?P<value>.*?))? *-->$")
SCRIPTS = {"train.py": "train"} | {f"scripts/{path.name}": path.stem for path in (ROOT / "scripts").glob("*.py")}
PROGRAM = "csb/__main__.py"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, the line of its fence, and the comments right above it."""

    language: str
    code: str
    line: int
    comments: dict[str, str]


def blocks(text: str) -> list[Block]:
    """All fenced blocks, in order. AssertionError for a fence that does not end."""
    found, lines, i = [], text.splitlines(), 0
    while i < len(lines):
        fence = FENCE.match(lines[i])
        if fence is None:
            i += 1
            continue
        comments, above = {}, i - 1
        while above >= 0 and (comment := COMMENT.match(lines[above])):
            comments[comment["key"]] = comment["value"] or ""
            above -= 1
        ends = [j for j in range(i + 1, len(lines)) if lines[j].strip() == fence["fence"]]
        assert ends, f"the fence at line {i + 1} does not end"
        inside = [line.removeprefix(fence["indent"]) for line in lines[i + 1 : ends[0]]]
        found.append(Block(fence["language"], "\n".join(inside), i + 1, comments))
        i = ends[0] + 1
    return found


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    absent = []
    for requirement in PROJECT["project"]["optional-dependencies"][extra]:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        try:
            importlib.metadata.distribution(name[0])
        except importlib.metadata.PackageNotFoundError:
            absent.append(name[0])
    return absent


@dataclass
class Page:
    """A page whose blocks are run in order, in one namespace and one folder.

    Attributes:
        name: for messages.
        folder: the current directory of everything.
        provide: given a block's text, puts the runs that it loads into ``folder``.
        command: runs a script in a process of its own; see ``conftest.command``.
        small: command → overrides that make it small. Such commands are run, all others checked.
    """

    name: str
    folder: Path
    provide: Callable[[str, Path], None]
    command: Callable[..., Any]
    small: dict[str, list[str]]
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    counts: dict[str, int] = field(default_factory=lambda: {"run": 0, "not run": 0, "text": 0, "extra": 0})
    fresh: int = 0

    def run(self, block: Block) -> None:
        """Runs, checks or, where the page says so, only compiles a block, and counts it."""
        where = f"{self.name}:{block.line}"
        if block.language == "text":
            self.counts["text"] += 1
            return
        if "not run" in block.comments:
            assert len(block.comments["not run"]) > 5, f"{where}: say why it is not run"
            self.counts["not run"] += 1
            return
        if (extra := block.comments.get("requires")) is not None and (absent := missing(extra)):
            warnings.warn(f"{where} is not run: the extra {extra} lacks {', '.join(absent)}", stacklevel=2)
            self.counts["extra"] += 1
            return
        runs: dict[str, Callable[[Block], None]] = {"python": self._python, "bash": self._bash, "yaml": self._yaml}
        assert block.language in runs, f"{where}: {block.language or 'no language'}; give one of {', '.join(runs)}"
        with contextlib.chdir(self.folder):
            runs[block.language](block)
        self.counts["run"] += 1

    def _python(self, block: Block) -> None:
        self.provide(block.code, self.folder)
        source = "\n" * block.line + block.code  # so that a traceback shows the page's line
        exec(compile(source, self.name, "exec"), self.namespace)

    def _yaml(self, block: Block) -> None:
        assert OmegaConf.create(block.code), f"{self.name}:{block.line} holds nothing"

    def _bash(self, block: Block) -> None:
        for line in block.code.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word != "&&":
                    words.append(word)
                elif words:
                    self._one(words, f"{self.name}:{block.line}: {line}")
                    words = []

    def _one(self, words: list[str], where: str) -> None:
        """One command. AssertionError for one that nobody here knows how to check."""
        while re.match(r"^[A-Z_]+=", words[0]):
            words = words[1:]
        program, *rest = [Path(words[0]).name, *words[1:]]
        if program in ("python", "python3"):
            kind = rest[0] if rest else ""
            if kind == "-c":
                exec(compile(rest[1], where, "exec"), {"__name__": "command"})
            elif kind == "-m":
                self._module(rest[1:], where)
            elif kind in SCRIPTS:
                self._command(SCRIPTS[kind], rest[1:], where)
            else:
                raise AssertionError(f"{where}: no such script")
        elif program == "csb":
            assert "csb" in PROJECT["project"]["scripts"], f"{where}: pyproject.toml has no command csb"
            self._command(rest[0] if rest else "--help", rest[1:], where)
        elif words[0].startswith(".ci/"):
            assert (ROOT / words[0]).is_file(), f"{where}: there is no {words[0]}"
        elif program in ("pip", "pytest", "mkdocs"):
            self._module([program, *rest], where)
        else:
            raise AssertionError(f"{where}: {program} is not known here; teach tests/docs_blocks.py, or say not run")

    def _module(self, words: list[str], where: str) -> None:
        extras = PROJECT["project"]["optional-dependencies"]
        known = {"venv", "pip", "pytest", "mkdocs"}
        assert words[0] in known, f"{where}: python -m {words[0]} is not one of {known}"
        for word in words[1:]:
            for extra in re.findall(r"^(?:\.|csb)\[(.*)\]$", word):
                assert set(extra.split(",")) <= set(extras), f"{where}: no such extra; there are {', '.join(extras)}"
            if words[0] in ("pytest", "mkdocs") and "/" in word and not word.startswith("-"):
                assert (ROOT / word.partition("::")[0]).exists(), f"{where}: {word} does not exist"
        if words[0] == "pytest" and "-m" in words:
            markers = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
            named = set(re.findall(r"\w+", words[words.index("-m") + 1])) - {"not", "and", "or"}
            assert named <= markers, f"{where}: the markers are {', '.join(markers)}"

    def _command(self, name: str, arguments: list[str], where: str) -> None:
        """csb NAME …: run where it is cheap, else composed and validated with these very overrides."""
        self.provide(" ".join(a for a in arguments if a.startswith(("run=", "others=", "prior="))), self.folder)
        if "resume=true" in arguments and (names := self._resumed(arguments)):
            self.provide(names, self.folder)
        text = " ".join([name, *arguments])
        if text in self.small or name.startswith("-") or any(a in cli.INFORMATION for a in arguments):
            done = self.command(name, *arguments, *self.small.get(text, []), script=PROGRAM, cwd=self.folder)
            assert done.code == 0, f"{where}: {done.err}"
            return
        assert name in COMMANDS, f"{where}: csb has no command {name}"
        if name == "train" and "resume=true" not in arguments:  # a page may show a training that is there already
            self.fresh += 1
            arguments = [*arguments, f"out=fresh/{self.fresh}"]
        if name == "benchmark":  # its trainings are not composed: tests/run/test_suite.py does
            given = cli.composed(name, arguments)
            SUITES[given["suite"]["name"]][0](given)
        else:
            checked(name, *arguments)

    @staticmethod
    def _resumed(arguments: list[str]) -> str:
        """outputs/NAME of a training that is gone on with."""
        given = dict(a.partition("=")[::2] for a in arguments)
        return "" if "out" in given else f"outputs/{given.get('name', given.get('experiment', 'two_moons'))}"


def link(source: Path, folder: Path) -> None:
    """The files of a folder that are missing in another one, as links: what is written again there stays there."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
