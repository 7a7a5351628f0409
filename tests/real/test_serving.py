"""A measured run that serves as the simulated one does: emulated passes, prepared images, closed loops, two writers."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")

from bufferlab.experiments.runs.equality import differences
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId
from bufferlab.real.run.launcher import run_real
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

NAMES = ("the simulator", "the measured run")

# Loops iterate every 160 ms and passes are shorter, so both worlds iterate on the same grid, and what happens between two
# iterations comes some 60 ms after the one and before the other: that much may a busy machine be late.
ITERATION_S = 0.16
SERVED = Scenario(
    block_tokens=16,
    hidden=64,
    sizing_options={"tokens": 64},
    encode_blocks=40,
    language_blocks=24,
    language_tp=2,
    encode_batch=2,
    prefill_batch_tokens=330,
    release_after_prefill=True,
    timeout_s=30.0,
    services=ServiceTimes(
        encode_poll_interval_s=ITERATION_S,
        language_poll_interval_s=ITERATION_S,
        encode_base_s=0.03,
        encode_per_token_s=1e-4,
        prefill_base_s=0.05,
        prefill_per_token_s=1e-4,
        preprocess_per_token_s=1e-4,
        preprocess_workers=2,
    ),
)
TOKENS = (150, 60, 240, 90, 320, 40, 130, 200, 64, 100)


def served_requests() -> list[Request]:
    """Pairs that come 10 ms after an iteration and are prepared in 4 to 32 ms, two at a time. Three pairs come at once."""
    moments = [iteration * ITERATION_S + 0.01 for iteration in (1, 1, 2, 2, 2, 2, 2, 2, 8, 8)]
    return [
        Request(room, moment, tokens, images=1)
        for room, (moment, tokens) in enumerate(zip(moments, TOKENS, strict=True), 1)
    ]


def simulated(scenario: Scenario, requests: Iterable[Request]) -> tuple[list[Record], float]:
    records: list[Record] = []
    link = load_profile("tcp-loopback")
    outcome = simulate(scenario, requests, link, recorder=lambda *fields: records.append(Record(*fields)))
    return records, outcome.end_s


def commands(records: Iterable[Record]) -> dict[tuple[RankId, Event], list[int]]:
    """In which order the rooms got on, rank by rank, through what the iterations of a loop decide."""
    found: dict[tuple[RankId, Event], list[int]] = {}
    for record in records:
        if record.event in (Event.ALLOCATED, Event.ENCODE_STARTED, Event.DELIVERED, Event.RELEASED):
            found.setdefault((record.rank_id, record.event), []).append(record.room)
    return found


def passes(records: Iterable[Record], event: Event, rank_id: RankId) -> list[list[int]]:
    """The rooms of each pass, by what marks its beginning or its end: two passes are never so close."""
    found: list[list[int]] = []
    last_s = -1.0
    for record in records:
        if record.event is event and record.rank_id == rank_id:
            if record.time_s - last_s > ITERATION_S / 4:
                found.append([])
            found[-1].append(record.room)
            last_s = record.time_s
    return found


def test_a_serving_configuration_runs_alike_in_both_worlds(record_property: pytest.RecordProperty) -> None:
    expected, simulated_s = simulated(SERVED, served_requests())
    measured = run_real(SERVED, served_requests())
    assert differences(expected, measured.records, NAMES) == []
    assert commands(measured.records) == commands(expected)
    encode, language = SERVED.encode_ids()[0], SERVED.language_ids()[0]
    encoder, prefill = passes(expected, Event.ENCODE_STARTED, encode), passes(expected, Event.RELEASED, language)
    assert passes(measured.records, Event.ENCODE_STARTED, encode) == encoder
    assert passes(measured.records, Event.RELEASED, language) == prefill
    # What is compared has batches, and rooms that waited for blocks.
    assert {len(one) for one in encoder} == {1, 2}
    assert max(map(len, prefill)) > 1
    waited_s = {
        room: allocated - submitted
        for room, submitted, allocated in (
            (room, *(times_s(expected, room, event, language)[0] for event in (Event.SUBMITTED, Event.ALLOCATED)))
            for room in range(1, len(TOKENS) + 1)
        )
    }
    assert max(waited_s.values()) > ITERATION_S
    assert (measured.mismatches, measured.rooms_left, measured.blocks_lost) == ([], 0, 0)
    record_property("simulated_s", simulated_s)
    record_property("measured_s", measured.end_s)
    assert measured.end_s > 0.9 * simulated_s  # emulated work cannot take less time than it is said to


def times_s(records: Iterable[Record], room: int, event: Event, rank_id: RankId) -> list[float]:
    return [one.time_s for one in records if (one.room, one.event, one.rank_id) == (room, event, rank_id)]


def test_two_writers_of_a_rank_for_two_language_instances() -> None:
    spec = msgspec.structs.replace(
        SERVED, language_tp=1, language_instances=2, language_blocks=100, encode_blocks=200, transfer_workers=2,
        services=ServiceTimes(encode_poll_interval_s=0.002, language_poll_interval_s=0.002),
    )  # fmt: skip
    requests = [
        Request(room, 0.01 * room, tokens, language_instance=room % 2) for room, tokens in enumerate(TOKENS * 2, 1)
    ]
    expected, _ = simulated(spec, requests)
    measured = run_real(spec, requests)
    assert differences(expected, measured.records, NAMES) == []
    assert (measured.mismatches, measured.rooms_left, measured.blocks_lost) == ([], 0, 0)
    assert measured.verified_rooms == len(requests)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_closed_loop_begins_the_next_request_when_one_is_over(concurrency: int) -> None:
    services = ServiceTimes(encode_base_s=0.02, preprocess_per_token_s=1e-4)
    spec = msgspec.structs.replace(SERVED, language_tp=1, release_after_prefill=False, services=services)
    requests = [Request(room, 100.0 + room, tokens) for room, tokens in enumerate(TOKENS, 1)]
    measured = run_real(spec, requests, concurrency=concurrency)
    assert measured.succeeded_rooms == set(range(1, len(TOKENS) + 1))
    submitted = measured.requests
    assert [(one.room, one.total_tokens) for one in submitted] == list(enumerate(TOKENS, 1))
    over_s = {one.room: measured.concluded_s({one.room}) for one in submitted}
    under_way = []
    for number, request in enumerate(submitted):
        under_way.append(1 + sum(over_s[one.room] > request.arrival_s for one in submitted[:number]))
        begun = [one.time_s for one in measured.records if (one.room, one.event) == (request.room, Event.SUBMITTED)]
        assert 0 <= request.arrival_s <= min(begun)
    assert under_way[:concurrency] == list(range(1, concurrency + 1))
    assert max(under_way) == concurrency
