"""Drawings as events of the trace-event format, which Perfetto and chrome://tracing read.

A process is an instance of a side, and one more has the requests; a track is a lane of a rank. Several scenes share the
processes, and each lane of one lies directly above the same lane of the next. (To give each scene processes of its own
would leave their order to Perfetto, which puts those with most slices first.) Slices on a track must not overlap, so
what overlaps goes to further tracks of the same lane. Times are microseconds from a run's start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from bufferlab.experiments.figures.timeline_drawing import REQUESTS, Drawing, Home, Scene, Slice
from bufferlab.protocol.topology import RankId, Side

Trace = list[dict[str, Any]]

Ordered = tuple[tuple[float, int, int], dict[str, Any]]
"""An event and where it stands: by its time, and among those of one time as ``_slices`` says."""


class Track(NamedTuple):
    """A lane of a rank in one of the scenes, and which of its tracks."""

    home: Home
    scene: int
    slot: int

    @property
    def place(self) -> tuple[Any, ...]:
        """Where it stands among the others; the run's own come first, and the same of each scene below each other."""
        rank_id, lane = self.home
        return (rank_id is not None, *(rank_id or ()), lane, self.slot, self.scene)


def trace(scenes: Sequence[Scene], drawings: Sequence[Drawing]) -> Trace:
    """The names of processes and tracks, and then all events by time."""
    pids = _processes(scenes)
    rows = _rows_of_requests(drawings)
    tracks = [_tracks(drawing.slices, number, rows) for number, drawing in enumerate(drawings)]
    ordered = sorted({track for some in tracks for track in some}, key=lambda track: track.place)
    tids = {track: number for number, track in enumerate(ordered, 1)}
    names: Trace = []
    for owner, pid in pids.items():
        names += _named("process", pid, 0, "all requests" if owner is None else f"{owner[0].value}{owner[1]}", pid)
    for track, tid in tids.items():
        names += _named("thread", pids[_owner(track.home.rank_id)], tid, _name(track, scenes[track.scene].world), tid)
    events: list[Ordered] = []
    arrows = 0
    for number, (scene, drawing) in enumerate(zip(scenes, drawings, strict=True)):
        places = [{"pid": pids[_owner(track.home.rank_id)], "tid": tids[track]} for track in tracks[number]]
        events += _slices(drawing, places)
        events += _arrows(drawing, places, arrows)
        events += _levels(drawing, pids, f" ({number + 1} {scene.world})" if len(scenes) > 1 else "")
        arrows += len(drawing.arrows)
    events.sort(key=lambda one: one[0])
    return names + [event for _, event in events]


def microseconds(seconds: float) -> float:
    """A time of the format."""
    return round(seconds * 1e6, 3)


Owner = tuple[Side, int] | None
"""Whose a process is: an instance of a side, or nobody's in particular."""


def _owner(rank_id: RankId | None) -> Owner:
    return None if rank_id is None else (rank_id.side, rank_id.instance)


def _processes(scenes: Sequence[Scene]) -> dict[Owner, int]:
    """A number for every process, in their order."""
    ranks = [rank_id for scene in scenes for rank_id in (*scene.scenario.encode_ids(), *scene.scenario.language_ids())]
    instances = sorted({(rank_id.side, rank_id.instance) for rank_id in ranks})
    return {owner: number for number, owner in enumerate((None, *instances), 1)}


def _name(track: Track, world: str) -> str:
    rank_id, lane = track.home
    words = [world, "" if rank_id is None else f"rank {rank_id.rank}", lane.name]
    return " ".join(word for word in (*words, f"({track.slot + 1})" if track.slot else "") if word)


def _slices(drawing: Drawing, places: Sequence[dict[str, int]]) -> Iterator[Ordered]:
    """An arrow belongs to the slice of its track that began last, so it follows its own; of slices that begin at one
    time those without a length come first, which are over when the next one begins."""
    for number, (one, place) in enumerate(zip(drawing.slices, places, strict=True)):
        begin, end = microseconds(one.begin_s), microseconds(one.end_s)
        yield (begin, _rank(one), number), {
            "ph": "X", "name": one.name, "cat": one.home.lane.name, "ts": begin, "dur": round(end - begin, 3), **place,
            "args": one.arguments,
        }  # fmt: skip


