"""What the events of a run directory say about single writes, messages, copies and iterations.

Everything is a time between two recorded events, of one rank or of two whose clocks are one (ranks of one host, or as
the launcher aligned them):

* a *write*: from WRITE_STARTED, or from the last WRITE_DONE of the same writing thread if that came later, to
  WRITE_DONE;
* a *control message*: from OFFERED or RESUMED on a language rank to OFFER_RECEIVED on the encode rank;
* a *copy*: from the last CHUNK_RECEIVED to DELIVERED on one language rank; a *cold* one where that rank had done
  nothing for ``SOUND_SLEEP_S`` before;
* a *submission*: from its arrival to SUBMITTED on the last of its ranks;
* a *wake-up*: from ENCODE_STARTED to ENCODED, less the pass, where a pass is one request's; a *sound* sleep's where
  the pass left the rank's thread nothing to do for ``SOUND_SLEEP_S``;
* a *nap*: from OFFERS_COMPLETE to ENCODE_STARTED, less half a period of the encode loop, for a request that is alone,
  where the period is shorter than ``SOUND_SLEEP_S``: requests come at any time of it;
* a *iteration* of the encode loop: from OFFERS_COMPLETE to ENCODE_STARTED; of the language loop: from the last
  CHUNK_DONE to CHUNK_RECEIVED, less a control message. Both only for a request that is alone, and where the loop's
  period is 0;
* a *request*: from its arrival to its delivery, less its pass, chunks, copies and control messages, under the same
  conditions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

from bufferlab.experiments.calibration.input.segments import Pools
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

Worker = tuple[RankId, int]

WELL_OVER = 1.5
"""How many times as long as the writing of its output a pass must last to be over after it, whatever else goes on."""


SOUND_SLEEP_S = 3e-3
"""A thread that has slept so long wakes up late and cold. Loops that iterate like decode steps sleep 10 ms and more,
those of a millisecond hardly."""


class Write(NamedTuple):
    """One write that landed. ``first``: whether it made contact between its two ranks."""

    bytes: int
    segments: int
    seconds: float
    first: bool


class Alone(NamedTuple):
    """A request that had the system to itself. Seconds; ``messages``: control messages one after another in it.

    ``rest_s``: its latency less its pass, its chunks and its copies, control messages included.
    """

    messages: int
    rest_s: float


@dataclass
class Observed:
    """What was seen in run directories. ``unused`` counts what was not used, by reason."""

    runs: list[str] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    writes: list[Write] = field(default_factory=list)
    control_s: list[float] = field(default_factory=list)
    copies: list[tuple[int, float]] = field(default_factory=list)
    cold_copies: list[tuple[int, float]] = field(default_factory=list)
    submits_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    short_late_s: list[float] = field(default_factory=list)
    """After sleeps that were not sound."""
    naps_s: list[float] = field(default_factory=list)
    encode_iterations_s: list[float] = field(default_factory=list)
    language_iterations_s: list[float] = field(default_factory=list)
    requests: list[Alone] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)


def observe(run: StoredRun, seen: Observed) -> None:
    """Add what a run shows to ``seen``. Raises UserError for a run that was disturbed on purpose."""
    config = run.config
    drawn = config.random_faults.model_dump()
    quiet = type(config.random_faults)().model_dump()
    if config.incidents or config.faults or drawn != quiet:
        raise UserError(f"RUN is {str(run.path)!r}, which has faults or incidents; only undisturbed runs can be used")
    # Rounds of a series are folders of numbers in one that says what they are.
    seen.runs.append("/".join(run.path.parts[-2:]) if run.path.name.isdigit() else run.path.name)
    seen.kinds.add(run.kind)
    table = run.requests("replication", "room", "arrival_s", "total_tokens", "released_s", "status")
    for number, pairs in groupby(run.records(), key=itemgetter(0)):
        rows = table[table["replication"] == number]
        lengths = {int(room): int(total) for room, total in zip(rows["room"], rows["total_tokens"], strict=True)}
        spans = {
            int(room): (float(begin), float(end))
            for room, begin, end, status in zip(
                rows["room"], rows["arrival_s"], rows["released_s"], rows["status"], strict=True
            )
            if status == Status.Success.name
        }
        records = sorted((record for _, record in pairs), key=attrgetter("time_s"))
        _writes(config, lengths, records, seen)
        _messages(records, seen)
        _copies(records, seen)
        _submits(records, {room: begin_s for room, (begin_s, _) in spans.items()}, seen)
        _passes(config, _asked(run, number), records, lengths, fill_s_per_byte(run, number), seen)
        _loops(config, records, _alone(spans, lengths), seen)


def _alone(spans: dict[int, tuple[float, float]], rooms: Iterable[int]) -> dict[int, float]:
    """Arrival times of the requests during whose life there was no other; none if one has no known end."""
    if len(spans) < len(set(rooms)):
        return {}
    found = {}
    latest_s = float("-inf")
    ordered = sorted(spans.items(), key=lambda item: item[1])
    for place, (room, (begin_s, end_s)) in enumerate(ordered):
        following_s = ordered[place + 1][1][0] if place + 1 < len(ordered) else float("inf")
        if latest_s <= begin_s and end_s <= following_s:
            found[room] = begin_s
        latest_s = max(latest_s, end_s)
    return found


def _peer(record: Record) -> RankId:
    """The language rank that a record of a destination domain names first."""
    side, _, numbers = record.detail.split(" ", 1)[0].partition(Side.LANGUAGE.value)
    instance, _, rank = numbers.partition(".")
    if side or not (instance.isdigit() and rank.isdigit()):
        raise UserError(f"an event {record.event.value} of {record.rank_id} names {record.detail!r}, no language rank")
    return RankId(Side.LANGUAGE, int(instance), int(rank))


def _writes(config: Config, lengths: dict[int, int], records: list[Record], seen: Observed) -> None:
    scenario = config.scenario()
    pools = Pools(
        scenario.layout, scenario.discipline, encode_blocks=scenario.encode_blocks,
        language_blocks=scenario.language_blocks, lengths=lengths, resume_tokens=scenario.resume_tokens,
    )  # fmt: skip
    begun: dict[tuple[RankId, int, RankId], Record] = {}
    free_s: dict[Worker, float] = {}
    met: set[tuple[RankId, RankId]] = set()
    done: list[tuple[float, float, Worker, Write | None]] = []
    for record in records:
        pools.take(record)
        if record.event is Event.WRITE_STARTED:
            begun[record.rank_id, record.room, _peer(record)] = record
        elif record.event is Event.WRITE_DONE:
            peer = _peer(record)
            start = begun.pop((record.rank_id, record.room, peer))
            worker = (record.rank_id, peer.instance % scenario.transfer_workers)
            begin_s = max(start.time_s, free_s.get(worker, 0.0))
            free_s[worker] = record.time_s
            first = (record.rank_id, peer) not in met
            met.add((record.rank_id, peer))
            segments = pools.segments(record, peer, start.tokens) if record.bytes else None
            write = None
            if segments is None:
                seen.unused["writes that failed, or whose number of segments is not known"] += 1
            else:
                write = Write(record.bytes, segments, record.time_s - begin_s, first)
            done.append((begin_s, record.time_s, worker, write))
    side_by_side = _side_by_side(done)
    for place, (*_, write) in enumerate(done):
        if write is not None and place in side_by_side:
            seen.unused["writes that another thread's overlapped"] += 1
        elif write is not None:
            seen.writes.append(write)


def _side_by_side(done: list[tuple[float, float, Worker, Write | None]]) -> set[int]:
    """Places of the writes during which another thread wrote as well."""
    found: set[int] = set()
    open_: list[int] = []
    for place in sorted(range(len(done)), key=lambda one: done[one][0]):
        begin_s, _, worker, _ = done[place]
        open_ = [one for one in open_ if done[one][1] > begin_s]
        for other in open_:
            if done[other][2] != worker:
                found.update((place, other))
        open_.append(place)
    return found


def _messages(records: list[Record], seen: Observed) -> None:
    sent: dict[tuple[int, RankId], list[float]] = {}
    taken: Counter[tuple[int, RankId]] = Counter()
    submitted: dict[tuple[int, RankId], float] = {}
    for record in records:
        if record.event is Event.SUBMITTED:
            submitted[record.room, record.rank_id] = record.time_s
        elif record.event in (Event.OFFERED, Event.RESUMED):
            sent.setdefault((record.room, record.rank_id), []).append(record.time_s)
        elif record.event is Event.OFFER_RECEIVED:
            key = (record.room, _peer(record))
            offers = sent.get(key, [])
            if taken[key] < len(offers):
                sent_s = offers[taken[key]]
                if sent_s >= submitted[record.room, record.rank_id]:
                    seen.control_s.append(record.time_s - sent_s)
                else:
                    seen.unused["offers that came before their request"] += 1
            taken[key] += 1


def _copies(records: list[Record], seen: Observed) -> None:
    received: dict[tuple[int, RankId], tuple[Record, bool]] = {}
    written_s: dict[int, float] = {}
    busy_s: dict[RankId, float] = {}
    for record in records:
        if record.event is Event.CHUNK_DONE:
            written_s[record.room] = record.time_s
        elif record.event is Event.CHUNK_RECEIVED:
            since_s = max(written_s.get(record.room, -SOUND_SLEEP_S), busy_s.get(record.rank_id, -SOUND_SLEEP_S))
            received[record.room, record.rank_id] = record, record.time_s - since_s >= SOUND_SLEEP_S
        elif record.event is Event.DELIVERED:
            last, cold = received[record.room, record.rank_id]
            (seen.cold_copies if cold else seen.copies).append((last.bytes, record.time_s - last.time_s))
        busy_s[record.rank_id] = record.time_s


def _submits(records: list[Record], arrivals_s: dict[int, float], seen: Observed) -> None:
    """How late requests reach their ranks, of those that came when every earlier one had reached its own.

    The others wait for what held up an earlier one: when a host stands still for a tenth of a second, that is one
    delay, and not one for every request that came meanwhile.
    """
    last: dict[int, float] = {}
    for record in records:
        if record.event is Event.SUBMITTED:
            last[record.room] = record.time_s
    free_s = -math.inf
    for room, arrival_s in sorted(arrivals_s.items(), key=lambda one: one[1]):
        if room not in last:
            continue
        if arrival_s >= free_s:
            seen.submits_s.append(last[room] - arrival_s)
        free_s = max(free_s, last[room])


def fill_s_per_byte(run: StoredRun, replication: int) -> float:
    """How long a byte of test content keeps an encode rank's thread busy, if its usage says so, else 0."""
    usages = run.usage[replication].values() if replication < len(run.usage) else ()
    bytes_ = sum(one["fill_bytes"] for one in usages)
    return float(sum(one["fill_cpu_s"] for one in usages) / bytes_) if bytes_ else 0.0


