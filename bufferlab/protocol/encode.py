"""The encode rank. It owns the embedding, writes it chunk after chunk, and says when all destinations hold a chunk.

A room's life on this side::

    submitted -> offers from all required destinations -> source blocks -> encoded -> chunk 0 written to all
              -> [all hold it, not the last] status Transferring -> offers for chunk 1 -> written -> ...
              -> [all hold it, the last]     status Success      -> the group agrees -> source blocks released

With a discipline that announces lengths, the source blocks come first, then the announcement; the offers arrive while
the encoder runs.

Rules this file keeps:

* a write of chunk e starts only when *every* required destination has offered for e, and all are cut at the same token;
* a status is sent only when every required destination holds the chunk; the first failure fails the room for all;
* messages with a wrong incarnation, epoch or destination are counted and ignored; they never create a room;
* source blocks are released only when no write and no forward pass can touch them any more;
* a Cancel is answered with Quiet exactly when no write to that destination is in flight and none can start;
* a timer runs while a rank waits for something itself. A rank that has done its part and waits for the others of its
  group has no timer: theirs run. Each phase that begins with the group's agreement gets a timer of its own. The table
  in ``encode_phases`` alone says which phases there are, where each leads and which has a timer.

This module is longer than others because one object decides about all rooms of a rank, and its state and its decisions
are easier to read together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Set
from typing import Final, final

from bufferlab.protocol.agreement import FAILED, NOBODY
from bufferlab.protocol.chunks import Chunk, plan_chunk
from bufferlab.protocol.disciplines import Discipline
from bufferlab.protocol.encode_phases import ENCODE_PHASES, EncodePhase, EncodeStep
from bufferlab.protocol.errors import ProtocolError
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import (
    Abort,
    Action,
    Announce,
    Cancel,
    ChunkStatus,
    Conclude,
    Encoded,
    EncodeInput,
    EncodeRequest,
    Iteration,
    Offer,
    PeerDown,
    PeerUp,
    Quiet,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
    WriterQuiet,
)
from bufferlab.protocol.rank import OTHER_RANK, Landing, RankCore, Room, RoomKey
from bufferlab.protocol.recording import Event, Recorder
from bufferlab.protocol.status import FINAL, Status, chunk_status
from bufferlab.protocol.topology import RankId, destinations, name_of
from bufferlab.protocol.values import Value
from bufferlab.protocol.waits import Demand

# How far a room has come on a rank; the group moves at the pace of its slowest. Behind ENCODED, one for every chunk.
OFFERED: Final = 1
ENCODED: Final = 2
DONE: Final = 2**32

NO_RANKS: Final[frozenset[RankId]] = frozenset()

# Members of enumerations by names of this module: a global is found many times as fast.
BOOTSTRAPPING: Final = Status.Bootstrapping
SUCCESS: Final = Status.Success
WAITING_FOR_INPUT: Final = Status.WaitingForInput
IN_AWAITING_FIRST_OFFERS: Final = EncodePhase.AWAITING_FIRST_OFFERS
IN_AWAITING_OFFERS: Final = EncodePhase.AWAITING_OFFERS
IN_CHUNK_WRITTEN: Final = EncodePhase.CHUNK_WRITTEN
ON_ALL_RANKS_DONE: Final = EncodeStep.ALL_RANKS_DONE
ON_ALL_RANKS_READY: Final = EncodeStep.ALL_RANKS_READY
ON_ALL_RANKS_WRITTEN: Final = EncodeStep.ALL_RANKS_WRITTEN
ON_CHUNK_WRITTEN_BY_THE_GROUP: Final = EncodeStep.CHUNK_WRITTEN_BY_THE_GROUP
ON_CHUNK_WRITTEN_HERE: Final = EncodeStep.CHUNK_WRITTEN_HERE
ON_ENCODED: Final = EncodeStep.ENCODED
ON_ENCODED_AS_SURPLUS: Final = EncodeStep.ENCODED_AS_SURPLUS
ON_FAILED_HERE: Final = EncodeStep.FAILED_HERE
ON_FAILED_IN_THE_GROUP: Final = EncodeStep.FAILED_IN_THE_GROUP
ON_LAST_CHUNK_WRITTEN: Final = EncodeStep.LAST_CHUNK_WRITTEN
ON_NEEDS_NO_OFFERS: Final = EncodeStep.NEEDS_NO_OFFERS
ON_OFFERS_COMPLETE: Final = EncodeStep.OFFERS_COMPLETE
ON_SOURCE_GRANTED: Final = EncodeStep.SOURCE_GRANTED
ON_SOURCE_UNUSED: Final = EncodeStep.SOURCE_UNUSED
ON_WRITES_STARTED: Final = EncodeStep.WRITES_STARTED


@final
class EncodeRoom(Room):
    """A room on the encode side. ``offers``, ``chunk``, ``writing`` and ``landed`` belong to chunk ``epoch``.

    ``encoding``: whether the encoder uses the source blocks, which it may go on doing after the room has failed.
    """

    __slots__ = (
        "cancelled",
        "chunk",
        "destinations",
        "encode_s",
        "encoding",
        "epoch",
        "landed",
        "offers",
        "sent_tokens",
        "source",
        "total_tokens",
        "unquiet",
        "writing",
    )

    def __init__(self, request: EncodeRequest, number: int, required: tuple[RankId, ...], landing: Landing) -> None:
        super().__init__((request.room, request.incarnation), number, landing)
        self.total_tokens = request.total_tokens
        self.encode_s = request.encode_s
        self.destinations = required
        self.source: tuple[int, ...] = ()
        self.encoding = False
        self.epoch = 0
        self.sent_tokens = 0
        self.offers: dict[RankId, Offer] = {}
        self.chunk: Chunk | None = None
        self.writing: set[RankId] = set()
        self.landed: set[RankId] = set()
        self.unquiet = NO_RANKS  # hardly any room has some of these, so the sets are replaced and not changed
        self.cancelled = NO_RANKS

    def quiet_to(self, destination: RankId) -> bool:
        """Whether nothing of this room can land at ``destination`` any more, provided no write is started."""
        return destination not in self.writing and destination not in self.unquiet

    @property
    def source_in_use(self) -> bool:
        """Whether a write or the encoder may still touch the source blocks."""
        return self.encoding or bool(self.writing) or bool(self.unquiet)


@final
class EncodeRank(RankCore[EncodeRoom]):
    """One tensor-parallel rank of an encode instance.

    ``handle(input, now)`` takes any EncodeInput and returns the actions to carry out, in order.
    ``batch_requests``: most requests of one encoder pass; None for no limit.
    """

    def __init__(
        self,
        rank_id: RankId,
        *,
        layout: BufferLayout,
        discipline: Discipline,
        pool_blocks: int,
        encode_tp: int = 1,
        language_tp: int = 1,
        timeout_s: float | None = None,
        batch_requests: int | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(rank_id, layout, pool_blocks, timeout_s, recorder, ENCODE_PHASES, {})
        if batch_requests is not None and batch_requests < 1:
            raise ValueError(f"batch_requests is {batch_requests}, it must be at least 1 or None")
        self.batch_requests = batch_requests
        self.discipline = discipline
        self.encode_tp = encode_tp
        self.language_tp = language_tp
        self._announces = discipline.announces_length
        self._resumes = discipline.resumes
        self._required: dict[int, tuple[RankId, ...]] = {}  # the destinations in each language instance
        self._awaiting_source: deque[EncodeRoom] = deque()

    def handle(self, event: Value, now: float) -> list[Action]:
        """Take one input at time ``now`` (seconds) and return what is to be done about it.

        Raises ProtocolError, and changes nothing, for an input that this role does not know.
        """
        actions: list[Action] = []
        self._take_in(event, now, actions)
        return actions

    def _take_in(self, event: Value, now: float, actions: list[Action]) -> None:
        # The frequent ones come first.
        if isinstance(event, Iteration):
            self._on_iteration(event, now, actions)
        elif isinstance(event, Offer):
            self._on_offer(event, now, actions)
        elif isinstance(event, WriteDone):
            self._on_write_done(event, now, actions)
        elif isinstance(event, EncodeRequest):
            self._on_request(event, now, actions)
        elif isinstance(event, Encoded):
            self._on_encoded(event, now, actions)
        elif isinstance(event, Cancel):
            self._on_cancel(event, now, actions)
        elif isinstance(event, WriterQuiet):
            self._on_writer_quiet(event, now, actions)
        elif isinstance(event, Abort):
            self._on_abort(event, now, actions)
        elif isinstance(event, PeerDown):
            self._on_peer_down(event, now, actions)
        elif isinstance(event, PeerUp):
            self._on_peer_up(event, now, actions)
        else:
            raise self._not_taken(event)

    def takes(self, event: object) -> bool:
        """Whether ``event`` is an input of this role."""
        return isinstance(event, EncodeInput)

    def replace_destination(self, key: RoomKey, absent: RankId, present: RankId) -> None:
        """Make ``present`` a destination of the room in the place of ``absent``, which has offered nothing.

        The SGLang wire needs it: there, anybody who asks for a room becomes one of its destinations.
        """
        room = self.rooms[key]
        if absent not in room.destinations or absent in room.offers or room.epoch or present in room.destinations:
            raise ProtocolError(f"{present} cannot take the place of {absent} in room {key[0]}")
        room.destinations = tuple(present if one == absent else one for one in room.destinations)

    # --- who holds what (see waits.py) ---

    def held_blocks(self) -> dict[RoomKey, int]:
        """Source blocks of every room that holds some and is not over."""
        return {key: len(room.source) for key, room in self.rooms.items() if room.source and not room.over}

    def queues(self) -> list[Iterator[Demand]]:
        """The rooms that wait for source blocks, in the order they are served."""
        rooms = (room for room in self._awaiting_source if not room.over)
        return [(Demand(room.key, self.layout.blocks_for(room.total_tokens)) for room in rooms)]

    def waiting_among(self, keys: Set[RoomKey]) -> list[list[RoomKey]]:
        """The rooms among ``keys`` that wait for source blocks."""
        rooms = map(self.rooms.__getitem__, self.rooms.keys() & keys)
        return [[room.key for room in rooms if room.agreed >= OFFERED and not room.source and not room.over]]

    def usable_blocks(self, key: RoomKey) -> int:
        """Blocks that a waiting room could be given if nobody else held any."""
        return self.pool.blocks

    # --- inputs ---

    def _on_request(self, request: EncodeRequest, now: float, actions: list[Action]) -> None:
        required = self._required.get(request.language_instance)
        if required is None:
            required = destinations(self.rank_id.rank, self.encode_tp, request.language_instance, self.language_tp)
            self._required[request.language_instance] = required
        room = EncodeRoom(request, self._submitted, required, self._landings[IN_AWAITING_FIRST_OFFERS])
        self._admit(room, now)
        if self._recorder is not None:
            self._record(now, room, Event.SUBMITTED, room.status, 0)
        blocks = self.layout.blocks_for(room.total_tokens)
        if room.total_tokens < 1:
            self._fail(room, "the embedding is empty", now, actions)
        elif blocks > self.pool.blocks:
            self._fail(
                room,
                f"it needs {blocks} source blocks, the pool has {self.pool.blocks}",
                now,
                actions,
            )
        elif self._down and not self._down.isdisjoint(required):
            self._fail(room, "a destination rank is down", now, actions)
        elif self._announces or not required:
            self._step(room, ON_NEEDS_NO_OFFERS, now)
            self._move(room, OFFERED)
        for message in self._early.take(room.key, now):
            if isinstance(message, (Offer, Cancel)):
                self._take_in(message, now, actions)

    def _on_offer(self, offer: Offer, now: float, actions: list[Action]) -> None:
        room = self._find(offer.room, offer.incarnation)
        if room is None:
            self._early.keep((offer.room, offer.incarnation), offer, now)
            return
        if (
            room.status in FINAL
            or offer.epoch != room.epoch
            or offer.receiver in room.offers
            or offer.receiver not in room.destinations
        ):
            self.ignored_messages += 1
            return
        status = room.status
        room.offers[offer.receiver] = offer
        if self._tells_details:
            self._record(now, room, Event.OFFER_RECEIVED, None, offer.sent_tokens, 0, name_of(offer.receiver))
        else:
            self.untold += 1
        holds = len(offer.blocks) * self.layout.block_tokens
        if offer.sent_tokens != room.sent_tokens or offer.capacity_tokens != holds or not holds:
            self._fail(
                room,
                f"offer for {offer.capacity_tokens} tokens in {len(offer.blocks)} blocks from token "
                f"{offer.sent_tokens} on; this side has sent {room.sent_tokens}",
                now,
                actions,
            )
            return
        if len(room.offers) < len(room.destinations):
            return
        if status is BOOTSTRAPPING:
            self._set_status(room, WAITING_FOR_INPUT)
        if self._recorder is not None:
            self._record(now, room, Event.OFFERS_COMPLETE, room.status, room.sent_tokens)
        if room.phase is IN_AWAITING_FIRST_OFFERS:
            self._step(room, ON_OFFERS_COMPLETE, now)
            self._move(room, OFFERED)
        elif room.phase is IN_AWAITING_OFFERS or room.phase is IN_CHUNK_WRITTEN:
            self._start_chunk(room, now, actions)

    def _on_cancel(self, cancel: Cancel, now: float, actions: list[Action]) -> None:
        key = (cancel.room, cancel.incarnation)
        room = self._find(cancel.room, cancel.incarnation)
        if room is None:
            # Nothing of it is in flight. Keep the cancellation: the request itself may still come.
            self._early.keep(key, cancel, now)
            actions.append(Send(cancel.receiver, Quiet(*key)))
            return
        room.cancelled |= {cancel.receiver}
        self._fail(room, f"cancelled by {cancel.receiver}: {cancel.reason}", now, actions)
        self._answer_cancels(room, actions)

    def _on_encoded(self, done: Encoded, now: float, actions: list[Action]) -> None:
        room = self._find(done.room, done.incarnation)
        if room is None or not room.encoding:
            self.ignored_messages += 1
            return
        room.encoding = False
        if self._recorder is not None:
            self._record(now, room, Event.ENCODED, None, room.total_tokens)
        if room.failure or room.over:
            self._reap_if_quiet(room, now)
            return
        if room.destinations:
            self._step(room, ON_ENCODED, now)
            self._move(room, ENCODED)
            if len(room.offers) == len(room.destinations):
                self._start_chunk(room, now, actions)
        else:
            # A surplus rank has done its part; how long the others transfer is not its business.
            self._step(room, ON_ENCODED_AS_SURPLUS, now)
            self._move(room, DONE)

    def _on_write_done(self, done: WriteDone, now: float, actions: list[Action]) -> None:
        room = self._find(done.room, done.incarnation)
        if room is None or done.epoch != room.epoch or done.destination not in room.writing or room.chunk is None:
            self.ignored_messages += 1
            return
        room.writing.remove(done.destination)
        if not done.quiet:
            room.unquiet |= {done.destination}
        chunk = room.chunk
        if self._recorder is not None:
            size = self.layout.chunk_bytes(chunk) if done.ok else 0
            self._record(
                now, room, Event.WRITE_DONE, None, chunk.end_token if done.ok else chunk.start_token, size,
                name_of(done.destination) if done.ok else f"{done.destination} {done.reason}",
            )  # fmt: skip
        if not done.ok:
            self._fail(room, f"the write to {done.destination} failed: {done.reason}", now, actions)
        if room.failure or room.over:
            self._answer_cancels(room, actions)
            self._reap_if_quiet(room, now)
            return
        room.landed.add(done.destination)
        if len(room.landed) == len(room.destinations):
            self._finish_chunk(room, chunk, now, actions)

    def _on_writer_quiet(self, quiet: WriterQuiet, now: float, actions: list[Action]) -> None:
        room = self._find(quiet.room, quiet.incarnation)
        if room is None or quiet.destination not in room.unquiet:
            self.ignored_messages += 1
            return
        room.unquiet -= {quiet.destination}
        self._answer_cancels(room, actions)
        self._reap_if_quiet(room, now)

    def _on_peer_down(self, down: PeerDown, now: float, actions: list[Action]) -> None:
        self._down.add(down.peer)
        self._early.drop_from(down.peer)
        for room in list(self.rooms.values()):
            if down.peer in room.destinations:
                self._fail(room, f"{down.peer} is down", now, actions)

    def _on_peer_up(self, up: PeerUp, now: float, actions: list[Action]) -> None:
        self._down.discard(up.peer)

    def _on_abort(self, abort: Abort, now: float, actions: list[Action]) -> None:
        room = self._find(abort.room, abort.incarnation)
        if room is None or not room.destinations:
            # A surplus rank takes no part in the transfer: the ranks that do decide, and they are told as well.
            self.ignored_messages += 1
            return
        self._fail(room, abort.reason, now, actions)

    def _on_iteration(self, iteration: Iteration, now: float, actions: list[Action]) -> None:
        self._freed = False
        free = iteration.free_blocks
        if iteration.failed != NOBODY and iteration.failed < iteration.submitted:
            failed = self._by_number.get(iteration.failed)
            if failed is not None:
                self._conclude_failed(failed, now, actions)
        for number, progress in iteration.progress:
            room = self._by_number.get(number)
            if room is None or number >= iteration.submitted:
                continue  # a room that not every rank has yet cannot be decided on
            if progress == FAILED:
                self._conclude_failed(room, now, actions)
                continue
            before = room.agreed
            if not self._agree(room, progress):
                continue
            if before < OFFERED:
                self._step(room, ON_ALL_RANKS_READY, now)
                self._awaiting_source.append(room)
            if progress >= DONE:
                # Every rank releases these now, so they count at once.
                free += len(room.source)
                self._conclude_success(room, now, actions)
            elif progress == room.progress and room.phase is IN_CHUNK_WRITTEN:
                self._step(room, ON_ALL_RANKS_WRITTEN, now)
        self._drop_agreed()
        self._grant_source(free, now, actions)
        for room in self._expired(now):
            self._fail(room, f"timed out while {self._doing(room)}", now, actions)
        self._early.expire(now)
        self._note_cut(iteration)

    # --- decisions ---

    def _grant_source(self, free: int, now: float, actions: list[Action]) -> None:
        # First come, first served: a large request is not overtaken by small ones.
        queue = self._awaiting_source
        left = self.batch_requests
        while queue:
            room = queue[0]
            if room.over:
                queue.popleft()
                continue
            blocks = self.layout.blocks_for(room.total_tokens)
            if blocks > free:
                return
            if left is not None:
                if not left:
                    self._freed = True  # there is room for the next pass
                    return
                left -= 1
            queue.popleft()
            granted = self.pool.allocate(blocks, room.owner)
            if granted is None:
                raise ProtocolError(f"{self.rank_id} has fewer free blocks than its group agreed on")
            free -= blocks
            self._step(room, ON_SOURCE_GRANTED, now)
            room.source = granted
            room.encoding = True
            if self._recorder is not None:
                self._record(now, room, Event.ENCODE_STARTED, None, room.total_tokens)
            if self._announces and not room.failure:
                for peer in room.destinations:
                    actions.append(Send(peer, Announce(*room.key, room.total_tokens)))
            actions.append(StartEncode(room.key[0], room.key[1], room.total_tokens, granted, room.encode_s))

    def _start_chunk(self, room: EncodeRoom, now: float, actions: list[Action]) -> None:
        """Start writing chunk ``epoch``; its data and all offers for it have come."""
        chunk = plan_chunk(
            total_tokens=room.total_tokens,
            sent_tokens=room.sent_tokens,
            capacities_tokens=[offer.capacity_tokens for offer in room.offers.values()],
            block_tokens=self.layout.block_tokens,
        )
        if not chunk.is_last and not self._resumes:
            self._fail(
                room,
                f"{room.total_tokens} tokens do not fit the allocation of {chunk.tokens}",
                now,
                actions,
            )
            return
        self._step(room, ON_WRITES_STARTED, now)
        room.chunk = chunk
        room.landed.clear()
        if self._recorder is not None:
            size = self.layout.chunk_bytes(chunk)
            self._record(now, room, Event.CHUNK_STARTED, room.status, room.sent_tokens, size)
        number, incarnation = room.key
        for peer in room.destinations:
            room.writing.add(peer)
            if self._tells_details:
                self._record(now, room, Event.WRITE_STARTED, None, chunk.start_token, 0, name_of(peer))
            else:
                self.untold += 1
            target = room.offers[peer].blocks
            actions.append(StartWrite(number, incarnation, room.epoch, peer, chunk, room.source, target))

    def _finish_chunk(self, room: EncodeRoom, chunk: Chunk, now: float, actions: list[Action]) -> None:
        """All required destinations hold the chunk: now, and only now, a status is sent."""
        self._set_status(room, chunk_status(is_last=chunk.is_last, all_hold=True))
        room.sent_tokens = chunk.end_token
        if self._recorder is not None:
            size = self.layout.chunk_bytes(chunk) * len(room.destinations)
            self._record(now, room, Event.CHUNK_DONE, room.status, room.sent_tokens, size)
        number, incarnation = room.key
        message = ChunkStatus(number, incarnation, room.epoch, room.status, room.total_tokens, room.sent_tokens)
        for peer in room.destinations:
            actions.append(Send(peer, message))
        room.epoch += 1
        room.offers = {}
        room.chunk = None
        if room.status is SUCCESS:
            # Other ranks of the group may still be writing; they have timers of their own.
            self._step(room, ON_LAST_CHUNK_WRITTEN, now)
            self._move(room, DONE)
        elif self.encode_tp > 1:
            # The language side answers when it has the chunk from all ranks of the group.
            self._step(room, ON_CHUNK_WRITTEN_HERE, now)
            self._move(room, ENCODED + room.epoch)
        else:
            self._step(room, ON_CHUNK_WRITTEN_BY_THE_GROUP, now)

    def _fail(self, room: EncodeRoom, reason: str, now: float, actions: list[Action]) -> None:
        """Fail the room on this rank and tell every destination; the group follows at its next iteration."""
        if room.failure or room.status in FINAL or room.over:
            return
        self._step(room, ON_FAILED_HERE, now)
        room.failure = reason
        self._set_status(room, Status.Failed)
        self._failed[room.number] = room
        self._record(now, room, Event.FAILED, room.status, room.sent_tokens, 0, reason)
        message = ChunkStatus(*room.key, room.epoch, Status.Failed, room.total_tokens, room.sent_tokens, reason)
        for peer in room.destinations:
            actions.append(Send(peer, message))

    def _conclude_failed(self, room: EncodeRoom, now: float, actions: list[Action]) -> None:
        self._fail(room, OTHER_RANK, now, actions)
        self._step(room, ON_FAILED_IN_THE_GROUP, now)
        self._leave_group(room)
        reason = room.failure or OTHER_RANK
        actions.append(Conclude(*room.key, Status.Failed, reason))
        self._reap_if_quiet(room, now)

    def _conclude_success(self, room: EncodeRoom, now: float, actions: list[Action]) -> None:
        if not room.destinations:  # a surplus rank: nothing was written, the group's word counts
            room.status = Status.Success
        self._step(room, ON_ALL_RANKS_DONE, now)
        actions.append(Conclude(room.key[0], room.key[1], SUCCESS))
        self._reap(room, now)

    def _reap_if_quiet(self, room: EncodeRoom, now: float) -> None:
        if room.over and not room.source_in_use:
            self._step(room, ON_SOURCE_UNUSED, now)
            self._reap(room, now)
            self._freed = True

    def _reap(self, room: EncodeRoom, now: float) -> None:
        if room.source:
            self.pool.release(room.source, room.owner)
        if self._recorder is not None:
            self._record(now, room, Event.RELEASED, room.status, room.sent_tokens)
        self._forget(room)

    def _answer_cancels(self, room: EncodeRoom, actions: list[Action]) -> None:
        for peer in sorted(room.cancelled):
            if room.quiet_to(peer):
                room.cancelled -= {peer}
                actions.append(Send(peer, Quiet(*room.key)))
