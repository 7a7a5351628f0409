"""What there is to see of a replication: slices on the lanes of its ranks, arrows between them, and counters.

Everything comes from recorded events alone, so a simulated run and a measured one are drawn by the same rules. Nothing
here knows the format of a file (``timeline_format``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bufferlab.experiments.config.incidents import parse_rank
from bufferlab.experiments.runs.spans import Write, writes_of
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side


@dataclass(frozen=True)
class Scene:
    """One replication to be shown.

    ``world`` names its processes. ``requests``: when each room's came, by arrival. ``records``: in order of time.
    ``about``: what is to be known of the run, by name; values that JSON can hold.
    """

    world: str
    records: Sequence[Record]
    scenario: Scenario
    requests: Mapping[int, float]
    about: Mapping[str, Any] = field(default_factory=dict)


class Lane(NamedTuple):
    """What a rank does one thing after another, or waits for; in the order in which lanes are shown."""

    place: int
    name: str


class Home(NamedTuple):
    """Whose lane: a rank's, or the run's own where ``rank_id`` is None."""

    rank_id: RankId | None
    lane: Lane


ABOUT, REQUESTS = Lane(0, "about"), Lane(1, "requests")
ENCODER, OFFERS, COPIES, PREFILL, WAITING = (
    Lane(2, "encoder"), Lane(3, "offers held"), Lane(5, "copies"), Lane(6, "prefill"), Lane(7, "waiting"),
)  # fmt: skip


def writer(worker: int, workers: int) -> Lane:
    """The lane of a transfer worker of an encode rank."""
    return Lane(4, f"writer {worker}" if workers > 1 else "writer")


class Slice(NamedTuple):
    """Something that lasts, in seconds from the run's start."""

    home: Home
    begin_s: float
    end_s: float
    name: str
    arguments: dict[str, Any]


class Arrow(NamedTuple):
    """What one slice let another begin, by their places; ``kind``: offer, resume, ack or write."""

    kind: str
    source: int
    target: int


class Level(NamedTuple):
    """A counter has this value from now on."""

    rank_id: RankId
    name: str
    unit: str
    time_s: float
    value: float


@dataclass
class Drawing:
    """What one scene has to show, before it has tracks."""

    slices: list[Slice] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)

    def add(self, rank_id: RankId | None, lane: Lane, begin_s: float, end_s: float, name: str, **arguments: Any) -> int:
        """Add a slice and return its place."""
        self.slices.append(Slice(Home(rank_id, lane), begin_s, end_s, name, arguments))
        return len(self.slices) - 1

    def link(self, kind: str, source: int | None, target: int | None) -> None:
        """Add an arrow, if both ends are known and the clocks of two hosts do not turn it round."""
        if source is None or target is None:
            return
        if self.slices[source].begin_s <= self.slices[target].begin_s:
            self.arrows.append(Arrow(kind, source, target))


Chunk = tuple[RankId, int, int]
"""A language rank, a room, and which of its chunks."""


def draw(scene: Scene, shown: set[int]) -> Drawing:
    """What is to be seen of the rooms ``shown``, and of what they share with others until the last of them is over."""
    drawing = Drawing()
    records = [record for record in scene.records if record.room in shown]
    last_s = max((record.time_s for record in records), default=0.0)
    if scene.about:
        # Perfetto shows the arguments of a slice, and of what else a file tells nothing.
        about = {name: value for name, value in scene.about.items() if value not in (None, "", {}, [])}
        title = " ".join(str(about[name]) for name in ("name", "kind") if name in about)
        drawing.slices.append(Slice(Home(None, ABOUT), 0.0, last_s, title, about))
    _draw_requests(drawing, scene, records)
    granted, received = _draw_language(drawing, records)
    _draw_prefills(drawing, records, scene.scenario.prefill_batch_tokens)
    _draw_encoder_passes(drawing, records)
    offers = _draw_offers(drawing, records, granted)
    workers = scene.scenario.transfer_workers
    # Threads, adapters and pools are shared with requests that are not shown.
    writes = list(writes_of(scene.records, workers))
    for write in writes:
        if write.room in shown:
            place = _draw_write(drawing, write, workers)
            key = write.peer, write.room, write.chunk
            drawing.link("write", offers.get(key), place)
            drawing.link("ack", place, received.get(key))
    drawing.levels += _holdings(scene, last_s)
    drawing.levels += _queues(scene, last_s)
    drawing.levels += _adapters(scene, [write for write in writes if write.begun_s <= last_s])
    return drawing


