"""Checks the protocol's laws on the records of a run, while they come in.

The cores keep these laws by construction; here they are looked up in what was written down, so that a fault in a
driver, in the merging of a measured run or in a core itself shows in every run's summary.
"""

from __future__ import annotations

from collections import Counter

from protocol.recording import Event, Record
from protocol.scenario import Request, Scenario
from protocol.status import FINAL, LEGAL, Status
from protocol.topology import RankId, Side

KEPT_EXAMPLES = 20


class _Life:
    """What is known of one room on one rank, from its submission to its release."""

    __slots__ = ("blocks", "capacity", "ended", "status", "tokens")

    def __init__(self) -> None:
        self.status = Status.Bootstrapping
        self.tokens = 0
        self.capacity = 0
        self.blocks = 0
        self.ended: Event | None = None


class LawChecker:
    """A Recorder that counts broken laws. ``expect`` must be called for a request before its first record.

    Laws: time never goes back · a status moves along the legal table, so it never falls and ends once · tokens never
    fall and never exceed the request · what arrives fits the blocks that were allocated for it · what is delivered is
    complete and was written · a room is delivered or failed at most once, and exactly once before its release · the
    language ranks of a room end alike · no pool holds more than it has · nothing happens outside a room's life.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._layout = scenario.layout
        self._language_tp = scenario.language_tp
        self._pool = {Side.ENCODE: scenario.encode_blocks, Side.LANGUAGE: scenario.language_blocks}
        self._requests: dict[int, Request] = {}
        self._lives: dict[tuple[int, RankId], _Life] = {}
        self._written: dict[tuple[int, str], int] = {}
        self._ends: dict[int, list[Event]] = {}
        self._held: Counter[RankId] = Counter()
        self._last_s = 0.0
        self.broken = 0
        self.examples: list[str] = []

    def expect(self, request: Request) -> None:
        """Announce a request."""
        self._requests[request.room] = request

    def record(self, record: Record) -> None:
        """Take one record as a tuple."""
        self(*record)

    def __call__(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        """Take one record; see ``protocol.recording.Record`` for the fields."""
        if time_s < self._last_s:
            self._break(f"time goes back from {self._last_s!r} to {time_s!r}", rank_id, room, event)
        self._last_s = time_s
        request = self._requests.get(room)
        if request is None:
            self._break("nobody submitted this room", rank_id, room, event)
            return
        key = (room, rank_id)
        life = self._lives.get(key)
        if life is None:
            life = self._lives[key] = _Life()
            # An offer may overtake the submission on the encode side; everything else comes after it.
            if event is not Event.SUBMITTED and event is not Event.OFFER_RECEIVED:
                self._break("the room does not live here", rank_id, room, event)
        if status is not None:
            # An encode rank without destinations takes no part in the transfer and learns the end from its group.
            surplus = rank_id.side is Side.ENCODE and event is Event.RELEASED and life.tokens == 0
            if status is not life.status and status not in LEGAL[life.status] and not surplus:
                self._break(f"{life.status.name} became {status.name}", rank_id, room, event)
            life.status = status
        if bytes_ < 0 or tokens < 0:
            self._break(f"{tokens} tokens, {bytes_} bytes", rank_id, room, event)
        if rank_id.side is Side.LANGUAGE:
            self._language(life, request, rank_id, event, tokens)
        else:
            self._encode(life, request, rank_id, event, tokens, detail)
        if event is Event.RELEASED:
            self._hold(life, rank_id, room, event, 0)
            del self._lives[key]

    def finish(self) -> None:
        """End of the run: whoever succeeded must have been delivered."""
        for (room, rank_id), life in self._lives.items():
            if rank_id.side is Side.LANGUAGE and life.status in FINAL and life.ended is None:
                self._break(f"{life.status.name} but neither delivered nor failed", rank_id, room, Event.RELEASED)

    def _language(self, life: _Life, request: Request, rank_id: RankId, event: Event, tokens: int) -> None:
        room = request.room
        if event is Event.ALLOCATED:
            life.capacity = tokens
            self._hold(life, rank_id, room, event, self._layout.blocks_for(tokens))
        elif event is Event.CHUNK_RECEIVED:
            if not life.tokens < tokens <= min(request.total_tokens, life.tokens + life.capacity):
                self._break(
                    f"{tokens} of {request.total_tokens} tokens after {life.tokens} into room for {life.capacity}",
                    rank_id, room, event,
                )  # fmt: skip
            life.tokens = tokens
        elif event is Event.DELIVERED:
            written = self._written.pop((room, str(rank_id)), 0)
            if not tokens == life.tokens == written == request.total_tokens:
                self._break(
                    f"delivered {tokens} tokens, received {life.tokens}, written {written}, "
                    f"the request has {request.total_tokens}",
                    rank_id, room, event,
                )  # fmt: skip
            self._end(life, rank_id, room, event)
        elif event is Event.FAILED:
            self._written.pop((room, str(rank_id)), None)
            self._end(life, rank_id, room, event)
        elif event is Event.RELEASED and life.ended is None:
            self._break("released before its end", rank_id, room, event)

    def _encode(self, life: _Life, request: Request, rank_id: RankId, event: Event, tokens: int, detail: str) -> None:
        room = request.room
        if event is Event.ENCODE_STARTED:
            self._hold(life, rank_id, room, event, self._layout.blocks_for(request.total_tokens))
        elif event is Event.CHUNK_DONE:
            if not life.tokens < tokens <= request.total_tokens:
                self._break(f"{tokens} tokens sent after {life.tokens}", rank_id, room, event)
            life.tokens = tokens
        elif event is Event.WRITE_DONE:
            self._written[room, detail.split(" ", 1)[0]] = tokens
        elif event is Event.FAILED:
            if life.ended is not None:
                self._break("ended twice", rank_id, room, event)
            life.ended = event

    def _end(self, life: _Life, rank_id: RankId, room: int, event: Event) -> None:
        if life.ended is not None:
            self._break(f"{life.ended.value} and then {event.value}", rank_id, room, event)
        life.ended = event
        ends = self._ends.setdefault(room, [])
        if ends and ends[0] is not event:
            self._break(f"another rank of the group {ends[0].value} it", rank_id, room, event)
        ends.append(event)
        if len(ends) == self._language_tp:
            del self._ends[room]

    def _hold(self, life: _Life, rank_id: RankId, room: int, event: Event, blocks: int) -> None:
        self._held[rank_id] += blocks - life.blocks
        life.blocks = blocks
        if self._held[rank_id] > self._pool[rank_id.side]:
            self._break(
                f"{self._held[rank_id]} blocks held of a pool of {self._pool[rank_id.side]}", rank_id, room, event
            )

    def _break(self, what: str, rank_id: RankId, room: int, event: Event) -> None:
        self.broken += 1
        if len(self.examples) < KEPT_EXAMPLES:
            self.examples.append(f"room {room} on {rank_id}, {event.value}: {what}")
