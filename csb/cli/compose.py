"""The command line: everything that can be checked is checked before Hydra makes a folder; errors are one line."""

import contextlib
import ctypes
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from csb.cli.commands import COMMANDS, CONF, Command, Imports, named, schema_of
from csb.cli.ends import ending
from csb.cli.launch import BASIC, Launch, check_launch, explain_missing, parallel, prepared
from csb.errors import CSBError
from csb.networks import NETWORKS
from csb.networks.encoders import is_own
from csb.problems import PROBLEMS
from csb.renamed import key_of_today
from csb.runs.presets import IMAGE_VALUES, IMAGES, PRESETS, SCHEMAS, preset
from csb.schema import Given, Node, Schema, arguments_of, defaults, json_of, unknown_setting

INFORMATION = ("-h", "--help", "--hydra-help", "--version", "--info", "-c", "--cfg", "-p", "--package")
SWEEP = ("-m", "--multirun")
FLAGS = (*SWEEP, *INFORMATION)


def _offer_presets() -> None:
    """Make the presets choices of their groups for Hydra, beside the files of conf/."""
    store = ConfigStore.instance()
    for group, name in ((group, name) for group, presets in PRESETS.items() for name in presets):
        store.store(name, preset(group, name), group)
    overrides = [{f"override /{group}": name} for group, name in IMAGES.items()]
    store.store("images", {"defaults": overrides, **IMAGE_VALUES}, "recipe", "_global_")


def _offer_classes() -> None:
    """Make the problems that have no file in conf/, and the user's own networks, choices of their groups."""
    store = ConfigStore.instance()
    for name, problem in PROBLEMS.items():
        if not (CONF / "problem" / f"{name}.yaml").exists():
            store.store(name, {"name": name, **defaults(problem)}, "problem")
    for name, network in NETWORKS.items():
        if is_own(network):
            options = defaults(arguments_of(network.__init__, keyword_only=True))
            store.store(name, {**preset("network", "mlp"), "name": name, "options": options}, "network")


_offer_presets()
_offer_classes()


def _offer_keys(command: Command) -> None:
    """Make the keys at the top level of a command's config, with their defaults, known to Hydra."""
    if (kind := schema_of(command)) is not None:
        found = defaults(kind)
        found |= {field.alias or key: "???" for key, field in kind.model_fields.items() if field.is_required()}
        own = {key: value for key, value in found.items() if key not in PRESETS or value is None}
        ConfigStore.instance().store(command.name, own, "keys", "_global_")


def _imported(arguments: list[str]) -> tuple[list[str], Imports]:
    """The arguments but for import=, and the modules that these name, which are imported: the user's own classes."""
    own = Imports(os.getcwd(), [one.removeprefix("import=") for one in arguments if one.startswith("import=")])
    if own.modules:
        own.load()
        _offer_classes()
    return [one for one in arguments if not one.startswith("import=")], own


