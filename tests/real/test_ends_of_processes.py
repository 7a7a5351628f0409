"""When processes end both worlds tell the same story, rank by rank, with pools in which nobody may take a block in vain.

The rule is in ``protocol.lifecycle``. What ends is instance 0 of one side, with a room in its encoder that has two
more seconds to go; its side's instance 1 and the one instance of the other side live on.
"""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")

from bufferlab.experiments.runs.equality import differences
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.faults import Death, Restart
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real import faults as measured_faults
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.run.launcher import run_real
from bufferlab.sim.faults import FaultPlan, PlannedFaults
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

ENDS_S, DOWN_S, HEARTBEAT_S = 1.0, 2.0, 0.4
IN_THE_ENCODER, REFUSED, SERVED = 1, 2, 3
"""Rooms. The first holds blocks when the processes end. The second comes while they are down: if it took any blocks,
the third, of the instance that lives, would find too few and time out."""


def scenario(side: Side, tp: int) -> Scenario:
    """A token takes 50 ms to encode; each pool has the blocks of rooms 1 and 3 and no more."""
    own = {f"{side.value}_instances": 2, f"{side.value}_tp": tp}
    return Scenario(
        block_tokens=16, hidden=64, sizing_options={"tokens": 32}, encode_blocks=6, language_blocks=4, timeout_s=20.0,
        services=ServiceTimes(encode_poll_interval_s=0.002, language_poll_interval_s=0.002, encode_per_token_s=0.05), **own,
    )  # fmt: skip


def requests(side: Side) -> list[Request]:
    def on(instance: int, room: int, arrival_s: float, tokens: int) -> Request:
        return Request(room, arrival_s, tokens, images=1, **{f"{side.value}_instance": instance})  # type: ignore[arg-type]

    return [on(0, IN_THE_ENCODER, 0.0, 60), on(0, REFUSED, 1.3, 20), on(1, SERVED, 1.6, 20)]


def simulated(spec: Scenario, side: Side, incident: Death | Restart) -> list[Record]:
    records: list[Record] = []
    plan = FaultPlan(heartbeat_s=HEARTBEAT_S, heartbeat_failures=2, incidents=(incident,))
    outcome = simulate(
        spec, requests(side), load_profile("tcp-loopback"), faults=PlannedFaults(plan),
        recorder=lambda *row: records.append(Record(*row)),
    )  # fmt: skip
    assert (outcome.succeeded, outcome.failed, outcome.unfinished, outcome.leftovers) == (1, 2, 0, ())
    return records


def reasons(records: list[Record]) -> dict[tuple[int, RankId], str]:
    """Why each room failed on each rank; which rank of an instance that is down is named first hangs on a moment."""
    return {
        (one.room, one.rank_id): re.sub(r"\.\d+ is down", " is down", one.detail)
        for one in records
        if one.event is Event.FAILED
    }


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("what", ["restart", "death of a member", "death of a lone rank"])
def test_the_same_rooms_end_in_the_same_way_on_every_rank(side: Side, what: str) -> None:
    member = what == "death of a member"
    spec = scenario(side, tp=2 if member else 1)
    rank = RankId(side, 0, int(member))
    if what == "restart":
        incident: Death | Restart = Restart(ENDS_S, (side, 0), DOWN_S)
        fault: measured_faults.RealFault = measured_faults.Restart(side=side, instance=0, down_s=DOWN_S, time_s=ENDS_S)
    else:
        incident, fault = Death(ENDS_S, rank), measured_faults.Kill(rank=rank, time_s=ENDS_S)
    expected = simulated(spec, side, incident)
    beats = Heartbeats(interval_s=HEARTBEAT_S, failures=2)
    outcome = run_real(spec, requests(side), plan=[fault], heartbeats=beats)
    assert differences(expected, outcome.records, ("sim", "real"), (frozenset(), outcome.quarantined)) == []
    assert (
        len(outcome.quarantined) == outcome.rooms_quarantined == len({IN_THE_ENCODER} if outcome.blocks_fenced else ())
    )
    assert reasons(outcome.records) == reasons(expected)
    ranks = [*spec.encode_ids(), *spec.language_ids()]
    refused = {one for one in ranks if one.side is not side or one.instance == 0}
    assert {one for (room, one), _ in reasons(expected).items() if room == REFUSED} == refused
    assert (outcome.succeeded_rooms, outcome.failed_rooms) == ({SERVED}, {IN_THE_ENCODER, REFUSED})
    assert (outcome.mismatches, outcome.rooms_left, outcome.blocks_lost) == ([], 0, 0)
    # Only what was offered to the encoder of room 1 stays fenced, not anything for room 2.
    assert outcome.blocks_fenced == (2 if side is Side.ENCODE else 0)
