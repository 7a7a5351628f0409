"""Ranks of the other side that go away, and that come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bufferlab.protocol.messages import Cancel, EncodeRequest, Offer, PeerDown, PeerUp, Quiet
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

S, F = Status.Success, Status.Failed
E0, E1 = RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 0, 1)
L0, L1 = (RankId(Side.LANGUAGE, 0, rank) for rank in range(2))
NewStage = Callable[..., Any]


def test_a_language_rank_goes_down_with_a_write_in_flight(stage: NewStage) -> None:
    world = stage(language_tp=2)
    world.until_writing(1, 4)
    world.feed(E0, PeerDown(L1))
    world.iterations(2)
    assert world.reason(1, E0) == "language0.1 is down"
    assert world.encode[0].pool.free == 7, "the source stays until the engine has given up"
    world.finish_write(E0)
    world.finish_write(E0, ok=False)
    assert world.encode[0].pool.free == 8
    world.run_until_quiet()
    assert world.outcomes(1) == [F, F, F], "the rank that lives was told"


def test_an_encode_rank_goes_down_with_a_write_in_flight(stage: NewStage) -> None:
    """Nobody will answer a Cancel, so the blocks stay fenced until late bytes cannot land any more."""
    world = stage()
    world.until_writing(1, 4)
    world.writing[E0].clear()
    world.feed(L0, PeerDown(E0))
    world.iteration(Side.LANGUAGE)
    assert world.reason(1, L0) == "encode0.0 is down"
    pool = world.language[0].pool
    assert pool.fenced == 1
    assert world.language[0].next_deadline() == 60.0
    world.now = 59.9
    world.iteration(Side.LANGUAGE)
    assert pool.fenced == 1
    world.now = 60.0
    world.iteration(Side.LANGUAGE)
    assert (pool.fenced, pool.free) == (0, 8)
    assert not world.language[0].rooms


def test_an_encode_rank_goes_down_after_the_cancel(stage: NewStage) -> None:
    world = stage(timeout_s=1.0)
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.now = 1.0
    world.iteration(Side.LANGUAGE)
    world.iteration(Side.LANGUAGE)
    assert [type(message) for message in world.channels[L0, E0]] == [Offer, Cancel]
    world.now = 1.5
    world.feed(L0, PeerDown(E0))
    world.now = 61.4
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.fenced == 1
    world.now = 61.5
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.free == 8


def test_a_repeated_peer_down_does_not_prolong_the_quarantine(stage: NewStage) -> None:
    """A heartbeat that keeps failing reports the same peer again and again."""
    world = stage()
    world.until_writing(1, 4)
    world.writing[E0].clear()
    for second in range(0, 65, 5):
        world.now = float(second)
        world.feed(L0, PeerDown(E0))
        world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.free == 8


def test_a_restarted_writer_cannot_speak_for_the_old_one(stage: NewStage) -> None:
    """The new process knows nothing of the room and answers the Cancel at once; the old one's bytes may still land."""
    world = stage()
    world.until_writing(1, 4)
    world.feed(L0, PeerDown(E0))
    world.iteration(Side.LANGUAGE)
    world.feed(L0, PeerUp(E0))
    for _ in range(2):
        world.feed(L0, Quiet(1, 0))
        world.iteration(Side.LANGUAGE)
        assert world.language[0].pool.fenced == 1
    assert world.language[0].ignored_messages == 1, "the second one says nothing new"
    world.now = 60.0
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.free == 8


def test_one_of_two_writers_goes_down(stage: NewStage) -> None:
    """The other one is alive: its rank gets its blocks back with Quiet, not only after the quarantine."""
    world = stage(encode_tp=2, language_tp=2)
    world.until_writing(1, 4)
    world.feed(L0, PeerDown(E0))
    world.iterations()
    world.send_all()
    world.finish_write(E1)
    world.run_until_quiet()
    assert [member.pool.fenced for member in world.language] == [1, 0]
    assert world.outcomes(1) == [F] * 4


@pytest.mark.parametrize(("side", "down"), [(Side.ENCODE, L0), (Side.LANGUAGE, E0)])
def test_rooms_fail_at_once_while_a_peer_is_down_and_work_again_later(
    stage: NewStage, side: Side, down: RankId
) -> None:
    world = stage(encode_tp=2, language_tp=2)
    members = world.encode if side is Side.ENCODE else world.language
    for member in members:
        world.feed(member.rank_id, PeerDown(down))
    world.submit(1, 4)
    world.run_until_quiet()
    assert world.outcomes(1) == [F] * 4
    assert any("is down" in conclusion.reason for conclusion in world.concluded[1, 0].values())
    assert world.quiescent
    for member in members:
        world.feed(member.rank_id, PeerUp(down))
    world.submit(2, 12)
    world.run_until_quiet()
    assert world.outcomes(2) == [S] * 4
    assert world.quiescent


@pytest.mark.parametrize(
    ("rank_id", "down"), [(E0, RankId(Side.LANGUAGE, 1, 0)), (L0, RankId(Side.ENCODE, 1, 0)), (L0, E1)]
)
def test_rooms_that_have_nothing_to_do_with_the_peer_go_on(stage: NewStage, rank_id: RankId, down: RankId) -> None:
    world = stage(encode_tp=2)
    world.until_writing(1, 8)
    world.feed(rank_id, PeerDown(down))
    world.run_until_quiet()
    assert world.outcomes(1) == [S] * 3


@pytest.mark.parametrize(("rank_id", "peer"), [(E0, L0), (L0, E0)])
def test_a_peer_that_registers_again_disturbs_nothing(stage: NewStage, rank_id: RankId, peer: RankId) -> None:
    world = stage()
    world.until_writing(1, 8)
    world.feed(rank_id, PeerUp(peer))
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]


