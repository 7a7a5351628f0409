"""timeline.json: a run as a trace that Perfetto and chrome://tracing open.

A process is an instance of a side, a track one of its ranks. Slices on a track must nest, so what overlaps goes to
further tracks of the same rank, and waiting has tracks of its own. Arrows lead from a write to what its status let the
other side go on with; counters show the blocks that a rank's pool holds. Times are microseconds from the run's start.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bufferlab.experiments.files import write_atomically
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.spans import Write, in_order, writes_of
from bufferlab.experiments.runs.tables import read_numbers, row_groups
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side

FILE = "timeline.json"
MOST_RECORDS = 100_000
"""Of how many recorded events a trace may show the slices; some 10 MB."""

Trace = list[dict[str, Any]]
WORK, WAITING = "", "waiting"


@dataclass(frozen=True)
class Scene:
    """One replication to be shown. ``world`` names its processes; ``requests``: when each room's came, by arrival."""

    world: str
    records: Sequence[Record]
    scenario: Scenario
    requests: Mapping[int, float]


@dataclass(frozen=True)
class Timeline:
    """The trace events, and how many of the requests they show."""

    events: Trace
    shown: int
    requests: int

    @property
    def note(self) -> str:
        """A sentence if some requests are left out, else nothing."""
        if self.shown == self.requests:
            return ""
        return f"the timeline shows the first {self.shown} of {self.requests} requests, for the size of its file"


class _Slice(NamedTuple):
    rank_id: RankId
    lane: str
    begin_s: float
    end_s: float
    name: str
    arguments: dict[str, Any]


@dataclass
class _Drawing:
    """What one scene has to show, before it has tracks."""

    slices: list[_Slice] = field(default_factory=list)
    arrows: list[tuple[int, int]] = field(default_factory=list)
    """From one slice to another, by their places in ``slices``."""
    counters: list[tuple[RankId, float, int]] = field(default_factory=list)

    def add(self, rank_id: RankId, lane: str, begin_s: float, end_s: float, name: str, **arguments: Any) -> int:
        """Add a slice and return its place."""
        self.slices.append(_Slice(rank_id, lane, begin_s, end_s, name, arguments))
        return len(self.slices) - 1


def run_timeline(run: StoredRun, replication: int = 0, *, most_records: int = MOST_RECORDS) -> Timeline:
    """One replication of a stored run."""
    table = read_numbers(run.requests_path, ["replication", "arrival_s", "room"])
    rows = np.flatnonzero(table["replication"] == replication)
    rows = rows[np.lexsort((table["room"][rows], table["arrival_s"][rows]))]
    requests = dict(zip(table["room"][rows].tolist(), table["arrival_s"][rows].tolist(), strict=True))
    # Of a long run, what comes after the last event of the requests that are shown need not be read.
    counts, ends_s = _events_of_rooms(run, replication)
    count = _fitting(requests, counts, most_records)
    end_s = max((ends_s.get(room, 0.0) for room in list(requests)[:count]), default=0.0)
    records = in_order(
        record for number, record in run.records(replication) if number == replication and record.time_s <= end_s
    )
    return timeline([Scene("", records, run.config.scenario(), requests)], count=count)


def _events_of_rooms(run: StoredRun, replication: int) -> tuple[Counter[int], dict[int, float]]:
    """How many events every room of a replication has, and when the last one was."""
    counts: Counter[int] = Counter()
    ends_s: dict[int, float] = {}
    for columns in row_groups(run.events_path, ["replication", "room", "time_s"], replication=replication):
        chosen = columns.numbers["replication"] == replication
        rooms, places, events = np.unique(columns.numbers["room"][chosen], return_inverse=True, return_counts=True)
        last_s = np.zeros(len(rooms))
        np.maximum.at(last_s, places, columns.numbers["time_s"][chosen])
        for room, number, time_s in zip(rooms.tolist(), events.tolist(), last_s.tolist(), strict=True):
            counts[room] += number
            ends_s[room] = max(time_s, ends_s.get(room, 0.0))
    return counts, ends_s


