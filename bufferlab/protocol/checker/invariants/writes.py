"""Invariants of a write under way: whose blocks it reads and writes, and of which chunk it is."""

from __future__ import annotations

from collections.abc import Iterator

from bufferlab.protocol.checker.invariants.base import (
    Write,
    blocks_of,
    on_write,
    state_of,
)
from bufferlab.protocol.language import LanguageRoom


@on_write(2)
def _write_targets_its_own_room(under_way: Write) -> Iterator[str]:
    write, _, target = under_way
    if target is None:
        return
    pool, key = target.core.pool, (write.room, write.incarnation)
    for block in write.target_blocks[: blocks_of(write.chunk.tokens)]:
        if key not in (pool.owner(block), pool.fenced_for(block)):
            yield f"chunk {write.epoch} of room {key} is written to block {block}, which is {state_of(target, block)}"


@on_write(3)
def _write_reads_its_own_room(under_way: Write) -> Iterator[str]:
    write, source, _ = under_way
    if source is None:
        return
    key = (write.room, write.incarnation)
    for block in write.source_blocks:
        if source.core.pool.owner(block) != key:
            yield f"chunk {write.epoch} of room {key} is read from block {block}, which is {state_of(source, block)}"


@on_write(7)
def _write_is_of_the_offered_chunk(under_way: Write) -> Iterator[str]:
    write, _, target = under_way
    if target is None:
        return
    key = (write.room, write.incarnation)
    room = target.core.rooms.get(key)
    if isinstance(room, LanguageRoom) and room.epoch != write.epoch:
        yield f"chunk {write.epoch} of room {key} is written while the receiver is at chunk {room.epoch}"
