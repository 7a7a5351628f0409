"""timeline.json: runs as a trace that Perfetto and chrome://tracing open, several below each other on one time axis.

What is to be seen is ``timeline_drawing``'s business and how it is written ``timeline_format``'s; here is of which runs
and of how many of their requests. Beside the trace the file holds what it shows (``otherData``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.pages import check_place
from bufferlab.experiments.figures.timeline_drawing import Scene, draw
from bufferlab.experiments.figures.timeline_format import Trace, trace
from bufferlab.experiments.files import write_atomically
from bufferlab.experiments.runs.environment import package_version
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.spans import in_order
from bufferlab.experiments.runs.tables import read_numbers, row_groups

FILE = "timeline.json"
HOW_TO_OPEN = "drag the file onto https://ui.perfetto.dev, which reads it in the browser and uploads nothing"
MOST_RECORDS = 100_000
"""Of how many recorded events a trace may show the slices; some 20 to 30 MB."""

LEGEND = {
    "processes": "the run itself and each instance of either side; a rank's tracks are what it does and waits for",
    "requests": "each from its arrival to its first token (without a prefill: to its delivery)",
    "encoder, prefill": "forward passes, with the rooms and tokens in each",
    "offers held": "language-side memory that is set aside while there is nothing to write into it yet",
    "writer": "a transfer worker: one write after another",
    "copies": "gather copies out of the language side's blocks",
    "waiting": "for the encoder, a writing thread, blocks, a chunk, or the prefill",
    "arrows": "offer and resume: blocks granted to an offer at the other side; write: an offer to its write; ack: a "
    "write to what its status let the language side go on with",
    "pool": "how many of a rank's blocks are held",
    "queue for blocks": "rooms that wait for their first blocks or to resume",
    "adapter, writes": "writes under way from or to a rank, and the sum of their mean rates",
}

_HEAD = '{"displayTimeUnit": "ms",\n"otherData":'


@dataclass(frozen=True)
class Timeline:
    """The trace events, how many of the requests they show, and what the file tells of them."""

    events: Trace
    shown: int
    requests: int
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """A sentence if some requests are left out, else nothing."""
        if self.shown == self.requests:
            return ""
        return f"the timeline shows the first {self.shown} of {self.requests} requests, for the size of its file"


def run_timeline(run: StoredRun, replication: int = 0, *, most_records: int = MOST_RECORDS) -> Timeline:
    """One replication of a stored run."""
    return _of_runs({"": run}, replication, most_records)


def runs_timeline(runs: Sequence[StoredRun], replication: int = 0, *, most_records: int = MOST_RECORDS) -> Timeline:
    """One replication of several stored runs on one time axis, simulated ones above measured ones.

    They have the names of their kinds, or of their folders where two are of one kind.
    """
    ordered = sorted(runs, key=lambda run: run.kind != "sim")
    kinds = [_KINDS.get(run.kind, run.kind) for run in ordered]
    folders = [run.path.resolve().name for run in ordered]
    names = kinds if len(set(kinds)) == len(kinds) else folders if len(set(folders)) == len(folders) else None
    named = [str(run.path) for run in ordered] if names is None else names
    return _of_runs(dict(zip(named, ordered, strict=True)), replication, most_records)


def config_about(config: Config, kind: str, transport: str | None, **more: Any) -> dict[str, Any]:
    """What a trace tells of a run with this configuration (``Scene.about``)."""
    return {
        "name": config.run.name, "kind": _KINDS.get(kind, kind), "transport": transport, **more,
        "bufferlab": package_version("bufferlab"), "fingerprint": config.digest(), "config": config.tree(),
    }  # fmt: skip


_KINDS = {"sim": "simulated", "real": "measured"}


def _of_runs(runs: Mapping[str, StoredRun], replication: int, most_records: int) -> Timeline:
    arrivals = {world: _requests(run, replication) for world, run in runs.items()}
    events = {world: _events_of_rooms(run, replication) for world, run in runs.items()}
    most = most_records // max(len(runs), 1)
    count = min(_fitting(requests, events[world][0], most) for world, requests in arrivals.items())
    scenes = []
    for world, run in runs.items():
        # Of a long run, what comes after the last event of the requests that are shown need not be read.
        end_s = max((events[world][1].get(room, 0.0) for room in list(arrivals[world])[:count]), default=0.0)
        records = in_order(
            record for number, record in run.records(replication) if number == replication and record.time_s <= end_s
        )
        about = config_about(run.config, run.kind, run.transport, replication=replication, versions=run.versions)
        scenes.append(Scene(world, records, run.config.scenario(), arrivals[world], about))
    return timeline(scenes, count=count)


def _requests(run: StoredRun, replication: int) -> dict[int, float]:
    """When every room's request came, by arrival."""
    table = read_numbers(run.requests_path, ["replication", "arrival_s", "room"])
    rows = np.flatnonzero(table["replication"] == replication)
    rows = rows[np.lexsort((table["room"][rows], table["arrival_s"][rows]))]
    return dict(zip(table["room"][rows].tolist(), table["arrival_s"][rows].tolist(), strict=True))


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
    """Several replications on one time axis: every track of one above the same of the next, in the order given.

    All of them show their first ``count`` requests, or as many as ``most_records`` recorded events allow.
    """
    if count is None:
        each = [Counter(record.room for record in scene.records) for scene in scenes]
        most = most_records // max(len(scenes), 1)
        count = min((_fitting(scene.requests, of, most) for scene, of in zip(scenes, each, strict=True)), default=0)
    drawings = [draw(scene, set(list(scene.requests)[:count])) for scene in scenes]
    requests = len(scenes[0].requests) if scenes else 0
    about = {
        "runs": [{"shown_as": scene.world, **scene.about} if scene.world else dict(scene.about) for scene in scenes],
        "requests_shown": count, "requests": requests, "time_unit": "microseconds from the start of a run",
        "legend": LEGEND, "open_with": HOW_TO_OPEN,
    }  # fmt: skip
    return Timeline(trace(scenes, drawings), count, requests, about)


def write_timeline(made: Timeline, path: Path) -> None:
    """Write the trace, one event a line; under another name first, so that none is ever half there."""
    with write_atomically(path) as partial, partial.open("w", encoding="utf-8") as file:
        about = json.dumps(made.about, ensure_ascii=False, allow_nan=False)
        file.write(f'{_HEAD} {about},\n"traceEvents": [\n')
        file.write(",\n".join(json.dumps(event, ensure_ascii=False, allow_nan=False) for event in made.events))
        file.write("\n]}\n")


def check_timeline(path: Path, option: str) -> None:
    """Raise UserError, which names ``option``, where no timeline may be written; only a timeline is ever replaced."""
    if path.suffix != ".json":
        raise UserError(f"{option} is {str(path)!r}, it must be the name of a .json file")
    check_place(path, option)
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.read(len(_HEAD)) != _HEAD:
                raise UserError(
                    f"{option} is {str(path)!r}, which holds something else than a timeline; give a new file"
                )


def _fitting(requests: Collection[int], of_room: Mapping[int, int], most_records: int) -> int:
    """How many of the first requests have no more records than that together; at least one."""
    total = 0
    for count, room in enumerate(requests):
        total += of_room.get(room, 0)
        if total > most_records:
            return max(count, 1)
    return len(requests)
