"""Every fault does what it says, alone and at a known time; and a plan without faults changes nothing."""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.faults import ClientAbort, Death, FalseAlarm, Hang, Restart, Slow
from bufferlab.protocol.messages import (
    Abort,
    Cancel,
    ChunkStatus,
    EncodeRequest,
    Offer,
    PeerDown,
    PeerUp,
    WriteDone,
    WriterQuiet,
)
from bufferlab.protocol.observe.monitor import InvariantMonitor
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.clock import Clock
from bufferlab.sim.cluster.cluster import Cluster
from bufferlab.sim.faults import FaultPlan, Faults, PlannedFaults
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.run import SimulationOutcome, simulate
from bufferlab.sim.workload import generate, load_mix

LINK = LinkProfile(
    name="test", latency_s=0.001, per_segment_s=0.0, bandwidth_Bps=math.inf, control_latency_s=0.001,
    copy_bandwidth_Bps=math.inf,
)  # fmt: skip
SMALL = Scenario(
    block_tokens=4, hidden=8, encode_blocks=8, language_blocks=8, sizing_options={"tokens": 8}, timeout_s=5.0,
    services=ServiceTimes(encode_poll_interval_s=0.01, language_poll_interval_s=0.01, encode_base_s=0.05),
)  # fmt: skip
PAIRS = msgspec.structs.replace(SMALL, encode_tp=2, language_tp=2)
E0, E1 = RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 0, 1)
L0, L1 = RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1)


class Seen:
    """A run to its very end, with everything its cores were given."""

    def __init__(self, scenario: Scenario, requests: list[Request], plan: FaultPlan, link: LinkProfile = LINK) -> None:
        self.faults = PlannedFaults(plan)
        self.inputs: list[tuple[float, RankId, Any]] = []
        self.records: list[Record] = []
        clock = Clock()
        self.cluster = Cluster(scenario, link, clock, lambda *row: self.records.append(Record(*row)), None, self.faults)
        self.cluster.watch(lambda rank_id, event, _: self.inputs.append((clock.now, rank_id, event)))
        self.cluster.feed(iter(requests))
        while clock.busy or clock.reminders:
            clock.step()
        self.cluster.note_rest()

    def given(self, kind: type, rank_id: RankId | None = None) -> list[float]:
        return [time_s for time_s, to, event in self.inputs if type(event) is kind and rank_id in (None, to)]

    def times_s(self, event: Event, side: Side, room: int = 0) -> list[float]:
        return [
            one.time_s
            for one in self.records
            if (one.event, one.rank_id.side, one.room) == (event, side, room)
        ]  # fmt: skip

    def reasons(self) -> set[str]:
        return {one.detail for one in self.records if one.event is Event.FAILED}


def one(plan: FaultPlan, scenario: Scenario = SMALL, tokens: int = 8) -> Seen:
    return Seen(scenario, [Request(0, 0.0, tokens)], plan)


# --- nothing goes wrong --------------------------------------------------------------------------------------------

MIXED = msgspec.structs.replace(
    SMALL, block_tokens=128, encode_tp=2, language_tp=3, encode_blocks=200, language_blocks=150,
    sizing_options={"tokens": 1024}, timeout_s=180.0,
)  # fmt: skip


def whole_run(faults: Faults | None) -> tuple[SimulationOutcome, bytes]:
    records: list[Record] = []
    requests = generate(load_mix("mixed"), rate_rps=150.0, requests=60, seed=3)
    outcome = simulate(MIXED, requests, LINK, recorder=lambda *row: records.append(Record(*row)), faults=faults)
    return outcome, msgspec.json.encode(records)


def test_a_run_without_faults_is_the_same_with_and_without_an_injector() -> None:
    plain = whole_run(None)
    assert plain[0].succeeded == 60
    assert whole_run(Faults()) == plain
    assert whole_run(PlannedFaults(FaultPlan(seed=7))) == plain


