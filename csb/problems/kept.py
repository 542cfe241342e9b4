"""The pairs of a source that hold no missing values."""

import logging
from functools import cached_property

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.problems.pairs_file import LEAST
from csb.problems.sources import Array, Source

logger = logging.getLogger(__name__)


class Kept(Source):
    """The pairs of a source in which every number of x and y is finite: the rows are found in one reading of them all.

    Raises CSBError, once rows are needed, where fewer than LEAST are left.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source.where, source.labels, source.headers)
        self.source, self.in_memory = source, source.in_memory

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def _rows(self) -> Array:
        """(n,), int64: the rows that are kept, ascending."""
        parts = [
            start + torch.isfinite(x).flatten(1).all(1).logical_and(torch.isfinite(y).flatten(1).all(1)).nonzero()[:, 0]
            for start, x, y in self.source.blocks()
        ]
        rows, total = torch.cat(parts).numpy(), len(self.source)
        logger.warning("data.drop_nan=true leaves out %d of the %d pairs of %s", total - len(rows), total, self.where)
        if len(rows) < LEAST:
            raise CSBError(
                f"{self.where} holds {len(rows)} pairs without NaN or infinite values; at least {LEAST} are needed to "
                f"learn from and to hold out"
            )
        return rows

    def _raw(self, rows: Array | slice, names: tuple[str, ...]) -> list[Array]:
        return self.source._raw(self._rows[rows], names)

    def _take(self, rows: Array | slice, names: tuple[str, ...]) -> list[Tensor]:
        return self.source._take(self._rows[rows], names)