def _one_line(error: BaseException) -> str:
    """The message of an error from Hydra or OmegaConf in one line, with its choices."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = itertools.takewhile(lambda line: not line.startswith("Config search path"), lines)
    return " ".join(line for line in shown if not line.startswith(("full_key:", "object_type=", "reference_type=")))


@contextlib.contextmanager
def _composing() -> Iterator[None]:
    """Inside, configs are composed of those of conf/. CSBError for what Hydra and OmegaConf refuse."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    except OverrideParseException as error:
        raise CSBError(
            f"{error.override} does not parse; close each bracket, and put what holds = # , or : in quotes inside "
            f"those of the shell: \"key=['a=b','c=d']\""
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise CSBError(explain_missing(_one_line(error))) from error
    finally:
        GlobalHydra.instance().clear()


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments without the flags. CSBError for a flag that there is not."""
    for flag in (a for a in arguments if a.startswith("-")):
        if flag not in FLAGS:
            raise CSBError(f"the flag {flag} is not supported; choose among {', '.join(FLAGS)}, or give key=value")
    return [a for a in arguments if not a.startswith("-")]


def _compose(name: str, overrides: list[str]) -> DictConfig:
    """The config, with Hydra's part."""
    _offer_keys(COMMANDS[name])
    try:
        return compose(name, overrides, return_hydra_config=True)
    except HydraException as error:
        if (found := re.search(r"Could not override '([^']+)'", str(error))) is None:
            raise
        rest = [one for one in overrides if one.lstrip("+~").partition("=")[0] != found[1]]
        raise CSBError(_unknown(found[1], compose(name, rest))) from error
    except ValueError as error:  # for a group that is no name, e.g. problem=null
        groups = {"problem", "suite", *PRESETS}
        bad = [one for one in overrides if one.partition("=")[0] in groups and not one.partition("=")[2].isidentifier()]
        bad = bad or [one for one in overrides if one.endswith("=null")]
        why = " ".join(bad) + " is not possible" if bad else f"{' '.join(overrides)}: {_one_line(error)}"
        raise CSBError(f"{why}; give a name or a table") from error


def _unknown(key: str, config: DictConfig) -> str:
    """What is said of a key that a config does not have: the keys beside it, and the one that is meant, perhaps."""
    group, _, last = key.rpartition(".")
    while group and not isinstance(OmegaConf.select(config, group), DictConfig):
        group, _, last = group.rpartition(".")
    return unknown_setting(group, last, [str(name) for name in (OmegaConf.select(config, group) if group else config)])


def _given(config: DictConfig) -> Given:
    """A config without Hydra's part, as plain data. CSBError where a value is missing that has no default."""
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])  # type: ignore[misc]
    if absent := OmegaConf.missing_keys(own):
        raise CSBError(f"{min(absent)} is missing; give {min(absent)}=…")
    plain: Any = OmegaConf.to_container(own, resolve=True)
    return plain


def _composed(name: str, arguments: Sequence[str]) -> DictConfig:
    config = _compose(name, _overrides(as_typed(list(arguments), COMMANDS[name])))
    if config.hydra.mode == RunMode.MULTIRUN or not str(config.hydra.launcher._target_).endswith(BASIC):
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        raise CSBError(f"hydra.mode and the launcher {launcher} start sweeps alone; add -m, or leave them out")
    return config


def composed(name: str, arguments: Sequence[str]) -> Given:
    """What the one job of these arguments of a command is given. CSBError where they do not compose."""
    with _composing():
        return _given(_composed(name, arguments))


def check_sweep(name: str, arguments: list[str], validate: Callable[[Given], Any]) -> Launch:
    """Compose and validate the config of every job of a sweep; then call what ``validate`` returned of each.

    Returns how the sweep is launched. Raises CSBError for a job that is wrong.
    """
    if remedy := COMMANDS[name].no_sweep:
        raise CSBError(f"csb {name} cannot be swept over; leave out -m, and {remedy}")
    with _composing():
        parsed = OverridesParser.create().parse_overrides(_overrides(arguments))
        for one in parsed:
            if one.is_sweep_override() and not one.is_discrete_sweep():
                raise CSBError(f"{one.input_line} is not a supported kind of sweep; list the values, key=a,b")
        (jobs,) = BasicSweeper.split_arguments(parsed, None)
        configs = [_compose(name, job) for job in jobs]
        later = [validate(_given(config)) for config in configs]
        launcher = [check_launch(config) for config in configs][-1]
        folders = tuple(dict.fromkeys(Path(str(config.hydra.sweep.dir)) for config in configs))
        launch = Launch(launcher, len(jobs), parallel(configs[-1], launcher, len(jobs)), folders)
    for action in later:  # no folder is made before every job's config is known to be right
        action()
    return launch


def run(name: str, arguments: list[str]) -> None:
    """Check the arguments of a command, then run it.

    What the command takes is checked, of each job of a sweep, before anything starts.
    """
    _keep_freed_memory()
    command = COMMANDS[name]
    with ending(command.hint):
        typed, (arguments, own) = arguments, _imported(arguments)
        note_renamed(arguments)
        if any(a in FLAGS for a in arguments):
            _run_hydra(name, as_typed(arguments, command), own)
            return
        prepare = named(command.prepare)
        with _composing():
            config = _composed(name, arguments)
            configure_log(config.hydra.job_logging, config.hydra.verbose)
            given = _given(config)
        with _command_line([f"csb {name}", *typed]):  # results, and other processes, are told what was typed
            prepare(given)()  # which may compose trainings of its own


