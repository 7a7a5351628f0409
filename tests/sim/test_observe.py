"""What a whole run owes at its end; the invariants of single records are tested with the protocol."""

import math
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes, WriteFault
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.observe.pooluse import PoolUse
from bufferlab.protocol.observe.progress import RequestRow
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.observe import (
    STATIONS,
    Book,
    InvariantError,
    ObservedRun,
    StationFlow,
    observe,
    violations_at_the_end,
    violations_of,
    violations_of_counts,
)
from bufferlab.sim.run import SimulationOutcome, simulate

SCENARIO = Scenario(block_tokens=4, hidden=8, language_blocks=4, sizing_options={"tokens": 8})
ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
CLEAN = SimulationOutcome(
    end_s=1.0, deadlocks=(), events=1, iterations=1, submitted=1, succeeded=1, failed=0, unfinished=0,
    bytes_written=0, bytes_landed=0, leftovers=(),
)  # fmt: skip
Step = tuple[float, RankId, Event, Status | None, int, int]
WHOLE: list[Step] = [
    (0.0, ENCODE, Event.SUBMITTED, Status.Bootstrapping, 0, 0),
    (0.0, LANGUAGE, Event.SUBMITTED, Status.Bootstrapping, 0, 0),
    (0.1, LANGUAGE, Event.ALLOCATED, Status.Bootstrapping, 8, 0),
    (0.1, LANGUAGE, Event.OFFERED, Status.WaitingForInput, 0, 0),
    (0.1, ENCODE, Event.OFFERS_COMPLETE, Status.WaitingForInput, 0, 0),
    (0.1, ENCODE, Event.WRITE_DONE, None, 8, 320),
    (0.1, ENCODE, Event.CHUNK_DONE, Status.Success, 8, 320),
    (0.2, ENCODE, Event.RELEASED, Status.Success, 8, 0),
    (0.2, LANGUAGE, Event.CHUNK_RECEIVED, Status.Success, 8, 256),
    (0.2, LANGUAGE, Event.DELIVERED, Status.Success, 8, 0),
    (0.2, LANGUAGE, Event.RELEASED, Status.Success, 8, 0),
]


def violations(steps: list[Step], outcome: SimulationOutcome = CLEAN) -> list[str]:
    checker = InvariantMonitor(SCENARIO)
    checker.expect(Request(0, 0.0, 8))
    for time_s, rank_id, event, status, tokens, bytes_ in steps:
        checker(time_s, rank_id, 0, event, status, tokens, bytes_, str(LANGUAGE))
    return violations_of(checker, outcome)


def test_a_clean_run_violates_no_invariant() -> None:
    assert violations(WHOLE) == []
    checker = InvariantMonitor(SCENARIO)
    requests = [Request(room, room * 1e-4, 5 * room + 1) for room in range(10)]
    outcome = simulate(SCENARIO, checker.announced(requests), load_profile("cx7-400g"), recorder=checker)
    assert violations_of(checker, outcome) == []
    assert checker.open_rooms == []


@pytest.mark.parametrize(
    ("number", "step", "invariant"),
    [
        (8, (0.05, LANGUAGE, Event.CHUNK_RECEIVED, Status.Success, 8, 256), "time goes back from 0.2 to 0.05"),
        (8, (0.2, LANGUAGE, Event.CHUNK_RECEIVED, Status.Bootstrapping, 8, 256), "WaitingForInput became Bootstrapping"),
        (9, (0.2, LANGUAGE, Event.DELIVERED, Status.Failed, 8, 0), "Success became Failed"),
        (2, (0.1, LANGUAGE, Event.ALLOCATED, Status.Bootstrapping, 20, 0), "5 blocks held of a pool of 4"),
        (8, (0.2, LANGUAGE, Event.CHUNK_RECEIVED, Status.Success, 8, 255), "received 255 bytes of 256"),
        (9, (0.2, LANGUAGE, Event.DELIVERED, Status.Success, 7, 0), "8 tokens became 7"),
        (5, (0.1, ENCODE, Event.WRITE_DONE, None, 8, 319), "319 bytes landed at language0.0, the request has 320"),
    ],
)  # fmt: skip
def test_a_violation_is_named(number: int, step: Step, invariant: str) -> None:
    found = violations([*WHOLE[:number], step, *WHOLE[number + 1 :]])
    assert any(invariant in violation for violation in found), found