def _draw_requests(drawing: Drawing, scene: Scene, records: Iterable[Record]) -> None:
    """Every request from its arrival to its first token, or to whatever came last."""
    ends_s: dict[int, float] = {}
    outcomes: dict[int, str] = {}
    tokens: dict[int, int] = {}
    chunks: dict[int, int] = {}
    for record in records:
        room = record.room
        if record.event is Event.CHUNK_RECEIVED:
            tokens[room] = max(record.tokens, tokens.get(room, 0))
            if record.rank_id.rank == 0:
                chunks[room] = chunks.get(room, 0) + 1
        elif record.event is Event.FAILED:
            outcomes.setdefault(room, f"failed: {record.detail}")
        elif record.event in (Event.DELIVERED, Event.PREFILLED):
            outcomes.setdefault(room, "delivered")
        elif room in outcomes:
            continue
        ends_s[room] = record.time_s
    for room, arrival_s in scene.requests.items():
        if room in ends_s:
            outcome = outcomes.get(room, "not finished")
            drawing.add(
                None, REQUESTS, arrival_s, max(ends_s[room], arrival_s),
                f"room {room}" if outcome == "delivered" else f"room {room} {outcome}",
                room=room, tokens=tokens.get(room, 0), chunks=chunks.get(room, 0), outcome=outcome,
            )  # fmt: skip


def _draw_write(drawing: Drawing, write: Write, workers: int) -> int:
    if write.begun_s > write.asked_s:
        name = f"room {write.room} waits for the writing thread"
        drawing.add(write.rank_id, WAITING, write.asked_s, write.begun_s, name, room=write.room)
    return drawing.add(
        write.rank_id, writer(write.peer.instance % workers, workers), write.begun_s, write.done_s,
        f"write room {write.room} to {write.peer}", room=write.room, chunk=write.chunk, bytes=write.bytes,
    )  # fmt: skip


def _draw_encoder_passes(drawing: Drawing, records: Iterable[Record]) -> None:
    """Encoder passes, and what came before them. Requests of one pass start together and are one slice."""
    since: dict[tuple[RankId, int], float] = {}
    started: dict[tuple[RankId, int], float] = {}
    passes: dict[tuple[RankId, float], tuple[float, list[int], int]] = {}
    for record in records:
        key = record.rank_id, record.room
        if record.rank_id.side is not Side.ENCODE:
            continue
        if record.event in (Event.SUBMITTED, Event.OFFERS_COMPLETE) and key not in started:
            since[key] = record.time_s
        elif record.event is Event.ENCODE_STARTED:
            started[key] = record.time_s
            name = f"room {record.room} waits for the encoder"
            drawing.add(record.rank_id, WAITING, since[key], record.time_s, name, room=record.room)
        elif record.event is Event.ENCODED:
            begun = record.rank_id, started[key]
            end_s, rooms, tokens = passes.get(begun, (record.time_s, [], 0))
            passes[begun] = max(end_s, record.time_s), [*rooms, record.room], tokens + record.tokens
    for (rank_id, begin_s), (end_s, rooms, tokens) in passes.items():
        drawing.add(rank_id, ENCODER, begin_s, end_s, f"encode {_counted(rooms)}", rooms=rooms, tokens=tokens)


_OF_ITERATIONS = frozenset({Event.ALLOCATED, Event.OFFERED, Event.RESUMED, Event.CHUNK_RECEIVED, Event.DELIVERED})
"""What a language rank records in its iterations only, behind the copies that it waits for."""


def _draw_prefills(drawing: Drawing, records: Iterable[Record], most_tokens: int | None) -> None:
    """Prefill passes, and the wait for them.

    A pass begins when the copies of its iteration are over, or where the iteration had none, when the last pass is: a
    rank records nothing of an iteration while one of its passes runs. A pass takes what waits, in order, as far as
    ``most_tokens`` go (``protocol.emulation.passes``).
    """
    passes: dict[RankId, _Prefill] = {}
    delivered: dict[RankId, dict[int, float]] = defaultdict(dict)
    for record in records:
        rank_id = record.rank_id
        if record.event in _OF_ITERATIONS and rank_id.side is Side.LANGUAGE:
            if record.event is Event.DELIVERED:
                delivered[rank_id][record.room] = record.time_s
            if rank_id in passes:
                passes[rank_id].drawn(drawing)
            passes[rank_id] = _Prefill(rank_id, record.time_s)
        elif record.event is Event.PREFILLED and record.room in delivered[rank_id]:
            current = passes[rank_id]
            if current.rooms and most_tokens is not None and current.tokens + record.tokens > most_tokens:
                current = passes[rank_id] = current.drawn(drawing)
            current.rooms[record.room] = delivered[rank_id].pop(record.room)
            current.tokens += record.tokens
            current.end_s = record.time_s
    for last in passes.values():
        last.drawn(drawing)


