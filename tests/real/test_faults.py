"""Faults that are really injected, over loopback; the drills of ``real.drills`` and what is special about each."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")

import msgspec

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.drills import HEARTBEATS, STRUCK, DrillResult, all_drills, find_drill, run_drill
from bufferlab.real.faults import CorruptFrame, Kill, Pause, RefuseRegistration, Restart
from bufferlab.real.run.commands import GROUP_STATUS, Holdings
from bufferlab.real.run.deadlock_probe import DeadlockProbe, look_s
from bufferlab.real.run.launcher import run_real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

LANGUAGE, ENCODE = RankId(Side.LANGUAGE, 0, 0), RankId(Side.ENCODE, 0, 0)


def drilled(name: str) -> DrillResult:
    result = run_drill(find_drill(name))
    assert result.problems == ()
    assert result.others_finished == result.others
    return result


def reason_of(result: DrillResult, room: int) -> str:
    return " | ".join(one.reason for one in result.outcome.conclusions if one.room == room)


def test_a_killed_language_rank_fails_its_rooms_and_no_other() -> None:
    """The small version, which always runs: two language instances, one of which is killed in the middle of a write."""
    spec = Scenario(
        block_tokens=256,
        hidden=2048,
        sizing_options={"tokens": 4096},
        language_instances=2,
        encode_blocks=192,
        language_blocks=64,
        timeout_s=10.0,
    )
    requests = [
        Request(
            room=room, arrival_s=0.05 * room, total_tokens=24_000 if room == 4 else 2000, language_instance=room % 2
        )
        for room in range(1, 13)
    ]
    outcome = run_real(spec, requests, plan=[Kill(rank=LANGUAGE, on_write_of=4)], heartbeats=HEARTBEATS)
    odd = {request.room for request in requests if request.language_instance}
    assert 4 in outcome.failed_rooms
    assert odd <= outcome.succeeded_rooms
    assert outcome.failed_rooms.isdisjoint(odd)
    assert outcome.mismatches == []
    assert outcome.verified_rooms == len(odd)
    assert (outcome.rooms_left, outcome.blocks_lost) == (0, 0)
    # The write error and a look at its port tell of its end, long before a heartbeat would.
    killed_s = outcome.incidents[0].time_s
    assert outcome.concluded_s({4}) - killed_s < HEARTBEATS.interval_s
    reasons = {one.reason for one in outcome.conclusions if one.room == 4 and one.rank_id == ENCODE}
    assert any("the write to language0.0 failed" in reason or "language0.0 is down" in reason for reason in reasons)


@pytest.mark.slow
@pytest.mark.parametrize("drill", [one.name for one in all_drills()])
def test_drill(drill: str) -> None:
    result = drilled(drill)
    if "pool dry" not in drill:
        assert result.failed
        assert STRUCK in result.failed
    if "one of two ranks" in drill:
        told = [incident.what for incident in result.outcome.incidents]
        # The other one left by itself when their all-reduce broke.
        assert "language0.1 ended with status -9 (SIGKILL)" in told
        assert f"language0.0 ended with status {GROUP_STATUS}" in told


@pytest.mark.slow
def test_what_a_dead_encode_rank_may_still_write_to_stays_fenced() -> None:
    """The quarantine is longer than the run: the blocks are neither free nor lost when it ends."""
    result = drilled("kill an encode rank")
    outcome = result.outcome
    assert outcome.rooms_quarantined > 0
    assert outcome.blocks_fenced >= outcome.rooms_quarantined
    released = {
        record.room
        for record in outcome.records
        if record.event is Event.RELEASED and record.rank_id.side is Side.LANGUAGE
    }
    offered = {record.room for record in outcome.records if record.event in (Event.OFFERED, Event.RESUMED)}
    fenced = {room for room in set(result.failed) & offered if room not in released}
    assert len(fenced) == outcome.rooms_quarantined


@pytest.mark.slow
def test_an_old_offer_leads_to_no_write_into_the_new_process() -> None:
    result = drilled("old offers from a language process that was replaced")
    old, new = sorted(
        (one for one in result.outcome.processes if one.rank_id == LANGUAGE), key=lambda one: one.generation
    )
    assert old.session != new.session
    written = [
        record
        for record in result.outcome.records
        if record.event is Event.WRITE_DONE and record.rank_id == ENCODE and record.detail.startswith(str(LANGUAGE))
    ]
    # Rooms 4, 8 and 12 are of this pair; those after the restart come from room 13 on.
    for record in written:
        if record.room <= 12:
            assert new.session not in record.detail
    acted_upon = {record.room for record in written if record.room in result.failed}
    late = {record.room for record in written if record.room > 12}
    assert late <= result.outcome.succeeded_rooms
    assert late, "nothing was written to the new process, so the drill shows nothing"
    assert acted_upon or result.outcome.messages_stale, "no old offer was there to be acted upon"


@pytest.mark.slow
@pytest.mark.parametrize("side", list(Side))
def test_a_restarted_instance_serves_its_first_request_already(side: Side) -> None:
    """With heartbeats so slow that only the greeting can tell its peers in time."""
    spec = msgspec.structs.replace(
        find_drill("kill a language rank").scenario, encode_instances=1, language_instances=1
    )
    # At a quick pace, so that one comes right when the instance is up.
    requests = [Request(room=room, arrival_s=0.25 * room, total_tokens=500) for room in range(1, 81)]
    plan = [Restart(side=side, instance=0, down_s=0.0, time_s=0.0)]
    outcome = run_real(spec, requests, heartbeats=Heartbeats(interval_s=8.0, failures=2), plan=plan)
    [up_s] = [incident.time_s for incident in outcome.incidents if incident.what.endswith("is up again")]
    later = {request.room for request in requests if request.arrival_s > up_s}
    assert len(later) > 8
    assert later <= outcome.succeeded_rooms
    assert outcome.mismatches == []


@pytest.mark.slow
def test_the_rooms_of_a_deadlock_are_named_and_their_timers_end_it() -> None:
    result = drilled("run the pool dry (alloc_then_free)")
    outcome = result.outcome
    assert outcome.deadlock
    assert "of language0 and waits for" in outcome.deadlocks[0]
    assert any("timed out while waiting" in one.reason for one in outcome.conclusions)


COUNTING = """
from bufferlab.protocol.sizing import SizingPolicy

