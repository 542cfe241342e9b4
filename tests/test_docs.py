"""Every code block of README.md and of the documentation, run or checked.

Blocks of a page are taken in order, Python in one namespace, in a folder of the page's own. Trained runs that they load
are there: tiny trainings of the same problems. MNIST is made-up digits. A command is checked as the command line checks
it, with its own overrides; those of SMALL are run, with overrides that make them small. A page says ``<!-- not run:
reason -->`` or ``<!-- requires: extra -->`` on the line above a block; nothing else is left out, which is counted.
"""

import hashlib
import re

import numpy as np
import pytest
import torch

import csb
from csb.cli.compose import composed
from csb.networks import NETWORKS
from csb.problems import PROBLEMS, TRANSFORMS, mnist
from csb.runs.config import read
from csb.runs.stages import stage_job
from csb.runs.train import train
from tests.docs_blocks import ROOT, Page, blocks, link

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
        return read(composed("train", [*own, *kind, *given, *more]))

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


@pytest.fixture
def page(request, trained, _digits, tmp_path, command):
    """The page of the parameter, in a folder of its own. Registries are left as they were."""
    (tmp_path / "data").symlink_to(_digits)

    def provide(text, folder):
        for name in dict.fromkeys(re.findall(r"outputs/(\w+)", text)):
            here = folder / "outputs" / name
            files = (("score.safetensors", "flow.safetensors", "{kind}.safetensors"), ("consistency.safetensors",))
            more = [any(one in text for one in kinds) for kinds in files]
            if here.exists() and not any(more):
                continue
            if (source := trained(name, *more)) is not None:
                link(source, here)
                for asked, names in zip(
                    more, (("score.safetensors", "flow.safetensors"), ("consistency.safetensors",))
                ):
                    for other in () if asked else names:  # which another page has asked for
                        (here / other).unlink(missing_ok=True)

    registries = [(registry, dict(registry)) for registry in (PROBLEMS, TRANSFORMS, NETWORKS)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Page(str(request.param.relative_to(ROOT)), tmp_path, provide, command, SMALL)
    torch.set_num_threads(threads)
    for registry, before in registries:
        registry.clear()
        registry.update(before)


def run_all(page, text):
    for block in blocks(text):
        page.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)), indirect=True)
def test_every_block(page):
    text = (ROOT / page.name).read_text()
    run_all(page, text)
    fences = len([line for line in text.splitlines() if line.strip().startswith("```")])
    assert fences == 2 * sum(page.counts.values())


def test_pages_import_csb_alone():
    """What a page needs is public: ``import csb``, and its own names."""
    for path in PAGES:
        for block in (block for block in blocks(path.read_text()) if block.language == "python"):
            where = f"{path.relative_to(ROOT)}:{block.line}"
            assert not re.search(r"^\s*(from csb\b|import csb\.)", block.code, re.MULTILINE), where
            assert set(re.findall(r"\bcsb\.(\w+)", block.code)) <= set(csb.__all__), where


class TestBlocks:
    def test_what_is_found(self):
        text = "a\n<!-- not run: no such thing -->\n```bash\nx\n```\n\n  ```python\n  y = 1\n    z\n  ```\n"
        one, two = blocks(text)
        assert (one.language, one.code, one.line, one.comments) == ("bash", "x", 3, {"not run": "no such thing"})
        assert (two.language, two.code, two.comments) == ("python", "y = 1\n  z", {})

    @pytest.mark.parametrize("page", [ROOT / "README.md"], ids=["page"], indirect=True)
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("```bash\nrm x\n```", "rm is not known here"),
            ("```bash\npython nowhere.py\n```", "no such script"),
            ("```bash\npython train.py T=0\n```", "T=0 is not possible"),
            ("```bash\npython train.py experiment=nope\n```", "nope"),
            ("```bash\npip install '.[nope]'\n```", "no such extra"),
            ("```bash\npython -m pytest -m nope\n```", "the markers are"),
            ("```bash\npython scripts/sample.py run=outputs/nowhere\n```", "outputs/nowhere"),
            ("```python\nassert False, 'seen'\n```", "seen"),
            ("```yaml\n{\n```", "expected"),
            ("```c\nx\n```", "give one of python, bash, yaml"),
            ("<!-- not run -->\n```bash\nx\n```", "say why"),
            ("```bash\nx\n", "does not end"),
        ],
    )
    def test_a_wrong_block_is_told(self, page, text, message):
        with pytest.raises(Exception, match=re.escape(message)):
            run_all(page, text)