def _arrows(drawing: Drawing, places: Sequence[dict[str, int]], first: int) -> Iterator[Ordered]:
    for number, (kind, source, target) in enumerate(drawing.arrows, first):
        one, other = drawing.slices[source], drawing.slices[target]
        arrives = microseconds(other.begin_s)
        # An arrow belongs to the slice that is open at its time, and at its end a slice is not.
        leaves = min(microseconds((one.begin_s + one.end_s) / 2), arrives)
        flow = {"name": kind, "cat": kind, "id": number}
        yield (leaves, _rank(one), source), {"ph": "s", **flow, "ts": leaves, **places[source]}
        yield (arrives, _rank(other), target), {"ph": "f", "bp": "e", **flow, "ts": arrives, **places[target]}


def _rank(one: Slice) -> int:
    return 1 if microseconds(one.begin_s) == microseconds(one.end_s) else 2


def _levels(drawing: Drawing, pids: dict[Owner, int], of_scene: str) -> Iterator[Ordered]:
    for number, level in enumerate(drawing.levels):
        yield (microseconds(level.time_s), 0, number), {
            "ph": "C", "name": f"{level.name}{of_scene}", "ts": microseconds(level.time_s),
            "pid": pids[_owner(level.rank_id)], "tid": 0, "args": {level.unit: level.value},
        }  # fmt: skip


def _rows_of_requests(drawings: Sequence[Drawing]) -> dict[int, int]:
    """The track of every room's request: the first that is free in all scenes, so that in each it is the same one."""
    times: dict[int, dict[int, tuple[float, float]]] = {}
    for scene, drawing in enumerate(drawings):
        for one in drawing.slices:
            if one.home.lane == REQUESTS:
                times.setdefault(one.arguments["room"], {})[scene] = microseconds(one.begin_s), microseconds(one.end_s)
    rows: dict[int, int] = {}
    over: list[dict[int, float]] = []
    for room, each in sorted(times.items(), key=lambda item: (min(begin for begin, _ in item[1].values()), item[0])):
        fits = (
            number for number, last in enumerate(over)
            if all(last.get(scene, 0.0) <= begin for scene, (begin, _) in each.items())
        )  # fmt: skip
        row = next(fits, len(over))
        over[row:row] = [{}] * (row == len(over))
        over[row] = over[row] | {scene: end for scene, (_, end) in each.items()}
        rows[room] = row
    return rows


def _tracks(slices: Sequence[Slice], scene: int, rows: Mapping[int, int]) -> list[Track]:
    """A track for every slice: the first of its lane's on which the last one is over; of a request that in ``rows``."""
    found = [Track(one.home, scene, 0) for one in slices]
    order = sorted(
        range(len(slices)), key=lambda place: (found[place].place, slices[place].begin_s, slices[place].end_s)
    )
    for home, places in groupby(order, key=lambda place: slices[place].home):
        if home.lane == REQUESTS:
            for place in places:
                found[place] = Track(home, scene, rows[slices[place].arguments["room"]])
            continue
        over: list[float] = []
        for place in places:
            begin, end = microseconds(slices[place].begin_s), microseconds(slices[place].end_s)
            slot = next((number for number, end_of_last in enumerate(over) if end_of_last <= begin), len(over))
            over[slot : slot + 1] = [end]
            found[place] = Track(home, scene, slot)
    return found


def _named(what: str, pid: int, tid: int, name: str, place: int) -> Trace:
    about = {"ph": "M", "pid": pid, "tid": tid}
    return [
        {**about, "name": f"{what}_name", "args": {"name": name}},
        {**about, "name": f"{what}_sort_index", "args": {"sort_index": place}},
    ]
