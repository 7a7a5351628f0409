"""Sees from outside that the rooms of a measured run are in a deadlock, and names them.

The cores live in processes of their own, so nobody sees all of them at one moment. But a deadlock stays: when two looks
at every group, some time apart, find that not a single event was recorded in between and that rooms wait for each other
in both, then they also did at every moment between the looks, which makes them one consistent picture.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.deadlock import Deadlock, Demand, find_deadlock
from protocol.rank import RoomKey
from protocol.topology import RankId
from real.orders import Holdings

LOOK_S = 0.4
"""Time between two looks, and how long nothing must have been concluded before the first: a hundred times what the
slowest message takes on a busy host, so that what is on its way arrives between two looks and spoils the picture."""


class _Seen:
    """What a rank said, in the form that the detector takes."""

    def __init__(self, holdings: Holdings) -> None:
        self.rank_id = holdings.rank_id
        self._held = dict(holdings.held)
        self._queues = [[Demand(key, blocks) for key, blocks in queue] for queue in holdings.queues]
        self._usable = dict(holdings.usable)

    def held_blocks(self) -> dict[RoomKey, int]:
        return self._held

    def queues(self) -> list[list[Demand]]:
        return self._queues

    def usable_blocks(self, key: RoomKey) -> int:
        return self._usable[key]


class Standstill:
    """Collects what the groups' first ranks hold, look after look, and compares each with the one before."""

    def __init__(self) -> None:
        self.number = 0
        """Of the look that is going on; its answers carry it."""
        self._asked: set[RankId] = set()
        self._answers: dict[RankId, Holdings] = {}
        self._before: Mapping[RankId, Holdings] = {}

    def begin(self, asked: set[RankId]) -> int:
        """Begin a look at these ranks; an unfinished one is given up. Returns its number."""
        self.number += 1
        self._asked = asked
        self._answers = {}
        return self.number

    def forget(self) -> None:
        """Something moved: what was seen before is of no use."""
        self._before = {}
        self._asked = set()

    def add(self, holdings: Holdings) -> Deadlock | None:
        """Take one answer; the deadlock when it completes the second look at one."""
        if holdings.number != self.number or holdings.rank_id not in self._asked:
            return None
        self._answers[holdings.rank_id] = holdings
        if self._answers.keys() != self._asked:
            return None
        before, self._before = self._before, self._answers
        if not before or before.keys() != self._answers.keys():
            return None
        if any(before[rank_id].events != one.events for rank_id, one in self._answers.items()):
            return None
        if _deadlock_in(before) is None:
            return None
        return _deadlock_in(self._answers)


def _deadlock_in(answers: Mapping[RankId, Holdings]) -> Deadlock | None:
    # Sorted, so that one deadlock reads the same after every look.
    return find_deadlock([_Seen(answers[rank_id]) for rank_id in sorted(answers)])
