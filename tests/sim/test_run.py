"""Whole runs: the first scenarios, all disciplines and group shapes, times by hand, deadlock, repeatability."""

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes, WriteFault
from bufferlab.protocol.messages import Iteration
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.sizing import RequestView, SizingPolicy
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.clock import Clock
from bufferlab.sim.cluster.cluster import Cluster
from bufferlab.sim.cluster.timers import Timers
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.observe import observe
from bufferlab.sim.run import simulate
from bufferlab.sim.streams import stream
from bufferlab.sim.workload import constant_mix, generate, load_mix

LINK = LinkProfile(
    name="test",
    latency_s=10e-6,
    per_segment_s=1e-6,
    bandwidth_Bps=1e9,
    control_latency_s=100e-6,
    copy_bandwidth_Bps=1e9,
)
FREE = LinkProfile(
    name="free",
    latency_s=0.0,
    per_segment_s=0.0,
    bandwidth_Bps=1e9,
    control_latency_s=0.0,
    copy_bandwidth_Bps=math.inf,
)
# 64 bf16 elements and 16 bytes of ids and positions: 144 bytes a token. 64 bytes of aux in the first chunk.
SMALL = Scenario(
    block_tokens=128,
    hidden=64,
    sizing_options={"tokens": 1024},
    timeout_s=None,
    services=ServiceTimes(encode_base_s=0.005, prefill_base_s=0.003),
)
ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)


def change(scenario: Scenario, **fields: object) -> Scenario:
    return msgspec.structs.replace(scenario, **fields)


def requests_of(lengths: Sequence[int], gap_s: float = 0.0) -> list[Request]:
    return [Request(room, room * gap_s, tokens) for room, tokens in enumerate(lengths)]


# --- the first scenarios -------------------------------------------------------------------------------------------


def test_500_tokens_fit_the_default_of_1024() -> None:
    run = observe(SMALL, requests_of([500]), LINK)
    assert run.path(0, ENCODE) == [(Status.Bootstrapping, 0), (Status.WaitingForInput, 0), (Status.Success, 500)]
    assert [step[0] for step in run.path(0, LANGUAGE)] == [
        Status.Bootstrapping,
        Status.WaitingForInput,
        Status.Success,
    ]
    assert (run.outcome.succeeded, run.outcome.failed, run.outcome.unfinished) == (1, 0, 0)
    assert run.outcome.bytes_written == run.outcome.bytes_landed == 500 * 144 + 64
    assert not run.outcome.deadlock


def test_2000_tokens_resume_once() -> None:
    run = observe(SMALL, requests_of([2000]), LINK)
    assert run.path(0, ENCODE) == [
        (Status.Bootstrapping, 0),
        (Status.WaitingForInput, 0),
        (Status.Transferring, 1024),
        (Status.Success, 2000),
    ]
    sent = [record.tokens for record in run.records if record.event in (Event.OFFERED, Event.RESUMED)]
    assert sent == [0, 1024]
    assert run.rows[0].chunks == 2


def test_a_failed_write_fails_the_request() -> None:
    run = observe(change(SMALL, faults=(WriteFault(0),)), requests_of([500, 500], 0.1), LINK)
    assert [row.status for row in run.rows] == ["Failed", "Success"]
    assert "injected fault" in run.rows[0].failure
    assert run.path(0, ENCODE)[-1][0] is run.path(0, LANGUAGE)[-1][0] is Status.Failed
    assert run.outcome.bytes_written - run.outcome.bytes_landed == 500 * 144 + 64
    assert not run.outcome.deadlock
    assert run.outcome.leftovers == ()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_every_discipline_on_every_shape_ends_empty(discipline: str, shape: tuple[int, int]) -> None:
    longest = 2500
    scenario = change(
        SMALL,
        discipline=discipline,
        encode_tp=shape[0],
        language_tp=shape[1],
        # The two that do not resume need the longest request to fit.
        sizing_options={"tokens": longest if discipline in ("slot", "default_fail") else 512},
    )
    lengths = [1, 128, 129, 512, 513, 1025, 640, longest, 77, 1999, 1024, 300]
    run = observe(scenario, requests_of(lengths, 0.004), LINK)
    assert run.outcome.succeeded == len(lengths)
    assert run.outcome.leftovers == ()
    assert not run.outcome.deadlock
    assert run.outcome.bytes_landed == shape[1] * sum(tokens * 144 + 64 for tokens in lengths)