def timeline(scenes: Sequence[Scene], *, most_records: int = MOST_RECORDS, count: int | None = None) -> Timeline:
    """Several replications of the same requests below each other, in the order given.

    All of them show the same requests: the first ``count``, or as many as ``most_records`` recorded events allow.
    """
    if count is None:
        each = [Counter(record.room for record in scene.records) for scene in scenes]
        most = most_records // max(len(scenes), 1)
        count = min((_fitting(scene.requests, of, most) for scene, of in zip(scenes, each, strict=True)), default=0)
    events: Trace = []
    processes = 0
    for scene in scenes:
        shown = set(list(scene.requests)[:count])
        events += _trace(scene, shown, processes, len(events))
        processes += scene.scenario.encode_instances + scene.scenario.language_instances
    return Timeline(events, count, len(scenes[0].requests) if scenes else 0)


def write_timeline(made: Timeline, path: Path) -> None:
    """Write the trace, one event a line; under another name first, so that none is ever half there."""
    with write_atomically(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms",\n"traceEvents": [\n')
        file.write(",\n".join(json.dumps(event, allow_nan=False) for event in made.events))
        file.write("\n]}\n")


def _fitting(requests: Collection[int], of_room: Mapping[int, int], most_records: int) -> int:
    """How many of the first requests have no more records than that together; at least one."""
    total = 0
    for count, room in enumerate(requests):
        total += of_room.get(room, 0)
        if total > most_records:
            return max(count, 1)
    return len(requests)


# --- what there is to show ---


def _draw(scene: Scene, shown: set[int]) -> _Drawing:
    drawing = _Drawing()
    records = [record for record in scene.records if record.room in shown]
    received = _draw_language(drawing, records)
    _draw_passes(drawing, records)
    # Threads and pools are shared with requests that are not shown.
    for write in writes_of(scene.records, scene.scenario.transfer_workers):
        if write.room in shown:
            _draw_write(drawing, write, received)
    last_s = max((record.time_s for record in records), default=0.0)
    drawing.counters = list(_holdings(scene, last_s))
    return drawing


def _draw_write(drawing: _Drawing, write: Write, received: Mapping[tuple[int, int, RankId], int]) -> None:
    if write.begun_s > write.asked_s:
        name = f"room {write.room} waits for the writing thread"
        drawing.add(write.rank_id, WAITING, write.asked_s, write.begun_s, name, room=write.room)
    place = drawing.add(
        write.rank_id, WORK, write.begun_s, write.done_s, f"write room {write.room} to {write.peer}",
        room=write.room, chunk=write.chunk, bytes=write.bytes,
    )  # fmt: skip
    follows = received.get((write.room, write.chunk, write.peer))
    if follows is not None:
        drawing.arrows.append((place, follows))


def _draw_passes(drawing: _Drawing, records: Iterable[Record]) -> None:
    """Encoder passes, and what came before them. Requests of one pass start together and are one slice."""
    since: dict[tuple[RankId, int], float] = {}
    started: dict[tuple[RankId, int], float] = {}
    passes: dict[tuple[RankId, float], tuple[float, list[int]]] = {}
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
            end_s, rooms = passes.get(begun, (record.time_s, []))
            passes[begun] = max(end_s, record.time_s), [*rooms, record.room]
    for (rank_id, begin_s), (end_s, rooms) in passes.items():
        name = f"encode room {rooms[0]}" if len(rooms) == 1 else f"encode {len(rooms)} rooms"
        drawing.add(rank_id, WORK, begin_s, end_s, name, rooms=rooms)


def _draw_language(drawing: _Drawing, records: Iterable[Record]) -> dict[tuple[int, int, RankId], int]:
    """Waiting and copies on the language side; the slice that follows each chunk, by (room, chunk, rank)."""
    follows: dict[tuple[int, int, RankId], int] = {}
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
            place = drawing.add(rank_id, WAITING, since.get(key, time_s), time_s, name, room=room)
        elif record.event is Event.CHUNK_RECEIVED:
            name = f"room {room} waits for chunk {chunks[key]}"
            drawing.add(rank_id, WAITING, since.get(key, time_s), time_s, name, room=room, tokens=record.tokens)
            chunks[key] += 1
        elif record.event is Event.DELIVERED:
            place = drawing.add(rank_id, WORK, since[key], time_s, f"copy room {room}", room=room, tokens=record.tokens)
        elif record.event is Event.FAILED:
            place = drawing.add(rank_id, WAITING, since.get(key, time_s), time_s, f"room {room} fails: {record.detail}")
        elif record.event not in (Event.SUBMITTED, Event.ANNOUNCED):
            continue
        if place is not None and chunks[key]:
            follows.setdefault((room, chunks[key] - 1, rank_id), place)
        since[key] = time_s
    return follows


def _holdings(scene: Scene, until_s: float) -> Iterator[tuple[RankId, float, int]]:
    """The blocks every rank holds whenever that changes."""
    layout = scene.scenario.layout
    rooms: dict[tuple[RankId, int], int] = {}
    held: dict[RankId, int] = dict.fromkeys((*scene.scenario.encode_ids(), *scene.scenario.language_ids()), 0)
    for rank_id in held:
        yield rank_id, 0.0, 0
    for record in scene.records:
        if record.time_s > until_s:
            return
        if record.event not in (Event.ALLOCATED, Event.ENCODE_STARTED, Event.RELEASED):
            continue
        key = record.rank_id, record.room
        now = 0 if record.event is Event.RELEASED else layout.blocks_for(record.tokens)
        held[record.rank_id] += now - rooms.get(key, 0)
        rooms[key] = now
        yield record.rank_id, record.time_s, held[record.rank_id]


# --- the format ---


def _trace(scene: Scene, shown: set[int], first_process: int, first_arrow: int) -> Trace:
    drawing = _draw(scene, shown)
    ranks = [*scene.scenario.encode_ids(), *scene.scenario.language_ids()]
    instances = list(dict.fromkeys((rank_id.side, rank_id.instance) for rank_id in ranks))
    pids = {instance: first_process + number for number, instance in enumerate(instances, 1)}
    events: Trace = []
    for (side, instance), pid in pids.items():
        name = f"{scene.world} {side.value}{instance}".strip()
        events.append(_about(pid, 0, "process_name", name=name))
        events.append(_about(pid, 0, "process_sort_index", sort_index=pid))
    tracks = _tracks(drawing.slices)
    numbers: dict[tuple[RankId, str, int], int] = {}
    for number, track in enumerate(sorted(set(tracks)), 1):
        numbers[track] = number
        rank_id, lane, slot = track
        pid = pids[rank_id.side, rank_id.instance]
        name = f"rank {rank_id.rank}{f' {lane}' if lane else ''}{f' ({slot + 1})' if slot else ''}"
        events.append(_about(pid, number, "thread_name", name=name))
        events.append(_about(pid, number, "thread_sort_index", sort_index=number))
    places = [
        {"pid": pids[track[0].side, track[0].instance], "tid": numbers[track]} for track in tracks
    ]  # fmt: skip
    for one, place in zip(drawing.slices, places, strict=True):
        begin, end = _microseconds(one.begin_s), _microseconds(one.end_s)
        kind = one.lane or "work"
        events.append(
            {"ph": "X", "name": one.name, "cat": kind, "ts": begin, "dur": round(end - begin, 3), **place,
             "args": one.arguments}
        )  # fmt: skip
    for number, (source, target) in enumerate(drawing.arrows, first_arrow):
        one, other = drawing.slices[source], drawing.slices[target]
        # An arrow belongs to the slice that is open at its time, and at its end a slice is not.
        middle = _microseconds((one.begin_s + one.end_s) / 2)
        flow = {"name": "status", "cat": "status", "id": number}
        events.append({"ph": "s", **flow, "ts": middle, **places[source]})
        events.append({"ph": "f", "bp": "e", **flow, "ts": _microseconds(other.begin_s), **places[target]})
    for rank_id, time_s, blocks in drawing.counters:
        pid = pids[rank_id.side, rank_id.instance]
        events.append(
            {"ph": "C", "name": f"rank {rank_id.rank} blocks held", "ts": _microseconds(time_s), "pid": pid, "tid": 0,
             "args": {"blocks": blocks}}
        )  # fmt: skip
    return events


def _tracks(slices: Sequence[_Slice]) -> list[tuple[RankId, str, int]]:
    """A track for every slice: the first of its rank's on which the last slice is over."""
    found: list[tuple[RankId, str, int]] = [(one.rank_id, one.lane, 0) for one in slices]
    order = sorted(range(len(slices)), key=lambda place: (found[place], slices[place].begin_s, slices[place].end_s))
    for (rank_id, lane, _), places in groupby(order, key=found.__getitem__):
        over: list[float] = []
        for place in places:
            begin, end = _microseconds(slices[place].begin_s), _microseconds(slices[place].end_s)
            slot = next((number for number, end_of_last in enumerate(over) if end_of_last <= begin), len(over))
            over[slot : slot + 1] = [end]
            found[place] = rank_id, lane, slot
    return found


def _about(pid: int, tid: int, what: str, **arguments: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": arguments}


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 3)
