"""Checks the protocol's invariants on the records of a run, while they come in.

The cores keep these invariants by construction; here they are looked up in what was written down, so that a fault in a
driver, in the merging of a measured run or in a core itself shows in every run's summary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, final

from bufferlab.protocol.chunks import Chunk
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event, Listener, number_of
from bufferlab.protocol.status import FINAL, LEGAL, Status
from bufferlab.protocol.topology import RankId, Side

KEPT_EXAMPLES = 20
"""More are only counted: one rule may be violated at every event."""

# By names of this module: a global is found many times as fast as a member of an Enum.
LANGUAGE: Final = Side.LANGUAGE
SUBMITTED: Final = Event.SUBMITTED
ALLOCATED: Final = Event.ALLOCATED
ENCODE_STARTED: Final = Event.ENCODE_STARTED
CHUNK_STARTED: Final = Event.CHUNK_STARTED
WRITE_DONE: Final = Event.WRITE_DONE
CHUNK_DONE: Final = Event.CHUNK_DONE
CHUNK_RECEIVED: Final = Event.CHUNK_RECEIVED
DELIVERED: Final = Event.DELIVERED
FAILED: Final = Event.FAILED
RELEASED: Final = Event.RELEASED
PREFILLED: Final = Event.PREFILLED
# What a side records without changing anything that is looked at here.
ALSO_OF_LANGUAGE: Final = frozenset({SUBMITTED, Event.ANNOUNCED, Event.OFFERED, Event.RESUMED})
ALSO_OF_ENCODE: Final = frozenset(
    {SUBMITTED, Event.OFFER_RECEIVED, Event.OFFERS_COMPLETE, Event.ENCODED, Event.WRITE_STARTED}
)
BOOTSTRAPPING: Final = Status.Bootstrapping
SUCCESS: Final = Status.Success


@final
class _Expected:
    """An announced request, until all of its ranks have released it.

    ``written``: tokens up to which its writes to a peer landed. ``ends``: how its language ranks ended.
    """

    def __init__(self, request: Request, ranks: int) -> None:
        self.request = request
        self.room = request.room
        self.total_tokens = request.total_tokens
        self.left = ranks
        self.written: dict[str, int] = {}
        self.ends: list[Event] = []


@final
class _Life:
    """What is known of one room on one rank, from its submission to its release."""

    def __init__(self, expected: _Expected, rank_id: RankId) -> None:
        self.expected = expected
        self.room = expected.room
        self.rank_id = rank_id
        self.status = BOOTSTRAPPING
        self.tokens = 0
        self.capacity = 0
        self.blocks = 0
        self.bytes_received = 0
        self.bytes_by_peer: dict[str, int] = {}
        self.ended: Event | None = None


@final
class InvariantMonitor(Listener):
    """A Recorder that counts violations. ``expect`` must be called for a request before its first record.

    Invariants: time never goes back · a rank records what its side does and nothing else · nothing happens outside a
    room's life, which is submitted once and released once · a status moves along the legal table, so it never falls
    and ends once · tokens never fall and never exceed the request · what arrives fits the blocks that were allocated
    for it · what is delivered is complete and was written, in tokens and in bytes · a room is delivered or failed at
    most once, and on the language side exactly once before its release, with the status that says so · what is
    prefilled was delivered there and is prefilled once · the language ranks of a room end alike · no rank holds more
    blocks than its pool has.

    It keeps one small entry per unfinished (room, rank), so it can watch runs of any length.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.wants_details = True
        self._layout = scenario.layout
        self._block_tokens = scenario.layout.block_tokens
        self._ranks = scenario.encode_tp + scenario.language_tp
        self._encode_blocks, self._language_blocks = scenario.encode_blocks, scenario.language_blocks
        self._requests: dict[int, _Expected] = {}
        self._lives: dict[int, _Life] = {}  # by the numbers of room and rank, see ``_key``
        self._last: _Life | None = None  # of the record before, which most often is that of the next as well
        self._held: dict[int, int] = {}  # by the numbers of ranks
        self._prefills = scenario.services.prefills
        self._prefilling: set[int] = set()
        self._last_s = 0.0
        self._cut_short: frozenset[RankId] = frozenset()
        self.violations = 0
        self.examples: list[str] = []

    @property
    def open_rooms(self) -> list[tuple[int, RankId]]:
        """Rooms that were submitted to a rank and not released there yet."""
        return [(life.expected.room, life.rank_id) for life in self._lives.values()]

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

    def tell(
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
        if event is PREFILLED:
            key = _key(room, rank_id)
            if key not in self._prefilling:
                self._break("prefilled what does not wait for its prefill", rank_id, room, event)
            self._prefilling.discard(key)
            return
        life = self._last
        if life is None or life.rank_id is not rank_id or life.room != room:
            life = self._last = self._lives.get(_key(room, rank_id))
        if event is SUBMITTED:
            expected = self._requests.get(room)
            if expected is None:
                self._break("nobody submitted this room", rank_id, room, event)
                return
            if life is not None:
                self._break("submitted twice", rank_id, room, event)
            life = self._last = self._lives[_key(room, rank_id)] = _Life(expected, rank_id)
        elif life is None:
            self._break("the room does not live here", rank_id, room, event)
            return
        on_language = rank_id.side is LANGUAGE
        if status is not None and status is not life.status:
            # An encode rank without destinations takes no part in the transfer and learns the end from its group.
            surplus = event is RELEASED and not on_language and not life.bytes_by_peer
            if status not in LEGAL[life.status] and not (surplus and life.status is BOOTSTRAPPING):
                self._break(f"{life.status.name} became {status.name}", rank_id, room, event)
            life.status = status
        if bytes_ < 0 or tokens < 0:
            self._break(f"{tokens} tokens, {bytes_} bytes", rank_id, room, event)
        if on_language:
            self._language(life, rank_id, event, tokens, bytes_)
        else:
            self._encode(life, rank_id, event, tokens, bytes_, detail)

    def finish(self) -> None:
        """End of the run: whoever succeeded must have been delivered."""
        for life in self._lives.values():
            if life.rank_id.side is LANGUAGE and life.status in FINAL and life.ended is None:
                self._break(
                    f"{life.status.name} but neither delivered nor failed", life.rank_id, life.expected.room, RELEASED
                )

    def _progress(self, life: _Life, rank_id: RankId, event: Event, tokens: int) -> int:
        """The tokens of an event say how far the room has come; how far it was before."""
        before, life.tokens = life.tokens, tokens
        if tokens < before:
            self._break(f"{before} tokens became {tokens}", rank_id, life.expected.room, event)
        return before

    def _language(self, life: _Life, rank_id: RankId, event: Event, tokens: int, bytes_: int) -> None:
        expected = life.expected
        room, total = expected.room, expected.total_tokens
        if event is ALLOCATED:
            life.capacity = tokens
            self._hold(life, rank_id, room, event, self._blocks_for(tokens))
        elif event is CHUNK_RECEIVED:
            before = self._progress(life, rank_id, event, tokens)
            if not before < tokens <= min(total, before + life.capacity):
                self._break(
                    f"{tokens} of {total} tokens after {before} into room for {life.capacity}", rank_id, room, event
                )
            life.bytes_received += bytes_
        elif event is DELIVERED:
            self._delivered(life, rank_id, tokens)
        elif event is FAILED:
            self._end(life, rank_id, event)
        elif event is RELEASED:
            self._progress(life, rank_id, event, tokens)
            if life.ended is None:
                self._break("released before its end", rank_id, room, event)
            self._release(life, rank_id)
        elif event not in ALSO_OF_LANGUAGE:
            self._break("no language rank does that", rank_id, room, event)

    def _delivered(self, life: _Life, rank_id: RankId, tokens: int) -> None:
        expected = life.expected
        room, total = expected.room, expected.total_tokens
        before = self._progress(life, rank_id, DELIVERED, tokens)
        written = expected.written.get(str(rank_id), 0)
        if self._cut_short:
            instance = expected.request.encode_instance
            if any(one.side is not LANGUAGE and one.instance == instance for one in self._cut_short):
                written = total  # by one whose word for it may be missing
        if not (tokens == before and before == written and written == total):
            self._break(
                f"delivered {tokens} tokens, received {before}, written {written}, the request has {total}",
                rank_id, room, DELIVERED,
            )  # fmt: skip
        payload = total * self._layout.bytes_per_token
        if life.bytes_received != payload:
            self._break(f"received {life.bytes_received} bytes of {payload}", rank_id, room, DELIVERED)
        self._end(life, rank_id, DELIVERED)
        if self._prefills:
            self._prefilling.add(_key(room, rank_id))

    def _encode(self, life: _Life, rank_id: RankId, event: Event, tokens: int, bytes_: int, detail: str) -> None:
        expected = life.expected
        room, total = expected.room, expected.total_tokens
        if event is ENCODE_STARTED:
            self._hold(life, rank_id, room, event, self._blocks_for(total))
        elif event is CHUNK_STARTED:
            self._progress(life, rank_id, event, tokens)
        elif event is WRITE_DONE:
            peer = detail.split(" ", 1)[0]
            expected.written[peer] = tokens
            life.bytes_by_peer[peer] = life.bytes_by_peer.get(peer, 0) + bytes_
        elif event is CHUNK_DONE:
            before = self._progress(life, rank_id, event, tokens)
            if not before < tokens <= total:
                self._break(f"{tokens} tokens sent after {before}", rank_id, room, event)
        elif event is FAILED:
            if life.ended is not None:
                self._break("ended twice", rank_id, room, event)
            life.ended = event
        elif event is RELEASED:
            self._progress(life, rank_id, event, tokens)
            if life.status is SUCCESS:
                whole = self._layout.chunk_bytes(Chunk(0, total, True))
                for peer, landed in life.bytes_by_peer.items():
                    if landed != whole:
                        self._break(f"{landed} bytes landed at {peer}, the request has {whole}", rank_id, room, event)
            self._release(life, rank_id)
        elif event not in ALSO_OF_ENCODE:
            self._break("no encode rank does that", rank_id, room, event)

    def _end(self, life: _Life, rank_id: RankId, event: Event) -> None:
        room, ends = life.expected.room, life.expected.ends
        if life.ended is not None:
            self._break(f"{life.ended.value} and then {event.value}", rank_id, room, event)
        life.ended = event
        if self._cut_short and rank_id in self._cut_short:
            return  # it may have ended like the others before it was gone
        if ends and ends[0] is not event:
            self._break(f"another rank of the group {ends[0].value} it", rank_id, room, event)
        ends.append(event)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)

    def _hold(self, life: _Life, rank_id: RankId, room: int, event: Event, blocks: int) -> None:
        number = number_of(rank_id)
        held = self._held.get(number, 0) + blocks - life.blocks
        life.blocks = blocks
        self._held[number] = held
        pool = self._language_blocks if rank_id.side is LANGUAGE else self._encode_blocks
        if not 0 <= held <= pool:
            self._break(f"{held} blocks held of a pool of {pool}", rank_id, room, event)

    def _release(self, life: _Life, rank_id: RankId) -> None:
        expected = life.expected
        room = expected.room
        self._hold(life, rank_id, room, RELEASED, 0)
        if life.status not in FINAL:
            self._break(f"released in {life.status.name}", rank_id, room, RELEASED)
        elif life.ended is not None and (life.ended is FAILED) is not (life.status is Status.Failed):
            self._break(f"{life.ended.value}, yet released in {life.status.name}", rank_id, room, RELEASED)
        del self._lives[_key(room, rank_id)]
        self._last = None
        expected.left -= 1
        if not expected.left:
            del self._requests[room]

    def _break(self, what: str, rank_id: RankId, room: int, event: Event) -> None:
        self.violations += 1
        if len(self.examples) < KEPT_EXAMPLES:
            self.examples.append(f"room {room} on {rank_id}, {event.value}: {what}")


def _key(room: int, rank_id: RankId) -> int:
    """The number of a room on a rank."""
    return room << 34 | number_of(rank_id)
