"""The commands of the command line, in one table. Nothing heavy is imported here, so that help is quick."""

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from csb.errors import CSBError, in_one_line

_PACKAGE = Path(__file__).resolve().parents[1]


def find_conf(package: Path = _PACKAGE) -> Path:
    """The folder that holds train.yaml and its groups.

    A checkout has it beside the package, a wheel inside. Inside comes first: no checkout has one there, while
    site-packages may hold a ``conf`` of someone else's.
    """
    inside = package / "conf"
    return inside if (inside / "train.yaml").is_file() else package.parent / "conf"


CONF = find_conf()


@dataclass(frozen=True)
class Command:
    """One command: ``csb NAME key=value …``.

    Attributes:
        name: on the command line, and of its configuration conf/NAME.yaml.
        summary: what it does, in one line.
        prepare: "module:function", which checks plain settings, opens what they name and returns what does the work;
            CSBError for what is wrong, before anything is written.
        settings: "module:Schema" of what stands at the top level of its configuration; "" without one.
        examples: arguments that work, the first the commonest, each with what it does.
        hint: what to do after Ctrl+C.
        no_sweep: what to do in place of -m (several jobs); None where -m is possible.
    """

    name: str
    summary: str
    prepare: str
    settings: str
    examples: tuple[tuple[str, str], ...]
    hint: str = "nothing was changed"
    no_sweep: str | None = "run it once for each value"


