"""What a rank says of its blocks: which rooms hold some, and which wait for some. Whoever looks for deadlocks asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple, Protocol

from protocol.rank import RoomKey
from protocol.topology import RankId


class Demand(NamedTuple):
    """A room that waits for ``blocks`` more blocks."""

    key: RoomKey
    blocks: int


class Holder(Protocol):
    """What a rank core says about its pool.

    A room that holds nothing waits for no more than it could be given if nobody else held any: more would be refused.
    """

    rank_id: RankId

    def held_blocks(self) -> dict[RoomKey, int]:
        """Blocks of every room that holds some and is not over."""

    def queues(self) -> Sequence[Iterable[Demand]]:
        """Rooms that wait for blocks of this rank. Each queue is served in order, and no queue waits for another.

        They may be long: whoever reads one may stop early.
        """

    def waiting_among(self, keys: Set[RoomKey]) -> Sequence[Iterable[RoomKey]]:
        """Those of these rooms that wait in each of the queues, in any order."""

    def usable_blocks(self, key: RoomKey) -> int:
        """Blocks the waiting room ``key`` could be given if nobody else held any."""