def test_rooms_that_never_end_and_ends_that_come_twice() -> None:
    assert violations(WHOLE[:9]) == [
        "room 0 on language0.0, released: Success but neither delivered nor failed",
        "room 0 never ended on language0.0",
    ]
    assert "the room does not live here" in violations([*WHOLE, WHOLE[-1]])[0]
    early = violations([*WHOLE[:4], (0.2, LANGUAGE, Event.RELEASED, None, 0, 0)])
    assert any("released in WaitingForInput" in violation for violation in early)


@pytest.mark.parametrize(
    ("fields", "invariant"),
    [
        ({"unfinished": 1, "succeeded": 0}, "1 requests never ended"),
        ({"leftovers": ("encode0.0 remembers 1 rooms",)}, "encode0.0 remembers 1 rooms"),
        ({"succeeded": 2}, "1 requests were submitted, 2 succeeded, 0 failed, 0 are unfinished"),
        ({"bytes_landed": 1}, "1 bytes landed, 0 were written"),
        ({"bytes_written": 7}, "0 bytes landed, 7 were written"),
    ],
)
def test_the_outcome_must_add_up(fields: dict[str, object], invariant: str) -> None:
    assert violations(WHOLE, msgspec.structs.replace(CLEAN, **fields)) == [invariant]


def test_a_run_that_stands_still_owes_its_unfinished_rooms_nothing() -> None:
    stuck = msgspec.structs.replace(CLEAN, deadlocks=("rooms 1 and 2",), unfinished=1, succeeded=0, leftovers=("one",))
    assert violations(WHOLE[:5], stuck) == []


def test_what_is_forgiven_and_what_had_ended_owe_nothing_but_the_sums() -> None:
    open_rooms = [(0, ENCODE), (0, LANGUAGE)]
    cut = msgspec.structs.replace(CLEAN, succeeded=0, unfinished=1)
    assert violations_at_the_end(open_rooms, cut, forgives=True) == []
    one_ended = msgspec.structs.replace(cut, ended=frozenset({LANGUAGE}))
    assert violations_at_the_end(open_rooms, one_ended) == [f"room 0 never ended on {ENCODE}"]
    assert violations_at_the_end([], msgspec.structs.replace(CLEAN, bytes_landed=1), forgives=True)


def test_an_observed_run_that_violates_an_invariant_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InvariantMonitor, "finish", lambda self: self._break("made up", LANGUAGE, 1, Event.RELEASED))
    with pytest.raises(InvariantError, match=r"room 1 on language0\.0, released: made up"):
        observe(SCENARIO, [Request(0, 0.0, 8)], load_profile("cx7-400g"))


# --- accounts ------------------------------------------------------------------------------------------------------

# Resumes, two ranks on either side, copies that delay records, and a failure.
BUSY = Scenario(
    block_tokens=4, hidden=8, encode_tp=2, language_tp=2, encode_blocks=20, language_blocks=8, faults=(WriteFault(3),),
    sizing_options={"tokens": 8}, services=ServiceTimes(encode_base_s=0.002, prefill_base_s=0.001),
)  # fmt: skip
LINK = msgspec.structs.replace(load_profile("cx7-400g"), copy_bandwidth_Bps=1e5)
REQUESTS = [Request(room, room * 1e-3, 5 * room + 1) for room in range(8)]


def accounts(
    run: ObservedRun,
    records: list[Record] | None = None,
    outcome: SimulationOutcome | None = None,
    rows: list[RequestRow] | None = None,
    tamper: Callable[[Book, RunLog], None] | None = None,
) -> list[str]:
    """What a book finds that is given the records, rows and outcome of a run, or some in their place."""
    book, log = Book(BUSY), RunLog(BUSY, lambda row: None)
    for request in REQUESTS:
        book.expect(request)
        log.expect(request)
    for record in run.records:
        log.record(record)
    log.finish(run.outcome.end_s)
    for record in run.records if records is None else records:
        book(*record)
    if tamper is not None:
        tamper(book, log)
    return violations_of_counts(book, log, run.rows if rows is None else rows, outcome or run.outcome)