def _asked(run: StoredRun, replication: int) -> Iterable[Request]:
    """The requests of a replication."""
    from bufferlab.experiments.workloads.requests import make_requests

    return make_requests(run.config, replication, repeated=run.kind == "real")


def _passes(
    config: Config,
    requests: Iterable[Request],
    records: list[Record],
    lengths: dict[int, int],
    fill_s_per_byte: float,
    seen: Observed,
) -> None:
    """How late the end of an encoder pass was noticed, where the pass was one request's.

    Of a pass that is over before the rank's thread has written its output nothing is learnt.
    """
    scenario = config.scenario()
    if scenario.encode_batch != 1:
        seen.unused["runs whose encoder passes may have several requests, for how late they were noticed"] += 1
        return
    planned_s = {
        request.room: scenario.services.encode_base_s + scenario.services.encode_s(request) for request in requests
    }
    begun: dict[tuple[int, RankId], float] = {}
    for record in records:
        if record.event is Event.ENCODE_STARTED:
            begun[record.room, record.rank_id] = record.time_s
        elif record.event is Event.ENCODED:
            began_s, pass_s = begun[record.room, record.rank_id], planned_s[record.room]
            fill_s = fill_s_per_byte * lengths[record.room] * scenario.layout.bytes_per_token
            if pass_s < WELL_OVER * fill_s:
                seen.unused["passes that their own output may outlast, for how late they were noticed"] += 1
            else:
                found = seen.late_s if pass_s - fill_s >= SOUND_SLEEP_S else seen.short_late_s
                found.append(record.time_s - began_s - pass_s)


