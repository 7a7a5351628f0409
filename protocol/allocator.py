"""The block pool: every block is free, owned by one room, or fenced.

Nobody reads a fenced block any more, but its writer may still be writing into it. It becomes free only when that writer
is known to be quiet, so a late write never lands in the next owner's data.

Neighbours are worth keeping together: a chunk whose blocks follow each other on both sides is moved in one segment per
buffer kind instead of one per block. So the pool knows its free blocks as runs of neighbours, gives a room the shortest
run that is long enough, and takes from the longest ones only when none is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator

from protocol.errors import OwnershipError


class BlockPool:
    """A fixed set of block numbers ``0 .. blocks-1``."""

    __slots__ = ("_ends", "_fenced", "_owner", "_starts", "blocks", "free")

    free: int
    """Number of blocks nobody owns and no writer may touch."""

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ValueError(f"a pool has at least one block, not {blocks}")
        self.blocks = blocks
        self.free = blocks
        self._starts = [0]  # of the runs of free blocks, ascending; each ends before its entry in _ends
        self._ends = [blocks]
        self._owner: dict[int, Hashable] = {}
        self._fenced: dict[int, Hashable] = {}

    @property
    def fenced(self) -> int:
        """Number of blocks that wait for their writer to fall quiet."""
        return len(self._fenced)

    def free_blocks(self) -> Iterator[int]:
        """The free blocks, ascending."""
        for start, end in zip(self._starts, self._ends, strict=True):
            yield from range(start, end)

    def owner(self, block: int) -> Hashable | None:
        """Who owns ``block``; None when it is free or fenced."""
        return self._owner.get(block)

    def fenced_for(self, block: int) -> Hashable | None:
        """The former owner whose writer ``block`` waits for; None when it is not fenced."""
        return self._fenced.get(block)

    def allocate(self, count: int, owner: Hashable) -> tuple[int, ...] | None:
        """Give ``count`` blocks to ``owner``, or None (and nothing changed) when fewer are free.

        The blocks are neighbours if some run of free blocks is long enough, and otherwise in as few runs as possible.
        """
        if count < 1:
            raise ValueError(f"an allocation has at least one block, not {count}")
        if count > self.free:
            return None
        best = self._shortest_run(count)
        blocks = tuple(self._take_longest(count)) if best is None else tuple(self._take(best, count))
        self.free -= count
        self._owner.update(dict.fromkeys(blocks, owner))
        return blocks

    def _shortest_run(self, count: int) -> int | None:
        """The shortest run of at least ``count`` blocks, the first of several."""
        best = None
        least = self.blocks + 1
        for index, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            length = end - start
            if length == count:
                return index
            if count < length < least:
                best, least = index, length
        return best

    def _take_longest(self, count: int) -> list[int]:
        """Take ``count`` blocks when no run has as many: from the longest runs, and of equal ones from the first."""
        taken: list[int] = []
        while len(taken) < count:
            lengths = [end - start for start, end in zip(self._starts, self._ends, strict=True)]
            longest = max(lengths)
            taken.extend(self._take(lengths.index(longest), min(longest, count - len(taken))))
        return taken

    def _take(self, index: int, count: int) -> range:
        start = self._starts[index]
        if start + count == self._ends[index]:
            del self._starts[index], self._ends[index]
        else:
            self._starts[index] = start + count
        return range(start, start + count)

    def release(self, blocks: Iterable[int], owner: Hashable) -> None:
        """Make ``blocks`` free. Raises OwnershipError, and changes nothing, unless ``owner`` has them."""
        returned = self._checked(blocks, owner, self._owner, "owned")
        for block in returned:
            del self._owner[block]
        self._return(returned)

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
        self._return(returned)

    def _return(self, blocks: tuple[int, ...]) -> None:
        self.free += len(blocks)
        if not blocks:
            return
        first = blocks[0]
        if blocks == tuple(range(first, first + len(blocks))):
            self._join(first, first + len(blocks))
            return
        first = 0
        for number, block in enumerate(blocks, 1):
            if number == len(blocks) or blocks[number] != block + 1:
                self._join(blocks[first], block + 1)
                first = number

    def _join(self, start: int, end: int) -> None:
        """Add a run of free blocks, as one with its neighbours."""
        starts, ends = self._starts, self._ends
        index = bisect_left(starts, start)
        follows = index > 0 and ends[index - 1] == start
        precedes = index < len(starts) and starts[index] == end
        if follows and precedes:
            ends[index - 1] = ends[index]
            del starts[index], ends[index]
        elif follows:
            ends[index - 1] = end
        elif precedes:
            starts[index] = start
        else:
            starts.insert(index, start)
            ends.insert(index, end)

    @staticmethod
    def _checked(blocks: Iterable[int], owner: Hashable, holders: dict[int, Hashable], what: str) -> tuple[int, ...]:
        listed = tuple(blocks)
        if len(set(listed)) != len(listed):
            raise OwnershipError(f"blocks {listed} name a block twice")
        found = list(map(holders.get, listed))
        if found.count(owner) != len(listed):
            block, holder = next(pair for pair in zip(listed, found, strict=True) if pair[1] != owner)
            raise OwnershipError(f"block {block} is not {what} by {owner}, but by {holder}")
        return listed
