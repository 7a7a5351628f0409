"""Runs that are watched from beginning to end: for tests, notebooks and small studies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.observe.progress import RequestRow
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.observe.book import Book, StationFlow
from bufferlab.sim.observe.ends import violations_of, violations_of_counts
from bufferlab.sim.run import SimulationOutcome, simulate


class InvariantError(Exception):
    """A run violated an invariant."""


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
    """Simulate and keep everything. Raises InvariantError when the run violates an invariant."""
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

    def announced() -> Iterator[Request]:
        for request in checker.announced(requests):
            book.expect(request)
            yield request

    outcome = simulate(scenario, announced(), link, recorder=keep, run_log=log)
    if violations := violations_of(checker, outcome) + violations_of_counts(book, log, rows, outcome):
        raise InvariantError("; ".join(violations[:5]))
    return ObservedRun(outcome, records, rows, log, book.stations)