@dataclass
class _Prefill:
    """A pass as far as it is known. ``rooms``: when each was delivered."""

    rank_id: RankId
    begin_s: float
    end_s: float = 0.0
    tokens: int = 0
    rooms: dict[int, float] = field(default_factory=dict)

    def drawn(self, drawing: Drawing) -> _Prefill:
        """Add it to the drawing, if it ended; the pass that comes straight after it."""
        if not self.rooms:
            return self
        rooms = list(self.rooms)
        name = f"prefill {_counted(rooms)}"
        drawing.add(self.rank_id, PREFILL, self.begin_s, self.end_s, name, rooms=rooms, tokens=self.tokens)
        for room, delivered_s in self.rooms.items():
            if delivered_s < self.begin_s:
                waits = f"room {room} waits for the prefill"
                drawing.add(self.rank_id, WAITING, delivered_s, self.begin_s, waits, room=room)
        return _Prefill(self.rank_id, self.end_s)


def _draw_offers(drawing: Drawing, records: Iterable[Record], granted: Mapping[Chunk, int]) -> dict[Chunk, int]:
    """How long an encode rank holds each offer before it has data to write there; the slices by whose offer it is."""
    found: dict[Chunk, int] = {}
    held: dict[tuple[RankId, int, RankId], tuple[float, int]] = {}
    chunks: dict[tuple[RankId, int, RankId], int] = defaultdict(int)
    for record in records:
        if record.rank_id.side is not Side.ENCODE:
            continue
        if record.event is Event.OFFER_RECEIVED:
            held[record.rank_id, record.room, _peer(record)] = record.time_s, record.tokens
            continue
        if record.event is Event.WRITE_STARTED:
            ending = [(record.rank_id, record.room, _peer(record))]
        elif record.event is Event.FAILED:
            ending = [key for key in held if key[:2] == (record.rank_id, record.room)]
        else:
            continue
        for key in ending:
            if key not in held:
                continue
            begin_s, sent_tokens = held.pop(key)
            rank_id, room, peer = key
            chunk = peer, room, chunks[key]
            chunks[key] += 1
            name = f"room {room} has an offer of {peer}"
            place = drawing.add(
                rank_id, OFFERS, begin_s, record.time_s, name, room=room, chunk=chunk[2], from_token=sent_tokens
            )
            drawing.link("resume" if sent_tokens else "offer", granted.get(chunk), place)
            found[chunk] = place
    return found


def _draw_language(drawing: Drawing, records: Iterable[Record]) -> tuple[dict[Chunk, int], dict[Chunk, int]]:
    """Waiting and copies on the language side.

    Returns the slices at whose end blocks for a chunk were granted, and those that follow a chunk.
    """
    granted: dict[Chunk, int] = {}
    follows: dict[Chunk, int] = {}
    since: dict[tuple[RankId, int], float] = {}
    chunks: dict[tuple[RankId, int], int] = defaultdict(int)
    for record in records:
        rank_id, room, time_s = record.rank_id, record.room, record.time_s
        key = rank_id, room
        if rank_id.side is not Side.LANGUAGE:
            continue
        place: int | None = None
        if record.event in (Event.OFFERED, Event.RESUMED):
            name = f"room {room} waits for blocks"
            place = drawing.add(rank_id, WAITING, since.get(key, time_s), time_s, name, room=room, chunk=chunks[key])
            granted[rank_id, room, chunks[key]] = place
        elif record.event is Event.CHUNK_RECEIVED:
            name = f"room {room} waits for chunk {chunks[key]}"
            drawing.add(rank_id, WAITING, since.get(key, time_s), time_s, name, room=room, tokens=record.tokens)
            chunks[key] += 1
        elif record.event is Event.DELIVERED:
            name = f"copy room {room}"
            place = drawing.add(rank_id, COPIES, since[key], time_s, name, room=room, tokens=record.tokens)
        elif record.event is Event.FAILED:
            name = f"room {room} fails: {record.detail}"
            place = drawing.add(rank_id, WAITING, since.get(key, time_s), time_s, name, room=room)
        elif record.event not in (Event.SUBMITTED, Event.ANNOUNCED):
            continue
        if place is not None and chunks[key]:
            follows.setdefault((rank_id, room, chunks[key] - 1), place)
        since[key] = time_s
    return granted, follows


