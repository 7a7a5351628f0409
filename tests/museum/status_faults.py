"""Faults of the status logic: S1 to S15.

The original is a set of threads around shared tables, ours a function from an input to actions. So a variant is the
historic rule in our structure, and a comment says where the two cannot look the same.
"""

from __future__ import annotations

from typing import Any

import pytest
from exhibit import exhibit

import bufferlab.protocol.encode
import bufferlab.protocol.rank
from bufferlab.protocol.checker.bounds import Bound, Fault
from bufferlab.protocol.chunks import Chunk, plan_chunk
from bufferlab.protocol.encode import EncodeRank, EncodeRoom
from bufferlab.protocol.encode_phases import EncodePhase
from bufferlab.protocol.language import FIRST_CHUNK, LanguageRank, LanguageRoom
from bufferlab.protocol.language_phases import LanguagePhase
from bufferlab.protocol.messages import ChunkStatus, EncodeRequest, LanguageRequest, Offer, StartWrite
from bufferlab.protocol.status import LEGAL, Status, is_resume
from bufferlab.protocol.values import replaced

Actions = list[Any]


def memory_of(core: EncodeRank | LanguageRank) -> dict[Any, Any]:
    """What a variant has to remember. It is an attribute of the core, so it belongs to the explored state."""
    remembered: dict[Any, Any] = vars(core).setdefault("remembered", {})
    return remembered


def keep_records(patch: pytest.MonkeyPatch) -> None:
    """One record per destination for the whole life of a room, as the original keeps it.

    After a chunk a record still names the blocks of that chunk, and the worker has advanced its ``sent_tokens``. Our
    core forgets the offers together with their chunk.
    """
    original = EncodeRank._finish_chunk

    def finish_chunk(self: EncodeRank, room: EncodeRoom, chunk: Chunk, now: float, actions: Actions) -> None:
        records = room.offers
        original(self, room, chunk, now, actions)
        if room.status is Status.Transferring:
            room.offers = {peer: replaced(record, sent_tokens=room.sent_tokens) for peer, record in records.items()}

    patch.setattr(EncodeRank, "_finish_chunk", finish_chunk)


@exhibit(
    "S1",
    "Failed is not final",
    wrong="The larger number wins and Failed has the least, so a late status brings a failed room back to life.",
    ruled_out="Failed has an empty row in the table LEGAL, and LanguageRank._on_status ignores a room that failed.",
    bound=Bound(name="S1: one abort", lengths=(2,), faults=(Fault.ABORT,), most_faults=1),
    breaks={5},
)
def failed_is_not_final(patch: pytest.MonkeyPatch) -> None:
    original_status, original_fail = LanguageRank._on_status, LanguageRank._fail

    def stored(current: Status, new: Status) -> Status:
        numbered = {status: status.value for status in Status} | {Status.Failed: -1}
        return new if new is Status.Failed else max(current, new, key=numbered.__getitem__)

    def fail(self: LanguageRank, room: LanguageRoom, reason: str) -> None:
        self._set_status(room, Status.Failed)
        original_fail(self, room, reason)

    def on_status(self: LanguageRank, status: ChunkStatus, now: float, actions: Actions) -> None:
        room = self.rooms.get((status.room, status.incarnation))
        if room is not None and not room.over and room.status is Status.Failed is not status.status:
            # The status is all that the original knows. Ours has the reason to fail beside it, so that goes as well.
            self._set_status(room, status.status)
            room.failure = ""
            self._failed.pop(room.number, None)
        original_status(self, status, now, actions)

    patch.setattr(bufferlab.protocol.rank, "advance", stored)
    patch.setattr(LanguageRank, "_fail", fail)
    patch.setattr(LanguageRank, "_on_status", on_status)


