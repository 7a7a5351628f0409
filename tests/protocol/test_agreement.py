"""The group's agreement: element-wise minima, the same for one rank as for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.agreement import MOST_ROOMS, NOBODY, Proposal, agree, hold_iteration
from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import Abort, ChunkStatus, Conclude, EncodeRequest, Iteration, LanguageRequest, Offer
from bufferlab.protocol.sizing import Fixed
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

E0, E1 = RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 0, 1)
L0, L1 = RankId(Side.LANGUAGE, 0, 0), RankId(Side.LANGUAGE, 0, 1)
NewStage = Callable[..., Any]
PROPOSALS = st.tuples(st.integers(0, 9), st.integers(0, 9), st.one_of(st.integers(0, 9), st.just(NOBODY)))


class FakeMember:
    """A member with fixed facts."""

    def __init__(self, proposal: Proposal, progress: dict[int, int]) -> None:
        self._proposal = proposal
        self._progress = progress

    def proposal(self) -> Proposal:
        return self._proposal

    def candidates(self) -> Sequence[int]:
        return list(self._progress)

    def progress_of(self, candidates: Sequence[int]) -> list[int]:
        return [self._progress.get(number, 0) for number in candidates]


VOTERS = st.builds(FakeMember, PROPOSALS, st.dictionaries(st.integers(0, 9), st.integers(1, 9)))


@given(st.lists(PROPOSALS, min_size=1, max_size=4))
def test_a_proposal_is_the_minimum_of_every_fact(proposals: list[Proposal]) -> None:
    submitted, free_blocks, failed = agree(proposals)
    assert submitted == min(proposal[0] for proposal in proposals)
    assert free_blocks == min(proposal[1] for proposal in proposals)
    failures = [proposal[2] for proposal in proposals if proposal[2] != NOBODY]
    assert failed == min(failures, default=NOBODY), "any failure wins"


@given(st.lists(VOTERS, min_size=2, max_size=4))
def test_the_slowest_decides_about_the_rooms_of_rank_0(members: list[FakeMember]) -> None:
    iteration = hold_iteration(members)
    assert iteration == Iteration(
        *agree([member.proposal() for member in members]),
        tuple(
            (number, min(member.progress_of([number])[0] for member in members)) for number in members[0].candidates()
        ),
    )  # fmt: skip


@given(st.lists(st.sampled_from(["request", "status", "abort", "iteration"]), max_size=25), st.data())
def test_one_rank_agrees_with_itself(steps: list[str], data: st.DataObject) -> None:
    """A group of one takes a shorter way to the same iteration."""
    core = LanguageRank(
        L0, layout=BufferLayout(1, 1), discipline=make_discipline("window"), sizing=Fixed(2), pool_blocks=9
    )
    rooms = 0
    for step in steps:
        room = data.draw(st.integers(0, max(rooms - 1, 0)))
        if step == "request":
            core.handle(LanguageRequest(rooms, 0), 0.0)
            rooms += 1
        elif step == "status":
            core.handle(ChunkStatus(room, 0, 0, Status.Success, 1, 1), 0.0)
        elif step == "abort":
            core.handle(Abort(room, 0), 0.0)
        iteration = hold_iteration([core])
        assert iteration == hold_iteration([core, core])
        if step == "iteration":
            core.handle(iteration, 0.0)


def test_nothing_is_decided_before_all_ranks_have_the_request(stage: NewStage) -> None:
    world = stage(language_tp=2)
    world.feed(L0, LanguageRequest(1, 0))
    world.iterations(2)
    assert not world.channels
    world.feed(L1, LanguageRequest(1, 0))
    world.iteration(Side.LANGUAGE)
    assert sorted(world.channels) == [(L0, E0), (L1, E0)]


@pytest.mark.parametrize("late", [0, 1])
def test_a_failure_waits_for_the_rank_that_has_no_request_yet(stage: NewStage, late: int) -> None:
    """The client leaves before the request reached every language rank: all conclude, nobody waits for ever."""
    world = stage(language_tp=2)
    ranks = [L0, L1]
    late_id, prompt = ranks.pop(late), ranks[0]
    world.feed(E0, EncodeRequest(1, 0, 4))
    world.feed(prompt, LanguageRequest(1, 0))
    world.feed(prompt, Abort(1, 0, "the client left"))
    world.run_until_quiet()
    assert not world.concluded, "no rank concludes before all can"
    world.feed(late_id, LanguageRequest(1, 0))
    world.run_until_quiet()
    assert world.outcomes(1) == [Status.Failed] * 3
    assert world.quiescent


@pytest.mark.parametrize("language_tp", [1, 2])
@pytest.mark.parametrize("late", [0, 1])
def test_a_failure_waits_for_the_encode_rank_that_has_no_request_yet(
    stage: NewStage, language_tp: int, late: int
) -> None:
    """With one language rank the second encode rank is surplus: only its own group can tell it."""
    world = stage(encode_tp=2, language_tp=language_tp)
    ranks = [E0, E1]
    late_id, prompt = ranks.pop(late), ranks[0]
    for rank in range(language_tp):
        world.feed(RankId(Side.LANGUAGE, 0, rank), LanguageRequest(1, 0))
    world.feed(prompt, EncodeRequest(1, 0, 4))
    world.feed(E0, Abort(1, 0, "the client left"))
    world.feed(E1, Abort(1, 0, "the client left"))
    world.run_until_quiet()
    world.feed(late_id, EncodeRequest(1, 0, 4))
    world.feed(late_id, Abort(1, 0, "the client left"))
    world.run_until_quiet()
    assert world.outcomes(1) == [Status.Failed] * (2 + language_tp)
    assert world.quiescent


def test_many_failures_at_once_end_in_few_iterations(stage: NewStage) -> None:
    """A peer that goes down fails all its rooms; they must not trickle out one an iteration."""
    world = stage(language_tp=2)
    for room in range(20):
        world.submit(room, 4)
    for rank_id in (L0, L1):
        for room in range(20):
            world.feed(rank_id, Abort(room, 0))
    world.iterations(2)
    assert all(len(world.concluded[room, 0]) >= 2 for room in range(20))
    world.run_until_quiet()
    assert world.quiescent


def test_a_failure_on_one_rank_outweighs_success_on_the_others(stage: NewStage) -> None:
    """Two rooms fail on a rank that has not heard of their success; the proposal has place for one."""
    world = stage(language_tp=2)
    for room in (1, 2):
        world.submit(room, 4)
    world.iteration(Side.LANGUAGE)
    for room in (1, 2):
        world.feed(L0, ChunkStatus(room, 0, 0, Status.Success, 4, 4))
        world.feed(L1, Abort(room, 0, "the client left"))
    world.iteration(Side.LANGUAGE)
    assert world.delivered == []
    for room in (1, 2):
        assert [world.concluded[room, 0][rank_id].status for rank_id in (L0, L1)] == [Status.Failed] * 2
    assert [list(member.candidates()) for member in world.language] == [[], []], "what is over is not reported on"


def test_a_failure_that_must_wait_does_not_hide_another(stage: NewStage) -> None:
    """Rank 0 has never heard of room 2, so that one cannot be concluded; room 1 can."""
    world = stage(language_tp=2)
    for rank_id, room in ((L0, 1), (L1, 1), (L1, 2)):
        world.feed(rank_id, LanguageRequest(room, 0))
    for room in (1, 2):
        world.feed(L1, Abort(room, 0, "the client left"))
    world.iterations(2)
    assert world.outcomes(1) == [Status.Failed] * 2
    assert world.outcomes(2) == []


def test_a_room_without_news_is_no_candidate(stage: NewStage) -> None:
    """Rooms that wait cost an iteration nothing, also those whose later chunk is on its way."""
    world = stage(language_blocks=1)
    world.until_writing(1, 8)
    world.finish_write(E0)
    world.send_all()
    world.iterations()
    world.send_all()
    assert [work.epoch for work in world.writing[E0]] == [1]
    world.iterations()
    assert [list(member.candidates()) for member in world.ranks.values()] == [[], []]


def test_language_blocks_count_when_every_rank_has_them(stage: NewStage) -> None:
    """A write to the second rank is still in flight: its block is fenced there, and already free on the first."""
    world = stage(language_tp=2, language_blocks=1, encode_blocks=2)
    world.until_writing(1, 4)
    world.finish_write(E0, ok=False)
    world.send_all()
    world.iterations()
    world.send_all()
    assert [member.pool.free for member in world.language] == [1, 0]
    world.submit(2, 4)
    world.iterations(2)
    assert not world.channels, "neither rank offers what only one of them has"
    world.run_until_quiet()
    assert world.outcomes(2) == [Status.Success] * 3


def test_source_blocks_count_when_every_rank_has_them(stage: NewStage) -> None:
    """The second rank's write is still in flight: its source is held there, and already free on the first."""
    world = stage(encode_tp=2, language_tp=2, encode_blocks=1)
    world.until_writing(1, 4)
    world.finish_write(E0, ok=False)
    world.iterations()
    assert [member.pool.free for member in world.encode] == [1, 0]
    for rank_id, receiver in ((E0, L0), (E1, L1)):
        world.feed(rank_id, EncodeRequest(2, 0, 4))
        world.feed(rank_id, Offer(2, 0, 0, receiver, (7,), 4, 0))
    world.iterations(2)
    assert not world.encoding, "neither rank encodes into what only one of them has"
    world.finish_write(E1)
    world.iterations()
    assert [rank_id for rank_id, _ in world.encoding] == [E0, E1]