def test_several_instances() -> None:
    scenario = change(SMALL, encode_instances=2, language_instances=3, encode_tp=2, language_tp=2)
    requests = [
        Request(room, room * 0.001, 2000, encode_instance=room % 2, language_instance=room % 3) for room in range(12)
    ]
    assert {(request.encode_instance, request.language_instance) for request in requests} == {
        (encode, language) for encode in range(2) for language in range(3)
    }
    run = observe(scenario, requests, LINK)
    assert run.outcome.succeeded == 12
    with pytest.raises(ValueError, match="room 0 wants encode instance 0 and language instance 3; there are 2 and 3"):
        observe(scenario, [Request(0, 0.0, 5, language_instance=3)], LINK)


# --- times by hand -------------------------------------------------------------------------------------------------


def test_the_latency_of_one_chunk() -> None:
    run = observe(SMALL, [Request(0, 0.0003, 500)], LINK)
    # Language iteration at 1 ms, offer 100 us, encode iteration at 2 ms, pass of 5 ms.
    assert run.times_s(0, Event.OFFERED) == [pytest.approx(0.001)]
    assert run.times_s(0, Event.OFFERS_COMPLETE) == [pytest.approx(0.0011)]
    assert run.times_s(0, Event.ENCODE_STARTED) == [pytest.approx(0.002)]
    assert run.times_s(0, Event.ENCODED) == [pytest.approx(0.007)]
    # Fresh pools are contiguous: 3 kinds and aux make 4 segments.
    landed_s = 0.007 + 10e-6 + 4e-6 + (500 * 144 + 64) / 1e9
    assert run.times_s(0, Event.CHUNK_DONE) == [pytest.approx(landed_s)]
    # The status arrives at 7.19 ms; language iteration at 8 ms, gather copy.
    assert run.times_s(0, Event.CHUNK_RECEIVED) == [pytest.approx(0.008)]
    assert run.rows[0].delivered_s == pytest.approx(0.008 + 500 * 144 / 1e9)
    # The encode iteration that was due during the pass is the first after it: 8 ms, the loop starts anew at 7 ms.
    assert run.times_s(0, Event.RELEASED, Side.ENCODE) == [pytest.approx(0.008)]


def test_what_the_operating_system_adds() -> None:
    link = msgspec.structs.replace(LINK, submit_latency_s=0.0005, wakeup_s=0.0001, copy_latency_s=0.0002)
    run = observe(SMALL, [Request(0, 0.0003, 500)], link)
    assert run.times_s(0, Event.SUBMITTED) == [pytest.approx(0.0008)] * 2
    # Iterations lie on the same grid, and each comes round 0.1 ms late.
    assert run.times_s(0, Event.OFFERED) == [pytest.approx(0.0011)]
    assert run.times_s(0, Event.ENCODE_STARTED) == [pytest.approx(0.0021)]
    assert run.times_s(0, Event.ENCODED) == [pytest.approx(0.0072)]
    assert run.times_s(0, Event.CHUNK_RECEIVED) == [pytest.approx(0.0081)]
    assert run.rows[0].delivered_s == pytest.approx(0.0083 + 500 * 144 / 1e9)
    assert run.rows[0].arrival_s == 0.0003


def test_the_latency_of_two_chunks() -> None:
    run = observe(SMALL, [Request(0, 0.0003, 2000)], LINK)
    landed_s = 0.007 + 10e-6 + 4e-6 + (1024 * 144 + 64) / 1e9
    assert run.times_s(0, Event.CHUNK_DONE)[0] == pytest.approx(landed_s)
    # Iteration at 8 ms; the copy delays the offer behind it.
    resumed_s = 0.008 + 1024 * 144 / 1e9
    assert run.times_s(0, Event.RESUMED) == [pytest.approx(resumed_s)]
    second_s = resumed_s + 100e-6 + 10e-6 + 3e-6 + 976 * 144 / 1e9  # no aux: 3 segments
    assert run.times_s(0, Event.CHUNK_DONE)[1] == pytest.approx(second_s)
    assert run.rows[0].delivered_s == pytest.approx(0.009 + 976 * 144 / 1e9)


