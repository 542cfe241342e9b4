"""The numbers of a training, checked when they are set."""

import dataclasses
import importlib.util
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from csb.bridge.kernel import FEW
from csb.errors import LARGEST, CSBError, is_number, is_one_of, require_flag, require_int
from csb.training.storage import DTYPES, Storage

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
SELECT = ("best", "last")
STRATEGIES = ("auto", "ddp")
MOST_ITERATIONS = 1000


def _check(name: str, value: float, low: float, high: float) -> None:
    if not is_number(value) or not low <= value <= high:
        raise CSBError(f"{name}={value!r} is not possible; it must be a number between {low:g} and {high:g}")


@dataclass(frozen=True)
class IPFSettings:
    """The alternation of half-steps.

    Attributes:
        L: iterations; each is a backward and a forward half-step.
        first_steps: optimiser steps of the first half-step, which needs no simulation.
        steps: optimiser steps of every later half-step.
        batch_size: states a step, of all devices together, spread evenly over k = 1..T.
        states_per_pair: how many of them share one pair (one trajectory), whose observation is then encoded once.
        refresh: optimiser steps between refills of the trajectory cache.
        trajectories: wanted in the cache; fewer where the byte budget is smaller.
        cache_bytes: byte budget of the cache in memory, in each process.
        cache_spill: keep trajectories beyond the budget in a memory-mapped file: in the run's folder (True) or in that
            of this name; False or None: have fewer.
        cache_dtype: in which states are kept: "float32", "float16" or "bfloat16".
        last_forward: also fit the forward kernels of the last iteration, which sampling does not need.
        inflate: after each backward half-step, set the spread of the samples to the error of their mean on validation
            pairs (see csb.evaluation.inflation).
        select: which iteration's kernels the run's bridge file holds: "best", the earliest whose energy score on
            validation pairs no other beats by more than its standard error, or "last".
        validate_every: optimiser steps between evaluations of the loss on validation pairs.
        patience: a half-step stops after this many evaluations of the validation loss without a lower one, and ends
            with the averaged weights of the lowest where those at its end are clearly worse; 0 switches both off.
        checkpoint_every: optimiser steps between checkpoints.
        observe_every: optimiser steps between sample pictures within a half-step.
    """

    L: int
    first_steps: int
    steps: int
    batch_size: int = 256
    states_per_pair: int = 1
    refresh: int = 500
    trajectories: int = 4096
    cache_bytes: int = 256 * 2**20
    cache_spill: bool | str | None = False
    cache_dtype: str = "float32"
    last_forward: bool = True
    inflate: bool = False
    select: str = "best"
    validate_every: int = 250
    patience: int = 0
    checkpoint_every: int = 200
    observe_every: int = 1000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name not in ("last_forward", "inflate", "select", "cache_spill", "cache_dtype"):
                name = field.name if field.name == "L" else f"ipf.{field.name}"
                most = MOST_ITERATIONS if field.name == "L" else LARGEST
                require_int(name, getattr(self, field.name), 0 if field.name == "patience" else 1, most)
        if not is_one_of(self.select, SELECT):
            raise CSBError(f"ipf.select={self.select!r} is unknown; choose one of {', '.join(SELECT)}")
        for name in ("last_forward", "inflate"):
            require_flag(f"ipf.{name}", getattr(self, name))
        if not isinstance(self.cache_spill, bool | str | None) or self.cache_spill == "":
            raise CSBError(f"ipf.cache_spill={self.cache_spill!r} is not possible; give true, false or a folder")
        if not is_one_of(self.cache_dtype, DTYPES):
            raise CSBError(f"ipf.cache_dtype={self.cache_dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
        if self.batch_size % self.states_per_pair:
            raise CSBError(
                f"ipf.batch_size={self.batch_size} is not a multiple of ipf.states_per_pair={self.states_per_pair}; "
                f"change one of them"
            )

    def storage(self, folder: Path) -> Storage:
        """How the trajectories of a run in a folder are kept."""
        spill = self.cache_spill
        where = Path(spill) if isinstance(spill, str) else folder if spill else None
        return Storage(DTYPES[self.cache_dtype], self.cache_bytes, where)


def automatic_weight_decay(z_shape: tuple[int, ...]) -> float:
    """0 for states of few coordinates, whose pairs lie dense; else ½.

    100,000 pairs of sbi_gaussian_linear_uniform (ten coordinates) are overfitted without; on two_moons (two
    coordinates) the same decay only blurs the crescents.
    """
    return 0.0 if math.prod(z_shape) <= FEW else 0.5


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with linear warm-up and cosine decay over each half-step.

    Attributes:
        lr: the peak learning rate of the first half-step of each direction.
        later_lr: that of the half-steps that continue from the previous iteration's weights.
        weight_decay: AdamW's.
        warmup: share of a half-step's steps, 0..1.
        ema: decay of the exponential moving average of the weights, which every half-step ends with.
        clip: norm to which gradients are clipped.
        balance: exponent in 0..1 that evens out the steps' weights (see csb.training.module.balance); 0 leaves them.
        retries: how often, in the whole training, a diverged one goes back to its last good state and on with 0.3 times
            the learning rate, before it ends with an error.
    """

    lr: float = 1e-3
    later_lr: float = 5e-4
    weight_decay: float = 0.0
    warmup: float = 0.05
    ema: float = 0.999
    clip: float = 1.0
    balance: float = 0.5
    retries: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("lr", 1e-12, 10.0), ("later_lr", 1e-12, 10.0), ("weight_decay", 0.0, 10.0), ("warmup", 0.0, 1.0),
            ("ema", 0.0, 1.0 - 1e-12), ("clip", 1e-9, 1e9),
            ("balance", 0.0, 1.0),
        ):  # fmt: skip
            _check(f"optimizer.{name}", getattr(self, name), low, high)
        require_int("optimizer.retries", self.retries, 0)


@dataclass(frozen=True)
class DeviceSettings:
    """Where and how Lightning runs the fit.

    Attributes:
        accelerator: one of ACCELERATORS.
        devices: of each machine, with a process each.
        num_nodes: machines.
        strategy: "auto" or "ddp", which several devices take in any case.
        precision: "32-true" or "bf16-mixed".
        compile: whether networks are compiled by torch.compile.
        cuda_graphs: whether compiled networks are replayed as CUDA graphs.
        gpu_share: of a GPU's memory, 0..1, that pairs and cache may take; where they need more, they stay on the
            CPU and batches are copied ahead.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    num_nodes: int = 1
    strategy: str = "auto"
    compile: bool = False
    gpu_share: float = 0.3
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        if not is_one_of(self.accelerator, ACCELERATORS):
            raise CSBError(
                f"trainer.accelerator={self.accelerator!r} is unknown; choose one of {', '.join(ACCELERATORS)}"
            )
        if self.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise CSBError(f"trainer.accelerator={self.accelerator} finds no GPU here; choose cpu or auto")
        for name in ("devices", "num_nodes"):
            require_int(f"trainer.{name}", getattr(self, name), 1)
        if not is_one_of(self.strategy, STRATEGIES):
            raise CSBError(
                f"trainer.strategy={self.strategy!r} is not supported: every network fits on one device, and the "
                f"averaged weights and the optimiser need whole ones; choose {' or '.join(STRATEGIES)}"
            )
        if not is_one_of(self.precision, ("32-true", "bf16-mixed")):
            raise CSBError(f"precision={self.precision!r} is unknown; choose 32-true or bf16-mixed")
        for name in ("compile", "cuda_graphs"):
            require_flag(f"trainer.{name}", getattr(self, name))
        _check("trainer.gpu_share", self.gpu_share, 0.0, 1.0)
        if self.compile:
            require_compiler(self.where)
        if self.cuda_graphs and not (self.compile and self.where.type == "cuda"):
            raise CSBError(
                f"trainer.cuda_graphs=true needs a GPU and trainer.compile=true; here are {self.where.type} and "
                f"trainer.compile={str(self.compile).lower()}: change them, or choose trainer.cuda_graphs=false"
            )

    @property
    def where(self) -> torch.device:
        """The device: a GPU where one is there and was not declined, else the CPU."""
        return torch.device("cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu")

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes

    def require_gpus(self) -> None:
        """CSBError where training is on GPUs and this process sees fewer of them than its machine's devices."""
        if self.where.type == "cuda" and (seen := torch.cuda.device_count()) < self.devices:
            raise CSBError(
                f"trainer.devices={self.devices} and {seen} GPUs are seen here; lower it, choose "
                f"trainer.accelerator=cpu, or let each process see all GPUs of its machine"
            )

    def check(self, ipf: IPFSettings, stage: str) -> None:
        """CSBError where a stage is not for several devices, or they do not share a batch evenly, in whole pairs."""
        if self.world > 1 and stage != "bridge":
            raise CSBError(
                f"stage={stage} with trainer.devices={self.devices}, trainer.num_nodes={self.num_nodes} is not "
                f"possible: the bridge alone is trained on several devices; give trainer.devices=1"
            )
        if self.world > 1 and ipf.cache_spill:
            raise CSBError(
                f"ipf.cache_spill={ipf.cache_spill} with trainer.devices={self.devices}, "
                f"trainer.num_nodes={self.num_nodes} is not possible: several devices keep their cache in memory; give "
                f"ipf.cache_spill=false"
            )
        if ipf.batch_size % (each := self.world * ipf.states_per_pair):
            pairs = "" if ipf.states_per_pair == 1 else f", in pairs of ipf.states_per_pair={ipf.states_per_pair}"
            raise CSBError(
                f"ipf.batch_size={ipf.batch_size}, that of all devices together, is not divided evenly among "
                f"{self.world} of them{pairs}; give a multiple of {each}"
            )

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must have in common: of options that came later, those that are set."""
        always = ("accelerator", "devices", "precision")
        never = () if self.where.type == "cuda" else ("gpu_share",)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        kept = {key: value for key, value in vars(self).items() if key in always or value != defaults[key]}
        return {key: value for key, value in kept.items() if key not in never}


def require_compiler(device: torch.device) -> None:
    """CSBError where torch.compile finds no compiler for a device: Triton for a GPU, one of C++ for the CPU."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise CSBError(
                "trainer.compile=true needs Triton on a GPU; install triton, or choose trainer.compile=false"
            )
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise CSBError("trainer.compile=true finds no C++ compiler here; install g++, or choose trainer.compile=false")