def test_a_group_decides_about_so_many_rooms_in_an_iteration_and_about_more_in_the_next() -> None:
    ready = dict.fromkeys(range(100), 1)
    proposal = (100, 8, NOBODY)
    iteration = hold_iteration([FakeMember(proposal, ready), FakeMember(proposal, ready)])
    assert iteration.progress == tuple((number, 1) for number in range(MOST_ROOMS))
    members = [reader(rank) for rank in (L0, L1)]
    for number in range(150):
        for member in members:
            member.handle(LanguageRequest(number, 0), 0.0)
            member.handle(Abort(number, 0), 0.0)
    ended: list[int] = []
    again: list[bool] = []
    for _ in range(4):
        iteration = hold_iteration(members)
        first, second = (
            [one.room for one in member.handle(iteration, 0.0) if isinstance(one, Conclude)] for member in members
        )
        assert first == second
        ended.append(len(first))
        again.append(members[0].unsettled)
    assert ended == [MOST_ROOMS, MOST_ROOMS, 150 - 2 * MOST_ROOMS, 0]
    assert again == [True, True, False, False]


def reader(rank_id: RankId) -> LanguageRank:
    return LanguageRank(
        rank_id, layout=BufferLayout(4, 1), discipline=make_discipline("window"), sizing=Fixed(4), pool_blocks=200
    )


def test_rooms_that_were_left_for_the_next_iteration_are_known_to_wait_for_it() -> None:
    """Nothing arrives in between, so only the core can say that another iteration is due; a lone rank leaves none."""
    members = [reader(rank) for rank in (L0, L1)]
    lone = reader(L0)
    for number in range(100):
        for member in (*members, lone):
            member.handle(LanguageRequest(number, 0), 0.0)
    for group in (members, [lone]):
        iteration = hold_iteration(group)
        for member in group:
            member.handle(iteration, 0.0)
            for number in range(100):
                member.handle(ChunkStatus(number, 0, 0, Status.Success, 3, 3), 0.0)
        iteration = hold_iteration(group)
        for member in group:
            member.handle(iteration, 0.0)
        first = group[0]
        assert (len(first.rooms), first.unsettled) == ((36, True) if len(group) > 1 else (0, False))
    iteration = hold_iteration(members)
    for member in members:
        member.handle(iteration, 0.0)
    assert (members[0].rooms, members[0].unsettled) == ({}, False)
