"""The block pool: every block is free, owned by one room, or fenced.

A fenced block has no reader any more but a writer that may still be writing. It becomes free only when that writer is
known to be quiet, so a late write never lands in the next owner's data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

from protocol.errors import OwnershipError


class BlockPool:
    """A fixed set of block numbers ``0 .. blocks-1``, handed out first-in first-out."""

    __slots__ = ("_fenced", "_free", "_owner", "blocks")

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ValueError(f"a pool has at least one block, not {blocks}")
        self.blocks = blocks
        self._free: deque[int] = deque(range(blocks))
        self._owner: dict[int, Hashable] = {}
        self._fenced: dict[int, Hashable] = {}

    @property
    def free(self) -> int:
        """Number of blocks nobody owns and no writer may touch."""
        return len(self._free)

    @property
    def fenced(self) -> int:
        """Number of blocks that wait for their writer to fall quiet."""
        return len(self._fenced)

    def owner(self, block: int) -> Hashable | None:
        """Who owns ``block``; None when it is free or fenced."""
        return self._owner.get(block)

    def fenced_for(self, block: int) -> Hashable | None:
        """The former owner whose writer ``block`` waits for; None when it is not fenced."""
        return self._fenced.get(block)

    def allocate(self, count: int, owner: Hashable) -> tuple[int, ...] | None:
        """Give ``count`` blocks to ``owner``, or None (and nothing changed) when fewer are free."""
        if count < 1:
            raise ValueError(f"an allocation has at least one block, not {count}")
        if count > len(self._free):
            return None
        take = self._free.popleft
        blocks = tuple([take() for _ in range(count)])
        self._owner.update(dict.fromkeys(blocks, owner))
        return blocks

    def release(self, blocks: Iterable[int], owner: Hashable) -> None:
        """Return ``blocks`` to the free list. Raises OwnershipError, and changes nothing, unless ``owner`` has them."""
        returned = self._checked(blocks, owner, self._owner, "owned")
        for block in returned:
            del self._owner[block]
        self._free.extend(returned)

    def fence(self, blocks: Iterable[int], owner: Hashable) -> None:
        """Take ``blocks`` from ``owner`` without freeing them: their writer is not known to be quiet."""
        for block in self._checked(blocks, owner, self._owner, "owned"):
            del self._owner[block]
            self._fenced[block] = owner

    def unfence(self, blocks: Iterable[int], owner: Hashable) -> None:
        """Free fenced ``blocks``: the writer of their former ``owner`` is quiet now."""
        returned = self._checked(blocks, owner, self._fenced, "fenced")
        for block in returned:
            del self._fenced[block]
        self._free.extend(returned)

    @staticmethod
    def _checked(blocks: Iterable[int], owner: Hashable, holders: dict[int, Hashable], what: str) -> tuple[int, ...]:
        listed = tuple(blocks)
        if len(set(listed)) != len(listed):
            raise OwnershipError(f"blocks {listed} name a block twice")
        for block in listed:
            if (holder := holders.get(block)) is not owner and holder != owner:
                raise OwnershipError(f"block {block} is not {what} by {owner}, but by {holders.get(block)}")
        return listed
