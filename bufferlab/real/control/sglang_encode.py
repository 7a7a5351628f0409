"""What an encode rank hears on the SGLang fork's wire, and the status it tells (``real.control.sglang``)."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TypeVar

from bufferlab.protocol.encode import EncodeRank, EncodeRoom
from bufferlab.protocol.errors import CodecError
from bufferlab.protocol.messages import Abort, Cancel, ChunkStatus, Message, Offer, Quiet
from bufferlab.protocol.rank import EARLY_LIFETIME_S, EARLY_ROOMS
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId
from bufferlab.protocol.wire.codec import (
    SglangInit,
    SglangRegister,
    SglangResume,
    SglangStatus,
    decode_sglang,
    encode_sglang,
)
from bufferlab.real.control.heartbeat import Found, Heartbeat, News
from bufferlab.real.control.route import Route
from bufferlab.real.control.sglang import INCARNATION, shown
from bufferlab.real.control.sglang_peers import SglangHeartbeat, assemble_encode
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.control.wire import Connection, Decoded, Vacant, Wire

Kept = TypeVar("Kept")

MOST_SESSIONS = 4096
"""Registered sessions that are kept; of those that stand for no rank, the oldest go first."""


class EncodeWire(Wire):
    """An encode rank's: what it hears from whoever registers, and the status it tells them."""

    def __init__(
        self,
        spec: RankSpec,
        own: Route,
        connection: Connection,
        *,
        core: EncodeRank,
        down: set[RankId],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(spec, own, connection)
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
                    self._connection.later(0.0, Cancel(room, incarnation, to, reason))
            case ChunkStatus(room, _, _, status):
                self._connection.push(to, encode_sglang(SglangStatus(room, status)))
            case Quiet(room):
                self._tell_failed(to, room)
            case _:
                raise ValueError(f"{self.own.rank_id} has no frame for {type(message).__name__}")

    def _tell_failed(self, to: RankId, room: int) -> None:
        """Say that the room has failed; to a destination that nobody stands for yet, once somebody does."""
        route = self._routes.get(to)
        if route is not None:
            self._connection.push(to, encode_sglang(SglangStatus(room, Status.Failed)))
        told = self._failed.setdefault(room, (self._clock() + EARLY_LIFETIME_S, {}))[1]
        told[to] = None if route is None else route.session
        _expire(self._failed, self._clock())

    def take(self, frames: list[bytes]) -> Iterable[Decoded]:
        """A register is remembered; an init or a resume is an offer for a room that is here."""
        try:
            frame = decode_sglang(frames)
            match frame:
                case SglangRegister():
                    yield from self._register(frame)
                case SglangInit() | SglangResume():
                    yield from self._offered(frame)
                case _:
                    raise CodecError(f"{shown(frame)} is nothing that a language rank says")
        except CodecError as error:
            self.drop(error)

    def submitted(self, room: int) -> Iterable[Decoded]:
        """Offers that came before their request."""
        for frame in self._early.pop(room, (0.0, []))[1]:
            try:
                yield from self._offered(frame)
            except CodecError as error:
                self.drop(error)

    def _register(self, frame: SglangRegister) -> Iterable[Decoded]:
        if len(frame.base_pointers) != self._kinds:
            raise CodecError(f"{frame.session} registers {len(frame.base_pointers)} buffers, there are {self._kinds}")
        if frame.session not in self._sessions:
            self._connection.contact(frame.session)
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

    def lost(self, rank_id: RankId) -> Iterable[Decoded]:
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

    def _offered(self, frame: SglangInit | SglangResume) -> Iterable[Decoded]:
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

    def _early_or_failed(self, frame: SglangInit | SglangResume) -> Iterable[Decoded]:
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
    ) -> Generator[Decoded, None, RankId]:
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
