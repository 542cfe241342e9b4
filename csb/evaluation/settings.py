"""How much is drawn for figures, and how."""

from typing import Annotated

from pydantic import Field

from csb.errors import MOST_DRAWS
from csb.schema import Count, Schema, Whole

Draws = Annotated[int, Field(ge=1, le=MOST_DRAWS)]
Several = Annotated[int, Field(ge=2, le=MOST_DRAWS)]


class SamplerSettings(Schema):
    """How posterior samples are drawn: the options of :meth:`csb.bridge.Bridge.sample`."""

    group = "sampler"

    batch_size: Count = Field(default=1024, description="states a network call")
    mean_only: bool = Field(default=False, description="follow the means: no noise after the start")
    refine: Whole = Field(default=0, description="passes of the last forward and backward kernels after the first")
    sample_steps: Count | None = Field(default=None, description="steps of a pass, at most T; null: all T")


class MetricsSettings(Schema):
    """How much is drawn for figures."""

    group = "metrics"

    observations: Draws = 50
    """Test observations where no exact posterior is known; all held-out pairs of a file that holds fewer."""
    samples: Several = Field(default=64, description="samples of each of them")
    exact_samples: Annotated[int, Field(ge=100, le=MOST_DRAWS)] = 2000
    """Samples of each observation where the exact posterior is known."""
    exact_observations: Draws = Field(default=10, description="test observations where the exact posterior is known")
    picture_rows: int = Field(default=6, ge=1, le=12, description="observations in a sample picture")
    compare_observations: Several = Field(default=100, description="test observations in the comparison of samplers")
    compare_samples: Several = Field(default=16, description="samples of each of them")
    c2st_samples: Annotated[int, Field(ge=0, le=MOST_DRAWS)] = 0
    """Samples of each law for C2ST; 0 leaves it out."""
    c2st_observations: Draws = 1
    """How many of the exact_observations C2ST is averaged over, at most all of them."""
