"""What a rank says of its blocks: which rooms hold some, and which wait for some. Whoever looks for deadlocks asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from protocol.rank import RoomKey
from protocol.topology import RankId


class Demand(NamedTuple):
    """A room that waits for ``blocks`` more blocks."""

    key: RoomKey
    blocks: int


class Holder(Protocol):
    """What a rank core says about its pool."""

    rank_id: RankId

    def held_blocks(self) -> dict[RoomKey, int]:
        """Blocks of every room that holds some and is not over."""

    def queues(self) -> Sequence[Sequence[Demand]]:
        """Rooms that wait for blocks of this rank. Each queue is served in order, and no queue waits for another."""

    def usable_blocks(self, key: RoomKey) -> int:
        """Blocks the waiting room ``key`` could be given if nobody else held any."""
