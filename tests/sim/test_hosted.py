"""The cluster on few processors: the same decisions as the other, later; and what only it can do."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.faults import Restart
from bufferlab.protocol.messages import Action, Conclude, CopyOut, Deliver, StartEncode
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.chaos import draw_case, run_case
from bufferlab.sim.clock import Clock
from bufferlab.sim.cluster.cluster import Cluster
from bufferlab.sim.cluster.dedicated import DedicatedProcessors
from bufferlab.sim.cluster.shared import SharedHost
from bufferlab.sim.faults import FaultPlan, PlannedFaults
from bufferlab.sim.host.costs import SPREADS, HostCosts, host_from
from bufferlab.sim.network.link import LinkProfile, profile_from
from bufferlab.sim.observe import observe
from bufferlab.sim.run import simulate
from bufferlab.sim.streams import stream

COSTS = HostCosts(
    processors=2,
    input_s=100e-6,
    iteration_s=100e-6,
    message_s=50e-6,
    command_s=80e-6,
    fill_bandwidth_Bps=8e9,
    write_processors=1.2,
    collective_processors=0.5,
    collective_quantiles_s=(300e-6, 400e-6, 500e-6),
)
LINK = LinkProfile(
    name="small host",
    latency_s=0.3e-3,
    per_segment_s=0.1e-3,
    bandwidth_Bps=2.4e9,
    control_latency_s=0.25e-3,
    copy_bandwidth_Bps=12e9,
    submit_latency_s=0.6e-3,
    wakeup_s=0.15e-3,
    shared_by="rank",
    host=COSTS,
)
SCENARIO = Scenario(
    block_tokens=128,
    hidden=2048,
    encode_blocks=512,
    language_blocks=256,
    sizing_options={"tokens": 1024},
    timeout_s=60.0,
    services=ServiceTimes(encode_per_token_s=1e-6),
)


def change(one: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(one, **fields)


def on(processors: float, **costs: Any) -> LinkProfile:
    """The link on a host with so many processors."""
    return change(LINK, host=change(COSTS, processors=processors, **costs))


def evenly(number: int, every_s: float, tokens: int = 1500) -> list[Request]:
    return [Request(room, room * every_s, tokens) for room in range(number)]


def decisions(records: list[Record]) -> dict[tuple[int, RankId], list[tuple[Any, ...]]]:
    """What every rank decided for every room, in order, without its times."""
    found: dict[tuple[int, RankId], list[tuple[Any, ...]]] = {}
    for one in records:
        found.setdefault((one.room, one.rank_id), []).append((one.event, one.status, one.tokens))
    return found


def latencies(scenario: Scenario, requests: list[Request], link: LinkProfile) -> list[float]:
    return [row.delivered_s - row.arrival_s for row in observe(scenario, requests, link).rows]


# --- alone: the latencies of the profile ---


@pytest.mark.parametrize("tokens", [300, 1024, 3000])
def test_a_request_that_is_alone_takes_as_long_as_without_a_host(tokens: int) -> None:
    # Free of its own wake: what its ranks do after an input or an iteration can meet its next step.
    quiet = on(math.inf, iteration_s=0.0, input_s=0.0)
    with_host, without = (
        latencies(SCENARIO, [Request(0, 0.0, tokens)], link)[0] for link in (quiet, change(LINK, host=None))
    )
    # Iterations lie on a grid of 1 ms, so a microsecond of rounding could move one by a period.
    assert with_host == pytest.approx(without, abs=1e-9)


def test_its_own_wake_moves_a_lone_request_by_an_iteration_at_most() -> None:
    with_host, without = (
        latencies(SCENARIO, [Request(0, 0.0, 3000)], link)[0] for link in (LINK, change(LINK, host=None))
    )
    assert abs(with_host - without) < SCENARIO.services.language_poll_interval_s + 0.5e-3


# --- what an iteration and a sleep cost ---


def firsts(link: LinkProfile, event: Event, scenario: Scenario = SCENARIO) -> list[float]:
    """When it first happened to each of some requests that do not meet."""
    found: dict[int, float] = {}
    for one in observe(scenario, evenly(6, 0.211), link).records:
        if one.event is event:
            found.setdefault(one.room, one.time_s)
    return list(found.values())


def on_the_grid(times_s: list[float], period_s: float) -> list[float]:
    """How long after an iteration was due each of them is."""
    return [math.fmod(one + 1e-9, period_s) - 1e-9 for one in times_s]


def test_the_work_of_an_iteration_comes_before_what_it_decides() -> None:
    scenario = change(SCENARIO, services=ServiceTimes(language_poll_interval_s=0.01, encode_per_token_s=1e-6))
    link = change(on(math.inf, iteration_s=0.4e-3), wakeup_s=0.0)
    for event in (Event.OFFERED, Event.CHUNK_RECEIVED):
        assert on_the_grid(firsts(link, event, scenario), 0.01) == pytest.approx([0.4e-3] * 6, abs=1e-8)


@pytest.mark.parametrize(("iteration_s", "late_s"), [(0.015, 0.9e-3), (0.002, 0.3e-3)])
def test_a_loop_wakes_up_later_from_a_sound_sleep_than_from_a_nap(iteration_s: float, late_s: float) -> None:
    services = ServiceTimes(language_poll_interval_s=iteration_s, encode_per_token_s=1e-6)
    link = change(on(math.inf, asleep_after_s=2.5e-3, nap_wakeup_s=0.3e-3), wakeup_s=0.9e-3)
    found = on_the_grid(firsts(link, Event.CHUNK_RECEIVED, change(SCENARIO, services=services)), iteration_s)
    # The nap ends when the clock says so; a sound sleep does unless a message came shortly before the iteration.
    assert found == pytest.approx([late_s] * 6, abs=1e-8)


def test_the_first_copy_after_a_sound_sleep_takes_longer() -> None:
    copies: dict[tuple[float, float], list[float]] = {}
    for iteration_s in (0.015, 0.001):
        services = ServiceTimes(language_poll_interval_s=iteration_s, encode_per_token_s=1e-6)
        for cold_s in (0.0, 0.7e-3):
            link = on(math.inf, asleep_after_s=3e-3, cold_copy_s=cold_s)
            records = observe(change(SCENARIO, services=services), evenly(6, 0.211, tokens=900), link).records
            ends = [[one.time_s for one in records if one.event is event] for event in
                    (Event.CHUNK_RECEIVED, Event.DELIVERED)]  # fmt: skip
            copies[iteration_s, cold_s] = [end_s - begin_s for begin_s, end_s in zip(*ends, strict=True)]
    longer = [[b - a for a, b in zip(copies[iteration_s, 0.0], copies[iteration_s, 0.7e-3], strict=True)] for iteration_s in
              (0.015, 0.001)]  # fmt: skip
    assert longer[0] == pytest.approx([0.7e-3] * 6, abs=1e-9)
    assert longer[1] == pytest.approx([0.0] * 6, abs=1e-9)


# --- together: slower, the fewer processors there are; and the same decisions ---


def test_fewer_processors_make_it_slower_and_more_than_enough_change_nothing() -> None:
    requests = evenly(60, 0.004)
    mean = {count: sum(latencies(SCENARIO, requests, on(count))) / len(requests) for count in (1, 2, 4, 64, math.inf)}
    assert mean[1] > mean[2] > mean[4] >= mean[64]
    assert mean[64] == mean[math.inf]
    assert mean[2] > 1.1 * mean[64]


def test_processors_are_never_more_than_busy() -> None:
    clock = Clock()
    cluster = Cluster(SCENARIO, LINK, clock)
    assert isinstance(cluster.host, SharedHost)
    cluster.feed(iter(evenly(50, 0.004)))
    clock.run_while_busy()
    assert cluster.requests.succeeded == 50
    assert cluster.empty
    assert 0 < cluster.host.processors.busy_s <= 2 * clock.now
    # Writes alone keep 1.2 processors busy for as long as the link says, less what the rank's thread has of it.
    assert cluster.host.processors.busy_s > 1.2 * 50 * (1500 * 4108 / LINK.bandwidth_Bps)


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize(("encode_tp", "language_tp"), [(1, 1), (1, 2), (2, 3)])
def test_what_is_decided_of_requests_that_do_not_meet_is_the_same(
    discipline: str, encode_tp: int, language_tp: int
) -> None:
    scenario = change(SCENARIO, discipline=discipline, encode_tp=encode_tp, language_tp=language_tp)
    requests = [Request(room, 0.2 * room, tokens) for room, tokens in enumerate((1, 900, 1024, 2500, 4000))]
    hosted, plain = (observe(scenario, requests, link) for link in (LINK, change(LINK, host=None)))
    assert decisions(hosted.records) == decisions(plain.records)
    assert hosted.outcome.bytes_landed == plain.outcome.bytes_landed


def test_the_same_seed_gives_the_same_bytes_and_another_other_all_reduces() -> None:
    scenario = change(SCENARIO, language_tp=2)

    def ends(seed: int, replication: int = 0) -> list[Record]:
        records: list[Record] = []
        keep = lambda *row: records.append(Record(*row))  # noqa: E731
        simulate(
            scenario, evenly(20, 0.01), LINK, recorder=keep, draws=lambda name: stream(seed, replication, "host", name)
        )
        return records

    assert ends(1) == ends(1)
    assert ends(1) != ends(2)
    assert ends(1) != ends(1, replication=1)


@pytest.mark.parametrize("field", SPREADS)
def test_what_varies_does_so_about_its_mean(field: str) -> None:
    requests = evenly(40, 0.1)
    steady, same, varied, twice = (
        latencies(SCENARIO, requests, on(2, **{field: factors}))
        for factors in ((1.0,), (1.0, 1.0), (0.25, 1.75), (2.0,))
    )
    assert same == steady
    assert len(set(varied)) > len(set(steady))
    assert sum(twice) > sum(steady)
    # Iterations lie on a grid, so a mean over 40 requests need not be met by more than a part of a period each.
    assert sum(varied) == pytest.approx(sum(steady), rel=0.06)


def test_no_request_and_no_message_overtakes_another() -> None:
    scenario = change(SCENARIO, language_tp=2)
    link = on(2, submit_spread=(0.1, 1.0, 30.0), control_spread=(0.5, 1.0, 10.0))
    records = observe(scenario, evenly(60, 0.001, tokens=200), link).records
    taken: dict[RankId, list[int]] = {}
    for one in records:
        if one.event is Event.SUBMITTED:
            taken.setdefault(one.rank_id, []).append(one.room)
    assert len(taken) == 3
    assert all(rooms == list(range(60)) for rooms in taken.values())
    offers = [(one.rank_id, one.room) for one in records if one.event is Event.OFFERED]
    came = [one.room for one in records if one.event is Event.OFFER_RECEIVED]
    assert [room for rank_id, room in offers if rank_id.rank == 0] == list(dict.fromkeys(came))


# --- groups: all-reduces all the time ---


def test_the_ranks_of_a_group_come_together_while_nothing_is_due() -> None:
    one, two = (observe(change(SCENARIO, language_tp=tp), evenly(20, 0.02), LINK).outcome for tp in (1, 2))
    assert one.iterations < 200  # 20 requests, some iterations each
    assert two.iterations > 300  # 0.4 s of an iteration every millisecond


def test_longer_all_reduces_make_groups_slower_and_leave_lone_ranks_alone() -> None:
    slow = change(LINK, host=change(COSTS, collective_quantiles_s=(3e-3, 4e-3)))
    for language_tp, slower in ((1, False), (2, True)):
        scenario = change(SCENARIO, language_tp=language_tp)
        fast_s, slow_s = (sum(latencies(scenario, evenly(20, 0.02), link)) for link in (LINK, slow))
        assert (slow_s > 1.5 * fast_s) if slower else (slow_s == fast_s)


@pytest.mark.parametrize("timeout_s", [None, 0.5])
def test_idle_iterations_do_not_keep_a_deadlock_going_for_ever(timeout_s: float | None) -> None:
    # Both requests hold what the other needs, and both groups iterate.
    scenario = change(
        SCENARIO, encode_tp=2, language_tp=2, language_blocks=16, discipline="alloc_then_free", timeout_s=timeout_s,
    )  # fmt: skip
    slow = change(LINK, host=change(COSTS, collective_quantiles_s=(5e-3,)))
    run = observe(scenario, [Request(room, 0.0, 2000) for room in range(2)], slow)
    assert run.outcome.deadlock
    assert run.outcome.unfinished == (2 if timeout_s is None else 0)
    assert run.outcome.end_s < 2.0


# --- faults ---


def test_chaos_on_few_processors_violates_no_invariant() -> None:
    cases = (draw_case(seed) for seed in range(400))
    hosted = [case for case in cases if case.link.host is not None]
    assert len(hosted) > 60
    violations = [outcome for outcome in map(run_case, hosted) if outcome.violations]
    assert violations == []


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0005, 0.03), st.sampled_from(Side))
def test_whoever_dies_in_the_middle_of_anything_leaves_nothing_behind(time_s: float, side: Side) -> None:
    plan = FaultPlan(seed=0, incidents=(Restart(time_s=time_s, instance=(side, 0), lasts_s=0.05),))
    records: list[Record] = []
    outcome = simulate(
        change(SCENARIO, language_tp=2), evenly(8, 0.002), LINK, faults=PlannedFaults(plan),
        recorder=lambda *row: records.append(Record(*row)),
    )  # fmt: skip
    assert (outcome.unfinished, outcome.leftovers) == (0, ())
    assert outcome.succeeded + outcome.failed == 8
    assert sum(one.event is Event.RELEASED for one in records) == 3 * 8


def test_no_two_processes_and_no_two_threads_live_through_the_same_noise() -> None:
    """Every stream is somebody's alone: a process that is started again does not repeat what the one before met."""
    many = dict.fromkeys(SPREADS, (0.0, 1.0, 2.0))
    incidents = tuple(Restart(time_s=0.004, instance=(side, 0), lasts_s=0.002) for side in Side)
    names: list[str] = []

    def draws(name: str) -> Any:
        names.append(name)
        return stream(0, 0, "host", name)

    outcome = simulate(
        change(SCENARIO, encode_tp=2, language_tp=2, transfer_workers=2, language_instances=2), evenly(20, 0.001),
        on(2, **many), faults=PlannedFaults(FaultPlan(incidents=incidents)), draws=draws,
    )  # fmt: skip
    assert outcome.succeeded > 0
    assert len(set(names)) == len(names)
    for what in ("wake-ups of encode0", "all-reduces of language0", "writes of encode0.1 by worker 1", "copies of"):
        assert any(name.startswith(what) and name.endswith(", process 1") for name in names), what


