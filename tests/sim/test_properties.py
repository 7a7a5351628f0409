"""What must hold of any run: limits, symmetries, repeatability, and in which settings more is never worse.

Times that are multiples of a power of two are added without rounding, so two ways to the same time are compared for
equality wherever that is said.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import Value, replaced
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.observe import observe, violations_of
from bufferlab.sim.run import simulate

RESUMING = ("window", "exact_announce")
"""Disciplines that serve requests of any length and do not deadlock."""
TICK_S = 2.0**-16
"""About 15 µs. All times below are small multiples of it, so sums of them are exact."""

# 28 bytes a token, 64 more in the first chunk.
SMALL = Scenario(
    block_tokens=4,
    hidden=6,
    encode_blocks=64,
    language_blocks=32,
    sizing_options={"tokens": 16},
    timeout_s=None,
    services=ServiceTimes(
        encode_poll_interval_s=32 * TICK_S,
        language_poll_interval_s=48 * TICK_S,
        encode_base_s=100 * TICK_S,
        encode_per_token_s=TICK_S,
        prefill_base_s=50 * TICK_S,
        prefill_per_token_s=2 * TICK_S,
    ),
)
LINK = LinkProfile(
    name="dyadic",
    latency_s=3 * TICK_S,
    per_segment_s=TICK_S,
    bandwidth_Bps=2.0**18,
    control_latency_s=5 * TICK_S,
    copy_bandwidth_Bps=2.0**20,
)
FREE = LinkProfile(
    name="free",
    latency_s=0.0,
    per_segment_s=0.0,
    bandwidth_Bps=math.inf,
    control_latency_s=0.0,
    copy_bandwidth_Bps=math.inf,
)
AT_ONCE = ServiceTimes(encode_poll_interval_s=0.0, language_poll_interval_s=0.0)


def change(one: Any, **fields: Any) -> Any:
    return replaced(one, **fields) if isinstance(one, Value) else msgspec.structs.replace(one, **fields)


def records_of(scenario: Scenario, requests: Iterable[Request], link: LinkProfile) -> list[Record]:
    """All records of a run that keeps all invariants."""
    checker = InvariantMonitor(scenario)
    records: list[Record] = []

    def keep(*record: Any) -> None:
        records.append(Record(*record))
        checker(*record)

    outcome = simulate(scenario, checker.announced(requests), link, recorder=keep)
    assert violations_of(checker, outcome) == []
    return records


def by_room(records: Iterable[Record]) -> dict[tuple[int, RankId], list[Record]]:
    """Records by room and rank. What happens in different places at the same moment has no order to compare."""
    found: dict[tuple[int, RankId], list[Record]] = {}
    for record in records:
        found.setdefault((record.room, record.rank_id), []).append(record)
    return found


@st.composite
def request_lists(draw: st.DrawFn, most: int = 10, longest: int = 60, pairs: int = 1) -> list[Request]:
    """Requests in order of arrival; instances of both sides go together when there are several."""
    found, arrival = [], 0
    for room in range(draw(st.integers(1, most))):
        arrival += draw(st.sampled_from([0, 0, 1, 7, 48, 301, 2000]))
        pair = draw(st.integers(0, pairs - 1))
        found.append(
            Request(
                room,
                arrival * TICK_S,
                draw(st.integers(1, longest)),
                encode_factor=draw(st.sampled_from([0.5, 1.0, 4.0])),
                prefill_factor=draw(st.sampled_from([0.5, 1.0, 4.0])),
                encode_instance=pair,
                language_instance=pair,
            )
        )
    return found


few = settings(max_examples=25, deadline=None)

# --- limits --------------------------------------------------------------------------------------------------------


@few
@given(tokens=st.integers(1, 5000), bandwidth=st.floats(1.0, 1e12), arrival_s=st.floats(0, 1e3))
def test_one_rank_one_chunk_no_latency_takes_bytes_over_bandwidth(
    tokens: int, bandwidth: float, arrival_s: float
) -> None:
    scenario = change(
        SMALL, services=AT_ONCE, encode_blocks=2000, language_blocks=2000, sizing="oracle", sizing_options={}
    )
    run = observe(scenario, [Request(0, arrival_s, tokens)], change(FREE, bandwidth_Bps=bandwidth))
    assert run.rows[0].chunks == 1
    assert run.rows[0].delivered_s == arrival_s + (28 * tokens + 64) / bandwidth
    assert run.log.pools[Side.LANGUAGE].blocked_s == run.log.pools[Side.ENCODE].blocked_s == 0.0


@few
@given(requests=request_lists(), discipline=st.sampled_from(sorted(DISCIPLINES)))
def test_where_nothing_takes_time_everybody_is_served_on_arrival(requests: list[Request], discipline: str) -> None:
    scenario = change(
        SMALL, services=AT_ONCE, discipline=discipline, encode_blocks=1000, language_blocks=1000,
        sizing_options={"tokens": 64},
    )  # fmt: skip
    run = observe(scenario, requests, FREE)
    assert [row.delivered_s for row in sorted(run.rows, key=lambda row: row.room)] == [
        request.arrival_s for request in requests
    ]


@few
@given(requests=request_lists(), discipline=st.sampled_from(sorted(DISCIPLINES)))
def test_a_pool_that_never_fills_is_as_good_as_a_larger_one(requests: list[Request], discipline: str) -> None:
    found = [
        records_of(
            change(
                SMALL, discipline=discipline, encode_blocks=blocks, language_blocks=blocks,
                sizing_options={"tokens": 64},
            ),
            requests, LINK,
        )
        for blocks in (16 * len(requests), 5000)
    ]  # fmt: skip
    assert found[0] == found[1]
    # Nobody waits for blocks, so whoever need not wait for its length is offered some in the order of arrival.
    offered = [record.room for record in found[0] if record.event is Event.OFFERED]
    assert discipline == "exact_announce" or offered == sorted(offered)


# --- repeatability -------------------------------------------------------------------------------------------------


@few
@given(requests=request_lists(), discipline=st.sampled_from(RESUMING), shape=st.tuples(*[st.integers(1, 3)] * 2))
def test_the_rows_of_a_run_are_requests_that_give_the_same_run(
    requests: list[Request], discipline: str, shape: tuple[int, int]
) -> None:
    plain = [change(request, encode_factor=1.0, prefill_factor=1.0) for request in requests]
    scenario = change(SMALL, discipline=discipline, encode_tp=shape[0], language_tp=shape[1])
    first = observe(scenario, plain, LINK)
    again = [
        Request(row.room, row.arrival_s, row.total_tokens, row.text_tokens, row.images)
        for row in sorted(first.rows, key=lambda row: row.room)
    ]
    second = observe(scenario, again, LINK)
    assert msgspec.json.encode(first.records) == msgspec.json.encode(second.records)
    assert (first.outcome, first.rows) == (second.outcome, second.rows)


# A deadlock that stands while the copies of an iteration go on.
@example(
    requests=[
        Request(room, 0.0, tokens, encode_factor=0.5, prefill_factor=0.5) for room, tokens in enumerate([1, 49, 17, 1])
    ],
    discipline="alloc_then_free",
    timeout_s=0.01,
)
@few
@given(
    requests=request_lists(), discipline=st.sampled_from(sorted(DISCIPLINES)), timeout_s=st.sampled_from([0.01, 9.0])
)
def test_recording_changes_nothing(requests: list[Request], discipline: str, timeout_s: float) -> None:
    scenario = change(SMALL, discipline=discipline, timeout_s=timeout_s, language_blocks=16)
    # Only these differ: the end of a prefill pass that nobody else is told is one more call for a recorder, and details
    # that no recorder wants are only counted.
    bare, recorded, logged, observed = (
        change(outcome, events=0, untold=0)
        for outcome in (
            simulate(scenario, requests, LINK),
            simulate(scenario, requests, LINK, recorder=lambda *record: None),
            simulate(scenario, requests, LINK, run_log=RunLog(scenario, lambda row: None)),
            observe(scenario, requests, LINK).outcome,
        )
    )
    assert bare == recorded == logged == observed


IN_ANOTHER_PROCESS = """
import hashlib, msgspec
from bufferlab.sim.observe import observe
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.workload import generate, load_mix
from bufferlab.protocol.emulation.scenario import Scenario
scenario = Scenario(block_tokens=64, hidden=64, encode_tp=2, language_tp=3, encode_blocks=400, language_blocks=200)
requests = generate(load_mix("mixed"), rate_rps=150.0, requests=30, seed=7)
records = observe(scenario, requests, load_profile("cx7-400g")).records
print(hashlib.sha256(msgspec.json.encode(records)).hexdigest())
"""


def test_the_same_seed_gives_the_same_bytes_in_every_process() -> None:
    # Python salts the hashes of texts anew in each process, which would show in the order of a set.
    root = Path(__file__).resolve().parents[2]
    found = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": salt},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == len(hashlib.sha256().hexdigest())


# --- symmetries ----------------------------------------------------------------------------------------------------


@few
@given(
    requests=request_lists(),
    discipline=st.sampled_from(sorted(DISCIPLINES)),
    power=st.integers(-4, 4),
    cut=st.booleans(),
)
def test_a_run_with_all_times_doubled_is_the_same_run(
    requests: list[Request], discipline: str, power: int, cut: bool
) -> None:
    # So no constant of the simulator is a time. (The protocol has some, for messages that get lost.)
    factor = 2.0**power
    scenario = change(
        SMALL, discipline=discipline, resume_tokens=8 if cut else None, sizing_options={"tokens": 8 if cut else 60}
    )
    services = scenario.services
    scaled = change(
        scenario,
        services=change(services, **{name: factor * getattr(services, name) for name in services.__struct_fields__ if name.endswith("_s")}),
    )  # fmt: skip
    link = change(
        LINK,
        latency_s=factor * LINK.latency_s,
        per_segment_s=factor * LINK.per_segment_s,
        control_latency_s=factor * LINK.control_latency_s,
        bandwidth_Bps=LINK.bandwidth_Bps / factor,
        copy_bandwidth_Bps=LINK.copy_bandwidth_Bps / factor,
    )
    first = records_of(scenario, requests, LINK)
    second = records_of(scaled, [change(one, arrival_s=factor * one.arrival_s) for one in requests], link)
    assert second == [record._replace(time_s=factor * record.time_s) for record in first]


@few
@given(requests=request_lists(), discipline=st.sampled_from(RESUMING), first=st.integers(0, 2**40))
def test_the_numbers_of_rooms_mean_nothing(requests: list[Request], discipline: str, first: int) -> None:
    scenario = change(SMALL, discipline=discipline)
    renamed = [change(request, room=first + 17 * request.room) for request in requests]
    assert records_of(scenario, renamed, LINK) == [
        record._replace(room=first + 17 * record.room) for record in records_of(scenario, requests, LINK)
    ]


@few
@given(requests=request_lists(), discipline=st.sampled_from(RESUMING), ranks=st.integers(2, 4))
def test_a_group_of_equal_ranks_is_as_fast_as_one(requests: list[Request], discipline: str, ranks: int) -> None:
    one = change(SMALL, discipline=discipline)
    many = change(one, encode_tp=ranks, language_tp=ranks)
    alone = records_of(one, requests, LINK)
    together = records_of(many, requests, LINK)
    assert len(together) == ranks * len(alone)
    for rank in range(ranks):
        renamed = [
            record._replace(
                rank_id=record.rank_id._replace(rank=rank),
                detail=str(RankId(Side.LANGUAGE, 0, rank)) if record.detail else "",
            )
            for record in alone
        ]
        own = [record for record in together if record.rank_id.rank == rank]
        # Which of two rooms comes first within one moment may differ: a group is asked for rooms that one rank is not.
        assert sorted(own, key=repr) == sorted(renamed, key=repr)


@few
@given(requests=request_lists(pairs=2, most=14), discipline=st.sampled_from(RESUMING), shared=st.booleans())
def test_instances_that_have_nothing_to_do_with_each_other_do_not_meet(
    requests: list[Request], discipline: str, shared: bool
) -> None:
    scenario = change(SMALL, discipline=discipline, encode_instances=2, language_instances=2)
    link = change(LINK, shared_by="rank" if shared else "nobody")
    together = records_of(scenario, requests, link)
    for pair in range(2):
        alone = records_of(scenario, [one for one in requests if one.encode_instance == pair], link)
        assert [record for record in together if record.rank_id.instance == pair] == alone


@few
@given(requests=request_lists(), discipline=st.sampled_from(sorted(DISCIPLINES)), seen=st.integers(1, 10))
def test_nothing_happens_because_of_what_comes_later(requests: list[Request], discipline: str, seen: int) -> None:
    scenario = change(SMALL, discipline=discipline, language_blocks=16)
    whole = observe(scenario, requests, LINK).records
    part = observe(scenario, requests[:seen], LINK).records
    until_s = requests[seen].arrival_s if seen < len(requests) else math.inf
    assert [record for record in whole if record.time_s < until_s] == [
        record for record in part if record.time_s < until_s
    ]


# --- settings that come to the same --------------------------------------------------------------------------------


@few
@given(requests=request_lists(pairs=2), discipline=st.sampled_from(RESUMING), adapters=st.sampled_from([1, 2]))
def test_sharing_with_nobody_is_not_sharing(requests: list[Request], discipline: str, adapters: int) -> None:
    # Two pairs of instances take the way of events, each pair alone that of arithmetic. The times are exact.
    apart = change(SMALL, discipline=discipline, encode_instances=2, language_instances=2)
    for scenario, some in (
        (apart, requests),
        (change(SMALL, discipline=discipline), [one for one in requests if one.encode_instance == 0]),
    ):
        by_rank, by_instance, nobody = (
            by_room(records_of(scenario, some, change(LINK, shared_by=shared_by, adapters=adapters)))
            for shared_by in ("rank", "instance", "nobody")
        )
        assert by_rank == by_instance == nobody


@few
@given(requests=request_lists(), discipline=st.sampled_from(RESUMING), workers=st.integers(2, 5))
def test_more_transfer_workers_than_language_instances_change_nothing(
    requests: list[Request], discipline: str, workers: int
) -> None:
    scenario = change(SMALL, discipline=discipline, language_tp=2)
    link = change(LINK, shared_by="rank")
    assert records_of(scenario, requests, link) == records_of(
        change(scenario, transfer_workers=workers), requests, link
    )


@few
@given(requests=request_lists(), discipline=st.sampled_from(sorted(DISCIPLINES)), late=st.booleans())
def test_no_limit_of_a_pass_is_a_limit_that_nobody_reaches(
    requests: list[Request], discipline: str, late: bool
) -> None:
    scenario = change(SMALL, discipline=discipline, release_after_prefill=late)
    none = observe(scenario, requests, LINK)
    large = observe(change(scenario, encode_batch=10**6, prefill_batch_tokens=10**9), requests, LINK)
    assert (none.records, none.outcome) == (large.records, large.outcome)


# --- more is never worse, and where it is --------------------------------------------------------------------------

Setting = dict[str, Any]

ONE_CHUNK = st.sampled_from(
    [
        {"discipline": "slot", "sizing_options": {"tokens": 60}},
        {"discipline": "default_fail", "sizing_options": {"tokens": 60}},
        {"discipline": "exact_announce"},
    ]
)
"""Disciplines in which a request is written at once, in the order of the queues before the writer."""


def delivered_s(scenario: Scenario, requests: list[Request], link: LinkProfile) -> dict[int, float]:
    """When each request was delivered."""
    found = {
        record.room: record.time_s for record in records_of(scenario, requests, link) if record.event is Event.DELIVERED
    }
    assert len(found) == len(requests)
    return found


def none_is_later(better: dict[int, float], worse: dict[int, float]) -> bool:
    """Whether no request is delivered later than it was, beyond rounding."""
    return all(better[room] <= worse[room] * (1 + 1e-12) + 1e-12 for room in worse)


@settings(max_examples=40, deadline=None)
@given(
    requests=request_lists(),
    setting=ONE_CHUNK,
    bandwidths=st.tuples(*[st.floats(1e3, 1e7)] * 2).map(sorted),
    pools=st.tuples(*[st.integers(15, 64)] * 2),
    passes=st.booleans(),
)
def test_a_faster_link_delays_nobody_where_all_queues_are_first_come_first_served(
    requests: list[Request], setting: Setting, bandwidths: list[float], pools: tuple[int, int], passes: bool
) -> None:
    # Then every time is a maximum of sums of earlier ones, and in each of these a shorter write is no more. Two things
    # take part in the order or the phase of what follows and are left out: prefill passes, which occupy the loop that
    # makes offers, and a polling loop together with passes, whose ends begin its grid anew.
    services = (
        ServiceTimes(encode_poll_interval_s=0.0, language_poll_interval_s=0.0, encode_per_token_s=20 * TICK_S)
        if passes
        else ServiceTimes(encode_poll_interval_s=32 * TICK_S, language_poll_interval_s=48 * TICK_S)
    )
    scenario = change(
        SMALL, services=services, encode_batch=1, encode_blocks=pools[0], language_blocks=pools[1], **setting
    )
    slow, fast = (
        delivered_s(scenario, requests, change(LINK, bandwidth_Bps=bandwidth, copy_bandwidth_Bps=math.inf))
        for bandwidth in bandwidths
    )
    assert none_is_later(fast, slow)


@settings(max_examples=40, deadline=None)
@given(
    requests=request_lists(),
    setting=ONE_CHUNK,
    language=st.tuples(*[st.integers(15, 80)] * 2).map(sorted),
    encode=st.tuples(*[st.integers(15, 80)] * 2).map(sorted),
)
def test_larger_pools_delay_nobody_where_all_queues_are_first_come_first_served(
    requests: list[Request], setting: Setting, language: list[int], encode: list[int]
) -> None:
    # A prefill takes no time here: one that begins sooner may hold up an offer, as in the first anomaly below. Nor does
    # a segment: a pool with more room may have its free blocks in other runs.
    services = ServiceTimes(encode_poll_interval_s=0.0, language_poll_interval_s=0.0, encode_per_token_s=20 * TICK_S)
    scenario = change(SMALL, services=services, encode_batch=1, prefill_batch_tokens=1, **setting)
    link = change(LINK, copy_bandwidth_Bps=math.inf, per_segment_s=0.0)
    small, large = (
        delivered_s(change(scenario, encode_blocks=source, language_blocks=target), requests, link)
        for source, target in zip(encode, language, strict=True)
    )
    assert none_is_later(large, small)


# 28 bytes a token and 64 in the first chunk, as above; blocks of one token and times in seconds.
ANOMALY = change(
    SMALL, block_tokens=1, encode_blocks=1000, language_blocks=1000, encode_batch=1, prefill_batch_tokens=1,
    services=change(AT_ONCE, encode_per_image_s=1.0, prefill_base_s=0.7, prefill_per_token_s=0.3),
)  # fmt: skip


def test_anomaly_a_faster_link_delays_a_request_that_comes_during_a_prefill() -> None:
    # The first one is delivered sooner, and its prefill holds up the loop that would have made the second an offer.
    requests = [Request(0, 2.0, 6, encode_factor=0.5, prefill_factor=1.0), Request(1, 4.0, 3, encode_factor=1.0)]
    scenario = change(ANOMALY, discipline="slot", sizing_options={"tokens": 8})
    slow, fast = (delivered_s(scenario, requests, change(FREE, bandwidth_Bps=rate)) for rate in (150.0, 400.0))
    assert fast[0] < slow[0]
    assert fast[1] > slow[1] + 0.1


def test_anomaly_more_source_blocks_delay_a_request_that_comes_in_chunks() -> None:
    # More rooms are in transfer at a time, and the one writer takes their chunks in turn.
    requests = [Request(0, 5.0, 3), Request(1, 5.0, 5), Request(2, 7.0, 6)]
    services = change(AT_ONCE, encode_per_image_s=1.0)
    scenario = change(ANOMALY, services=services, discipline="window", sizing_options={"tokens": 4}, resume_tokens=1)
    link = change(FREE, bandwidth_Bps=16.0)
    few_blocks, many = (delivered_s(change(scenario, encode_blocks=blocks), requests, link) for blocks in (8, 29))
    assert many[1] > few_blocks[1] + 1.0
    assert many[2] < few_blocks[2]


def test_anomaly_a_larger_language_pool_delays_a_request_that_comes_in_chunks() -> None:
    # Another one is let in earlier, and its chunk comes before the last chunk of this one.
    lengths = [(2.0, 7), (7.0, 6), (8.0, 4), (10.0, 8), (15.0, 7), (17.0, 2)]
    requests = [Request(room, arrival_s, tokens) for room, (arrival_s, tokens) in enumerate(lengths)]
    scenario = change(ANOMALY, services=AT_ONCE, discipline="window", sizing_options={"tokens": 4})
    link = change(FREE, bandwidth_Bps=16.0, control_latency_s=0.0137)
    small, large = (delivered_s(change(scenario, language_blocks=blocks), requests, link) for blocks in (20, 31))
    assert large[1] > small[1] + 1.0
    assert large[5] < small[5]


def test_anomaly_passes_without_a_limit_make_a_faster_link_delay_a_request() -> None:
    # Memory comes free a little sooner, a pass begins with fewer requests, and those that just miss it wait for its end.
    requests = [Request(0, 0.0, 3), Request(1, 2.0, 3, encode_factor=3.0), Request(2, 2.0, 4, encode_factor=3.0)]
    scenario = change(
        ANOMALY, services=change(AT_ONCE, encode_per_image_s=1.0), encode_batch=None, discipline="exact_announce",
        language_blocks=10, encode_blocks=8,
    )  # fmt: skip
    slow, fast = (delivered_s(scenario, requests, change(FREE, bandwidth_Bps=rate)) for rate in (92.0, 150.0))
    assert fast[0] < slow[0]
    assert fast[1] > slow[1] + 1.0