# --- counters ---


def _holdings(scene: Scene, until_s: float) -> Iterator[Level]:
    """The blocks every rank holds whenever that changes."""
    scenario = scene.scenario
    pools = dict.fromkeys(scenario.encode_ids(), scenario.encode_blocks)
    pools |= dict.fromkeys(scenario.language_ids(), scenario.language_blocks)
    names = {rank_id: f"rank {rank_id.rank} pool of {blocks}" for rank_id, blocks in pools.items()}
    rooms: dict[tuple[RankId, int], int] = {}
    held: dict[RankId, int] = dict.fromkeys(pools, 0)
    for rank_id in held:
        yield Level(rank_id, names[rank_id], "blocks", 0.0, 0)
    for record in scene.records:
        if record.time_s > until_s:
            return
        if record.event not in (Event.ALLOCATED, Event.ENCODE_STARTED, Event.RELEASED):
            continue
        key = record.rank_id, record.room
        now = 0 if record.event is Event.RELEASED else scenario.layout.blocks_for(record.tokens)
        held[record.rank_id] += now - rooms.get(key, 0)
        rooms[key] = now
        yield Level(record.rank_id, names[record.rank_id], "blocks", record.time_s, held[record.rank_id])


def _queues(scene: Scene, until_s: float) -> Iterator[Level]:
    """How many rooms wait for blocks on every language rank: for their first, or to resume."""
    waiting: dict[RankId, set[int]] = {rank_id: set() for rank_id in scene.scenario.language_ids()}
    for rank_id, rooms in waiting.items():
        yield Level(rank_id, f"rank {rank_id.rank} queue for blocks", "rooms", 0.0, len(rooms))
    begins = Event.ANNOUNCED if scene.scenario.make_discipline().announces_length else Event.SUBMITTED
    waits = {begins: True, Event.OFFERED: False, Event.RESUMED: False, Event.FAILED: False, Event.CHUNK_RECEIVED: True}
    for record in scene.records:
        if record.time_s > until_s:
            return
        queue = waiting.get(record.rank_id)
        if queue is None or record.event not in waits:
            continue
        begins_to_wait = waits[record.event] and record.status is not Status.Success
        if (record.room in queue) == begins_to_wait:
            continue
        queue ^= {record.room}
        name = f"rank {record.rank_id.rank} queue for blocks"
        yield Level(record.rank_id, name, "rooms", record.time_s, len(queue))


def _adapters(scene: Scene, writes: Iterable[Write]) -> Iterator[Level]:
    """How many writes are under way from every encode rank and to every language rank, and their rates together.

    A write counts with its mean rate, which is all that is recorded of it.
    """
    ends: dict[RankId, list[tuple[float, bool, Write]]] = {
        rank_id: [] for rank_id in (*scene.scenario.encode_ids(), *scene.scenario.language_ids())
    }
    for write in writes:
        for rank_id in (write.rank_id, write.peer):
            ends[rank_id] += [(write.begun_s, True, write), (write.done_s, False, write)]
    for rank_id, changes in ends.items():
        way = "out" if rank_id.side is Side.ENCODE else "in"
        names = f"rank {rank_id.rank} writes {way}", f"rank {rank_id.rank} adapter {way}"
        yield Level(rank_id, names[0], "writes", 0.0, 0)
        yield Level(rank_id, names[1], "MB/s", 0.0, 0)
        under_way: dict[tuple[RankId, RankId, int, int, float], float] = {}
        # What ends at a time ends before what begins; a write without any length is neither.
        for time_s, begins, write in sorted(changes, key=lambda one: one[:2]):
            key = write.rank_id, write.peer, write.room, write.chunk, write.begun_s
            if begins and write.done_s > write.begun_s:
                under_way[key] = write.bytes / (write.done_s - write.begun_s) / 1e6
            elif not begins:
                under_way.pop(key, None)
            yield Level(rank_id, names[0], "writes", time_s, len(under_way))
            yield Level(rank_id, names[1], "MB/s", time_s, round(sum(under_way.values()), 3))


def _counted(rooms: Sequence[int]) -> str:
    return f"room {rooms[0]}" if len(rooms) == 1 else f"{len(rooms)} rooms"


def _peer(record: Record) -> RankId:
    return parse_rank(record.detail.split(" ", 1)[0])
