"""Every code block of README.md and of the documentation, run or checked.

Blocks of a page are taken in order, Python in one namespace, in a folder of the page's own. Trained runs that they load
are there: tiny trainings of the same problems. MNIST is made-up digits. A command is checked as the command line checks
it, with its own overrides; those of SMALL are run, with overrides that make them small. A page says ``<!-- not run:
reason -->`` or ``<!-- requires: extra -->`` on the line above a block; nothing else is left out, which is counted.
"""

import contextlib
import hashlib
import os
import re
import shlex
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from suites.benchmark import SUITES

import csb
from csb.cli import compose as cli
from csb.cli.commands import COMMANDS
from csb.networks import NETWORKS
from csb.problems import PROBLEMS, TRANSFORMS, mnist
from csb.runs.config import read
from csb.runs.stages import stage_job
from csb.runs.train import train
from tests.conftest import ROOT, checked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if "```" in path.read_text()]
TINY = [
    "L=1", "progress=false", "logger=none", "training.first_steps=6", "training.steps=4", "training.batch_size=32",
    "training.refresh=4",
    "training.trajectories=64", "training.observe_every=1000", "training.select=last", "metrics.samples=8",
    "metrics.observations=100",
    "metrics.exact_samples=100", "metrics.exact_observations=1", "metrics.picture_rows=1", "trainer=default",
    "conditional.steps=4", "distil.steps=2", "distil.batch_size=8", "distil.trajectories=8", "distil.calls=[1,2]",
]  # fmt: skip
VECTORS = [*TINY, "T=4"]  # as many steps as students have calls by default
SIMULATED = [*VECTORS, "problem.n_train=1000", "+problem.n_val=100"]
MLP = "network.options={width: 16, depth: 1}"
IMAGES = [
    *TINY, "T=10", "training.inflate=false", "objective.rank=2", "metrics.observations=2",
    "network.options={channels: 8, multipliers: [1], blocks: 1, patch: 2, attention: false}",
]  # fmt: skip
QUICK = ["metrics.samples=8", "metrics.exact_samples=100", "metrics.exact_observations=1", "metrics.c2st_samples=0",
         "metrics.compare_observations=10", "metrics.compare_samples=8", "metrics.picture_rows=2"]  # fmt: skip
SMALL = {  # commands that are run, and how
    "train experiment=pairs data.path=pairs.npz": [*VECTORS, MLP],
    "train experiment=two_moons stage=flow": [*SIMULATED, MLP],
    "train experiment=two_moons stage=distil run=outputs/two_moons": SIMULATED,
    "sample run=outputs/pairs y=y.npy n=1000 out=samples.npz": ["n=10"],
    "evaluate run=outputs/pairs": [*QUICK, "metrics.observations=100"],
    "evaluate run=outputs/two_moons": QUICK,
}


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
    found, comments, inside, fence = [], {}, [], None
    for number, line in enumerate(text.splitlines(), start=1):
        if fence is not None and line.strip() == fence["fence"]:
            found.append(Block(fence["language"], "\n".join(inside), number - len(inside) - 1, comments))
            comments, inside, fence = {}, [], None
        elif fence is not None:
            inside.append(line.removeprefix(fence["indent"]))
        elif comment := COMMENT.match(line):
            comments[comment["key"]] = comment["value"] or ""
        elif not (fence := FENCE.match(line)):
            comments = {}
    assert fence is None, f"the last fence of {text[:40]!r} does not end"
    return found


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    names = [Requirement(text).name for text in PROJECT["project"]["optional-dependencies"][extra]]
    return [name for name in names if next(iter(metadata.distributions(name=name)), None) is None]


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
            raise AssertionError(f"{where}: {program} is not known here; teach tests/test_docs.py, or say not run")

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


def link(source, folder):
    """The files of a folder that are missing in another one, as links: what is written again there stays there."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)


def experiment_of(name):
    """mnist_inpaint for mnist_inpaint_T20, …; None for a name that belongs to no experiment."""
    known = [path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")]
    return max((one for one in known if name == one or name.startswith(f"{one}_")), key=len, default=None)


@pytest.fixture(scope="module", autouse=True)
def _digits(tmp_path_factory):
    """A data folder of made-up digits, which count as MNIST's."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    sizes = (5_100, 20, 100)
    splits = tuple((rng.integers(0, 256, (n, 784)).astype(np.float32) / 256, rng.integers(0, 10, n)) for n in sizes)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    mnist.write_idx(raw, splits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "MD5", {name: hashlib.md5((raw / name).read_bytes()).hexdigest() for name in mnist.MD5})
        patch.setattr(mnist, "SOURCES", ())
        yield folder


