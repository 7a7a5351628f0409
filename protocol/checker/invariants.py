"""What must hold: the 27 invariants of the protocol as predicates over states, steps and ends of runs.

Each number has its statement in ``STATEMENTS`` and one or more predicates below. A predicate yields a sentence for
everything it finds wrong and nothing when all is well. They see the cores from outside: what a core holds, what it was
given and what it asked for, and a *ghost*, which is the explorer's own account of what really happened (what landed
where, what was copied, acknowledged, concluded). None of them uses a core's own judgement of itself.

Predicates are pure functions of local states and steps, so the explorer evaluates each once per local state or step
and not once per global state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from protocol.agreement import FAILED
from protocol.checker.bounds import BLOCK_TOKENS, CONTAINED, Bound, Fault
from protocol.checker.snapshot import Core, frozen_room
from protocol.encode import ENCODED, EncodeRank, EncodeRoom
from protocol.errors import IllegalTransitionError, OwnershipError
from protocol.language import LanguageRank, LanguageRoom
from protocol.language_phases import LanguagePhase
from protocol.messages import (
    Abort,
    Action,
    Cancel,
    ChunkStatus,
    Conclude,
    CopyOut,
    Deliver,
    EncodeRequest,
    LanguageRequest,
    Offer,
    PeerDown,
    PeerUp,
    Send,
    StartEncode,
    StartWrite,
    Turn,
    WriteDone,
)
from protocol.rank import RoomKey
from protocol.status import FINAL, Status
from protocol.topology import RankId, Side

STATEMENTS: dict[int, tuple[str, str]] = {
    1: ("block ownership", "every block is exactly one of free, owned by one room, fenced for one room"),
    2: ("no write into foreign memory", "every write under way targets blocks owned by or fenced for its own room"),
    3: (
        "no read of foreign source",
        "source blocks belong to their room while the encoder or a write uses them, written when full",
    ),
    4: ("no double free", "a block is returned by its owner and once"),
    5: ("terminal absorbing", "a status never falls, Success and Failed never change, a room is concluded once"),
    6: ("monotone progress", "sent, received and promised tokens never fall and never exceed the request"),
    7: (
        "epoch monotone",
        "a write belongs to the chunk its receiver has offered for, never to an earlier or later one",
    ),
    8: ("alignment", "every cut but the last lies at the end of a block and every part fits its grant"),
    9: (
        "delivery correctness",
        "a room is delivered at most once, whole, every token copied once, in order, from where it landed",
    ),
    10: ("no success with a hole", "Success is sent only when every required destination has acknowledged every token"),
    11: ("same cut on all destinations", "for each chunk all destinations of a room are cut at the same token"),
    12: ("agreement", "the ranks of a group take the same decisions, and their queues are equal between turns"),
    13: (
        "no orphan state",
        "a room exists only after a local submission and until it is reaped; no late message makes one",
    ),
    14: (
        "resume only after all ranks are ready",
        "a write of a chunk starts only when every required destination has offered for it",
    ),
    15: (
        "one outstanding write",
        "at most one write per room and destination is under way, and none starts after a Cancel",
    ),
    16: ("metadata is private", "what is read from a block is read while the room owns it"),
    17: ("capacity precheck", "no room waits for more blocks than its discipline can ever give it"),
    18: ("failure containment", "what happens to one room changes no other room, except of a peer declared down"),
    19: ("message exhaustiveness", "every input is defined in every phase: no exception"),
    20: ("quarantine is temporary", "whatever waits for a silent writer has a timer armed"),
    21: (
        "no deadlock",
        "an unfinished room always has a move or a timer ahead, which is of whoever is waited for, and a due turn is "
        "known to be due",
    ),
    22: (
        "every room terminates",
        "every room ends, on both sides alike unless the link was down, and whoever fails says so",
    ),
    23: ("every fence falls", "every fenced block becomes free"),
    24: ("no starvation", "first come, first served; no new room overtakes a resume that waits"),
    25: ("abort is prompt", "an aborted room fails at once, whatever it was waiting for"),
    26: ("bounded buffer time", "blocks are released with the copy, not with the prefill"),
    27: ("work conservation", "data, offers of all destinations and no failure mean that a write is under way"),
}


ERRORS: dict[type[Exception], int] = {OwnershipError: 4, IllegalTransitionError: 5}
"""What the core refuses to do itself. Anything else it raises breaks invariant 19."""


class Broken(NamedTuple):
    """A broken invariant."""

    invariant: int
    what: str


Content = tuple[RoomKey, int] | None
"""What a block holds: block number ``n`` of a room's request; None for nothing anybody may rely on."""


