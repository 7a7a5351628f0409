"""Runs that are watched from beginning to end: for tests, notebooks and small studies.

The invariants of single records are ``protocol.observe.monitor``; what a whole run owes is here, since only a simulated
run has an outcome to hold against its records. ``Book`` keeps the accounts that this takes: who went into which station
and came out again, and which bytes were written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from protocol.chunks import Chunk
from protocol.emulation.scenario import Request, Scenario
from protocol.observe.monitor import InvariantMonitor
from protocol.observe.runlog import RequestRow, RunLog
from protocol.recording import Event, Record
from protocol.status import FINAL, Status
from protocol.topology import RankId, Side
from sim.network.link import LinkProfile
from sim.run import SimulationOutcome, simulate

ROUNDING = 1e-9
"""Two sums of the same times in another order differ by a few parts in 1e16 for each summand."""


class InvariantError(Exception):
    """A run broke an invariant."""


# --- accounts ------------------------------------------------------------------------------------------------------


class Station(NamedTuple):
    """A part of a room's way on one rank: entered at an event, left at another one, or when the rank releases it.

    ``by_peer``: a room is in it once for every destination.
    """

    name: str
    side: Side
    enter: Event
    leave: Event
    by_peer: bool = False


STATIONS = (
    Station("encode rank", Side.ENCODE, Event.SUBMITTED, Event.RELEASED),
    Station("before the encoder", Side.ENCODE, Event.SUBMITTED, Event.ENCODE_STARTED),
    Station("encoder", Side.ENCODE, Event.ENCODE_STARTED, Event.ENCODED),
    Station("transfer", Side.ENCODE, Event.WRITE_STARTED, Event.WRITE_DONE, by_peer=True),
    Station("language rank", Side.LANGUAGE, Event.SUBMITTED, Event.RELEASED),
    Station("before the first offer", Side.LANGUAGE, Event.SUBMITTED, Event.OFFERED),
)
"""On every rank. A room goes through each at most once, except through "transfer": once per chunk and destination."""


class StationFlow(msgspec.Struct):
    """What went through a station, over all ranks of its side.

    ``number_s``: integral over time of the number inside, which counts heads and asks nobody's name. ``sojourn_s``: sum
    of the times that each spent inside by name, until the end of the run for those who are still there. Little's law on
    a finite run says that the two are equal (Little, Operations Research 9(3), 1961; Stidham, ibid. 22(2), 1974).
    """

    entered: int = 0
    left: int = 0
    inside: int = 0
    number_s: float = 0.0
    sojourn_s: float = 0.0
    now_s: float = 0.0

    def advance(self, time_s: float) -> None:
        """Integrate the number inside up to ``time_s``."""
        self.number_s += self.inside * (time_s - self.now_s)
        self.now_s = time_s


_Customer = tuple[RankId, int, str]
"""Rank, room, and the peer where that counts."""


class Book:
    """A Recorder that keeps the accounts of a run. One small entry for whatever is inside somewhere.

    ``expect`` must be called for a request before its first record.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._layout = scenario.layout
        self._destinations = scenario.language_tp
        self._arrivals_s: dict[int, float] = {}
        self.bytes_expected = 0
        self.stations = {station.name: StationFlow() for station in STATIONS}
        self._inside: dict[str, dict[_Customer, float]] = {station.name: {} for station in STATIONS}
        self._enters: dict[tuple[Side, Event], list[Station]] = {}
        self._leaves: dict[tuple[Side, Event], list[Station]] = {}
        self._by_side: dict[Side, list[Station]] = {side: [] for side in Side}
        for station in STATIONS:
            self._enters.setdefault((station.side, station.enter), []).append(station)
            self._leaves.setdefault((station.side, station.leave), []).append(station)
            self._by_side[station.side].append(station)
        self._holds: dict[tuple[RankId, int], tuple[int, float]] = {}
        self.held_block_s = dict.fromkeys(Side, 0.0)
        self.bytes_started = 0
        self.bytes_done = 0
        self._writing: dict[_Customer, int] = {}
        self._chunk_bytes: dict[tuple[RankId, int], int] = {}
        self.last_s = 0.0
        self.violations: list[str] = []

    def expect(self, request: Request) -> None:
        """Announce a request."""
        self._arrivals_s[request.room] = request.arrival_s
        self.bytes_expected += self._destinations * self._layout.chunk_bytes(Chunk(0, request.total_tokens, True))

    def announced(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The same requests; each is expected from when it is asked for."""
        for request in requests:
            self.expect(request)
            yield request

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
        self.last_s = time_s
        side = rank_id.side
        peer = detail.split(" ", 1)[0]
        for station in self._leaves.get((side, event), ()):
            self._leave(station, time_s, (rank_id, room, peer if station.by_peer else ""))
        if event is Event.RELEASED:
            self._leave_all(time_s, rank_id, room)
        for station in self._enters.get((side, event), ()):
            self._enter(station, time_s, (rank_id, room, peer if station.by_peer else ""))
        if side is Side.ENCODE:
            self._write(rank_id, room, event, bytes_, peer)
        if event is Event.SUBMITTED:
            arrival_s = self._arrivals_s.get(room, math.inf)
            if time_s < arrival_s:
                self.violations.append(f"room {room} was on {rank_id} at {time_s!r}, before it came at {arrival_s!r}")
        elif event is Event.ENCODE_STARTED or event is Event.ALLOCATED:
            self._hold(time_s, rank_id, room, self._layout.blocks_for(tokens))
        elif event is Event.RELEASED:
            self._hold(time_s, rank_id, room, 0)

    # --- stations ---

    def _enter(self, station: Station, time_s: float, customer: _Customer) -> None:
        flow, inside = self.stations[station.name], self._inside[station.name]
        flow.advance(time_s)
        flow.entered += 1
        flow.inside += 1
        if customer in inside:
            self.violations.append(f"room {customer[1]} entered {station.name!r} on {customer[0]} twice")
        inside[customer] = time_s

    def _leave(self, station: Station, time_s: float, customer: _Customer) -> None:
        flow = self.stations[station.name]
        flow.advance(time_s)
        flow.left += 1
        flow.inside -= 1
        entered_s = self._inside[station.name].pop(customer, None)
        if entered_s is None:
            self.violations.append(
                f"room {customer[1]} left {station.name!r} on {customer[0]} without having entered it"
            )
        else:
            flow.sojourn_s += time_s - entered_s

    def _leave_all(self, time_s: float, rank_id: RankId, room: int) -> None:
        """A rank forgets a room: whatever it still was in is over, as after a failure."""
        for station in self._by_side[rank_id.side]:
            inside = self._inside[station.name]
            if station.by_peer:
                customers = [customer for customer in inside if customer[:2] == (rank_id, room)] if inside else []
            else:
                customers = [customer] if (customer := (rank_id, room, "")) in inside else []
            for customer in customers:
                self._leave(station, time_s, customer)

    # --- blocks and bytes ---

    def _hold(self, time_s: float, rank_id: RankId, room: int, blocks: int) -> None:
        held, since_s = self._holds.pop((rank_id, room), (0, time_s))
        self.held_block_s[rank_id.side] += held * (time_s - since_s)
        if blocks:
            self._holds[rank_id, room] = blocks, time_s

    def _write(self, rank_id: RankId, room: int, event: Event, bytes_: int, peer: str) -> None:
        if event is Event.CHUNK_STARTED:
            self._chunk_bytes[rank_id, room] = bytes_
        elif event is Event.WRITE_STARTED:
            self._writing[rank_id, room, peer] = started = self._chunk_bytes.get((rank_id, room), 0)
            self.bytes_started += started
        elif event is Event.WRITE_DONE:
            started = self._writing.pop((rank_id, room, peer), 0)
            if bytes_ and bytes_ != started:
                self.violations.append(f"room {room} on {rank_id} wrote {started} bytes to {peer}, {bytes_} landed")
            self.bytes_done += bytes_
        elif event is Event.RELEASED:
            self._chunk_bytes.pop((rank_id, room), None)

    # --- the end ---

    def finish(self, end_s: float) -> None:
        """The run is over at ``end_s``: complete the integrals, and look whether the accounts are even."""
        for (rank_id, _), (held, since_s) in self._holds.items():
            self.held_block_s[rank_id.side] += held * (end_s - since_s)
        self._holds.clear()
        for name, flow in self.stations.items():
            flow.advance(end_s)
            flow.sojourn_s += math.fsum(end_s - entered_s for entered_s in self._inside[name].values())
        self.violations += self.uneven()

    def uneven(self) -> list[str]:
        """Conservation of flow and Little's law, station by station: a sentence for each that does not hold."""
        found = []
        for name, flow in self.stations.items():
            if not flow.entered == flow.left + flow.inside == flow.left + len(self._inside[name]):
                found.append(f"{flow.entered} entered {name!r}, {flow.left} left it and {flow.inside} are inside")
            if not math.isclose(flow.number_s, flow.sojourn_s, rel_tol=ROUNDING, abs_tol=ROUNDING * flow.now_s):
                found.append(
                    f"Little's law fails for {name!r}: the number inside integrates to {flow.number_s!r} s, the times "
                    f"inside add up to {flow.sojourn_s!r} s"
                )
        return found


# --- invariants
# ----------------------------------------------------------------------------------------------------------


def violations_of(checker: InvariantMonitor, outcome: SimulationOutcome) -> list[str]:
    """The run is over: what ``checker`` saw, and the invariants of its end, one sentence for each violation."""
    checker.finish()
    return [*checker.examples, *violations_at_the_end(checker.open_rooms, outcome)]


def violations_at_the_end(
    open_rooms: Iterable[tuple[int, RankId]], outcome: SimulationOutcome, *, forgives: bool = False
) -> list[str]:
    """The invariants of a run's end, one sentence for each violation.

    Every room that was submitted to a rank is released there, no rank holds a block, the counts add up, and what was
    written has landed unless something failed. A run that stands still for good, a deadlock without timers, owes its
    unfinished rooms nothing, and no run owes anything on ranks whose processes had ended. ``forgives``: whatever never
    ended may do so, as where messages are lost and no timers are.
    """
    violations: list[str] = []
    stuck = outcome.unfinished > 0 and (outcome.deadlock or forgives)
    if not stuck:
        violations.extend(
            f"room {room} never ended on {rank_id}" for room, rank_id in open_rooms if rank_id not in outcome.ended
        )
        violations.extend(outcome.leftovers)
        if outcome.unfinished and not outcome.ended:
            violations.append(f"{outcome.unfinished} requests never ended")
    if outcome.submitted != outcome.succeeded + outcome.failed + outcome.unfinished:
        violations.append(
            f"{outcome.submitted} requests were submitted, {outcome.succeeded} succeeded, {outcome.failed} failed, "
            f"{outcome.unfinished} are unfinished"
        )
    clean = not outcome.failed and not outcome.ended and not stuck
    if outcome.bytes_landed > outcome.bytes_written or (clean and outcome.bytes_landed != outcome.bytes_written):
        violations.append(f"{outcome.bytes_landed} bytes landed, {outcome.bytes_written} were written")
    return violations


def violations_of_counts(book: Book, log: RunLog, rows: Iterable[RequestRow], outcome: SimulationOutcome) -> list[str]:
    """The run is over: whether all that counted it came to the same, one sentence for each that did not.

    The book, the run log and the cluster count bytes, blocks and requests each in a way of its own.
    """
    book.finish(outcome.end_s)
    violations = list(book.violations)
    if book.last_s > outcome.end_s:
        violations.append(f"something happened at {book.last_s!r}, the run ended at {outcome.end_s!r}")
    if (book.bytes_started, book.bytes_done) != (outcome.bytes_written, outcome.bytes_landed):
        violations.append(
            f"the records have {book.bytes_started} bytes written and {book.bytes_done} landed, the run "
            f"{outcome.bytes_written} and {outcome.bytes_landed}"
        )
    for side, use in log.pools.items():
        by_room, by_time = book.held_block_s[side], use.to_the_end_block_s
        if not math.isclose(by_room, by_time, rel_tol=ROUNDING, abs_tol=ROUNDING * outcome.end_s):
            violations.append(
                f"rooms held blocks of the {side.value} side for {by_room!r} block-seconds, the pool was held for "
                f"{by_time!r}"
            )
        if not 0 <= use.held_blocks <= use.peak_blocks <= use.pool_blocks:
            violations.append(
                f"the {side.value} side holds {use.held_blocks} blocks and held {use.peak_blocks} of {use.pool_blocks}"
            )
    ended = [Status[row.status] for row in rows]
    counted = (
        len(ended),
        ended.count(Status.Success),
        ended.count(Status.Failed),
        sum(status not in FINAL for status in ended),
    )
    said = (outcome.submitted, outcome.succeeded, outcome.failed, outcome.unfinished)
    # A request that still has rooms may have ended for its client, so unfinished ones may be in any status.
    if counted[0] != said[0] or (not outcome.unfinished and counted != said):
        violations.append(
            "the rows have {} requests, {} succeeded, {} failed, {} unfinished; the run {}, {}, {}, {}".format(
                *counted, *said
            )
        )
    if not outcome.failed and not outcome.unfinished and book.bytes_expected != outcome.bytes_landed:
        violations.append(f"{outcome.bytes_landed} bytes landed, the requests have {book.bytes_expected}")
    return violations


# --- runs ----------------------------------------------------------------------------------------------------------


class ObservedRun(NamedTuple):
    """A run with all it wrote down: for small runs, in tests and notebooks. ``stations``: what went through each."""

    outcome: SimulationOutcome
    records: list[Record]
    rows: list[RequestRow]
    log: RunLog
    stations: dict[str, StationFlow]

    def times_s(self, room: int, event: Event, side: Side | None = None) -> list[float]:
        """When ``event`` happened to ``room``, on any rank of ``side`` or of both."""
        return [
            record.time_s
            for record in self.records
            if record.room == room and record.event is event and side in (None, record.rank_id.side)
        ]

    def path(self, room: int, rank_id: RankId) -> list[tuple[Status, int]]:
        """The (status, tokens) path of a room on one rank, repetitions of a status removed."""
        path: list[tuple[Status, int]] = []
        for record in self.records:
            if record.room != room or record.rank_id != rank_id or record.status is None:
                continue
            if not path or path[-1][0] is not record.status:
                path.append((record.status, record.tokens))
        return path


def observe(scenario: Scenario, requests: Iterable[Request], link: LinkProfile) -> ObservedRun:
    """Simulate and keep everything. Raises InvariantError when the run violates a invariant."""
    checker = InvariantMonitor(scenario)
    book = Book(scenario)
    records: list[Record] = []
    rows: list[RequestRow] = []
    log = RunLog(scenario, rows.append)

    def keep(
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        records.append(Record(time_s, rank_id, room, event, status, tokens, bytes_, detail))
        checker(time_s, rank_id, room, event, status, tokens, bytes_, detail)
        book(time_s, rank_id, room, event, status, tokens, bytes_, detail)

    outcome = simulate(scenario, book.announced(checker.announced(requests)), link, recorder=keep, run_log=log)
    if violations := violations_of(checker, outcome) + violations_of_counts(book, log, rows, outcome):
        raise InvariantError("; ".join(violations[:5]))
    return ObservedRun(outcome, records, rows, log, book.stations)
