"""The language rank: offers memory for an embedding of unknown length and delivers it when all of it has arrived.

A room's life on this side::

    submitted -> [length announced] -> blocks -> offer for chunk 0 -> status of chunk 0
              -> Success: copy out, release, deliver
              -> Transferring: the length is known now; copy out, keep or release blocks and wait for more, as the
                 discipline says, then offer for chunk 1 (a resume: sent_tokens > 0) -> ...

Rules this file keeps:

* every decision (take blocks, copy, resume, deliver, fail) is made in an iteration, on what the whole group agreed on;
* a status has an effect only for the outstanding epoch of the right incarnation; any other is counted and ignored;
* a room that ends while a writer may still write fences its blocks, sends Cancel, and frees them on Quiet;
* the length comes from the message, never from memory that another room may own by now;
* a demand that can never be met fails at once and says why;
* a timer runs while a rank waits for something itself; a rank that has done its part has no timer until its group has
  agreed. The table in ``language_phases`` alone says which phases there are, where each leads and which has a timer.

This module is longer than others because one object decides about all rooms of a rank, and its state and its decisions
are easier to read together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Set
from itertools import chain
from typing import Final, final

from bufferlab.protocol.agreement import FAILED, NOBODY
from bufferlab.protocol.disciplines import Discipline
from bufferlab.protocol.errors import ProtocolError
from bufferlab.protocol.language_phases import LANGUAGE_PHASES, LanguagePhase, LanguageStep
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import (
    Abort,
    Action,
    Announce,
    Cancel,
    ChunkStatus,
    Conclude,
    CopyOut,
    Deliver,
    Iteration,
    LanguageInput,
    LanguageRequest,
    Note,
    Offer,
    PeerDown,
    PeerUp,
    Prefilled,
    Quiet,
    Send,
)
from bufferlab.protocol.phases import Timer
from bufferlab.protocol.rank import OTHER_RANK, Landing, RankCore, Room, RoomKey
from bufferlab.protocol.recording import Event, Recorder
from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.views import CompletedView, RequestView
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side, writer_rank
from bufferlab.protocol.values import Value
from bufferlab.protocol.waits import Demand

ANNOUNCED: Final = 1
FIRST_CHUNK: Final = 2
"""Progress of a room: 1 when its length is announced, then 2 more for every chunk, plus 1 when that was the last."""

CANCEL_RETRY_S = 1.0
"""How often Cancel is repeated until Quiet comes: a control round trip takes about a millisecond, so a second means
that one of the two messages was lost."""

QUARANTINE_S = 60.0
"""How long blocks stay fenced after their writer's process is known to be gone. Bytes that were on the way land within
the transport's own timeout, 30 s for Mooncake's default; twice that is safe."""


# Members of enumerations by names of this module: a global is found many times as fast.
FAILED_STATUS: Final = Status.Failed
SUCCESS: Final = Status.Success
TRANSFERRING: Final = Status.Transferring
WAITING_FOR_INPUT: Final = Status.WaitingForInput
IN_ANSWERED: Final = LanguagePhase.ANSWERED
IN_AWAITING_BLOCKS: Final = LanguagePhase.AWAITING_BLOCKS
IN_AWAITING_LENGTH: Final = LanguagePhase.AWAITING_LENGTH
IN_AWAITING_RESUME: Final = LanguagePhase.AWAITING_RESUME
IN_ENDED: Final = LanguagePhase.ENDED
IN_FENCED: Final = LanguagePhase.FENCED
IN_JOINING: Final = LanguagePhase.JOINING
IN_PREFILLING: Final = LanguagePhase.PREFILLING
IN_QUARANTINED: Final = LanguagePhase.QUARANTINED
IN_RECEIVING: Final = LanguagePhase.RECEIVING
ON_ALL_RANKS_HAVE_IT: Final = LanguageStep.ALL_RANKS_HAVE_IT
ON_ALL_RANKS_KNOW_LENGTH: Final = LanguageStep.ALL_RANKS_KNOW_LENGTH
ON_BLOCKS_GRANTED: Final = LanguageStep.BLOCKS_GRANTED
ON_CHUNK_HEARD: Final = LanguageStep.CHUNK_HEARD
ON_DELIVERED: Final = LanguageStep.DELIVERED
ON_DELIVERED_AND_KEPT: Final = LanguageStep.DELIVERED_AND_KEPT
ON_FAILED: Final = LanguageStep.FAILED
ON_FAILED_WITHOUT_WRITER: Final = LanguageStep.FAILED_WITHOUT_WRITER
ON_LENGTH_HEARD: Final = LanguageStep.LENGTH_HEARD
ON_MORE_TO_COME: Final = LanguageStep.MORE_TO_COME
ON_PREFILLED: Final = LanguageStep.PREFILLED
ON_QUARANTINE_OVER: Final = LanguageStep.QUARANTINE_OVER
ON_REFUSED: Final = LanguageStep.REFUSED
ON_UNANSWERED: Final = LanguageStep.UNANSWERED
ON_WRITER_DOWN: Final = LanguageStep.WRITER_DOWN
ON_WRITER_QUIET: Final = LanguageStep.WRITER_QUIET

OUTSTANDING: Final = frozenset(
    {
        LanguagePhase.RECEIVING,
        LanguagePhase.HOLDS_CHUNK,
        LanguagePhase.FENCED,
        LanguagePhase.QUARANTINED,
        LanguagePhase.ANSWERED,
    }
)


@final
class LanguageRoom(Room):
    """A room on the language side.

    ``writer_gone``: the writer was declared down; writes that it had under way may land until the quarantine ends.
    ``upto_tokens``: what the last status said this rank holds; ``got_tokens``: what the group acted on.
    ``asked_blocks``: what the room asked for when an iteration last came to it in its queue; 0 before that.
    """

    __slots__ = (
        "asked_blocks",
        "blocks",
        "capacity_tokens",
        "chunks",
        "copied_tokens",
        "epoch",
        "got_tokens",
        "request",
        "total_tokens",
        "upto_tokens",
        "writer",
        "writer_gone",
    )

    def __init__(self, request: LanguageRequest, number: int, writer: RankId, landing: Landing) -> None:
        super().__init__((request.room, request.incarnation), number, landing)
        self.request = request
        self.writer = writer
        self.writer_gone = False
        self.asked_blocks = 0
        self.blocks: tuple[int, ...] = ()
        self.capacity_tokens = 0
        self.epoch = 0
        self.chunks = 0
        self.total_tokens: int | None = None
        self.upto_tokens = 0
        self.got_tokens = 0
        self.copied_tokens = 0

    @property
    def outstanding(self) -> bool:
        """Whether an offer for ``epoch`` is with the encode side, whose writes may land in ``blocks``."""
        return self.phase in OUTSTANDING

    @property
    def fenced(self) -> bool:
        """Whether the room is over while its writer may still write into its blocks."""
        return self.over and self.phase in OUTSTANDING


@final
class LanguageRank(RankCore[LanguageRoom]):
    """One tensor-parallel rank of a language instance.

    ``handle(input, now)`` takes any LanguageInput and returns the actions to carry out, in order.
    ``resume_first``: rooms that wait for their next chunk's blocks go before new ones.
    ``reserve_blocks``: blocks new rooms must leave free for resumes.
    ``resume_tokens``: most tokens a resume asks for at once; None for all that is missing.
    ``release_after_prefill``: a delivered room keeps its blocks until Prefilled.
    """

    __slots__ = (
        "_admitted", "_behind_copy", "_free", "_new", "_resuming", "discipline", "encode_tp", "release_after_prefill",
        "reserve_blocks", "resume_blocks", "resume_first", "sizing",
    )  # fmt: skip

    def __init__(
        self,
        rank_id: RankId,
        *,
        layout: BufferLayout,
        discipline: Discipline,
        sizing: SizingPolicy,
        pool_blocks: int,
        encode_tp: int = 1,
        timeout_s: float | None = None,
        resume_first: bool = True,
        reserve_blocks: int = 0,
        resume_tokens: int | None = None,
        release_after_prefill: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        delays = {Timer.CANCEL_RETRY: CANCEL_RETRY_S, Timer.QUARANTINE: QUARANTINE_S}
        super().__init__(rank_id, layout, pool_blocks, timeout_s, recorder, LANGUAGE_PHASES, delays)
        if resume_tokens is not None and resume_tokens < 1:
            raise ValueError(f"resume_tokens is {resume_tokens}, it must be at least 1 or None")
        if not 0 <= reserve_blocks < pool_blocks:
            raise ValueError(f"reserve_blocks is {reserve_blocks}, it must be between 0 and {pool_blocks - 1}")
        self.discipline = discipline
        self.sizing = sizing
        self.encode_tp = encode_tp
        self.resume_first = resume_first
        self.reserve_blocks = reserve_blocks
        self.resume_blocks = None if resume_tokens is None else layout.blocks_for(resume_tokens)
        self.release_after_prefill = release_after_prefill
        self._announces = discipline.announces_length
        self._asks_policy = discipline.asks_policy
        self._releases_before_waiting = discipline.releases_before_waiting
        self._resumes = discipline.resumes
        self._writers: dict[int, RankId] = {}  # who writes to this rank, in each encode instance
        self._admitted = 0
        self._new: deque[LanguageRoom] = deque()
        self._resuming: deque[LanguageRoom] = deque()
        self._free = 0
        self._behind_copy: list[Action] | None = None

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
        elif isinstance(event, ChunkStatus):
            self._on_status(event, now, actions)
        elif isinstance(event, LanguageRequest):
            self._on_request(event, now, actions)
        elif isinstance(event, Announce):
            self._on_announce(event, now, actions)
        elif isinstance(event, Prefilled):
            self._on_prefilled(event, now, actions)
        elif isinstance(event, Quiet):
            self._on_quiet(event, now, actions)
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
        return isinstance(event, LanguageInput)

    @property
    def waiting_rooms(self) -> int:
        """Rooms that wait for blocks, new ones and resumes."""
        return sum(not room.over for room in self._new) + sum(not room.over for room in self._resuming)

    # --- who holds what (see waits.py) ---

    def held_blocks(self) -> dict[RoomKey, int]:
        """Blocks of every room that holds some and is not over."""
        return {key: len(room.blocks) for key, room in self.rooms.items() if room.blocks and not room.over}

    def queues(self) -> list[Iterator[Demand]]:
        """The rooms that wait for blocks: one queue if resumes go before new rooms, else one for each of the two.

        The sizing policy is not asked, since looking must change nothing. A room counts with what it asked for when an
        iteration last came to it, and with one block if none has come to it yet.
        """
        resuming = (Demand(room.key, self._next_blocks(room)) for room in self._resuming if not room.over)
        new = (Demand(room.key, room.asked_blocks or 1) for room in self._new if not room.over)
        return [chain(resuming, new)] if self.resume_first else [new, resuming]

    def waiting_among(self, keys: Set[RoomKey]) -> list[list[RoomKey]]:
        """The rooms among ``keys`` that wait for blocks, by queue."""
        rooms = [self.rooms[key] for key in self.rooms.keys() & keys]
        resuming = [room.key for room in rooms if room.phase is IN_AWAITING_RESUME]
        new = [room.key for room in rooms if room.phase is IN_AWAITING_BLOCKS]
        return [resuming + new] if self.resume_first else [new, resuming]

    def usable_blocks(self, key: RoomKey) -> int:
        """Blocks that a waiting room could be given if nobody else held any."""
        return self.pool.blocks - (0 if self.rooms[key].chunks else self.reserve_blocks)

    # --- inputs: they only note facts, the next iteration acts on them ---

    def _on_request(self, request: LanguageRequest, now: float, actions: list[Action]) -> None:
        writer = self._writers.get(request.encode_instance)
        if writer is None:
            writer = RankId(Side.ENCODE, request.encode_instance, writer_rank(self.rank_id.rank, self.encode_tp))
            self._writers[request.encode_instance] = writer
        first = IN_AWAITING_LENGTH if self._announces else IN_JOINING
        room = LanguageRoom(request, self._submitted, writer, self._landings[first])
        self._admit(room, now)
        if self._recorder is not None:
            self._record(now, room, Event.SUBMITTED, room.status, 0)
        if writer in self._down:
            room.writer_gone = True
            self._fail(room, f"{writer} is down")
        for message in self._early.take(room.key, now):
            if isinstance(message, (Announce, ChunkStatus, Quiet)):
                self._take_in(message, now, actions)

    def _on_announce(self, announce: Announce, now: float, actions: list[Action]) -> None:
        room = self._find(announce.room, announce.incarnation)
        if room is None:
            self._early.keep((announce.room, announce.incarnation), announce, now)
            return
        if room.phase is not IN_AWAITING_LENGTH:
            self.ignored_messages += 1
            return
        self._step(room, ON_LENGTH_HEARD, now)
        room.total_tokens = announce.total_tokens
        self._move(room, ANNOUNCED)

    def _on_status(self, status: ChunkStatus, now: float, actions: list[Action]) -> None:
        room = self._find(status.room, status.incarnation)
        if room is None and status.status is FAILED_STATUS:
            self._early.keep((status.room, status.incarnation), status, now)
            return
        if room is None or room.over or room.failure:
            self.ignored_messages += 1
            return
        if status.status is FAILED_STATUS:
            self._fail(room, status.reason or "the encode side failed")
            return
        if room.phase is not IN_RECEIVING or status.epoch != room.epoch:
            self.ignored_messages += 1
            return
        is_last = status.status is SUCCESS
        of_a_chunk = is_last or status.status is TRANSFERRING
        fits = room.got_tokens < status.upto_tokens <= room.got_tokens + room.capacity_tokens
        same_total = room.total_tokens is None or room.total_tokens == status.total_tokens
        if not of_a_chunk or not fits or not same_total or is_last != (status.upto_tokens == status.total_tokens):
            self._fail(
                room,
                f"impossible status {status.status.name} for chunk {status.epoch}: {status.upto_tokens} of "
                f"{status.total_tokens} tokens, {room.got_tokens} were here and {room.capacity_tokens} fit",
            )
            return
        self._step(room, ON_CHUNK_HEARD, now)
        room.total_tokens = status.total_tokens
        room.upto_tokens = status.upto_tokens
        self._move(room, FIRST_CHUNK + 2 * room.epoch + is_last)

    def _on_quiet(self, quiet: Quiet, now: float, actions: list[Action]) -> None:
        room = self._find(quiet.room, quiet.incarnation)
        if room is None or room.phase not in (IN_FENCED, IN_QUARANTINED):
            self.ignored_messages += 1
            return
        in_quarantine = room.phase is IN_QUARANTINED
        self._step(room, ON_WRITER_QUIET, now)
        if not in_quarantine:
            self._unfence(room, now)

    def _on_prefilled(self, prefilled: Prefilled, now: float, actions: list[Action]) -> None:
        room = self._find(prefilled.room, prefilled.incarnation)
        if room is None or room.phase is not IN_PREFILLING:
            self.ignored_messages += 1
            return
        self._step(room, ON_PREFILLED, now)
        self._end(room, now)
        self._freed = True

    def _on_peer_down(self, down: PeerDown, now: float, actions: list[Action]) -> None:
        if down.peer in self._down:
            return  # a heartbeat that goes on failing does not prolong a quarantine
        self._down.add(down.peer)
        for room in list(self.rooms.values()):
            if room.writer != down.peer:
                continue
            room.writer_gone = True
            if room.fenced:
                self._step(room, ON_WRITER_DOWN, now)
            elif not room.over:
                self._fail(room, f"{down.peer} is down")

    def _on_peer_up(self, up: PeerUp, now: float, actions: list[Action]) -> None:
        self._down.discard(up.peer)
        for room in self.rooms.values():
            if room.writer == up.peer and room.fenced:
                # It was perhaps never gone, only out of reach: it must not write into these blocks any more.
                actions.append(Send(room.writer, Cancel(*room.key, self.rank_id, room.failure)))

    def _on_abort(self, abort: Abort, now: float, actions: list[Action]) -> None:
        room = self._find(abort.room, abort.incarnation)
        if room is None or room.over:
            self.ignored_messages += 1
            return
        self._fail(room, abort.reason)

    def _fail(self, room: LanguageRoom, reason: str) -> None:
        """Note this rank's reason to fail; the group follows at its next iteration."""
        if not room.failure and not room.over:
            room.failure = reason
            self._failed[room.number] = room

    # --- the iteration: all decisions ---

    def _on_iteration(self, iteration: Iteration, now: float, actions: list[Action]) -> None:
        self._free = iteration.free_blocks
        self._freed = False
        if iteration.failed != NOBODY and iteration.failed < iteration.submitted:
            failed = self._by_number.get(iteration.failed)
            if failed is not None:
                self._conclude_failed(failed, failed.failure or OTHER_RANK, now, actions)
        for number in range(self._admitted, iteration.submitted):
            room = self._by_number.get(number)
            if room is not None and not self._announces:
                self._queue(room, ON_ALL_RANKS_HAVE_IT, now)
        self._admitted = max(self._admitted, iteration.submitted)
        for number, progress in iteration.progress:
            if number >= iteration.submitted:
                continue
            room = self._by_number.get(number)
            if room is None:
                continue
            if progress == FAILED:
                self._conclude_failed(room, room.failure or OTHER_RANK, now, actions)
                continue
            if not self._agree(room, progress):
                continue
            if progress >= FIRST_CHUNK:
                self._chunk_landed(room, is_last=bool((progress - FIRST_CHUNK) % 2), now=now, actions=actions)
            else:
                self._length_announced(room, now, actions)
        self._drop_agreed()
        self._grant(now, actions)
        for room in self._expired(now):
            self._timed_out(room, now, actions)
        self._early.expire(now)
        self._note_cut(iteration)
        self._behind_copy = None

    def _queue(self, room: LanguageRoom, step: LanguageStep, now: float) -> None:
        self._step(room, step, now)
        self._new.append(room)

    def _length_announced(self, room: LanguageRoom, now: float, actions: list[Action]) -> None:
        total = self._known_total(room)
        self._record(now, room, Event.ANNOUNCED, room.status, total)
        blocks = self.layout.blocks_for(total)
        refusal = self.discipline.refusal(first=0, remaining=blocks, pool=self.pool.blocks - self.reserve_blocks)
        if refusal:
            self._conclude_failed(room, f"can never fit: {refusal}", now, actions, ON_REFUSED)
            return
        self._queue(room, ON_ALL_RANKS_KNOW_LENGTH, now)

    def _chunk_landed(self, room: LanguageRoom, *, is_last: bool, now: float, actions: list[Action]) -> None:
        room.chunks += 1
        gained = room.upto_tokens - room.got_tokens
        room.got_tokens = room.upto_tokens
        self._set_status(room, SUCCESS if is_last else TRANSFERRING)
        if self._recorder is not None:
            self._record(
                now, room, Event.CHUNK_RECEIVED, room.status, room.got_tokens,
                gained * self.layout.bytes_per_token,
            )  # fmt: skip
        if is_last:
            self._deliver(room, now, actions)
            return
        remaining = self._next_blocks(room)
        if not self._resumes:
            refusal = f"the discipline {self.discipline.name} does not resume"
        else:
            refusal = self.discipline.refusal(first=len(room.blocks), remaining=remaining, pool=self.pool.blocks)
        if refusal:
            self._conclude_failed(room, f"can never fit: {refusal}", now, actions, ON_REFUSED)
            return
        self._step(room, ON_MORE_TO_COME, now)
        if self._releases_before_waiting:
            self._copy_out(room, actions)
            self._release(room, room.blocks)
            room.blocks = ()
            self._record(now, room, Event.ALLOCATED, room.status, 0)
        self._resuming.append(room)

    def _deliver(self, room: LanguageRoom, now: float, actions: list[Action]) -> None:
        total = self._known_total(room)
        self._copy_out(room, actions)
        actions.append(Deliver(room.key[0], room.key[1], total, room.request.prefill_factor))
        if self._recorder is not None:
            self._record(now, room, Event.DELIVERED, room.status, total)
        self.sizing.completed(CompletedView(room.request, total, room.chunks))
        actions.append(Conclude(room.key[0], room.key[1], SUCCESS))
        if self.release_after_prefill:
            self._step(room, ON_DELIVERED_AND_KEPT, now)
            self._leave_group(room)
        else:
            self._step(room, ON_DELIVERED, now)
            self._end(room, now)

    def _grant(self, now: float, actions: list[Action]) -> None:
        """Hand out free blocks, first come, first served within resumes and within new rooms."""
        if self.resume_first:
            if self._grant_resumes(now, actions):
                self._grant_new(now, actions)
        else:
            self._grant_new(now, actions)
            left = self._free
            self._grant_resumes(now, actions)
            if self._free > left:
                self._freed = True  # by a resume that took fewer than it held: the new rooms were asked before

    def _grant_resumes(self, now: float, actions: list[Action]) -> bool:
        """Serve waiting resumes in order; return whether none is left waiting."""
        queue = self._resuming
        while queue:
            room = queue[0]
            if room.over:
                queue.popleft()
                continue
            remaining = self._next_blocks(room)
            grant = self.discipline.resume(len(room.blocks), remaining, self._free)
            if grant is None:
                return False
            queue.popleft()
            kept = room.blocks[: grant.keep]
            taken = self._take(room, grant.take) if grant.take else ()
            self._copy_out(room, actions)
            self._release(room, room.blocks[grant.keep :])
            room.epoch += 1
            if self._recorder is not None:
                self._record(
                    now, room, Event.ALLOCATED, room.status, (grant.keep + grant.take) * self.layout.block_tokens
                )
            self._offer(room, kept + taken, Event.RESUMED, now, actions)
        return True

    def _next_blocks(self, room: LanguageRoom) -> int:
        """Blocks that the room asks for when it resumes."""
        missing = self.layout.blocks_for(self._known_total(room) - room.got_tokens)
        return missing if self.resume_blocks is None else min(missing, self.resume_blocks)

    def _grant_new(self, now: float, actions: list[Action]) -> None:
        queue = self._new
        while queue:
            room = queue[0]
            if room.over:
                queue.popleft()
                continue
            blocks = room.asked_blocks = self._first_blocks(room)
            if blocks > self._free - self.reserve_blocks:
                return
            queue.popleft()
            taken = self._take(room, blocks)
            if self._recorder is not None:
                self._record(now, room, Event.ALLOCATED, room.status, blocks * self.layout.block_tokens)
            self._set_status(room, WAITING_FOR_INPUT)
            self._offer(room, taken, Event.OFFERED, now, actions)

    def _first_blocks(self, room: LanguageRoom) -> int:
        """Blocks that a new room asks for, at the occupancy of the last iteration."""
        if self._announces:
            tokens = self._known_total(room)
        elif not self._asks_policy:
            tokens = 0
        else:
            free = self._free - self.reserve_blocks
            tokens = self.sizing.first_tokens(
                RequestView(room.request, self.layout.block_tokens, free, self.pool.blocks)
            )
        return self.discipline.first_blocks(self.layout.blocks_for(tokens), self.pool.blocks - self.reserve_blocks)

    def _offer(
        self,
        room: LanguageRoom,
        blocks: tuple[int, ...],
        event: Event,
        now: float,
        actions: list[Action],
    ) -> None:
        self._step(room, ON_BLOCKS_GRANTED, now)
        room.blocks = blocks
        room.capacity_tokens = len(blocks) * self.layout.block_tokens
        if self._tells_details:
            self._record(now, room, event, room.status, room.got_tokens)
        else:
            self.untold += 1
        number, incarnation = room.key
        offer = Offer(number, incarnation, room.epoch, self.rank_id, blocks, room.capacity_tokens, room.got_tokens)
        actions.append(Send(room.writer, offer))

    def _timed_out(self, room: LanguageRoom, now: float, actions: list[Action]) -> None:
        if not room.over:
            self._fail(room, f"timed out while {self._doing(room)}")
        elif room.phase is IN_ANSWERED or (room.phase is IN_QUARANTINED and room.writer in self._down):
            self._step(room, ON_QUARANTINE_OVER, now)
            self._unfence(room, now)
        else:
            # Whatever a quarantine was for has landed; from now on the writer's word is enough.
            self._step(room, ON_UNANSWERED, now)
            room.writer_gone = False
            actions.append(Send(room.writer, Cancel(*room.key, self.rank_id, "repeated")))

    def _conclude_failed(
        self,
        room: LanguageRoom,
        reason: str,
        now: float,
        actions: list[Action],
        step: LanguageStep = ON_FAILED,
    ) -> None:
        if room.writer_gone and step is ON_FAILED and room.outstanding:
            step = ON_FAILED_WITHOUT_WRITER
        self._step(room, step, now)
        self._set_status(room, Status.Failed)
        room.failure = reason
        self._leave_group(room)
        self._record(now, room, Event.FAILED, room.status, room.got_tokens, 0, reason)
        actions.append(Conclude(*room.key, Status.Failed, reason))
        actions.append(Send(room.writer, Cancel(*room.key, self.rank_id, reason)))
        if room.phase is IN_ENDED:
            self._end(room, now)
        else:
            # The writer may be writing into these blocks at this moment.
            self.pool.fence(room.blocks, room.owner)

    # --- memory ---

    def _end(self, room: LanguageRoom, now: float) -> None:
        """Forget the room: nothing of it is left on this rank."""
        if room.blocks:
            self._release(room, room.blocks)
        if self._recorder is not None:
            self._record(now, room, Event.RELEASED, room.status, room.got_tokens)
        self._forget(room)

    def _unfence(self, room: LanguageRoom, now: float) -> None:
        self.pool.unfence(room.blocks, room.owner)
        self._freed = True
        self._record(now, room, Event.RELEASED, room.status, room.got_tokens)
        self._forget(room)

    def _take(self, room: LanguageRoom, count: int) -> tuple[int, ...]:
        taken = self.pool.allocate(count, room.owner)
        if taken is None:
            raise ProtocolError(f"{self.rank_id} has fewer free blocks than its group agreed on")
        self._free -= count
        return taken

    def _release(self, room: LanguageRoom, blocks: tuple[int, ...]) -> None:
        self.pool.release(blocks, room.owner)
        self._free += len(blocks)

    def _copy_out(self, room: LanguageRoom, actions: list[Action]) -> None:
        """Copy what arrived and was not copied yet; once per chunk, however long the room waits."""
        tokens = room.got_tokens - room.copied_tokens
        if tokens:
            used = room.blocks[: self.layout.blocks_for(tokens)]
            actions.append(CopyOut(room.key[0], room.key[1], room.copied_tokens, tokens, used))
            room.copied_tokens = room.got_tokens
            self._behind_copy = actions

    def _record(
        self,
        now: float,
        room: LanguageRoom,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int = 0,
        detail: str = "",
    ) -> None:
        # A copy takes time, and whatever follows it in this iteration happens only when it is over.
        if self._recorder is None:
            return
        if self._behind_copy is None:
            self._recorder.tell(now, self.rank_id, room.key[0], event, status, tokens, bytes_, detail)
        else:
            self._behind_copy.append(Note(room.key[0], event, status, tokens, bytes_, detail))

    @staticmethod
    def _known_total(room: LanguageRoom) -> int:
        if room.total_tokens is None:
            raise ProtocolError(f"the length of room {room.key[0]} is not known yet")
        return room.total_tokens
