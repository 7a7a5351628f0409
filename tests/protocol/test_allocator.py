"""The block pool against a model: free, owned and fenced are a partition, always."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.allocator import BlockPool
from protocol.errors import OwnershipError

OWNERS = st.sampled_from(["a", "b", "c"])


class PoolMachine(RuleBasedStateMachine):
    """Plays the pool beside a model of it: a queue of free blocks and two ownership maps."""

    @initialize(size=st.integers(1, 8))
    def start(self, size: int) -> None:
        self.pool = BlockPool(size)
        self.free = deque(range(size))
        self.owned: dict[int, str] = {}
        self.fenced: dict[int, str] = {}

    @rule(count=st.integers(1, 9), owner=OWNERS)
    def allocate(self, count: int, owner: str) -> None:
        granted = self.pool.allocate(count, owner)
        if count > len(self.free):
            assert granted is None
            return
        assert granted == tuple(self.free.popleft() for _ in range(count)), "first in, first out"
        self.owned.update(dict.fromkeys(granted, owner))

    @rule(owner=OWNERS, data=st.data(), fence=st.booleans())
    def give_back(self, owner: str, data: st.DataObject, fence: bool) -> None:
        blocks = self._some_of(self.owned, owner, data)
        (self.pool.fence if fence else self.pool.release)(blocks, owner)
        for block in blocks:
            del self.owned[block]
            if fence:
                self.fenced[block] = owner
            else:
                self.free.append(block)

    @rule(owner=OWNERS, data=st.data())
    def unfence(self, owner: str, data: st.DataObject) -> None:
        blocks = self._some_of(self.fenced, owner, data)
        self.pool.unfence(blocks, owner)
        for block in blocks:
            del self.fenced[block]
            self.free.append(block)

    @rule(owner=OWNERS, blocks=st.lists(st.integers(-1, 9), min_size=1, max_size=4))
    def try_what_is_not_allowed(self, owner: str, blocks: list[int]) -> None:
        twice = len(set(blocks)) < len(blocks)
        if twice or any(self.owned.get(block) != owner for block in blocks):
            for refused in (self.pool.release, self.pool.fence):
                with pytest.raises(OwnershipError):
                    refused(blocks, owner)
        if twice or any(self.fenced.get(block) != owner for block in blocks):
            with pytest.raises(OwnershipError):
                self.pool.unfence(blocks, owner)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def free_twice(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.owned)))
        owner = self.owned.pop(block)
        self.pool.release([block], owner)
        self.free.append(block)
        with pytest.raises(OwnershipError, match=f"block {block} is not owned by {owner}"):
            self.pool.release([block], owner)

    @staticmethod
    def _some_of(holders: dict[int, str], owner: str, data: st.DataObject) -> list[int]:
        mine = [block for block, holder in holders.items() if holder == owner]
        return data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []

    @invariant()
    def partition(self) -> None:
        pool = self.pool
        for block in range(pool.blocks):
            assert pool.owner(block) == self.owned.get(block)
            assert pool.fenced_for(block) == self.fenced.get(block)
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
    pool.fence([0], "a")
    pool.release([1], "a")
    assert pool.allocate(2, "b") is None
    pool.unfence([0], "a")
    assert pool.allocate(2, "b") == (1, 0)


def test_a_block_named_twice_is_refused() -> None:
    """Freed twice it would be handed out twice."""
    pool = BlockPool(2)
    pool.allocate(2, "a")
    for refused in (pool.release, pool.fence):
        with pytest.raises(OwnershipError, match="name a block twice"):
            refused([0, 0], "a")
    assert (pool.free, pool.fenced, pool.owner(0)) == (0, 0, "a")
    pool.fence([0], "a")
    with pytest.raises(OwnershipError, match="name a block twice"):
        pool.unfence([0, 0], "a")
    assert (pool.free, pool.fenced) == (0, 1)
