"""Several instances, batches, processors, workers, shared links and late release: times worked out by hand."""

from __future__ import annotations

import math

import msgspec
import pytest

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import replaced
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.observe import ObservedRun, observe
from bufferlab.sim.run import simulate

FREE = LinkProfile(
    name="free", latency_s=0.0, per_segment_s=0.0, bandwidth_Bps=math.inf, control_latency_s=0.0,
    copy_bandwidth_Bps=math.inf,
)  # fmt: skip
# A token has 2 × 6 bytes of embedding and 16 of ids and positions: 28 bytes. 64 bytes of aux in the first chunk.
SMALL = Scenario(
    block_tokens=1, hidden=6, encode_blocks=100, language_blocks=100, sizing_options={"tokens": 10}, timeout_s=None,
    services=ServiceTimes(encode_poll_interval_s=0.0, language_poll_interval_s=0.0),
)  # fmt: skip


def change(scenario: Scenario, **fields: object) -> Scenario:
    return msgspec.structs.replace(scenario, **fields)


def serving(**times: float) -> ServiceTimes:
    return ServiceTimes(encode_poll_interval_s=0.0, language_poll_interval_s=0.0, **times)  # type: ignore[arg-type]


def link(**fields: object) -> LinkProfile:
    return msgspec.structs.replace(FREE, **fields)


def at_once(lengths: list[int], **fields: object) -> list[Request]:
    return [Request(room, 0.0, tokens, **fields) for room, tokens in enumerate(lengths)]  # type: ignore[arg-type]


def ends(run: ObservedRun, event: Event, side: Side) -> list[float]:
    """When each room's last rank of a side recorded ``event``."""
    rooms = sorted({record.room for record in run.records})
    return [max(run.times_s(room, event, side)) for room in rooms]


# --- the encode side -----------------------------------------------------------------------------------------------


def test_an_encoder_pass_takes_its_batch() -> None:
    scenario = change(SMALL, encode_batch=2, services=serving(encode_base_s=1.0, encode_per_token_s=0.1))
    run = observe(scenario, at_once([10, 10, 10, 10, 10]), FREE)
    assert ends(run, Event.ENCODED, Side.ENCODE) == pytest.approx([3.0, 3.0, 6.0, 6.0, 8.0])


def test_a_pass_costs_per_image_per_token_and_per_square_and_as_long_as_the_request_says() -> None:
    services = serving(encode_base_s=1.0, encode_per_image_s=0.5, encode_per_token_s=0.1, encode_per_token2_s=0.01)
    request = Request(0, 0.0, 14, text_tokens=4, images=2, encode_factor=2.0)
    assert services.encode_s(request) == pytest.approx(2.0 * (1.0 + 1.0 + 0.01 * (25 + 25)))
    uneven = replaced(request, image_squares=1 + 81)
    assert services.encode_s(uneven) == pytest.approx(2.0 * (1.0 + 1.0 + 0.82))
    assert services.encode_s(Request(0, 0.0, 5, text_tokens=5)) == 0.0
    run = observe(change(SMALL, services=services), [request], FREE)
    assert ends(run, Event.ENCODED, Side.ENCODE) == pytest.approx([1.0 + services.encode_s(request)])


def test_images_are_prepared_by_as_many_processors_as_there_are() -> None:
    services = serving(preprocess_per_token_s=0.1)
    scenario = change(SMALL, services=msgspec.structs.replace(services, preprocess_workers=2))
    run = observe(scenario, at_once([10, 20, 10, 10]), FREE)
    # Two begin at once; the third when the first is done, the fourth when two more are.
    assert [min(run.times_s(room, Event.SUBMITTED, Side.ENCODE)) for room in range(4)] == pytest.approx([1, 2, 2, 3])
    assert [min(run.times_s(room, Event.SUBMITTED, Side.LANGUAGE)) for room in range(4)] == [0, 0, 0, 0]


def test_each_instance_has_processors_of_its_own() -> None:
    scenario = change(SMALL, encode_instances=2, services=serving(preprocess_per_token_s=0.1))
    requests = [Request(room, 0.0, 10, encode_instance=room % 2) for room in range(4)]
    run = observe(scenario, requests, FREE)
    assert [min(run.times_s(room, Event.SUBMITTED, Side.ENCODE)) for room in range(4)] == pytest.approx([1, 1, 2, 2])


# --- transfers -----------------------------------------------------------------------------------------------------

