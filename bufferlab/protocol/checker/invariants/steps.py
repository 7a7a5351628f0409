"""Invariants of one step of one rank: what it may decide, say and ask for, given what it took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bufferlab.protocol.agreement import FAILED
from bufferlab.protocol.checker.bounds import BLOCK_TOKENS
from bufferlab.protocol.checker.invariants.base import (
    Step,
    blocks_of,
    held_blocks,
    on_step,
    required,
    room_pairs,
    state_of,
    total_of,
)
from bufferlab.protocol.checker.snapshot import Core, frozen_room
from bufferlab.protocol.encode import ENCODED, EncodeRank, EncodeRoom
from bufferlab.protocol.language import LanguageRank, LanguageRoom
from bufferlab.protocol.messages import (
    Abort,
    Cancel,
    ChunkStatus,
    Conclude,
    CopyOut,
    Deliver,
    EncodeRequest,
    Iteration,
    LanguageRequest,
    Offer,
    PeerDown,
    PeerUp,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
)
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.status import FINAL, Status
from bufferlab.protocol.topology import RankId


def started_by(step: Step) -> list[StartWrite]:
    """The writes that a step starts."""
    return [action for action in step.actions if isinstance(action, StartWrite)]


@on_step(3)
def _what_is_written_is_encoded(step: Step) -> Iterator[str]:
    sources = dict(step.after.ghost.source)
    for write in started_by(step):
        key = (write.room, write.incarnation)
        if sources.get(key) != (write.source_blocks, True):
            yield f"room {key} is written from blocks {write.source_blocks}, its embedding is {sources.get(key)}"


@on_step(5)
def _final_is_final(step: Step) -> Iterator[str]:
    for before, after in room_pairs(step):
        if after.status is not before.status and (before.status in FINAL or after.status < before.status):
            yield f"room {before.key} went from {before.status.name} to {after.status.name} on {step.rank_id}"
        if before.failure and not after.failure:
            yield f"room {before.key} had failed and lives on {step.rank_id}"
    ended = {key for key, _ in step.before.ghost.ends}
    for action in step.actions:
        if isinstance(action, Conclude):
            key = (action.room, action.incarnation)
            room = step.before.core.rooms.get(key)
            if room is not None and room.failure and action.status is Status.Success:
                yield f"room {key} had failed and ends in Success on {step.rank_id}"
            if key in ended:
                yield f"room {key} is concluded again on {step.rank_id}, as {action.status.name}"
            if action.status not in FINAL:
                yield f"room {key} is concluded as {action.status.name} on {step.rank_id}"
            ended.add(key)


@on_step(6)
def _progress_only_rises(step: Step) -> Iterator[str]:
    for before, after in room_pairs(step):
        total = total_of(step.bound, before.key)
        for name in ("sent_tokens", "got_tokens", "upto_tokens", "copied_tokens", "epoch", "progress", "agreed"):
            was, now = getattr(before, name, 0), getattr(after, name, 0)
            if now < was or (name.endswith("_tokens") and now > total):
                yield f"{name} of room {before.key} went from {was} to {now} of {total} on {step.rank_id}"


@on_step(8)
def _cuts_are_aligned(step: Step) -> Iterator[str]:
    for write in started_by(step):
        key, chunk = (write.room, write.incarnation), write.chunk
        total = total_of(step.bound, key)
        what = f"chunk {write.epoch} of room {key}, tokens {chunk.start_token} to {chunk.end_token} of {total},"
        if chunk.tokens < 1 or chunk.end_token > total:
            yield f"{what} is not a part of the request"
        if chunk.start_token % BLOCK_TOKENS or (chunk.end_token != total and chunk.end_token % BLOCK_TOKENS):
            yield f"{what} is not cut at a block of {BLOCK_TOKENS} tokens"
        if chunk.is_last != (chunk.end_token == total):
            yield f"{what} says is_last={chunk.is_last}"
        if chunk.tokens > len(write.target_blocks) * BLOCK_TOKENS:
            yield f"{what} does not fit the {len(write.target_blocks)} blocks offered by {write.destination}"
        acked = dict(step.after.ghost.acked).get((key, write.destination), 0)
        if chunk.start_token != acked:
            yield f"{what} goes to {write.destination}, which holds {acked} tokens"


@on_step(9)
def _delivery_is_whole(step: Step) -> Iterator[str]:
    memory = step.before.ghost.memory
    copied = dict(step.before.ghost.copied)
    delivered: set[RoomKey] = set()
    for action in step.actions:
        if isinstance(action, CopyOut):
            key = (action.room, action.incarnation)
            if action.start_token != copied.get(key, 0):
                yield f"room {key}: tokens from {action.start_token} on are copied, {copied.get(key, 0)} were before"
            if len(action.blocks) != blocks_of(action.tokens):
                yield f"room {key}: {action.tokens} tokens are copied out of {len(action.blocks)} blocks"
            for place, block in enumerate(action.blocks):
                wanted = (key, action.start_token // BLOCK_TOKENS + place)
                if memory[block] != wanted:
                    yield f"room {key}: block {block} holds {memory[block]} and is copied as {wanted}"
            copied[key] = action.start_token + action.tokens
        elif isinstance(action, Deliver):
            key = (action.room, action.incarnation)
            total = total_of(step.bound, key)
            if not copied.get(key, 0) == action.total_tokens == total:
                yield f"room {key} is delivered as {action.total_tokens} tokens, {copied.get(key, 0)} of {total} copied"
            if key in dict(step.before.ghost.ends) or key in delivered:
                yield f"room {key} is delivered again or after its end"
            delivered.add(key)
        elif isinstance(action, Conclude) and action.status is Status.Success and memory:
            key = (action.room, action.incarnation)
            if key not in delivered:
                yield f"room {key} ends in Success without having been delivered"


@on_step(10)
def _success_has_no_hole(step: Step) -> Iterator[str]:
    acked = dict(step.after.ghost.acked)
    for action in step.actions:
        if not isinstance(action, Send) or not isinstance(action.message, ChunkStatus):
            continue
        said = action.message
        key = (said.room, said.incarnation)
        if said.status is Status.Failed:
            continue
        total = total_of(step.bound, key)
        if said.total_tokens != total:
            yield f"room {key} is said to have {said.total_tokens} tokens, it has {total}"
        if (said.status is Status.Success) != (said.upto_tokens == total):
            yield f"{said.status.name} is said of {said.upto_tokens} of {total} tokens of room {key}"
        for peer in required(step.bound, step.rank_id):
            if acked.get((key, peer), 0) < said.upto_tokens:
                yield (
                    f"{said.status.name} up to token {said.upto_tokens} is said of room {key}, "
                    f"{peer} holds {acked.get((key, peer), 0)}"
                )


@on_step(11)
def _one_cut_for_all(step: Step) -> Iterator[str]:
    cuts: dict[tuple[RoomKey, int], set[tuple[int, int]]] = {}
    for write in started_by(step):
        cut = (write.chunk.start_token, write.chunk.end_token)
        cuts.setdefault(((write.room, write.incarnation), write.epoch), set()).add(cut)
    for (key, epoch), found in cuts.items():
        if len(found) > 1:
            yield f"chunk {epoch} of room {key} is cut as {sorted(found)}"


@on_step(13)
def _rooms_come_from_requests(step: Step) -> Iterator[str]:
    for key in step.after.core.rooms.keys() - step.before.core.rooms.keys():
        given = step.given
        if not isinstance(given, EncodeRequest | LanguageRequest) or key != (given.room, given.incarnation):
            yield f"{type(given).__name__} made room {key} on {step.rank_id}"


@on_step(14)
def _all_have_offered(step: Step) -> Iterator[str]:
    for write in started_by(step):
        key = (write.room, write.incarnation)
        room = step.before.core.rooms.get(key)
        offers = list(room.offers.values()) if isinstance(room, EncodeRoom) else []
        if isinstance(step.given, Offer):
            offers.append(step.given)
        offers += [message for message in _early(step.before.core, key) if isinstance(message, Offer)]
        ready = {offer.receiver for offer in offers if offer.epoch == write.epoch}
        missing = [str(peer) for peer in required(step.bound, step.rank_id) if peer not in ready]
        if missing:
            yield f"chunk {write.epoch} of room {key} goes to {write.destination} before {', '.join(missing)} offered"


def _early(core: Core, key: RoomKey) -> list[Any]:
    return [message for _, message in core._early._kept.get(key, ())]


@on_step(15)
def _one_write_at_a_time(step: Step) -> Iterator[str]:
    flying, refused = {pair for pair, _ in step.before.ghost.flying}, set(step.after.ghost.refused)
    if isinstance(step.given, WriteDone):
        flying.discard(((step.given.room, step.given.incarnation), step.given.destination))
    for write in started_by(step):
        pair = ((write.room, write.incarnation), write.destination)
        if pair in flying:
            yield f"chunk {write.epoch} of room {pair[0]} is written to {pair[1]} while another write is under way"
        if pair in refused:
            yield f"chunk {write.epoch} of room {pair[0]} is written to {pair[1]}, which has cancelled"
        flying.add(pair)


@on_step(16)
def _reads_are_of_owned_blocks(step: Step) -> Iterator[str]:
    offered: set[int] = set()
    for action in step.actions:
        if isinstance(action, Send) and isinstance(action.message, Offer):
            offered.update(action.message.blocks)
        elif isinstance(action, CopyOut):
            key = (action.room, action.incarnation)
            for block in action.blocks:
                if step.before.core.pool.owner(block) != key:
                    yield f"room {key} reads block {block}, which is {state_of(step.before, block)}"
                if block in offered:
                    yield f"room {key} reads block {block} after it was offered to the next writer"


@on_step(18)
def _other_rooms_do_not_move(step: Step) -> Iterator[str]:
    given = step.given
    if isinstance(given, Iteration | PeerDown | PeerUp) or not hasattr(given, "room"):
        return
    key = (given.room, given.incarnation)  # type: ignore[attr-defined]
    for before, after in room_pairs(step):
        if before.key != key and frozen_room(before) != frozen_room(after):
            yield f"{type(given).__name__} of room {key} changed room {before.key} on {step.rank_id}"


@on_step(21)
def _nobody_is_timed_out_for_its_group(step: Step) -> Iterator[str]:
    key = getattr(step.given, "key", None)  # a timer goes off
    room = step.before.core.rooms.get(key) if key is not None else None
    if room is None or room.over or room.progress <= room.agreed:
        return
    if isinstance(room, EncodeRoom):
        _, encoded = dict(step.before.ghost.source).get(room.key, ((), True))
        busy = not encoded or any(flying == room.key for (flying, _), _ in step.before.ghost.flying)
        if busy or room.progress == ENCODED:  # the offers for what it has encoded are its own business
            return
    yield f"the timer of room {room.key} goes off on {step.rank_id}, which waits for nothing but its group"


@on_step(22)
def _failures_are_told(step: Step) -> Iterator[str]:
    told: set[tuple[RoomKey, RankId]] = set()
    for action in step.actions:
        if isinstance(action, Send):
            message = action.message
            if isinstance(message, Cancel) or (isinstance(message, ChunkStatus) and message.status is Status.Failed):
                told.add(((message.room, message.incarnation), action.to))
    failed = {
        (action.room, action.incarnation)
        for action in step.actions
        if isinstance(action, Conclude) and action.status is Status.Failed
    }
    for key, room in step.before.core.rooms.items():
        if isinstance(room, LanguageRoom):
            peers = [room.writer] if key in failed else []
        else:
            after = step.after.core.rooms.get(key)
            fails = key in failed if after is None else after.status is Status.Failed
            peers = required(step.bound, step.rank_id) if fails and room.status not in FINAL else []
        for peer in peers:
            if (key, peer) not in told:
                yield f"room {key} fails on {step.rank_id} and {peer} is not told"


@on_step(24)
def _first_come_first_served(step: Step) -> Iterator[str]:
    if not isinstance(step.given, Iteration):
        return
    before, after = step.before.core, step.after.core
    if isinstance(before, EncodeRank) and isinstance(after, EncodeRank):
        served = {(action.room, action.incarnation) for action in step.actions if isinstance(action, StartEncode)}
        yield from _overtaken("source blocks", before._awaiting_source, after._awaiting_source, served)
    elif isinstance(before, LanguageRank) and isinstance(after, LanguageRank):
        offers = [
            action.message for action in step.actions if isinstance(action, Send) and isinstance(action.message, Offer)
        ]
        new = {(offer.room, offer.incarnation) for offer in offers if offer.epoch == 0}
        resumed = {(offer.room, offer.incarnation) for offer in offers if offer.epoch > 0}
        yield from _overtaken("a first allocation", before._new, after._new, new)
        yield from _overtaken("the next chunk's blocks", before._resuming, after._resuming, resumed)
        waiting = [room.key for room in after._resuming if not room.over]
        if step.bound.resume_first and waiting and new:
            yield f"rooms {sorted(new)} got blocks while {waiting} wait to resume"
        if step.bound.resume_first and new and after.pool.free < step.bound.reserve_blocks:
            yield f"rooms {sorted(new)} left {after.pool.free} of {step.bound.reserve_blocks} reserved blocks"


def _overtaken(what: str, before: Any, after: Any, served: set[RoomKey]) -> Iterator[str]:
    order = [room.key for room in before] + [room.key for room in after if room not in before]
    still = {room.key for room in after if not room.over}
    for place, key in enumerate(order):
        if key in still and served.intersection(order[place + 1 :]):
            yield f"room {key} waits for {what} and was overtaken by {sorted(served.intersection(order[place + 1 :]))}"


@on_step(25)
def _aborts_are_prompt(step: Step) -> Iterator[str]:
    given = step.given
    if isinstance(given, Abort):
        key = (given.room, given.incarnation)
        room = step.before.core.rooms.get(key)
        after = step.after.core.rooms.get(key)
        taken = room is not None and not room.over and room.status not in FINAL
        if isinstance(room, EncodeRoom):
            taken = taken and bool(required(step.bound, step.rank_id))
        if taken and (after is None or not after.failure):
            yield f"the abort of room {key} left it alive on {step.rank_id}"
    elif isinstance(given, Iteration):
        doomed = {given.failed} | {number for number, progress in given.progress if progress == FAILED}
        for room in step.before.core.rooms.values():
            decided = room.number in doomed and room.number < given.submitted  # every rank has it
            if decided and not room.over and room.key not in dict(step.after.ghost.ends):
                yield f"room {room.key} failed and its group's iteration did not end it on {step.rank_id}"


@on_step(26)
def _blocks_go_with_the_copy(step: Step) -> Iterator[str]:
    for action in step.actions:
        if isinstance(action, Deliver):
            room = step.after.core.rooms.get((action.room, action.incarnation))
            if room is not None and held_blocks(room):
                yield f"room {room.key} still holds blocks {held_blocks(room)} after its delivery"
