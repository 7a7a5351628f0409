"""Faults of the buffers: B1 to B18."""

from __future__ import annotations

from typing import Any

import pytest
from exhibit import exhibit

import bufferlab.protocol.encode
from bufferlab.protocol.checker.bounds import BLOCK_TOKENS, Bound, Fault
from bufferlab.protocol.chunks import Chunk, plan_chunk
from bufferlab.protocol.disciplines.alloc_then_free import AllocThenFree
from bufferlab.protocol.encode import DONE, OFFERED, EncodeRank, EncodeRoom
from bufferlab.protocol.encode_phases import EncodePhase, EncodeStep
from bufferlab.protocol.language import FIRST_CHUNK, LanguageRank, LanguageRoom
from bufferlab.protocol.language_phases import LanguagePhase, LanguageStep
from bufferlab.protocol.messages import ChunkStatus, Conclude, Deliver, Offer, Send, StartEncode, StartWrite
from bufferlab.protocol.status import Status
from bufferlab.protocol.values import replaced


@exhibit(
    "B1",
    "Hold and wait",
    wrong="Every block of the pool holds the first part of some request, and all of them wait for more.",
    ruled_out="The disciplines window and exact_announce never wait for blocks with blocks in hand (Discipline.resume).",
    bound=Bound(
        name="B1: two requests of two blocks in a pool of two",
        lengths=(3, 3),
        discipline="alloc_then_free",
        encode_blocks=4,
        language_blocks=2,
    ),
    breaks={21},
    cure={"discipline": "window"},
)
def hold_and_wait(patch: pytest.MonkeyPatch) -> None:
    """The discipline is the fault."""


@exhibit(
    "B2",
    "A circular wait across the two sides",
    wrong="One long request holds encode blocks and waits for language blocks, a short one holds those and waits for encode blocks.",
    ruled_out="With window a resume proceeds in the blocks it holds, so whoever has source blocks gives them back (Window.resume).",
    bound=Bound(
        name="B2: one request of two blocks, one of one",
        lengths=(3, 1),
        discipline="alloc_then_free",
        encode_blocks=2,
        language_blocks=2,
    ),
    breaks={21},
    cure={"discipline": "window"},
)
def circular_wait(patch: pytest.MonkeyPatch) -> None:
    """The discipline is the fault."""


@exhibit(
    "B2b",
    "A circular wait although blocks are freed first",
    wrong="Freeing before asking does not help: the rest of one long request is more than the short one leaves free.",
    ruled_out="With window a resume never needs more than the blocks it holds (Window.resume).",
    bound=Bound(
        name="B2b: one request of three blocks, one of one",
        lengths=(5, 1),
        discipline="free_then_alloc",
        encode_blocks=3,
        language_blocks=2,
    ),
    breaks={21},
    cure={"discipline": "window"},
)
def circular_wait_after_freeing(patch: pytest.MonkeyPatch) -> None:
    """The discipline is the fault."""


@exhibit(
    "B3",
    "A request that can never fit",
    wrong="A request whose parts do not fit the language pool together waits for blocks for ever.",
    ruled_out="Discipline.refusal is asked before a room waits, and the room fails with that reason.",
    bound=Bound(name="B3: two blocks in a pool of one", lengths=(3,), discipline="alloc_then_free", language_blocks=1),
    breaks={17},
)
def no_refusal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AllocThenFree, "refusal", lambda self, *, first, remaining, pool: "")


@exhibit(
    "B3b",
    "A request longer than the encode pool",
    wrong="A request of more blocks than the encode rank has is never admitted and never refused.",
    ruled_out="EncodeRank._on_request compares the length with the whole pool and fails the room at once.",
    bound=Bound(name="B3b: two blocks in an encode pool of one", lengths=(3,), encode_blocks=1),
    breaks={17},
)
def no_refusal_on_encode(patch: pytest.MonkeyPatch) -> None:
    forget_failures(patch, "source blocks, the pool has")


def forget_failures(patch: pytest.MonkeyPatch, reason_has: str) -> None:
    """Leave out the checks of the encode rank that end in a failure with this reason."""
    original = EncodeRank._fail

    def fail(self: EncodeRank, room: EncodeRoom, reason: str, now: float, actions: list[Any]) -> None:
        if reason_has not in reason:
            original(self, room, reason, now, actions)

    patch.setattr(EncodeRank, "_fail", fail)


