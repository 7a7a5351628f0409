"""The form of a state of the explored world, of a move that leads to the next one, and of what is under way in it."""

from __future__ import annotations

from typing import NamedTuple

from bufferlab.protocol.checker.invariants import Hit, Violation
from bufferlab.protocol.checker.steps import Item
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.topology import RankId

DEAD = -1
"""In place of the local state of a rank that is gone."""


class Move(NamedTuple):
    """One step of a schedule.

    ``kind``: "submit" (the next request reaches ``rank``), "take" (``item`` arrives), "iteration" (the group of
    ``rank``, its first, agrees on an iteration), "timer" (of ``room`` on ``rank``), "follow" (``rank`` ends because
    another of its group has) or the name of a fault, with what it concerns.
    """

    kind: str
    rank: RankId
    item: Item | None = None
    room: RoomKey | None = None


State = tuple[tuple[int, ...], tuple[int, ...], tuple[Hit, ...]]
"""Local states by rank, numbers of the items under way in ascending order, faults that happened."""

Branch = tuple[Move, State, tuple[Violation, ...]]
"""A move, where it leads, and the invariants the step itself breaks."""


def without(under_way: tuple[int, ...], number: int) -> tuple[int, ...]:
    """What is under way, but for one."""
    place = under_way.index(number)
    return under_way[:place] + under_way[place + 1 :]


def with_hit(hits: tuple[Hit, ...], hit: Hit | None) -> tuple[Hit, ...]:
    """The faults that happened, and one more if there is one."""
    return hits if hit is None else tuple(sorted((*hits, hit), key=str))
