"""One room's way through the cores: offers, writes and statuses in every order that matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.errors import ProtocolError
from bufferlab.protocol.messages import (
    Cancel,
    ChunkStatus,
    Conclude,
    CopyOut,
    Deliver,
    Encoded,
    EncodeRequest,
    LanguageRequest,
    Note,
    Offer,
    Quiet,
    Send,
    StartWrite,
    WriteDone,
)
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side, destinations

S, T, F = Status.Success, Status.Transferring, Status.Failed
E0, E1 = RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 0, 1)
L0, L1, L2 = (RankId(Side.LANGUAGE, 0, rank) for rank in range(3))
NewStage = Callable[..., Any]


def encode_room(world: Any, rank: int = 0) -> Any:
    (room,) = world.encode[rank].rooms.values()
    return room


@pytest.mark.parametrize("total", [1, 3, 4, 5, 7, 8, 9, 32])
@pytest.mark.parametrize("discipline", ["window", "alloc_then_free", "free_then_alloc", "exact_announce"])
def test_every_length_arrives_in_order(stage: NewStage, total: int, discipline: str) -> None:
    world = stage(language_tp=2, discipline=discipline, language_blocks=9)
    world.submit(1, total)
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S, S]
    for rank_id in (L0, L1):
        ends = [0]
        for start, tokens in world.copied[1, rank_id]:
            assert start == ends[-1]
            ends.append(start + tokens)
        assert ends[-1] == total
    assert [(rank_id, deliver.total_tokens) for rank_id, deliver in world.delivered] == [(L0, total), (L1, total)]
    assert world.quiescent


def test_a_status_is_sent_only_when_all_destinations_hold_the_chunk(stage: NewStage) -> None:
    world = stage(language_tp=2)
    world.until_writing(1, 8)
    world.finish_write(E0)
    assert not world.channels, "one of two holds it: nobody is told"
    assert encode_room(world).status is Status.WaitingForInput
    world.finish_write(E0)
    assert {peer: list(queue) for peer, queue in world.channels.items()} == {
        (E0, peer): [ChunkStatus(1, 0, 0, T, 8, 4)] for peer in (L0, L1)
    }


def test_a_first_chunk_starts_only_when_all_have_offered(stage: NewStage) -> None:
    world = stage(language_tp=2)
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.deliver_message(L0, E0)
    world.iterations(3)
    assert not world.encoding
    world.deliver_message(L1, E0)
    world.iterations()
    world.finish_encode()
    assert [work.destination for work in world.writing[E0]] == [L0, L1]


def test_a_resumed_chunk_starts_only_when_all_have_offered_for_it(stage: NewStage) -> None:
    world = stage(language_tp=2, language_blocks=1)
    world.until_writing(1, 12)
    for epoch, sent in ((1, 4), (2, 8)):
        world.finish_write(E0)
        world.finish_write(E0)
        world.send_all()
        world.iteration(Side.LANGUAGE)
        assert [message.epoch for queue in world.channels.values() for message in queue] == [epoch, epoch]
        world.deliver_message(L1, E0)
        world.iterations(3)
        assert not world.writing[E0], "one rank is ready, the other is not"
        world.deliver_message(L0, E0)
        assert [(work.destination, work.epoch) for work in world.writing[E0]] == [(L0, epoch), (L1, epoch)]
        assert {work.chunk.start_token for work in world.writing[E0]} == {sent}


def offers(world: Any, epoch: int, sent: int, *grants: tuple[RankId, tuple[int, ...]]) -> None:
    for receiver, blocks in grants:
        world.feed(E0, Offer(1, 0, epoch, receiver, blocks, 4 * len(blocks), sent))


def test_unequal_capacities_never_give_success_with_a_hole(stage: NewStage) -> None:
    """The last destination could take everything; the first cannot, so for neither is the first chunk the last."""
    world = stage(language_tp=2)
    world.feed(E0, EncodeRequest(1, 0, 8))
    offers(world, 0, 0, (L0, (5,)), (L1, (6, 7)))
    world.iteration(Side.ENCODE)
    world.finish_encode()
    assert [(work.chunk.tokens, work.chunk.is_last) for work in world.writing[E0]] == [(4, False), (4, False)]
    world.finish_write(E0)
    world.finish_write(E0)
    assert [queue[-1].status for queue in world.channels.values()] == [T, T]
    offers(world, 1, 4, (L0, (5,)), (L1, (6,)))
    world.finish_write(E0)
    world.finish_write(E0)
    assert [queue[-1].status for queue in world.channels.values()] == [S, S]
    assert [queue[-1].upto_tokens for queue in world.channels.values()] == [8, 8]


def test_a_language_rank_takes_less_than_it_offered(stage: NewStage) -> None:
    """Its group partner offered less, so both got less: the next offers start at the common cut."""
    world = stage(default_tokens=8)
    world.submit(1, 12)
    world.iteration(Side.LANGUAGE)
    world.feed(L0, ChunkStatus(1, 0, 0, T, 12, 4))
    world.iteration(Side.LANGUAGE)
    assert world.copied[1, L0] == [(0, 4)]
    resume = world.channels[L0, E0][-1]
    assert (resume.epoch, resume.sent_tokens, resume.capacity_tokens) == (1, 4, 8)


def test_a_repeated_offer_is_ignored(stage: NewStage) -> None:
    world = stage(language_tp=2)
    world.feed(E0, EncodeRequest(1, 0, 4))
    offers(world, 0, 0, (L0, (0,)), (L0, (3,)))
    world.iterations(2)
    assert not world.encoding, "two offers of one rank are not offers of two"
    assert world.encode[0].ignored_messages == 1
    offers(world, 0, 0, (L1, (1,)))
    world.iterations()
    world.finish_encode()
    assert [work.target_blocks for work in world.writing[E0]] == [(0,), (1,)]
    offers(world, 0, 0, (L1, (2,)))
    assert len(world.writing[E0]) == 2
    assert world.encode[0].ignored_messages == 2


def test_a_repeated_status_is_ignored(stage: NewStage) -> None:
    world = stage()
    world.until_writing(1, 8)
    world.finish_write(E0)
    partial = world.channels[E0, L0][0]
    world.send_all()
    world.feed(L0, partial)
    world.iteration(Side.LANGUAGE)
    world.feed(L0, partial)
    world.iterations(2)
    assert world.language[0].ignored_messages == 2
    assert world.copied[1, L0] == [(0, 4)]
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]
    assert world.copied[1, L0] == [(0, 4), (4, 4)]


@pytest.mark.parametrize("epoch", [1, 7, -1])
def test_a_status_of_another_epoch_is_ignored(stage: NewStage, epoch: int) -> None:
    world = stage()
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.feed(L0, ChunkStatus(1, 0, epoch, S, 4, 4))
    world.iterations(2)
    assert world.language[0].ignored_messages == 1
    assert world.delivered == []


@pytest.mark.parametrize("epoch", [1, 7, -1])
def test_an_offer_of_another_epoch_is_ignored(stage: NewStage, epoch: int) -> None:
    world = stage()
    world.feed(E0, EncodeRequest(1, 0, 4))
    offers(world, epoch, 0, (L0, (0,)))
    world.iterations(2)
    assert world.encode[0].ignored_messages == 1
    assert not world.encoding


def test_a_second_write_done_is_ignored(stage: NewStage) -> None:
    world = stage(language_tp=2)
    world.until_writing(1, 4)
    done = WriteDone(1, 0, 0, L0, ok=True)
    world.feed(E0, done)
    world.feed(E0, done)
    assert world.encode[0].ignored_messages == 1
    assert not world.channels


def test_a_repeated_write_done_of_the_last_chunk_is_ignored(stage: NewStage) -> None:
    """The next chunk's write to the same destination is in flight; it has not landed."""
    world = stage(language_blocks=1)
    world.until_writing(1, 8)
    world.finish_write(E0)
    world.send_all()
    world.iteration(Side.LANGUAGE)
    world.send_all()
    assert [work.epoch for work in world.writing[E0]] == [1]
    world.feed(E0, WriteDone(1, 0, 0, L0, ok=True))
    assert world.encode[0].ignored_messages == 1
    assert not world.channels
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]


