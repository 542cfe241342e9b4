"""The command line: everything that can be checked is checked before Hydra makes a folder; errors are one line."""

import functools
import importlib
import itertools
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from csb.cli.commands import COMMANDS, Command, schema_of
from csb.cli.conf import CONF
from csb.cli.ends import explain, fail, flush_output, terminable
from csb.cli.heap import keep_freed_memory
from csb.cli.launch import Launch, check_launch, explain_missing, parallel, prepared, require_single
from csb.cli.processes import has_parent
from csb.cli.typed import as_typed, note_renamed
from csb.errors import CSBError, Terminated
from csb.networks import NETWORKS
from csb.problems import PROBLEMS
from csb.runs.presets import IMAGE_VALUES, IMAGES, PRESETS, preset
from csb.runs.recipe import flatten
from csb.runs.register import import_own, is_own
from csb.schema import Given, arguments_of, defaults, nearest
from csb.training.ranks import PEER_FAILED, peer_failed, reports_first

INFORMATION = ("-h", "--help", "--hydra-help", "--version", "--info", "-c", "--cfg", "-p", "--package")
FLAGS = ("-m", "--multirun", *INFORMATION)
logger = logging.getLogger(__name__)


def _offer_presets() -> None:
    """Makes the presets choices of their groups for Hydra, beside the files of conf/."""
    store = ConfigStore.instance()
    for group, name in ((group, name) for group, presets in PRESETS.items() for name in presets):
        store.store(name, preset(group, name), group)
    overrides = [{f"override /{group}": name} for group, name in IMAGES.items()]
    store.store("images", {"defaults": overrides, **IMAGE_VALUES}, "recipe", "_global_")


_offer_presets()


def offer_keys(command: Command) -> None:
    """Makes the keys at the top level of a command's config, with their defaults, known to Hydra."""
    if (kind := schema_of(command)) is not None:
        found = defaults(kind)
        found |= {field.alias or key: "???" for key, field in kind.model_fields.items() if field.is_required()}
        own = {key: value for key, value in found.items() if key not in PRESETS or value is None}
        ConfigStore.instance().store(command.name, own, "keys", "_global_")


def one_line(error: BaseException) -> str:
    """The message of an error from Hydra or OmegaConf in one line, with its choices."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = itertools.takewhile(lambda line: not line.startswith("Config search path"), lines)
    return " ".join(line for line in shown if not line.startswith(("full_key:", "object_type=", "reference_type=")))


def reported(main: Callable[..., Any]) -> Callable[..., Any]:
    """A job whose error ends the program with one line; without it Hydra would print a traceback."""

    @functools.wraps(main)
    def wrapped(*config: DictConfig) -> Any:
        try:
            result = main(*config)
            flush_output()
        except Exception as error:
            if peer_failed(error):
                return fail(None if has_parent() else PEER_FAILED)
            if (line := explain(error)) is None:
                reports_first()  # by a traceback; the other processes keep quiet
                raise
            return fail(line)
        return result

    return wrapped


def _split(arguments: list[str]) -> tuple[list[str], bool]:
    """The overrides among the arguments, and whether a sweep was asked for."""
    flags = [a for a in arguments if a.startswith("-")]
    for flag in flags:
        if flag not in FLAGS:
            raise CSBError(f"the flag {flag} is not supported; choose among {', '.join(FLAGS)}, or give key=value")
    return [a for a in arguments if not a.startswith("-")], any(f in ("-m", "--multirun") for f in flags)


def jobs(overrides: list[str]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper combines them."""
    choices = []
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.get_key_element()
        if override.is_sweep_override() and not (override.is_choice_sweep() or override.is_range_sweep()):
            raise CSBError(f"{override.input_line} is not a supported kind of sweep; list the values, {key}=a,b")
        if override.is_sweep_override():
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([key if override.is_delete() else f"{key}={override.get_value_element_as_str()}"])
    yield from (list(job) for job in itertools.product(*choices))


@contextmanager
def _composing() -> Iterator[None]:
    """Inside, configs are composed of those of conf/. CSBError for what Hydra and OmegaConf refuse."""
    if not CONF.is_dir():
        raise CSBError(f"{CONF} does not exist; install csb again, from a whole checkout or wheel")
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise CSBError(explain_missing(one_line(error))) from error
    finally:
        GlobalHydra.instance().clear()


def _compose(name: str, overrides: list[str]) -> DictConfig:
    """The config, with Hydra's part."""
    offer_keys(COMMANDS[name])
    try:
        return compose(name, overrides, return_hydra_config=True)
    except HydraException as error:
        if (found := re.search(r"Could not override '([^']+)'", str(error))) is None:
            raise
        rest = [one for one in overrides if one.lstrip("+~").partition("=")[0] != found[1]]
        raise CSBError(_unknown(found[1], compose(name, rest))) from error
    except ValueError as error:  # e.g. for problem=null
        for key, _, value in (one.partition("=") for one in overrides):
            if key in PRESETS and not value.startswith("{"):
                raise CSBError(f"{key}={value} is not possible; give a name or a table") from error
        raise CSBError(f"{one_line(error)}; see {' '.join(overrides)}") from error


def _unknown(key: str, config: DictConfig) -> str:
    """What is said of a key that a config does not have: the keys beside it, and the one that is meant, perhaps."""
    group, _, last = key.rpartition(".")
    while group and not isinstance(OmegaConf.select(config, group), DictConfig):
        group, _, last = group.rpartition(".")
    beside = OmegaConf.select(config, group) if group else config
    names = [str(name) for name in beside]
    where = f"{group} has" if group else "there is"
    return f"{where} no setting {last!r}; choose among {', '.join(names)}{nearest(last, names)}"


