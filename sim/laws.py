"""Laws that hold on every run, checked while it goes on.

``LawChecker`` is a Recorder. It keeps one small entry per unfinished (room, rank), so it can watch runs of any length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from protocol.chunks import Chunk
from protocol.recording import Event, Record
from protocol.runlog import RequestRow, RunLog
from protocol.scenario import Request, Scenario
from protocol.status import FINAL, LEGAL, Status
from protocol.topology import RankId, Side
from sim.link import LinkProfile
from sim.run import SimulationOutcome, simulate

MOST_VIOLATIONS = 100
"""More are only counted: one broken rule can break at every event."""


class _Seen:
    """What was seen of a room on one rank."""

    __slots__ = ("bytes_by_peer", "bytes_received", "held_blocks", "status", "tokens")

    def __init__(self) -> None:
        self.status = Status.Bootstrapping
        self.tokens = 0
        self.held_blocks = 0
        self.bytes_received = 0
        self.bytes_by_peer: dict[str, int] = {}


class LawChecker:
    """Collects ``violations``, one sentence each:

    * time never goes back;
    * a room's status on a rank moves only along the table of ``protocol.status``, its tokens never fall;
    * every room that was submitted to a rank ends there in exactly one of Success and Failed, and is released once;
    * the language ranks of a room agree on its end, and a Success has all of its bytes: written, landed, received;
    * no rank ever holds more blocks than its pool has, and at the end it holds none.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.violations: list[str] = []
        self.count = 0
        self._layout = scenario.layout
        self._pools = {Side.ENCODE: scenario.encode_blocks, Side.LANGUAGE: scenario.language_blocks}
        self._language_tp = scenario.language_tp
        self._last_s = 0.0
        self._open: dict[tuple[int, RankId], _Seen] = {}
        self._held: dict[RankId, int] = {}
        self._ends: dict[int, list[Status]] = {}

    def _violated(self, law: str) -> None:
        self.count += 1
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(law)

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
        here = f"{time_s:.9f} s, room {room} on {rank_id}, {event.value}"
        if not time_s >= self._last_s:
            self._violated(f"{here}: recorded after {self._last_s:.9f} s")
        self._last_s = time_s
        key = (room, rank_id)
        if event is Event.SUBMITTED:
            if key in self._open:
                self._violated(f"{here}: submitted twice")
            self._open[key] = _Seen()
        seen = self._open.get(key)
        if seen is None:
            self._violated(f"{here}: the room is not open there")
            return
        if status is not None and status is not seen.status:
            surplus = event is Event.RELEASED and rank_id.side is Side.ENCODE and not seen.bytes_by_peer
            # An encode rank without destinations takes no part in the transfer and learns the end from its group.
            if status not in LEGAL[seen.status] and not (surplus and seen.status is Status.Bootstrapping):
                self._violated(f"{here}: {seen.status.name} became {status.name}")
            seen.status = status
        if event in _PROGRESS:
            if tokens < seen.tokens:
                self._violated(f"{here}: {seen.tokens} tokens became {tokens}")
            seen.tokens = tokens
        if event is Event.ALLOCATED or event is Event.ENCODE_STARTED:
            self._hold(here, rank_id, seen, self._layout.blocks_for(tokens))
        elif event is Event.WRITE_DONE:
            peer = detail.split(" ", 1)[0]
            seen.bytes_by_peer[peer] = seen.bytes_by_peer.get(peer, 0) + bytes_
        elif event is Event.CHUNK_RECEIVED:
            seen.bytes_received += bytes_
        elif event is Event.RELEASED:
            self._release(here, key, seen)

    def _hold(self, here: str, rank_id: RankId, seen: _Seen, blocks: int) -> None:
        held = self._held.get(rank_id, 0) + blocks - seen.held_blocks
        seen.held_blocks = blocks
        self._held[rank_id] = held
        if not 0 <= held <= self._pools[rank_id.side]:
            self._violated(f"{here}: the rank holds {held} of {self._pools[rank_id.side]} blocks")

    def _release(self, here: str, key: tuple[int, RankId], seen: _Seen) -> None:
        room, rank_id = key
        self._hold(here, rank_id, seen, 0)
        del self._open[key]
        if seen.status not in FINAL:
            self._violated(f"{here}: released in {seen.status.name}")
        if seen.status is Status.Success and seen.tokens:
            payload = seen.tokens * self._layout.bytes_per_token
            if rank_id.side is Side.LANGUAGE and seen.bytes_received != payload:
                self._violated(f"{here}: received {seen.bytes_received} bytes of {payload}")
            whole = self._layout.chunk_bytes(Chunk(0, seen.tokens, True))
            for peer, landed in seen.bytes_by_peer.items():
                if landed != whole:
                    self._violated(f"{here}: {landed} bytes landed at {peer}, the request has {whole}")
        if rank_id.side is Side.LANGUAGE:
            ends = self._ends.setdefault(room, [])
            ends.append(seen.status)
            if len(ends) == self._language_tp:
                if len(set(ends)) > 1:
                    self._violated(f"{here}: the language ranks end in {', '.join(end.name for end in ends)}")
                del self._ends[room]

    def finish(self, outcome: SimulationOutcome) -> list[str]:
        """The run is over: check its end as well and return all violations.

        A run that stands still for good, a deadlock without timers, owes its unfinished rooms nothing.
        """
        stuck = outcome.deadlock and outcome.unfinished > 0
        if not stuck:
            for room, rank_id in self._open:
                self._violated(f"room {room} never ended on {rank_id}")
            for leftover in outcome.leftovers:
                self._violated(leftover)
            if outcome.unfinished:
                self._violated(f"{outcome.unfinished} requests never ended")
        if outcome.submitted != outcome.succeeded + outcome.failed + outcome.unfinished:
            self._violated(
                f"{outcome.submitted} requests were submitted, {outcome.succeeded} succeeded, {outcome.failed} failed, "
                f"{outcome.unfinished} are unfinished"
            )
        if outcome.bytes_landed > outcome.bytes_written:
            self._violated(f"{outcome.bytes_landed} bytes landed, {outcome.bytes_written} were written")
        return self.violations


_PROGRESS = frozenset({Event.CHUNK_STARTED, Event.CHUNK_DONE, Event.CHUNK_RECEIVED, Event.DELIVERED, Event.RELEASED})


class LawError(Exception):
    """A run broke a law."""


class ObservedRun(NamedTuple):
    """A run with all it wrote down: for small runs, in tests and notebooks."""

    outcome: SimulationOutcome
    records: list[Record]
    rows: list[RequestRow]
    log: RunLog

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
    """Simulate and keep everything. Raises LawError when the run breaks a law."""
    checker = LawChecker(scenario)
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

    outcome = simulate(scenario, requests, link, recorder=keep, run_log=log)
    if violations := checker.finish(outcome):
        raise LawError("; ".join(violations[:5]))
    return ObservedRun(outcome, records, rows, log)
