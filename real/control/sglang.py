"""The SGLang fork's wire: its frames, and nothing else, between the two sides.

A language rank says register (once per connection), init and resume; an encode rank says a status. What the extended
messages do beyond that is done otherwise here, and never at the price of a late write:

* *Who a message is from.* A language rank is its engine session. Which of a request's destinations a session is, nobody
  says and nothing depends on: the first one that comes is the first destination. Any session that has registered can be
  one. If there are more than the configuration has ranks (a new process whose predecessor nobody has missed yet), a
  *surplus* one takes the place of a destination that has not asked for the room.
* *Which chunk it is about.* An init is chunk 0, a resume chunk 1; a status is about the chunk that is outstanding.
* *How much has come.* The length lies in the aux row of the first chunk, the rest follows from what was offered.
* *That a room is over (Cancel), and that its writer is quiet (Quiet).* The language side cannot call a room off. Its
  blocks stay fenced until the encode side's status shows that no write is left: Transferring and Success come after the
  writes of a chunk. Failed comes after the last write was begun, but one that was given up may still land: then a
  quarantine follows. Time alone never frees a block, for the encode side may begin a write however late.
* Our own encode rank says Failed only when nothing of the room is in flight to that destination, and is known by its
  answer to the health probe; then there is no quarantine.

No sockets and no clock here but those that are handed in; ``real.control.sglang_peers`` has the look-ups.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TypeVar

from protocol.emulation.scenario import Request, Scenario
from protocol.encode import EncodeRank, EncodeRoom
from protocol.errors import CodecError
from protocol.language import QUARANTINE_S, LanguageRank
from protocol.messages import Abort, Cancel, ChunkStatus, Message, Offer, Quiet
from protocol.rank import EARLY_LIFETIME_S, EARLY_ROOMS
from protocol.status import Status
from protocol.topology import RankId, Side, destinations, writer_rank
from protocol.wire.codec import (
    SglangFrame,
    SglangInit,
    SglangRegister,
    SglangResume,
    SglangStatus,
    decode_sglang,
    encode_sglang,
)
from protocol.wire.limits import sglang_problem
from real.control.heartbeat import Found, Heartbeat, News
from real.control.route import Route
from real.control.sglang_peers import SglangHeartbeat, assemble_encode, assemble_language
from real.control.spec import RankSpec
from real.control.wire import Heard, Line, Vacant, Wire
from real.engine.memory import Pool
from real.faults import CorruptFrame, RealFault, RefuseRegistration, Restart

Kept = TypeVar("Kept")

INCARNATION = 0
"""Of every room: the fork's frames have none, so a room's number may not be used again."""

MOST_SESSIONS = 4096
"""Registered sessions that are kept; of those that stand for no rank, the oldest go first."""

MOST_IDLE = 64
"""Ended rooms about which something is known that are not worth a sweep."""

SENT = frozenset({Status.Transferring, Status.Success, Status.Failed})
"""What an encode rank says; the other statuses are its own business."""


def check_sglang(scenario: Scenario, requests: Sequence[Request], plan: Sequence[RealFault]) -> None:
    """Raise ValueError, one sentence, for what a run over this wire cannot have."""
    name, problem = sglang_problem(
        discipline=scenario.discipline, resume_tokens=scenario.resume_tokens, timeout_s=scenario.timeout_s
    )
    if name:
        raise ValueError(f"{name} is {getattr(scenario, name)!r}, it {problem}")
    rooms: set[int] = set()
    for request in requests:
        if request.incarnation or request.room in rooms:
            raise ValueError(
                f"room {request.room} is used again, which the sglang wire cannot tell from the first time"
            )
        rooms.add(request.room)
    for fault in plan:
        if isinstance(fault, Restart | CorruptFrame | RefuseRegistration):
            # A new process cannot say whose place it takes, a frame has no checksum, a look-up knows no refusal.
            raise ValueError(f"the plan has a {type(fault).__name__}, which the sglang wire does not allow")


class LanguageWire(Wire):
    """A language rank's: what it says to the encode rank that writes to it, of each encode instance."""

    def __init__(
        self,
        spec: RankSpec,
        own: Route,
        line: Line,
        *,
        core: LanguageRank,
        pool: Pool,
        clock: Callable[[], float],
        quarantine_s: float = QUARANTINE_S,
    ) -> None:
        super().__init__(spec, own, line)
        scenario = spec.scenario
        self._core = core
        self._pool = pool
        self._clock = clock
        self._quarantine_s = quarantine_s
        self._met: dict[RankId, Route] = {}
        writer = writer_rank(own.rank_id.rank, scenario.encode_tp)
        self._writers = {
            address: RankId(Side.ENCODE, instance, writer) for instance, address in enumerate(spec.bootstraps)
        }
        self._required = len(destinations(writer, scenario.encode_tp, own.rank_id.instance, scenario.language_tp))
        self.peers = tuple(self._writers.values())
        self._landed: set[int] = set()  # rooms of whose outstanding chunk no write is left
        self._failed_s: dict[int, float] = {}  # when the encode side said of a room that it failed: its last word

    def assemble(self) -> dict[RankId, Route]:
        """Look the encode ranks up as the fork does; the own group meets in a registry of its own."""
        return assemble_language(self.spec, self.own, self._writers)

    def watch(self, known: Mapping[RankId, Route], on_news: Callable[[News | Exception], None]) -> Heartbeat:
        """Probe ``/health`` of the encode instances."""
        watched = {address: [writer] for address, writer in self._writers.items()}
        return SglangHeartbeat(self.own, watched, known, self.spec.heartbeats, on_news)

    def meet(self, route: Route) -> None:
        """Register with an encode rank, also with one that is back: it may have forgotten, or barred, this session."""
        before = self._met.get(route.rank_id)
        if before is not None and before.process != route.process:
            # Who was there has moved or ended, and will say nothing more about its rooms.
            for (number, _), room in self._core.rooms.items():
                if room.writer == route.rank_id and room.writer_gone:
                    self._failed_s[number] = self._clock()
        self._met[route.rank_id] = route
        self._register(route.rank_id)

    def _register(self, encode: RankId) -> None:
        self._line.push(encode, encode_sglang(SglangRegister(*self._address, base_pointers=self.own.bases)))

    @property
    def _address(self) -> tuple[str, int, str]:
        return self.own.host, self.own.control_port, self.own.session

    def send(self, to: RankId, message: Message) -> None:
        """Say an Offer as init or resume. A Cancel cannot be said: it is answered here once the writer is quiet."""
        match message:
            case Offer(room, _, _, _, blocks, capacity, sent):
                self._landed.discard(room)
                frame: SglangFrame
                if sent:
                    frame = SglangResume(room, *self._address, blocks, self._required, sent, capacity)
                else:
                    self._pool.forget_total(blocks[0])
                    frame = SglangInit(room, *self._address, blocks, self._required, capacity)
                self._line.push(to, encode_sglang(frame))
            case Cancel(room, incarnation):
                if (room, incarnation) in self._core.rooms:
                    self._answer_if_quiet(room)  # else the core says it again
            case _:
                raise ValueError(f"{self.own.rank_id} has no frame for {type(message).__name__}")

    def take(self, frames: list[bytes]) -> Iterable[Heard]:
        """A status, as the core understands one."""
        try:
            frame = decode_sglang(frames)
            if not isinstance(frame, SglangStatus) or frame.status not in SENT:
                raise CodecError(f"{_shown(frame)} is nothing that an encode rank says")
        except CodecError as error:
            self.drop(error)
            return ()
        return self._failed(frame.room) if frame.status is Status.Failed else self._has_landed(frame)

    def _failed(self, number: int) -> Iterable[Heard]:
        self._failed_s[number] = self._clock()
        self._forget_ended()
        room = self._core.rooms.get((number, INCARNATION))
        for writer, route in self._met.items():
            # The fork bars a session to which a write has failed until it registers again, and so every later room.
            if not route.failed_is_quiet and (room is None or room.writer == writer):
                self._register(writer)
        if room is not None and room.over:
            if room.fenced:
                self._answer_if_quiet(number)
            return ()
        # A room that is not here yet may have failed there already; the core keeps that for it, for a while.
        epoch = room.epoch if room is not None else 0
        return (ChunkStatus(number, INCARNATION, epoch, Status.Failed, 0, 0, "the encode side failed"),)

    def _has_landed(self, frame: SglangStatus) -> Iterable[Heard]:
        room = self._core.rooms.get((frame.room, INCARNATION))
        # A room resumes once: a second partial status is a double of the first, and proves nothing about now.
        doubled = room is not None and room.epoch > 0 and frame.status is Status.Transferring
        if room is None or not room.outstanding or doubled:
            self.messages_stale += 1
            return ()
        self._landed.add(frame.room)
        self._forget_ended()
        if room.over:
            self._answer_if_quiet(frame.room)
            return ()
        total = room.total_tokens
        if total is None:
            total = self._pool.total_tokens(room.blocks[0])
        upto = min(total, room.got_tokens + room.capacity_tokens)
        return (ChunkStatus(frame.room, INCARNATION, room.epoch, frame.status, total, upto),)

    def _answer_if_quiet(self, number: int) -> None:
        """Say Quiet in the writer's place, if it is known that nothing of the room can land any more."""
        room = self._core.rooms[number, INCARNATION]
        failed_s = self._failed_s.get(number)
        quarantine_s = 0.0 if self._met[room.writer].failed_is_quiet else self._quarantine_s
        over = failed_s is not None and self._clock() - failed_s >= quarantine_s
        if over or number in self._landed:
            self._line.later(0.0, Quiet(number, INCARNATION))

    def awaits_quiet(self, room: int) -> bool:
        """Whether the writer has said that it failed, so that only the quarantine is left."""
        return room in self._failed_s

    def _forget_ended(self) -> None:
        """Now and then, drop what is known of rooms that are not here; one may still come for a while."""
        if len(self._landed) + len(self._failed_s) <= MOST_IDLE + 2 * len(self._core.rooms):
            return
        here = {room for room, _ in self._core.rooms}
        self._landed &= here
        since_s = self._clock() - EARLY_LIFETIME_S
        kept = {room: at_s for room, at_s in self._failed_s.items() if room in here or at_s > since_s}
        self._failed_s = dict(list(kept.items())[-EARLY_ROOMS - len(here) :])