# --- the profile ---


def test_a_host_is_read_from_its_table() -> None:
    table = {"latency_s": 0, "per_segment_s": 0, "bandwidth_Bps": 1, "control_latency_s": 0, "copy_bandwidth_Bps": 1}
    host = profile_from({**table, "host": {"processors": 2, "collective_quantiles_s": [0.1, 0.2]}}, name="mine").host
    assert host == HostCosts(processors=2.0, collective_quantiles_s=(0.1, 0.2))
    assert profile_from(table, name="mine").host is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (3, "must be a table"),
        ({"cores": 2}, "unknown field 'cores'"),
        ({"processors": 0}, "processors is 0.0, it must be above 0"),
        ({"input_s": -1}, "input_s is -1.0, it must be at least 0"),
        ({"input_s": "1ms"}, "input_s is '1ms', it must be a number"),
        ({"collective_quantiles_s": 1}, "must be a list of numbers"),
        ({"collective_quantiles_s": [2, 1]}, "must be a list of rising times"),
        ({"collective_quantiles_s": []}, "must be a list of rising times"),
        ({"collective_processors": math.inf}, "must be finite"),
        ({"write_spread": []}, "write_spread is \\[\\], it must be a list of factors"),
        ({"copy_spread": [1, -1]}, "copy_spread is .*, it must be a list of factors"),
    ],
)
def test_a_bad_host_is_refused_by_name(table: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        host_from(table)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).map(sorted), st.floats(0, 1))
def test_a_quantile_lies_between_its_steps(steps: list[float], probability: float) -> None:
    costs = HostCosts(collective_quantiles_s=tuple(steps))
    found = costs.collective_s(probability)
    assert steps[0] <= found <= steps[-1]
    assert (costs.collective_s(0.0), costs.collective_s(1.0)) == (steps[0], steps[-1])


# --- the host is a strategy of one cluster -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "when", "action"),
    [
        (None, "after_input", Conclude(0, 0, Status.Failed)),
        (COSTS, "after_input", CopyOut(0, 0, 0, 8, (1,))),
        (None, "in_encode_iteration", Deliver(0, 0, 8)),
        (COSTS, "in_encode_iteration", CopyOut(0, 0, 0, 8, (1,))),
        (None, "in_language_iteration", StartEncode(0, 0, 8, (1,))),
    ],
)
def test_what_a_core_may_not_ask_for_now_is_refused_on_every_host(
    host: HostCosts | None, when: str, action: Action
) -> None:
    cluster = Cluster(SCENARIO, msgspec.structs.replace(LINK, host=host), Clock())
    assert isinstance(cluster.host, DedicatedProcessors if host is None else SharedHost)
    (rank, *_) = cluster._state.ranks.values()
    with pytest.raises(TypeError, match=f"e0.*may not ask for {type(action).__name__} now"):
        getattr(cluster.messages, when)(rank, action)