def test_the_same_plan_does_the_same_and_another_seed_something_else() -> None:
    def run(seed: int) -> tuple[SimulationOutcome, bytes, dict[str, int]]:
        plan = FaultPlan(
            seed=seed, lost_messages=0.02, doubled_messages=0.1, late_messages=0.1, most_delay_s=0.1, failed_writes=0.05,
            late_writes=0.05, most_late_s=1.0, late_requests=0.1, most_request_delay_s=0.1,
        )  # fmt: skip
        faults = PlannedFaults(plan)
        return (*whole_run(faults), dict(faults.happened))

    first = run(1)
    assert run(1) == first
    assert run(2)[1] != first[1]
    assert set(first[2]) == {
        "lost message", "doubled message", "late message", "failed write", "late write", "late request",
    }  # fmt: skip


# --- messages ------------------------------------------------------------------------------------------------------


def test_a_lost_message_never_arrives() -> None:
    run = one(FaultPlan(lost_messages=1.0, messages=("Offer",)))
    assert run.given(Offer) == []
    assert run.given(Cancel) != []
    assert run.faults.happened == {"lost message": 1}
    assert run.reasons() >= {"timed out while waiting for chunk 0"}
    assert run.cluster.leftovers() == []


def test_rates_end_when_the_plan_says_so() -> None:
    """Cancel is repeated every second until one comes through."""
    aborted = (ClientAbort(0.03, 0, (L0,)),)
    run = one(FaultPlan(lost_messages=1.0, messages=("Cancel",), until_s=3.5, incidents=aborted))
    assert run.faults.happened == {"client abort": 1, "lost message": 4}
    assert run.given(Cancel) == [pytest.approx(4.04, abs=0.02)]
    assert run.cluster.leftovers() == []


def test_a_doubled_message_arrives_twice_and_is_counted_as_stale() -> None:
    run = one(FaultPlan(doubled_messages=1.0, most_delay_s=0.5, messages=("Offer", "ChunkStatus")), tokens=24)
    assert (len(run.given(Offer)), len(run.given(ChunkStatus))) == (4, 4), "two chunks, everything twice"
    assert run.cluster.requests.succeeded == 1


def test_late_messages_are_overtaken() -> None:
    requests = [Request(room, 0.0, 4) for room in range(8)]
    plan = FaultPlan(late_messages=1.0, most_delay_s=2.0, messages=("Offer",))
    run = Seen(msgspec.structs.replace(SMALL, sizing_options={"tokens": 4}), requests, plan)
    rooms = [event.room for _, _, event in run.inputs if isinstance(event, Offer)]
    assert sorted(rooms) == list(range(8))
    assert rooms != sorted(rooms)
    assert 0.001 < max(run.given(Offer)) <= 2.001
    assert run.cluster.requests.succeeded == 8


# --- writes --------------------------------------------------------------------------------------------------------


def test_a_failed_write_is_quiet_at_once() -> None:
    run = one(FaultPlan(failed_writes=1.0))
    (done,) = [event for _, _, event in run.inputs if isinstance(event, WriteDone)]
    assert (done.ok, done.quiet) == (False, True)
    assert run.cluster.messages.bytes_landed == 0
    assert any("injected: failed" in reason for reason in run.reasons())


def test_each_process_of_a_writer_has_writes_of_its_own_that_fail() -> None:
    """As a measured run is told beforehand: a new process does not repeat which writes of the old one failed."""
    plan = FaultPlan(seed=5, failed_writes=0.5, incidents=(Restart(10.0, (Side.ENCODE, 0), 0.1),))
    run = Seen(SMALL, [Request(room, 0.4 * room, 8) for room in range(50)], plan)
    faults = PlannedFaults(plan)
    ends = [(time_s, event.ok) for time_s, _, event in run.inputs if isinstance(event, WriteDone)]
    for generation, lives in (
        (0, [ok for at_s, ok in ends if at_s < 10.0]),
        (1, [ok for at_s, ok in ends if at_s > 10]),
    ):
        assert [number for number, ok in enumerate(lives) if not ok] == faults.failed_writes(
            E0, L0, len(lives), generation
        )
    assert faults.failed_writes(E0, L0, 20, 0) != faults.failed_writes(E0, L0, 20, 1)