def _check_sweep(name: str, overrides: list[str], validate: Callable[[Given], Any]) -> tuple[Launch, list]:
    """How the jobs are launched, and what ``validate`` returned of each."""
    later, folders, launcher, hydra = [], {}, "", None
    for job in jobs(overrides):
        config = _compose(name, job)
        launcher = check_launch(config)
        folders[Path(str(config.hydra.sweep.dir))] = None
        hydra = config
        later.append(validate(_given(config)))
    assert hydra is not None
    return Launch(launcher, len(later), parallel(hydra, launcher, len(later)), tuple(folders)), later


def _given(config: DictConfig) -> Given:
    """A config without Hydra's part, as plain data. CSBError where a value is missing that has no default."""
    config = config.copy()
    with open_dict(config):
        del config["hydra"]
    for key, value in flatten(OmegaConf.to_container(config, resolve=False)).items():
        if value == "???":
            raise CSBError(f"{key} is missing; give {key}=…")
    if "problem" in config and not isinstance(problem := config.problem, DictConfig):
        raise CSBError(f"problem={problem!r} is not a group of settings; choose a file of conf/problem")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def composed(name: str, arguments: Sequence[str]) -> Given:
    """What the one job of these arguments of a command is given. CSBError where they do not compose."""
    with _composing():
        config = _compose(name, _split(as_typed(list(arguments), COMMANDS[name]))[0])
        require_single(config)
        return _given(config)


def check_sweep(name: str, arguments: list[str], validate: Callable[[Given], Any]) -> Launch:
    """Composes and validates the config of every job of a sweep; then calls what ``validate`` returned.

    Returns how the sweep is launched. Raises CSBError for the first job that is wrong.
    """
    if remedy := COMMANDS[name].no_sweep:
        raise CSBError(f"csb {name} cannot be swept over; leave out -m, and {remedy}")
    with _composing():
        launch, later = _check_sweep(name, _split(arguments)[0], validate)
    for action in later:  # no folder is made before every job's config is known to be right
        action()
    return launch


def _sweep(main: Callable[[], Any], launch: Launch) -> None:
    """Runs the jobs, then reports on them, also after Ctrl+C or the end of a launcher."""
    from csb.cli.sweep import report

    with prepared(launch):
        try:
            main()
        finally:
            for folder in launch.folders:
                report(folder)


def run(name: str, arguments: list[str]) -> None:
    """Checks the arguments of a command, then runs it.

    An error ends it with one line and exit code 2, SIGTERM with 143, SIGHUP with 129.
    What the command takes is checked, of each job of a sweep, before anything starts.
    """
    keep_freed_memory()
    command, shown = COMMANDS[name], logging.raiseExceptions
    logging.raiseExceptions = False  # a log line that cannot be written, e.g. to a closed pipe, ends nothing
    try:
        with terminable():
            _run(name, command, arguments)
    except KeyboardInterrupt:
        fail(f"interrupted; {command.hint}")
    except Terminated as end:
        fail(f"terminated by {signal.Signals(end.number).name}; {command.hint}", 128 + end.number)  # as shells have it
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        fail(line)
    finally:
        logging.raiseExceptions = shown


def _offer_own() -> None:
    """Makes the user's own problems and networks choices of their groups."""
    store = ConfigStore.instance()
    for name, problem in PROBLEMS.items():
        if is_own(problem):
            store.store(name, {"name": name, **defaults(problem)}, "problem")
    for name, network in NETWORKS.items():
        if is_own(network):
            options = defaults(arguments_of(network.__init__, keyword_only=True))
            store.store(name, {**preset("network", "mlp"), "name": name, "options": options}, "network")


def _imported(arguments: list[str]) -> list[str]:
    """The arguments after those of import=, whose modules are imported: classes of the user's own."""
    for module in (one.removeprefix("import=") for one in arguments if one.startswith("import=")):
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)
        import_own(module)
    _offer_own()
    return [one for one in arguments if not one.startswith("import=")]


def _run(name: str, command: Command, arguments: list[str]) -> None:
    informs = any(a in INFORMATION for a in arguments)
    typed = as_typed(arguments := _imported(arguments), command)
    note_renamed(arguments)
    alone = not informs and not _split(typed)[1]
    with _command_line([f"csb {name}", *(arguments if alone else typed)]):  # results tell what was typed
        if alone:
            reported(_single(name, typed, importlib.import_module(command.module).prepare))()
            return
        offer_keys(command)
        from csb.cli import swept, train  # here, so that a single job does not wait for what it needs not

        launch = None if informs else check_sweep(name, typed, train.validate)
        main = hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")(reported(swept.main))
        main() if launch is None else _sweep(main, launch)


def _single(name: str, arguments: list[str], prepare: Callable[[Given], Callable[[], Any]]) -> Callable[[], Any]:
    """The one job of these arguments, ready to run: its config is composed, and what it needs opened, once."""
    with _composing():
        config = _compose(name, _split(arguments)[0])
        require_single(config)
        HydraConfig.instance().set_config(config)
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        given = _given(config)
    return prepare(given)  # which may compose trainings of its own


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Hydra reads the arguments off ``sys.argv``, and nowhere else."""
    before = sys.argv
    sys.argv = arguments
    try:
        yield
    finally:
        sys.argv = before
