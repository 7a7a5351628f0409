"""The last values of a series, kept in order of size as well, so that any quantile of them is one look-up."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque


class Window:
    """The last ``size`` values. Adding one is a binary search and one move of at most ``size`` pointers."""

    __slots__ = ("_recent", "_sorted")

    def __init__(self, size: int) -> None:
        self._recent: deque[int] = deque(maxlen=size)
        self._sorted: list[int] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: int) -> None:
        """Add a value; the oldest leaves a full window."""
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(value)
        insort(self._sorted, value)

    def order(self, rank: int) -> int:
        """The ``rank``-th smallest value, counted from 1. A rank beyond either end means that end."""
        return self._sorted[min(max(rank, 1), len(self._sorted)) - 1]

    def quantile(self, q: float) -> int:
        """The smallest value that a share of at least ``q`` of the window does not exceed: of rank ceil(q n)."""
        return self.order(math.ceil(q * len(self._sorted)))
