"""A closed loop: the next request comes when one is over, and never more are under way than there may be."""

from __future__ import annotations

import msgspec
import pytest

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.faults import Death, Restart
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.faults import FaultPlan, PlannedFaults
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import SimulationOutcome, simulate

LINK = load_profile("cx7-400g")
SERVED = Scenario(
    block_tokens=16,
    hidden=64,
    encode_blocks=200,
    language_blocks=60,
    encode_instances=2,
    language_instances=2,
    sizing_options={"tokens": 64},
    encode_batch=2,
    prefill_batch_tokens=500,
    release_after_prefill=True,
    services=ServiceTimes(
        encode_base_s=0.01,
        encode_per_token_s=1e-4,
        prefill_base_s=0.02,
        preprocess_per_token_s=2e-5,
        preprocess_workers=2,
    ),
)


def requests(count: int) -> list[Request]:
    """Their own times are nonsense, which a closed loop does not look at."""
    return [
        Request(
            room,
            1000.0 - room,
            50 + 37 * room % 400,
            encode_instance=room % 2,
            language_instance=room // 2 % 2,
        )
        for room in range(1, count + 1)
    ]


class Watched:
    """What a run in a closed loop told: its requests as they were submitted, its records, its conclusions."""

    def __init__(self, concurrency: int, count: int = 60, plan: FaultPlan | None = None, **changes: object) -> None:
        self.submitted: list[Request] = []
        self.under_way: list[int] = []
        self.records: list[Record] = []
        self.concluded = 0
        self.outcome: SimulationOutcome = simulate(
            msgspec.structs.replace(SERVED, **changes),
            requests(count),
            LINK,
            recorder=lambda *fields: self.records.append(Record(*fields)),
            progress=self._concluded,
            faults=None if plan is None else PlannedFaults(plan),
            concurrency=concurrency,
            announce=self._submitted,
        )

    def _submitted(self, request: Request) -> None:
        self.submitted.append(request)
        self.under_way.append(len(self.submitted) - self.concluded)

    def _concluded(self, more: int) -> None:
        self.concluded += more

    def over_s(self, room: int) -> float:
        """When the last of its ranks was done with it, seconds; its prefill may still be to come."""
        records = (record for record in self.records if record.event is not Event.PREFILLED)
        return max(record.time_s for record in records if record.room == room)


def test_alone_each_request_begins_when_the_last_has_ended() -> None:
    run = Watched(1, release_after_prefill=False)
    assert run.outcome.succeeded == 60
    assert [request.room for request in run.submitted] == list(range(1, 61))
    assert run.submitted[0].arrival_s == 0.0
    for before, request in zip(run.submitted, run.submitted[1:], strict=False):
        assert request.arrival_s == run.over_s(before.room) > before.arrival_s
        begins = [one.time_s for one in run.records if one.room == request.room and one.event is Event.SUBMITTED]
        assert min(begins) == request.arrival_s


@pytest.mark.parametrize("concurrency", [2, 5, 60, 100])
def test_as_many_as_there_may_be_are_under_way_and_no_more(concurrency: int) -> None:
    run = Watched(concurrency)
    assert run.outcome.succeeded == 60
    assert run.outcome.leftovers == ()
    most = min(concurrency, 60)
    assert run.under_way[:most] == list(range(1, most + 1))
    # Several may end at one moment, and their places are taken one after the other.
    last_of_moment = {one.arrival_s: number for one, number in zip(run.submitted, run.under_way, strict=True)}
    assert set(last_of_moment.values()) == {most} == {max(run.under_way)}
    assert [request.arrival_s for request in run.submitted[:most]] == [0.0] * most


def test_littles_law() -> None:
    """Requests under way = throughput × mean time inside, over the time in which the loop is full."""
    concurrency = 7
    run = Watched(concurrency, count=400, release_after_prefill=False)
    last_s = run.submitted[-1].arrival_s  # from then on the loop runs empty
    inside_s = sum(min(run.over_s(one.room), last_s) - one.arrival_s for one in run.submitted)
    over = sum(run.over_s(one.room) <= last_s for one in run.submitted)
    throughput_rps = over / last_s
    assert throughput_rps * (inside_s / over) == pytest.approx(concurrency, rel=1e-9)
    # Exactly the integral of the number inside; with the times of the finished ones alone, but for those cut off.
    finished_s = [run.over_s(one.room) - one.arrival_s for one in run.submitted if run.over_s(one.room) <= last_s]
    assert throughput_rps * sum(finished_s) / len(finished_s) == pytest.approx(concurrency, rel=0.05)


def test_the_same_run_twice_and_more_at_a_time_is_faster() -> None:
    assert Watched(4).records == Watched(4).records
    assert Watched(4).outcome.end_s < Watched(1).outcome.end_s


def test_failed_and_refused_requests_make_room_for_the_next() -> None:
    restart = Restart(0.2, (Side.LANGUAGE, 1), 0.3)
    run = Watched(3, plan=FaultPlan(incidents=(restart,)), timeout_s=5.0)
    assert run.outcome.submitted == 60
    assert run.outcome.unfinished == 0
    assert run.outcome.failed > 0
    assert max(run.under_way) == 3


def test_requests_of_an_instance_that_died_give_their_places_back() -> None:
    run = Watched(3, plan=FaultPlan(incidents=(Death(0.2, RankId(Side.LANGUAGE, 1, 0)),)), timeout_s=5.0)
    assert (run.outcome.submitted, run.outcome.unfinished, run.outcome.leftovers) == (60, 0, ())
    assert run.outcome.failed > 0
    assert max(run.under_way) == 3


def test_requests_that_never_end_keep_their_places() -> None:
    """A loop that is full of rooms that wait for each other for ever submits nobody any more."""
    run = Watched(6, discipline="alloc_then_free", language_blocks=30, timeout_s=None)
    assert run.outcome.submitted < 60
    assert (run.outcome.unfinished, run.outcome.failed) == (6, 0)
