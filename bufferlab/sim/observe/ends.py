"""What a whole run owes at its end: rooms that are over, counts that add up, and accounts that are even."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.observe.progress import RequestRow
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.status import FINAL, Status
from bufferlab.protocol.topology import RankId
from bufferlab.sim.observe.book import ROUNDING, Book
from bufferlab.sim.run import SimulationOutcome


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
