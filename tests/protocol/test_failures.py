"""Failed and late writes, aborts in every phase, lost messages and timers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bufferlab.protocol.messages import (
    Abort,
    Announce,
    Cancel,
    ChunkStatus,
    EncodeRequest,
    LanguageRequest,
    Offer,
    Quiet,
    WriterQuiet,
)
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

S, T, F = Status.Success, Status.Transferring, Status.Failed
E0, E1 = RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 0, 1)
L0, L1, L2 = (RankId(Side.LANGUAGE, 0, rank) for rank in range(3))
NewStage = Callable[..., Any]


@pytest.mark.parametrize(("encode_tp", "language_tp"), [(1, 1), (1, 2), (2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_failed_write_fails_the_room_everywhere(
    stage: NewStage, encode_tp: int, language_tp: int, chunk: int
) -> None:
    """The last destination's write of some chunk fails; the others of the same chunk have landed or are in flight."""
    world = stage(encode_tp=encode_tp, language_tp=language_tp, language_blocks=1, encode_blocks=4)
    world.until_writing(1, 12)
    for _ in range(chunk):
        for rank_id, queue in world.writing.items():
            while queue:
                world.finish_write(rank_id)
        world.send_all()
        world.iteration(Side.LANGUAGE)
        world.send_all()
    culprit = RankId(Side.ENCODE, 0, (language_tp - 1) % encode_tp)
    world.writing[culprit].rotate(1)
    world.finish_write(culprit, ok=False)
    told = [queue[-1] for (source, _), queue in world.channels.items() if source == culprit]
    assert {message.status for message in told} == {F}
    assert {message.epoch for message in told} == {chunk}
    world.run_until_quiet()
    assert world.outcomes(1) == [F] * (encode_tp + language_tp)
    assert world.delivered == []
    assert "injected" in world.reason(1, culprit)
    assert any("injected" in conclusion.reason for conclusion in world.concluded[1, 0].values())
    assert world.quiescent


def test_a_failed_write_is_recorded_without_bytes(stage: NewStage) -> None:
    world = stage(language_tp=2)
    world.until_writing(1, 4)
    world.finish_write(E0)
    world.finish_write(E0, ok=False)
    done = [record for record in world.records if record.event is Event.WRITE_DONE]
    assert [(record.tokens, record.bytes) for record in done] == [(4, 4 * world.layout.bytes_per_token + 64), (0, 0)]


def test_blocks_are_fenced_until_the_writer_is_quiet(stage: NewStage) -> None:
    world = stage(language_tp=2)
    world.until_writing(1, 4)
    world.finish_write(E0, ok=False)
    world.send_all()
    world.iterations()
    world.send_all()
    first, second = (member.pool for member in world.language)
    assert (first.fenced, first.free) == (0, 8), "no write to the first rank is in flight any more"
    assert (second.fenced, second.free) == (1, 7), "the write to the second rank still is"
    world.check_memory()
    assert world.encode[0].pool.free == 7, "its source too"
    world.finish_write(E0)
    world.send_all()
    assert (second.fenced, second.free) == (0, 8)
    assert world.quiescent


def test_an_unquiet_write_holds_source_and_target_until_it_is_quiet(stage: NewStage) -> None:
    """The engine gave up on the write, but its bytes may still land."""
    world = stage(language_tp=2)
    world.until_writing(1, 8)
    world.finish_write(E0, ok=False, quiet=False)
    world.finish_write(E0)
    world.run_until_quiet()
    assert world.outcomes(1) == [F, F, F]
    assert world.encode[0].pool.free == 6
    assert [member.pool.fenced for member in world.language] == [1, 0]
    # Neither repeated cancellations nor other rooms change that.
    world.now += 5.0
    world.submit(2, 16)
    world.run_until_quiet()
    assert world.outcomes(2) == [S, S, S]
    assert [member.pool.fenced for member in world.language] == [1, 0]
    world.feed(E0, WriterQuiet(1, 0, L1))
    assert world.encode[0].ignored_messages >= 1, "that one was not unquiet"
    world.feed(E0, WriterQuiet(1, 0, L0))
    world.run_until_quiet()
    assert world.quiescent


