"""The numbers of a training, checked when they are set."""

import importlib.util
import math
import os
import shutil
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from csb.bridge import Direction
from csb.bridge.kernel import FEW
from csb.bridge.student import LAWS
from csb.dtypes import Precision
from csb.errors import CSBError
from csb.schema import Count, Distinct, OneOf, Place, Schema, Share, Whole

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # of the cache
MOST_ITERATIONS = 1000
MOST = 4096  # of what one state has: Gaussians, directions, channels of noise, draws


class TrainingSettings(Schema):
    """The alternation of half-steps."""

    group = "training"
    alone = ("L",)

    L: int = Field(ge=1, le=MOST_ITERATIONS, description="iterations; each is a backward and a forward half-step")
    first_steps: Count = Field(description="optimiser steps of the first half-step, which needs no simulation")
    steps: Count = Field(description="optimiser steps of every later half-step")
    batch_size: Count = Field(default=256, description="states a step, of all devices together, evenly over k = 1..T")
    states_per_pair: Count = Field(default=1, description="how many of them share a pair, whose y is then encoded once")
    refresh: Count = Field(default=800, description="optimiser steps between refills of the trajectory cache")
    trajectories: Count = Field(default=50_000, description="wanted in the cache; fewer where cache_bytes is smaller")
    cache_bytes: Count = Field(default=256 * 2**20, description="byte budget of the cache in memory, in each process")
    cache_dtype: Annotated[str, OneOf(tuple(DTYPES))] = Field(default="float32", description="in which states are kept")
    last_forward: bool = Field(default=True, description="fit the last forward kernels, which sampling does not need")
    inflate: bool = False
    """After each backward half-step, set the spread of the samples to the error of their mean on validation pairs (see
    csb.evaluation.selection)."""
    select: Annotated[str, OneOf(("best", "last"))] = "best"
    """Which iteration's kernels the run's bridge file holds: "best", the earliest whose energy score on validation
    pairs no other beats by more than its standard error, or "last"."""
    missing: Share = 0.0
    """Chance that the observation of a pair is trained on with gaps (see csb.training.pairs.hidden): half, for a bridge
    that takes observations of which any values are missing, and the product of several; 0 where y has no gaps, or gaps
    of its own, whose pattern may mean something."""
    validate_every: Count = Field(default=250, description="optimiser steps between evaluations of the validation loss")
    patience: Whole = 8
    """A half-step stops after this many evaluations of the validation loss without a lower one, and ends with the
    averaged weights of the lowest where those at its end are clearly worse; the training ends with a backward half-step
    after which samples are no better than those of an earlier iteration (see ``select``). 0 switches all off."""
    checkpoint_every: Count = Field(default=500, description="optimiser steps between checkpoints")
    observe_every: Count = 2000
    """Optimiser steps between sample pictures; the first half-step has some after an eighth, a quarter and a half."""

    @model_validator(mode="after")
    def _whole_pairs(self) -> Self:
        if self.batch_size % self.states_per_pair:
            raise CSBError(
                f"training.batch_size={self.batch_size} is not a multiple of "
                f"training.states_per_pair={self.states_per_pair}; change one of them"
            )
        return self


@dataclass(frozen=True)
class HalfStep:
    """One fit of one direction's kernels; ``iteration`` counts from 1, ``index`` from 0 over all half-steps."""

    index: int
    iteration: int
    direction: Direction
    steps: int

    @property
    def source(self) -> Direction:
        """The direction of the frozen kernels whose trajectories are fitted."""
        return "forward" if self.direction == "backward" else "backward"

    @property
    def name(self) -> str:
        """E.g. "02_forward", the stem of the half-step's files."""
        return f"{self.index + 1:02d}_{self.direction}"


def plan(settings: TrainingSettings) -> list[HalfStep]:
    """Return backward, forward, backward, …: 2 L half-steps, or 2 L − 1 without the last forward one."""
    count = 2 * settings.L - (0 if settings.last_forward else 1)
    return [
        HalfStep(i, i // 2 + 1, "forward" if i % 2 else "backward", settings.steps if i else settings.first_steps)
        for i in range(count)
    ]


def automatic_weight_decay(z_shape: tuple[int, ...]) -> float:
    """Return 0 for states of few coordinates, whose pairs lie dense; else ½.

    100,000 pairs of ten coordinates are overfitted without; on two_moons (two) it only blurs the crescents.
    """
    return 0.0 if math.prod(z_shape) <= FEW else 0.5


class OptimizerSettings(Schema):
    """AdamW, or Muon, with linear warm-up and cosine decay over each half-step."""

    group = "optimizer"

    name: Annotated[str, OneOf(("adamw", "muon"))] = "adamw"
    """"muon" moves the matrices inside a network by orthogonal steps (see csb.training.muon): images need fewer."""
    lr: float = Field(default=1e-3, ge=1e-12, le=10, description="peak learning rate of either direction's first fit")
    later_lr: float = Field(default=1e-4, ge=1e-12, le=10, description="that of later ones, which go on from there")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="AdamW's")
    warmup: Share = Field(default=0.05, description="share of a half-step's steps")
    ema: float = Field(default=0.998, ge=0, lt=1, description="decay of the averaged weights a half-step ends with")
    clip: float = Field(default=1.0, ge=1e-9, le=1e9, description="norm to which gradients are clipped")
    balance: Share = 0.5
    """Exponent that evens out the steps' weights (see csb.training.half_step.balance); 0 leaves them."""
    retries: Whole = 0
    """How often a diverged training goes back to its last good state, and on with 0.3 times the learning rate."""