def test_destinations_are_written_one_after_another() -> None:
    run = observe(change(SMALL, language_tp=2), [Request(0, 0.0003, 500)], LINK)
    write_s = 14e-6 + (500 * 144 + 64) / 1e9
    assert run.times_s(0, Event.WRITE_DONE) == [pytest.approx(0.007 + write_s), pytest.approx(0.007 + 2 * write_s)]


def test_requests_of_one_iteration_share_the_pass_and_prefill_delays_the_next_iteration() -> None:
    services = ServiceTimes(encode_per_token_s=1e-5, prefill_base_s=0.05, prefill_per_token_s=1e-5)
    run = observe(change(SMALL, services=services), [*requests_of([500, 100]), Request(2, 0.0095, 100)], LINK)
    for room in (0, 1):
        assert run.times_s(room, Event.ENCODED) == [pytest.approx(0.001 + 0.006)]
    # Language iteration at 8 ms: both copies, then a prefill over both; room 2 is seen only when it ends.
    busy_s = 600 * 144 / 1e9 + 0.05 + 0.006
    assert run.times_s(2, Event.OFFERED) == [pytest.approx(0.008 + busy_s)]


def test_rooms_wait_for_blocks_in_order() -> None:
    scenario = change(SMALL, language_blocks=8)  # one default of 1024 tokens
    run = observe(scenario, requests_of([500, 700, 100]), LINK)
    offered = [run.times_s(room, Event.OFFERED)[0] for room in range(3)]
    delivered = [run.times_s(room, Event.DELIVERED)[0] for room in range(3)]
    # Offer at 0, encode iteration at 1 ms, encoded at 6 ms, language iteration at 7 ms; the next room gets the blocks there,
    # behind the copy, and so on after a prefill of 3 ms.
    assert offered[0] == 0.0
    assert delivered[0] == offered[1] == pytest.approx(0.007 + 500 * 144 / 1e9)
    assert delivered[1] == offered[2]
    assert run.rows[1].delivered_s is not None
    # 7.17 ms offer, encode iteration at 8 ms (its loop started anew at 6 ms), encoded at 13 ms. The language loop was busy
    # until 10.072 ms and has an iteration every millisecond from there.
    assert delivered[1] == pytest.approx(0.007 + 500 * 144 / 1e9 + 0.003 + 0.004 + 700 * 144 / 1e9)
    blocked_s = offered[1] + offered[2]
    assert run.log.pools[Side.LANGUAGE].blocked_s == pytest.approx(blocked_s)
    assert run.log.pools[Side.LANGUAGE].peak_blocks == 8


def test_encode_source_blocks_that_come_free_are_granted_in_the_same_iteration() -> None:
    run = observe(change(SMALL, encode_blocks=4), requests_of([500, 500]), LINK)
    assert run.times_s(1, Event.ENCODE_STARTED)[0] == pytest.approx(run.times_s(0, Event.RELEASED, Side.ENCODE)[0])


def test_the_transfer_worker_is_an_m_d_1_queue() -> None:
    # No polling, no other delay: Poisson arrivals reach the worker as they are. Mean wait = rho s / (2 (1 - rho)).
    scenario = change(
        SMALL,
        sizing_options={"tokens": 1000},
        encode_blocks=4096,
        language_blocks=4096,
        services=ServiceTimes(encode_poll_interval_s=0.0, language_poll_interval_s=0.0),
    )
    service_s, rho, replications = (1000 * 144 + 64) / 1e9, 0.7, 10
    waits = []
    for replication in range(replications):
        started: dict[int, float] = {}
        waited: list[float] = []

        def keep(
            time_s: float, rank: RankId, room: int, event: Event, status: object, *rest: object,
            started: dict[int, float] = started, waited: list[float] = waited,
        ) -> None:  # fmt: skip
            if event is Event.CHUNK_STARTED:
                started[room] = time_s
            elif event is Event.CHUNK_DONE and room >= 100:  # the queue starts empty
                waited.append(time_s - started[room] - service_s)

        arrivals = generate(
            constant_mix(1000), rate_rps=rho / service_s, requests=1100, seed=5, replication=replication
        )
        simulate(scenario, arrivals, FREE, recorder=keep)
        waits.append(numpy.mean(waited))
    expected_s = rho * service_s / (2 * (1 - rho))
    half_width = 4.78 * numpy.std(waits, ddof=1) / math.sqrt(replications)  # t with 9 degrees of freedom, 99.9 %
    assert abs(numpy.mean(waits) - expected_s) < half_width < 0.25 * expected_s