@pytest.fixture(scope="module")
def trained(_digits, tmp_path_factory):
    """trained(name): the folder of a tiny run, trained when first asked for. None where no experiment has the name."""
    home = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    np.savez(home / "pairs.npz", x=x, y=x[:, :1] ** 2 + 0.1 * rng.normal(size=(1000, 1)))

    def settings(name, *more):
        experiment = experiment_of(name)
        kind = {"pairs": VECTORS}.get(experiment, IMAGES if experiment.startswith("mnist") else SIMULATED)
        given = [f"data.path={home}/pairs.npz"] if experiment == "pairs" else []
        if kind is IMAGES:
            given.append(f"problem.root={_digits}")
        elif experiment != "linear_gaussian":
            given.append(MLP)
        own = [f"experiment={experiment}", f"name={name}", f"out={home}"]
        return read(cli.composed("train", [*own, *kind, *given, *more]))

    def make(name, baselines=False, student=False):
        if experiment_of(name) is None:
            return None
        if not (home / name / "bridge.safetensors").exists():
            train(settings(name))
        for stage in ("score", "flow") if baselines else ():
            if not (home / name / f"{stage}.safetensors").exists():
                stage_job(settings(name, f"stage={stage}"))
        if student and not (home / name / "consistency.safetensors").exists():
            stage_job(settings(name, "stage=distil", f"run={home / name}"))
        return home / name

    return make


STAGES = (("score", "flow", "{kind}"), ("consistency",))  # models of stages that a page asks for


@pytest.fixture
def page(request, trained, _digits, tmp_path, command):
    """The page of the parameter, in a folder of its own. Registries are left as they were."""
    (tmp_path / "data").symlink_to(_digits)

    def provide(text, folder):
        for name in dict.fromkeys(re.findall(r"outputs/(\w+)", text)):
            here = folder / "outputs" / name
            asked = [any(f"{one}.safetensors" in text for one in kinds) for kinds in STAGES]
            if (here.exists() and not any(asked)) or (source := trained(name, *asked)) is None:
                continue
            link(source, here)
            for kinds in (kinds for kinds, is_asked in zip(STAGES, asked) if not is_asked):
                for one in kinds:  # which another page has asked for
                    (here / f"{one}.safetensors").unlink(missing_ok=True)

    registries = [(registry, dict(registry)) for registry in (PROBLEMS, TRANSFORMS, NETWORKS)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Page(str(request.param.relative_to(ROOT)), tmp_path, provide, command, SMALL)
    torch.set_num_threads(threads)
    for registry, before in registries:
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)), indirect=True)
def test_every_block(page):
    text = (ROOT / page.name).read_text()
    for block in blocks(text):
        page.run(block)
    fences = len([line for line in text.splitlines() if line.strip().startswith("```")])
    assert fences == 2 * sum(page.counts.values())


def test_pages_import_csb_alone():
    """What a page needs is public: ``import csb``, and its own names."""
    for path in PAGES:
        for block in (block for block in blocks(path.read_text()) if block.language == "python"):
            where = f"{path.relative_to(ROOT)}:{block.line}"
            assert not re.search(r"^\s*(from csb\b|import csb\.)", block.code, re.MULTILINE), where
            assert set(re.findall(r"\bcsb\.(\w+)", block.code)) <= set(csb.__all__), where


def test_a_block_is_found_with_its_language_its_line_and_its_comment():
    text = "a\n<!-- not run: no such thing -->\n```bash\nx\n```\n\n  ```python\n  y = 1\n    z\n  ```\n"
    assert blocks(text) == [Block("bash", "x", 3, {"not run": "no such thing"}), Block("python", "y = 1\n  z", 7, {})]


@pytest.mark.parametrize("page", [ROOT / "README.md"], ids=["page"], indirect=True)
@pytest.mark.parametrize(
    ("language", "code", "message"),
    [
        ("bash", "rm x", "rm is not known here"),
        ("bash", "python train.py T=0", "T=0 is not possible"),
        ("bash", "pip install '.[nope]'", "no such extra"),
        ("bash", "python -m pytest -m nope", "the markers are"),
        ("bash", "python scripts/sample.py run=outputs/nowhere", "outputs/nowhere"),
        ("python", "assert False, 'seen'", "seen"),
        ("yaml", "{", "expected"),
        ("c", "x", "give one of python, bash, yaml"),
    ],
)
def test_a_wrong_block_is_reported(page, language, code, message):
    with pytest.raises(Exception, match=re.escape(message)):
        page.run(Block(language, code, 1, {}))