def test_a_late_write_holds_both_ends_until_its_bytes_have_landed() -> None:
    run = one(FaultPlan(late_writes=1.0, most_late_s=10.0))
    ((done_s, _, done),) = [one for one in run.inputs if isinstance(one[2], WriteDone)]
    (quiet_s,) = run.given(WriterQuiet)
    assert (done.ok, done.quiet) == (False, False)
    assert done_s < quiet_s < done_s + 10.0
    assert run.cluster.messages.bytes_landed == run.cluster.messages.bytes_written
    assert run.times_s(Event.RELEASED, Side.ENCODE) == [quiet_s]
    assert run.times_s(Event.RELEASED, Side.LANGUAGE)[0] > quiet_s


# --- requests and clients ------------------------------------------------------------------------------------------


def test_a_late_request_holds_up_those_behind_it() -> None:
    requests = [Request(room, room * 0.01, 4) for room in range(6)]
    run = Seen(PAIRS, requests, FaultPlan(seed=1, late_requests=0.3, most_request_delay_s=1.0))
    for rank_id in (E0, E1):
        rooms = [event.room for _, to, event in run.inputs if to == rank_id and isinstance(event, EncodeRequest)]
        assert rooms == list(range(6))
    assert run.given(EncodeRequest, E0) != run.given(EncodeRequest, E1)
    assert run.cluster.requests.succeeded == 6


def test_a_client_abort_reaches_the_ranks_it_names() -> None:
    run = one(FaultPlan(incidents=(ClientAbort(0.02, 0, (E0, L1)),)), PAIRS)
    assert [(time_s, to) for time_s, to, event in run.inputs if isinstance(event, Abort)] == [(0.02, E0), (0.02, L1)]
    assert run.cluster.requests.failed == 1


# --- ranks ---------------------------------------------------------------------------------------------------------


def test_a_dead_rank_handles_nothing_and_its_group_ends_with_it() -> None:
    requests = [Request(room, room * 0.5, 8) for room in range(4)]
    run = Seen(PAIRS, requests, FaultPlan(incidents=(Death(0.7, L1, detected_s=0.2),)))
    assert max(time_s for time_s, to, _ in run.inputs if to in (L0, L1)) < 0.7
    assert max(one.time_s for one in run.records if one.event is Event.DELIVERED) < 0.7
    downs = [(to, event.peer, time_s) for time_s, to, event in run.inputs if isinstance(event, PeerDown)]
    assert {(to, peer) for to, peer, _ in downs} == {(E0, L0), (E0, L1), (E1, L0), (E1, L1)}
    assert all(0.7 <= time_s <= 0.9 for _, _, time_s in downs)
    assert run.given(PeerUp) == []
    assert (run.cluster.requests.succeeded, run.cluster.requests.failed, run.cluster.unfinished) == (2, 2, 0)
    # The side that lives ends all of its rooms and has all of its memory.
    assert [core.pool.free for core in run.cluster.cores if core.rank_id.side is Side.ENCODE] == [8, 8]
    assert [run.faults.ready_s(rank_id) for rank_id in (L0, L1)] == [math.inf] * 2
    assert run.cluster.leftovers() == []


LONG = msgspec.structs.replace(LINK, latency_s=2.0)  # a write from 0.06 s to 2.06 s


def test_a_write_to_a_rank_that_died_fails() -> None:
    run = Seen(SMALL, [Request(0, 0.0, 8)], FaultPlan(incidents=(Death(0.5, L0, detected_s=10.0),)), LONG)
    assert [(event.ok, event.quiet, event.reason) for _, _, event in run.inputs if isinstance(event, WriteDone)] == [
        (False, True, "the destination's process ended")
    ]
    assert run.cluster.messages.bytes_landed == 0


