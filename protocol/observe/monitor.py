"""Checks the protocol's invariants on the records of a run, while they come in.

The cores keep these invariants by construction; here they are looked up in what was written down, so that a fault in a
driver, in the merging of a measured run or in a core itself shows in every run's summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from protocol.chunks import Chunk
from protocol.emulation.scenario import Request, Scenario
from protocol.recording import Event, Record
from protocol.status import FINAL, LEGAL, Status
from protocol.topology import RankId, Side

KEPT_EXAMPLES = 20
"""More are only counted: one rule may be violated at every event."""

_PROGRESS = frozenset({Event.CHUNK_STARTED, Event.CHUNK_DONE, Event.CHUNK_RECEIVED, Event.DELIVERED, Event.RELEASED})
"""Events whose tokens say how far the room has come."""


class _Expected:
    """An announced request, until all of its ranks have released it.

    ``written``: tokens up to which its writes to a peer landed. ``ends``: how its language ranks ended.
    """

    __slots__ = ("ends", "left", "request", "written")

    def __init__(self, request: Request, ranks: int) -> None:
        self.request = request
        self.left = ranks
        self.written: dict[str, int] = {}
        self.ends: list[Event] = []


class _Life:
    """What is known of one room on one rank, from its submission to its release."""

    __slots__ = ("blocks", "bytes_by_peer", "bytes_received", "capacity", "ended", "expected", "status", "tokens")

    def __init__(self, expected: _Expected) -> None:
        self.expected = expected
        self.status = Status.Bootstrapping
        self.tokens = 0
        self.capacity = 0
        self.blocks = 0
        self.bytes_received = 0
        self.bytes_by_peer: dict[str, int] = {}
        self.ended: Event | None = None


class InvariantMonitor:
    """A Recorder that counts violations. ``expect`` must be called for a request before its first record.

    Invariants: time never goes back · nothing happens outside a room's life, which is submitted once and released once
    · a status moves along the legal table, so it never falls and ends once · tokens never fall and never exceed the
    request · what arrives fits the blocks that were allocated for it · what is delivered is complete and was written,
    in tokens and in bytes · a room is delivered or failed at most once, and on the language side exactly once before
    its release, with the status that says so · what is prefilled was delivered there and is prefilled once · the
    language ranks of a room end alike · no rank holds more blocks than its pool has.

    It keeps one small entry per unfinished (room, rank), so it can watch runs of any length.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._layout = scenario.layout
        self._ranks = scenario.encode_tp + scenario.language_tp
        self._pool = {Side.ENCODE: scenario.encode_blocks, Side.LANGUAGE: scenario.language_blocks}
        self._requests: dict[int, _Expected] = {}
        self._lives: dict[tuple[int, RankId], _Life] = {}
        self._held: Counter[RankId] = Counter()
        self._prefills = scenario.services.prefills
        self._prefilling: set[tuple[int, RankId]] = set()
        self._last_s = 0.0
        self._cut_short: frozenset[RankId] = frozenset()
        self.violations = 0
        self.examples: list[str] = []

    @property
    def open_rooms(self) -> list[tuple[int, RankId]]:
        """Rooms that were submitted to a rank and not released there yet."""
        return list(self._lives)

    def expect(self, request: Request) -> None:
        """Announce a request. A room number may come again once its earlier request is released everywhere."""
        self._requests[request.room] = _Expected(request, self._ranks)

    def excuse(self, ranks: Iterable[RankId]) -> None:
        """The last records of these ranks may be missing: nothing is held against others that only these could say."""
        self._cut_short = frozenset(ranks)

    def announced(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The same requests; each is expected from when it is asked for."""
        for request in requests:
            self.expect(request)
            yield request

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
        """Take one record; see ``recording.Record`` for the fields."""
        if not time_s >= self._last_s:
            self._break(f"time goes back from {self._last_s!r} to {time_s!r}", rank_id, room, event)
        self._last_s = time_s
        key = (room, rank_id)
        if event is Event.PREFILLED:
            if key not in self._prefilling:
                self._break("prefilled what does not wait for its prefill", rank_id, room, event)
            self._prefilling.discard(key)
            return
        life = self._lives.get(key)
        if event is Event.SUBMITTED:
            expected = self._requests.get(room)
            if expected is None:
                self._break("nobody submitted this room", rank_id, room, event)
                return
            if life is not None:
                self._break("submitted twice", rank_id, room, event)
            life = self._lives[key] = _Life(expected)
        elif life is None:
            self._break("the room does not live here", rank_id, room, event)
            return
        if status is not None and status is not life.status:
            # An encode rank without destinations takes no part in the transfer and learns the end from its group.
            surplus = event is Event.RELEASED and rank_id.side is Side.ENCODE and not life.bytes_by_peer
            if status not in LEGAL[life.status] and not (surplus and life.status is Status.Bootstrapping):
                self._break(f"{life.status.name} became {status.name}", rank_id, room, event)
            life.status = status
        if bytes_ < 0 or tokens < 0:
            self._break(f"{tokens} tokens, {bytes_} bytes", rank_id, room, event)
        if event in _PROGRESS:
            self._progress(life, rank_id, event, tokens)
        if rank_id.side is Side.LANGUAGE:
            self._language(life, rank_id, event, tokens, bytes_)
        else:
            self._encode(life, rank_id, event, tokens, bytes_, detail)
        if event is Event.RELEASED:
            self._release(life, rank_id)

    def finish(self) -> None:
        """End of the run: whoever succeeded must have been delivered."""
        for (room, rank_id), life in self._lives.items():
            if rank_id.side is Side.LANGUAGE and life.status in FINAL and life.ended is None:
                self._break(f"{life.status.name} but neither delivered nor failed", rank_id, room, Event.RELEASED)

    def _progress(self, life: _Life, rank_id: RankId, event: Event, tokens: int) -> None:
        expected = life.expected
        room, total = expected.request.room, expected.request.total_tokens
        before, life.tokens = life.tokens, tokens
        if tokens < before:
            self._break(f"{before} tokens became {tokens}", rank_id, room, event)
        if event is Event.CHUNK_DONE and not before < tokens <= total:
            self._break(f"{tokens} tokens sent after {before}", rank_id, room, event)
        elif event is Event.CHUNK_RECEIVED:
            if not before < tokens <= min(total, before + life.capacity):
                self._break(
                    f"{tokens} of {total} tokens after {before} into room for {life.capacity}", rank_id, room, event
                )
        elif event is Event.DELIVERED:
            written = expected.written.get(str(rank_id), 0)
            writers = (Side.ENCODE, expected.request.encode_instance)
            if any((one.side, one.instance) == writers for one in self._cut_short):
                written = total  # by one whose word for it may be missing
            if not tokens == before == written == total:
                self._break(
                    f"delivered {tokens} tokens, received {before}, written {written}, the request has {total}",
                    rank_id, room, event,
                )  # fmt: skip

    def _language(self, life: _Life, rank_id: RankId, event: Event, tokens: int, bytes_: int) -> None:
        request = life.expected.request
        room = request.room
        if event is Event.ALLOCATED:
            life.capacity = tokens
            self._hold(life, rank_id, room, event, self._layout.blocks_for(tokens))
        elif event is Event.CHUNK_RECEIVED:
            life.bytes_received += bytes_
        elif event is Event.DELIVERED:
            payload = request.total_tokens * self._layout.bytes_per_token
            if life.bytes_received != payload:
                self._break(f"received {life.bytes_received} bytes of {payload}", rank_id, room, event)
            self._end(life, rank_id, event)
            if self._prefills:
                self._prefilling.add((room, rank_id))
        elif event is Event.FAILED:
            self._end(life, rank_id, event)
        elif event is Event.RELEASED and life.ended is None:
            self._break("released before its end", rank_id, room, event)

    def _encode(self, life: _Life, rank_id: RankId, event: Event, tokens: int, bytes_: int, detail: str) -> None:
        expected = life.expected
        room, total = expected.request.room, expected.request.total_tokens
        if event is Event.ENCODE_STARTED:
            self._hold(life, rank_id, room, event, self._layout.blocks_for(total))
        elif event is Event.WRITE_DONE:
            peer = detail.split(" ", 1)[0]
            expected.written[peer] = tokens
            life.bytes_by_peer[peer] = life.bytes_by_peer.get(peer, 0) + bytes_
        elif event is Event.FAILED:
            if life.ended is not None:
                self._break("ended twice", rank_id, room, event)
            life.ended = event
        elif event is Event.RELEASED and life.status is Status.Success:
            whole = self._layout.chunk_bytes(Chunk(0, total, True))
            for peer, landed in life.bytes_by_peer.items():
                if landed != whole:
                    self._break(f"{landed} bytes landed at {peer}, the request has {whole}", rank_id, room, event)

    def _end(self, life: _Life, rank_id: RankId, event: Event) -> None:
        room, ends = life.expected.request.room, life.expected.ends
        if life.ended is not None:
            self._break(f"{life.ended.value} and then {event.value}", rank_id, room, event)
        life.ended = event
        if rank_id in self._cut_short:
            return  # it may have ended like the others before it was gone
        if ends and ends[0] is not event:
            self._break(f"another rank of the group {ends[0].value} it", rank_id, room, event)
        ends.append(event)

    def _hold(self, life: _Life, rank_id: RankId, room: int, event: Event, blocks: int) -> None:
        held = self._held[rank_id] + blocks - life.blocks
        life.blocks = blocks
        self._held[rank_id] = held
        if not 0 <= held <= self._pool[rank_id.side]:
            self._break(f"{held} blocks held of a pool of {self._pool[rank_id.side]}", rank_id, room, event)

    def _release(self, life: _Life, rank_id: RankId) -> None:
        expected = life.expected
        room = expected.request.room
        self._hold(life, rank_id, room, Event.RELEASED, 0)
        if life.status not in FINAL:
            self._break(f"released in {life.status.name}", rank_id, room, Event.RELEASED)
        elif life.ended is not None and (life.ended is Event.FAILED) is not (life.status is Status.Failed):
            self._break(f"{life.ended.value}, yet released in {life.status.name}", rank_id, room, Event.RELEASED)
        del self._lives[room, rank_id]
        expected.left -= 1
        if not expected.left:
            del self._requests[room]

    def _break(self, what: str, rank_id: RankId, room: int, event: Event) -> None:
        self.violations += 1
        if len(self.examples) < KEPT_EXAMPLES:
            self.examples.append(f"room {room} on {rank_id}, {event.value}: {what}")
