"""The block pool: every block is free, owned by one room, or fenced.

Nobody reads a fenced block any more, but its writer may still be writing into it. It becomes free only when that writer
is known to be quiet, so a late write never lands in the next owner's data.

Neighbours are worth keeping together: a chunk whose blocks follow each other on both sides is moved in one segment per
buffer kind instead of one per block. So the pool knows its free blocks as runs of neighbours, gives a room the shortest
run that is long enough, and takes from the longest ones only when none is. Whose the other blocks are stands in lists
by block number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator
from typing import final

from bufferlab.protocol.errors import OwnershipError


@final
class BlockPool:
    """A fixed set of block numbers ``0 .. blocks-1``."""

    __slots__ = ("_ends", "_fenced", "_numbers", "_owner", "_starts", "blocks", "free")

    free: int
    """Number of blocks nobody owns and no writer may touch."""

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ValueError(f"a pool has at least one block, not {blocks}")
        self.blocks = blocks
        self.free = blocks
        self._numbers = tuple(range(blocks))
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
        self.free -= count
        best = self._shortest_run(count)
        if best >= 0:
            start = self._take(best, count)
            self._give(start, start + count, owner)
            return self._numbers[start : start + count]
        taken: list[int] = []
        while count:  # no run has as many: from the longest ones, and of equal ones from the first
            longest, length = self._longest_run()
            length = min(length, count)
            start = self._take(longest, length)
            self._give(start, start + length, owner)
            taken.extend(range(start, start + length))
            count -= length
        return tuple(taken)

    def _give(self, start: int, end: int, owner: Hashable) -> None:
        for block in range(start, end):
            self._owner[block] = owner

    def _shortest_run(self, count: int) -> int:
        """The shortest run of at least ``count`` blocks, the first of several; -1 if there is none."""
        best = -1
        least = self.blocks + 1
        starts, ends = self._starts, self._ends
        for index in range(len(starts)):
            length = ends[index] - starts[index]
            if length == count:
                return index
            if count < length < least:
                best = index
                least = length
        return best

    def _longest_run(self) -> tuple[int, int]:
        """The longest run, the first of several, and its length."""
        lengths = [end - start for start, end in zip(self._starts, self._ends, strict=True)]
        length = max(lengths)
        return lengths.index(length), length

    def _take(self, index: int, count: int) -> int:
        """Take the first ``count`` blocks of a run; return the first of them."""
        start = self._starts[index]
        if start + count == self._ends[index]:
            del self._starts[index], self._ends[index]
        else:
            self._starts[index] = start + count
        return start

    def release(self, blocks: tuple[int, ...], owner: Hashable) -> None:
        """Make ``blocks`` free. Raises OwnershipError, and changes nothing, unless ``owner`` has them."""
        runs = self._checked(blocks, owner, self._owner, "owned")
        _mark(runs, self._owner, None)
        self._return(runs)

    def fence(self, blocks: tuple[int, ...], owner: Hashable) -> None:
        """Take ``blocks`` from ``owner`` without freeing them: their writer is not known to be quiet."""
        runs = self._checked(blocks, owner, self._owner, "owned")
        _mark(runs, self._owner, None)
        _mark(runs, self._fenced, owner)

    def unfence(self, blocks: tuple[int, ...], owner: Hashable) -> None:
        """Free fenced ``blocks``: the writer of their former ``owner`` is quiet now."""
        runs = self._checked(blocks, owner, self._fenced, "fenced")
        _mark(runs, self._fenced, None)
        self._return(runs)

    def _return(self, runs: list[int]) -> None:
        for place in range(0, len(runs), 2):
            self.free += runs[place + 1] - runs[place]
            self._join(runs[place], runs[place + 1])

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
        self, blocks: tuple[int, ...], owner: Hashable, holders: list[Hashable | None], what: str
    ) -> list[int]:
        """``blocks`` as runs. Raises OwnershipError unless ``owner`` holds each of them, and each is named once."""
        runs = _runs(blocks)
        for place in range(0, len(runs), 2):
            if not _hold(holders, runs[place], runs[place + 1], owner):
                found = [(block, holders[block] if 0 <= block < self.blocks else None) for block in blocks]
                block, holder = next(pair for pair in found if pair[1] is None or pair[1] != owner)
                raise OwnershipError(f"block {block} is not {what} by {owner}, but by {holder}")
        return runs


def _mark(runs: list[int], holders: list[Hashable | None], holder: Hashable | None) -> None:
    for place in range(0, len(runs), 2):
        for block in range(runs[place], runs[place + 1]):
            holders[block] = holder


def _hold(holders: list[Hashable | None], start: int, end: int, owner: Hashable) -> bool:
    """Whether the blocks from ``start`` to before ``end`` are all there and all with ``owner``."""
    if owner is None or start < 0 or end > len(holders):
        return False
    for block in range(start, end):
        holder = holders[block]
        if holder is not owner and holder != owner:
            return False
    return True


def _runs(blocks: tuple[int, ...]) -> list[int]:
    """Runs of neighbours among ``blocks``, ascending: of each the first block and the one after its last.

    Raises OwnershipError for a block that is named twice.
    """
    runs: list[int] = []
    start = end = -1
    for block in blocks:
        if block == end:
            end += 1
            continue
        if block < end or block < 0:
            return _runs_of_unordered(blocks)
        if end >= 0:
            runs.append(start)
            runs.append(end)
        start = block
        end = block + 1
    if end >= 0:
        runs.append(start)
        runs.append(end)
    return runs


def _runs_of_unordered(blocks: tuple[int, ...]) -> list[int]:
    if len(set(blocks)) != len(blocks):
        raise OwnershipError(f"blocks {blocks} name a block twice")
    ascending = sorted(blocks)
    if ascending[0] < 0:
        return [ascending[0], ascending[0] + 1]  # nobody holds that one
    return _runs(tuple(ascending))
