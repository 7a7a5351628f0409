"""Ranks learn facts at different moments and still decide the same.

Hypothesis picks the next move again and again: a rank gets its request, a message arrives, a forward pass or a write
ends, a group begins an iteration, a rank carries out the iteration its group agreed on (possibly long after the others). In the
end everything has arrived whatever the order was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.messages import Abort, EncodeRequest, Iteration, LanguageRequest
from bufferlab.protocol.recording import histories
from bufferlab.protocol.status import FINAL, Status
from bufferlab.protocol.topology import RankId, Side

S, F = Status.Success, Status.Failed
NewStage = Callable[..., Any]
SAFE = [name for name, one in DISCIPLINES.items() if not one.may_deadlock]
Move = Callable[[], object]


class Player:
    """Plays a world move by move and checks the memory after each."""

    def __init__(self, world: Any, lengths: list[int]) -> None:
        self.world = world
        self.requests: dict[RankId, deque[object]] = {}
        for member in world.ranks.values():
            todo: deque[object] = deque()
            for room, total in enumerate(lengths):
                if member.rank_id.side is Side.ENCODE:
                    todo.append(EncodeRequest(room, 0, total))
                else:
                    todo.append(LanguageRequest(room, 0, true_tokens=total))
            self.requests[member.rank_id] = todo
        # What a side agreed on and which of its ranks have not carried it out yet.
        self.iterations: dict[Side, tuple[Iteration, list[RankId]]] = {}

    def moves(self) -> list[Move]:
        world = self.world
        found: list[Move] = []
        for side, members in ((Side.ENCODE, world.encode), (Side.LANGUAGE, world.language)):
            if side in self.iterations:
                for rank_id in self.iterations[side][1]:
                    found.append(partial(self._carry_out, side, rank_id))
            else:
                found.append(partial(self._begin, side, members))
        for rank_id, todo in self.requests.items():
            if todo:
                found.append(partial(self._submit, rank_id))
        for source, target in world.channels:
            found.append(partial(world.deliver_message, source, target))
        if world.encoding:
            found.append(world.finish_encode)
        for rank_id, writes in world.writing.items():
            # Writes of one rank run in parallel and end in any order.
            for index in range(len(writes)):
                found.append(partial(self._finish_write, rank_id, index))
        return found

    def play(self, choices: list[int]) -> None:
        for choice in choices:
            moves = self.moves()
            moves[choice % len(moves)]()
            self.world.check_memory()

    def finish(self) -> None:
        """Let everything run to its end in a fixed order."""
        for side in list(self.iterations):
            for rank_id in list(self.iterations[side][1]):
                self._carry_out(side, rank_id)
        for rank_id, todo in self.requests.items():
            while todo:
                self._submit(rank_id)
        self.world.run_until_quiet()

    def _submit(self, rank_id: RankId) -> None:
        self.world.feed(rank_id, self.requests[rank_id].popleft())

    def _begin(self, side: Side, members: list[Any]) -> None:
        self.iterations[side] = (hold_iteration(members), [member.rank_id for member in members])

    def _carry_out(self, side: Side, rank_id: RankId) -> None:
        iteration, waiting = self.iterations[side]
        waiting.remove(rank_id)
        if not waiting:
            del self.iterations[side]
        self.world.feed(rank_id, iteration)

    def _finish_write(self, rank_id: RankId, index: int) -> None:
        writes = self.world.writing[rank_id]
        writes.rotate(-index)
        work = writes.popleft()
        writes.rotate(index)
        writes.appendleft(work)
        self.world.finish_write(rank_id)


CHOICES = st.lists(st.integers(0, 2**16), max_size=150)


def check_statuses_never_fall(world: Any) -> None:
    latest: dict[tuple[int, RankId], Status] = {}
    for record in world.records:
        if record.status is not None:
            key = (record.room, record.rank_id)
            before = latest.get(key, Status.Bootstrapping)
            assert record.status >= before, f"{key} fell at {record}"
            assert before not in FINAL or record.status is before, f"{key} was over before {record}"
            latest[key] = record.status


def check_histories_agree(world: Any, rooms: int) -> None:
    """Every rank of a side that takes part has the same history of each room."""
    found = histories(world.records)
    for room in range(rooms):
        for members in (world.encode, world.language):
            paths = [
                found[room, member.rank_id, "room"]
                for member in members
                if member.rank_id.side is Side.LANGUAGE or member.rank_id.rank < world.spec.language_tp
            ]
            assert all(path == paths[0] for path in paths)


@pytest.mark.parametrize("discipline", SAFE)
@settings(max_examples=300, deadline=None)
@given(
    choices=CHOICES,
    encode_tp=st.integers(1, 2),
    language_tp=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    encode_blocks=st.integers(4, 7),
    language_blocks=st.integers(4, 6),
    default_tokens=st.sampled_from([1, 4, 5, 8]),
    resume_first=st.booleans(),
)
def test_any_interleaving_delivers_everything(
    stage: NewStage, discipline: str, choices: list[int], lengths: list[int], default_tokens: int, **spec: Any
) -> None:
    if discipline in ("slot", "default_fail"):
        default_tokens = 16  # the largest request, these two do not resume
    world = stage(discipline=discipline, default_tokens=default_tokens, **spec)
    player = Player(world, lengths)
    player.play(choices)
    player.finish()
    for room, total in enumerate(lengths):
        assert world.outcomes(room) == [S] * len(world.ranks)
        for member in world.language:
            segments = world.copied[room, member.rank_id]
            tokens = [token for start, count in segments for token in range(start, start + count)]
            assert tokens == list(range(total)), "every token once and in order"
    delivered = [(deliver.room, rank_id, deliver.total_tokens) for rank_id, deliver in world.delivered]
    assert sorted(delivered) == [
        (room, member.rank_id, total) for room, total in enumerate(lengths) for member in world.language
    ]
    check_statuses_never_fall(world)
    check_histories_agree(world, len(lengths))
    orders = [[d.room for rank_id, d in world.delivered if rank_id == member.rank_id] for member in world.language]
    assert all(order == orders[0] for order in orders), "all ranks deliver in the same order"
    assert world.quiescent


@pytest.mark.parametrize("discipline", SAFE)
@settings(max_examples=250, deadline=None)
@given(
    before=CHOICES,
    between=CHOICES,
    encode_tp=st.integers(1, 3),
    language_tp=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=3),
    data=st.data(),
)
def test_any_interleaving_with_aborts_and_failed_writes_ends(
    stage: NewStage,
    discipline: str,
    before: list[int],
    between: list[int],
    lengths: list[int],
    data: st.DataObject,
    **spec: Any,
) -> None:
    """Whatever fails, both groups end as one, memory stays private until it is quiet and is all free in the end."""
    world = stage(discipline=discipline, default_tokens=4, encode_blocks=5, language_blocks=4, **spec)
    player = Player(world, lengths)
    player.play(before)
    victims = data.draw(st.lists(st.tuples(st.sampled_from(sorted(world.ranks)), st.sampled_from(range(len(lengths))))))
    for rank_id, room in victims:
        world.feed(rank_id, Abort(room, 0))
    for rank_id, writes in world.writing.items():
        if writes and data.draw(st.booleans()):
            world.finish_write(rank_id, ok=False)
        world.check_memory()
    player.play(between)
    player.finish()
    for room in range(len(lengths)):
        conclusions = world.concluded[room, 0]
        assert len(conclusions) == len(world.ranks)
        for members in (world.encode, world.language):
            assert len({conclusions[member.rank_id].status for member in members}) == 1
        if conclusions[world.language[0].rank_id].status is S:
            assert conclusions[world.encode[0].rank_id].status is S
    check_statuses_never_fall(world)
    assert world.quiescent