@pytest.fixture(scope="module")
def busy() -> ObservedRun:
    return observe(BUSY, REQUESTS, LINK)


def find(run: ObservedRun, event: Event, room: int = 5, side: Side = Side.ENCODE) -> int:
    """Where the first record of an event stands."""
    return next(
        number
        for number, record in enumerate(run.records)
        if (record.event, record.room, record.rank_id.side) == (event, room, side)
    )


def test_the_accounts_of_a_run_with_a_failure_are_even(busy: ObservedRun) -> None:
    assert accounts(busy) == []
    assert (busy.outcome.succeeded, busy.outcome.failed) == (7, 1)
    for station in STATIONS:
        flow = busy.stations[station.name]
        assert flow.entered == flow.left >= 14
        assert flow.inside == 0
        assert 0 < flow.number_s == pytest.approx(flow.sojourn_s, rel=1e-9)
    assert busy.stations["transfer"].entered > 16  # some came in chunks


@pytest.mark.parametrize("event", [Event.ENCODE_STARTED, Event.ENCODED, Event.WRITE_STARTED, Event.WRITE_DONE])
def test_a_record_that_is_missing_or_comes_twice_is_noticed(busy: ObservedRun, event: Event) -> None:
    number = find(busy, event)
    without = [*busy.records[:number], *busy.records[number + 1 :]]
    twice = [*busy.records[: number + 1], *busy.records[number:]]
    # Without its end, a room is in a station until its rank forgets it: that is what failures look like.
    assert event is Event.ENCODED or accounts(busy, without) != []
    assert accounts(busy, twice) != []


def test_what_left_twice_breaks_conservation_and_littles_law(busy: ObservedRun) -> None:
    number = find(busy, Event.ENCODED)
    again = busy.records[number]._replace(time_s=busy.records[number].time_s + 1e-3)
    found = accounts(busy, sorted([*busy.records, again], key=lambda record: record.time_s))
    entered = busy.stations["encoder"].entered
    assert f"room 5 left 'encoder' on {again.rank_id} without having entered it" in found
    assert f"{entered} entered 'encoder', {entered + 1} left it and -1 are inside" in found
    assert any(sentence.startswith("Little's law fails for 'encoder'") for sentence in found)


def test_what_entered_twice_breaks_conservation_and_littles_law(busy: ObservedRun) -> None:
    number = find(busy, Event.ENCODE_STARTED)
    found = accounts(busy, [*busy.records[: number + 1], *busy.records[number:]])
    entered = busy.stations["encoder"].entered + 1
    assert f"room 5 entered 'encoder' on {busy.records[number].rank_id} twice" in found
    assert f"{entered} entered 'encoder', {entered - 1} left it and 1 are inside" in found
    assert any(sentence.startswith("Little's law fails for 'encoder'") for sentence in found)


def test_bytes_that_the_records_and_the_run_count_differently(busy: ObservedRun) -> None:
    number = find(busy, Event.WRITE_DONE)
    record = busy.records[number]
    less = [*busy.records[:number], record._replace(bytes=record.bytes - 1), *busy.records[number + 1 :]]
    peer = record.detail
    assert accounts(busy, less)[0] == (
        f"room 5 on {record.rank_id} wrote {record.bytes} bytes to {peer}, {record.bytes - 1} landed"
    )
    for field in ("bytes_written", "bytes_landed"):
        other = msgspec.structs.replace(busy.outcome, **{field: getattr(busy.outcome, field) + 1})
        (sentence,) = accounts(busy, outcome=other)
        assert sentence.startswith("the records have ")


