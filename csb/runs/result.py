"""What :func:`csb.fit` returns: a trained bridge with its scores, its diagnostics, and ways to keep it."""

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from csb.errors import CSBError
from csb.evaluation import diagnose_figures as draw
from csb.evaluation.diagnose import Diagnosis
from csb.evaluation.diagnose_figures import HalfStepLosses
from csb.evaluation.rows import Report
from csb.evaluation.scores import MetricsSettings, SamplerSettings, held_out, pairs_at_once
from csb.numbers import Observed
from csb.problems import Problem
from csb.process import Stream, seeded
from csb.runs import evaluate, load
from csb.runs.export import export
from csb.runs.presets import preset
from csb.runs.recipe import BaselineSettings
from csb.runs.report import diagnose_run, losses_of, names_of
from csb.training.state import chosen_iteration

_SHOWN = (
    "crps", "energy_score", "spread_skill", "coverage_deviation", "tarp_deviation", "sliced_w", "mean_error", "seconds",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Run(load.Run):
    """A trained bridge and what is known of its training.

    Attributes:
        folder: of its files; a temporary one, which goes with the run, where the training was given no ``out``.
        bridge: ready to sample: ``run.bridge.sample(y, 1000).x``.
        about: the configuration and the versions of the training, as plain data.
        interrupted: whether the training was stopped by Ctrl+C; the bridge is what it had reached.
    """

    given: Problem | None = None
    scratch: TemporaryDirectory[str] | None = field(default=None, compare=False)
    interrupted: bool = False

    @classmethod
    def open(cls, folder: str | Path, device: str | None = None) -> "Run":
        """Open the run in a folder that a training wrote. CSBError where there is none, or it is not finished."""
        return cls(**vars(load.load_ensemble(folder, device) or load.load_run(folder, device)))

    @cached_property
    def problem(self) -> Problem:
        """The pairs, or the prior and simulator, that it was trained on. CSBError where they are not here."""
        return load.problem_of(self.bridge, self.folder) if self.given is None else self.given

    @property
    def scores(self) -> dict[str, Any]:
        """Figures on held-out observations, of the iteration that "iteration" names; {} of an interrupted training."""
        if self.interrupted or not (self.folder / "result.json").exists():
            return {}
        return {"iteration": chosen_iteration(self.history) if self.history else None, **load.read_result(self.folder)}

    @property
    def names(self) -> list[str]:
        """The names of the coordinates of a vector x, as given or x0, x1, ….  CSBError for images."""
        return names_of(self)

    def evaluate(self, seed: int = 0, **metrics: Any) -> dict[str, list[dict[str, Any]]]:
        """Score every iteration on the held-out observations, and print and return the tables by their titles.

        Args:
            seed: of all samples.
            **metrics: how much is drawn, e.g. ``observations=500, samples=64`` (:class:`MetricsSettings`).
        """
        settings = MetricsSettings.read({**preset("metrics", "full"), **metrics})
        return evaluate.evaluate(self, SamplerSettings(), settings, seed)

    def compare(
        self, others: "list[Run] | None" = None, seed: int = 0, metrics: Any = None, **baselines: Any
    ) -> Report:
        """Compare the bridge with guided samplers, where the problem has a likelihood, and with other runs.

        Args:
            others: on the same pairs.
            seed: of all samples.
            metrics: how much is drawn, a table of :class:`MetricsSettings`.
            **baselines: which methods and how, e.g. ``methods=["tds", "dps"], T=100`` (:class:`BaselineSettings`).
        """
        chosen = BaselineSettings.read({**preset("baselines", "guided"), **baselines})
        drawn = MetricsSettings.read({**preset("metrics", "default"), **(metrics or {})})
        of: list[load.Run] = list(others or [])
        return evaluate.compare_run(self, of, chosen, SamplerSettings(), drawn, seed, "run.compare()")

    def diagnose(
        self, observations: int = 500, samples: int = 200, seed: int = 0, y: Observed | None = None
    ) -> Diagnosis:
        """Draw the diagnostics of an amortized posterior on held-out observations: figures, and a table by parameter.

        Args:
            observations: of the test split, at most; all of it where it is smaller.
            samples: of each.
            seed: of all samples.
            y: one observation (*y_shape), at which the corner plot and the local checks are then made.

        Raises:
            CSBError: x are images; the pairs of the run are not here.
        """
        self.names  # noqa: B018 (refuses images before anything is drawn)
        test = held_out(self.problem, observations)
        generator, size = seeded(seed, Stream.HELD_OUT_DRAW, device=self.bridge.device), pairs_at_once(samples)
        drawn = [self.bridge.sample(part, samples, generator=generator).x.cpu() for part in test.y.split(size)]
        return diagnose_run(self, test, torch.cat(drawn), generator, seed, y)

    def plot_losses(self) -> Any:
        """Draw the training and validation losses of every half-step. Returns the figure."""
        if not (rows := losses_of(self)):
            raise CSBError(f"{self.folder} holds no losses: they came with a later version; train again")
        return draw.loss([HalfStepLosses.read(row) for row in rows])

    def save(self, folder: str | Path) -> Path:
        """Copy the run's files to a new folder, from which :meth:`open` and every command read it. Returns it.

        Raises:
            CSBError: the folder is there already, or cannot be written; the training was interrupted.
        """
        out = Path(folder)
        if self.interrupted:
            raise CSBError("an interrupted training has no finished run to save; train again with out=… resume=True")
        try:
            shutil.copytree(self.folder, out)
        except OSError as error:
            raise CSBError(f"cannot write {out}: {error.strerror}; choose another folder") from error
        return out

    def export(self, folder: str | Path, overwrite: bool = False, licence: str | None = None) -> Path:
        """Write the bridge into a folder to share, with a model card; see :func:`csb.runs.export.export`."""
        return export(self.folder, folder, overwrite, licence)

    def _rows(self) -> list[tuple[str, str]]:
        grid, maps, scores = self.bridge.grid, self.bridge.transform, self.scores
        problem = self.about.get("problem", {}).get("name", "")
        figures = ", ".join(f"{key} {scores[key]:.4g}" for key in _SHOWN if isinstance(scores.get(key), int | float))
        state = "interrupted" if self.interrupted else self.iteration
        where = "a temporary folder; run.save(…) keeps it" if self.scratch is not None else str(self.folder)
        return [
            ("problem", f"{problem}: x {maps.x_shape}, y {maps.parts or maps.y_shape}"),
            ("bridge", f"T = {grid.T}, {self.bridge.backward_kernel.covariance} covariance, {state}"),
            ("scores", figures or "none"),
            ("files", where),
        ]

    def __repr__(self) -> str:
        return "\n".join(["csb.Run", *(f"  {name:8} {text}" for name, text in self._rows())])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._rows())
        return f"<table><caption>csb.Run</caption>{rows}</table>"
