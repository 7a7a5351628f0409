"""Nothing is taken before the length is known."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from bufferlab.protocol.disciplines.base import Discipline


@mypyc_attr(allow_interpreted_subclasses=True)
class ExactAnnounce(Discipline):
    """The encode side announces the length; the language side then takes exactly that. Upstream's way."""

    name = "exact_announce"
    announces_length = True
    resumes = False

    def first_blocks(self, asked: int, pool: int) -> int:
        """``asked`` is exact here and may not be cut; ``refusal`` has seen to it that it fits."""
        return asked

    def refusal(self, *, first: int, remaining: int, pool: int) -> str:
        """The whole request must fit at once."""
        return f"it needs {remaining} blocks, the pool has {pool}" if remaining > pool else ""

    @classmethod
    def serves(cls, blocks: int, *, first: int, pool: int, new: int) -> bool:
        """What fits into what new rooms may take."""
        return blocks <= new
