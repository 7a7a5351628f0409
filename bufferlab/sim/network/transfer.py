"""What a write costs before it moves, and the transfer worker of a link that nobody shares."""

from __future__ import annotations

from typing import final

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.layout import AUX, BufferLayout
from bufferlab.protocol.messages import StartWrite
from bufferlab.protocol.topology import RankId
from bufferlab.sim.network.times import LinkTimes


def count_segments(
    layout: BufferLayout, chunk: Chunk, source_blocks: tuple[int, ...], target_blocks: tuple[int, ...]
) -> int:
    """``len(layout.segments(...))`` without building them.

    Every kind but aux is cut at the same places: where the next block is no neighbour on either side.
    """
    first = chunk.start_token // layout.block_tokens
    runs = 0
    source = target = -1  # the neighbours of the last blocks
    for number in range(layout.blocks_for(chunk.tokens)):
        if source_blocks[first + number] != source or target_blocks[number] != target:
            source, target = source_blocks[first + number], target_blocks[number]
            runs += 1
        source += 1
        target += 1
    kinds = len(layout.kinds)
    return runs * (kinds - (kinds > AUX)) + (chunk.start_token == 0)


@final
class Contacts:
    """Which ranks have a connection already. The first write between two of them makes it, and waits for it.

    One object serves all workers of a run, because a connection belongs to the ranks and not to their threads.
    """

    __slots__ = ("_first_contact_s", "_ready_s")

    def __init__(self, first_contact_s: float) -> None:
        self._first_contact_s = first_contact_s
        self._ready_s: dict[tuple[RankId, RankId], float] = {}

    def wait_s(self, writer: RankId, destination: RankId, begin_s: float) -> float:
        """How long a write that begins at ``begin_s`` waits for the connection, seconds.

        A write that begins while the connection is being made waits for the rest of that time.
        """
        if not self._first_contact_s:
            return 0.0
        pair = (writer, destination)
        known_s = self._ready_s.get(pair)
        if known_s is not None and known_s <= begin_s:
            return 0.0
        ready_s = begin_s + self._first_contact_s
        if known_s is not None and known_s < ready_s:
            ready_s = known_s
        self._ready_s[pair] = ready_s
        return ready_s - begin_s

    def forget(self, rank: RankId) -> None:
        """Forget all connections of a rank, because it has restarted."""
        for pair in [pair for pair in self._ready_s if rank in pair]:
            del self._ready_s[pair]


@final
class TransferWorker:
    """The one thread of an encode rank that writes, first come, first served, one destination after another.

    For links that nobody shares: durations are known when a write is queued, so a queue is not needed, the worker is a
    moment at which it is free. ``sim.network.worker.QueuedWorker`` is the one for all links, and agrees where both
    apply.

    ``contacts`` charges for the first write of ``rank`` to each destination; None leaves that out. The charge is exact
    for one worker per rank; a restart changes nothing for the writes that are queued already.
    """

    __slots__ = ("_contacts", "_layout", "_link", "_rank", "busy_s", "free_s", "work_s")

    def __init__(
        self, link: LinkTimes, layout: BufferLayout, rank: RankId | None = None, contacts: Contacts | None = None
    ) -> None:
        self._link = link
        self._layout = layout
        self._rank = rank
        self._contacts = contacts
        self.free_s = 0.0
        self.busy_s = 0.0
        self.work_s = 0.0  # of the adapters

    def queue(self, now: float, bytes_: int, write: StartWrite) -> float:
        """Queue a write of so many bytes at time ``now`` and return when it ends, both in seconds."""
        link = self._link
        # Counting is for links that charge for segments.
        segments = (
            count_segments(self._layout, write.chunk, write.source_blocks, write.target_blocks)
            if link.counts_segments
            else 0
        )
        work_s = link.adapter_s(bytes_, segments)
        duration_s = link.latency_s + link.post_s(segments) + work_s / link.share(bytes_)
        begin_s = max(self.free_s, now)
        if self._contacts is not None and self._rank is not None:
            duration_s += self._contacts.wait_s(self._rank, write.destination, begin_s)
        self.busy_s += duration_s
        self.work_s += work_s
        self.free_s = begin_s + duration_s
        return self.free_s

    def abandon(self) -> None:
        """The process has ended. Nothing is to be done: when its writes would have ended has been told already."""
