"""What a process has to do later, by the time at which it is due."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Agenda(Generic[Item]):
    """Items in the order in which they are due; those of one moment in the order in which they were added.

    Times are of one clock, whichever the owner keeps to.
    """

    def __init__(self) -> None:
        self._items: list[tuple[float, int, Item]] = []
        self._count = 0

    def add(self, due_s: float, item: Item) -> None:
        """Have ``item`` due at ``due_s``."""
        self._count += 1
        heapq.heappush(self._items, (due_s, self._count, item))

    def due(self, now_s: float) -> Iterator[Item]:
        """Take out what is due by ``now_s``, also what is added to it meanwhile."""
        while self._items and self._items[0][0] <= now_s:
            yield heapq.heappop(self._items)[2]

    @property
    def times_s(self) -> list[float]:
        """When the items are due, the first one first and the others in no order."""
        return [due_s for due_s, _, _ in self._items]

    @property
    def next_s(self) -> float:
        """When the first one is due; infinite when there is none."""
        return self._items[0][0] if self._items else math.inf

    @property
    def last_s(self) -> float:
        """When the last one is due; minus infinity when there is none."""
        return max((due_s for due_s, _, _ in self._items), default=-math.inf)
