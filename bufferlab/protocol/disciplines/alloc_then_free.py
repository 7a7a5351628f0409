"""Hold and wait, as the SGLang fork does."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from bufferlab.protocol.disciplines.base import Discipline, ResumeGrant


@mypyc_attr(allow_interpreted_subclasses=True)
class AllocThenFree(Discipline):
    """The SGLang fork's final rule: allocate all the rest, then free the old blocks. Hold-and-wait."""

    name = "alloc_then_free"
    may_deadlock = True
    waits_holding = True
    one_resume = True

    def resume(self, held: int, remaining: int, free: int) -> ResumeGrant | None:
        """Wait until all of ``remaining`` is free, keep nothing."""
        return ResumeGrant(0, remaining) if free >= remaining else None

    def refusal(self, *, first: int, remaining: int, pool: int) -> str:
        """Old and new blocks are held together for a moment, so both must fit."""
        if first + remaining > pool:
            return f"it holds {first} blocks and needs {remaining} more, the pool has {pool}"
        return ""

    @classmethod
    def serves(cls, blocks: int, *, first: int, pool: int, new: int) -> bool:
        """The old blocks and the new ones together are the request, and must fit."""
        return blocks <= pool