class Counting(SizingPolicy):
    def __init__(self):
        self.calls = 0

    def first_tokens(self, view):
        self.calls += 1
        return 32 + self.calls % 2
"""


def test_a_look_at_rooms_that_wait_leaves_the_ranks_in_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer tells how often the policy was asked, so one question more on one rank would end the run."""
    policy = tmp_path / "mine.py"
    policy.write_text(COUNTING)
    looks = []
    begin = DeadlockProbe.begin
    monkeypatch.setattr(DeadlockProbe, "begin", lambda self, asked: looks.append(asked) or begin(self, asked))
    spec = Scenario(
        block_tokens=16, hidden=64, sizing=f"{policy}:Counting", language_tp=2, encode_blocks=64, language_blocks=3,
        timeout_s=30.0, services=ServiceTimes(encode_per_token_s=0.02),
    )  # fmt: skip
    outcome = run_real(spec, [Request(room=room, arrival_s=0.0, total_tokens=40) for room in (1, 2, 3)])
    assert len(looks) > 2
    assert outcome.succeeded_rooms == {1, 2, 3}
    assert (outcome.deadlock, outcome.mismatches, outcome.rooms_left, outcome.blocks_lost) == (False, [], 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("discipline", ["alloc_then_free", "free_then_alloc"])
def test_without_timers_the_router_ends_a_deadlock(discipline: str) -> None:
    # alloc_then_free: every first block is taken, and all want three more. free_then_alloc: the first request holds the
    # whole encode pool and wants the language pool, the others hold three quarters of that and want the encode pool.
    across = discipline == "free_then_alloc"
    spec = Scenario(
        block_tokens=16,
        hidden=64,
        sizing_options={"tokens": 16},
        discipline=discipline,
        encode_blocks=5 if across else 64,
        language_blocks=4,
        timeout_s=None,
    )
    lengths = [80, 16, 16, 16] if across else [64, 64, 64, 64]
    requests = [Request(room=room, arrival_s=0.0, total_tokens=tokens) for room, tokens in enumerate(lengths, 1)]
    outcome = run_real(spec, requests)
    assert "room 1 holds" in outcome.deadlocks[0]
    if across:
        assert "waits for 1 of encode0" in outcome.deadlocks[0]
    given_up = {one.room for one in outcome.conclusions if "given up by the router" in one.reason}
    assert given_up
    assert outcome.failed_rooms == given_up
    assert outcome.failed_rooms | outcome.succeeded_rooms == {request.room for request in requests}
    assert (outcome.rooms_left, outcome.blocks_lost, outcome.mismatches) == (0, 0, [])
    assert outcome.end_s < 30


@pytest.mark.slow
def test_a_corrupt_frame_is_dropped_and_costs_one_room() -> None:
    result = drilled("corrupt the Offer of one room")
    assert result.failed == (STRUCK,)
    assert result.outcome.frames_dropped == 1
    assert "timed out while waiting" in reason_of(result, STRUCK)


@pytest.mark.slow
def test_the_same_run_without_its_fault_fails_nothing() -> None:
    """A guard on the drills: what fails in them fails because of the fault."""
    drill = find_drill("kill a language rank")
    outcome = run_real(drill.scenario, drill.requests, heartbeats=HEARTBEATS)
    assert outcome.failed_rooms == set()
    assert outcome.succeeded_rooms == {request.room for request in drill.requests}
    assert outcome.mismatches == []


@pytest.mark.slow
def test_a_rank_that_stands_still_for_less_than_its_heartbeats_allow_loses_nothing() -> None:
    drill = find_drill("kill a language rank")
    plan = [Pause(rank=RankId(Side.ENCODE, 0, 0), time_s=0.7, lasts_s=0.6)]
    outcome = run_real(drill.scenario, drill.requests, heartbeats=Heartbeats(interval_s=2.0, failures=3), plan=plan)
    assert outcome.failed_rooms == set()
    assert (outcome.rooms_quarantined, outcome.mismatches) == (0, [])


def test_unknown_drills_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown drill 'x'; known: kill a language rank, "):
        find_drill("x")
    names = [drill.name for drill in all_drills()]
    assert len(set(names)) == len(names)


def test_the_drills_cover_every_kind_of_fault() -> None:
    planned = {type(fault).__name__ for drill in all_drills() for fault in drill.plan}
    assert planned == {"Kill", "Pause", "Restart", "CorruptFrame", "RefuseRegistration"}
    for fault in (fault for drill in all_drills() for fault in drill.plan):
        if isinstance(fault, CorruptFrame | RefuseRegistration):
            continue
        assert (fault.time_s is None) != (fault.on_write_of is None)


# --- standing still, seen from outside ---


def holdings(
    number: int,
    *,
    instance: int = 0,
    events: int = 5,
    free_again: bool = False,
    queued: tuple[tuple[int, int], ...] = (),
) -> Holdings:
    """Two rooms that hold one block each of a pool of two and want another one; behind them those that hold nothing."""
    one, two = (1, 0), (2, 0)
    return Holdings(
        rank_id=RankId(Side.LANGUAGE, instance, 0),
        number=number,
        held=[(one, 1)] if free_again else [(one, 1), (two, 1)],
        queues=[[(one, 1), (two, 1), *((key, 1) for key in queued)]],
        usable=[(one, 2), (two, 2), *((key, 2) for key in queued)],
        moves=[(one, events)] if free_again else [(one, events), (two, 5)],
    )


def looked(deadlock_probe: DeadlockProbe, ranks: set[RankId], *answers: Holdings) -> object:
    deadlock_probe.begin(ranks)
    found = None
    for answer in answers:
        assert found is None
        found = deadlock_probe.add(answer)
    return found


RANK = RankId(Side.LANGUAGE, 0, 0)


def test_two_looks_at_the_same_deadlock_find_it_and_one_does_not() -> None:
    deadlock_probe = DeadlockProbe()
    assert looked(deadlock_probe, {RANK}, holdings(1)) is None
    found = looked(deadlock_probe, {RANK}, holdings(2))
    assert str(found).startswith("room 1 holds 1 of language0 and waits for 1 of language0")


def test_a_rank_that_recorded_something_between_the_looks_was_not_standing_still() -> None:
    deadlock_probe = DeadlockProbe()
    assert looked(deadlock_probe, {RANK}, holdings(1)) is None
    assert looked(deadlock_probe, {RANK}, holdings(2, events=6)) is None
    assert looked(deadlock_probe, {RANK}, holdings(3, events=6)) is not None


def test_rooms_that_come_meanwhile_and_wait_behind_it_change_nothing() -> None:
    deadlock_probe = DeadlockProbe()
    assert looked(deadlock_probe, {RANK}, holdings(1)) is None
    found = looked(deadlock_probe, {RANK}, holdings(2, queued=((3, 0), (4, 0))))
    assert str(found).endswith("(4 rooms are stuck)")


def test_looks_are_close_enough_for_short_timers() -> None:
    assert [look_s(timeout_s) for timeout_s in (None, 60.0, 1.0, 0.01)] == [0.4, 0.4, 0.2, 0.02]


def test_rooms_that_could_go_on_are_no_deadlock() -> None:
    deadlock_probe = DeadlockProbe()
    for number in (1, 2, 3):
        assert looked(deadlock_probe, {RANK}, holdings(number, free_again=True)) is None


def test_an_incomplete_look_an_old_answer_and_a_move_in_between_count_for_nothing() -> None:
    deadlock_probe = DeadlockProbe()
    other = RankId(Side.LANGUAGE, 1, 0)
    assert looked(deadlock_probe, {RANK, other}, holdings(1)) is None
    assert looked(deadlock_probe, {RANK, other}, holdings(2), holdings(1, instance=1)) is None
    assert looked(deadlock_probe, {RANK, other}, holdings(3), holdings(3, instance=1)) is None
    deadlock_probe.forget()
    assert looked(deadlock_probe, {RANK, other}, holdings(4), holdings(4, instance=1)) is None
    assert looked(deadlock_probe, {RANK, other}, holdings(5), holdings(5, instance=1)) is not None