@exhibit(
    "S2",
    "A resume resets the status",
    wrong="A resume puts the room back to WaitingForInput, although it is in the middle of its transfer.",
    ruled_out="A status only rises along the table LEGAL; a resume is known by sent_tokens > 0 (is_resume), by no status.",
    bound=Bound(name="S2: two chunks", lengths=(3,)),
    breaks={5},
)
def resume_resets_the_status(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._on_offer

    def on_offer(self: EncodeRank, offer: Offer, now: float, actions: Actions) -> None:
        room = self.rooms.get((offer.room, offer.incarnation))
        if room is not None and is_resume(offer.sent_tokens) and room.status is Status.Transferring:
            self._set_status(room, Status.WaitingForInput)
        original(self, offer, now, actions)

    # In the original the numeric maximum of S1 undid the reset of a living room by accident. Here the table that has
    # taken the maximum's place must allow the step, else it is refused at once.
    patch.setitem(LEGAL, Status.Transferring, LEGAL[Status.Transferring] | {Status.WaitingForInput})
    patch.setattr(EncodeRank, "_on_offer", on_offer)


@exhibit(
    "S3",
    "Success on any chunk",
    wrong="The end of every chunk is reported as Success, so rows that never arrived are delivered.",
    ruled_out="is_last is derived from the cut (sent + chunk = total) and decides in one table, chunk_status.",
    bound=Bound(name="S3: two chunks", lengths=(3,)),
    breaks={10},
)
def success_on_any_chunk(patch: pytest.MonkeyPatch) -> None:
    # Only the sender's half: our language rank would refuse such a status, since lengths are in the message.
    patch.setattr(bufferlab.protocol.encode, "chunk_status", lambda *, is_last, all_hold: Status.Success)


@exhibit(
    "S4",
    "A resume that only edits a record",
    wrong="A resume changes the record of its destination and nothing starts the next chunk: Transferring for ever.",
    ruled_out="EncodeRank._on_offer starts the chunk itself, with the offer that completes the set, resume or not.",
    bound=Bound(name="S4: two chunks", lengths=(3,)),
    breaks={21, 27},
)
def resume_edits_a_record(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._start_chunk

    def start_chunk(self: EncodeRank, room: EncodeRoom, now: float, actions: Actions) -> None:
        if not is_resume(room.sent_tokens):
            original(self, room, now, actions)

    patch.setattr(EncodeRank, "_start_chunk", start_chunk)


@exhibit(
    "S5",
    "A resume that starts with the first rank's message",
    wrong="The second chunk is written as soon as one rank has offered; the others are written into blocks of the first.",
    ruled_out="A chunk starts when the set of required destinations has offered for its epoch (EncodeRank._start_chunk).",
    bound=Bound(
        name="S5: two ranks, two chunks",
        lengths=(3,),
        discipline="free_then_alloc",  # of that version: the blocks of the first chunk are free when the second is written
        language_tp=2,
        atomic_iterations=True,
    ),
    breaks={2, 14},
)
def resume_without_gate(patch: pytest.MonkeyPatch) -> None:
    keep_records(patch)
    original = EncodeRank._on_offer

    def on_offer(self: EncodeRank, offer: Offer, now: float, actions: Actions) -> None:
        room = self.rooms.get((offer.room, offer.incarnation))
        if room is not None and offer.epoch == room.epoch and is_resume(offer.sent_tokens):
            # The records of the other ranks still name their old blocks, and the worker writes to what is there.
            room.offers[offer.receiver] = offer
            self._start_chunk(room, now, actions)
        else:
            original(self, offer, now, actions)

    patch.setattr(EncodeRank, "_on_offer", on_offer)


@exhibit(
    "S6",
    "A gate that is always open",
    wrong="A rank counts as ready when its record has sent_tokens > 0, which the first chunk made true for all of them.",
    ruled_out="Offers belong to one epoch and are forgotten with it (EncodeRank._finish_chunk), so the set fills anew.",
    bound=Bound(
        name="S6: two ranks, two chunks",
        lengths=(3,),
        discipline="alloc_then_free",  # of that version: the blocks of the first chunk are free when the second is written
        language_tp=2,
        atomic_iterations=True,
    ),
    breaks={2, 14},
)
def gate_always_open(patch: pytest.MonkeyPatch) -> None:
    keep_records(patch)
    original = EncodeRank._on_offer

    def on_offer(self: EncodeRank, offer: Offer, now: float, actions: Actions) -> None:
        room = self.rooms.get((offer.room, offer.incarnation))
        if room is not None and offer.epoch == room.epoch and is_resume(offer.sent_tokens):
            room.offers[offer.receiver] = offer
            if all(is_resume(room.offers[peer].sent_tokens) for peer in room.destinations):
                self._start_chunk(room, now, actions)
        else:
            original(self, offer, now, actions)

    patch.setattr(EncodeRank, "_on_offer", on_offer)


@exhibit(
    "S7",
    "The last destination decides for all",
    wrong="Each destination gets what fits it, and the last one's cut says whether the room is complete for everybody.",
    ruled_out="plan_chunk cuts once, at the smallest capacity offered, and is_last follows from that cut.",
    bound=Bound(name="S7: unequal grants", lengths=(3,), language_tp=2, default_tokens=(2, 4)),
    breaks={10, 11},
)
def last_destination_decides(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._start_chunk

    def start_chunk(self: EncodeRank, room: EncodeRoom, now: float, actions: Actions) -> None:
        started: Actions = []
        original(self, room, now, started)
        for write in started:
            if isinstance(write, StartWrite):
                room.chunk = plan_chunk(
                    total_tokens=room.total_tokens,
                    sent_tokens=room.sent_tokens,
                    capacities_tokens=[room.offers[write.destination].capacity_tokens],
                    block_tokens=self.layout.block_tokens,
                )
                write = replaced(write, chunk=room.chunk)
            actions.append(write)

    patch.setattr(EncodeRank, "_start_chunk", start_chunk)


@exhibit(
    "S8",
    "The same Transferring, acted on every iteration",
    wrong="A room that is still Transferring is resumed at every iteration: its blocks, being written to, are freed again.",
    ruled_out="The group's progress of a room only rises and each rise is acted on once (RankCore._agree).",
    bound=Bound(name="S8: two chunks", lengths=(3,), discipline="free_then_alloc"),  # of that version
    breaks={2, 7},
)
def transferring_acted_on_every_iteration(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._agree

    def agree(self: LanguageRank, room: LanguageRoom, progress: int) -> bool:
        news = original(self, room, progress)
        if room.over or progress < FIRST_CHUNK or (progress - FIRST_CHUNK) % 2:
            return news
        # The original polls every room at every iteration. Ours looks at what moved, and holds an iteration when one is due.
        room.moved = True
        if room not in self._moved:
            self._moved.append(room)
        self._freed = True
        if not news:
            # Our table has no step that resumes a room which has resumed.
            room.landing = self._landings[LanguagePhase.HOLDS_CHUNK]
        return True

    patch.setattr(LanguageRank, "_agree", agree)


@exhibit(
    "S9",
    "One resume and no more",
    wrong="A Transferring that comes while a part is cached counts as the old one seen again: no second resume.",
    ruled_out="Every status names its chunk (epoch), so a second partial is no repetition; any number of resumes works.",
    bound=Bound(name="S9: three chunks", lengths=(5,), encode_blocks=3, language_blocks=1),
    breaks={21},
)
def one_resume_only(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_status

    def on_status(self: LanguageRank, status: ChunkStatus, now: float, actions: Actions) -> None:
        room = self.rooms.get((status.room, status.incarnation))
        partial_is_cached = room is not None and room.copied_tokens > 0
        if not (partial_is_cached and status.status is Status.Transferring):
            original(self, status, now, actions)

    patch.setattr(LanguageRank, "_on_status", on_status)


@exhibit(
    "S9b",
    "A second partial told by its blocks",
    wrong="A second partial is recognised by other block numbers, and the allocator may return the same ones.",
    ruled_out="The epoch tells chunks apart (LanguageRank._on_status); block numbers are names of memory, nothing else.",
    bound=Bound(name="S9b: three chunks in one block", lengths=(5,), encode_blocks=3, language_blocks=1),
    breaks={21},
)
def partials_told_by_blocks(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_status

    def on_status(self: LanguageRank, status: ChunkStatus, now: float, actions: Actions) -> None:
        key = (status.room, status.incarnation)
        room = self.rooms.get(key)
        if room is None or status.status is not Status.Transferring:
            original(self, status, now, actions)
        elif memory_of(self).get(key) != room.blocks:
            original(self, status, now, actions)
            memory_of(self)[key] = room.blocks

    patch.setattr(LanguageRank, "_on_status", on_status)


@exhibit(
    "S10",
    "The same chunk asked for twice",
    wrong="A second request before the first chunk is done is queued as well, and writes the next tokens over the first.",
    ruled_out="A second offer of a destination for one epoch is ignored (EncodeRank._on_offer), and so is a stale epoch.",
    bound=Bound(name="S10: one duplicate", lengths=(3,), faults=(Fault.DUPLICATE,), most_faults=1),
    breaks={7, 14},
)
def chunk_asked_for_twice(patch: pytest.MonkeyPatch) -> None:
    original_offer, original_finish = EncodeRank._on_offer, EncodeRank._finish_chunk

    # In the original the encode side's own scheduler asks twice. Our core has no such call, a message makes it ask.
    def on_offer(self: EncodeRank, offer: Offer, now: float, actions: Actions) -> None:
        room = self.rooms.get((offer.room, offer.incarnation))
        if room is not None and room.writing and offer in room.offers.values():
            memory_of(self)[room.key] = room.offers
        original_offer(self, offer, now, actions)

    def finish_chunk(self: EncodeRank, room: EncodeRoom, chunk: Chunk, now: float, actions: Actions) -> None:
        original_finish(self, room, chunk, now, actions)
        queued = memory_of(self).pop(room.key, None)
        if queued is not None and room.status is Status.Transferring:
            room.offers = queued
            self._start_chunk(room, now, actions)

    patch.setattr(EncodeRank, "_on_offer", on_offer)
    patch.setattr(EncodeRank, "_finish_chunk", finish_chunk)


@exhibit(
    "S11",
    "A late status makes a room",
    wrong="A status that arrives after its room was cleared on the language side makes an entry that nobody ever clears.",
    ruled_out="Only a submission makes a room; what comes late is ignored or kept for a minute (EarlyMessages).",
    # All requests are there at the start, so that a status without a room is a late one and not an early one.
    bound=Bound(name="S11: one abort", lengths=(2,), arrivals_any=False, faults=(Fault.ABORT,), most_faults=1),
    breaks={13},
)
def late_status_makes_a_room(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_status

    def on_status(self: LanguageRank, status: ChunkStatus, now: float, actions: Actions) -> None:
        key = (status.room, status.incarnation)
        if key in self.rooms:
            original(self, status, now, actions)
        else:
            room = self.rooms[key] = LanguageRoom(
                LanguageRequest(*key), -1, self.rank_id, self._landings[LanguagePhase.JOINING]
            )
            room.status = status.status

    patch.setattr(LanguageRank, "_on_status", on_status)


@exhibit(
    "S12",
    "A late offer makes a room",
    wrong="An offer that arrives after its room was cleared on the encode side makes an entry that nobody ever clears.",
    ruled_out="Only a submission makes a room; what comes late is ignored or kept for a minute (EarlyMessages).",
    bound=Bound(name="S12: one abort", lengths=(2,), arrivals_any=False, faults=(Fault.ABORT,), most_faults=1),
    breaks={13},
)
def late_offer_makes_a_room(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._on_offer

    def on_offer(self: EncodeRank, offer: Offer, now: float, actions: Actions) -> None:
        key = (offer.room, offer.incarnation)
        if key in self.rooms:
            original(self, offer, now, actions)
        else:
            # The original cannot tell an orphan from an offer that comes before its request; both wait for ever.
            room = self.rooms[key] = EncodeRoom(
                EncodeRequest(*key, total_tokens=0),
                -1,
                (offer.receiver,),
                self._landings[EncodePhase.AWAITING_FIRST_OFFERS],
            )
            room.offers[offer.receiver] = offer
            room.status = Status.WaitingForInput

    patch.setattr(EncodeRank, "_on_offer", on_offer)


@exhibit(
    "S13",
    "A room number that comes again",
    wrong="The language side keeps the Success of a room; a new request with that number finds it and is never served.",
    ruled_out="A room is (number, incarnation), it is forgotten when it ends, and its status is born with it (Room).",
    bound=Bound(name="S13: a room used twice", lengths=(2, 2), rooms=(0, 0)),
    breaks={21},
)
def room_number_comes_again(patch: pytest.MonkeyPatch) -> None:
    original_request, original_deliver = LanguageRank._on_request, LanguageRank._deliver
    original_queue = LanguageRank._queue

    def deliver(self: LanguageRank, room: LanguageRoom, now: float, actions: Actions) -> None:
        original_deliver(self, room, now, actions)
        memory_of(self)[room.key[0]] = room.status

    def on_request(self: LanguageRank, request: LanguageRequest, now: float, actions: Actions) -> None:
        original_request(self, request, now, actions)
        room = self.rooms[request.room, request.incarnation]
        room.status = memory_of(self).get(request.room, room.status)

    def queue(self: LanguageRank, room: LanguageRoom, *given: Any) -> None:
        if room.status is not Status.Success:  # the queue of new rooms has no branch for it
            original_queue(self, room, *given)

    patch.setattr(LanguageRank, "_deliver", deliver)
    patch.setattr(LanguageRank, "_on_request", on_request)
    patch.setattr(LanguageRank, "_queue", queue)


@exhibit(
    "S14",
    "A resume that nobody answers",
    wrong="The encode side has dropped the room between two chunks; the resume is logged, its sender waits for ever.",
    ruled_out="Whatever ends a room on the encode side is said to every destination at once (EncodeRank._fail).",
    bound=Bound(name="S14: one abort, two chunks", lengths=(3,), faults=(Fault.ABORT,), most_faults=1),
    breaks={21, 22},
)
def resume_unanswered(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._fail

    def fail(self: EncodeRank, room: EncodeRoom, reason: str, now: float, actions: Actions) -> None:
        original(self, room, reason, now, [] if is_resume(room.sent_tokens) else actions)

    patch.setattr(EncodeRank, "_fail", fail)


@exhibit(
    "S15",
    "A cell that is gone when it is read",
    wrong="A status is looked up for a room that was cleared meanwhile: KeyError, and the thread that serves all is gone.",
    ruled_out="A rank takes one input at a time, and an input for a room it has not is defined: ignored or kept.",
    bound=Bound(name="S15: one abort", lengths=(2,), arrivals_any=False, faults=(Fault.ABORT,), most_faults=1),
    breaks={19},
)
def cell_gone_when_read(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._on_status

    def on_status(self: LanguageRank, status: ChunkStatus, now: float, actions: Actions) -> None:
        # Nothing can come between a test and a read here. So this is the version that read before it tested.
        _ = self.rooms[status.room, status.incarnation].status
        original(self, status, now, actions)

    patch.setattr(LanguageRank, "_on_status", on_status)
