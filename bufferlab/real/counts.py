"""What a process of a measured run counts while it works; ``real.run.usage`` adds the CPU usage at the end."""

from __future__ import annotations

import random

import msgspec
import numpy as np

QUANTILES = 41
"""0, 0.025 … 1."""

MOST_DURATIONS = 20_000
"""Durations kept for the quantiles, 160 kB of numbers and some 500 kB as Python has them."""


class Counts(msgspec.Struct):
    """What a process's main thread counts; the names are those of ``Usage``."""

    inputs: int = 0
    submissions: int = 0
    iterations: int = 0
    fills: int = 0
    fill_bytes: int = 0
    fill_cpu_s: float = 0.0
    copies: int = 0
    copy_bytes: int = 0
    copy_cpu_s: float = 0.0

    def clear(self) -> None:
        """Begin again at 0."""
        for name, default in zip(self.__struct_fields__, self.__struct_defaults__, strict=True):
            setattr(self, name, default)


class WriteCounts(msgspec.Struct):
    """What one thread of a writer counts; the names are those of ``Usage``. Only that thread changes it."""

    writes: int = 0
    write_bytes: int = 0
    write_s: float = 0.0
    segments: int = 0

    def add(self, other: WriteCounts) -> None:
        """Add what another thread counted."""
        self.writes += other.writes
        self.write_bytes += other.write_bytes
        self.write_s += other.write_s
        self.segments += other.segments


class Durations:
    """How long something took, each time: ``count`` of them, and a sample of at most ``most`` for the quantiles.

    The sample is a reservoir (Vitter, "Random sampling with a reservoir", 1985, algorithm R): every duration is in it
    with the same probability. Every k-th would not do: the two all-reduces of an iteration alternate.
    """

    def __init__(self, most: int = MOST_DURATIONS) -> None:
        self.count = 0
        self._most = most
        self._kept: list[float] = []
        self._random = random.Random(0).random

    @property
    def kept(self) -> tuple[float, ...]:
        """The sample."""
        return tuple(self._kept)

    def add(self, lasted_s: float) -> None:
        """Take one more."""
        self.count += 1
        if len(self._kept) < self._most:
            self._kept.append(lasted_s)
        elif (place := int(self._random() * self.count)) < self._most:
            self._kept[place] = lasted_s

    def quantiles_s(self) -> tuple[float, ...]:
        """``QUANTILES`` quantiles of the sample at equal distances, from its least to its greatest, interpolated
        linearly; empty without any."""
        if not self._kept:
            return ()
        return tuple(np.quantile(self._kept, np.linspace(0.0, 1.0, QUANTILES)).tolist())