def test_a_forward_pass_that_nobody_started_is_ignored(stage: NewStage) -> None:
    """There are no source blocks yet that it could have filled."""
    world = stage()
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.feed(E0, Encoded(1, 0))
    world.send_all()
    assert world.encode[0].ignored_messages == 1
    assert not world.writing[E0]
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]


def test_quiet_about_a_room_that_goes_on_is_ignored(stage: NewStage) -> None:
    world = stage()
    world.until_writing(1, 4)
    world.feed(L0, Quiet(1, 0))
    assert world.language[0].ignored_messages == 1
    world.check_memory()
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]


def test_a_status_before_the_offer_is_ignored(stage: NewStage) -> None:
    world = stage()
    world.submit(1, 4)
    world.feed(L0, ChunkStatus(1, 0, 0, S, 4, 4))
    assert world.language[0].ignored_messages == 1
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]


def test_another_incarnation_is_ignored_on_the_language_side(stage: NewStage) -> None:
    world = stage()
    world.submit(1, 4, incarnation=5)
    world.iteration(Side.LANGUAGE)
    for incarnation in (4, 6):
        world.feed(L0, ChunkStatus(1, incarnation, 0, S, 4, 4))
        world.feed(L0, ChunkStatus(1, incarnation, 0, F, 4, 0, "not yours"))
        world.feed(L0, Quiet(1, incarnation))
    world.iterations(2)
    assert list(world.language[0].rooms) == [(1, 5)]
    assert not world.concluded
    world.run_until_quiet()
    assert world.outcomes(1, 5) == [S, S]


