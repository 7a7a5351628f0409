"""Rows and integrals of a run, from a hand-made recording and numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.observe.pooluse import PoolUse
from bufferlab.protocol.observe.progress import RequestRow
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

B, W, T, S, F = Status
E0 = RankId(Side.ENCODE, 0, 0)
L0, L1 = RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1)
NewStage = Callable[..., Any]


def scenario(**changes: Any) -> Scenario:
    return Scenario(**{"block_tokens": 4, "hidden": 1, "encode_blocks": 8, "language_blocks": 2, **changes})


def row_of(log_rows: list[RequestRow], room: int) -> RequestRow:
    (row,) = [row for row in log_rows if row.room == room]
    return row


def used(log: RunLog, side: Side) -> PoolUse:
    """A pool with its integrals up to the last record."""
    use = log.pools[side]
    use.advance(log.last_time_s)
    return use


def play(records: list[tuple[Any, ...]], requests: list[Request], **changes: Any) -> tuple[RunLog, list[RequestRow]]:
    rows: list[RequestRow] = []
    log = RunLog(scenario(**changes), rows.append)
    for request in requests:
        log.expect(request)
    for time_s, rank_id, room, event, status, tokens, *detail in records:
        log.record(Record(time_s, rank_id, room, event, status, tokens, 0, *detail or [""]))
    return log, rows


TWO_CHUNKS: list[tuple[Any, ...]] = [
    (1.0, E0, 7, Event.SUBMITTED, B, 0),
    (1.0, L0, 7, Event.SUBMITTED, B, 0),
    (3.0, L0, 7, Event.ALLOCATED, B, 4),  # waited 2 s; holds 1 block, 4 of its 4 tokens are used
    (3.0, L0, 7, Event.OFFERED, W, 0),
    (4.0, E0, 7, Event.OFFER_RECEIVED, None, 0, "language0.0"),
    (4.0, E0, 7, Event.OFFERS_COMPLETE, W, 0),
    (5.0, E0, 7, Event.ENCODE_STARTED, None, 6),  # waited 1 s; holds 2 blocks, 6 of their 8 tokens are used
    (6.0, E0, 7, Event.ENCODED, None, 6),
    (6.0, E0, 7, Event.CHUNK_STARTED, W, 0),
    (8.0, E0, 7, Event.CHUNK_DONE, T, 4),
    (9.0, L0, 7, Event.CHUNK_RECEIVED, T, 4),
    (10.0, L0, 7, Event.ALLOCATED, T, 4),  # waited 1 s; now 2 of the 4 tokens are used
    (10.0, L0, 7, Event.RESUMED, T, 4),
    (11.0, E0, 7, Event.OFFERS_COMPLETE, T, 4),
    (13.0, E0, 7, Event.CHUNK_DONE, S, 6),
    (14.0, L0, 7, Event.CHUNK_RECEIVED, S, 6),
    (15.0, L0, 7, Event.DELIVERED, S, 6),
    (15.0, L0, 7, Event.RELEASED, S, 6),
    (15.5, E0, 7, Event.RELEASED, S, 6),
]
REQUEST = Request(room=7, arrival_s=0.5, total_tokens=6, text_tokens=2, images=1)
AT_ZERO = REQUEST.arriving(0.0)


def test_the_row_of_a_request_in_two_chunks() -> None:
    _, rows = play(TWO_CHUNKS, [REQUEST])
    assert rows == [
        RequestRow(
            room=7,
            arrival_s=0.5,
            text_tokens=2,
            images=1,
            total_tokens=6,
            first_allocation_tokens=4,
            chunks=2,
            encoded_s=6.0,
            first_chunk_s=8.0,
            delivered_s=15.0,
            released_s=15.0,
            status="Success",
            failure="",
            prefilled_s=15.0,
        )
    ]


def test_the_integrals_of_a_request_in_two_chunks() -> None:
    log, _ = play(TWO_CHUNKS, [REQUEST])
    log.finish(20.0)
    language, encode = log.pools[Side.LANGUAGE], log.pools[Side.ENCODE]
    assert (language.pool_blocks, encode.pool_blocks) == (2, 8)
    # From the arrival at 0.5 s to the last release at 15.5 s; nothing of the run after it.
    assert (log.window_start_s, log.window_end_s) == (0.5, 15.5)
    assert (language.counted_s, encode.counted_s) == (15.0, 15.0)
    assert (language.held_block_s, encode.held_block_s) == (12.0, 2 * 10.5)
    assert (language.held_token_s, encode.held_token_s) == (4 * 12.0, 8 * 10.5)
    assert (language.used_token_s, encode.used_token_s) == (4 * 7.0 + 2 * 5.0, 6 * 10.5)
    assert (language.peak_blocks, encode.peak_blocks) == (1, 2)
    assert (language.blocked_s, encode.blocked_s) == (2.0 + 1.0, 1.0)
    assert log.records == len(TWO_CHUNKS)
    assert log.last_time_s == 15.5


def test_a_run_that_ends_in_the_middle() -> None:
    """At 12 s the second chunk is on its way: what is held counts until then, and the row is unfinished."""
    log, rows = play([record for record in TWO_CHUNKS if record[0] <= 12.0], [REQUEST])
    assert rows == []
    log.finish(12.0)
    (row,) = rows
    assert (row.status, row.chunks, row.delivered_s, row.released_s) == ("Transferring", 1, None, None)
    assert (log.window_start_s, log.window_end_s) == (0.5, 12.0)
    assert log.pools[Side.LANGUAGE].held_block_s == 9.0
    assert log.pools[Side.LANGUAGE].used_token_s == 4 * 7.0 + 2 * 2.0
    assert log.pools[Side.ENCODE].held_block_s == 2 * 7.0


def test_a_room_that_still_waits_when_the_run_ends() -> None:
    log, rows = play(TWO_CHUNKS[:2], [REQUEST])
    log.finish(5.0)
    assert log.pools[Side.LANGUAGE].blocked_s == 4.0
    assert (rows[0].status, rows[0].first_allocation_tokens) == ("Bootstrapping", None)


def test_releasing_before_waiting_is_not_holding() -> None:
    """free_then_alloc: between 9 s and 13 s the room waits and holds nothing."""
    records = [
        (1.0, L0, 7, Event.SUBMITTED, B, 0),
        (1.0, L0, 7, Event.ALLOCATED, B, 4),
        (9.0, L0, 7, Event.CHUNK_RECEIVED, T, 4),
        (9.0, L0, 7, Event.ALLOCATED, T, 0),
        (13.0, L0, 7, Event.ALLOCATED, T, 4),
        (15.0, L0, 7, Event.RELEASED, S, 6),
    ]
    log, _ = play(records, [REQUEST])
    use = used(log, Side.LANGUAGE)
    assert (use.held_block_s, use.blocked_s) == (8.0 + 2.0, 4.0)
    assert use.used_token_s == 4 * 8.0 + 2 * 2.0


def test_a_longer_allocation_is_wasted_memory() -> None:
    records = [
        (0.0, L0, 7, Event.SUBMITTED, B, 0),
        (0.0, L0, 7, Event.ALLOCATED, B, 8),
        (10.0, L0, 7, Event.RELEASED, S, 6),
    ]
    log, _ = play(records, [AT_ZERO])
    use = used(log, Side.LANGUAGE)
    assert (use.held_token_s, use.used_token_s, use.peak_blocks) == (80.0, 60.0, 2)


def test_two_ranks_count_twice_but_wait_once() -> None:
    """Blocks are sums over the ranks; rooms wait once, on rank 0. The slowest rank's times are the row's."""
    records = [
        (0.0, L0, 7, Event.SUBMITTED, B, 0),
        (0.0, L1, 7, Event.SUBMITTED, B, 0),
        (2.0, L0, 7, Event.ALLOCATED, B, 8),
        (2.0, L1, 7, Event.ALLOCATED, B, 8),
        (5.0, L0, 7, Event.CHUNK_RECEIVED, S, 6),
        (5.0, L1, 7, Event.CHUNK_RECEIVED, S, 6),
        (6.0, L0, 7, Event.DELIVERED, S, 6),
        (6.0, L0, 7, Event.RELEASED, S, 6),
        (7.0, L1, 7, Event.DELIVERED, S, 6),
        (7.0, L1, 7, Event.RELEASED, S, 6),
        (8.0, E0, 7, Event.RELEASED, S, 6),
    ]
    log, rows = play(records, [AT_ZERO], language_tp=2)
    use = used(log, Side.LANGUAGE)
    assert use.pool_blocks == 4
    assert (use.held_block_s, use.peak_blocks, use.blocked_s) == (2 * 4.0 + 2 * 5.0, 4, 2.0)
    assert (rows[0].delivered_s, rows[0].released_s, rows[0].chunks) == (7.0, 7.0, 1)


def test_one_failed_rank_fails_the_request_and_the_first_reason_counts() -> None:
    records = [
        (0.0, L0, 7, Event.SUBMITTED, B, 0),
        (0.0, L1, 7, Event.SUBMITTED, B, 0),
        (1.0, E0, 7, Event.FAILED, F, 0, "the write failed"),
        (2.0, L0, 7, Event.FAILED, F, 0, "another rank of the group failed"),
        (2.0, L0, 7, Event.RELEASED, F, 0),
        (3.0, E0, 7, Event.RELEASED, F, 0),
    ]
    log, rows = play(records, [AT_ZERO], language_tp=2)
    assert rows == []
    log.record(Record(4.0, L1, 7, Event.RELEASED, S, 6, 0, ""))
    assert (rows[0].status, rows[0].failure, rows[0].delivered_s) == ("Failed", "the write failed", None)
    assert used(log, Side.LANGUAGE).blocked_s == 2.0


def test_a_room_number_may_come_again() -> None:
    rows: list[RequestRow] = []
    log = RunLog(scenario(), rows.append)
    for start in (0.0, 100.0):
        log.expect(REQUEST)
        for time_s, *rest in TWO_CHUNKS:
            log.record(Record(start + time_s, *rest[:5], 0, ""))
    assert [row.delivered_s for row in rows] == [15.0, 115.0]
    assert used(log, Side.LANGUAGE).held_block_s == 24.0


def test_the_window_has_no_time_before_the_first_arrival_and_none_after_the_last_end() -> None:
    """An hour later, and in a run that ends long after its last request, the figures are the same."""
    late_s = 3600.0
    late, _ = play(
        [(time_s + late_s, *rest) for time_s, *rest in TWO_CHUNKS], [REQUEST.arriving(REQUEST.arrival_s + late_s)]
    )
    late.finish(4000.0)
    log, _ = play(TWO_CHUNKS, [REQUEST])
    log.finish(15.5)
    assert (late.window_start_s, late.window_end_s) == (late_s + 0.5, late_s + 15.5)
    for side in Side:
        one, other = log.pools[side], late.pools[side]
        assert (one.held_block_s, one.used_token_s, one.blocked_s) == (
            other.held_block_s, other.used_token_s, other.blocked_s,
        )  # fmt: skip
        assert (one.counted_s, one.peak_blocks) == (other.counted_s, other.peak_blocks)
        assert len(other.batches()) == math.floor(15.0 / other.batch_s)


def test_a_request_that_a_rank_never_speaks_of_makes_the_window_last_as_long_as_the_run() -> None:
    log, rows = play([record for record in TWO_CHUNKS if record[1] == L0], [REQUEST])
    log.finish(80.0)
    assert (rows[0].status, log.window_end_s) == ("Success", 80.0)


def test_the_first_token_comes_with_the_prefill() -> None:
    """The row waits for it, and so does the window; a prefill that never ended leaves nothing."""
    services = ServiceTimes(prefill_per_token_s=0.5)
    log, rows = play(TWO_CHUNKS, [REQUEST], services=services)
    assert rows == []
    log.record(Record(18.0, L0, 7, Event.PREFILLED, None, 6, 0, ""))
    log.finish(30.0)
    assert (rows[0].delivered_s, rows[0].prefilled_s, log.window_end_s) == (15.0, 18.0, 18.0)
    lost, rows = play(TWO_CHUNKS, [REQUEST], services=services)
    lost.finish(30.0)
    assert (rows[0].status, rows[0].delivered_s, rows[0].prefilled_s, lost.window_end_s) == (
        "Success",
        15.0,
        None,
        30.0,
    )


def test_blocks_may_be_kept_until_the_prefill_is_over() -> None:
    records = [*TWO_CHUNKS[:-2], (15.5, E0, 7, Event.RELEASED, S, 6)]
    records += [(18.0, L0, 7, Event.PREFILLED, None, 6), (18.0, L0, 7, Event.RELEASED, S, 6)]
    log, rows = play(records, [REQUEST], services=ServiceTimes(prefill_base_s=3.0))
    assert (rows[0].delivered_s, rows[0].prefilled_s, rows[0].released_s) == (15.0, 18.0, 18.0)
    assert log.window_end_s == 18.0


def test_records_of_unknown_rooms_are_counted_only() -> None:
    log, rows = play([(1.0, L0, 8, Event.ALLOCATED, B, 4)], [REQUEST])
    assert (log.records, rows, log.pools[Side.LANGUAGE].peak_blocks) == (1, [], 0)


@pytest.mark.parametrize("discipline", ["window", "exact_announce", "free_then_alloc"])
def test_a_played_world_leaves_nothing_held(stage: NewStage, discipline: str) -> None:
    """Fed with what the cores themselves record: one row each, and the clock's time is all that is integrated."""
    world = stage(discipline=discipline, language_tp=2, language_blocks=4)
    lengths = {1: 12, 2: 3, 3: 0}
    for room, total in lengths.items():
        world.submit(room, total)
    world.run_until_quiet()
    rows: list[RequestRow] = []
    log = RunLog(scenario(discipline=discipline, language_tp=2, language_blocks=4), rows.append)
    for room, total in lengths.items():
        log.expect(Request(room=room, arrival_s=0.0, total_tokens=total))
    for record in world.records:
        log.record(record)
    before = len(rows)
    log.finish(1000.0)
    assert before == len(rows) == 3
    assert row_of(rows, 1).status == row_of(rows, 2).status == "Success"
    assert (row_of(rows, 3).status, row_of(rows, 3).failure) == ("Failed", "the embedding is empty")
    assert [(use.held_block_s, use.blocked_s) for use in log.pools.values()] == [(0.0, 0.0)] * 2
    assert log.pools[Side.LANGUAGE].peak_blocks > 0
