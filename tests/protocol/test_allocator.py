"""The block pool against a model: free, owned and fenced are a partition, always."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bufferlab.protocol.allocator import BlockPool
from bufferlab.protocol.errors import OwnershipError

OWNERS = st.sampled_from(["a", "b", "c"])


def runs(blocks: list[int]) -> list[list[int]]:
    """``blocks`` cut where a block does not follow the one before it."""
    found: list[list[int]] = []
    for block in blocks:
        if found and block == found[-1][-1] + 1:
            found[-1].append(block)
        else:
            found.append([block])
    return found


class PoolMachine(RuleBasedStateMachine):
    """Plays the pool beside a model of it: a set of free blocks and two ownership maps."""

    @initialize(size=st.integers(1, 8))
    def start(self, size: int) -> None:
        self.pool = BlockPool(size)
        self.free = set(range(size))
        self.owned: dict[int, str] = {}
        self.fenced: dict[int, str] = {}

    @rule(count=st.integers(1, 9), owner=OWNERS)
    def allocate(self, count: int, owner: str) -> None:
        granted = self.pool.allocate(count, owner)
        if count > len(self.free):
            assert granted is None
            return
        assert granted is not None
        assert len(set(granted)) == count
        assert self.free.issuperset(granted)
        lengths = sorted(map(len, runs(sorted(self.free))), reverse=True)
        fitting = [length for length in lengths if length >= count]
        if fitting:
            assert len(runs(list(granted))) == 1, "neighbours, in order"
            of_run = next(run for run in runs(sorted(self.free)) if granted[0] in run)
            assert len(of_run) == min(fitting), "from the shortest run that is long enough"
        else:
            fewest = next(number for number in range(1, count + 1) if sum(lengths[:number]) >= count)
            assert len(runs(sorted(granted))) <= fewest
        self.free.difference_update(granted)
        self.owned.update(dict.fromkeys(granted, owner))

    @rule(owner=OWNERS, data=st.data(), fence=st.booleans())
    def give_back(self, owner: str, data: st.DataObject, fence: bool) -> None:
        blocks = self._some_of(self.owned, owner, data)
        (self.pool.fence if fence else self.pool.release)(tuple(blocks), owner)
        for block in blocks:
            del self.owned[block]
            if fence:
                self.fenced[block] = owner
            else:
                self.free.add(block)

    @rule(owner=OWNERS, data=st.data())
    def unfence(self, owner: str, data: st.DataObject) -> None:
        blocks = self._some_of(self.fenced, owner, data)
        self.pool.unfence(tuple(blocks), owner)
        for block in blocks:
            del self.fenced[block]
            self.free.add(block)

    @rule(owner=OWNERS, blocks=st.lists(st.integers(-1, 9), min_size=1, max_size=4).map(tuple))
    def try_what_is_not_allowed(self, owner: str, blocks: tuple[int, ...]) -> None:
        twice = len(set(blocks)) < len(blocks)
        if twice or any(self.owned.get(block) != owner for block in blocks):
            for refused in (self.pool.release, self.pool.fence):
                with pytest.raises(OwnershipError):
                    refused(tuple(blocks), owner)
        if twice or any(self.fenced.get(block) != owner for block in blocks):
            with pytest.raises(OwnershipError):
                self.pool.unfence(tuple(blocks), owner)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def free_twice(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.owned)))
        owner = self.owned.pop(block)
        self.pool.release((block,), owner)
        self.free.add(block)
        with pytest.raises(OwnershipError, match=f"block {block} is not owned by {owner}"):
            self.pool.release((block,), owner)

    @staticmethod
    def _some_of(holders: dict[int, str], owner: str, data: st.DataObject) -> tuple[int, ...]:
        mine = [block for block, holder in holders.items() if holder == owner]
        return tuple(data.draw(st.lists(st.sampled_from(mine), unique=True))) if mine else ()

    @invariant()
    def partition(self) -> None:
        pool = self.pool
        for block in range(pool.blocks):
            assert pool.owner(block) == self.owned.get(block)
            assert pool.fenced_for(block) == self.fenced.get(block)
        assert list(pool.free_blocks()) == sorted(self.free)
        assert pool.free == len(self.free)
        assert pool.fenced == len(self.fenced)
        assert pool.free + pool.fenced + len(self.owned) == pool.blocks


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_pool_and_an_allocation_have_a_block() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(0)
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(1).allocate(0, "a")


def test_no_partial_grant() -> None:
    pool = BlockPool(3)
    assert pool.allocate(2, "a") == (0, 1)
    assert pool.allocate(2, "b") is None
    assert pool.allocate(1, "b") == (2,)


def test_a_fenced_block_is_not_handed_out() -> None:
    pool = BlockPool(2)
    pool.allocate(2, "a")
    pool.fence((0,), "a")
    pool.release((1,), "a")
    assert pool.allocate(2, "b") is None
    pool.unfence((0,), "a")
    assert pool.allocate(2, "b") == (0, 1)


def test_a_block_named_twice_is_refused() -> None:
    """Freed twice it would be handed out twice."""
    pool = BlockPool(2)
    pool.allocate(2, "a")
    for refused in (pool.release, pool.fence):
        with pytest.raises(OwnershipError, match="name a block twice"):
            refused((0, 0), "a")
    assert (pool.free, pool.fenced, pool.owner(0)) == (0, 0, "a")
    pool.fence((0,), "a")
    with pytest.raises(OwnershipError, match="name a block twice"):
        pool.unfence((0, 0), "a")
    assert (pool.free, pool.fenced) == (0, 1)


def everything(pool: BlockPool) -> tuple[object, ...]:
    owners = [(pool.owner(block), pool.fenced_for(block)) for block in range(pool.blocks)]
    return pool.free, list(pool.free_blocks()), owners


@pytest.mark.parametrize(
    ("blocks", "owner", "refusal"),
    [
        ((1, 2, 3), "a", "block 3 is not owned by a, but by b"),
        ((5, 0, 3), "a", "block 5 is not owned by a, but by None"),  # the first in the order given, not the lowest
        ((0, 4), "a", "block 4 is not owned by a, but by None"),  # fenced
        ((0, 5), "a", "block 5 is not owned by a, but by None"),  # free
        ((-6, -5), "a", "block -6 is not owned by a, but by None"),  # not what a list has there, which is a's
        ((-1, 0, 1), "a", "block -1 is not owned by a, but by None"),
        ((5, 6), "a", "block 5 is not owned by a, but by None"),
        ((6, 7), "a", "block 6 is not owned by a, but by None"),
        ((5,), None, "block 5 is not owned by None, but by None"),  # what is nobody's cannot be given back by nobody
    ],
)
def test_a_refused_return_changes_nothing(blocks: tuple[int, ...], owner: str | None, refusal: str) -> None:
    pool = BlockPool(6)
    assert pool.allocate(3, "a") == (0, 1, 2)
    assert pool.allocate(1, "b") == (3,)
    assert pool.allocate(1, "a") == (4,)
    pool.fence((4,), "a")
    before = everything(pool)
    for refused in (pool.release, pool.fence):
        with pytest.raises(OwnershipError, match=f"^{refusal}$"):
            refused(tuple(blocks), owner)
        assert everything(pool) == before
    with pytest.raises(OwnershipError, match=r"^block 3 is not fenced by a, but by None$"):
        pool.unfence((4, 3), "a")
    assert everything(pool) == before


def test_blocks_come_back_in_any_order_and_in_any_number_of_runs() -> None:
    pool = BlockPool(9)
    pool.allocate(9, "a")
    pool.release((7, 2, 0, 1, 5), "a")
    assert list(pool.free_blocks()) == [0, 1, 2, 5, 7]
    assert [pool.owner(block) for block in range(9)] == [None, None, None, "a", "a", None, "a", None, "a"]
    assert pool.allocate(5, "b") == (0, 1, 2, 5, 7)
    pool.fence((8, 3, 4), "a")
    pool.unfence((4, 8, 3), "a")
    assert list(pool.free_blocks()) == [3, 4, 8]
    pool.release((), "b")
    assert (pool.free, pool.fenced) == (3, 0)


def test_the_shortest_run_that_is_long_enough_then_the_longest_ones() -> None:
    pool = BlockPool(10)
    pool.allocate(10, "a")
    pool.release((0, 1, 2, 4, 5, 7), "a")  # runs of 3, 2 and 1
    assert pool.allocate(1, "b") == (7,)
    pool.release((9,), "a")
    assert pool.allocate(2, "c") == (4, 5)
    pool.release((5,), "c")
    assert pool.allocate(4, "d") == (0, 1, 2, 5)
    pool.release((6, 8), "a")
    pool.release((7,), "b")
    assert pool.allocate(4, "e") == (6, 7, 8, 9), "what came free segment by segment is one run again"
    pool = BlockPool(6)
    pool.allocate(6, "a")
    pool.release((0, 1, 2, 4, 5), "a")
    assert pool.allocate(1, "b") == (4,), "not from the first run, which is longer"


def test_blocks_of_embeddings_of_any_length_stay_neighbours() -> None:
    """A pool that hands out what came free first has 1.0 blocks a run after a while."""
    draw = random.Random(1)
    pool = BlockPool(512)
    held: list[tuple[int, tuple[int, ...]]] = []
    blocks = segments = 0
    for room in range(3000):
        count = min(1 + int(draw.lognormvariate(2.3, 0.8)), 128)
        while len(held) > 15 or pool.free < count:
            owner, returned = held.pop(draw.randrange(len(held)))
            pool.release(returned, owner)
        granted = pool.allocate(count, room)
        assert granted is not None
        held.append((room, granted))
        blocks += count
        segments += len(runs(list(granted)))
    assert blocks / segments > 8