def test_another_incarnation_is_ignored_on_the_encode_side(stage: NewStage) -> None:
    world = stage()
    world.until_writing(1, 4, incarnation=5)
    for incarnation in (4, 6):
        world.feed(E0, Offer(1, incarnation, 0, L0, (7,), 4, 0))
        world.feed(E0, WriteDone(1, incarnation, 0, L0, ok=False))
        world.feed(E0, Cancel(1, incarnation, L0, "not yours"))
    assert list(world.encode[0].rooms) == [(1, 5)]
    assert encode_room(world).status is Status.WaitingForInput
    world.run_until_quiet()
    assert world.outcomes(1, 5) == [S, S]
    assert world.quiescent


@pytest.mark.parametrize("receiver", [L1, RankId(Side.LANGUAGE, 1, 0), E0])
def test_an_offer_from_a_stranger_is_ignored(stage: NewStage, receiver: RankId) -> None:
    world = stage(encode_tp=2, language_tp=2)
    world.feed(E0, EncodeRequest(1, 0, 4))
    offers(world, 0, 0, (receiver, (0,)))
    assert world.encode[0].ignored_messages == 1
    assert not encode_room(world).offers


@pytest.mark.parametrize(
    ("blocks", "capacity", "sent"),
    [
        pytest.param((0, 1), 4, 0, id="capacity less than the blocks"),
        pytest.param((0,), 8, 0, id="capacity more than the blocks"),
        pytest.param((0,), 5, 0, id="capacity not a multiple of the block"),
        pytest.param((0,), 4, 4, id="a resume of what was never started"),
        pytest.param((), 0, 0, id="no memory at all"),
    ],
)
def test_an_impossible_offer_fails_the_room_and_nothing_else(
    stage: NewStage, blocks: tuple[int, ...], capacity: int, sent: int
) -> None:
    world = stage()
    world.submit(2, 4)
    world.feed(E0, EncodeRequest(1, 0, 4))
    world.feed(E0, Offer(1, 0, 0, L0, blocks, capacity, sent))
    world.iterations()
    while world.encoding:
        world.finish_encode()
    world.iterations()
    assert world.outcomes(1) == [F]
    assert f"offer for {capacity} tokens in {len(blocks)} blocks" in world.reason(1, E0)
    world.run_until_quiet()
    assert world.outcomes(2) == [S, S]