class Ghost(NamedTuple):
    """What really happened to one rank so far, kept by the explorer. Pairs are in order.

    ``memory``: content of each block of a language rank. ``source``: blocks of each embedding on an encode rank and
    whether it is encoded. ``copied``: tokens copied out. ``acked``: tokens acknowledged per room and destination.
    ``flying``: first and last token of the writes that were started and are not over. ``refused``: (room, destination)
    that cancelled. All of these only until the room is forgotten. ``ends``: how each room was concluded.
    """

    memory: tuple[Content, ...] = ()
    source: tuple[tuple[RoomKey, tuple[tuple[int, ...], bool]], ...] = ()
    copied: tuple[tuple[RoomKey, int], ...] = ()
    acked: tuple[tuple[tuple[RoomKey, RankId], int], ...] = ()
    flying: tuple[tuple[tuple[RoomKey, RankId], tuple[int, int]], ...] = ()
    refused: tuple[tuple[RoomKey, RankId], ...] = ()
    ends: tuple[tuple[RoomKey, Status], ...] = ()


class Local(NamedTuple):
    """One rank's part of a state."""

    bound: Bound
    core: Core
    ghost: Ghost


class Step(NamedTuple):
    """One rank takes one input. ``after`` is where it gets to; ``error`` is what the core raised instead, if it did."""

    before: Local
    given: object
    actions: list[Action]
    after: Local
    error: Exception | None

    @property
    def bound(self) -> Bound:
        """The bound it happens in."""
        return self.before.bound

    @property
    def rank_id(self) -> RankId:
        """Who takes the step."""
        return self.before.core.rank_id


class Write(NamedTuple):
    """A write under way between two ranks; None for one that is gone."""

    write: StartWrite
    source: Local | None
    target: Local | None


Rooms = Mapping[RoomKey, Any]
LocalPredicate = Callable[[Local], Iterator[str]]
StepPredicate = Callable[[Step], Iterator[str]]
WritePredicate = Callable[[Write], Iterator[str]]
GroupPredicate = Callable[[list[Local]], Iterator[str]]

LOCAL: list[tuple[int, LocalPredicate]] = []
STEP: list[tuple[int, StepPredicate]] = []
WRITE: list[tuple[int, WritePredicate]] = []
GROUP: list[tuple[int, GroupPredicate]] = []

Wrap = Callable[[Any], Any]


def _add(table: list[Any], number: int) -> Wrap:
    def register(predicate: Any) -> Any:
        table.append((number, predicate))
        return predicate

    return register


def on_local(number: int) -> Wrap:
    """A predicate over one rank's state."""
    return _add(LOCAL, number)


def on_step(number: int) -> Wrap:
    """A predicate over one rank's step."""
    return _add(STEP, number)


def on_write(number: int) -> Wrap:
    """A predicate over a write under way."""
    return _add(WRITE, number)


def on_group(number: int) -> Wrap:
    """A predicate over all ranks of a group, none of which is in the middle of a turn."""
    return _add(GROUP, number)


def check_local(local: Local) -> tuple[Broken, ...]:
    """Everything wrong with one rank's state."""
    return tuple([Broken(number, what) for number, predicate in LOCAL for what in predicate(local)])


def check_step(step: Step) -> tuple[Broken, ...]:
    """Everything wrong with one step. A step that raised is only that."""
    if step.error is not None:
        number = next((number for kind, number in ERRORS.items() if isinstance(step.error, kind)), 19)
        return (Broken(number, f"{step.rank_id} raised {type(step.error).__name__}: {step.error}"),)
    return tuple([Broken(number, what) for number, predicate in STEP for what in predicate(step)])


def check_write(write: Write) -> tuple[Broken, ...]:
    """Everything wrong with a write under way."""
    return tuple([Broken(number, what) for number, predicate in WRITE for what in predicate(write)])


def check_group(members: list[Local]) -> tuple[Broken, ...]:
    """Everything wrong between the ranks of a group."""
    return tuple([Broken(number, what) for number, predicate in GROUP for what in predicate(members)])


# --- the pool ------------------------------------------------------------------------------------------------------


def held_blocks(room: Any) -> tuple[int, ...]:
    """The blocks a room says it holds."""
    return room.source if isinstance(room, EncodeRoom) else room.blocks


@on_local(1)
def _pool_is_partitioned(local: Local) -> Iterator[str]:
    pool = local.core.pool
    free = [*pool.free_blocks()]
    if sorted([*free, *pool._owner, *pool._fenced]) != list(range(pool.blocks)) or len(free) != pool.free:
        yield f"free {free}, owned {sorted(pool._owner)}, fenced {sorted(pool._fenced)} of {pool.blocks}"
    rooms: Rooms = local.core.rooms
    for room in rooms.values():
        for block in held_blocks(room):
            if room.key not in (pool.owner(block), pool.fenced_for(block)):
                yield f"block {block} of room {room.key} is {_state_of(local, block)}"
    for block, holder in [*pool._owner.items(), *pool._fenced.items()]:
        room = rooms.get(cast(RoomKey, holder))
        if room is None or block not in held_blocks(room):
            yield f"block {block} is {_state_of(local, block)}, which does not know of it"


