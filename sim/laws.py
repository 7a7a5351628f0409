"""Runs that are watched from beginning to end: for tests, notebooks and small studies.

The laws of single records are ``protocol.laws``; what a whole run owes at its end is here, since only a simulated run
has an outcome to hold against its records.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from protocol.laws import LawChecker
from protocol.recording import Event, Record
from protocol.runlog import RequestRow, RunLog
from protocol.scenario import Request, Scenario
from protocol.status import Status
from protocol.topology import RankId, Side
from sim.link import LinkProfile
from sim.run import SimulationOutcome, simulate


class LawError(Exception):
    """A run broke a law."""


def broken_laws(checker: LawChecker, outcome: SimulationOutcome) -> list[str]:
    """The run is over: what ``checker`` saw, and the laws of its end, one sentence for each that is broken.

    Every room that was submitted to a rank is released there, no rank holds a block, and the counts add up. A run that
    stands still for good, a deadlock without timers, owes its unfinished rooms nothing.
    """
    checker.finish()
    broken = list(checker.examples)
    stuck = outcome.deadlock and outcome.unfinished > 0
    if not stuck:
        broken.extend(f"room {room} never ended on {rank_id}" for room, rank_id in checker.open_rooms)
        broken.extend(outcome.leftovers)
        if outcome.unfinished:
            broken.append(f"{outcome.unfinished} requests never ended")
    if outcome.submitted != outcome.succeeded + outcome.failed + outcome.unfinished:
        broken.append(
            f"{outcome.submitted} requests were submitted, {outcome.succeeded} succeeded, {outcome.failed} failed, "
            f"{outcome.unfinished} are unfinished"
        )
    if outcome.bytes_landed > outcome.bytes_written:
        broken.append(f"{outcome.bytes_landed} bytes landed, {outcome.bytes_written} were written")
    return broken


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

    outcome = simulate(scenario, checker.announced(requests), link, recorder=keep, run_log=log)
    if broken := broken_laws(checker, outcome):
        raise LawError("; ".join(broken[:5]))
    return ObservedRun(outcome, records, rows, log)