class FitSettings(Schema):
    """How a network is trained."""

    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="states a step")
    lr: float = Field(gt=0, lt=10, description="peak learning rate; the optimiser's other settings are the bridge's")
    checkpoint_every: Count = Field(description="optimiser steps between checkpoints")


class RegressionSettings(FitSettings):
    """How a network is trained by squared error."""

    alpha_bar_end: float = Field(default=1e-4, gt=0, lt=1, description="horizon of a diffusion's schedule: small")


class DenoiserSettings(RegressionSettings):
    """How a denoiser is trained."""

    group = "denoiser"


class ConditionalSettings(RegressionSettings):
    """How a score, a flow, a mean flow or a consistency model is trained; ``alpha_bar_end`` is the score's."""

    group = "conditional"


class DistilSettings(FitSettings):
    """How a student is made and fitted."""

    group = "distil"

    calls: Annotated[list[Count], Distinct, Field(min_length=1)] = [1, 2, 4]
    """The numbers of network calls that it is for."""
    law: Annotated[str, OneOf(("auto", *LAWS))] = "auto"
    """The law of a jump; "auto": by the shape of a state."""
    components: int = Field(default=32, ge=1, le=MOST, description="Gaussians of a mixture")
    rank: int = Field(default=8, ge=1, le=MOST, description='of the covariance "low_rank"')
    noise: int = Field(default=4, ge=1, le=MOST, description="a generator's channels (for vectors: numbers) of noise")
    draws: int = Field(default=4, ge=2, le=MOST, description="draws a state of a generator's energy score")
    patches: list[Count] = Field(default=[], description="sides of patches whose energy scores are added to the whole")
    refresh: Count = Field(default=2500, description="optimiser steps between refills of the cache of end points")
    trajectories: Count = Field(default=50_000, description="wanted in it; fewer where cache_bytes is smaller")
    cache_bytes: Count = Field(default=256 * 2**20, description="byte budget of the cache")
    out: Place | None = Field(default=None, description="the folder that the student goes into; null: the bridge's")


class DeviceSettings(Schema):
    """Where and how Lightning runs the fit."""

    group = "trainer"

    accelerator: Annotated[str, OneOf(("auto", "cpu", "gpu", "cuda"))] = Field(default="auto", description="of devices")
    devices: Count = Field(default=1, description="of each machine, with a process each")
    precision: Precision = Field(default="32-true", description="of the network calls")
    num_nodes: Count = Field(default=1, description="machines")
    strategy: Annotated[str, OneOf(("auto", "ddp"))] = "auto"
    """Several devices take ddp in any case: every network fits on one device, and the averaged weights and the
    optimiser need whole ones."""
    compile: bool = Field(default=False, description="whether networks are compiled by torch.compile")
    gpu_share: Share = 0.3
    """Of a GPU's memory, that pairs and cache may take; where they need more, batches are copied ahead from the CPU."""
    cuda_graphs: bool = Field(default=False, description="whether compiled networks are replayed as CUDA graphs")

    @model_validator(mode="after")
    def _what_is_here(self) -> Self:
        if self.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise CSBError(f"trainer.accelerator={self.accelerator} finds no GPU here; choose cpu or auto")
        if self.compile and (fault := self._missing_compiler()):
            raise CSBError(f"trainer.compile=true {fault}, or choose trainer.compile=false")
        if self.cuda_graphs and not (self.compile and self.where.type == "cuda"):
            raise CSBError(
                f"trainer.cuda_graphs=true needs a GPU and trainer.compile=true; here are {self.where.type} and "
                f"trainer.compile={str(self.compile).lower()}: change them, or choose trainer.cuda_graphs=false"
            )
        return self

    @property
    def where(self) -> torch.device:
        """A GPU where one is there and was not declined, else the CPU."""
        return torch.device("cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu")

    @property
    def world(self) -> int:
        return self.devices * self.num_nodes

    def require_gpus(self) -> None:
        """CSBError where training is on GPUs and this process sees fewer of them than its machine's devices."""
        if self.where.type == "cuda" and (seen := torch.cuda.device_count()) < self.devices:
            raise CSBError(
                f"trainer.devices={self.devices} and {seen} GPUs are seen here; lower it, choose "
                f"trainer.accelerator=cpu, or let each process see all GPUs of its machine"
            )

    def check(self, training: TrainingSettings, stage: str) -> None:
        """CSBError where a stage is not for several devices, or they do not share a batch evenly, in whole pairs."""
        count = training.states_per_pair
        if self.world > 1 and stage != "bridge":
            raise CSBError(
                f"stage={stage} with trainer.devices={self.devices}, trainer.num_nodes={self.num_nodes} is not "
                f"possible: the bridge alone is trained on several devices; give trainer.devices=1"
            )
        if training.batch_size % (each := self.world * count):
            pairs = "" if count == 1 else f", in pairs of training.states_per_pair={count}"
            raise CSBError(
                f"training.batch_size={training.batch_size}, that of all devices together, is not divided evenly among "
                f"{self.world} of them{pairs}; give a multiple of {each}"
            )

    def fingerprint(self) -> dict[str, Any]:
        """Return what a resumed run must have in common: of options that came later, those that are set."""
        always = {"accelerator", "devices", "precision"}
        known = {name: field.default for name, field in type(self).model_fields.items()}
        if self.where.type != "cuda":
            del known["gpu_share"]
        return {name: value for name in known if (value := getattr(self, name)) != known[name] or name in always}

    def _missing_compiler(self) -> str:
        """What torch.compile lacks, "" for nothing: Triton compiles for a GPU, a C++ compiler for the CPU."""
        if self.where.type == "cuda":
            return "needs Triton on a GPU; install triton" if importlib.util.find_spec("triton") is None else ""
        found = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
        return "" if found else "finds no C++ compiler here; install g++"
