"""What a rank says of its blocks to the deadlock probe: which rooms hold some, and which wait for some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple, Protocol

from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.topology import RankId


class Demand(NamedTuple):
    """A room that waits for ``blocks`` more blocks."""

    key: RoomKey
    blocks: int


class Holder(Protocol):
    """What a rank core says about its pool.

    A room that holds no blocks never waits for more than it could be given if nobody else held any: such a demand is
    refused.
    """

    rank_id: RankId

    def held_blocks(self) -> dict[RoomKey, int]:
        """Blocks of every room that holds some and is not over."""

    def queues(self) -> Sequence[Iterable[Demand]]:
        """Rooms that wait for blocks of this rank. Each queue is served in order, and no queue waits for another.

        Queues may be long, and a caller may stop reading one early.
        """

    def waiting_among(self, keys: Set[RoomKey]) -> Sequence[Iterable[RoomKey]]:
        """For each queue, the rooms among ``keys`` that wait in it, in any order."""

    def usable_blocks(self, key: RoomKey) -> int:
        """Blocks the waiting room ``key`` could be given if nobody else held any."""
