"""The command line: everything that can be checked is checked before Hydra makes a folder; errors are one line."""

import functools
import importlib
import itertools
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from csb.errors import CSBError, Terminated
from csb.run.commands import COMMANDS, Command
from csb.run.conf import CONF
from csb.run.ends import explain, fail, flush_output, terminable
from csb.run.heap import keep_freed_memory
from csb.run.launch import Launch, check_launch, explain_missing, parallel, prepared, require_single
from csb.run.processes import has_parent
from csb.run.sweep import report
from csb.training.ranks import PEER_FAILED, peer_failed, reports_first

INFORMATION = ("-h", "--help", "--hydra-help", "--version", "--info", "-c", "--cfg", "-p", "--package")
FLAGS = ("-m", "--multirun", *INFORMATION)
Read = TypeVar("Read")
logger = logging.getLogger(__name__)


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


def quoted(text: str) -> str:
    """A value for Hydra's command line: in quotes; backslashes count double before a quote and nowhere else."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


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
    try:
        return compose(name, overrides, return_hydra_config=True)
    except ValueError as error:  # e.g. for problem=null
        raise CSBError(f"{one_line(error)}; see {' '.join(overrides)}") from error


def _check_sweep(name: str, overrides: list[str], validate: Callable[[DictConfig, bool], Any]) -> tuple[Launch, list]:
    """Every job's config, and how they are launched; with what ``validate`` returned for each."""
    later, folders, launcher, hydra = [], {}, "", None
    for job in jobs(overrides):
        config = _compose(name, job)
        launcher = check_launch(config)
        folders[Path(str(config.hydra.sweep.dir))] = None
        hydra = config
        later.append(validate(_without_hydra(config), True))
    assert hydra is not None
    return Launch(launcher, len(later), parallel(hydra, launcher, len(later)), tuple(folders)), later


def _without_hydra(config: DictConfig) -> DictConfig:
    config = config.copy()
    with open_dict(config):
        del config["hydra"]
    return config


def checked(name: str, arguments: Sequence[str], read: Callable[[DictConfig], Read]) -> Read:
    """What ``read`` makes of the config of one job with these arguments, from Python. CSBError as of :func:`check`."""
    found: list[Read] = []
    check(name, list(arguments), lambda config, sweep: found.append(read(config)))
    return found[0]


def check(name: str, arguments: list[str], validate: Callable[[DictConfig, bool], Any]) -> Launch | None:
    """Composes and validates the config of every job; then calls what ``validate`` returned, where it is a function.

    Returns how a sweep is launched, None of a single job. Raises CSBError for the first job that is wrong.
    """
    overrides, sweep = _split(arguments)
    if sweep and (remedy := COMMANDS[name].no_sweep):
        raise CSBError(f"csb {name} cannot be swept over; leave out -m, and {remedy}")
    with _composing():
        if sweep:
            launch, later = _check_sweep(name, overrides, validate)
        else:
            config = _compose(name, overrides)
            require_single(config)
            launch, later = None, [validate(_without_hydra(config), False)]
    for action in later:  # no folder is made before every job's config is known to be right
        if callable(action):
            action()
    return launch


def _sweep(main: Callable[[], Any], launch: Launch) -> None:
    """Runs the jobs, then reports on them, also after Ctrl+C or the end of a launcher."""
    with prepared(launch):
        try:
            main()
        finally:
            for folder in launch.folders:
                report(folder)


def run(name: str, arguments: list[str]) -> None:
    """Checks the arguments of a command, then runs it.

    An error ends it with one line and exit code 2, SIGTERM with 143, SIGHUP with 129.
    The command's ``validate(config, sweep)`` is called for the config of each job before any of them starts.
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


def _run(name: str, command: Command, arguments: list[str]) -> None:
    module = importlib.import_module(command.module)
    informs = any(a in INFORMATION for a in arguments)
    with _command_line([f"csb {name}", *arguments]):
        if not informs and not _split(arguments)[1]:
            reported(_single(name, arguments, module))()
            return
        launch = None if informs else check(name, arguments, lambda *given: module.validate(*given))
        main = hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")(reported(module.main))
        main() if launch is None else _sweep(main, launch)


def _single(name: str, arguments: list[str], module: Any) -> Callable[[], Any]:
    """The one job of these arguments, ready to run: its config is composed, and what it needs opened, once."""
    with _composing():
        config = _compose(name, _split(arguments)[0])
        require_single(config)
        HydraConfig.instance().set_config(config)
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        plain = _without_hydra(config)
        if hasattr(module, "prepare"):
            return module.prepare(plain)
        later = module.validate(plain, False)
    if callable(later):
        later()
    return functools.partial(module.main, plain)


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Hydra reads the arguments off ``sys.argv``, and nowhere else."""
    before = sys.argv
    sys.argv = arguments
    try:
        yield
    finally:
        sys.argv = before