def _loops(config: Config, records: list[Record], alone: dict[int, float], seen: Observed) -> None:
    services = config.scenario().services
    if 0 < services.encode_poll_interval_s < SOUND_SLEEP_S and not services.preprocess_per_token_s:
        _naps(records, alone, services.encode_poll_interval_s, seen)
    if services.encode_poll_interval_s or services.language_poll_interval_s:
        seen.unused["runs whose poll_interval_s is not 0, for iterations and requests"] += 1
        return
    if services.preprocess_per_token_s:
        seen.unused["runs that prepare images, for iterations and requests"] += 1
        return
    by_room: dict[int, list[Record]] = {}
    for record in records:
        if record.room in alone:
            by_room.setdefault(record.room, []).append(record)
    for room, arrival_s in alone.items():
        _alone_room(by_room[room], arrival_s, seen)


def _naps(records: list[Record], alone: dict[int, float], period_s: float, seen: Observed) -> None:
    complete_s: dict[tuple[int, RankId], float] = {}
    for record in records:
        key = record.room, record.rank_id
        if record.event is Event.OFFERS_COMPLETE and record.room in alone:
            complete_s.setdefault(key, record.time_s)
        elif record.event is Event.ENCODE_STARTED and key in complete_s:
            seen.naps_s.append(record.time_s - complete_s[key] - period_s / 2)


def _alone_room(records: list[Record], arrival_s: float, seen: Observed) -> None:
    """A request that met nobody, step by step; where several ranks take a step, the last of them counts."""
    last: dict[Event, float] = {}
    spent_s = 0.0
    messages = 0
    for record in records:
        event, time_s = record.event, record.time_s
        begins = event not in last
        if event is Event.ENCODE_STARTED and begins:
            seen.encode_iterations_s.append(time_s - last.get(Event.OFFERS_COMPLETE, time_s))
        elif event is Event.CHUNK_RECEIVED and last.get(Event.CHUNK_DONE, -1.0) > last.get(event, -1.0):
            seen.language_iterations_s.append(time_s - last[Event.CHUNK_DONE])
            spent_s += last[Event.CHUNK_DONE] - last[Event.CHUNK_STARTED]
            messages += 2
        elif event is Event.ENCODED and begins:
            spent_s += time_s - last[Event.ENCODE_STARTED]
        elif event in (Event.RESUMED, Event.DELIVERED) and last[Event.CHUNK_RECEIVED] > last.get(event, -1.0):
            spent_s += time_s - last[Event.CHUNK_RECEIVED]
        last[event] = time_s
    seen.requests.append(Alone(messages, last[Event.DELIVERED] - arrival_s - spent_s))
