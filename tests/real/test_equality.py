"""The project's central test: one scenario, run by both drivers, gives the same history of every room on every rank."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes, WriteFault
from bufferlab.protocol.recording import OrderingDomain, Record, histories
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import Side
from bufferlab.real.run.launcher import RealOutcome, run_real
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

BLOCK = 16
DEFAULT = 64
# One token, around a block, around the default, several chunks, a length that is no multiple of anything.
LENGTHS = [1, BLOCK - 1, BLOCK, BLOCK + 1, DEFAULT - 1, DEFAULT, DEFAULT + 1, 2 * DEFAULT, 5 * DEFAULT + 7, 777]


def scenario(**changes: object) -> Scenario:
    fields: dict[str, object] = {
        "block_tokens": BLOCK,
        "hidden": 64,
        "sizing_options": {"tokens": DEFAULT},
        # Room for all requests at once: what a room gets must not depend on who came a millisecond earlier.
        "encode_blocks": 128,
        "language_blocks": 256,
        "timeout_s": 20.0,
        "services": ServiceTimes(encode_poll_interval_s=0.002, language_poll_interval_s=0.002, encode_base_s=0.001),
    }
    return Scenario(**(fields | changes))  # type: ignore[arg-type]


def requests(lengths: list[int]) -> list[Request]:
    return [
        Request(room=room, arrival_s=0.02 * room, total_tokens=tokens, text_tokens=1)
        for room, tokens in enumerate(lengths, 1)
    ]


def both(spec: Scenario, lengths: list[int]) -> tuple[list[Record], RealOutcome]:
    simulated: list[Record] = []
    simulate(
        spec,
        requests(lengths),
        load_profile("tcp-loopback"),
        recorder=lambda *fields: simulated.append(Record(*fields)),
    )
    measured = run_real(spec, requests(lengths))
    return simulated, measured


def assert_equal_histories(simulated: list[Record], measured: list[Record]) -> None:
    expected, found = histories(simulated), histories(measured)
    assert expected, "the simulator recorded nothing"
    assert found.keys() == expected.keys()
    for key, history in expected.items():
        assert found[key] == history, f"room {key[0]} on {key[1]}, {key[2]}"


@pytest.mark.parametrize(("encode_tp", "language_tp"), [(1, 1), (1, 2), (2, 2), (2, 1), (2, 3)])
def test_every_pairing_of_ranks(encode_tp: int, language_tp: int) -> None:
    spec = scenario(encode_tp=encode_tp, language_tp=language_tp)
    simulated, measured = both(spec, LENGTHS)
    assert_equal_histories(simulated, measured.records)
    assert measured.mismatches == []
    assert measured.verified_rooms == len(LENGTHS) * language_tp
    assert measured.verified_bytes == sum(LENGTHS) * language_tp * spec.layout.bytes_per_token
    assert (measured.rooms_left, measured.blocks_lost) == (0, 0)


@pytest.mark.parametrize("discipline", [name for name in DISCIPLINES if name != "window"])
def test_every_discipline(discipline: str) -> None:
    options = {"tokens": 1024 if discipline == "slot" else DEFAULT}
    spec = scenario(discipline=discipline, sizing_options=options, language_blocks=1024)
    simulated, measured = both(spec, LENGTHS)
    assert_equal_histories(simulated, measured.records)
    assert measured.mismatches == []
    assert (measured.rooms_left, measured.blocks_lost) == (0, 0)


def test_failed_writes_fail_the_room_on_every_rank_and_no_other() -> None:
    spec = scenario(
        language_tp=2, faults=(WriteFault(room=1), WriteFault(room=3, epoch=1), WriteFault(room=4, epoch=0))
    )
    simulated, measured = both(spec, [40, 50, 150, 10, 60])
    assert_equal_histories(simulated, measured.records)
    failed = {record.room for record in measured.records if record.status is Status.Failed}
    assert failed == {1, 3, 4}
    assert measured.mismatches == []
    assert measured.verified_rooms == 2 * 2
    assert (measured.rooms_left, measured.blocks_lost) == (0, 0)


SGLANG = {"wire": "sglang", "discipline": "alloc_then_free"}


@pytest.mark.parametrize(("encode_tp", "language_tp"), [(1, 1), (1, 2), (2, 2), (2, 1), (2, 3)])
def test_every_pairing_of_ranks_over_the_frames_of_the_fork(encode_tp: int, language_tp: int) -> None:
    """One chunk or one resume, which is all that those frames can say; the simulator speaks as it always does."""
    spec = scenario(encode_tp=encode_tp, language_tp=language_tp, **SGLANG)
    simulated, measured = both(spec, LENGTHS)
    assert_equal_histories(simulated, measured.records)
    assert measured.mismatches == []
    assert measured.verified_rooms == len(LENGTHS) * language_tp
    assert measured.verified_bytes == sum(LENGTHS) * language_tp * spec.layout.bytes_per_token
    assert (measured.rooms_left, measured.blocks_lost) == (0, 0)
    assert (measured.frames_dropped, measured.messages_stale) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("discipline", [name for name, one in DISCIPLINES.items() if one.one_resume])
def test_every_discipline_that_the_fork_can_speak(discipline: str) -> None:
    options = {"tokens": 1024 if discipline == "slot" else DEFAULT}
    spec = scenario(wire="sglang", discipline=discipline, sizing_options=options, language_blocks=1024)
    simulated, measured = both(spec, LENGTHS)
    assert_equal_histories(simulated, measured.records)
    assert measured.mismatches == []
    assert (measured.rooms_left, measured.blocks_lost) == (0, 0)


@pytest.mark.parametrize(("encode_tp", "language_tp"), [(1, 2), (2, 1)])
def test_failed_writes_over_the_frames_of_the_fork(encode_tp: int, language_tp: int) -> None:
    faults = (WriteFault(room=1), WriteFault(room=3, epoch=1), WriteFault(room=4, destination=language_tp - 1))
    spec = scenario(encode_tp=encode_tp, language_tp=language_tp, faults=faults, deepstack_layers=2, **SGLANG)
    simulated, measured = both(spec, [40, 50, 150, 10, 60, 90])
    assert_equal_histories(simulated, measured.records)
    assert measured.failed_rooms == {1, 3, 4}
    assert all(one.status is Status.Failed for one in measured.conclusions if one.room in {1, 3, 4})
    assert measured.mismatches == []
    assert measured.verified_rooms == 3 * language_tp
    # Our encode side says Failed when nothing can land any more, so that nothing waits for the end of a quarantine.
    assert (measured.rooms_left, measured.blocks_lost, measured.rooms_quarantined) == (0, 0, 0)


def test_deepstack_is_moved_and_compared_too() -> None:
    simulated, measured = both(scenario(deepstack_layers=3), LENGTHS)
    assert_equal_histories(simulated, measured.records)
    assert measured.mismatches == []
    assert measured.verified_rooms == len(LENGTHS)


def test_the_comparison_can_fail() -> None:
    """A guard on the guard: a run with another default must be told apart."""
    first: list[Record] = []
    second: list[Record] = []
    link = load_profile("tcp-loopback")
    simulate(scenario(), requests([200]), link, recorder=lambda *fields: first.append(Record(*fields)))
    other = scenario(sizing_options={"tokens": 2 * DEFAULT})
    simulate(other, requests([200]), link, recorder=lambda *fields: second.append(Record(*fields)))
    with pytest.raises(AssertionError):
        assert_equal_histories(first, second)
    domains = {key[2] for key in histories(first)}
    assert {OrderingDomain.ROOM.value, OrderingDomain.COMPUTE.value} < domains
    assert {key[1].side for key in histories(first)} == set(Side)
