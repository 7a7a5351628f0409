"""The checker of laws sees what it is there to see."""

import pytest

from protocol.recording import Event
from protocol.scenario import Request, Scenario
from protocol.status import Status
from protocol.topology import RankId, Side
from sim.laws import LawChecker
from sim.link import load_profile
from sim.run import SimulationOutcome, simulate

SCENARIO = Scenario(block_tokens=4, hidden=8, language_blocks=4, sizing_options={"tokens": 8})
RANK = RankId(Side.LANGUAGE, 0, 0)
CLEAN = SimulationOutcome(
    end_s=1.0, deadlock=False, events=1, turns=1, submitted=1, succeeded=1, failed=0, unfinished=0,
    bytes_written=0, bytes_landed=0, leftovers=(),
)  # fmt: skip
Step = tuple[float, Event, Status | None, int, int]
WHOLE: list[Step] = [
    (0.0, Event.SUBMITTED, Status.Bootstrapping, 0, 0),
    (0.1, Event.ALLOCATED, Status.Bootstrapping, 8, 0),
    (0.1, Event.OFFERED, Status.WaitingForInput, 0, 0),
    (0.2, Event.CHUNK_RECEIVED, Status.Success, 8, 256),
    (0.2, Event.DELIVERED, Status.Success, 8, 0),
    (0.2, Event.RELEASED, Status.Success, 8, 0),
]


def violations(steps: list[Step], outcome: SimulationOutcome = CLEAN) -> list[str]:
    checker = LawChecker(SCENARIO)
    for time_s, event, status, tokens, bytes_ in steps:
        checker(time_s, RANK, 0, event, status, tokens, bytes_, "")
    return checker.finish(outcome)


def test_a_clean_run_breaks_no_law() -> None:
    assert violations(WHOLE) == []
    checker = LawChecker(SCENARIO)
    requests = [Request(room, room * 1e-4, 5 * room + 1) for room in range(10)]
    outcome = simulate(SCENARIO, requests, load_profile("cx7-400g"), recorder=checker)
    assert checker.finish(outcome) == []


@pytest.mark.parametrize(
    ("number", "step", "law"),
    [
        (3, (0.05, Event.CHUNK_RECEIVED, Status.Success, 8, 256), "recorded after 0.1"),
        (3, (0.2, Event.CHUNK_RECEIVED, Status.Bootstrapping, 8, 256), "WaitingForInput became Bootstrapping"),
        (4, (0.2, Event.DELIVERED, Status.Failed, 8, 0), "Success became Failed"),
        (1, (0.1, Event.ALLOCATED, Status.Bootstrapping, 20, 0), "the rank holds 5 of 4 blocks"),
        (3, (0.2, Event.CHUNK_RECEIVED, Status.Success, 8, 255), "received 255 bytes of 256"),
        (4, (0.2, Event.DELIVERED, Status.Success, 7, 0), "8 tokens became 7"),
    ],
)
def test_a_broken_law_is_named(number: int, step: Step, law: str) -> None:
    found = violations([*WHOLE[:number], step, *WHOLE[number + 1 :]])
    assert any(law in violation for violation in found), found


def test_rooms_that_never_end_and_ends_that_come_twice() -> None:
    assert violations(WHOLE[:4]) == ["room 0 never ended on language0.0"]
    assert "the room is not open there" in violations([*WHOLE, WHOLE[-1]])[0]
    assert "released in WaitingForInput" in violations([*WHOLE[:3], (0.2, Event.RELEASED, None, 0, 0)])[0]