# A first chunk of 10 tokens has 10 · 28 + 64 = 344 bytes: 1 s.
SECOND = link(bandwidth_Bps=344.0)


def test_writes_to_one_instance_are_one_workers_and_those_to_two_need_two() -> None:
    requests = [Request(room, 0.0, 10, language_instance=room % 2) for room in range(4)]
    two = change(SMALL, language_instances=2)
    one_worker = observe(two, requests, SECOND)
    assert sorted(ends(one_worker, Event.CHUNK_DONE, Side.ENCODE)) == pytest.approx([1, 2, 3, 4])
    two_workers = observe(change(two, transfer_workers=2), requests, SECOND)
    assert ends(two_workers, Event.CHUNK_DONE, Side.ENCODE) == pytest.approx([1, 1, 2, 2])
    # With one instance to write to, the others of four workers have nothing to do.
    four = observe(change(SMALL, transfer_workers=4), at_once([10, 10]), SECOND)
    assert ends(four, Event.CHUNK_DONE, Side.ENCODE) == pytest.approx([1, 2])


def test_two_workers_of_a_rank_share_its_adapter() -> None:
    scenario = change(SMALL, language_instances=2, transfer_workers=2)
    requests = [Request(room, 0.0, 10, language_instance=room) for room in range(2)]
    run = observe(scenario, requests, msgspec.structs.replace(SECOND, shared_by="rank"))
    assert ends(run, Event.CHUNK_DONE, Side.ENCODE) == pytest.approx([2, 2])


def test_two_encode_instances_share_the_adapter_of_the_language_rank() -> None:
    scenario = change(SMALL, encode_instances=2, services=serving(encode_per_token_s=0.05))
    requests = [Request(room, 0.5 * room, 10, encode_instance=room) for room in range(2)]
    run = observe(scenario, requests, msgspec.structs.replace(SECOND, shared_by="rank"))
    # Both are encoded in 0.5 s. The second write begins at 1 s, half way through the first: they share until 2 s.
    assert ends(run, Event.CHUNK_DONE, Side.ENCODE) == pytest.approx([2.0, 2.5])
    alone = observe(scenario, requests, msgspec.structs.replace(SECOND, shared_by="nobody"))
    assert ends(alone, Event.CHUNK_DONE, Side.ENCODE) == pytest.approx([1.5, 2.0])


def test_the_ranks_of_an_instance_share_adapters_only_where_the_profile_says_so() -> None:
    pairs = change(SMALL, encode_tp=2, language_tp=2)
    for shared_by, seconds in (("rank", 1.0), ("instance", 2.0)):
        run = observe(pairs, at_once([10]), msgspec.structs.replace(SECOND, shared_by=shared_by))
        assert ends(run, Event.CHUNK_DONE, Side.ENCODE) == pytest.approx([seconds])


def test_where_nobody_can_share_the_network_is_left_out_and_nothing_changes() -> None:
    shared = msgspec.structs.replace(SECOND, shared_by="rank", per_segment_s=0.01, latency_s=0.1, first_contact_s=0.5)
    alone = msgspec.structs.replace(shared, shared_by="nobody")
    requests = [Request(room, 0.3 * room, 5 + 7 * room) for room in range(6)]
    pairs = change(SMALL, encode_tp=2, language_tp=3)
    assert observe(pairs, requests, shared).records == observe(pairs, requests, alone).records


def test_first_contact_is_paid_once_per_pair_of_ranks() -> None:
    scenario = change(SMALL, language_tp=2)
    run = observe(scenario, at_once([10, 10]), msgspec.structs.replace(SECOND, first_contact_s=0.25))
    # One worker writes to both ranks, one after the other: 2 × (1 + 0.25), then 2 × 1.
    assert ends(run, Event.CHUNK_DONE, Side.ENCODE) == pytest.approx([2.5, 4.5])


# --- the language side ---------------------------------------------------------------------------------------------


def prefilling(batch: int | None, *, release_after_prefill: bool, blocks: int = 100) -> Scenario:
    return change(
        SMALL,
        prefill_batch_tokens=batch,
        release_after_prefill=release_after_prefill,
        language_blocks=blocks,
        services=serving(prefill_base_s=1.0, prefill_per_token_s=0.1),
    )