# --- deadlock and timers -------------------------------------------------------------------------------------------

FOUR = requests_of([3 * 128] * 4)
TIGHT = change(SMALL, language_blocks=4, sizing_options={"tokens": 128})


def test_hold_and_wait_deadlocks_and_the_window_does_not() -> None:
    stuck = observe(change(TIGHT, discipline="alloc_then_free"), FOUR, LINK)
    assert stuck.outcome.deadlock
    assert stuck.outcome.unfinished == 4
    assert len(stuck.outcome.leftovers) == 2
    assert [row.status for row in stuck.rows] == ["Transferring"] * 4
    window = observe(change(TIGHT, discipline="window"), FOUR, LINK)
    assert (window.outcome.deadlock, window.outcome.succeeded) == (False, 4)


def test_timers_end_a_deadlock_and_it_is_remembered() -> None:
    run = observe(change(TIGHT, discipline="alloc_then_free", timeout_s=1.0), FOUR, LINK)
    assert run.outcome.deadlock
    assert run.outcome.unfinished == 0
    assert run.outcome.failed >= 1
    assert run.outcome.leftovers == ()
    assert any("timed out while waiting for" in row.failure for row in run.rows)
    assert 1.0 < run.outcome.end_s < 4.0


def test_timers_that_nothing_waits_for_do_not_lengthen_the_run() -> None:
    run = observe(change(SMALL, timeout_s=180.0), requests_of([500]), LINK)
    assert run.outcome.end_s < 0.02
    assert not run.outcome.deadlock


class Counting(SizingPolicy):
    """Answers with what it was asked before, as a policy may that learns from its own questions."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def first_tokens(self, view: RequestView) -> int:
        self.calls += 1
        return 128 * (1 + self.calls % 3)


@pytest.mark.parametrize("language_tp", [1, 2])
def test_looks_for_a_deadlock_change_nothing(language_tp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that counts its calls: the same history, and the same count on every rank, with a look at every event."""
    scenario = change(TIGHT, language_tp=language_tp, timeout_s=1.0)

    def run(*, looking: bool) -> tuple[list[Record], list[int]]:
        policies: list[Counting] = []

        def make(_: Scenario) -> Counting:
            policies.append(Counting())
            return policies[-1]

        monkeypatch.setattr(Scenario, "make_sizing", make)
        records: list[Record] = []
        clock = Clock()
        cluster = Cluster(scenario, LINK, clock, lambda *row: records.append(Record(*row)))
        cluster.feed(iter(requests_of([3 * 128] * 12)))
        while clock.busy or clock.reminders:
            if looking:
                cluster.look_for_deadlock()
            clock.step()
        cluster.note_rest()
        return records, [policy.calls for policy in policies]

    plain = run(looking=False)
    assert run(looking=True) == plain
    assert len(set(plain[1])) == 1
    assert plain[1][0] > 12, "rooms waited"


@pytest.mark.parametrize("resume_first", [True, False])
@pytest.mark.parametrize("discipline", ["window", "alloc_then_free", "free_then_alloc", "exact_announce"])
def test_a_core_names_the_same_waiting_rooms_one_by_one_and_in_its_queues(discipline: str, resume_first: bool) -> None:
    """At every event of runs with timers; a look for deadlocks asks for rooms by name where others would be many."""
    scenario = change(
        TIGHT, discipline=discipline, resume_first=resume_first, language_tp=2, timeout_s=0.05, encode_blocks=5
    )
    clock = Clock()
    cluster = Cluster(scenario, LINK, clock, lambda *_: None)
    cluster.feed(iter(requests_of([3 * 128] * 12)))
    waited = 0
    while clock.busy or clock.reminders:
        for core in cluster.timers._state.living:
            queues = [[demand.key for demand in queue] for queue in core.queues()]
            assert [sorted(keys) for keys in core.waiting_among(core.rooms.keys())] == [*map(sorted, queues)]
            assert not any(one for keys in core.waiting_among(set()) for one in keys)
            assert all(
                demand.blocks <= core.usable_blocks(demand.key)
                for queue in core.queues()
                for demand in queue
                if demand.key not in core.held_blocks()
            )
            waited += sum(map(len, queues))
        clock.step()
    assert waited > 100