def _state_of(local: Local, block: int) -> str:
    pool = local.core.pool
    if (owner := pool.owner(block)) is not None:
        return f"owned by {owner}"
    if (former := pool.fenced_for(block)) is not None:
        return f"fenced for {former}"
    return "free"


@on_write(2)
def _write_targets_its_own_room(under_way: Write) -> Iterator[str]:
    write, _, target = under_way
    if target is None:
        return
    pool, key = target.core.pool, (write.room, write.incarnation)
    for block in write.target_blocks[: _blocks(write.chunk.tokens)]:
        if key not in (pool.owner(block), pool.fenced_for(block)):
            yield f"chunk {write.epoch} of room {key} is written to block {block}, which is {_state_of(target, block)}"


@on_write(3)
def _write_reads_its_own_room(under_way: Write) -> Iterator[str]:
    write, source, _ = under_way
    if source is None:
        return
    key = (write.room, write.incarnation)
    for block in write.source_blocks:
        if source.core.pool.owner(block) != key:
            yield f"chunk {write.epoch} of room {key} is read from block {block}, which is {_state_of(source, block)}"


@on_step(3)
def _what_is_written_is_encoded(step: Step) -> Iterator[str]:
    sources = dict(step.after.ghost.source)
    for write in _started(step):
        key = (write.room, write.incarnation)
        if sources.get(key) != (write.source_blocks, True):
            yield f"room {key} is written from blocks {write.source_blocks}, its embedding is {sources.get(key)}"


@on_local(3)
def _encoder_owns_its_blocks(local: Local) -> Iterator[str]:
    for key, (blocks, encoded) in local.ghost.source:
        for block in blocks:
            if not encoded and local.core.pool.owner(block) != key:
                yield f"room {key} is being encoded into block {block}, which is {_state_of(local, block)}"


@on_write(7)
def _write_is_of_the_offered_chunk(under_way: Write) -> Iterator[str]:
    write, _, target = under_way
    if target is None:
        return
    key = (write.room, write.incarnation)
    room = target.core.rooms.get(key)
    if isinstance(room, LanguageRoom) and room.epoch != write.epoch:
        yield f"chunk {write.epoch} of room {key} is written while the receiver is at chunk {room.epoch}"


# --- one step ------------------------------------------------------------------------------------------------------


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


def _total(bound: Bound, key: RoomKey) -> int:
    return bound.lengths[bound.keys.index(key)]


def required(bound: Bound, rank_id: RankId) -> list[RankId]:
    """The language ranks an encode rank must serve, from the pairing rule and not from the core."""
    return [
        RankId(Side.LANGUAGE, 0, rank) for rank in range(bound.language_tp) if rank % bound.encode_tp == rank_id.rank
    ]


def _room_pairs(step: Step) -> Iterator[tuple[Any, Any]]:
    """Rooms that are there before and after the step."""
    before: Rooms = step.before.core.rooms
    after: Rooms = step.after.core.rooms
    for key, room in before.items():
        if key in after:
            yield room, after[key]


@on_step(5)
def _final_is_final(step: Step) -> Iterator[str]:
    for before, after in _room_pairs(step):
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
    for before, after in _room_pairs(step):
        total = _total(step.bound, before.key)
        for name in ("sent_tokens", "got_tokens", "upto_tokens", "copied_tokens", "epoch", "progress", "agreed"):
            was, now = getattr(before, name, 0), getattr(after, name, 0)
            if now < was or (name.endswith("_tokens") and now > total):
                yield f"{name} of room {before.key} went from {was} to {now} of {total} on {step.rank_id}"


@on_step(8)
def _cuts_are_aligned(step: Step) -> Iterator[str]:
    for write in _started(step):
        key, chunk = (write.room, write.incarnation), write.chunk
        total = _total(step.bound, key)
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