_ALL = (
    Command(
        "train",
        "train a bridge, or a model to compare it with",
        "csb.cli.train:prepare",
        "csb.runs.recipe:TrainSettings",
        (
            ("experiment=mnist_inpaint", "digits with a hole, 20 minutes on two CPU cores"),
            ("experiment=pairs data.path=pairs.npz", "your own vectors (x, y)"),
            ("experiment=two_moons T=20 training.steps=500 name=long", "other values, into outputs/long"),
            ("experiment=mnist_inpaint resume=true", "go on after a kill"),
            ("-m experiment=two_moons L=1,3 T=5,10", "a sweep of four jobs; ends with one table"),
        ),
        "resume=true (and no overwrite=true) continues from the last checkpoint",
        no_sweep=None,
    ),
    Command(
        "evaluate",
        "score a run, and compare it with other samplers in report.html",
        "csb.cli.evaluate:prepare",
        "csb.cli.evaluate:EvaluateSettings",
        (
            ("run=outputs/mnist_inpaint", "scores, and a report beside guided samplers"),
            ("run=outputs/two_moons baselines=none", "only the bridge"),
            ("run=outputs/mnist_inpaint 'others=[outputs/long]' tables=false", "beside another run"),
        ),
    ),
    Command(
        "compare",
        "compare all methods on one problem at equal network calls and at equal seconds",
        "csb.cli.evaluate:prepare_comparison",
        "csb.runs.budgets:CompareSettings",
        (
            ("problem=mixture", "guided samplers with the exact denoiser, against the exact posterior"),
            ("problem=mnist_inpaint run=outputs/mnist_inpaint", "with the bridge, denoiser, score and flow of a run"),
            ("problem=mnist_superres prior=outputs/mnist_inpaint calls=[20] seconds=[]", "one budget, no bridge"),
            ("'methods=[tds,dps,exact]' calls=[10,50] observations=5", "some methods"),
        ),
        "the same command goes on where it was stopped",
    ),
    Command(
        "sample",
        "draw posterior samples from a trained bridge into a file",
        "csb.cli.sample:prepare",
        "csb.cli.sample:SampleSettings",
        (
            ("run=outputs/pairs y=obs.npz n=1000 out=samples.npz", "for your own observations"),
            ("run=outputs/two_moons observations=10", "for the problem's first ten test observations"),
            ("run=outputs/mnist_inpaint calls=1", "with the student of stage=distil"),
            ("run=outputs/two_moons/bridge.safetensors y=obs.npy sampler.mean_only=true", "a file; no later noise"),
        ),
    ),
    Command(
        "inspect",
        "say what a trained bridge is; writes nothing",
        "csb.cli.share:prepare_inspect",
        "csb.cli.share:InspectSettings",
        (
            ("run=outputs/mnist_inpaint", "tables"),
            ("run=outputs/two_moons/half_steps/01_backward.safetensors", "one half-step's file"),
            ("run=outputs/two_moons json=true", "JSON, for programs"),
        ),
    ),
    Command(
        "reproduce",
        "train a run again from what is stored beside it, and compare weights and figures",
        "csb.cli.reproduce:prepare",
        "csb.cli.reproduce:ReproduceSettings",
        (
            ("run=outputs/two_moons", "into outputs/two_moons_reproduced; every bit must be the same"),
            ("run=outputs/two_moons tolerance=0.05 out=again", "on another machine: figures within 5 %"),
            ("run=outputs/mnist_inpaint data=/data/mnist resume=true", "data elsewhere; go on after a kill"),
            ("run=outputs/two_moons stage=score", "another stage"),
        ),
        "resume=true continues from the last checkpoint",
    ),
    Command(
        "export",
        "write a trained bridge into a folder to share, without its training state",
        "csb.cli.share:prepare_export",
        "csb.cli.share:ExportSettings",
        (
            ("run=outputs/two_moons out=two_moons", "a new folder"),
            ("run=outputs/two_moons out=two_moons overwrite=true licence=mit", "in place of an earlier export"),
        ),
        hint="run it again with overwrite=true",
    ),
    Command(
        "demo",
        "serve a page on this machine to try a bridge: of digits behind a hole, or of vectors with sliders for y",
        "csb.cli.scripts:demo",
        "csb.cli.scripts:DemoSettings",
        (
            ("run=outputs/mnist_inpaint_anywhere", "at http://127.0.0.1:7860, until Ctrl+C"),
            ("run=outputs/two_moons port=0", "sliders for y and a corner plot; at a port that is free"),
        ),
    ),
    Command(
        "benchmark",
        "measure overheads of a run, or score the runs of sweeps",
        "csb.cli.scripts:benchmark",
        "",
        (
            ("run=outputs/mnist_inpaint", "what sampling costs beyond its network calls"),
            ("suite=sbi 'suite.runs=[outputs/sweeps/two_moons]'", "bridges, score and flow against exact posteriors"),
            ("suite=mixture", "guided samplers with the exact denoiser"),
            ("suite=filtering", "bridges, ensemble and particle filters on chaotic systems"),
            ("suite=memory", "the memory that a training on a million pairs takes"),
            ("suite=speed", "training, cache and sampling against bare network calls, memory, and growth"),
            ("suite=target target=two_moons", "training time until C2ST is .55; target=mnist_inpaint: until 19.5 dB"),
        ),
        "the same command goes on where a suite was stopped",
        no_sweep="give one suite at a time",
    ),
)


def named(place: str) -> Any:
    """What "module:name" stands for; the module is imported."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def schema_of(command: Command) -> Any:
    """The schema of a command's keys, a subclass of :class:`csb.schema.Schema`; None without one."""
    return named(command.settings) if command.settings else None


COMMANDS: dict[str, Command] = {command.name: command for command in _ALL}


class Imports(NamedTuple):
    """Modules that a user names on the command line, whose classes register themselves, and the folder it ran in."""

    folder: str
    modules: list[str]

    def load(self) -> None:
        """Import the modules, in this process. CSBError for one that cannot be imported."""
        if self.modules and self.folder not in sys.path:
            sys.path.append(self.folder)
        for module in self.modules:
            try:
                import_module(module)
            except Exception as error:  # whatever the user's code raises
                raise CSBError(
                    f"import={module} cannot be imported ({type(error).__name__}: {in_one_line(error)}); give a module "
                    f"of this folder, or one that is installed"
                ) from error
