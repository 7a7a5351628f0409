"""Sees from outside that the rooms of a measured run are in a deadlock, and names them.

The cores live in processes of their own, so nobody sees all of them at one moment. But a deadlock stays. So the
probe looks at every group twice, some time apart. If rooms wait for each other in both looks, and no room that holds
blocks and waits for more recorded an event in between, then they also waited for each other at every moment between the
looks, and the looks make one consistent picture. Other rooms may come and go meanwhile: they hold nothing that these
rooms wait for, or give it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from bufferlab.protocol.observe.deadlock import Deadlock, find_deadlock
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.topology import RankId
from bufferlab.protocol.waits import Demand
from bufferlab.real.run.commands import Holdings

LOOK_S = 0.4
"""Time between two looks, and how long an instance must have concluded nothing before the first: a hundred times what
the slowest message takes on a busy host, so that what is on its way comes between two looks and spoils the picture."""

LOOKS_PER_TIMEOUT = 5
"""Two looks must be over before the timers end what they are to see; where these are short, looks are closer."""


def look_s(timeout_s: float | None) -> float:
    """Time between two looks in a run with these timers."""
    return LOOK_S if timeout_s is None else min(LOOK_S, max(timeout_s / LOOKS_PER_TIMEOUT, 0.02))


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

    def waiting_among(self, keys: Set[RoomKey]) -> list[list[RoomKey]]:
        return [[demand.key for demand in queue if demand.key in keys] for queue in self._queues]

    def usable_blocks(self, key: RoomKey) -> int:
        return self._usable[key]


class DeadlockProbe:
    """Collects what the groups' first ranks hold, look after look, and compares each with the one before."""

    def __init__(self) -> None:
        self.number = 0
        """The number of the look that is going on; the answers to it carry this number."""
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
        if not _caught(before).items() <= _caught(self._answers).items():
            return None
        first, second = _deadlock_in(before), _deadlock_in(self._answers)
        if first is None or second is None or rooms_of(first) != rooms_of(second):
            return None
        return second


def rooms_of(deadlock: Deadlock) -> frozenset[int]:
    """The rooms in its cycle."""
    return frozenset(stuck.room for stuck in deadlock.cycle)


def _caught(answers: Mapping[RankId, Holdings]) -> dict[tuple[RankId, RoomKey], tuple[int, int]]:
    """What rooms that wait for blocks somewhere hold of each pool, and the last event of each there."""
    waiting = {key for one in answers.values() for queue in one.queues for key, _ in queue}
    return {
        (rank_id, key): (dict(one.held)[key], last)
        for rank_id, one in answers.items()
        for key, last in one.moves
        if key in waiting
    }


def _deadlock_in(answers: Mapping[RankId, Holdings]) -> Deadlock | None:
    # Sorted, so that one deadlock reads the same after every look.
    return find_deadlock([_Seen(answers[rank_id]) for rank_id in sorted(answers)])
