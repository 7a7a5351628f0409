"""Faults that are really injected while the sides speak the fork's frames, which cannot say much about them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.faults import ClientAbort
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.faults import Kill, Pause, RealFault
from bufferlab.real.run.launcher import RealOutcome, run_real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

LANGUAGE, ENCODE = RankId(Side.LANGUAGE, 0, 0), RankId(Side.ENCODE, 0, 0)
STRUCK = 4
"""The room whose write the fault waits for."""


def run(plan: list[RealFault], **changes: object) -> RealOutcome:
    fields: dict[str, object] = {
        "block_tokens": 256,
        "hidden": 2048,
        "sizing_options": {"tokens": 4096},
        "wire": "sglang",
        "discipline": "alloc_then_free",
        "encode_instances": 2,
        "language_instances": 2,
        "encode_blocks": 192,
        "language_blocks": 256,
        "timeout_s": 10.0,
    }
    requests = [
        Request(
            room=room,
            arrival_s=0.05 * room,
            total_tokens=24_000 if room == STRUCK else 2000,
            language_instance=room % 2,
            encode_instance=room // 2 % 2,
        )
        for room in range(1, 13)
    ]
    spec = Scenario(**(fields | changes))  # type: ignore[arg-type]
    outcome = run_real(spec, requests, plan=plan, heartbeats=Heartbeats(interval_s=1.0, failures=2))
    assert outcome.mismatches == []
    assert (outcome.rooms_left, outcome.blocks_lost, outcome.frames_dropped) == (0, 0, 0)
    return outcome


def test_a_killed_language_rank_fails_its_rooms_and_no_other() -> None:
    # All of the room's 98 MB in one write: the kill, which another process sends, comes while it goes on.
    outcome = run([Kill(rank=LANGUAGE, on_write_of=STRUCK)], sizing_options={"tokens": 24_064})
    assert STRUCK in outcome.failed_rooms
    assert all(room % 2 == 0 for room in outcome.failed_rooms)
    # Nobody probes on this wire: the write and a look at its port tell of its end.
    reasons = {one.reason for one in outcome.conclusions if one.room == STRUCK and one.rank_id == ENCODE}
    assert any("the write to language0.0 failed" in reason or "language0.0 is down" in reason for reason in reasons), (
        reasons
    )


def test_a_room_that_its_client_leaves_in_the_middle_of_a_write_gives_its_blocks_back() -> None:
    outcome = run([ClientAbort(room=STRUCK, time_s=0.05 * STRUCK + 0.03)])
    assert outcome.failed_rooms <= {STRUCK}
    assert outcome.rooms_quarantined == 0
    if STRUCK in outcome.failed_rooms:
        statuses = {one.status for one in outcome.conclusions if one.room == STRUCK}
        assert statuses == {Status.Failed}


@pytest.mark.slow
def test_what_a_dead_encode_rank_may_still_write_to_stays_fenced() -> None:
    outcome = run([Kill(rank=ENCODE, on_write_of=STRUCK)])
    assert STRUCK in outcome.failed_rooms
    assert {one for one in range(1, 13) if one // 2 % 2} <= outcome.succeeded_rooms
    assert outcome.rooms_quarantined > 0
    assert outcome.blocks_fenced >= outcome.rooms_quarantined


@pytest.mark.slow
@pytest.mark.parametrize("rank", [LANGUAGE, ENCODE])
def test_a_process_that_stands_still_costs_no_room_but_the_one_that_is_written(rank: RankId) -> None:
    outcome = run([Pause(rank=rank, lasts_s=3.0, on_write_of=STRUCK)])
    lost = outcome.failed_rooms
    assert all(room % 2 == 0 for room in lost) if rank == LANGUAGE else all(room // 2 % 2 == 0 for room in lost)
    assert outcome.rooms_quarantined == 0