def _started(step: Step) -> list[StartWrite]:
    return [action for action in step.actions if isinstance(action, StartWrite)]


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
            if len(action.blocks) != _blocks(action.tokens):
                yield f"room {key}: {action.tokens} tokens are copied out of {len(action.blocks)} blocks"
            for place, block in enumerate(action.blocks):
                wanted = (key, action.start_token // BLOCK_TOKENS + place)
                if memory[block] != wanted:
                    yield f"room {key}: block {block} holds {memory[block]} and is copied as {wanted}"
            copied[key] = action.start_token + action.tokens
        elif isinstance(action, Deliver):
            key = (action.room, action.incarnation)
            total = _total(step.bound, key)
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
        total = _total(step.bound, key)
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
    for write in _started(step):
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
    for write in _started(step):
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
    for write in _started(step):
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
                    yield f"room {key} reads block {block}, which is {_state_of(step.before, block)}"
                if block in offered:
                    yield f"room {key} reads block {block} after it was offered to the next writer"


@on_step(18)
def _other_rooms_do_not_move(step: Step) -> Iterator[str]:
    given = step.given
    if isinstance(given, Turn | PeerDown | PeerUp) or not hasattr(given, "room"):
        return
    key = (given.room, given.incarnation)  # type: ignore[attr-defined]
    for before, after in _room_pairs(step):
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
    if not isinstance(step.given, Turn):
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
    elif isinstance(given, Turn):
        doomed = {given.failed} | {number for number, vote in given.progress if vote == FAILED}
        for room in step.before.core.rooms.values():
            decided = room.number in doomed and room.number < given.submitted  # every rank has it
            if decided and not room.over and room.key not in dict(step.after.ghost.ends):
                yield f"room {room.key} failed and its group's turn did not end it on {step.rank_id}"


@on_step(26)
def _blocks_go_with_the_copy(step: Step) -> Iterator[str]:
    for action in step.actions:
        if isinstance(action, Deliver):
            room = step.after.core.rooms.get((action.room, action.incarnation))
            if room is not None and held_blocks(room):
                yield f"room {room.key} still holds blocks {held_blocks(room)} after its delivery"


# --- one rank ------------------------------------------------------------------------------------------------------


@on_local(17)
def _no_demand_is_hopeless(local: Local) -> Iterator[str]:
    bound, core = local.bound, local.core
    pool = core.pool.blocks
    for room in core.rooms.values():
        if room.failure or room.over:
            continue
        if isinstance(room, EncodeRoom):
            wanted, available = _blocks(room.total_tokens), pool
            waits = not room.source
        elif room.outstanding:
            continue
        elif room.chunks:
            waits, wanted = True, _blocks(_total(bound, room.key) - room.got_tokens)
            available = pool - len(room.blocks) if core.discipline.waits_holding else pool
        else:
            waits = room.phase is LanguagePhase.AWAITING_BLOCKS and core.discipline.announces_length
            wanted, available = _blocks(_total(bound, room.key)), pool - bound.reserve_blocks
        if waits and wanted > available:
            yield f"room {room.key} waits for {wanted} blocks on {core.rank_id} and can never get more than {available}"


@on_local(20)
def _fences_have_a_timer(local: Local) -> Iterator[str]:
    for room in local.core.rooms.values():
        if not isinstance(room, LanguageRoom) or not room.over:
            continue
        if room.deadline is None:
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


# --- one group -----------------------------------------------------------------------------------------------------


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


# --- the end of a run ----------------------------------------------------------------------------------------------

Hit = tuple[Fault, int | None]
"""A fault that happened and the room it concerned, None for all."""


def check_end(bound: Bound, living: list[Local], hits: tuple[Hit, ...]) -> list[Broken]:
    """What is wrong when everything has come to rest. ``living``: the ranks whose group has all of its ranks."""
    found: list[Broken] = []
    kinds = {fault for fault, _ in hits}
    ends = {local.core.rank_id: dict(local.ghost.ends) for local in living}
    instances = bound.instances or (0,) * len(bound.lengths)
    for key, tokens, instance in zip(bound.keys, bound.lengths, instances, strict=True):
        said = {
            rank_id: of_rank.get(key)
            for rank_id, of_rank in ends.items()
            if rank_id.side is Side.LANGUAGE or rank_id.instance == instance
        }
        told = ", ".join(f"{rank_id} {status.name if status else 'nothing'}" for rank_id, status in said.items())
        sides = {side: {status for rank_id, status in said.items() if rank_id.side is side} for side in Side}
        encode, language = sides[Side.ENCODE], sides[Side.LANGUAGE]
        if any(None in of_side or len(of_side) > 1 for of_side in sides.values()):
            found.append(Broken(22, f"room {key} did not end alike everywhere: {told}"))
        elif Status.Success in language and Status.Failed in encode and not kinds - CONTAINED:
            found.append(Broken(22, f"room {key} was delivered and failed on the encode side: {told}"))
        if bound.may_deadlock:
            continue
        untouched = not kinds - CONTAINED and all(
            room != key[0] for fault, room in hits if fault is not Fault.DUPLICATE
        )
        if not untouched:
            continue
        wanted = Status.Success if bound.can_succeed(tokens) else Status.Failed
        if (encode | language) != {wanted}:
            number = 18 if hits else 22
            found.append(Broken(number, f"room {key} of {tokens} tokens should have ended in {wanted.name}: {told}"))
    for local in living:
        for peer in sorted(local.core._down & ends.keys()):
            found.append(Broken(20, f"{local.core.rank_id} takes {peer} for dead for ever"))
    return found