def finish_all_writes(world: Any) -> None:
    for rank_id, queue in world.writing.items():
        while queue:
            world.finish_write(rank_id)


# How far a room has come when it is aborted, as the number of steps taken of the ones below.
STEPS: list[tuple[str, Callable[[Any], object]]] = [
    ("agreed on by the language side", lambda world: world.iteration(Side.LANGUAGE)),
    ("announced or offered", lambda world: world.send_all()),
    ("agreed on by the encode side", lambda world: world.iteration(Side.ENCODE)),
    ("announced", lambda world: world.send_all()),
    ("announcement agreed on", lambda world: world.iteration(Side.LANGUAGE)),
    ("exact offer", lambda world: world.send_all()),
    ("encoded", lambda world: [world.finish_encode() for _ in list(world.encoding)]),
    ("one write landed", lambda world: world.finish_write(E0)),
    ("all writes landed", finish_all_writes),
    ("statuses known", lambda world: world.send_all()),
    ("next offer made", lambda world: world.iteration(Side.LANGUAGE)),
    ("second chunk in flight", lambda world: world.send_all()),
]  # fmt: skip


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
@pytest.mark.parametrize("discipline", ["window", "exact_announce", "alloc_then_free", "free_then_alloc"])
@pytest.mark.parametrize("aborted", [[E0], [E1], [L0], [L1], [E0, E1], [L0, L1], [E1, L0]])
def test_an_abort_in_any_phase(stage: NewStage, steps: int, discipline: str, aborted: list[RankId]) -> None:
    """The ranks of a side conclude the same, memory is private to the end and all free in the end."""
    world = stage(encode_tp=2, language_tp=2, discipline=discipline)
    world.submit(1, 8)
    world.submit(2, 8)
    for _, step in STEPS[:steps]:
        step(world)
        world.check_memory()
    for rank_id in aborted:
        world.feed(rank_id, Abort(1, 0, "the client left"))
    world.iterations()
    world.check_memory()
    world.send_all()
    world.iterations()
    world.check_memory()
    world.run_until_quiet()
    assert world.outcomes(2) == [S] * 4
    concluded = world.concluded[1, 0]
    for first, second in ((E0, E1), (L0, L1)):
        assert concluded[first].status is concluded[second].status
    # Only a side that has done its whole part may call it a success although the other one failed.
    if concluded[E0].status is S is not concluded[L0].status:
        assert all(world.statuses(1, Side.ENCODE, rank)[-1] == (S, 8) for rank in range(2))
        assert world.delivered == [(rank_id, deliver) for rank_id, deliver in world.delivered if deliver.room == 2]
    assert concluded[L0].status is not S or concluded[E0].status is S
    if F in world.outcomes(1):
        reasons = {conclusion.reason for conclusion in world.concluded[1, 0].values()}
        assert any("the client left" in reason for reason in reasons)
    assert world.quiescent


def test_an_offer_for_a_failed_room_is_ignored(stage: NewStage) -> None:
    """The group has not concluded yet, so the room is still there."""
    world = stage()
    world.feed(E0, EncodeRequest(1, 0, 4))
    world.feed(E0, Abort(1, 0))
    world.feed(E0, Offer(1, 0, 0, L0, (0,), 4, 0))
    assert world.encode[0].ignored_messages == 1
    assert [record.event for record in world.records] == [Event.SUBMITTED, Event.FAILED]


def test_a_room_that_is_done_cannot_be_aborted_by_a_surplus_rank(stage: NewStage) -> None:
    """The second encode rank writes nothing. When the first has sent Success the language side delivers."""
    world = stage(encode_tp=2)
    world.until_writing(1, 4)
    world.finish_write(E0)
    world.feed(E0, Abort(1, 0))
    world.feed(E1, Abort(1, 0))
    world.run_until_quiet()
    assert len(set(world.outcomes(1))) == 1, f"the ranks disagree: {world.concluded[1, 0]}"


# --- timers ---


