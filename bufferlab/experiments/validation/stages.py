"""Where the time of a request goes, stage by stage, and which stage the prediction misses.

Every stage lies between two recorded events; where several ranks record one, the last of them counts, since the group
goes on together. A stage begins where the one before it ends, so the stages of a request add up to its latency. What
is hidden behind something else that takes longer takes no time: an offer that is there before the request's images are
prepared, say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from bufferlab.experiments.runs.spans import writes_of
from bufferlab.experiments.stats.intervals import Samples, mean, quantile
from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event, Record

STAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "submit": ("arrival_s", "last submitted, either side: the router, and preparing images"),
        "announce": ("submitted", "last announced (only where the length is told first)"),
        "allocate": ("submitted, or announced", "last offered: language-side blocks and loop iteration"),
        "offer": ("offered, or resumed", "last offers_complete on the encode side: control message"),
        "source": ("offers_complete, or submitted", "last encode_started: source blocks and encode loop iteration"),
        "encode": (
            "encode_started, or offers_complete",
            "last encoded: the pass, or what the offer does not hide of it",
        ),
        "thread": ("encoded, or offers_complete", "the writing thread has ended its other writes (last write_done)"),
        "write": ("write begun by its thread", "last write_done of the chunk"),
        "acknowledge": ("write_done", "last chunk_received: control message and language loop iteration"),
        "resume": ("chunk_received, not the last", "last resumed: copy, and language-side blocks"),
        "copy": ("chunk_received, the last", "last delivered: gather copy"),
    }
)
"""Every stage with what it lies between, in the order of a request's life."""

_BEFORE = {True: ("submit", "source", "announce", "allocate", "offer", "encode"),
           False: ("submit", "allocate", "offer", "source", "encode")}  # fmt: skip
_EVENTS = {
    Event.SUBMITTED: "submit",
    Event.ANNOUNCED: "announce",
    Event.OFFERED: "allocate",
    Event.OFFERS_COMPLETE: "offer",
    Event.ENCODE_STARTED: "source",
    Event.ENCODED: "encode",
    Event.CHUNK_RECEIVED: "acknowledge",
    Event.RESUMED: "resume",
    Event.DELIVERED: "copy",
}
"""The event that ends a stage; a thread's and a write's end are those of its writes."""

Ends = dict[tuple[str, int], float]
"""When a stage ended for the nth time, on its last rank."""


@dataclass(frozen=True)
class StageScore:
    """One stage over all requests, seconds. ``difference_s``: predicted − measured, of the means.

    ``share``: the part that this difference has in the absolute differences of all stages; None if all are 0.
    """

    name: str
    measured: Mapping[str, float]
    predicted: Mapping[str, float]
    difference_s: float
    share: float | None


def stage_scores(sides: Sequence[tuple[Samples, Samples]]) -> tuple[StageScore, ...]:
    """The stages of all requests in ``sides``: tables as of ``stage_table``, measured and predicted, of every repeat.

    Raises ValueError if there are none.
    """
    measured, predicted = (np.concatenate(tables) for tables in zip(*sides, strict=True))
    if not len(measured):
        raise ValueError("no request was delivered on both sides")
    differences = [mean(other) - mean(own) for own, other in zip(measured.T, predicted.T, strict=True)]
    whole = sum(map(abs, differences))
    return tuple(
        StageScore(stage, _described(own), _described(other), difference, abs(difference) / whole if whole else None)
        for stage, own, other, difference in zip(STAGES, measured.T, predicted.T, differences, strict=True)
    )


def stage_table(
    records: Sequence[Record], scenario: Scenario, arrivals_s: Mapping[int, float], rooms: Sequence[int]
) -> Samples:
    """Seconds that requests spent in each stage: a row for each of ``rooms``, which were delivered, a column a stage.

    ``records`` in order of time. A row adds up to the request's latency.
    """
    announces = make_discipline(scenario.discipline).announces_length
    ends = _ends(records, scenario)
    columns = {stage: place for place, stage in enumerate(STAGES)}
    spent = np.zeros((len(rooms), len(STAGES)))
    for row, room in zip(spent, rooms, strict=True):
        now_s = arrivals_s[room]
        for stage, number in _way(ends[room], announces):
            end_s = max(now_s, ends[room].get((stage, number), now_s))
            row[columns[stage]] += end_s - now_s
            now_s = end_s
    return spent


def _way(ends: Ends, announces: bool) -> list[tuple[str, int]]:
    """The stages that a request went through, in order, with how often it had been in each."""
    way = [(stage, 0) for stage in _BEFORE[announces]]
    chunk = 0
    while ("acknowledge", chunk) in ends:
        if chunk:
            way += [("resume", chunk - 1), ("offer", chunk)]
        way += [("thread", chunk), ("write", chunk), ("acknowledge", chunk)]
        chunk += 1
    return [*way, ("copy", 0)]


def _ends(records: Sequence[Record], scenario: Scenario) -> dict[int, Ends]:
    found: dict[int, Ends] = defaultdict(dict)
    times: dict[tuple[object, int, Event], int] = defaultdict(int)

    def note(room: int, stage: str, number: int, time_s: float) -> None:
        ends = found[room]
        ends[stage, number] = max(ends.get((stage, number), time_s), time_s)

    for record in records:
        stage = _EVENTS.get(record.event)
        if stage is None:
            continue
        key = (record.rank_id, record.room, record.event)
        note(record.room, stage, times[key], record.time_s)
        times[key] += 1
    begun: dict[tuple[object, int, int], float] = {}
    for write in writes_of(records, scenario.transfer_workers):
        note(write.room, "write", write.chunk, write.done_s)
        # A chunk's writes to several ranks follow each other: what counts is when the first of them begins.
        first = begun.setdefault((write.rank_id, write.room, write.chunk), write.begun_s)
        note(write.room, "thread", write.chunk, first)
    return found


def _described(values: Samples) -> dict[str, float]:
    return {"mean": mean(values), "p50": quantile(0.5)(values), "p99": quantile(0.99)(values)}
