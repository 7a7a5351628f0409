"""The block pool: every block is free, owned by one room, or fenced.

Nobody reads a fenced block any more, but its writer may still be writing into it. It becomes free only when that writer
is known to be quiet, so a late write never lands in the next owner's data.

Neighbours are worth keeping together: a chunk whose blocks follow each other on both sides is moved in one segment per
buffer kind instead of one per block. So the pool knows its free blocks as runs of neighbours, gives a room the shortest
run that is long enough, and takes from the longest ones only when none is. Whose the other blocks are stands in lists
by block number, so a run of neighbours changes hands as one slice, however many blocks it has.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain
from typing import final

from protocol.errors import OwnershipError


@final
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
        self._owner: list[Hashable | None] = [None] * blocks
        self._fenced: list[Hashable | None] = [None] * blocks  # the former owners, whose writers may still write

    @property
    def fenced(self) -> int:
        """Number of blocks that wait for their writer to fall quiet."""
        return self.blocks - self._fenced.count(None)

    def free_blocks(self) -> Iterator[int]:
        """The free blocks, ascending."""
        for start, end in zip(self._starts, self._ends, strict=True):
            yield from range(start, end)

    def owner(self, block: int) -> Hashable | None:
        """Who owns ``block``; None when it is free or fenced."""
        return self._owner[block] if 0 <= block < self.blocks else None

    def fenced_for(self, block: int) -> Hashable | None:
        """The former owner whose writer ``block`` waits for; None when it is not fenced."""
        return self._fenced[block] if 0 <= block < self.blocks else None

    def allocate(self, count: int, owner: Hashable) -> tuple[int, ...] | None:
        """Give ``count`` blocks to ``owner``, or None (and nothing changed) when fewer are free.

        The blocks are neighbours if some run of free blocks is long enough, and otherwise in as few runs as possible.
        """
        if count < 1:
            raise ValueError(f"an allocation has at least one block, not {count}")
        if count > self.free:
            return None
        best = self._shortest_run(count)
        runs = self._take_longest(count) if best is None else [self._take(best, count)]
        self.free -= count
        self._mark(runs, self._owner, owner)
        return tuple(runs[0]) if len(runs) == 1 else tuple(chain.from_iterable(runs))

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

    def _take_longest(self, count: int) -> list[range]:
        """Take ``count`` blocks when no run has as many: from the longest runs, and of equal ones from the first."""
        taken: list[range] = []
        while count:
            lengths = [end - start for start, end in zip(self._starts, self._ends, strict=True)]
            longest = max(lengths)
            taken.append(self._take(lengths.index(longest), min(longest, count)))
            count -= len(taken[-1])
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
        self._mark(returned, self._owner, None)
        self._return(returned)

    def fence(self, blocks: Iterable[int], owner: Hashable) -> None:
        """Take ``blocks`` from ``owner`` without freeing them: their writer is not known to be quiet."""
        taken = self._checked(blocks, owner, self._owner, "owned")
        self._mark(taken, self._owner, None)
        self._mark(taken, self._fenced, owner)

    def unfence(self, blocks: Iterable[int], owner: Hashable) -> None:
        """Free fenced ``blocks``: the writer of their former ``owner`` is quiet now."""
        returned = self._checked(blocks, owner, self._fenced, "fenced")
        self._mark(returned, self._fenced, None)
        self._return(returned)

    @staticmethod
    def _mark(runs: list[range], holders: list[Hashable | None], holder: Hashable | None) -> None:
        for run in runs:
            holders[run.start : run.stop] = [holder] * len(run)

    def _return(self, runs: list[range]) -> None:
        for run in runs:
            self.free += len(run)
            self._join(run.start, run.stop)

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

    def _checked(
        self, blocks: Iterable[int], owner: Hashable, holders: list[Hashable | None], what: str
    ) -> list[range]:
        """``blocks`` as runs. Raises OwnershipError unless ``owner`` holds each of them, and each is named once."""
        listed = tuple(blocks)
        if len(set(listed)) != len(listed):
            raise OwnershipError(f"blocks {listed} name a block twice")
        runs = _runs(sorted(listed))
        for run in runs:
            if owner is None or run.start < 0 or holders[run.start : run.stop].count(owner) != len(run):
                found = [(block, holders[block] if 0 <= block < self.blocks else None) for block in listed]
                block, holder = next(pair for pair in found if pair[1] is None or pair[1] != owner)
                raise OwnershipError(f"block {block} is not {what} by {owner}, but by {holder}")
        return runs


def _runs(blocks: list[int]) -> list[range]:
    """Ascending ``blocks`` as runs of neighbours, each found by bisection: few runs of many blocks are the rule."""
    runs: list[range] = []
    first, end = 0, len(blocks)
    while first < end:
        start = blocks[first]
        stop = end
        if blocks[-1] - start != end - first - 1:  # the rest is not one run
            stop = bisect_right(range(end), start - first, first, key=lambda index: blocks[index] - index)
        runs.append(range(start, start + stop - first))
        first = stop
    return runs
