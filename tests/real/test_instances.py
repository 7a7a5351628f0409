"""Several encode and language instances in one measured run: the same histories as in the simulator, room by room."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")

from bufferlab.experiments.runs.equality import differences
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes, WriteFault
from bufferlab.protocol.recording import Record, histories
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import Side
from bufferlab.real.run.launcher import RealOutcome, run_real
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

BLOCK = 16
DEFAULT = 64
LENGTHS = [1, BLOCK, BLOCK + 1, DEFAULT, DEFAULT + 1, 2 * DEFAULT, 5 * DEFAULT + 7, 777]


def scenario(**changes: object) -> Scenario:
    fields: dict[str, object] = {
        "block_tokens": BLOCK,
        "hidden": 64,
        "sizing_options": {"tokens": DEFAULT},
        # Room for all requests at once: what a room gets must not depend on who came a millisecond earlier.
        "encode_blocks": 256,
        "language_blocks": 256,
        "encode_instances": 2,
        "language_instances": 2,
        "timeout_s": 20.0,
        "services": ServiceTimes(encode_poll_interval_s=0.002, language_poll_interval_s=0.002, encode_base_s=0.001),
    }
    return Scenario(**(fields | changes))  # type: ignore[arg-type]


def requests(spec: Scenario) -> list[Request]:
    """Every length for every pair of instances."""
    pairs = [(one, two) for one in range(spec.encode_instances) for two in range(spec.language_instances)]
    cases = [(tokens, *pair) for tokens in LENGTHS for pair in pairs]
    return [
        Request(
            room=room,
            arrival_s=0.01 * room,
            total_tokens=tokens,
            text_tokens=1,
            encode_instance=encode,
            language_instance=language,
        )
        for room, (tokens, encode, language) in enumerate(cases, 1)
    ]


def both(spec: Scenario) -> tuple[list[Record], RealOutcome]:
    simulated: list[Record] = []
    link = load_profile("tcp-loopback")
    simulate(spec, requests(spec), link, recorder=lambda *fields: simulated.append(Record(*fields)))
    return simulated, run_real(spec, requests(spec))


def assert_same(spec: Scenario, simulated: list[Record], measured: RealOutcome) -> None:
    assert histories(simulated), "the simulator recorded nothing"
    assert differences(simulated, measured.records, ("the simulator", "the measured run")) == []
    assert measured.mismatches == []
    assert (measured.rooms_left, measured.blocks_lost, measured.deadlock) == (0, 0, False)
    for request in requests(spec):
        ranks = {record.rank_id for record in measured.records if record.room == request.room}
        assert {(rank.side, rank.instance) for rank in ranks} == {
            (Side.ENCODE, request.encode_instance),
            (Side.LANGUAGE, request.language_instance),
        }


def test_two_encode_and_two_language_instances() -> None:
    spec = scenario()
    simulated, measured = both(spec)
    assert_same(spec, simulated, measured)
    assert measured.verified_rooms == len(requests(spec))
    assert measured.verified_bytes == 4 * sum(LENGTHS) * spec.layout.bytes_per_token
    assert len(measured.succeeded_rooms) == len(requests(spec))
    assert [str(route.rank_id) for route in sorted(measured.processes, key=lambda one: one.rank_id)] == [
        "encode0.0", "encode1.0", "language0.0", "language1.0"
    ]  # fmt: skip


@pytest.mark.parametrize("tp", [(1, 1), pytest.param((2, 3), marks=pytest.mark.slow)])
def test_several_instances_over_the_frames_of_the_fork(tp: tuple[int, int]) -> None:
    """Which instance a session is of, an encode rank knows only by the request that it asks for."""
    spec = scenario(
        encode_tp=tp[0], language_tp=tp[1], wire="sglang", discipline="alloc_then_free", language_blocks=512
    )
    simulated, measured = both(spec)
    assert_same(spec, simulated, measured)
    assert measured.verified_rooms == len(requests(spec)) * tp[1]
    assert (measured.frames_dropped, measured.messages_stale) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("encode_tp", "language_tp"), [(1, 2), (2, 2), (2, 1), (2, 3)])
def test_every_pairing_of_ranks_between_several_instances(encode_tp: int, language_tp: int) -> None:
    spec = scenario(encode_tp=encode_tp, language_tp=language_tp)
    simulated, measured = both(spec)
    assert_same(spec, simulated, measured)
    assert measured.verified_rooms == len(requests(spec)) * language_tp


@pytest.mark.slow
@pytest.mark.parametrize("discipline", ["exact_announce", "alloc_then_free", "free_then_alloc", "default_fail"])
def test_disciplines_between_several_instances(discipline: str) -> None:
    spec = scenario(discipline=discipline, language_blocks=1024)
    simulated, measured = both(spec)
    assert_same(spec, simulated, measured)


@pytest.mark.slow
@pytest.mark.parametrize(("encode_instances", "language_instances"), [(1, 3), (3, 1)])
def test_unequal_numbers_of_instances(encode_instances: int, language_instances: int) -> None:
    spec = scenario(encode_instances=encode_instances, language_instances=language_instances)
    simulated, measured = both(spec)
    assert_same(spec, simulated, measured)


@pytest.mark.slow
def test_a_failed_write_fails_its_room_only() -> None:
    spec = scenario(language_tp=2, faults=(WriteFault(room=6), WriteFault(room=27, epoch=1)))
    simulated, measured = both(spec)
    assert_same(spec, simulated, measured)
    assert {record.room for record in measured.records if record.status is Status.Failed} == {6, 27}
    assert measured.failed_rooms == {6, 27}


@pytest.mark.parametrize(("encode", "language"), [(2, 0), (0, 2)])
def test_a_request_for_an_instance_that_is_not_there_is_refused_before_anything_starts(
    encode: int, language: int
) -> None:
    request = Request(room=1, arrival_s=0.0, total_tokens=5, encode_instance=encode, language_instance=language)
    with pytest.raises(ValueError, match=r"room 1 wants encode instance . and language instance .; there are 2 and 2"):
        run_real(scenario(), [request])
