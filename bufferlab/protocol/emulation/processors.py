"""Identical processors with one queue, first come, first served."""

from __future__ import annotations

from heapq import heapreplace
from typing import final


@final
class Processors:
    """``count`` processors. What is given to them begins as soon as one is free, in the order it came.

    Durations are known when work is given, so neither queue nor events are needed: a processor is the moment at which
    it is free. Raises ValueError for fewer than one.
    """

    __slots__ = ("_free_s", "busy_s")

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"there are {count} processors, there must be at least 1")
        self._free_s = [0.0] * count
        self.busy_s = 0.0

    def give(self, now: float, lasts_s: float) -> float:
        """Give work that takes ``lasts_s`` at time ``now``, which never goes back; return when it ends."""
        end_s = max(self._free_s[0], now) + lasts_s
        heapreplace(self._free_s, end_s)
        self.busy_s += lasts_s
        return end_s
