"""How much is drawn for figures, and how."""

from dataclasses import dataclass

from csb.errors import MOST_DRAWS, require_flag, require_int


@dataclass(frozen=True)
class SamplerSettings:
    """How posterior samples are drawn: the options of :meth:`csb.bridge.Bridge.sample`."""

    batch_size: int = 1024
    mean_only: bool = False
    refine: int = 0
    sample_steps: int | None = None

    def __post_init__(self) -> None:
        require_int("sampler.batch_size", self.batch_size, 1)
        require_int("sampler.refine", self.refine, 0)
        if self.sample_steps is not None:
            require_int("sampler.sample_steps", self.sample_steps, 1)
        require_flag("sampler.mean_only", self.mean_only)


@dataclass(frozen=True)
class MetricsSettings:
    """How much is drawn for figures.

    Attributes:
        observations, samples: test observations where no exact posterior is known, and samples of each; all held-out
            pairs of a file that holds fewer.
        exact_observations, exact_samples: the same where the exact posterior is known.
        compare_observations, compare_samples: test observations and samples of each in the comparison of samplers.
        c2st_samples: samples of each law for C2ST; 0 leaves it out.
        c2st_observations: how many of the ``exact_observations`` C2ST is averaged over, at most all of them.
        picture_rows: observations in a sample picture, at most 12.
    """

    observations: int = 50
    samples: int = 64
    exact_samples: int = 2000
    exact_observations: int = 10
    picture_rows: int = 6
    compare_observations: int = 100
    compare_samples: int = 16
    c2st_samples: int = 0
    c2st_observations: int = 1

    def __post_init__(self) -> None:
        for name, low in (
            ("observations", 1),
            ("samples", 2),
            ("exact_samples", 100),
            ("exact_observations", 1),
            ("compare_observations", 2),
            ("compare_samples", 2),
            ("c2st_samples", 0),
            ("c2st_observations", 1),
        ):
            require_int(f"metrics.{name}", getattr(self, name), low, MOST_DRAWS)
        require_int("metrics.picture_rows", self.picture_rows, 1, 12)