def test_a_write_of_a_rank_that_died_lands_in_its_time_or_never() -> None:
    landed_s = []

    class Watched(PlannedFaults):
        def landed(self, writer: RankId, write: object) -> None:
            landed_s.append(self._clock.now)

    for seed in range(20):
        clock = Clock()
        faults = Watched(FaultPlan(seed=seed, incidents=(Death(0.5, E0, detected_s=3.0),)))
        cluster = Cluster(SMALL, LONG, clock, faults=faults)
        cluster.feed(iter([Request(0, 0.0, 8)]))
        while clock.busy or clock.reminders:
            clock.step()
        (language,) = [core for core in cluster.cores if core.rank_id == L0]
        assert (language.rooms, language.pool.free) == ({}, 8)
        assert clock.now > 60.5
    assert 0 < len(landed_s) < 20, "some land and some do not"
    assert all(0.5 <= time_s <= 20.5 for time_s in landed_s)


HEART = FaultPlan(heartbeat_s=2.0, heartbeat_failures=3, incidents=(Death(1.0, L0),))


def test_without_a_time_heartbeats_find_a_death() -> None:
    seen = one(HEART, msgspec.structs.replace(SMALL, language_instances=2))
    (down_s,) = seen.given(PeerDown, E0)
    # The next heartbeat after the death is due within a period, and two more must fail.
    assert 1.0 + 2 * 2.0 <= down_s <= 1.0 + 3 * 2.0


# --- restarts ------------------------------------------------------------------------------------------------------


def restart(side: Side, time_s: float, down_s: float, **fields: Any) -> FaultPlan:
    return FaultPlan(incidents=(Restart(time_s, (side, 0), down_s),), **fields)


def test_a_language_restart_fails_its_rooms_at_once_and_the_encode_side_hears_of_it() -> None:
    seen = Seen(SMALL, [Request(0, 0.0, 8), Request(1, 1.0, 8)], restart(Side.LANGUAGE, 0.03, 0.5))
    assert seen.times_s(Event.FAILED, Side.LANGUAGE) == [0.03]
    assert seen.times_s(Event.RELEASED, Side.LANGUAGE) == [0.03]
    # The new process registers before a heartbeat fails.
    assert seen.given(PeerDown, E0) == [0.53]
    assert seen.given(PeerUp, E0) == [0.53]
    # Its write finds nobody there before that.
    assert seen.times_s(Event.FAILED, Side.ENCODE) == [pytest.approx(0.061)]
    # Whoever comes later finds a process that serves it.
    assert len(seen.times_s(Event.DELIVERED, Side.LANGUAGE, room=1)) == 1
    assert (seen.cluster.requests.succeeded, seen.cluster.requests.failed, seen.cluster.leftovers()) == (1, 1, [])


def test_heartbeats_may_find_a_long_outage_first() -> None:
    seen = Seen(SMALL, [Request(0, 0.0, 8)], restart(Side.LANGUAGE, 0.03, 60.0))
    (down_s,) = seen.given(PeerDown, E0)
    assert 5.03 <= down_s <= 10.03
    assert seen.given(PeerUp, E0) == [60.03]


def test_a_write_to_memory_of_a_process_that_has_ended_fails_and_lands_nowhere() -> None:
    slow = msgspec.structs.replace(LINK, latency_s=0.2)
    seen = Seen(SMALL, [Request(0, 0.0, 8)], restart(Side.LANGUAGE, 0.1, 0.02), slow)
    (ended,) = seen.given(WriteDone, E0)
    assert ended > 0.12
    done = next(event for _, _, event in seen.inputs if isinstance(event, WriteDone))
    assert (done.ok, done.quiet, done.reason) == (False, True, "the destination's process ended")
    assert seen.cluster.messages.bytes_landed == 0
    assert seen.cluster.leftovers() == []


