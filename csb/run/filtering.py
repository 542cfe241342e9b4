"""Filters on chaotic systems: benchmark.py suite=filtering. A row a system, method and number of members."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from csb.errors import CSBError, is_one_of, require_int, require_place
from csb.evaluation.tables import markdown_table, print_table, write_json, write_text
from csb.filtering import FILTERS, MODELS, Filter, StateSpace, track, twin
from csb.filtering.cycle import BATCHES
from csb.run.machine import machine
from csb.run.recipe import settings, suite_settings


class Job(NamedTuple):
    """A row of the table."""

    model: StateSpace
    label: str
    method: Filter
    members: int


@dataclass(frozen=True)
class FilteringSettings:
    """See conf/suite/filtering.yaml."""

    cycles: int
    spin_up: int
    seeds: list[int]
    out: str | None
    lorenz63: dict[str, Any]
    lorenz96: dict[str, Any]

    def __post_init__(self) -> None:
        require_int("cycles", self.cycles, BATCHES)
        require_int("spin_up", self.spin_up, 0)
        if not isinstance(self.seeds, list) or not self.seeds or len(set(map(str, self.seeds))) < len(self.seeds):
            raise CSBError(f"seeds={self.seeds!r} is not a list of different integers; give seeds=[0,1]")
        for seed in self.seeds:
            require_int("seeds", seed, 0)
        if self.out is not None and require_place("out", self.out).is_file():
            raise CSBError(f"out={self.out!r} is not a folder; give out=FOLDER, or out=null for the table alone")
        if not self.jobs():
            raise CSBError("no system has members; give lorenz63.members=[500] or lorenz96.members=[40]")

    def jobs(self) -> list[Job]:
        """All rows. CSBError for what cannot be built."""
        return [job for name in MODELS for job in _jobs(name, getattr(self, name))]


def _jobs(name: str, of: Any) -> list[Job]:
    """The rows of a system from its group {model, members, methods}."""
    if not isinstance(of, dict) or set(of) != {"model", "members", "methods"}:
        raise CSBError(f"{name}={of!r} is not possible; give {name}.model, {name}.members and {name}.methods")
    if not isinstance(of["members"], list) or not isinstance(of["methods"], list):
        raise CSBError(f"{name}.members and {name}.methods are lists; give {name}.members=[500,2000]")
    for M in of["members"]:
        require_int(f"{name}.members", M, 2)
    model = settings(MODELS[name], f"{name}.model", of["model"])
    methods = [_method(f"{name}.methods", one) for one in of["methods"]]
    return [Job(model, label, method, M) for M in of["members"] for label, method in methods]


def _method(key: str, given: Any) -> tuple[str, Filter]:
    """A filter with the label of its row, from {filter: its name, **options}."""
    if not isinstance(given, dict) or not is_one_of(given.get("filter"), FILTERS):
        raise CSBError(f"{key} holds {given!r}; give {{filter: {'|'.join(FILTERS)}, option: value, …}}")
    options = {option: value for option, value in given.items() if option != "filter"}
    try:
        method = FILTERS[given["filter"]](**options)
    except TypeError as error:
        raise CSBError(f"{key}: {given['filter']} does not take {sorted(options)} ({error}); leave it out") from error
    return ", ".join([given["filter"], *(f"{option} = {value}" for option, value in options.items())]), method


def read(config: DictConfig) -> FilteringSettings:
    """The checked settings. CSBError with one line for the first thing that is wrong."""
    return suite_settings(FilteringSettings, "filtering", config)


def row(job: Job, setup: FilteringSettings) -> dict[str, Any]:
    """The scores of one method, means over the seeds; dashes where it diverged."""
    found: list[dict[str, float]] = []
    told: dict[str, Any] = {"system": job.model.name, "members": job.members, "filter": job.label}
    for seed in setup.seeds:
        truth = twin(job.model, setup.spin_up + setup.cycles, seed)
        try:
            found.append(track(job.model, job.method, job.members, truth, seed).summary(setup.spin_up))
        except CSBError as error:
            return told | dict.fromkeys(("rmse", "rmse_error", "spread", "crps", "seconds")) | {"note": str(error)}
    error = sum(one["rmse_error"] ** 2 for one in found) ** 0.5 / len(found)
    means = {key: statistics.mean(one[key] for one in found) for key in found[0]}
    return told | means | {"rmse_error": error}


def filtering(config: DictConfig) -> None:
    """Prints the table, and writes it where a folder is given."""
    setup = read(config)
    rows: list[dict[str, Any]] = []
    for job in setup.jobs():
        rows.append(row(job, setup))
        if setup.out is not None:
            about = {"settings": setup, "machine": machine(torch.device("cpu")), "rows": rows}
            write_json(Path(setup.out) / "filtering.json", about)
            write_text(Path(setup.out) / "filtering.md", markdown_table(rows))
    print_table(
        rows, title=f"{setup.cycles} assimilations after {setup.spin_up} of spin-up, {len(setup.seeds)} seed(s)"
    )