def test_bytes_that_no_request_has() -> None:
    run = observe(msgspec.structs.replace(BUSY, faults=()), REQUESTS, LINK)
    whole = run.outcome.bytes_landed

    def shorter(book: Book, log: RunLog) -> None:
        book.bytes_expected -= 1

    assert accounts(run, tamper=shorter) == [f"{whole} bytes landed, the requests have {whole - 1}"]


def test_blocks_that_rooms_and_pools_count_differently(busy: ObservedRun) -> None:
    number = find(busy, Event.ALLOCATED, side=Side.LANGUAGE)
    record = busy.records[number]
    more = [*busy.records[:number], record._replace(tokens=record.tokens + 4), *busy.records[number + 1 :]]
    (sentence,) = accounts(busy, more)
    assert sentence.startswith("rooms held blocks of the language side for ")


@pytest.mark.parametrize(("held", "peak"), [(-1, 3), (0, 1000), (5, 4)])
def test_a_pool_below_nothing_or_above_its_size(busy: ObservedRun, held: int, peak: int) -> None:
    def tampered(book: Book, log: RunLog) -> None:
        use: PoolUse = log.pools[Side.ENCODE]
        use.held_blocks, use.peak_blocks = held, peak

    assert accounts(busy, tamper=tampered) == [f"the encode side holds {held} blocks and held {peak} of 40"]


def test_something_before_its_request_came_or_after_the_end(busy: ObservedRun) -> None:
    number = find(busy, Event.SUBMITTED)
    record = busy.records[number]
    early = record._replace(time_s=record.time_s - 1e-4)
    found = accounts(busy, [*busy.records[:number], early, *busy.records[number + 1 :]])
    assert found[0] == f"room 5 was on {record.rank_id} at {early.time_s!r}, before it came at {0.005!r}"
    cut = msgspec.structs.replace(busy.outcome, end_s=busy.outcome.end_s / 2)
    assert f"something happened at {busy.records[-1].time_s!r}, the run ended at {cut.end_s!r}" in accounts(
        busy, outcome=cut
    )


def test_every_request_has_one_row_and_one_end(busy: ObservedRun) -> None:
    assert accounts(busy, rows=busy.rows[1:])[0].startswith("the rows have 7 requests")
    assert accounts(busy, rows=[*busy.rows, busy.rows[0]])[0].startswith("the rows have 9 requests")
    other = [msgspec.structs.replace(row, status="Success", failure="") for row in busy.rows]
    assert accounts(busy, rows=other) == [
        "the rows have 8 requests, 8 succeeded, 0 failed, 0 unfinished; the run 8, 7, 1, 0"
    ]


def test_an_observed_run_with_uneven_accounts_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StationFlow, "advance", lambda self, time_s: setattr(self, "number_s", 1.0))
    with pytest.raises(InvariantError, match="Little's law fails for 'encode rank'"):
        observe(SCENARIO, [Request(0, 0.0, 8)], load_profile("cx7-400g"))


@given(
    discipline=st.sampled_from(sorted(DISCIPLINES)),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=10),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    blocks=st.integers(2, 12),
    timeout_s=st.sampled_from([None, 0.003, 180.0]),
    failing=st.sets(st.integers(0, 9), max_size=2),
    late=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_whatever_happens_in_a_run_its_accounts_are_even(
    discipline: str,
    lengths: list[int],
    shape: tuple[int, int],
    blocks: int,
    timeout_s: float | None,
    failing: set[int],
    late: bool,
) -> None:
    # Deadlocks, time-outs, refusals and failed writes included; observe raises when an invariant is violated.
    scenario = msgspec.structs.replace(
        BUSY, discipline=discipline, encode_tp=shape[0], language_tp=shape[1], language_blocks=blocks,
        timeout_s=timeout_s, faults=tuple(WriteFault(room) for room in sorted(failing)), release_after_prefill=late,
    )  # fmt: skip
    run = observe(scenario, [Request(room, room * 7e-4, tokens) for room, tokens in enumerate(lengths)], LINK)
    assert len(run.rows) == run.outcome.submitted == len(lengths)
    for flow in run.stations.values():
        assert math.isclose(flow.number_s, flow.sojourn_s, rel_tol=1e-9, abs_tol=1e-12)
