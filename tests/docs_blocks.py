"""Fenced code blocks of a Markdown page, and what runs or checks each of them."""

import contextlib
import importlib.metadata
import os
import re
import runpy
import shlex
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from csb.run import cli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w*)")
COMMENT = re.compile(r"^ *<!-- *(?P<key>[\w ]+?)(?:: *(?P<value>.*?))? *-->$")
SUBCOMMANDS = {
    "train": "train.py",
    "evaluate": "scripts/evaluate.py",
    "sample": "scripts/sample.py",
    "benchmark": "scripts/benchmark.py",
}


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


def validator(script: str) -> tuple[str, Callable[[Any, bool], Any]]:
    """The config's name and the check that a script gives to :func:`csb.run.cli.run`."""
    found: list[tuple[str, Callable]] = []
    original = cli.run
    cli.run = lambda main, name, validate, hint: found.append((name, validate))
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        cli.run = original
    (one,) = found
    return one


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
            elif kind.endswith(".py") and (ROOT / kind).is_file():
                self._script(kind, rest[1:])
            else:
                raise AssertionError(f"{where}: no such script")
        elif program == "csb":
            self._entry(rest, where)
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

    def _script(self, script: str, arguments: list[str]) -> None:
        self.provide(" ".join(a for a in arguments if a.startswith(("run=", "others="))), self.folder)
        if "resume=true" in arguments and (names := self._resumed(arguments)):
            self.provide(names, self.folder)
        text = " ".join([script, *arguments])
        if text in self.small or any(a in cli.INFORMATION for a in arguments):
            done = self.command(*arguments, *self.small.get(text, []), script=script, cwd=self.folder)
            assert done.code == 0, f"{self.name}: {text}: {done.err}"
            return
        name, validate = validator(script)
        if script == "train.py" and "resume=true" not in arguments:  # a page may show a training that is there already
            self.fresh += 1
            arguments = [*arguments, f"out=fresh/{self.fresh}"]
        if script == "scripts/benchmark.py":  # a suite would compose every training: tests/run/test_suite.py does
            cli.check(name, arguments, lambda config, sweep: validate(config, sweep) and None)
        else:
            cli.check(name, arguments, validate)

    @staticmethod
    def _resumed(arguments: list[str]) -> str:
        """outputs/NAME of a training that is gone on with."""
        given = dict(a.partition("=")[::2] for a in arguments)
        return "" if "out" in given else f"outputs/{given.get('name', given.get('experiment', 'two_moons'))}"

    def _entry(self, words: list[str], where: str) -> None:
        """csb SUBCOMMAND …: those of the scripts are checked as these; of others, that the command knows them."""
        assert "csb" in PROJECT["project"].get("scripts", {}), f"{where}: pyproject.toml has no command csb"
        if words and words[0] in SUBCOMMANDS:
            return self._script(SUBCOMMANDS[words[0]], words[1:])
        module, _, function = PROJECT["project"]["scripts"]["csb"].partition(":")
        before, sys.argv = sys.argv, ["csb", *words[:1], "--help"]
        try:
            getattr(importlib.import_module(module), function)()
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = before
        assert not code, f"{where}: csb {words[0]} --help ends with {code}"
        return None


def link(source: Path, folder: Path) -> None:
    """The files of a folder that are missing in another one, as links: what is written anew there stays there."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
