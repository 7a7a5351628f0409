"""Measured cells as arrays, which is what laws are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.calibration.input.rows import Row

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """What was measured: ``seconds`` of a batch of ``pieces`` pieces of ``size_bytes`` for each of ``threads``."""

    size_bytes: Array
    pieces: Array
    threads: Array
    seconds: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def at(self, places: Sequence[int]) -> Cells:
        """Some of them."""
        chosen = list(places)
        return Cells(self.size_bytes[chosen], self.pieces[chosen], self.threads[chosen], self.seconds[chosen])

    def taking(self, seconds: Array) -> Cells:
        """The same cells with other times."""
        return Cells(self.size_bytes, self.pieces, self.threads, seconds)

    def varying(self) -> list[Array]:
        """Those of size, pieces and threads that are not the same in all cells."""
        return [one for one in (self.size_bytes, self.pieces, self.threads) if len(set(one)) > 1]


def cells_of(rows: Sequence[Row]) -> Cells:
    """The rows of a table as arrays."""
    columns = zip(*((row.msg_bytes, row.batch, row.threads, row.batch_s) for row in rows), strict=True)
    return Cells(*(np.array(column, dtype=float) for column in columns))