def test_a_surplus_rank_does_not_time_out_while_the_others_transfer(stage: NewStage) -> None:
    """Four chunks of 6 s each: no phase takes 10 s, so no rank may give up."""
    world = stage(encode_tp=2, language_blocks=1, timeout_s=10.0)
    world.until_writing(1, 16)
    for _ in range(4):
        world.now += 6.0
        while world.writing[E0]:
            world.finish_write(E0)
        world.send_all()
        world.iterations()
        world.send_all()
    world.run_until_quiet()
    assert [conclusion.reason for conclusion in world.concluded[1, 0].values()] == [""] * 3
    assert world.statuses(1, Side.ENCODE, rank=1)[-1][0] is S, "its record ends like that of the others"


def test_a_surplus_rank_that_times_out_fails_the_transfer(stage: NewStage) -> None:
    """It has nobody to tell but its group; the rank that writes tells the language side."""
    world = stage(encode_tp=2, timeout_s=10.0)
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.send_all()
    world.iteration(Side.ENCODE)
    world.now = 5.0
    world.finish_encode()
    assert len(world.writing[E0]) == 1
    world.now = 10.0
    world.iteration(Side.ENCODE)
    world.iteration(Side.ENCODE)
    assert world.reason(1, E1) == "timed out while encoding"
    assert [(message.status, message.reason) for message in world.channels[E0, L0]] == [(F, world.reason(1, E0))]
    assert world.statuses(1, Side.ENCODE)[-1][0] is F
    world.run_until_quiet()
    assert world.outcomes(1) == [F, F, F]


def test_progress_in_every_phase_keeps_a_room_alive(stage: NewStage) -> None:
    world = stage(language_blocks=1, timeout_s=10.0)
    world.submit(1, 16)
    for _ in range(12):
        world.now += 4.0
        world.iterations()
        world.send_all()
        while world.encoding:
            world.finish_encode()
        while world.writing[E0]:
            world.finish_write(E0)
        world.send_all()
    assert world.outcomes(1) == [S, S]


def wait(world: Any) -> None:
    """More than half of the ten seconds that a phase may take; iterations are held all the time."""
    for _ in range(6):
        world.now += 1.0
        world.iterations()


def test_every_phase_on_the_encode_side_has_its_own_time(stage: NewStage) -> None:
    world = stage(timeout_s=10.0, encode_blocks=2)
    world.until_writing(2, 8)
    world.feed(E0, Abort(2, 0))
    world.feed(E0, EncodeRequest(1, 0, 8))
    wait(world)
    world.feed(E0, Offer(1, 0, 0, L0, (0,), 4, 0))
    wait(world)  # for the source blocks, which the failed room's write holds
    assert not world.encoding
    world.finish_write(E0)
    world.iteration(Side.ENCODE)
    wait(world)
    world.finish_encode()
    wait(world)
    world.finish_write(E0)
    wait(world)
    world.feed(E0, Offer(1, 0, 1, L0, (0,), 4, 4))
    wait(world)
    world.finish_write(E0)
    world.iteration(Side.ENCODE)
    assert world.outcomes(1) == [S]


def fence_a_block(world: Any) -> None:
    """The write of a room that fails at once takes its time, so that a block comes free only with Quiet(2, 0)."""
    world.feed(L0, LanguageRequest(2, 0))
    if world.spec.discipline == "exact_announce":
        world.feed(L0, Announce(2, 0, 4))
    world.iteration(Side.LANGUAGE)
    world.feed(L0, Abort(2, 0))
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.fenced == 1


def test_every_phase_of_a_resume_has_its_own_time(stage: NewStage) -> None:
    world = stage(timeout_s=10.0, language_blocks=2, discipline="alloc_then_free")
    fence_a_block(world)
    world.feed(L0, LanguageRequest(1, 0))
    world.iteration(Side.LANGUAGE)
    wait(world)
    world.feed(L0, ChunkStatus(1, 0, 0, T, 8, 4))
    wait(world)
    assert world.language[0].waiting_rooms == 1
    world.feed(L0, Quiet(2, 0))
    wait(world)
    world.feed(L0, ChunkStatus(1, 0, 1, S, 8, 8))
    world.iteration(Side.LANGUAGE)
    assert world.outcomes(1) == [S]


