"""Finds rooms that wait for each other for ever, and names them.

A room may hold blocks of one pool while it waits for blocks of the same or of another one. It is stuck when it could
not go on even if every room that is not stuck ended and gave back all it holds. The stuck rooms are what is left of
this reduction, which serves the queues in the order the cores do: a room whose demand is met is taken to end, whatever
it may ask for later, so nothing is called a deadlock that might still resolve itself.

Ranks of a group hold the same and wait alike, so rank 0 speaks for its group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.waits import Demand, Holder


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


class _Queue:
    """One queue while the reduction runs. ``head``: the room to be served next. ``holders``: those that hold blocks."""

    def __init__(self, demands: Iterable[Demand], holders: Iterable[RoomKey]) -> None:
        self._rest = iter(demands)
        self.head = next(self._rest, None)
        self.holders = set(holders)

    def advance(self, key: RoomKey) -> bool:
        """Take the room at the head to end; whether it held anything."""
        self.head = next(self._rest, None)
        if key not in self.holders:
            return False
        self.holders.remove(key)
        return True

    def left(self) -> Iterator[Demand]:
        """The rooms that were not served; nothing is left of the queue then."""
        if self.head is not None:
            yield self.head
        yield from self._rest


class _Pool:
    """One group's pool while the reduction runs; ``stuck_held``: what rooms hold that wait and were not served yet."""

    def __init__(self, core: Holder) -> None:
        self.core = core
        self.name = f"{core.rank_id.side.value}{core.rank_id.instance}"
        self.held = core.held_blocks()
        self.queues: list[_Queue] = []
        self.stuck_held = 0

    def serve(self, pools: Sequence[_Pool], *, whole: bool) -> bool:
        """Serve every queue as far as that goes, not beyond its last holder unless ``whole``; whether any was."""
        served = False
        for queue in self.queues:
            while (queue.holders or whole) and (head := queue.head) is not None:
                if head.blocks > self.core.usable_blocks(head.key) - self.stuck_held:
                    break
                served = True
                if queue.advance(head.key):
                    for pool in pools:
                        pool.stuck_held -= pool.held.get(head.key, 0)
        return served


def find_deadlock(cores: Iterable[Holder]) -> Deadlock | None:
    """The deadlock that the rooms of ``cores`` are in, or None. Nothing is changed.

    Rooms that wait and hold nothing may be many, but it is for those that hold something that others cannot be served.
    So queues are read as far as the last of these, and to their ends only where there is a deadlock to tell of.
    """
    pools = [_Pool(core) for core in cores if core.rank_id.rank == 0]
    holders = {key for pool in pools for key in pool.held}
    for pool in pools:
        pool.queues = [*map(_Queue, pool.core.queues(), pool.core.waiting_among(holders))]
        for key in (key for queue in pool.queues for key in queue.holders):
            for one in pools:
                one.stuck_held += one.held.get(key, 0)
    while any(pool.serve(pools, whole=False) for pool in pools):
        pass
    if not any(queue.holders for pool in pools for queue in pool.queues):
        return None
    for pool in pools:
        pool.serve(pools, whole=True)
    waiting = {demand.key: (pool, demand) for pool in pools for queue in pool.queues for demand in queue.left()}
    return Deadlock(_cycle(pools, waiting), len(waiting))


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
