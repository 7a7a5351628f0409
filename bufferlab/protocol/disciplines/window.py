"""A room's own blocks for chunk after chunk."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from bufferlab.protocol.disciplines.base import Discipline, ResumeGrant


@mypyc_attr(allow_interpreted_subclasses=True)
class Window(Discipline):
    """Reuse the room's own blocks for chunk after chunk; grow only into free blocks, never wait. The default."""

    name = "window"

    def resume(self, held: int, remaining: int, free: int) -> ResumeGrant | None:
        """Always proceed with what is held, so nobody ever waits while holding."""
        keep = min(held, remaining)
        return ResumeGrant(keep, min(remaining - keep, max(free, 0)))
