"""Finds rooms that wait for each other for ever, and names them.

A room may hold blocks of one pool while it waits for blocks of the same or of another one. It is stuck when it could
not go on even if every room that is not stuck ended and gave back all it holds. The stuck rooms are what is left of
this reduction, which serves the queues in the order the cores do: a room whose demand is met is taken to end, whatever
it may ask for later, so nothing is called a deadlock that might still resolve itself.

Ranks of a group hold the same and wait alike, so rank 0 speaks for its group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from protocol.rank import RoomKey
from protocol.waits import Demand, Holder


class StuckRoom(NamedTuple):
    """One room of a deadlock: it waits for ``needs`` blocks at ``pool``, and holds ``holds`` (pool, blocks)."""

    room: int
    pool: str
    needs: int
    holds: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        held = " and ".join(f"{blocks} of {pool}" for pool, blocks in self.holds) or "nothing"
        return f"room {self.room} holds {held} and waits for {self.needs} of {self.pool}"


class Deadlock(NamedTuple):
    """Rooms in a cycle: each waits for a pool of which the next one holds blocks, the last for the first one's.

    ``stuck``: all rooms that can never go on, in the cycle or behind it.
    """

    cycle: tuple[StuckRoom, ...]
    stuck: int

    def __str__(self) -> str:
        return f"{'; '.join(map(str, self.cycle))} ({self.stuck} rooms are stuck)"


class _Pool:
    """One group's pool while the reduction runs. ``heads``: how far each of its queues has been served."""

    def __init__(self, core: Holder) -> None:
        self.core = core
        self.name = f"{core.rank_id.side.value}{core.rank_id.instance}"
        self.held = core.held_blocks()
        self.queues = [list(queue) for queue in core.queues()]
        self.heads = [0] * len(self.queues)


def find_deadlock(cores: Iterable[Holder]) -> Deadlock | None:
    """The deadlock that the rooms of ``cores`` are in, or None. Nothing is changed."""
    pools = [_Pool(core) for core in cores if core.rank_id.rank == 0]
    waiting = {demand.key: (pool, demand) for pool in pools for queue in pool.queues for demand in queue}
    stuck_held = [sum(pool.held.get(key, 0) for key in waiting) for pool in pools]
    progress = True
    while progress:
        progress = False
        for number, pool in enumerate(pools):
            for index, queue in enumerate(pool.queues):
                while pool.heads[index] < len(queue):
                    key, blocks = queue[pool.heads[index]]
                    if blocks > pool.core.usable_blocks(key) - stuck_held[number]:
                        break
                    pool.heads[index] += 1
                    progress = True
                    del waiting[key]
                    for other, one in enumerate(pools):
                        stuck_held[other] -= one.held.get(key, 0)
    return Deadlock(_cycle(pools, waiting), len(waiting)) if waiting else None


def _cycle(pools: Sequence[_Pool], waiting: dict[RoomKey, tuple[_Pool, Demand]]) -> tuple[StuckRoom, ...]:
    """Follow from a room to one that holds what it waits for, until a room comes again."""
    path: list[RoomKey] = []
    key = min(waiting)
    while key not in path:
        path.append(key)
        pool, _ = waiting[key]
        holders = [one for one in pool.held if one in waiting]
        # Another room than itself, if there is one: a room is rarely stuck all by itself.
        key = min((one for one in holders if one != key), default=key)
    return tuple(_stuck(pools, *waiting[one]) for one in path[path.index(key) :])


def _stuck(pools: Sequence[_Pool], pool: _Pool, demand: Demand) -> StuckRoom:
    holds = tuple((one.name, one.held[demand.key]) for one in pools if demand.key in one.held)
    return StuckRoom(demand.key[0], pool.name, demand.blocks, holds)
