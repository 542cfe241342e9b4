"""Filters on chaotic systems: benchmark.py suite=filtering. A row a system, method and number of members."""

import statistics
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field, model_validator

from csb.errors import LARGEST, CSBError, is_one_of
from csb.evaluation.table import markdown_table, print_table
from csb.files import write_json, write_text
from csb.filtering import FILTERS, MODELS, Filter, StateSpace, track, twin
from csb.filtering.cycle import BATCHES
from csb.schema import Distinct, Given, Place, Schema, Whole, build
from suites.machine import machine
from suites.settings import suite_settings


class Job(NamedTuple):
    """A row of the table."""

    model: StateSpace
    label: str
    method: Filter
    members: int


class System(Schema):
    """What is run on one system."""

    model: dict[str, Any] = Field(description="options of the system")
    members: list[Annotated[int, Field(ge=2, le=LARGEST)]]
    """Of the ensembles, a row each; none leaves the system out."""
    methods: list[dict[str, Any]] = Field(description="{filter: its name, option: value, …}, a row each")


class FilteringSettings(Schema):
    """See conf/suite/filtering.yaml."""

    cycles: int = Field(ge=BATCHES, le=LARGEST, description="assimilations that are scored")
    spin_up: Whole = Field(description="assimilations before them")
    seeds: Annotated[list[Whole], Distinct, Field(min_length=1)]
    """Each of a truth, its observations and the first members."""
    out: Place | None = Field(description="a folder for filtering.json and filtering.md; null: the table alone")
    lorenz63: dict[str, Any] = Field(description="the system Lorenz 63")
    lorenz96: dict[str, Any] = Field(description="the system Lorenz 96")

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        if self.out is not None and Path(self.out).is_file():
            raise CSBError(f"out={self.out!r} is not a folder; give out=FOLDER, or out=null for the table alone")
        if not self.jobs():
            raise CSBError("no system has members; give lorenz63.members=[500] or lorenz96.members=[40]")
        return self

    def jobs(self) -> list[Job]:
        """All rows. CSBError for what cannot be built."""
        return [job for name in MODELS for job in _jobs(name, getattr(self, name))]


def _jobs(name: str, given: dict[str, Any]) -> list[Job]:
    """The rows of a system from its group."""
    system = System.read(given, name)
    model = build(f"{name}.model", MODELS, {**system.model, "name": name})
    methods = [_method(f"{name}.methods", one) for one in system.methods]
    return [Job(model, label, method, M) for M in system.members for label, method in methods]


def _method(key: str, given: dict[str, Any]) -> tuple[str, Filter]:
    """A filter with the label of its row, from {filter: its name, **options}."""
    if not is_one_of(given.get("filter"), FILTERS):
        raise CSBError(f"{key} holds {given!r}; give {{filter: {'|'.join(FILTERS)}, option: value, …}}")
    options = {option: value for option, value in given.items() if option != "filter"}
    method = FILTERS[given["filter"]].read(options, key)
    return ", ".join([given["filter"], *(f"{option} = {value}" for option, value in options.items())]), method


def read(given: Given) -> FilteringSettings:
    """The checked settings. CSBError with one line for the first thing that is wrong."""
    return suite_settings(FilteringSettings, given)


def row(job: Job, setup: FilteringSettings) -> dict[str, Any]:
    """The scores of one method, means over the seeds; dashes where it diverged."""
    found: list[dict[str, float]] = []
    reported: dict[str, Any] = {"system": job.model.name, "members": job.members, "filter": job.label}
    for seed in setup.seeds:
        truth = twin(job.model, setup.spin_up + setup.cycles, seed)
        try:
            found.append(track(job.model, job.method, job.members, truth, seed).summary(setup.spin_up))
        except CSBError as error:
            return reported | dict.fromkeys(("rmse", "rmse_error", "spread", "crps", "seconds")) | {"note": str(error)}
    error = sum(one["rmse_error"] ** 2 for one in found) ** 0.5 / len(found)
    means = {key: statistics.mean(one[key] for one in found) for key in found[0]}
    return reported | means | {"rmse_error": error}


def filtering(given: Given) -> None:
    """Prints the table, and writes it where a folder is given."""
    setup = read(given)
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