@exhibit(
    "B4",
    "Copied again at every iteration",
    wrong="While a request waits for more blocks, what arrived of it is copied at every iteration of the loop.",
    ruled_out="copied_tokens remembers what was copied, so a chunk is copied once (LanguageRank._copy_out).",
    bound=Bound(
        name="B4: a resume that waits",
        lengths=(3, 1),
        discipline="alloc_then_free",
        encode_blocks=3,
        language_blocks=2,
    ),
    breaks={9},
)
def copied_at_every_iteration(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._grant_resumes

    def grant_resumes(self: LanguageRank, now: float, actions: list[Any]) -> bool:
        for room in self._resuming:
            if not room.over:
                room.copied_tokens = 0  # the gather comes before the allocation and nothing tells that it was done
                self._copy_out(room, actions)
        return original(self, now, actions)

    patch.setattr(LanguageRank, "_grant_resumes", grant_resumes)
    patch.setattr(LanguageRank, "unsettled", property(lambda self: True))  # the historic loop never rests


@exhibit(
    "B5",
    "New requests before resumes",
    wrong="New arrivals take the blocks that a half-received request waits for, without any limit.",
    ruled_out="LanguageRank._grant serves new rooms only when no resume is left waiting (resume_first).",
    bound=Bound(
        name="B5: a resume and a new request",
        lengths=(3, 1),
        discipline="alloc_then_free",
        encode_blocks=3,
        language_blocks=2,
    ),
    breaks={24},
)
def new_before_resumes(patch: pytest.MonkeyPatch) -> None:
    def grant(self: LanguageRank, now: float, actions: list[Any]) -> None:
        self._grant_new(now, actions)
        self._grant_resumes(now, actions)

    patch.setattr(LanguageRank, "_grant", grant)


@exhibit(
    "B6",
    "Freed again by the failure path",
    wrong="When no blocks are left for the resume, the failure path frees blocks that are free already; they get two owners.",
    ruled_out="A release empties the room's block list, and BlockPool.release checks the owner of every block.",
    bound=Bound(
        name="B6: a resume that finds too little",
        lengths=(5, 1),
        discipline="free_then_alloc",
        encode_blocks=4,
        language_blocks=2,
    ),
    breaks={4},
)
def double_free_on_failure(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._chunk_landed

    def chunk_landed(self: LanguageRank, room: LanguageRoom, *, is_last: bool, now: float, actions: list[Any]) -> None:
        held = room.blocks
        original(self, room, is_last=is_last, now=now, actions=actions)
        if not is_last and self._free < self.layout.blocks_for(self._known_total(room) - room.got_tokens):
            room.blocks = held  # the historic code does not wait, and its list still names what it has just freed
            self._conclude_failed(room, "no blocks for the rest", now, actions)

    patch.setattr(LanguageRank, "_chunk_landed", chunk_landed)


@exhibit(
    "B7",
    "Freed again after a retraction",
    wrong="A request that is retracted and prefilled again frees its blocks a second time, when somebody else has them.",
    ruled_out="Blocks go with the copy, before the delivery, and the room that could return them is forgotten (_deliver).",
    bound=Bound(name="B7: one request", lengths=(1,), language_blocks=1, encode_blocks=1),
    breaks={4},
)
def double_free_after_retraction(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._deliver

    def deliver(self: LanguageRank, room: LanguageRoom, now: float, actions: list[Any]) -> None:
        prefilled = room.blocks  # the record that free_with_req forgets to clear
        original(self, room, now, actions)
        self.pool.release(prefilled, room.key)  # the second prefill, which in the fork comes some iterations later

    patch.setattr(LanguageRank, "_deliver", deliver)


@exhibit(
    "B8",
    "The length is a view of a freed block",
    wrong="The length is read again out of the first block after that has been freed and filled by another request.",
    ruled_out="The length comes with every status and is kept in the room, never read from memory (ChunkStatus.total_tokens).",
    bound=Bound(
        name="B8: a freed block that another request fills",
        lengths=(3, 1),
        discipline="alloc_then_free",
        encode_blocks=3,
        language_blocks=2,
    ),
    breaks={9, 16},
)
def length_in_a_freed_block(patch: pytest.MonkeyPatch) -> None:
    on_status, deliver = LanguageRank._on_status, LanguageRank._deliver

    def read(self: LanguageRank, status: ChunkStatus, now: float, actions: list[Any]) -> None:
        key = (status.room, status.incarnation)
        room = self.rooms.get(key)
        if room is not None and room.outstanding and not status.epoch:
            # The aux row of the block, which came with the data, and the room's reference to it.
            self.__dict__.setdefault("aux", {})[room.blocks[0]] = status.total_tokens
            self.__dict__.setdefault("views", {})[key] = room.blocks[0]
        on_status(self, status, now, actions)

    def deliver_as_read(self: LanguageRank, room: LanguageRoom, now: float, actions: list[Any]) -> None:
        core: Any = self
        room.total_tokens = core.aux[core.views[room.key]]
        deliver(self, room, now, actions)

    patch.setattr(LanguageRank, "_on_status", read)
    patch.setattr(LanguageRank, "_deliver", deliver_as_read)


@exhibit(
    "B9",
    "The warm-up writes into a block it does not own",
    wrong="A health check is encoded into a block that is not taken from the free list, over the data of another request.",
    ruled_out="There is no request without an allocation: a room's source blocks come from BlockPool.allocate.",
    bound=Bound(name="B9: a request and a warm-up", lengths=(3, 1), encode_blocks=2),
    breaks={1},
)
def warm_up_without_allocation(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._grant_source

    def grant_source(self: EncodeRank, free: int, now: float, actions: list[Any]) -> None:
        original(self, free, now, actions)
        for room in [room for room in self._awaiting_source if room.total_tokens == 1]:  # the warm-up
            self._awaiting_source.remove(room)
            room.source = (0,)  # a random block; here none is free and all are somebody's
            self._step(room, EncodeStep.SOURCE_GRANTED, now)
            room.encoding = True
            actions.append(StartEncode(*room.key, room.total_tokens, room.source))

    patch.setattr(EncodeRank, "_grant_source", grant_source)


@exhibit(
    "B10",
    "Freed with a write in flight",
    wrong="An abort frees the target blocks at once, and the write under way lands in the data of their next owner.",
    ruled_out="A room that ends with an offer outstanding fences its blocks until the writer says Quiet (BlockPool.fence).",
    bound=Bound(
        name="B10: an abort during the write",
        lengths=(1,),
        encode_blocks=1,
        language_blocks=1,
        faults=(Fault.ABORT,),
        most_faults=1,
    ),
    breaks={2},
)
def no_fence(patch: pytest.MonkeyPatch) -> None:
    original = LanguageRank._conclude_failed

    def conclude_failed(self: LanguageRank, room: LanguageRoom, reason: str, now: float, actions: list[Any]) -> None:
        room.landing = self._landings[
            LanguagePhase.AWAITING_RESUME
        ]  # as if no writer could be there; that it is not told either is N4
        original(self, room, reason, now, actions)

    patch.setattr(LanguageRank, "_conclude_failed", conclude_failed)


@exhibit(
    "B11",
    "Source freed under a reader",
    wrong="One encode rank fails, its group agrees, and the other rank frees source blocks that its own write still reads.",
    ruled_out="Source blocks are released when no write and no forward pass can touch them (EncodeRoom.source_in_use).",
    bound=Bound(
        name="B11: two encode ranks, one write fails",
        lengths=(1,),
        encode_tp=2,
        language_tp=2,
        encode_blocks=1,
        language_blocks=1,
        atomic_iterations=True,
        faults=(Fault.FAIL,),
        most_faults=1,
    ),
    breaks={3},
)
def source_freed_while_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EncodeRoom, "source_in_use", property(lambda room: False))


@exhibit(
    "B12",
    "A cut inside a block",
    wrong="The next chunk starts inside a block, its start is rounded down, and all of its rows land shifted.",
    ruled_out="plan_chunk refuses a start or a capacity that is not a multiple of the block.",
    bound=Bound(name="B12: a default of one and a half blocks", lengths=(5,), default_tokens=(3,), encode_blocks=3),
    breaks={8},
)
def unaligned_cut(patch: pytest.MonkeyPatch) -> None:
    def plan(*, total_tokens: int, sent_tokens: int, capacities_tokens: list[int], block_tokens: int) -> Chunk:
        remaining = total_tokens - sent_tokens
        tokens = min(remaining, 3)  # the default itself, before it is rounded up to the blocks of the offer
        return Chunk(sent_tokens, tokens, is_last=tokens == remaining)

    patch.setattr(bufferlab.protocol.encode, "plan_chunk", plan)


@exhibit(
    "B13",
    "A capacity that is no number of blocks",
    wrong="The offer names the requested tokens and not those of its blocks, and the sender's arithmetic raises.",
    ruled_out="The capacity is that of the blocks (LanguageRank._offer), and an offer of anything else fails its room alone.",
    bound=Bound(name="B13: a default of one and a half blocks", lengths=(1,), default_tokens=(3,), encode_blocks=1),
    breaks={19},
)
def requested_tokens_as_capacity(patch: pytest.MonkeyPatch) -> None:
    def plan(*, capacities_tokens: list[int], **given: int) -> Chunk:
        # Put in behind the check in _on_offer: the historic one rounds down and lets these pass.
        return plan_chunk(capacities_tokens=[3 for _ in capacities_tokens], **given)

    patch.setattr(bufferlab.protocol.encode, "plan_chunk", plan)


@exhibit(
    "B14",
    "An empty embedding",
    wrong="A request of no tokens is a Success without any write, and its length is what the block's last owner left there.",
    ruled_out="EncodeRank._on_request fails an empty embedding at once, and no length is read from memory.",
    bound=Bound(name="B14: no tokens", lengths=(0,), encode_blocks=1, language_blocks=1),
    breaks={9},
)
def empty_embedding(patch: pytest.MonkeyPatch) -> None:
    deliver = LanguageRank._deliver

    def success_at_once(self: EncodeRank, offer: Offer, now: float, actions: list[Any]) -> None:
        room = self.rooms.get((offer.room, offer.incarnation))
        if room is None:
            self._early.keep((offer.room, offer.incarnation), offer, now)
            return
        room.status, room.landing, room.agreed = Status.Success, self._landings[EncodePhase.DONE], OFFERED
        self._move(room, DONE)
        actions.append(Send(offer.receiver, ChunkStatus(*room.key, 0, Status.Success, 0, 0)))

    def take_any(self: LanguageRank, status: ChunkStatus, now: float, actions: list[Any]) -> None:
        room = self.rooms[status.room, status.incarnation]
        room.total_tokens, room.landing = status.total_tokens, self._landings[LanguagePhase.HOLDS_CHUNK]
        self._move(room, FIRST_CHUNK + 1)

    def deliver_as_read(self: LanguageRank, room: LanguageRoom, now: float, actions: list[Any]) -> None:
        room.got_tokens = room.total_tokens = BLOCK_TOKENS  # the aux row, which nobody wrote, says anything
        deliver(self, room, now, actions)

    forget_failures(patch, "the embedding is empty")
    patch.setattr(EncodeRank, "_on_offer", success_at_once)
    patch.setattr(LanguageRank, "_on_status", take_any)
    patch.setattr(LanguageRank, "_deliver", deliver_as_read)


@exhibit(
    "B15",
    "The offset counted twice",
    wrong="The chunk's offset within the request is added to a block address, so a resume is written past its own blocks.",
    ruled_out="A grant is a list of blocks and the chunk starts in the first of them (BufferLayout.segments).",
    bound=Bound(name="B15: two chunks", lengths=(3,)),
    breaks={2},
)
def offset_counted_twice(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._start_chunk

    def start_chunk(self: EncodeRank, room: EncodeRoom, now: float, actions: list[Any]) -> None:
        asked: list[Any] = []
        original(self, room, now, asked)
        for action in asked:
            if isinstance(action, StartWrite):
                offset = action.chunk.start_token // BLOCK_TOKENS
                shifted = tuple([block + offset for block in action.target_blocks])
                action = replaced(action, target_blocks=shifted)
            actions.append(action)

    patch.setattr(EncodeRank, "_start_chunk", start_chunk)


@exhibit(
    "B16",
    "The sender's own default",
    wrong="The sender cuts at the default of its own environment and writes past the memory that was offered.",
    ruled_out="A chunk is cut at the smallest capacity offered, and no other size enters plan_chunk.",
    bound=Bound(name="B16: defaults of one block and of two", lengths=(3,)),
    breaks={8},
)
def cut_at_own_default(patch: pytest.MonkeyPatch) -> None:
    def plan(*, capacities_tokens: list[int], **given: int) -> Chunk:
        return plan_chunk(capacities_tokens=[2 * BLOCK_TOKENS], **given)

    patch.setattr(bufferlab.protocol.encode, "plan_chunk", plan)


@exhibit(
    "B17",
    "Dropped without a word",
    wrong="A request that finds no free source blocks is dropped: no retry, no failure, no answer.",
    ruled_out="A room leaves the queue for source blocks only with its blocks or when it is over (EncodeRank._grant_source).",
    bound=Bound(name="B17: two requests, one source block", lengths=(1, 1), encode_blocks=1),
    breaks={21},
)
def dropped_without_source(patch: pytest.MonkeyPatch) -> None:
    original = EncodeRank._grant_source

    def grant_source(self: EncodeRank, free: int, now: float, actions: list[Any]) -> None:
        original(self, free, now, actions)
        self._awaiting_source.clear()  # the fork notices after the forward pass, which is wasted as well

    patch.setattr(EncodeRank, "_grant_source", grant_source)


@exhibit(
    "B18",
    "Blocks held until the prefill is over",
    wrong="All blocks of the allocation, the unused tail too, stay with a request that was copied out of them long ago.",
    ruled_out="LanguageRank._deliver releases all blocks in the iteration that copies, before the delivery.",
    bound=Bound(name="B18: one token in two blocks", lengths=(1,), default_tokens=(4,), encode_blocks=1),
    breaks={26},
)
def held_until_prefilled(patch: pytest.MonkeyPatch) -> None:
    def deliver(self: LanguageRank, room: LanguageRoom, now: float, actions: list[Any]) -> None:
        self._copy_out(room, actions)
        actions.append(Deliver(*room.key, self._known_total(room)))
        actions.append(Conclude(*room.key, Status.Success))
        # Released some iterations later, when the model has run over it.
        self._step(room, LanguageStep.DELIVERED_AND_KEPT, now)
        self._leave_group(room)

    patch.setattr(LanguageRank, "_deliver", deliver)