@pytest.mark.parametrize(
    ("batch", "released"),
    [
        (None, [5.0, 5.0, 5.0, 5.0]),  # one pass of 40 tokens
        (20, [3.0, 3.0, 6.0, 6.0]),  # two passes of 2 requests
        (5, [2.0, 4.0, 6.0, 8.0]),  # a longer request has a pass of its own
    ],
)
def test_a_prefill_pass_takes_its_batch_and_releases_what_it_is_through_with(
    batch: int | None, released: list[float]
) -> None:
    run = observe(prefilling(batch, release_after_prefill=True), at_once([10] * 4), FREE)
    assert ends(run, Event.DELIVERED, Side.LANGUAGE) == [0.0] * 4
    assert ends(run, Event.RELEASED, Side.LANGUAGE) == pytest.approx(released)


def test_blocks_that_are_kept_for_the_prefill_make_others_wait() -> None:
    early = observe(prefilling(None, release_after_prefill=False, blocks=10), at_once([10, 10]), FREE)
    late = observe(prefilling(None, release_after_prefill=True, blocks=10), at_once([10, 10]), FREE)
    # Copied out, the blocks are free at once, but the loop that would hand them out is in the prefill's iteration.
    assert ends(early, Event.ALLOCATED, Side.LANGUAGE) == pytest.approx([0.0, 0.0])
    assert ends(late, Event.ALLOCATED, Side.LANGUAGE) == pytest.approx([0.0, 2.0])


def test_the_ranks_of_a_group_have_one_prefill() -> None:
    scenario = change(prefilling(10, release_after_prefill=True), language_tp=3)
    run = observe(scenario, at_once([10, 10]), FREE)
    assert ends(run, Event.RELEASED, Side.LANGUAGE) == pytest.approx([2.0, 4.0])


# --- deadlock ------------------------------------------------------------------------------------------------------

STUCK = change(SMALL, discipline="alloc_then_free", language_blocks=5, sizing_options={"tokens": 2})


def test_a_deadlock_names_the_rooms_in_the_cycle() -> None:
    outcome = simulate(STUCK, at_once([4, 4]), FREE)
    assert outcome.deadlock
    assert outcome.unfinished == 2
    assert outcome.deadlocks == (
        "seen at 0.000000 s: room 0 holds 4 of encode0 and 2 of language0 and waits for 2 of language0; "
        "room 1 holds 4 of encode0 and 2 of language0 and waits for 2 of language0 (2 rooms are stuck)",
    )


def test_a_deadlock_that_timers_end_while_requests_go_on_coming_is_seen() -> None:
    scenario = change(STUCK, timeout_s=1.0)
    requests = [*at_once([4, 4]), *(Request(room, 0.1 * room, 1) for room in range(2, 40))]
    outcome = simulate(scenario, requests, FREE)
    assert outcome.deadlock
    assert outcome.unfinished == 0
    assert [line.split(":")[0] for line in outcome.deadlocks] == ["seen at 1.000000 s"]
    assert "room 0 holds" in outcome.deadlocks[0]


def test_a_wait_that_ends_is_no_deadlock() -> None:
    outcome = simulate(change(STUCK, language_blocks=6), at_once([4, 4]), FREE)
    assert (outcome.deadlocks, outcome.succeeded) == ((), 2)


def test_a_deadlock_across_the_sides_is_named() -> None:
    # Room 0 keeps its source blocks and waits for memory to go on, room 1 has taken that and waits for source blocks.
    scenario = change(
        SMALL,
        discipline="free_then_alloc",
        encode_blocks=4,
        language_blocks=3,
        sizing_options={"tokens": 2},
        resume_first=False,
    )
    outcome = simulate(scenario, at_once([4, 4]), FREE)
    assert outcome.deadlocks == (
        "seen at 0.000000 s: room 0 holds 4 of encode0 and waits for 2 of language0; "
        "room 1 holds 2 of language0 and waits for 4 of encode0 (2 rooms are stuck)",
    )
    assert not simulate(change(scenario, resume_first=True), at_once([4, 4]), FREE).deadlock


def test_the_ranks_are_those_of_their_instances() -> None:
    scenario = change(SMALL, encode_instances=2, language_instances=3, encode_tp=2, language_tp=1)
    requests = [Request(room, 0.0, 25, encode_instance=room % 2, language_instance=room % 3) for room in range(12)]
    run = observe(scenario, requests, FREE)
    assert run.outcome.succeeded == 12
    for room in range(12):
        ranks = {record.rank_id for record in run.records if record.room == room}
        assert ranks == {
            RankId(Side.ENCODE, room % 2, 0),
            RankId(Side.ENCODE, room % 2, 1),
            RankId(Side.LANGUAGE, room % 3, 0),
        }