@pytest.mark.parametrize(
    ("status", "total", "upto"),
    [
        pytest.param(S, 8, 4, id="Success with a hole"),
        pytest.param(T, 4, 4, id="Transferring when all is there"),
        pytest.param(S, 8, 8, id="more than the memory holds"),
        pytest.param(T, 8, 0, id="nothing more than before"),
        pytest.param(T, 8, -4, id="less than before"),
        pytest.param(Status.WaitingForInput, 8, 4, id="not a status of a chunk"),
    ],
)
def test_an_impossible_status_fails_the_room_and_nothing_else(
    stage: NewStage, status: Status, total: int, upto: int
) -> None:
    world = stage()
    world.submit(1, 8)
    world.iteration(Side.LANGUAGE)
    world.feed(L0, ChunkStatus(1, 0, 0, status, total, upto))
    world.iteration(Side.LANGUAGE)
    assert world.outcomes(1) == [F]
    assert "impossible status" in world.reason(1, L0)
    assert not world.delivered
    world.submit(2, 4)
    world.run_until_quiet()
    assert world.outcomes(2) == [S, S]


def test_a_total_that_changes_fails_the_room(stage: NewStage) -> None:
    world = stage()
    world.submit(1, 12)
    world.iteration(Side.LANGUAGE)
    world.feed(L0, ChunkStatus(1, 0, 0, T, 12, 4))
    world.iteration(Side.LANGUAGE)
    world.feed(L0, ChunkStatus(1, 0, 1, S, 8, 8))
    world.iteration(Side.LANGUAGE)
    assert "impossible status" in world.reason(1, L0)


@pytest.mark.parametrize("rank_id", [E0, L0])
def test_one_submission_of_one_incarnation(stage: NewStage, rank_id: RankId) -> None:
    world = stage()
    request = EncodeRequest(1, 0, 4) if rank_id == E0 else LanguageRequest(1, 0)
    world.feed(rank_id, request)
    before = world.ranks[rank_id].proposal()
    with pytest.raises(ProtocolError, match="room 1 incarnation 0 is already there"):
        world.feed(rank_id, request)
    assert world.ranks[rank_id].proposal() == before


@pytest.mark.parametrize(("rank_id", "message"), [(E0, Quiet(1, 0)), (L0, Cancel(1, 0, L0))])
def test_a_message_for_the_other_role_is_a_protocol_error(stage: NewStage, rank_id: RankId, message: object) -> None:
    """A peer that sends nonsense must not end the receiver's loop with a KeyError."""
    world = stage()
    with pytest.raises(ProtocolError, match=type(message).__name__):
        world.feed(rank_id, message)
    assert not world.ranks[rank_id].rooms


def language_iteration(world: Any) -> list[type]:
    """Hold an iteration of the only language rank; the kinds of its actions in order, notes apart."""
    actions = world.language[0].handle(hold_iteration(world.language), world.now)
    world._note(L0, actions)
    return [type(action) for action in actions if not isinstance(action, Note)]


def test_memory_is_copied_out_before_it_is_offered_again_or_delivered(stage: NewStage) -> None:
    """Actions are carried out in order, so the order is what keeps the data from being overwritten."""
    world = stage(language_blocks=1)
    world.until_writing(1, 8)
    for expected in ([CopyOut, Send], [CopyOut, Deliver, Conclude]):
        world.finish_write(E0)
        world.send_all()
        assert language_iteration(world) == expected
        world.send_all()


