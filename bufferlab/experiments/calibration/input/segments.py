"""How many segments each write of a recorded run had.

Events tell bytes, not segments. But which blocks a room had follows from the order in which the ranks took and returned
blocks, since their pools give them out by a rule (``protocol.allocator``): the pools are filled and emptied once more,
event by event, and the segments of a write counted as the backend counted them.
"""

from __future__ import annotations

from bufferlab.protocol.allocator import BlockPool
from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.disciplines import DISCIPLINES, Discipline
from bufferlab.protocol.errors import OwnershipError, ProtocolError
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.network.transfer import count_segments

ALL_FREE = 1 << 62


class Pools:
    """The pools of all ranks of one replication, and which room has which blocks of them.

    ``lengths``: total tokens of every room. ``resume_tokens``: as in the configuration. ``lost``: ranks whose pool
    went on differently from what the events say, so that nothing is known of it any more.
    """

    def __init__(
        self,
        layout: BufferLayout,
        discipline: str,
        *,
        encode_blocks: int,
        language_blocks: int,
        lengths: dict[int, int],
        resume_tokens: int | None,
    ) -> None:
        self._layout = layout
        self._discipline: Discipline = DISCIPLINES[discipline]()
        self._sizes = {Side.ENCODE: encode_blocks, Side.LANGUAGE: language_blocks}
        self._lengths = lengths
        self._resume_tokens = resume_tokens
        self._pools: dict[RankId, BlockPool] = {}
        self._held: dict[tuple[RankId, int], tuple[int, ...]] = {}
        self._got: dict[tuple[RankId, int], int] = {}
        self.lost: set[RankId] = set()

    def take(self, record: Record) -> None:
        """Follow one event; they must come in the order of their times."""
        if record.rank_id in self.lost:
            return
        try:
            self._follow(record)
        except (OwnershipError, ProtocolError, ValueError):
            self.lost.add(record.rank_id)

    def segments(self, record: Record, destination: RankId, start_tokens: int) -> int | None:
        """Segments of the write whose WRITE_DONE ``record`` is; None if that is not known."""
        if record.rank_id in self.lost or destination in self.lost:
            return None
        source = self._held.get((record.rank_id, record.room), ())
        target = self._held.get((destination, record.room), ())
        chunk = Chunk(start_tokens, record.tokens - start_tokens, is_last=False)
        blocks = self._layout.blocks_for(chunk.tokens)
        first = start_tokens // self._layout.block_tokens
        if len(target) < blocks or len(source) < first + blocks:
            return None
        return count_segments(self._layout, chunk, source, target)

    def _follow(self, record: Record) -> None:
        key = (record.rank_id, record.room)
        if record.event is Event.ENCODE_STARTED:
            self._held[key] = self._allocate(record, self._layout.blocks_for(record.tokens))
        elif record.event is Event.CHUNK_RECEIVED:
            self._got[key] = record.tokens
        elif record.event is Event.ALLOCATED:
            self._change(record, record.tokens // self._layout.block_tokens)
        elif record.event is Event.RELEASED:
            self._got.pop(key, None)
            blocks = self._held.pop(key, ())
            if blocks:
                self._pool(record.rank_id).release(blocks, record.room)

    def _change(self, record: Record, blocks: int) -> None:
        """A language room has so many blocks from now on; which of its own it keeps is up to the discipline."""
        key = (record.rank_id, record.room)
        held = self._held.get(key, ())
        keep = 0
        if blocks and self._got.get(key):
            missing = self._lengths[record.room] - self._got[key]
            asked = missing if self._resume_tokens is None else min(missing, self._resume_tokens)
            grant = self._discipline.resume(len(held), self._layout.blocks_for(asked), ALL_FREE)
            keep = grant.keep if grant is not None else 0
        # New blocks are taken before the old ones are returned, except where a discipline frees first.
        taken = self._allocate(record, blocks - keep) if blocks > keep else ()
        if held[keep:]:
            self._pool(record.rank_id).release(held[keep:], record.room)
        self._held[key] = held[:keep] + taken

    def _allocate(self, record: Record, blocks: int) -> tuple[int, ...]:
        taken = self._pool(record.rank_id).allocate(blocks, record.room)
        if taken is None:
            raise ProtocolError(f"{record.rank_id} has fewer than {blocks} free blocks")
        return taken

    def _pool(self, rank_id: RankId) -> BlockPool:
        if rank_id not in self._pools:
            self._pools[rank_id] = BlockPool(self._sizes[rank_id.side])
        return self._pools[rank_id]
