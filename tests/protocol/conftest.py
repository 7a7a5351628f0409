"""Worlds to play schedules in, and what must hold in every one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness import World, WorldSpec

from bufferlab.protocol.messages import Action, CopyOut, Offer, Send
from bufferlab.protocol.sizing import SizingPolicy
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

E0, E1 = RankId(Side.ENCODE, 0, 0), RankId(Side.ENCODE, 0, 1)
L0, L1, L2 = (RankId(Side.LANGUAGE, 0, rank) for rank in range(3))


class Stage(World):
    """A World with the shorthand that schedules are written in; it checks what is copied out of which blocks."""

    def __init__(self, spec: WorldSpec, sizing: Callable[[], SizingPolicy] | None = None) -> None:
        super().__init__(spec, sizing)
        self.offered: dict[tuple[RankId, int, int], tuple[int, ...]] = {}

    def _note(self, rank_id: RankId, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(_, Offer(room, incarnation, blocks=blocks)):
                    self.offered[rank_id, room, incarnation] = blocks
                case CopyOut(room, incarnation, _, tokens, blocks):
                    received = self.offered[rank_id, room, incarnation][: self.layout.blocks_for(tokens)]
                    assert blocks == received, "copied out of the blocks that were written, before others are offered"
        super()._note(rank_id, actions)

    def send_all(self) -> None:
        """Deliver every message that is on its way now, and whatever these cause."""
        while self.channels:
            self.deliver_message(*next(iter(self.channels)))

    def iterations(self, count: int = 1) -> None:
        """Hold iterations of the encode side and then of the language side."""
        for _ in range(count):
            self.iteration(Side.ENCODE)
            self.iteration(Side.LANGUAGE)

    def until_writing(self, room: int, total_tokens: int, incarnation: int = 0) -> None:
        """Submit a request and bring it to where all writes of its first chunk are in flight."""
        before = sum(len(queue) for queue in self.writing.values())
        self.submit(room, total_tokens, incarnation)
        for _ in range(3):
            self.iterations()
            self.send_all()
            while self.encoding:
                self.finish_encode()
        assert sum(len(queue) for queue in self.writing.values()) == before + self.spec.language_tp

    def outcomes(self, room: int, incarnation: int = 0) -> list[Status]:
        """How the room was concluded, rank by rank; empty while it is not."""
        return [conclusion.status for conclusion in self.concluded.get((room, incarnation), {}).values()]

    def reason(self, room: int, rank_id: RankId, incarnation: int = 0) -> str:
        """Why the room was concluded on one rank."""
        return self.concluded[room, incarnation][rank_id].reason

    def check_memory(self) -> None:
        """Every write in flight has both its ends to itself, and no room has two to one destination."""
        for rank_id, queue in self.writing.items():
            seen = set()
            for work in queue:
                key = (work.room, work.incarnation)
                assert (key, work.destination) not in seen, "two writes of one room to one destination"
                seen.add((key, work.destination))
                source, target = self.ranks[rank_id].pool, self.ranks[work.destination].pool
                assert all(source.owner(block) == key for block in work.source_blocks)
                for block in work.target_blocks:
                    assert key in (target.owner(block), target.fenced_for(block))


@pytest.fixture(scope="session")
def stage() -> Callable[..., Stage]:
    """Build a Stage: ``stage(language_tp=2, ...)``; see WorldSpec for the parameters."""

    def build(sizing: Callable[[], SizingPolicy] | None = None, **spec: Any) -> Stage:
        return Stage(WorldSpec(**spec), sizing)

    return build


@pytest.fixture
def ids() -> tuple[RankId, RankId, RankId, RankId, RankId]:
    """Two encode ranks and three language ranks."""
    return E0, E1, L0, L1, L2
