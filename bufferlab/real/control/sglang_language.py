"""What a language rank says on the SGLang fork's wire, and what it makes of a status (``real.control.sglang``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bufferlab.protocol.errors import CodecError
from bufferlab.protocol.language import QUARANTINE_S, LanguageRank
from bufferlab.protocol.messages import Cancel, ChunkStatus, Message, Offer, Quiet
from bufferlab.protocol.rank import EARLY_LIFETIME_S, EARLY_ROOMS
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side, destinations, writer_rank
from bufferlab.protocol.wire.codec import (
    SglangFrame,
    SglangInit,
    SglangRegister,
    SglangResume,
    SglangStatus,
    decode_sglang,
    encode_sglang,
)
from bufferlab.real.control.heartbeat import Heartbeat, News
from bufferlab.real.control.route import Route
from bufferlab.real.control.sglang import INCARNATION, shown
from bufferlab.real.control.sglang_peers import SglangHeartbeat, assemble_language
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.control.wire import Connection, Decoded, Wire
from bufferlab.real.engine.memory import Pool

MOST_IDLE = 64
"""Ended rooms about which something is known that are not worth a sweep."""

SENT = frozenset({Status.Transferring, Status.Success, Status.Failed})
"""What an encode rank says; the other statuses are its own business."""


class LanguageWire(Wire):
    """A language rank's: what it says to the encode rank that writes to it, of each encode instance."""

    def __init__(
        self,
        spec: RankSpec,
        own: Route,
        connection: Connection,
        *,
        core: LanguageRank,
        pool: Pool,
        clock: Callable[[], float],
        quarantine_s: float = QUARANTINE_S,
    ) -> None:
        super().__init__(spec, own, connection)
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
        self._connection.push(encode, encode_sglang(SglangRegister(*self._address, base_pointers=self.own.bases)))

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
                self._connection.push(to, encode_sglang(frame))
            case Cancel(room, incarnation):
                if (room, incarnation) in self._core.rooms:
                    self._answer_if_quiet(room)  # else the core says it again
            case _:
                raise ValueError(f"{self.own.rank_id} has no frame for {type(message).__name__}")

    def take(self, frames: list[bytes]) -> Iterable[Decoded]:
        """A status, as the core understands one."""
        try:
            frame = decode_sglang(frames)
            if not isinstance(frame, SglangStatus) or frame.status not in SENT:
                raise CodecError(f"{shown(frame)} is nothing that an encode rank says")
        except CodecError as error:
            self.drop(error)
            return ()
        return self._failed(frame.room) if frame.status is Status.Failed else self._has_landed(frame)

    def _failed(self, number: int) -> Iterable[Decoded]:
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

    def _has_landed(self, frame: SglangStatus) -> Iterable[Decoded]:
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
            self._connection.later(0.0, Quiet(number, INCARNATION))

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