def test_every_phase_of_an_announced_request_has_its_own_time(stage: NewStage) -> None:
    world = stage(timeout_s=10.0, language_blocks=1, discipline="exact_announce")
    fence_a_block(world)
    world.feed(L0, LanguageRequest(1, 0))
    wait(world)
    world.feed(L0, Announce(1, 0, 4))
    wait(world)
    assert world.language[0].waiting_rooms == 1
    world.feed(L0, Quiet(2, 0))
    wait(world)
    world.feed(L0, ChunkStatus(1, 0, 0, S, 4, 4))
    world.iteration(Side.LANGUAGE)
    assert world.outcomes(1) == [S]


def time_out(world: Any) -> None:
    world.now += 10.0
    assert min(member.next_deadline() for member in world.ranks.values() if member.next_deadline()) <= world.now
    world.iterations(4)


def test_timeout_while_the_encode_side_waits_for_memory(stage: NewStage) -> None:
    world = stage(timeout_s=10.0)
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.channels.clear()  # the offer is lost
    time_out(world)
    assert world.reason(1, E0) == "timed out while waiting for memory on the language side"
    assert world.reason(1, L0) == "timed out while waiting for chunk 0"
    world.run_until_quiet()
    assert world.quiescent


def test_timeout_while_the_encode_side_waits_for_a_resume(stage: NewStage) -> None:
    world = stage(timeout_s=10.0)
    world.until_writing(1, 8)
    world.finish_write(E0)
    world.channels.clear()  # the status is lost, so no offer follows
    time_out(world)
    assert world.reason(1, E0) == "timed out while waiting for memory on the language side"


@pytest.mark.parametrize("discipline", ["window", "exact_announce"])
def test_timeout_while_waiting_for_source_blocks(stage: NewStage, discipline: str) -> None:
    world = stage(encode_blocks=1, timeout_s=10.0, discipline=discipline)
    world.submit(1, 4)
    world.submit(2, 4)
    for _ in range(2):
        world.iterations()
        world.send_all()
    world.finish_encode()
    time_out(world)
    assert world.reason(2, E0) == "timed out while waiting for source blocks"


def test_timeout_while_encoding(stage: NewStage) -> None:
    world = stage(timeout_s=10.0)
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.send_all()
    world.iteration(Side.ENCODE)
    time_out(world)
    assert world.reason(1, E0) == "timed out while encoding"
    assert world.encode[0].pool.free == 7, "the encoder may still write into the source block"
    world.run_until_quiet()
    assert world.quiescent


@pytest.mark.parametrize("chunk", [0, 1])
def test_timeout_while_writing(stage: NewStage, chunk: int) -> None:
    world = stage(timeout_s=10.0, language_blocks=1)
    world.until_writing(1, 8)
    if chunk:
        world.finish_write(E0)
        world.send_all()
        world.iterations()
        world.send_all()
    time_out(world)
    assert world.reason(1, E0) == f"timed out while writing chunk {chunk}"
    assert world.reason(1, L0) == f"timed out while waiting for chunk {chunk}"
    world.run_until_quiet()
    assert world.quiescent


def test_timeout_while_waiting_for_blocks(stage: NewStage) -> None:
    world = stage(timeout_s=10.0, language_blocks=1)
    world.submit(1, 4)
    world.submit(2, 4)
    world.iteration(Side.LANGUAGE)
    time_out(world)
    assert world.reason(2, L0) == "timed out while waiting for blocks"
    world.run_until_quiet()
    assert world.quiescent


def test_timeout_while_waiting_for_blocks_to_resume(stage: NewStage) -> None:
    world = stage(timeout_s=10.0, language_blocks=2, discipline="alloc_then_free")
    world.submit(1, 8)
    world.submit(2, 8)
    world.run_until_quiet()
    time_out(world)
    assert world.reason(1, L0) == "timed out while waiting for blocks to resume"
    world.run_until_quiet()
    assert world.outcomes(1) == [F, F]


def test_timeout_while_waiting_for_the_announced_length(stage: NewStage) -> None:
    world = stage(timeout_s=10.0, discipline="exact_announce")
    world.submit(1, 4)
    time_out(world)
    assert world.reason(1, L0) == "timed out while waiting for the announced length"