def test_what_follows_a_copy_is_recorded_when_the_copy_is_over(stage: NewStage) -> None:
    """Only the driver knows how long a copy takes, so it is asked to record the rest."""
    world = stage()
    world.until_writing(1, 4)
    world.finish_write(E0)
    world.send_all()
    before = len(world.records)
    actions = world.language[0].handle(hold_iteration(world.language), world.now)
    assert [record.event for record in world.records[before:]] == [Event.CHUNK_RECEIVED]
    (copy,) = (index for index, action in enumerate(actions) if isinstance(action, CopyOut))
    assert [action.event for action in actions[copy:] if isinstance(action, Note)] == [Event.DELIVERED, Event.RELEASED]


def test_rooms_do_not_wait_for_each_other(stage: NewStage) -> None:
    """The second room's first chunk lands while the first room waits for its write."""
    world = stage()
    world.until_writing(1, 4)
    world.until_writing(2, 4)
    first, second = world.writing[E0]
    world.writing[E0].rotate()
    world.finish_write(E0)
    world.send_all()
    world.iterations()
    assert (first.room, second.room) == (1, 2)
    assert world.outcomes(2) == [S, S]
    assert world.outcomes(1) == []
    assert isinstance(world.writing[E0][0], StartWrite)


def test_a_room_number_may_be_used_again_while_the_old_room_drains(stage: NewStage) -> None:
    world = stage(timeout_s=None)
    world.until_writing(1, 4)
    world.feed(L0, ChunkStatus(1, 0, 0, F, 4, 0, "gone"))
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.fenced == 1
    world.submit(1, 8, incarnation=1)
    old = world.writing[E0].popleft()
    for _ in range(6):
        world.iterations()
        world.send_all()
        while world.encoding:
            world.finish_encode()
        while world.writing[E0]:
            world.finish_write(E0)
    assert world.outcomes(1, 1) == [S, S]
    assert world.outcomes(1, 0) == [F, F]
    assert world.language[0].pool.fenced == 1, "the old write is still in flight"
    world.writing[E0].append(old)
    world.finish_write(E0)
    world.run_until_quiet()
    assert world.quiescent


def test_a_room_number_may_be_used_again_after_success(stage: NewStage) -> None:
    world = stage()
    for incarnation in range(3):
        world.submit(1, 8, incarnation)
        world.run_until_quiet()
        assert world.outcomes(1, incarnation) == [S, S]
    assert world.quiescent


@pytest.mark.parametrize(
    ("encode_tp", "language_tp", "served"),
    [(1, 3, [(0, 1, 2)]), (2, 3, [(0, 2), (1,)]), (3, 2, [(0,), (1,), ()]), (4, 1, [(0,), (), (), ()])],
)
def test_any_ratio_of_ranks(stage: NewStage, encode_tp: int, language_tp: int, served: list[tuple[int, ...]]) -> None:
    """Also ratios that do not divide, and encode ranks that nobody needs."""
    world = stage(encode_tp=encode_tp, language_tp=language_tp, language_blocks=2)
    world.until_writing(1, 12)
    assert [tuple(work.destination.rank for work in queue) for queue in world.writing.values()] == served
    world.submit(2, 3)
    world.run_until_quiet()
    for room in (1, 2):
        assert world.outcomes(room) == [S] * (encode_tp + language_tp)
    assert world.quiescent


def test_a_destination_is_in_the_instance_of_the_request() -> None:
    assert destinations(1, 2, 3, 5) == (RankId(Side.LANGUAGE, 3, 1), RankId(Side.LANGUAGE, 3, 3))


@pytest.mark.parametrize("discipline", ["window", "exact_announce"])
def test_surplus_encode_ranks_conclude_failures_too(stage: NewStage, discipline: str) -> None:
    world = stage(encode_tp=3, language_tp=1, discipline=discipline)
    world.until_writing(1, 4)
    world.finish_write(E0, ok=False)
    world.run_until_quiet()
    assert world.outcomes(1) == [F] * 4
    assert world.quiescent