class EncodeWire(Wire):
    """An encode rank's: what it hears from whoever registers, and the status it tells them."""

    def __init__(
        self,
        spec: RankSpec,
        own: Route,
        line: Line,
        *,
        core: EncodeRank,
        down: set[RankId],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(spec, own, line)
        self._core = core
        self._down = down
        self._clock = clock
        self._heartbeat: SglangHeartbeat | None = None
        self._kinds = len(spec.scenario.layout.kinds)
        self._sessions: OrderedDict[str, SglangRegister] = OrderedDict()
        self._ranks: dict[str, RankId] = {}  # by session, and the other way round
        self._routes: dict[RankId, Route] = {}
        self._early: OrderedDict[int, tuple[float, list[SglangInit | SglangResume]]] = OrderedDict()
        # Rooms that have failed: until when somebody may ask, and the session that each destination was told as.
        self._failed: OrderedDict[int, tuple[float, dict[RankId, str | None]]] = OrderedDict()

    def assemble(self) -> dict[RankId, Route]:
        """Register as an encode rank of the fork does; the own group meets in the instance's registry."""
        return assemble_encode(self.spec, self.own)

    def watch(self, known: Mapping[RankId, Route], on_news: Callable[[News | Exception], None]) -> Heartbeat:
        """Nobody can be watched from here: a language rank is known by its frames, and dead when a write says so."""
        self._heartbeat = SglangHeartbeat(self.own, {}, known, self.spec.heartbeats, on_news)
        return self._heartbeat

    def meet(self, route: Route) -> None:
        """Look at this process when a write to it fails."""
        if self._heartbeat is not None:
            self._heartbeat.know(route)

    def send(self, to: RankId, message: Message) -> None:
        """Say a status; Failed only when nothing of the room can land there any more."""
        match message:
            case ChunkStatus(room, incarnation, _, Status.Failed, _, _, reason):
                held = self._core.rooms.get((room, incarnation))
                if held is None or held.quiet_to(to):
                    self._tell_failed(to, room)
                else:
                    # The core answers this with Quiet, at that moment.
                    self._line.later(0.0, Cancel(room, incarnation, to, reason))
            case ChunkStatus(room, _, _, status):
                self._line.push(to, encode_sglang(SglangStatus(room, status)))
            case Quiet(room):
                self._tell_failed(to, room)
            case _:
                raise ValueError(f"{self.own.rank_id} has no frame for {type(message).__name__}")

    def _tell_failed(self, to: RankId, room: int) -> None:
        """Say that the room has failed; to a destination that nobody stands for yet, once somebody does."""
        route = self._routes.get(to)
        if route is not None:
            self._line.push(to, encode_sglang(SglangStatus(room, Status.Failed)))
        told = self._failed.setdefault(room, (self._clock() + EARLY_LIFETIME_S, {}))[1]
        told[to] = None if route is None else route.session
        _expire(self._failed, self._clock())

    def take(self, frames: list[bytes]) -> Iterable[Heard]:
        """A register is remembered; an init or a resume is an offer for a room that is here."""
        try:
            frame = decode_sglang(frames)
            match frame:
                case SglangRegister():
                    yield from self._register(frame)
                case SglangInit() | SglangResume():
                    yield from self._offered(frame)
                case _:
                    raise CodecError(f"{_shown(frame)} is nothing that a language rank says")
        except CodecError as error:
            self.drop(error)

    def submitted(self, room: int) -> Iterable[Heard]:
        """Offers that came before their request."""
        for frame in self._early.pop(room, (0.0, []))[1]:
            try:
                yield from self._offered(frame)
            except CodecError as error:
                self.drop(error)

    def _register(self, frame: SglangRegister) -> Iterable[Heard]:
        if len(frame.base_pointers) != self._kinds:
            raise CodecError(f"{frame.session} registers {len(frame.base_pointers)} buffers, there are {self._kinds}")
        if frame.session not in self._sessions:
            self._line.contact(frame.session)
            for gone in self._down.intersection(self._routes):
                # Whoever is new may have come for it. Until then its rooms fail at once; from now on they wait.
                yield self._vacate(gone)
        self._sessions[frame.session] = frame
        if len(self._sessions) > MOST_SESSIONS:
            idle = next((session for session in self._sessions if session not in self._ranks), None)
            if idle is not None:
                del self._sessions[idle]
        rank_id = self._ranks.get(frame.session)
        if rank_id is not None:
            yield Found(self._bind(rank_id, frame))  # it may have been taken for dead

    def _vacate(self, gone: RankId) -> Vacant:
        del self._ranks[self._routes.pop(gone).session]
        return Vacant(gone)

    def lost(self, rank_id: RankId) -> Iterable[Heard]:
        """Rooms for a destination that is gone wait, and do not fail, if its successor may have registered before."""
        if rank_id not in self._routes:
            return
        gone = self._routes[rank_id].session
        newer = False
        for session in self._sessions:
            own = self._ranks.get(session)
            if (newer and own is None) or (own is not None and self._is_surplus(own) and own not in self._down):
                yield self._vacate(rank_id)
                return
            newer = newer or session == gone

    def _is_surplus(self, rank_id: RankId) -> bool:
        """Whether there is no such rank in the configuration: it stands for a session beyond those expected."""
        return rank_id.rank >= self.spec.scenario.language_tp

    def _offered(self, frame: SglangInit | SglangResume) -> Iterable[Heard]:
        if frame.session not in self._sessions:
            raise CodecError(f"{frame.session} has not registered")
        room = self._core.rooms.get((frame.room, INCARNATION))
        if room is None:
            yield from self._early_or_failed(frame)
            return
        own = self._ranks.get(frame.session)
        if own is None or own not in room.destinations:
            absent = [one for one in room.destinations if one not in room.offers and not room.epoch]
            own = yield from self._take_place(frame, room.destinations, absent)
            if own not in room.destinations and not room.failure:
                self._core.replace_destination(room.key, min(absent, key=self._is_present), own)
        if room.failure:
            told = self._failed.get(frame.room, (0.0, {}))[1]
            if own in room.destinations:
                untold = told.get(own, frame.session) != frame.session  # nobody stood for it when it was told
            else:
                untold = frame.session not in told.values()  # its place was another's
            if untold:
                self._tell_failed(own, frame.room)
            if untold or own not in room.destinations:
                return
        sent = frame.sent_tokens if isinstance(frame, SglangResume) else 0
        offer = Offer(frame.room, INCARNATION, int(sent > 0), own, frame.blocks, frame.allocated_tokens, sent)
        yield self._uneven(room, offer) or offer

    def _is_present(self, rank_id: RankId) -> bool:
        """Whether a process stands for this rank, as far as is known."""
        return rank_id in self._routes and rank_id not in self._down

    def _early_or_failed(self, frame: SglangInit | SglangResume) -> Iterable[Heard]:
        now = self._clock()
        _expire(self._failed, now)
        _expire(self._early, now)
        if frame.room not in self._failed:
            kept = self._early.setdefault(frame.room, (now + EARLY_LIFETIME_S, []))[1]
            if frame in kept:
                self.messages_stale += 1
            else:
                kept.append(frame)
            return
        told = self._failed[frame.room][1]
        if frame.session in told.values():
            self.messages_stale += 1  # it has been told, and that crossed this
            return
        own = yield from self._take_place(frame, list(told), list(told))
        self._tell_failed(own, frame.room)

    def _take_place(
        self, frame: SglangInit | SglangResume, destinations: Sequence[RankId], absent: Sequence[RankId]
    ) -> Generator[Heard, None, RankId]:
        """The rank that the frame's session is. One that is none yet becomes the first of the room's ``destinations``
        that nobody is, or else a surplus one for the place of one that is ``absent``. Raises CodecError if none is."""
        own = self._ranks.get(frame.session)
        here = [one for one in destinations if own is None or one.instance == own.instance]
        if not absent or not here:
            raise CodecError(f"{frame.session} is no destination of room {frame.room} here")
        if own is None:
            own = next((one for one in absent if one not in self._routes), None)
            if own is None:
                numbers = itertools.count(self.spec.scenario.language_tp)
                surplus = (absent[0]._replace(rank=number) for number in numbers)
                own = next(one for one in surplus if one not in self._routes)
            yield Found(self._bind(own, self._sessions[frame.session]))
        return own

    def _bind(self, rank_id: RankId, frame: SglangRegister) -> Route:
        self._ranks[frame.session] = rank_id
        self._routes[rank_id] = Route(
            rank_id=rank_id,
            host=frame.ip,
            control_port=frame.status_port,
            session=frame.session,
            bases=frame.base_pointers,
        )
        return self._routes[rank_id]

    def _uneven(self, room: EncodeRoom, offer: Offer) -> Abort | None:
        """What to do instead if the destinations do not offer alike: none could be told of their common cut."""
        if offer.epoch != room.epoch or offer.receiver in room.offers:
            return None  # the core ignores it
        capacities = {offer.capacity_tokens, *(one.capacity_tokens for one in room.offers.values())}
        if len(capacities) == 1 or min(capacities) >= room.total_tokens - room.sent_tokens:
            return None
        offered = " and ".join(map(str, sorted(capacities)))
        return Abort(*room.key, f"its destinations offer {offered} tokens, and a status cannot say how many were sent")


def _expire(kept: OrderedDict[int, tuple[float, Kept]], now: float) -> None:
    while kept and (len(kept) > EARLY_ROOMS or next(iter(kept.values()))[0] <= now):
        kept.popitem(last=False)


def _shown(frame: SglangFrame) -> str:
    return f"a {type(frame).__name__.removeprefix('Sglang').lower()} frame"
