"""What a whole run owes at its end; the laws of single records are tested with the protocol."""

import msgspec
import pytest

from protocol.laws import LawChecker
from protocol.recording import Event
from protocol.scenario import Request, Scenario
from protocol.status import Status
from protocol.topology import RankId, Side
from sim.laws import LawError, broken_laws, observe
from sim.link import load_profile
from sim.run import SimulationOutcome, simulate

SCENARIO = Scenario(block_tokens=4, hidden=8, language_blocks=4, sizing_options={"tokens": 8})
ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
CLEAN = SimulationOutcome(
    end_s=1.0, deadlocks=(), events=1, turns=1, submitted=1, succeeded=1, failed=0, unfinished=0,
    bytes_written=0, bytes_landed=0, leftovers=(),
)  # fmt: skip
Step = tuple[float, RankId, Event, Status | None, int, int]
WHOLE: list[Step] = [
    (0.0, ENCODE, Event.SUBMITTED, Status.Bootstrapping, 0, 0),
    (0.0, LANGUAGE, Event.SUBMITTED, Status.Bootstrapping, 0, 0),
    (0.1, LANGUAGE, Event.ALLOCATED, Status.Bootstrapping, 8, 0),
    (0.1, LANGUAGE, Event.OFFERED, Status.WaitingForInput, 0, 0),
    (0.1, ENCODE, Event.OFFERS_COMPLETE, Status.WaitingForInput, 0, 0),
    (0.1, ENCODE, Event.WRITE_DONE, None, 8, 320),
    (0.1, ENCODE, Event.CHUNK_DONE, Status.Success, 8, 320),
    (0.2, ENCODE, Event.RELEASED, Status.Success, 8, 0),
    (0.2, LANGUAGE, Event.CHUNK_RECEIVED, Status.Success, 8, 256),
    (0.2, LANGUAGE, Event.DELIVERED, Status.Success, 8, 0),
    (0.2, LANGUAGE, Event.RELEASED, Status.Success, 8, 0),
]


def violations(steps: list[Step], outcome: SimulationOutcome = CLEAN) -> list[str]:
    checker = LawChecker(SCENARIO)
    checker.expect(Request(0, 0.0, 8))
    for time_s, rank_id, event, status, tokens, bytes_ in steps:
        checker(time_s, rank_id, 0, event, status, tokens, bytes_, str(LANGUAGE))
    return broken_laws(checker, outcome)


def test_a_clean_run_breaks_no_law() -> None:
    assert violations(WHOLE) == []
    checker = LawChecker(SCENARIO)
    requests = [Request(room, room * 1e-4, 5 * room + 1) for room in range(10)]
    outcome = simulate(SCENARIO, checker.announced(requests), load_profile("cx7-400g"), recorder=checker)
    assert broken_laws(checker, outcome) == []
    assert checker.open_rooms == []


@pytest.mark.parametrize(
    ("number", "step", "law"),
    [
        (8, (0.05, LANGUAGE, Event.CHUNK_RECEIVED, Status.Success, 8, 256), "time goes back from 0.2 to 0.05"),
        (8, (0.2, LANGUAGE, Event.CHUNK_RECEIVED, Status.Bootstrapping, 8, 256), "WaitingForInput became Bootstrapping"),
        (9, (0.2, LANGUAGE, Event.DELIVERED, Status.Failed, 8, 0), "Success became Failed"),
        (2, (0.1, LANGUAGE, Event.ALLOCATED, Status.Bootstrapping, 20, 0), "5 blocks held of a pool of 4"),
        (8, (0.2, LANGUAGE, Event.CHUNK_RECEIVED, Status.Success, 8, 255), "received 255 bytes of 256"),
        (9, (0.2, LANGUAGE, Event.DELIVERED, Status.Success, 7, 0), "8 tokens became 7"),
        (5, (0.1, ENCODE, Event.WRITE_DONE, None, 8, 319), "319 bytes landed at language0.0, the request has 320"),
    ],
)  # fmt: skip
def test_a_broken_law_is_named(number: int, step: Step, law: str) -> None:
    found = violations([*WHOLE[:number], step, *WHOLE[number + 1 :]])
    assert any(law in violation for violation in found), found


def test_rooms_that_never_end_and_ends_that_come_twice() -> None:
    assert violations(WHOLE[:9]) == [
        "room 0 on language0.0, released: Success but neither delivered nor failed",
        "room 0 never ended on language0.0",
    ]
    assert "the room does not live here" in violations([*WHOLE, WHOLE[-1]])[0]
    early = violations([*WHOLE[:4], (0.2, LANGUAGE, Event.RELEASED, None, 0, 0)])
    assert any("released in WaitingForInput" in violation for violation in early)


@pytest.mark.parametrize(
    ("fields", "law"),
    [
        ({"unfinished": 1, "succeeded": 0}, "1 requests never ended"),
        ({"leftovers": ("encode0.0 remembers 1 rooms",)}, "encode0.0 remembers 1 rooms"),
        ({"succeeded": 2}, "1 requests were submitted, 2 succeeded, 0 failed, 0 are unfinished"),
        ({"bytes_landed": 1}, "1 bytes landed, 0 were written"),
    ],
)
def test_the_outcome_must_add_up(fields: dict[str, object], law: str) -> None:
    assert violations(WHOLE, msgspec.structs.replace(CLEAN, **fields)) == [law]


def test_a_run_that_stands_still_owes_its_unfinished_rooms_nothing() -> None:
    stuck = msgspec.structs.replace(CLEAN, deadlocks=("rooms 1 and 2",), unfinished=1, succeeded=0, leftovers=("one",))
    assert violations(WHOLE[:5], stuck) == []


def test_an_observed_run_that_breaks_a_law_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LawChecker, "finish", lambda self: self._break("made up", LANGUAGE, 1, Event.RELEASED))
    with pytest.raises(LawError, match=r"room 1 on language0\.0, released: made up"):
        observe(SCENARIO, [Request(0, 0.0, 8)], load_profile("cx7-400g"))