def test_an_encode_restart_leaves_the_blocks_of_its_rooms_fenced_until_it_speaks() -> None:
    slow = msgspec.structs.replace(LINK, latency_s=0.2)
    seen = Seen(SMALL, [Request(0, 0.0, 8)], restart(Side.ENCODE, 0.1, 0.05), slow)
    assert seen.times_s(Event.FAILED, Side.ENCODE) == [0.1]
    assert seen.given(PeerDown, L0) == [0.15000000000000002]
    (failed_s,) = seen.times_s(Event.FAILED, Side.LANGUAGE)
    (released_s,) = seen.times_s(Event.RELEASED, Side.LANGUAGE)
    assert failed_s == pytest.approx(0.16, abs=0.01)
    # The writer's process is gone, so only the quarantine tells that nothing more lands.
    assert released_s >= failed_s + 50
    assert seen.cluster.leftovers() == []


def test_requests_that_meet_a_process_that_is_down_are_refused() -> None:
    requests = [Request(room, 0.1 * room, 8) for room in range(4)]
    seen = Seen(PAIRS, requests, restart(Side.LANGUAGE, 0.05, 0.2))
    assert [len(seen.times_s(Event.SUBMITTED, Side.LANGUAGE, room)) for room in range(4)] == [2, 2, 2, 2]
    for side in Side:  # on the side that is up as well, and nobody sets memory aside for it
        assert seen.times_s(Event.FAILED, side, room=1) == [0.1, 0.1]
        assert seen.times_s(Event.FAILED, side, room=2) == [0.2, 0.2]
    assert seen.reasons() >= {"refused: language0 is down"}
    assert not [event for _, _, event in seen.inputs if getattr(event, "room", 0) in (1, 2)]
    assert len(seen.times_s(Event.DELIVERED, Side.LANGUAGE, room=3)) == 2
    assert (seen.cluster.requests.succeeded, seen.cluster.requests.failed) == (1, 3)


def test_a_request_whose_images_were_being_prepared_is_lost_with_the_process() -> None:
    services = msgspec.structs.replace(SMALL.services, preprocess_per_token_s=0.1)
    scenario = msgspec.structs.replace(SMALL, services=services)
    seen = Seen(scenario, [Request(0, 0.0, 8)], restart(Side.ENCODE, 0.1, 0.05))
    assert seen.times_s(Event.FAILED, Side.ENCODE) == [0.1]
    assert (seen.cluster.requests.failed, seen.cluster.unfinished, seen.cluster.leftovers()) == (1, 0, [])


def test_a_second_restart_while_down_and_one_of_the_dead_do_nothing() -> None:
    twice = FaultPlan(incidents=(Restart(0.1, (Side.LANGUAGE, 0), 1.0), Restart(0.2, (Side.LANGUAGE, 0), 0.1)))
    assert one(twice).faults.happened["restart"] == 1
    dead = FaultPlan(incidents=(Death(0.1, L0, 0.01), Restart(0.2, (Side.LANGUAGE, 0), 0.1)))
    assert "restart" not in one(dead).faults.happened


def test_first_contact_is_paid_again_after_a_restart() -> None:
    shared = msgspec.structs.replace(LINK, first_contact_s=0.5)
    requests = [Request(0, 0.0, 8), Request(1, 2.0, 8), Request(2, 4.0, 8)]
    seen = Seen(SMALL, requests, restart(Side.LANGUAGE, 3.0, 0.1), shared)
    waits = []
    for room in range(3):
        (started,), (done,) = (
            seen.times_s(event, Side.ENCODE, room) for event in (Event.WRITE_STARTED, Event.WRITE_DONE)
        )
        waits.append(done - started)
    assert waits == pytest.approx([0.501, 0.001, 0.501])


