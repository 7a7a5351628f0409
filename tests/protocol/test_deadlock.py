"""Rooms that wait for each other for ever are found and named, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.checker.snapshot import freeze
from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import ChunkStatus, EncodeRequest, LanguageRequest, Offer
from bufferlab.protocol.observe.deadlock import Deadlock, StuckRoom, find_deadlock
from bufferlab.protocol.sizing import Fixed, RequestView, SizingPolicy
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.waits import Demand

LAYOUT = BufferLayout(block_tokens=1, hidden=1)


class Pool:
    """A pool by its facts: who holds what, who waits in which order for how much."""

    def __init__(self, side: Side, blocks: int, held: dict[int, int], *queues: Sequence[tuple[int, int]]) -> None:
        self.rank_id = RankId(side, 0, 0)
        self.blocks = blocks
        self._held = {(room, 0): count for room, count in held.items()}
        self._queues = [[Demand((room, 0), count) for room, count in queue] for queue in queues]

    def held_blocks(self) -> dict[tuple[int, int], int]:
        return self._held

    def queues(self) -> list[list[Demand]]:
        return self._queues

    def waiting_among(self, keys: Set[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        return [[demand.key for demand in queue if demand.key in keys] for queue in self._queues]

    def usable_blocks(self, key: tuple[int, int]) -> int:
        return self.blocks


def language(blocks: int, held: dict[int, int], *queues: Sequence[tuple[int, int]]) -> Pool:
    return Pool(Side.LANGUAGE, blocks, held, *queues)


def encode(blocks: int, held: dict[int, int], *queues: Sequence[tuple[int, int]]) -> Pool:
    return Pool(Side.ENCODE, blocks, held, *queues)


def test_two_rooms_that_hold_what_the_other_needs() -> None:
    found = find_deadlock([language(4, {1: 2, 2: 2}, [(1, 1), (2, 2)])])
    assert found == Deadlock(
        (
            StuckRoom(1, "language0", 1, (("language0", 2),)),
            StuckRoom(2, "language0", 2, (("language0", 2),)),
        ),
        2,
    )
    assert str(found) == (
        "room 1 holds 2 of language0 and waits for 1 of language0; "
        "room 2 holds 2 of language0 and waits for 2 of language0 (2 rooms are stuck)"
    )


def test_a_demand_that_fits_exactly_once_others_end_is_no_deadlock() -> None:
    assert find_deadlock([language(4, {1: 2, 2: 1, 3: 1}, [(1, 2)])]) is None


def test_a_room_that_can_go_on_frees_the_others() -> None:
    assert find_deadlock([language(5, {1: 2, 2: 2}, [(1, 1), (2, 3)])]) is None


def test_a_room_behind_a_stuck_one_is_stuck_in_the_same_queue_and_not_in_another() -> None:
    held = {1: 2, 2: 1}
    assert find_deadlock([language(4, held, [(1, 2), (2, 1)])]) is not None
    assert find_deadlock([language(4, held, [(1, 2)], [(2, 1)])]) is None


def test_rooms_that_hold_nothing_and_could_go_on_are_not_counted_with_the_stuck_ones() -> None:
    """They wait in a queue of their own, whose iteration has only not come yet."""
    stuck = [(1, 1), (2, 2)]
    found = find_deadlock([language(4, {1: 2, 2: 2}, stuck), encode(2, {}, [(3, 1), (4, 2), (5, 3), (6, 1)])])
    assert found is not None
    assert [one.room for one in found.cycle] == [1, 2]
    assert found.stuck == 4  # the two, and room 5, which never fits, with room 6 behind it


def test_across_the_two_sides() -> None:
    sides = [encode(3, {1: 2}, [(2, 2)]), language(2, {2: 2}, [(1, 1)])]
    found = find_deadlock(sides)
    assert found is not None
    assert [(room.room, room.pool, room.holds) for room in found.cycle] == [
        (1, "language0", (("encode0", 2),)),
        (2, "encode0", (("language0", 2),)),
    ]


def test_who_only_waits_behind_is_counted_and_not_in_the_cycle() -> None:
    found = find_deadlock([language(4, {5: 2, 6: 2}, [(5, 1), (6, 1)], [(1, 1), (2, 1)])])
    assert found is not None
    assert ([room.room for room in found.cycle], found.stuck) == ([5, 6], 4)


def test_a_room_alone_can_be_stuck() -> None:
    found = find_deadlock([language(3, {1: 2}, [(1, 2)])])
    assert found is not None
    assert [room.room for room in found.cycle] == [1]


def test_rank_0_speaks_for_its_group() -> None:
    other = language(1, {1: 1}, [(1, 1)])
    other.rank_id = RankId(Side.LANGUAGE, 0, 1)
    assert find_deadlock([other]) is None


def can_all_end(blocks: int, held: dict[int, int], queues: Sequence[Sequence[tuple[int, int]]]) -> bool:
    """By trying every order in which heads of queues may be served to their end."""
    if not any(queues):
        return True
    free = blocks - sum(held.get(room, 0) for queue in queues for room, _ in queue)
    for number, queue in enumerate(queues):
        if queue and queue[0][1] <= free:
            rest = [one[1:] if index == number else one for index, one in enumerate(queues)]
            if can_all_end(blocks, held, rest):
                return True
    return False


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=5),
    st.integers(0, 5),
)
def test_the_reduction_finds_what_trying_every_order_finds(blocks: int, rooms: list[tuple[int, int]], cut: int) -> None:
    held = {room: count for room, (count, _) in enumerate(rooms) if count}
    if sum(held.values()) > blocks:
        return
    demands = [(room, needs if held.get(room) else min(needs, blocks)) for room, (_, needs) in enumerate(rooms)]
    queues = [demands[:cut], demands[cut:]]
    assert (find_deadlock([language(blocks, held, *queues)]) is None) == can_all_end(blocks, held, queues)


def stuck_of(pools: Sequence[Pool]) -> set[int]:
    """The rooms that are left when every room that can be served ends, looking at all of them again and again."""
    left = [[list(queue) for queue in pool.queues()] for pool in pools]
    while True:
        waiting = {demand.key for queues in left for queue in queues for demand in queue}
        served = False
        for pool, queues in zip(pools, left, strict=True):
            free = pool.blocks - sum(pool.held_blocks().get(key, 0) for key in waiting)
            for queue in queues:
                if queue and queue[0].blocks <= free and not served:
                    queue.pop(0)
                    served = True
        if not served:
            return {key[0] for key in waiting}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(1, 4)), max_size=8),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_all_rooms_that_are_stuck_are_counted_and_the_cycle_is_of_them(
    rooms: list[tuple[int, int, int, int]], encode_blocks: int, language_blocks: int
) -> None:
    blocks = (encode_blocks, language_blocks)
    held = [{room: one[side] for room, one in enumerate(rooms) if one[side]} for side in (0, 1)]
    if any(sum(one.values()) > limit for one, limit in zip(held, blocks, strict=True)):
        return
    queues: list[list[tuple[int, int]]] = [[], [], []]
    for room, (encoding, receiving, queue, needs) in enumerate(rooms):
        queues[queue].append((room, needs if encoding or receiving else min(needs, blocks[queue > 0])))
    pools = [encode(encode_blocks, held[0], queues[0]), language(language_blocks, held[1], queues[1], queues[2])]
    expected = stuck_of(pools)
    found = find_deadlock(pools)
    assert (0 if found is None else found.stuck) == len(expected)
    assert found is None or {room.room for room in found.cycle} <= expected


def test_rooms_that_hold_nothing_are_not_read_behind_the_last_that_does() -> None:
    """Under overload they are nearly all there are, and every timer that ends one of them looks."""

    class Long(Pool):
        read = 0

        def queues(self) -> list[Iterator[Demand]]:
            def reading(queue: Sequence[Demand]) -> Iterator[Demand]:
                for demand in queue:
                    self.read += 1
                    yield demand

            return [*map(reading, self._queues)]

    backlog = [(room, 1) for room in range(10, 1010)]
    pool = Long(Side.LANGUAGE, 4, {1: 2, 2: 1}, [(1, 1), *backlog], [(2, 2)], backlog)
    assert find_deadlock([pool]) is None
    assert pool.read < 10
    pool = Long(Side.LANGUAGE, 4, {1: 2, 2: 2}, [(1, 1), *backlog[:500]], [(2, 2), *backlog[500:]])
    found = find_deadlock([pool])
    assert found is not None
    assert found.stuck == 2 + len(backlog)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_of_the_pools_does_not_matter(order: tuple[int, ...]) -> None:
    pools = [encode(3, {1: 2, 3: 1}, [(2, 2)]), language(2, {2: 2}, [(1, 1)]), encode(9, {}, [])]
    pools[2].rank_id = RankId(Side.ENCODE, 1, 0)
    found = find_deadlock([pools[index] for index in order])
    assert found is not None
    assert sorted(room.room for room in found.cycle) == [1, 2]


# --- the cores say who holds what ----------------------------------------------------------------------------------


def iteration(core: EncodeRank | LanguageRank) -> None:
    core.handle(hold_iteration([core]), 0.0)


def reader(discipline: str, blocks: int, **options) -> LanguageRank:
    return LanguageRank(
        RankId(Side.LANGUAGE, 0, 0),
        layout=LAYOUT,
        discipline=make_discipline(discipline),
        pool_blocks=blocks,
        **({"sizing": Fixed(2)} | options),
    )


def partly_received(core: LanguageRank, rooms: int, total: int) -> None:
    for room in range(rooms):
        core.handle(LanguageRequest(room, 0), 0.0)
    iteration(core)
    for room in range(rooms):
        core.handle(ChunkStatus(room, 0, 0, Status.Transferring, total, 2), 0.0)
    iteration(core)


def test_hold_and_wait_on_the_language_side() -> None:
    core = reader("alloc_then_free", 5)
    partly_received(core, 2, total=4)
    assert core.held_blocks() == {(0, 0): 2, (1, 0): 2}
    found = find_deadlock([core])
    assert found is not None
    assert [(room.room, room.needs) for room in found.cycle] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("discipline", ["window", "free_then_alloc"])
def test_who_does_not_hold_and_wait_is_not_stuck(discipline: str) -> None:
    core = reader(discipline, 5)
    partly_received(core, 2, total=4)
    assert find_deadlock([core]) is None


def test_new_rooms_wait_behind_resumes_only_where_these_go_first() -> None:
    for resume_first, queues in ((True, [[0, 1, 2]]), (False, [[2], [0, 1]])):
        core = reader("alloc_then_free", 5, resume_first=resume_first)
        partly_received(core, 2, total=4)
        core.handle(LanguageRequest(2, 0), 0.0)
        iteration(core)
        assert [[demand.key[0] for demand in queue] for queue in core.queues()] == queues


def test_a_reserve_is_for_resumes_only() -> None:
    core = reader("alloc_then_free", 7, reserve_blocks=1)
    partly_received(core, 2, total=4)
    core.handle(LanguageRequest(2, 0), 0.0)
    assert (core.usable_blocks((0, 0)), core.usable_blocks((2, 0))) == (7, 6)


def test_rooms_that_wait_for_source_blocks() -> None:
    core = EncodeRank(RankId(Side.ENCODE, 0, 0), layout=LAYOUT, discipline=make_discipline("window"), pool_blocks=3)
    for room in range(2):
        core.handle(EncodeRequest(room, 0, 2), 0.0)
        core.handle(Offer(room, 0, 0, RankId(Side.LANGUAGE, 0, 0), (room,), 1, 0), 0.0)
    iteration(core)
    assert core.held_blocks() == {(0, 0): 2}
    assert [list(queue) for queue in core.queues()] == [[Demand((1, 0), 2)]]
    assert core.usable_blocks((1, 0)) == 3
    assert find_deadlock([core]) is None


class Counting(SizingPolicy):
    """Answers with the number of times it was asked, as a policy may that learns from its own questions."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def first_tokens(self, view: RequestView) -> int:
        self.calls += 1
        return 1 + self.calls


def test_to_look_asks_the_policy_nothing_and_changes_nothing() -> None:
    def run(looks: int) -> tuple[int, object, object]:
        policy = Counting()
        core = reader("window", 3, sizing=policy)
        for room in range(4):
            core.handle(LanguageRequest(room, 0), 0.0)
        for _ in range(3):
            iteration(core)
            for _ in range(looks):
                find_deadlock([core])
        return policy.calls, [list(queue) for queue in core.queues()], freeze(core)

    assert run(0) == run(5)


def test_a_waiting_room_wants_what_it_asked_for_at_the_last_iteration() -> None:
    policy = Counting()
    core = reader("window", 3, sizing=policy)
    for room in range(4):
        core.handle(LanguageRequest(room, 0), 0.0)
    iteration(
        core
    )  # the first gets two blocks, the second asks for three and waits; nobody has asked for the others yet
    assert [list(queue) for queue in core.queues()] == [[Demand((1, 0), 3), Demand((2, 0), 1), Demand((3, 0), 1)]]
    iteration(core)
    assert next(iter(core.queues()[0])) == Demand((1, 0), 3), "more than the pool has is never asked for"
    assert policy.calls == 3
