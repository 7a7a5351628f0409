"""Invariants of a state: of one rank, and between the ranks of a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from bufferlab.protocol.checker.bounds import Bound
from bufferlab.protocol.checker.invariants.base import (
    Local,
    Rooms,
    blocks_of,
    held_blocks,
    on_group,
    on_local,
    required,
    state_of,
    total_of,
)
from bufferlab.protocol.checker.snapshot import Core
from bufferlab.protocol.encode import EncodeRank, EncodeRoom
from bufferlab.protocol.language import LanguageRoom
from bufferlab.protocol.language_phases import LanguagePhase
from bufferlab.protocol.rank import NEVER_S, RoomKey
from bufferlab.protocol.status import FINAL


@on_local(1)
def _pool_is_partitioned(local: Local) -> Iterator[str]:
    pool = local.core.pool
    free = [*pool.free_blocks()]
    owned = {block: owner for block, owner in enumerate(pool._owner) if owner is not None}
    fenced = {block: owner for block, owner in enumerate(pool._fenced) if owner is not None}
    if sorted([*free, *owned, *fenced]) != list(range(pool.blocks)) or len(free) != pool.free:
        yield f"free {free}, owned {[*owned]}, fenced {[*fenced]} of {pool.blocks}"
    rooms: Rooms = local.core.rooms
    for room in rooms.values():
        for block in held_blocks(room):
            if room.key not in (pool.owner(block), pool.fenced_for(block)):
                yield f"block {block} of room {room.key} is {state_of(local, block)}"
    for block, holder in [*owned.items(), *fenced.items()]:
        room = rooms.get(cast(RoomKey, holder))
        if room is None or block not in held_blocks(room):
            yield f"block {block} is {state_of(local, block)}, which does not know of it"


@on_local(3)
def _encoder_owns_its_blocks(local: Local) -> Iterator[str]:
    for key, (blocks, encoded) in local.ghost.source:
        for block in blocks:
            if not encoded and local.core.pool.owner(block) != key:
                yield f"room {key} is being encoded into block {block}, which is {state_of(local, block)}"


@on_local(17)
def _no_demand_is_hopeless(local: Local) -> Iterator[str]:
    bound, core = local.bound, local.core
    pool = core.pool.blocks
    for room in core.rooms.values():
        if room.failure or room.over:
            continue
        if isinstance(room, EncodeRoom):
            wanted, available = blocks_of(room.total_tokens), pool
            waits = not room.source
        elif room.outstanding:
            continue
        elif room.chunks:
            waits, wanted = True, blocks_of(total_of(bound, room.key) - room.got_tokens)
            available = pool - len(room.blocks) if core.discipline.waits_holding else pool
        else:
            waits = room.phase is LanguagePhase.AWAITING_BLOCKS and core.discipline.announces_length
            wanted, available = blocks_of(total_of(bound, room.key)), pool - bound.reserve_blocks
        if waits and wanted > available:
            yield f"room {room.key} waits for {wanted} blocks on {core.rank_id} and can never get more than {available}"


@on_local(20)
def _fences_have_a_timer(local: Local) -> Iterator[str]:
    for room in local.core.rooms.values():
        if not isinstance(room, LanguageRoom) or not room.over:
            continue
        if room.deadline == NEVER_S:
            yield f"room {room.key} waits on {local.core.rank_id} for a silent writer without a timer"
        if room.writer in local.core._down and not room.writer_gone:
            yield f"room {room.key} asks on {local.core.rank_id} again and again whom it takes for dead"


@on_local(27)
def _work_is_done(local: Local) -> Iterator[str]:
    core = local.core
    if not isinstance(core, EncodeRank):
        return
    peers = required(local.bound, core.rank_id)
    for room in core.rooms.values():
        if room.failure or room.over or room.status in FINAL or not peers:
            continue
        ready = all(peer in room.offers and room.offers[peer].epoch == room.epoch for peer in peers)
        encoded = dict(local.ghost.source).get(room.key, ((), False))[1]
        if ready and encoded and not any(key == room.key for (key, _), _ in local.ghost.flying):
            yield f"room {room.key} has data and all offers for chunk {room.epoch} on {core.rank_id} and writes nothing"


@on_group(12)
def _ranks_agree(members: list[Local]) -> Iterator[str]:
    first = members[0]
    bound = first.bound
    for other in members[1:]:
        who = f"{first.core.rank_id} and {other.core.rank_id}"
        if dict(first.ghost.ends) != dict(other.ghost.ends):
            yield f"{who} ended rooms as {_ends(first)} and {_ends(other)}"
        if _queues(first.core) != _queues(other.core):
            yield f"{who} have queues {_queues(first.core)} and {_queues(other.core)}"
        for key in first.core.rooms.keys() & other.core.rooms.keys():
            mine, theirs = _decided(bound, first.core.rooms[key]), _decided(bound, other.core.rooms[key])
            if mine != theirs:
                yield f"{who} decided on room {key}: {mine} and {theirs}"


def _ends(local: Local) -> dict[RoomKey, str]:
    return {key: status.name for key, status in local.ghost.ends}


def _queues(core: Core) -> list[list[RoomKey]]:
    queues: Any = [core._awaiting_source] if isinstance(core, EncodeRank) else [core._new, core._resuming]
    return [[room.key for room in queue if not room.over] for queue in queues]


def _decided(bound: Bound, room: Any) -> dict[str, object]:
    if isinstance(room, EncodeRoom):
        return {"over": room.over, "source blocks": len(room.source)}
    grant = len(room.blocks) if len(bound.default_tokens) == 1 else None
    return {
        "over": room.over,
        "chunk": room.epoch,
        "got": room.got_tokens,
        "blocks": grant,
        "offered": room.outstanding,
    }
