"""Every code block of README.md and of the documentation, run or checked.

Blocks of a page are taken in order, Python in one namespace, in a folder of the page's own. Trained runs that they load
are there: tiny trainings of the same problems. MNIST is made-up digits. A command is checked as the command line checks
it, with its own overrides; those of SMALL are run, with overrides that make them small. A page says ``<!-- not run:
reason -->`` or ``<!-- requires: extra -->`` on the line above a block; nothing else is left out, which is counted.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shlex
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
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
from csb.problems import PROBLEMS, TRANSFORMS, mnist, photographs
from csb.runs.config import read
from csb.runs.stages import stage_job
from csb.runs.train import train
from tests.conftest import ROOT, checked
from tests.problems.conftest import made_up_map

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
SIMULATED = [*VECTORS, "++problem.n_train=1000", "+problem.n_val=100"]
MLP = "network.options={width: 16, depth: 1}"
IMAGES = [
    *TINY, "T=10", "training.inflate=false", "objective.rank=2", "metrics.observations=2",
    "network.options={channels: 8, multipliers: [1], blocks: 1, patch: 2, attention: false}",
]  # fmt: skip
QUICK = ["metrics.samples=8", "metrics.exact_samples=100", "metrics.exact_observations=1", "metrics.c2st_samples=0",
         "metrics.compare_observations=10", "metrics.compare_samples=8", "metrics.picture_rows=2"]  # fmt: skip
SMALL = {  # commands that are run, and how
    "train experiment=pairs data.path=pairs.npz": [*VECTORS, MLP],
    **{f"train experiment=two_moons stage={one}": [*SIMULATED, MLP] for one in ("flow", "meanflow", "consistency")},
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


class Page:
    """A page whose blocks are run in order, in one namespace and one folder.

    Args:
        provide: given a block's text, puts the runs that it loads into the folder.
        command: see ``conftest.command``.
    """

    def __init__(self, name: str, folder: Path, provide: Callable[[str, Path], None], command: Callable[..., Any]):
        self.name, self.folder, self.provide, self.command = name, folder, provide, command
        self.namespace, self.counted, self.fresh = {"__name__": "page"}, 0, 0

    def run(self, block: Block) -> None:
        """Runs, checks or, where the page says so, leaves out a block, and counts it."""
        where = f"{self.name}:{block.line}"
        self.counted += 1
        absent = missing(block.comments["requires"]) if "requires" in block.comments else []
        if "not run" in block.comments:
            assert len(block.comments["not run"]) > 5, f"{where}: say why it is not run"
        elif absent:
            warnings.warn(f"{where} is not run: {', '.join(absent)} is not installed", stacklevel=2)
        else:
            with contextlib.chdir(self.folder):
                self._run(block, where)

    def _run(self, block: Block, where: str) -> None:
        if block.language == "python":
            self.provide(block.code, self.folder)
            source = "\n" * block.line + block.code  # so that a traceback shows the page's line
            exec(compile(source, self.name, "exec"), self.namespace)
        elif block.language == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for is_command, group in itertools.groupby(words, lambda word: word != "&&"):
                    if is_command:
                        self._one(list(group), f"{where}: {line}")
        elif block.language == "yaml":
            assert OmegaConf.create(block.code), f"{where} holds nothing"
        else:
            assert block.language == "text", f"{where}: {block.language}; give one of python, bash, yaml, text"

    def _one(self, words: list[str], where: str) -> None:
        """One command. AssertionError for one that nobody here knows how to check."""
        program, *rest = itertools.dropwhile(re.compile(r"[A-Z_]+=").match, words)
        program = program if program.startswith(".ci/") else Path(program).name
        if program.startswith("python") and rest[0] == "-m":
            program, *rest = rest[1:]
        if program.startswith("python") and rest[0] == "-c":
            exec(compile(rest[1], where, "exec"), {"__name__": "command"})
        elif program.startswith("python"):
            assert rest[0] in SCRIPTS, f"{where}: no such script"
            self._command(SCRIPTS[rest[0]], rest[1:], where)
        elif program == "csb":
            self._command(rest[0] if rest else "--help", rest[1:], where)
        elif program.startswith(".ci/"):
            assert (ROOT / program).is_file(), f"{where}: there is no {program}"
        else:
            assert program in ("venv", "pip", "pytest", "mkdocs"), f"{where}: {program} is not known here"
            self._others(program, rest, where)

    def _others(self, program: str, words: list[str], where: str) -> None:
        """A command of another program: the extras, files and markers that it names exist."""
        extras = PROJECT["project"]["optional-dependencies"]
        for word in words:
            for extra in re.findall(r"^(?:\.|csb)\[(.*)\]$", word):
                assert set(extra.split(",")) <= set(extras), f"{where}: no such extra; there are {', '.join(extras)}"
            if program in ("pytest", "mkdocs") and "/" in word and not word.startswith("-"):
                assert (ROOT / word.partition("::")[0]).exists(), f"{where}: {word} does not exist"
        if program == "pytest" and "-m" in words:
            markers = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
            named = set(re.findall(r"\w+", words[words.index("-m") + 1])) - {"not", "and", "or"}
            assert named <= markers, f"{where}: the markers are {', '.join(markers)}"

    def _command(self, name: str, arguments: list[str], where: str) -> None:
        """csb NAME …: run where it is cheap, else composed and validated with these very overrides."""
        given = dict(a.partition("=")[::2] for a in arguments)
        self.provide(" ".join(given.get(key, "") for key in ("run", "others", "prior")), self.folder)
        if "resume=true" in arguments and "out" not in given:
            run = given.get("name", given.get("experiment", "two_moons"))
            self.provide(f"outputs/{run}", self.folder)
        text = " ".join([name, *arguments])
        if text in SMALL or name.startswith("-") or any(a in cli.INFORMATION for a in arguments):
            done = self.command(name, *arguments, *SMALL.get(text, []), script=PROGRAM, cwd=self.folder)
            assert done.code == 0, f"{where}: {done.err}"
            return
        assert name in COMMANDS, f"{where}: csb has no command {name}"
        if name == "train" and "resume=true" not in arguments:  # a page may show a training that is there already
            self.fresh += 1
            arguments = [*arguments, f"out=fresh/{self.fresh}"]
        if name == "benchmark":  # the runs are not there: tests/run/test_suite.py has some
            config = cli.composed(name, arguments)
            SUITES[config["suite"]["name"]][0](config)
        else:
            checked(name, *arguments)


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
    """A data folder of made-up digits, which count as MNIST's, and of a made-up map as the Blue Marble."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    sizes = (5_100, 20, 100)
    splits = tuple((rng.integers(0, 256, (n, 784)).astype(np.float32) / 256, rng.integers(0, 10, n)) for n in sizes)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    mnist.write_idx(raw, splits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "MD5", {name: hashlib.md5((raw / name).read_bytes()).hexdigest() for name in mnist.MD5})
        patch.setattr(mnist, "SOURCES", ())
        picture = photographs.files_of(folder).folder / "bmng.jpg"
        picture.parent.mkdir()
        picture.write_bytes(made_up_map())
        patch.setattr(photographs, "MD5", {picture.name: hashlib.md5(picture.read_bytes()).hexdigest()})
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
        kind = {"pairs": VECTORS}.get(experiment, IMAGES if experiment.startswith(("mnist", "photo")) else SIMULATED)
        given = [f"data.path={home}/pairs.npz"] if experiment == "pairs" else []
        if kind is IMAGES:
            given.append(f"problem.root={_digits}")
            given += ["problem.side=32"] if experiment.startswith("photo") else []
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
    yield Page(str(request.param.relative_to(ROOT)), tmp_path, provide, command)
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
    assert fences == 2 * page.counted


def test_pages_import_csb_alone():
    """What a page needs is public: ``import csb``, and its own names."""
    for path in PAGES:
        for block in (block for block in blocks(path.read_text()) if block.language == "python"):
            where = f"{path.relative_to(ROOT)}:{block.line}"
            assert not re.search(r"^\s*(from csb\b|import csb\.)", block.code, re.MULTILINE), where
            assert set(re.findall(r"\bcsb\.(\w+)", block.code)) <= set(csb.__all__), where


def test_the_gallery_shows_every_problem():
    shown = (ROOT / "docs/pages/gallery.md").read_text()
    known = {"mixture", *PROBLEMS} - {"pairs"}  # of the user
    absent = {name for name in known if not re.search(rf"(experiment|problem)={name}\b", shown)}
    photographs = {"photo_colour", "photo_deblur", "photo_inpaint"}
    assert absent <= {"logistic", "modes", "normal_wishart", "pushed", "random_field", *photographs}


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