def test_timeout_while_the_group_waits_for_a_members_request(stage: NewStage) -> None:
    """Nothing announces a length here, so the reason must not say so."""
    world = stage(timeout_s=10.0, language_tp=2)
    world.feed(L0, LanguageRequest(1, 0))
    world.now = 10.0
    world.iterations(2)
    world.feed(L1, LanguageRequest(1, 0))
    world.iterations()
    assert "timed out while" in world.reason(1, L0)
    assert "announced length" not in world.reason(1, L0)


def test_without_a_timeout_nothing_is_ever_due(stage: NewStage) -> None:
    world = stage(timeout_s=None)
    world.until_writing(1, 8)
    assert [member.next_deadline() for member in world.ranks.values()] == [None, None]
    world.now = 1e9
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_timeout_is_positive(stage: NewStage, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="it must be positive or None"):
        stage(timeout_s=timeout_s)


# --- iterations that are due although nothing arrives ---


def test_memory_that_falls_quiet_calls_for_an_iteration(stage: NewStage) -> None:
    """On both sides a room may wait for it, and no message would wake the loop."""
    world = stage(language_blocks=1, encode_blocks=1)
    world.until_writing(1, 4)
    world.submit(2, 4)
    world.iterations(2)
    world.feed(L0, Abort(1, 0))
    assert world.language[0].unsettled, "the failure"
    world.iteration(Side.LANGUAGE)
    assert not world.language[0].unsettled
    world.send_all()
    world.iteration(Side.ENCODE)
    assert not world.encode[0].unsettled
    world.finish_write(E0)
    world.send_all()
    assert world.encode[0].unsettled, "source blocks came free"
    assert world.language[0].unsettled, "so did language blocks"
    world.iterations()
    assert not world.encode[0].unsettled
    assert not world.language[0].unsettled
    assert world.language[0].pool.free == 0, "the next room has them"


# --- lost messages ---


@pytest.mark.parametrize("lost", [Cancel, Quiet])
def test_a_lost_cancel_or_quiet_is_repeated(stage: NewStage, lost: type) -> None:
    world = stage()
    world.until_writing(1, 4)
    world.feed(L0, Abort(1, 0))
    world.iteration(Side.LANGUAGE)
    if lost is Cancel:
        (cancel,) = world.channels.pop((L0, E0))
        assert isinstance(cancel, Cancel)
    else:
        world.deliver_message(L0, E0)
    world.finish_write(E0)
    # Whatever the encode side says about its end is lost with it; if the Cancel is, it finishes in good faith.
    said = [type(message) for message in world.channels.pop((E0, L0))]
    assert said == ([ChunkStatus] if lost is Cancel else [ChunkStatus, Quiet])
    world.run_until_quiet()
    assert world.language[0].pool.fenced == 1
    for _ in range(3):
        assert world.language[0].next_deadline() == world.now + 1.0
        world.now += 1.0
        world.iteration(Side.LANGUAGE)
        assert [type(message) for message in world.channels.pop((L0, E0))] == [Cancel]
    world.now += 1.0
    world.run_until_quiet()
    assert world.quiescent
    released = [record for record in world.records if record.event is Event.RELEASED and record.rank_id == L0]
    assert len(released) == 1


def test_a_lost_cancel_is_repeated_long_before_a_phase_would_time_out(stage: NewStage) -> None:
    world = stage(timeout_s=180.0)
    world.until_writing(1, 4)
    world.feed(L0, Abort(1, 0))
    world.iteration(Side.LANGUAGE)
    world.channels.clear()
    assert world.language[0].next_deadline() == 1.0
    world.now = 1.0
    world.iteration(Side.LANGUAGE)
    assert [type(message) for message in world.channels[L0, E0]] == [Cancel]


def test_ranks_of_two_writers_agree_when_only_one_write_fails(stage: NewStage) -> None:
    """Encode rank 0 has sent Success to language rank 0; rank 1 fails: nobody delivers."""
    world = stage(encode_tp=2, language_tp=2)
    world.until_writing(1, 4)
    world.finish_write(E0)
    world.send_all()
    world.iteration(Side.LANGUAGE)
    assert world.delivered == []
    world.finish_write(E1, ok=False)
    world.run_until_quiet()
    assert world.outcomes(1) == [F] * 4
    assert world.delivered == []
    assert world.quiescent
