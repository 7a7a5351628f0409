"""Messages that come before their request, or after their room is over."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.messages import (
    Abort,
    Announce,
    Cancel,
    ChunkStatus,
    Encoded,
    EncodeRequest,
    LanguageRequest,
    Offer,
    Quiet,
    WriteDone,
    WriterQuiet,
)
from bufferlab.protocol.rank import EARLY_OF_A_ROOM, EARLY_ROOMS, EarlyMessages
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

S, T, F = Status.Success, Status.Transferring, Status.Failed
E0 = RankId(Side.ENCODE, 0, 0)
L0, L1 = (RankId(Side.LANGUAGE, 0, rank) for rank in range(2))
NewStage = Callable[..., Any]
SAFE = [name for name, one in DISCIPLINES.items() if not one.may_deadlock]


@pytest.mark.parametrize("discipline", SAFE)
@pytest.mark.parametrize("order", list(permutations([E0, L0, L1])))
def test_the_request_may_reach_the_ranks_in_any_order(
    stage: NewStage, discipline: str, order: tuple[RankId, ...]
) -> None:
    """Everything that can move does so between two arrivals."""
    world = stage(language_tp=2, discipline=discipline)
    for rank_id in order:
        world.feed(rank_id, EncodeRequest(1, 0, 4) if rank_id == E0 else LanguageRequest(1, 0))
        world.run_until_quiet()
    assert world.outcomes(1) == [S, S, S]
    assert world.quiescent


@pytest.mark.parametrize("order", list(permutations([E0, L0, L1])))
def test_an_immediate_failure_reaches_requests_that_come_later(stage: NewStage, order: tuple[RankId, ...]) -> None:
    world = stage(language_tp=2, encode_blocks=1)
    for rank_id in order:
        world.feed(rank_id, EncodeRequest(1, 0, 5) if rank_id == E0 else LanguageRequest(1, 0))
        world.run_until_quiet()
    assert world.outcomes(1) == [F, F, F]
    assert world.reason(1, E0) == "it needs 2 source blocks, the pool has 1"
    assert world.quiescent


def test_an_early_offer_creates_no_room_and_is_used(stage: NewStage) -> None:
    world = stage()
    world.feed(E0, Offer(1, 0, 0, L0, (3,), 4, 0))
    world.iterations(2)
    assert not world.encode[0].rooms
    assert world.records == []
    world.feed(E0, EncodeRequest(1, 0, 4))
    world.iterations()
    world.finish_encode()
    assert [work.target_blocks for work in world.writing[E0]] == [(3,)]


def test_an_early_offer_does_not_outlive_its_minute(stage: NewStage) -> None:
    world = stage()
    world.feed(E0, Offer(1, 0, 0, L0, (3,), 4, 0))
    world.now = 61.0
    world.iteration(Side.ENCODE)
    world.feed(E0, EncodeRequest(1, 0, 4))
    assert [record.event for record in world.records] == [Event.SUBMITTED]


def test_an_early_failure_does_not_outlive_its_minute(stage: NewStage) -> None:
    world = stage()
    world.feed(L0, ChunkStatus(1, 0, 0, F, 4, 0, "gone"))
    world.now = 61.0
    world.iteration(Side.LANGUAGE)
    world.submit(1, 4)
    world.run_until_quiet()
    assert world.outcomes(1) == [S, S]


def test_every_early_message_has_a_minute_of_its_own() -> None:
    early = EarlyMessages()
    early.keep((1, 0), Quiet(1, 0), now=0.0)
    early.keep((1, 0), Announce(1, 0, 5), now=59.0)
    early.expire(now=60.0)
    early.keep((2, 0), Quiet(2, 0), now=60.0)
    assert early.take((1, 0), now=61.0) == [Announce(1, 0, 5)], "only what is too old itself is dropped"
    early.keep((2, 0), Quiet(2, 0), now=100.0)
    assert early.take((2, 0), now=159.0) == [Quiet(2, 0)], "what comes again is kept once, from then on"


def test_many_different_early_messages_for_one_room_are_bounded() -> None:
    early = EarlyMessages()
    for total in range(EARLY_OF_A_ROOM + 1):
        early.keep((1, 0), Announce(1, 0, total), now=0.0)
    kept = early.take((1, 0), now=0.0)
    assert kept == [Announce(1, 0, total) for total in range(1, EARLY_OF_A_ROOM + 1)]


def test_early_messages_of_a_flood_push_out_the_oldest(stage: NewStage) -> None:
    """A peer that sends nonsense must not fill the memory, nor keep out those that come later."""
    early = EarlyMessages()
    for room in range(EARLY_ROOMS + 1):
        early.keep((room, 0), Quiet(room, 0), now=0.0)
    assert early.take((0, 0), 0.0) == []
    assert early.take((1, 0), 0.0) == [Quiet(1, 0)]
    assert early.take((EARLY_ROOMS, 0), 0.0) == [Quiet(EARLY_ROOMS, 0)]
    assert early.take((EARLY_ROOMS, 0), 0.0) == [], "they are handed out once"


@pytest.mark.parametrize("offer_first", [True, False])
def test_a_cancellation_before_the_request(stage: NewStage, offer_first: bool) -> None:
    """It is answered at once; the room then fails, and an offer that comes before or after it changes nothing."""
    world = stage()
    offer = Offer(1, 0, 0, L0, (3,), 4, 0)
    if offer_first:
        world.feed(E0, offer)
    world.feed(E0, Cancel(1, 0, L0, "the client left"))
    assert list(world.channels[E0, L0]) == [Quiet(1, 0)]
    assert not world.encode[0].rooms
    world.feed(E0, EncodeRequest(1, 0, 4))
    if not offer_first:
        world.feed(E0, offer)
    world.iterations(3)
    assert world.reason(1, E0) == "cancelled by language0.0: the client left"
    assert not world.encoding
    assert not world.encode[0].rooms


def everything_about(room: int) -> tuple[list[object], list[object]]:
    """Every message and completion that could concern a room, for the encode and for the language side."""
    encode: list[object] = [
        Offer(room, 0, 0, L0, (0,), 4, 0),
        Offer(room, 0, 1, L0, (0,), 4, 4),
        Cancel(room, 0, L0, "late"),
        Encoded(room, 0),
        WriteDone(room, 0, 0, L0, ok=True),
        WriteDone(room, 0, 0, L0, ok=False, quiet=False),
        WriterQuiet(room, 0, L0),
        Abort(room, 0),
    ]
    language: list[object] = [
        Announce(room, 0, 4),
        ChunkStatus(room, 0, 0, T, 8, 4),
        ChunkStatus(room, 0, 0, S, 4, 4),
        ChunkStatus(room, 0, 0, F, 4, 0, "late"),
        Quiet(room, 0),
        Abort(room, 0),
    ]
    return encode, language


@pytest.mark.parametrize("discipline", SAFE)
@pytest.mark.parametrize("ok", [True, False])
def test_what_comes_after_a_room_is_over_changes_nothing(stage: NewStage, discipline: str, ok: bool) -> None:
    world = stage(discipline=discipline)
    world.until_writing(1, 4)
    world.finish_write(E0, ok=ok)
    world.run_until_quiet()
    assert world.outcomes(1) == [S if ok else F] * 2
    records = list(world.records)
    encode, language = everything_about(1)
    for rank_id, late in ((E0, encode), (L0, language)):
        for event in late:
            world.feed(rank_id, event)
            assert not world.ranks[rank_id].rooms
    world.run_until_quiet()
    assert world.records == records
    assert not world.encoding
    assert not world.writing[E0]
    assert world.quiescent
    assert world.outcomes(1) == [S if ok else F] * 2


@pytest.mark.parametrize("discipline", SAFE)
def test_what_never_had_a_request_changes_nothing(stage: NewStage, discipline: str) -> None:
    world = stage(discipline=discipline)
    encode, language = everything_about(9)
    for rank_id, strange in ((E0, encode), (L0, language)):
        for event in strange:
            world.feed(rank_id, event)
    world.run_until_quiet()
    assert world.records == []
    assert world.quiescent


def test_a_late_message_of_the_first_incarnation_does_not_touch_the_second(stage: NewStage) -> None:
    world = stage()
    world.submit(1, 4)
    world.run_until_quiet()
    world.until_writing(1, 4, incarnation=1)
    encode, language = everything_about(1)
    for rank_id, late in ((E0, encode), (L0, language)):
        for event in late:
            world.feed(rank_id, event)
    world.run_until_quiet()
    assert world.outcomes(1, 1) == [S, S]
    assert world.quiescent