@pytest.mark.parametrize("language_tp", [1, 2])
def test_a_group_decides_about_no_more_rooms_in_an_iteration_than_a_measured_one(language_tp: int) -> None:
    scenario = change(
        SMALL, discipline="exact_announce", language_tp=language_tp, encode_blocks=200, language_blocks=200
    )
    run = observe(scenario, requests_of([100] * 150), LINK)
    assert (run.outcome.succeeded, run.outcome.leftovers) == (150, ())
    at_once = Counter(one.time_s for one in run.records if (one.event, one.rank_id) == (Event.ANNOUNCED, LANGUAGE))
    assert sorted(at_once.values(), reverse=True) == ([150] if language_tp == 1 else [64, 64, 22])


def test_new_rooms_before_resumes() -> None:
    run = observe(change(TIGHT, resume_first=False, language_blocks=8), requests_of([384] * 12, 0.0005), LINK)
    assert run.outcome.succeeded == 12


# --- repeatability -------------------------------------------------------------------------------------------------

MIXED = change(SMALL, encode_blocks=200, language_blocks=150, encode_tp=2, language_tp=3)


def mixed_requests(seed: int = 3) -> list[Request]:
    return list(generate(load_mix("mixed"), rate_rps=150.0, requests=60, seed=seed))


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (observe(MIXED, mixed_requests(), LINK) for _ in range(2))
    assert msgspec.json.encode(first.records) == msgspec.json.encode(second.records)
    assert first.outcome == second.outcome
    other = observe(MIXED, mixed_requests(seed=4), LINK)
    assert msgspec.json.encode(first.records) != msgspec.json.encode(other.records)


def test_another_discipline_sees_the_same_requests() -> None:
    seen = []
    for discipline in ("window", "exact_announce"):
        run = observe(change(MIXED, discipline=discipline), mixed_requests(), LINK)
        seen.append(sorted((row.room, row.arrival_s, row.text_tokens, row.total_tokens) for row in run.rows))
    assert seen[0] == seen[1]


class RestlessTimers(Timers):
    """Hold every iteration of the grid while anything is unfinished, as a real polling loop does."""

    def set_reminder(self, group, core):  # type: ignore[no-untyped-def]
        if not group.iteration_due and (self._requests.outcomes or any(core.rooms for core in self._state.living)):
            self._host.plan_iteration(group, self._clock.now)


@pytest.mark.interpreted
@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_iterations_that_are_not_held_would_have_changed_nothing(
    discipline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def records(timers: type[Timers]) -> tuple[list[Record], int]:
        monkeypatch.setattr("bufferlab.sim.cluster.cluster.Timers", timers)
        found: list[Record] = []
        clock = Clock()
        cluster = Cluster(
            change(MIXED, discipline=discipline, resume_first=False),
            LINK,
            clock,
            lambda *row: found.append(Record(*row)),
        )
        cluster.feed(iter(mixed_requests()))
        clock.run_while_busy()
        return found, cluster.iterations.held

    lazy, lazy_iterations = records(Timers)
    restless, restless_iterations = records(RestlessTimers)
    assert lazy == restless
    assert lazy_iterations < restless_iterations


def test_requests_are_pulled_one_at_a_time_and_progress_is_told() -> None:
    pulled, concluded = [], []

    def source() -> list[Request]:
        for request in requests_of([500] * 5, 0.1):
            pulled.append((request.room, len(concluded)))
            yield request  # type: ignore[misc]

    simulate(SMALL, source(), LINK, progress=concluded.append)
    assert concluded == [1, 1, 1, 1, 1]  # as of a measured run: how many more
    assert pulled == [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3)]


def test_requests_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"room 1: arrival_s is 0\.5"):
        simulate(SMALL, [Request(0, 1.0, 5), Request(1, 0.5, 5)], LINK)


