"""Copy out and free before waiting."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from bufferlab.protocol.disciplines.base import Discipline, ResumeGrant


@mypyc_attr(allow_interpreted_subclasses=True)
class FreeThenAlloc(Discipline):
    """Copy out, free, then ask for all the rest."""

    name = "free_then_alloc"
    releases_before_waiting = True
    may_deadlock = True
    one_resume = True

    def resume(self, held: int, remaining: int, free: int) -> ResumeGrant | None:
        """Wait until all of ``remaining`` is free; nothing is held meanwhile."""
        return ResumeGrant(0, remaining) if free >= remaining else None

    def refusal(self, *, first: int, remaining: int, pool: int) -> str:
        """The rest alone must fit."""
        return f"it needs {remaining} more blocks, the pool has {pool}" if remaining > pool else ""

    @classmethod
    def serves(cls, blocks: int, *, first: int, pool: int, new: int) -> bool:
        """What is left after the default must fit into the pool."""
        return blocks - first <= pool