def test_an_early_offer_of_a_rank_that_went_down_is_not_used(stage: NewStage) -> None:
    """Its blocks belong to somebody else in the process that came back."""
    world = stage()
    world.feed(E0, Offer(1, 0, 0, L0, (3,), 4, 0))
    world.feed(E0, PeerDown(L0))
    world.feed(E0, PeerUp(L0))
    world.feed(E0, EncodeRequest(1, 0, 4))
    for _ in range(2):
        world.iteration(Side.ENCODE)
        while world.encoding:
            world.finish_encode()
    assert not world.writing[E0]


def test_an_early_cancellation_outlives_its_sender(stage: NewStage) -> None:
    """It was answered with Quiet, so the blocks may be another room's by now: no later offer may revive the room."""
    world = stage()
    world.feed(E0, Cancel(1, 0, L0, "the client left"))
    world.feed(E0, PeerDown(L0))
    world.feed(E0, PeerUp(L0))
    world.feed(E0, EncodeRequest(1, 0, 4))
    world.feed(E0, Offer(1, 0, 0, L0, (3,), 4, 0))
    world.iteration(Side.ENCODE)
    assert world.reason(1, E0) == "cancelled by language0.0: the client left"
    assert not world.encoding


def test_a_rank_that_comes_back_is_told_again(stage: NewStage) -> None:
    """What was sent to it while it was out of reach is lost."""
    world = stage()
    world.until_writing(1, 4)
    world.feed(L0, PeerDown(E0))
    world.iteration(Side.LANGUAGE)
    world.channels.clear()
    world.feed(L0, PeerUp(E0))
    assert list(world.channels[L0, E0]) == [Cancel(1, 0, L0, "encode0.0 is down")]


def test_a_rank_that_was_declared_down_by_mistake_is_told(stage: NewStage) -> None:
    """It is alive and has the offer: it must not write into the blocks once they are given to another room."""
    world = stage(language_blocks=1)
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.send_all()
    world.feed(L0, PeerDown(E0))
    world.iteration(Side.LANGUAGE)
    world.feed(L0, PeerUp(E0))
    world.send_all()
    world.now = 61.0
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.free == 1
    world.iteration(Side.ENCODE)
    while world.encoding:
        world.finish_encode()
    world.submit(2, 4)
    world.iteration(Side.LANGUAGE)
    world.check_memory()
    world.run_until_quiet()
    assert world.outcomes(1) == [F, F]
    assert world.outcomes(2) == [S, S]


def test_an_early_cancellation_outlives_a_peer_that_was_declared_down_by_mistake(stage: NewStage) -> None:
    """Its Quiet has been sent, so the receiver's blocks are somebody else's. Found by the checker.

    The offer was overtaken by its own cancellation: channels that keep order do not do that, but nothing else forbids it.
    """
    world = stage()
    world.feed(E0, Cancel(1, 0, L0, "the client left"))
    world.feed(E0, PeerDown(L0))
    world.feed(E0, PeerUp(L0))
    world.feed(E0, Offer(1, 0, 0, L0, (3,), 4, 0))
    world.feed(E0, EncodeRequest(1, 0, 4))
    world.iterations(2)
    assert not world.encoding
    assert not world.writing[E0]
    assert world.outcomes(1) == [F]


def test_a_request_for_a_peer_that_is_down_is_in_quarantine_like_any_other(stage: NewStage) -> None:
    """The group learns of one failed room an iteration, so the second is offered before it fails. Found by random faults."""
    world = stage(encode_tp=2, language_tp=2, timeout_s=10.0)
    for member in world.language:
        world.feed(member.rank_id, PeerDown(E1))
    world.submit(1, 4)
    world.submit(2, 4)
    world.iterations(3)
    assert [member.pool.fenced for member in world.language] == [1, 1]
    world.run_until_quiet()
    assert [member.pool.fenced for member in world.language] == [0, 1], "the first one's writer lives and answers"
    world.channels.pop((L1, E1), None)  # nobody takes what was sent to the other
    world.now = 60.0
    world.iteration(Side.LANGUAGE)
    assert world.language[1].pool.free == 8
    assert not world.language[1].rooms


def test_a_quarantine_ends_without_a_word_only_while_the_writer_is_down(stage: NewStage) -> None:
    """It came up again and no Cancel has reached it: it still has the offer. Found by the checker and at random."""
    world = stage(language_blocks=1)
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.send_all()
    world.feed(L0, PeerDown(E0))
    world.iteration(Side.LANGUAGE)
    world.feed(L0, PeerUp(E0))
    world.channels.clear()  # both cancellations are lost
    world.now = 61.0
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.fenced == 1, "E0 may still write"
    assert [type(message) for message in world.channels.pop((L0, E0))] == [Cancel], "so it is asked again"
    world.now = 62.0
    world.run_until_quiet()
    assert world.language[0].pool.free == 1
    assert world.outcomes(1) == [F, F]


def test_a_peer_that_goes_down_again_begins_a_new_quarantine(stage: NewStage) -> None:
    world = stage()
    world.until_writing(1, 4)
    world.feed(L0, PeerDown(E0))
    world.iteration(Side.LANGUAGE)
    world.feed(L0, PeerUp(E0))
    world.now = 59.0
    world.feed(L0, PeerDown(E0))
    world.feed(L0, Quiet(1, 0))
    world.now = 61.0
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.fenced == 1
    world.now = 119.0
    world.iteration(Side.LANGUAGE)
    assert world.language[0].pool.free == 8
