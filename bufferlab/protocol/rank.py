"""What both rank cores share: rooms, timers, the part they play in their group's agreement, and recording."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any, Final, Generic, TypeVar, final

from bufferlab.protocol.agreement import FAILED, MOST_ROOMS, NOBODY, Proposal, is_cut_short
from bufferlab.protocol.allocator import BlockPool
from bufferlab.protocol.errors import IllegalStepError, ProtocolError
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import Iteration, Message, Offer
from bufferlab.protocol.phases import Phase, Step, Table, Timer, in_words
from bufferlab.protocol.recording import Event, Recorder, listening, wants_details
from bufferlab.protocol.status import Status, advance
from bufferlab.protocol.topology import RankId

push: Final = heappush  # found without a look-up where this is compiled
pop: Final = heappop

RoomKey = tuple[int, int]
"""(room, incarnation): a room number may be used again, an incarnation of it never."""


class Room:
    """The part of a room's state that both sides have.

    ``landing`` is where it is in its side's table (see ``phases``): where the last step about it has led.
    ``progress`` is how far this rank has come, ``agreed`` how far the whole group has (both only rise).
    ``moved``: whether it has moved on here since its group last agreed on it.
    ``failure`` is this rank's own reason to fail, known to the group only after its next iteration.
    ``owner``: its name in the pool, which is its key as one object.
    ``timed``: whether its rank keeps an entry for its timer, which may come up before ``deadline``.
    """

    __slots__ = (
        "agreed", "deadline", "failure", "key", "landing", "moved", "number", "owner", "progress", "status", "timed"
    )  # fmt: skip

    def __init__(self, key: RoomKey, number: int, landing: Landing) -> None:
        self.key = key
        self.owner: Hashable = key
        self.number = number
        self.landing = landing
        self.status = Status.Bootstrapping
        self.progress = 0
        self.agreed = 0
        self.moved = False
        self.failure = ""
        self.deadline = NEVER_S
        self.timed = False

    @property
    def phase(self) -> Phase:
        """The phase it is in."""
        return self.landing.phase

    @property
    def over(self) -> bool:
        """Whether it is concluded on this rank: its group decides nothing more about it."""
        return self.landing.over


RoomType = TypeVar("RoomType", bound=Room)

NEVER_S: Final = inf
"""The deadline of a room without a timer."""


@final
class Landing:
    """Where a step leads: the phase, whether the room is over in it, its timer, and where each step leads from there.

    ``delay_s``: how long the room may stay, NEVER_S without a timer. ``runs_on``: whether the timer that runs goes on.
    """

    __slots__ = ("delay_s", "over", "phase", "runs_on", "steps")

    def __init__(self, phase: Phase, over: bool, delay_s: float, runs_on: bool, steps: dict[Step, Landing]) -> None:
        self.phase: Final = phase
        self.over: Final = over
        self.delay_s: Final = delay_s
        self.runs_on: Final = runs_on
        self.steps: Final = steps


def landings(table: Table, delays: Mapping[Timer, float | None]) -> dict[Phase, Landing]:
    """The table as a rank looks things up in it: where a room that begins in a phase is.

    ``delays``: the seconds of each timer, None for one that is off; a phase without a timer may last for ever, NEVER_S.
    """
    stays: dict[Phase, float] = {}
    steps: dict[Phase, dict[Step, Landing]] = {}
    for phase, row in table.items():
        delay_s = delays.get(row.timer)
        stays[phase] = NEVER_S if delay_s is None else delay_s
        steps[phase] = {}
    for phase, row in table.items():
        for step, to in row.steps.items():
            steps[phase][step] = Landing(to, table[to].over, stays[to], step in row.runs_on, steps[to])
    return {phase: Landing(phase, row.over, stays[phase], False, steps[phase]) for phase, row in table.items()}


OTHER_RANK = "another rank of the group failed"

MOST_IDLE_TIMERS: Final = 64
"""Entries of ended rooms are swept out when there are more entries than this and four for every room together."""

EARLY_LIFETIME_S: Final = 60.0
"""How long a message that arrives before its request is kept: a router's two deliveries differ by milliseconds, so a
minute is ample, and whatever is older belongs to a room that has long ended. It counts from the message's arrival."""

