"""Measured samples as arrays, which is what laws are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.calibration.input.rows import Row

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """What was measured: ``seconds`` of a batch of ``segments`` segments of ``size_bytes`` for each of ``threads``."""

    size_bytes: Array
    segments: Array
    threads: Array
    seconds: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def at(self, places: Sequence[int]) -> Samples:
        """Some of them."""
        chosen = list(places)
        return Samples(self.size_bytes[chosen], self.segments[chosen], self.threads[chosen], self.seconds[chosen])

    def taking(self, seconds: Array) -> Samples:
        """The same samples with other times."""
        return Samples(self.size_bytes, self.segments, self.threads, seconds)

    def varying(self) -> list[Array]:
        """Those of size, segments and threads that are not the same in all samples."""
        return [one for one in (self.size_bytes, self.segments, self.threads) if len(set(one)) > 1]


def samples_of(rows: Sequence[Row]) -> Samples:
    """The rows of a table as arrays."""
    columns = zip(*((row.msg_bytes, row.batch, row.threads, row.batch_s) for row in rows), strict=True)
    return Samples(*(np.array(column, dtype=float) for column in columns))
