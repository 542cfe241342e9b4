"""The stages of a training that are not the bridge: denoiser, score, flow and the distilled sampler."""

from csb.bridge import Bridge, load
from csb.errors import CSBError
from csb.files import model_file
from csb.problems import FilePairs
from csb.runs.amortized import train_stage as train_amortized
from csb.runs.config import RunConfig
from csb.runs.denoiser import train_stage
from csb.runs.distil import train_stage as distil
from csb.runs.lock import writing
from csb.runs.recipe import DISTIL
from csb.runs.train import check_writable, require_same_pairs
from csb.training.distil import NAME
from csb.training.regression import state_file


def check_stage(run: RunConfig) -> None:
    """CSBError where the stage's file is there already, was begun, or cannot be written. Else the folder is made.

    The folder may hold a bridge or not.
    """
    name = NAME if run.stage == DISTIL else run.stage
    path, state = model_file(run.folder, name), state_file(run.folder, name)
    if path.exists() and not run.overwrite:
        raise CSBError(f"{path} is there already; choose overwrite=true or another name=…")
    if state.exists() and not run.resume and not run.overwrite:
        raise CSBError(f"{path} was begun; continue with resume=true, or choose overwrite=true or another name=…")
    check_writable(run.folder)


def stage_job(run: RunConfig) -> None:
    """A stage that is not the bridge: trains its model into the run's folder."""
    check_stage(run)
    with writing(run.folder):
        _run_stage(run)


def _run_stage(run: RunConfig) -> None:
    beside = model_file(run.folder, "bridge")
    if beside.exists() and isinstance(run.problem, FilePairs):
        require_same_pairs(run.folder, load(beside, of=Bridge).about, run.problem)
    if run.stage == "denoiser":
        train_stage(run.problem, run.plain, run.folder, run.seed, run.resume, run.progress)
    elif run.stage == DISTIL:
        distil(run)
    else:
        train_amortized(run)