EARLY_ROOMS: Final = 4096
"""The most rooms for which early messages are kept. Beyond, the messages of the room that has had none for the longest
time are dropped, and the timers of that room deal with the loss."""

EARLY_OF_A_ROOM: Final = 256
"""Different messages that are kept for one room: each of its peers has one or two to send before the request comes."""


class EarlyMessages:
    """Messages for rooms that do not exist here (yet). They create no room; a request that comes in time gets them.

    A message that comes again is kept once, from its last arrival on.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        # Of each room its messages and when each becomes too old; the room that was heard of last comes last.
        self._kept: OrderedDict[RoomKey, list[tuple[float, Message]]] = OrderedDict()

    def keep(self, key: RoomKey, message: Message, now: float) -> None:
        """Keep ``message`` for the room ``key``."""
        kept = [one for one in self._kept.pop(key, ()) if one[0] > now and one[1] != message]
        kept.append((now + EARLY_LIFETIME_S, message))
        self._kept[key] = kept[-EARLY_OF_A_ROOM:]
        if len(self._kept) > EARLY_ROOMS:
            self._kept.popitem(last=False)

    def take(self, key: RoomKey, now: float) -> list[Message]:
        """The messages for ``key`` that are not too old, in order of arrival; they are not kept any longer."""
        if not self._kept or key not in self._kept:
            return []
        return [message for due_s, message in self._kept.pop(key, ()) if due_s > now]

    def drop_from(self, peer: RankId) -> None:
        """Forget the offers of a peer whose process is gone, and its memory with it.

        Cancellations stay: they have been answered with Quiet, so no later offer may bring their rooms to life.
        """
        for kept in self._kept.values():
            kept[:] = [one for one in kept if not isinstance(one[1], Offer) or one[1].receiver != peer]
        for key in [key for key, kept in self._kept.items() if not kept]:
            del self._kept[key]

    def expire(self, now: float) -> None:
        """Drop what is too old."""
        while self._kept and next(iter(self._kept.values()))[-1][0] <= now:
            self._kept.popitem(last=False)


class RankCore(Generic[RoomType]):
    """Base of EncodeRank and LanguageRank.

    ``timeout_s``: how long a room may stay in one waiting phase; None for ever (then a deadlock stays one).
    """

    def __init__(
        self,
        rank_id: RankId,
        layout: BufferLayout,
        pool_blocks: int,
        timeout_s: float | None,
        recorder: Recorder | None,
        phases: Table,
        delays: Mapping[Timer, float | None],
    ) -> None:
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s}, it must be positive or None")
        self.rank_id = rank_id
        self.layout = layout
        self.pool = BlockPool(pool_blocks)
        self.timeout_s = NEVER_S if timeout_s is None else timeout_s
        self.rooms: dict[RoomKey, RoomType] = {}
        self._newest: dict[int, RoomType] = {}  # by its room number alone, the room that came last under it
        self.ignored_messages = 0
        self._recorder = None if recorder is None else listening(recorder)
        self._tells_details = wants_details(recorder)
        self.untold = 0
        """How many details happened of which no recorder was told."""
        self._phases = phases
        self._landings = landings(phases, {**delays, Timer.PHASE: timeout_s})
        self._by_number: dict[int, RoomType] = {}
        self._submitted = 0
        # Rooms that moved on, and rooms that failed, since the group last agreed on them, in this order. Rooms move on
        # between iterations only, so what the group has agreed on is dropped once, when one ends.
        self._moved: list[RoomType] = []
        self._failed: dict[int, RoomType] = {}
        # (when, room number, tie-breaker, room): timers of one moment go off in the order of submission. A deadline
        # that moves later keeps its entry, which is corrected when it comes up.
        self._timers: list[tuple[float, int, int, RoomType]] = []
        self._timer_count = 0
        self._down: set[RankId] = set()
        self._early = EarlyMessages()
        self._freed = False  # blocks came free after this iteration's proposal was counted
        self._cut = False  # the last iteration left rooms for the next one

    # --- the group's agreement (see agreement.py) ---

    def proposal(self) -> Proposal:
        """This rank's submissions, free blocks and first failed room."""
        return self._submitted, self.pool.free, min(self._failed) if self._failed else NOBODY

    def candidates(self) -> Sequence[int]:
        """Numbers of the rooms that moved on or failed here since the group last agreed."""
        moved = [room.number for room in self._moved]
        if self._failed:
            moved += [number for number, room in self._failed.items() if not room.moved]
        return moved

    def progress_of(self, candidates: Sequence[int]) -> list[int]:
        """How far each candidate has come here; FAILED if it failed, 0 for a room this rank has not."""
        rooms, failed = self._by_number, self._failed
        return [
            FAILED if number in failed else room.progress if (room := rooms.get(number)) is not None else 0
            for number in candidates
        ]

    def lone_iteration(self) -> Iteration:
        """What a rank without a group agrees on: its own facts."""
        failed = self._failed
        if failed:
            candidates = self.candidates()
            progress = tuple(zip(candidates, self.progress_of(candidates), strict=True))
            return Iteration(self._submitted, self.pool.free, min(failed), progress)
        if not self._moved:
            return Iteration(self._submitted, self.pool.free, NOBODY)
        progress = tuple([(room.number, room.progress) for room in self._moved])
        return Iteration(self._submitted, self.pool.free, NOBODY, progress)

    @property
    def has_news(self) -> bool:
        """Whether an iteration would find a room that moved on or failed here, or blocks that came free."""
        return bool(self._moved) or bool(self._failed) or self._freed

    @property
    def unsettled(self) -> bool:
        """Whether the next iteration has something to do even if nothing arrives before it."""
        return bool(self._failed) or self._freed or self._cut

    @property
    def timer_s(self) -> float | None:
        """A time at or before ``next_deadline()``, which costs nothing to ask for; None when no timer runs."""
        return self._timers[0][0] if self._timers else None

    def next_deadline(self) -> float | None:
        """When an iteration is due at the latest, for a timer's sake; None when no timer runs."""
        timers = self._timers
        while timers and timers[0][3].deadline > timers[0][0]:
            self._settle_first_timer()
        return timers[0][0] if timers else None

    # --- for the cores ---

    def _not_taken(self, event: object) -> ProtocolError:
        return ProtocolError(f"{self.rank_id} does not take {type(event).__name__}")

    def _admit(self, room: RoomType, now: float) -> None:
        rooms: dict[Any, RoomType] = self.rooms  # a key that is one object need not be made again
        if room.owner in rooms:
            raise ProtocolError(f"room {room.key[0]} incarnation {room.key[1]} is already there on {self.rank_id}")
        rooms[room.owner] = room
        self._newest[room.key[0]] = room
        self._by_number[room.number] = room
        self._submitted += 1
        if room.landing.delay_s < NEVER_S:
            self._arm(room, room.landing.delay_s, now)

    def _find(self, number: int, incarnation: int) -> RoomType | None:
        """The room of this number and incarnation. Hardly any number has two, so the number finds it."""
        room = self._newest.get(number)
        if room is not None and room.key[1] == incarnation:
            return room
        return self.rooms.get((number, incarnation))

    def _step(self, room: RoomType, step: Step, now: float) -> None:
        """Take the room to the phase to which the table leads, and arm the timer of that phase.

        Raises IllegalStepError, and changes nothing, for a step that has no place in the room's phase.
        """
        landing = room.landing.steps.get(step)
        if landing is None:
            raise IllegalStepError(self._refusal(room, step))
        room.landing = landing
        if landing.delay_s == NEVER_S:
            room.deadline = NEVER_S
        elif not landing.runs_on:
            self._arm(room, landing.delay_s, now)

    def _refusal(self, room: RoomType, step: Step) -> str:
        allowed = ", ".join(map(in_words, self._phases[room.phase].steps)) or "none, it has ended"
        return (
            f"room {room.key[0]} incarnation {room.key[1]} is {in_words(room.phase)} on {self.rank_id}; "
            f"{in_words(step)!r} has no place there, allowed: {allowed}"
        )

    def _forget(self, room: RoomType) -> None:
        rooms: dict[Any, RoomType] = self.rooms
        del rooms[room.owner]
        number = room.key[0]
        if self._newest.get(number) is room:
            del self._newest[number]
        self._leave_group(room)

    def _leave_group(self, room: RoomType) -> None:
        number = room.number
        if number in self._by_number:
            del self._by_number[number]
        room.moved = False
        if self._failed and number in self._failed:
            del self._failed[number]

    def _move(self, room: RoomType, progress: int) -> None:
        if progress > room.progress:
            room.progress = progress
            if not room.moved:
                room.moved = True
                self._moved.append(room)

    def _agree(self, room: RoomType, progress: int) -> bool:
        """Take the group's progress of a room; return whether it has risen."""
        if room.over or progress <= room.agreed:
            return False
        room.agreed = progress
        if progress == room.progress:
            room.moved = False
        return True

    def _drop_agreed(self) -> None:
        """At the end of an iteration: what the group has agreed on has moved on no longer."""
        if self._moved:
            self._moved = [room for room in self._moved if room.moved]

    def _set_status(self, room: RoomType, status: Status) -> None:
        room.status = advance(room.status, status)

    def _arm(self, room: RoomType, delay_s: float, now: float) -> None:
        """Set the room's deadline; only a step does that.

        A room that has an entry needs another one only for a deadline before it, and no entry lies later than the
        ordinary time-out from now on, unless it was made for another delay.
        """
        room.deadline = deadline = now + delay_s
        if not room.timed or delay_s != self.timeout_s:
            self._push_timer(room, deadline)

    def _doing(self, room: Room) -> str:
        """What the room is doing here, as in "timed out while …"."""
        return self._phases[room.phase].what.format(epoch=getattr(room, "epoch", 0))

    def _push_timer(self, room: RoomType, deadline: float) -> None:
        self._timer_count += 1
        room.timed = True
        push(self._timers, (deadline, room.number, self._timer_count, room))

    def _pop_timer(self) -> RoomType:
        room = pop(self._timers)[3]
        room.timed = False
        return room

    def _note_cut(self, iteration: Iteration) -> None:
        """Note, after an iteration, whether it left candidates for the next one; only rank 0 can know that."""
        self._cut = len(iteration.progress) == MOST_ROOMS and self.rank_id.rank == 0 and is_cut_short(self, iteration)

    def _settle_first_timer(self) -> None:
        room = self._pop_timer()
        if room.deadline < NEVER_S:
            self._push_timer(room, room.deadline)

    def _sweep_timers(self) -> None:
        """Drop the entries of rooms that have ended, which would stay until their time comes."""
        for _, _, _, room in self._timers:
            room.timed = False
        self._timers = []
        for room in self.rooms.values():
            if room.deadline < NEVER_S:
                self._push_timer(room, room.deadline)

    def _expired(self, now: float) -> list[RoomType]:
        """Rooms whose deadline has come; their timers are off then."""
        rooms: list[RoomType] = []
        timers = self._timers
        if not timers or timers[0][0] > now:
            if len(timers) > MOST_IDLE_TIMERS + 4 * len(self.rooms):
                self._sweep_timers()
            return rooms
        while (due := self.next_deadline()) is not None and due <= now:
            room = self._pop_timer()
            room.deadline = NEVER_S
            rooms.append(room)
        return rooms

    def _record(
        self,
        now: float,
        room: RoomType,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int = 0,
        detail: str = "",
    ) -> None:
        if self._recorder is not None:
            self._recorder.tell(now, self.rank_id, room.key[0], event, status, tokens, bytes_, detail)
