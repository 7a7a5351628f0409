"""A timer is about one phase of the rank that has it: no phase that is short enough ends a room, whatever came before it.

Time only passes where a test says so. Every phase may last ``SLOW_S``, of the ``TIMEOUT_S`` that it has, on the rank
that it is for; ranks that are ahead of their group wait for it as long as it takes.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import World, WorldSpec

from bufferlab.protocol.messages import Abort, Announce, ChunkStatus, EncodeRequest, LanguageRequest, Offer
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

TIMEOUT_S, SLOW_S = 10.0, 9.0
E0, E1, E2 = (RankId(Side.ENCODE, 0, rank) for rank in range(3))
L0, L1 = (RankId(Side.LANGUAGE, 0, rank) for rank in range(2))


class Slow(World):
    """A world with three encode ranks, the last of them surplus, and two language ranks; iterations at every move."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(WorldSpec(encode_tp=3, language_tp=2, timeout_s=TIMEOUT_S, **spec))

    def wait(self, lasts_s: float = SLOW_S) -> None:
        """Let time pass, with an iteration of everybody at its end; then nothing may have timed out."""
        self.now += lasts_s
        self.iterations()

    def iterations(self) -> None:
        for _ in range(2):
            for side in Side:
                self.iteration(side)
        for (room, _), ends in self.concluded.items():
            assert {end.status for end in ends.values()} == {Status.Success}, (self.now, room, ends)

    def hear(self, target: RankId, *kinds: type) -> None:
        """Deliver what is on its way to one rank, as long as it is of these kinds."""
        for source, to in list(self.channels):
            while to == target and (source, to) in self.channels and isinstance(self.channels[source, to][0], kinds):
                self.deliver_message(source, to)
        self.iterations()

    def encoded(self) -> None:
        while self.encoding:
            self.finish_encode()
        self.iterations()

    def written(self, rank_id: RankId) -> None:
        self.finish_write(rank_id)
        self.iterations()


@pytest.mark.parametrize("first", [True, False], ids=["the first rank is slow", "the second rank is slow"])
@pytest.mark.parametrize("discipline", ["window", "free_then_alloc", "exact_announce"])
def test_every_phase_may_last_as_long_as_its_timer(discipline: str, first: bool) -> None:
    world = Slow(discipline=discipline)
    quick, slow = (E1, E0) if first else (E0, E1)
    quick_reader, slow_reader = (L1, L0) if first else (L0, L1)
    announces = discipline == "exact_announce"

    # Requests reach the slow ranks later. On the language side a phase is all that the other side does for a chunk.
    for rank_id in (E2, quick):
        world.feed(rank_id, EncodeRequest(1, 0, 12))
    world.feed(quick_reader, LanguageRequest(1, 0))
    world.wait()
    world.feed(slow_reader, LanguageRequest(1, 0))
    world.iterations()
    if announces:
        world.feed(slow, EncodeRequest(1, 0, 12))
        world.iterations()
        world.hear(quick_reader, Announce)
        world.encoded()
        world.wait()
        world.hear(slow_reader, Announce)
        world.hear(quick, Offer)
        world.written(quick)
        world.wait(0.5)
    else:
        world.hear(quick, Offer)
        world.feed(slow, EncodeRequest(1, 0, 12))
        world.wait(0.5)
    world.hear(slow, Offer)
    world.encoded()
    chunks = 1 if announces else 2
    for chunk in range(chunks):
        if not announces:
            world.written(quick)
        world.hear(quick_reader, ChunkStatus)
        world.wait(SLOW_S - 0.5 if not chunk else 1.0)
        world.written(slow)
        world.hear(slow_reader, ChunkStatus)
        if chunk < chunks - 1:
            world.hear(slow, Offer)
            world.wait(0.8 * SLOW_S)
            world.hear(quick, Offer)
    world.iterations()
    assert {end.status for end in world.concluded[1, 0].values()} == {Status.Success}
    assert len(world.concluded[1, 0]) == 5
    assert world.now > 1.8 * TIMEOUT_S
    assert world.quiescent


def test_a_surplus_rank_waits_for_source_blocks_as_long_as_the_others() -> None:
    """The schedule that ended other ranks' rooms: late offers, and then a wait for source blocks."""
    world = Slow(encode_blocks=1)
    for rank_id in (E0, E1, E2):
        world.feed(rank_id, EncodeRequest(2, 0, 4))
    world.wait(0.8 * TIMEOUT_S)
    world.submit(1, 4)
    for room in (1, 2):
        if room == 2:
            for rank_id in (L0, L1):
                world.feed(rank_id, LanguageRequest(2, 0))
        world.iterations()
        for writer in (E0, E1):
            world.hear(writer, Offer)
    assert len(world.encoding) == 3, "the first room has all of the blocks"
    world.wait(0.8 * TIMEOUT_S)
    for _ in range(2):
        world.encoded()
        for writer in (E0, E1):
            world.written(writer)
        for reader in (L0, L1):
            world.hear(reader, ChunkStatus)
    assert [len(world.concluded[room, 0]) for room in (1, 2)] == [5, 5]
    assert world.quiescent


@pytest.mark.parametrize("late", [L0, L1])
def test_a_wait_for_blocks_begins_when_all_ranks_of_the_group_have_the_request(late: RankId) -> None:
    world = Slow(language_blocks=1, default_tokens=4)
    early = L1 if late == L0 else L0
    for rank_id in (L0, L1):
        world.feed(rank_id, LanguageRequest(1, 0))  # holds the only block
    world.feed(early, LanguageRequest(2, 0))
    world.iterations()
    world.wait(0.5 * TIMEOUT_S)
    for rank_id in (L0, L1):
        world.feed(rank_id, Abort(1, 0))
    for side in (Side.LANGUAGE, Side.ENCODE):
        world.iteration(side)
    world.concluded.clear()
    world.wait(0.4 * TIMEOUT_S)
    world.feed(late, LanguageRequest(2, 0))
    world.wait(0.8 * TIMEOUT_S)
    assert world.language[0].waiting_rooms == world.language[1].waiting_rooms == 1, "the block is fenced"


@pytest.mark.parametrize("discipline", ["window", "exact_announce"])
def test_a_phase_that_takes_longer_ends_the_room_on_the_rank_that_waits(discipline: str) -> None:
    """And only there: the others hear of it from their group or from the other side."""
    world = World(WorldSpec(encode_tp=3, language_tp=2, timeout_s=TIMEOUT_S, discipline=discipline))
    world.submit(1, 4)
    world.iteration(Side.LANGUAGE)
    world.iteration(Side.ENCODE)
    world.now = TIMEOUT_S + 1.0
    for _ in range(2):
        world.iteration(Side.ENCODE)
        world.iteration(Side.LANGUAGE)
    reasons = {rank_id: end.reason for rank_id, end in world.concluded[1, 0].items()}
    if discipline == "window":
        assert all("timed out while waiting for memory on the language side" in reasons[one] for one in (E0, E1))
        assert reasons[E2] == "another rank of the group failed"
    else:
        assert all("timed out while waiting for the announced length" in reasons[one] for one in (L0, L1))