def test_a_hang_makes_inputs_and_iterations_wait_in_their_order() -> None:
    plain, hung = one(FaultPlan()), one(FaultPlan(incidents=(Hang(0.005, E0, 2.0),)))
    assert [type(event) for _, to, event in plain.inputs if to == E0][:3] == [
        type(event) for _, to, event in hung.inputs if to == E0
    ][:3]
    assert hung.given(EncodeRequest, E0) == [0.0]
    assert min(time_s for time_s, to, event in hung.inputs if to == E0 and time_s > 0) in (0.001, 2.005)
    assert not [time_s for time_s, to, _ in hung.inputs if to == E0 and 0.005 < time_s < 2.005]
    assert hung.cluster.requests.succeeded == 1


def test_a_hung_member_stops_the_iterations_of_its_group() -> None:
    run = one(FaultPlan(incidents=(Hang(0.0, L1, 1.0),)), PAIRS)
    assert run.times_s(Event.OFFERED, Side.LANGUAGE)[0] == pytest.approx(1.0)
    assert run.cluster.requests.succeeded == 1


def test_a_slow_rank_takes_longer_over_everything() -> None:
    plain, slow = one(FaultPlan()), one(FaultPlan(incidents=(Slow(E0, 10.0),)))

    def took_s(run: Seen, first: Event, last: Event) -> float:
        return run.times_s(last, Side.ENCODE)[0] - run.times_s(first, Side.ENCODE)[0]

    for first, last in ((Event.ENCODE_STARTED, Event.ENCODED), (Event.WRITE_STARTED, Event.WRITE_DONE)):
        assert took_s(slow, first, last) == pytest.approx(10 * took_s(plain, first, last))
    assert slow.cluster.iterations.held <= plain.cluster.iterations.held
    assert slow.cluster.requests.succeeded == 1


def test_a_false_alarm_is_called_off() -> None:
    run = one(FaultPlan(incidents=(FalseAlarm(0.02, L0, E0, 3.0),)))
    assert (run.given(PeerDown, L0), run.given(PeerUp, L0)) == ([0.02], [3.02])
    assert run.given(PeerDown, E0) == []
    assert run.reasons() >= {"encode0.0 is down"}
    assert run.times_s(Event.RELEASED, Side.LANGUAGE)[0] >= 60.0, "in quarantine, although the peer lives"
    assert run.cluster.leftovers() == []


def test_nobody_is_said_to_be_back_who_died_meanwhile() -> None:
    run = one(FaultPlan(incidents=(FalseAlarm(0.02, L0, E0, 3.0), Death(1.0, E0, 1.0))))
    assert len(run.given(PeerDown, L0)) == 2
    assert run.given(PeerUp) == []


# --- plans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"lost_messages": 0.6, "late_messages": 0.6}, "their sum at most 1"),
        ({"failed_writes": -0.1}, "each must be at least 0"),
        ({"most_delay_s": 5.1}, "most_delay_s is 5.1, it must be at least 0 and at most 5.0"),
        ({"most_late_s": math.nan}, "most_late_s"),
        ({"incidents": (Hang(0.0, E0, 11.0),)}, "lasts_s of a hang"),
        ({"incidents": (FalseAlarm(0.0, L0, E0, 59.0),)}, "lasts_s of a false alarm"),
        ({"incidents": (Slow(E0, 0.5),)}, "factor of a slow rank"),
    ],
)
def test_a_plan_may_not_break_what_the_protocol_assumes(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        FaultPlan(**fields)


def test_a_plan_is_data() -> None:
    plan = FaultPlan(
        lost_messages=0.1, until_s=9.0, incidents=(Hang(0.0, E0, 1.0), ClientAbort(1.0, 0, (E0, L0)), Slow(L0, 2.0))
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=FaultPlan) == plan


@pytest.mark.parametrize("build", [Faults, lambda: PlannedFaults(FaultPlan())])
def test_the_invariants_hold_with_an_injector(build: Callable[[], Faults]) -> None:
    checker = InvariantMonitor(SMALL)
    simulate(SMALL, checker.announced([Request(0, 0.0, 30)]), LINK, recorder=checker, faults=build())
    assert checker.examples == checker.open_rooms == []
