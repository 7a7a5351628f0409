"""One size for everybody."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from bufferlab.protocol.disciplines.base import Discipline


@mypyc_attr(allow_interpreted_subclasses=True)
class Slot(Discipline):
    """A slot for everybody, of one size in the whole pool: the largest embedding that is to be served.

    Never too small for those, mostly empty. Nobody asks the sizing policy, so nothing that it sees or learns of a
    request changes a slot; ``default_fail`` does ask it. ``slot_blocks``: the size; None for the whole pool.
    """

    name = "slot"
    resumes = False
    one_resume = True
    asks_policy = False
    has_slots = True

    @classmethod
    def made(cls, slot_blocks: int | None) -> Slot:
        """One whose slots have ``slot_blocks`` blocks."""
        return cls(slot_blocks)

    def __init__(self, slot_blocks: int | None = None) -> None:
        self.slot_blocks = slot_blocks

    def first_blocks(self, asked: int, pool: int) -> int:
        """One slot, whatever is ``asked``; a pool that is smaller is one slot."""
        return pool if self.slot_blocks is None else min(self.slot_blocks, pool)

    @classmethod
    def serves(cls, blocks: int, *, first: int, pool: int, new: int) -> bool:
        """What fits into a slot."""
        return blocks <= first