def test_no_requests_make_an_empty_run() -> None:
    outcome = observe(SMALL, [], LINK).outcome
    assert (outcome.end_s, outcome.submitted, outcome.events, outcome.deadlock) == (0.0, 0, 0, False)


# --- properties ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    discipline=st.sampled_from(["window", "exact_announce"]),
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=12),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    spare=st.integers(0, 4),
    default=st.integers(1, 900),
    gap_s=st.sampled_from([0.0, 0.0007, 0.003]),
)
def test_whatever_fits_completes(
    discipline: str, lengths: list[int], shape: tuple[int, int], spare: int, default: int, gap_s: float
) -> None:
    blocks = -(-max(lengths) // 64) + spare
    scenario = Scenario(
        block_tokens=64,
        hidden=8,
        discipline=discipline,
        sizing_options={"tokens": default},
        encode_tp=shape[0],
        language_tp=shape[1],
        encode_blocks=blocks,
        language_blocks=blocks,
        timeout_s=None,
        services=ServiceTimes(encode_base_s=0.002, prefill_per_token_s=1e-6),
    )
    run = observe(scenario, requests_of(lengths, gap_s), LINK)
    assert run.outcome.succeeded == len(lengths)
    assert not run.outcome.deadlock


@given(
    tokens=st.integers(1, 8000),
    bandwidths=st.tuples(st.floats(1e6, 1e12), st.floats(1e6, 1e12)).map(sorted),
    discipline=st.sampled_from(["window", "alloc_then_free", "free_then_alloc", "exact_announce"]),
)
@settings(max_examples=60, deadline=None)
def test_a_faster_link_never_delays_a_single_request(tokens: int, bandwidths: list[float], discipline: str) -> None:
    slow, fast = (
        observe(
            change(SMALL, discipline=discipline, encode_blocks=128, language_blocks=128),
            requests_of([tokens]),
            msgspec.structs.replace(LINK, bandwidth_Bps=bandwidth),
        )
        for bandwidth in bandwidths
    )
    assert fast.rows[0].delivered_s is not None
    assert slow.rows[0].delivered_s is not None
    assert fast.rows[0].delivered_s <= slow.rows[0].delivered_s


def test_an_iteration_is_only_a_function_of_what_it_finds() -> None:
    # What the driver relies on when it leaves iterations out: an empty one on an idle core asks for nothing.
    core = SMALL.make_language_rank(LANGUAGE, None)
    assert core.handle(Iteration(0, core.pool.blocks, 2**62), 0.0) == []
    assert not core.unsettled


def test_streams_are_named_not_shared() -> None:
    draws = {
        name: tuple(stream(1, 0, *name).random(3))
        for name in (("arrivals", ""), ("arrivals", 1), ("lengths", ""), ("lengths", 1))
    }
    assert len(set(draws.values())) == 4
    assert tuple(stream(1, 0, "arrivals", 1).random(3)) == draws["arrivals", 1]
    assert tuple(stream(1, 1, "arrivals", 1).random(3)) != draws["arrivals", 1]


@pytest.mark.parametrize("prefills", [False, True])
def test_what_is_recorded_costs_the_clock_nothing_and_comes_in_order(prefills: bool) -> None:
    """Records that wait for the end of a copy are no events: a run is the same whoever listens."""
    link = msgspec.structs.replace(LINK, copy_bandwidth_Bps=1e9)
    services = TIGHT.services if prefills else ServiceTimes()
    scenario = change(
        TIGHT, discipline="free_then_alloc", timeout_s=0.05, services=services, release_after_prefill=prefills
    )
    records: list[Record] = []
    alone = simulate(scenario, requests_of([3 * 128] * 12), link)
    heard = simulate(scenario, requests_of([3 * 128] * 12), link, recorder=lambda *row: records.append(Record(*row)))
    assert (heard.untold, alone.untold > 0) == (0, True)
    assert msgspec.structs.replace(alone, untold=0) == heard
    times_s = [record.time_s for record in records]
    assert times_s == sorted(times_s)
    ended = [record for record in records if record.event is Event.RELEASED]
    assert len(ended) == 12 * 2
    assert max(times_s) <= alone.end_s