def _run_hydra(name: str, arguments: list[str], own: Imports) -> None:
    """What Hydra itself does: it shows a config, or runs the jobs of a sweep, then reported, however they end."""
    from csb.cli import sweep, train  # here, so that a single job does not wait for what it needs not

    _offer_keys(COMMANDS[name])
    informs = any(a in INFORMATION for a in arguments)
    launch = None if informs else check_sweep(name, arguments, train.validate)
    main = hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")(sweep.with_modules(own))
    with _command_line([f"csb {name}", *arguments]), contextlib.ExitStack() as stack:
        if launch is not None:
            stack.enter_context(prepared(launch))
            for folder in launch.folders:
                stack.callback(sweep.report, folder)
        try:
            main()
        except (HydraException, OmegaConfBaseException) as error:
            raise CSBError(explain_missing(_one_line(error))) from error


@contextlib.contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Inside, Hydra finds these arguments, which it reads off ``sys.argv``, and raises errors instead of printing."""
    before, sys.argv = sys.argv, arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before


def _keep_freed_memory() -> None:
    """Let GNU's C library keep up to 256 MiB of freed memory for the next tensors.

    By itself it gives the top of its heap back to the system, page by page, and takes it again: samples of vectors took
    up to a quarter longer in some processes than in others. The numbers are those of mallopt(3).
    """
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than under GNU/Linux
        for option, value in ((-1, 256 << 20), (-3, 32 << 20), (-2, 16 << 20)):
            ctypes.CDLL(None).mallopt(option, value)


_OF_DATA = ("path", "x", "y", "root")  # places, in the groups data and problem, whose classes have the schema
_READ = "'\"[{"  # how quoted values, lists and tables begin


def texts(command: Command) -> set[str]:
    """The keys of a command whose values are texts or places: 1e5 is a name there, and a comma part of it."""
    found = {f"{group}.{key}" for group, kind in SCHEMAS.items() for key in _texts(kind)}
    found |= {f"{group}.{key}" for group in ("data", "problem") for key in _OF_DATA}
    return found | (set(_texts(kind)) if (kind := schema_of(command)) is not None else set())


def _texts(kind: type[Schema]) -> list[str]:
    return [key for key, node in json_of(kind)["properties"].items() if _is_text(node)]


def _is_text(node: Node) -> bool:
    options = [one for one in node.get("anyOf", [node]) if one.get("type") != "null"]
    return all(one.get("type") == "string" and "enum" not in one for one in options)


def quoted(text: str) -> str:
    """A value for Hydra's command line: in quotes; backslashes count double before a quote and nowhere else."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


def _of_today(argument: str) -> str:
    """The argument with the names that its key has now, as for the files of older runs; +problem. added a key once."""
    argument = re.sub(r"^\+(?=problem\.)", "++", argument)
    return re.sub(r"^([+~]*)([\w.]+)", lambda m: m[1] + key_of_today(m[2]), argument)


def note_renamed(arguments: list[str]) -> None:
    """Says once, on standard error, which names are older than the program, and what they are now."""
    keys = [re.sub(r"^[+~]*([\w.]*).*", r"\1", one, flags=re.DOTALL) for one in arguments]
    if renamed := {key: key_of_today(key) for key in keys if key_of_today(key) != key}:
        print("note: " + ", ".join(f"{old} is {now} now" for old, now in renamed.items()), file=sys.stderr)


def as_typed(arguments: list[str], command: Command) -> list[str]:
    """The arguments: keys by their names of now, texts in quotes; in a sweep (-m) a comma still separates values."""
    of, sweep = texts(command), any(a in ("-m", "--multirun") for a in arguments)

    def one(argument: str) -> str:
        key, equals, value = argument.partition("=")
        is_text = key.lstrip("+") in of and value not in ("", "null", "???") and value[0] not in _READ
        return f"{key}={quoted(value)}" if equals and is_text and not (sweep and "," in value) else argument

    return [argument if argument.startswith("-") else one(_of_today(argument)) for argument in arguments]
