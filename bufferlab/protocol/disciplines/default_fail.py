"""The default or nothing."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from bufferlab.protocol.disciplines.base import Discipline


@mypyc_attr(allow_interpreted_subclasses=True)
class DefaultFail(Discipline):
    """The sizing policy's default for the request and nothing else: if it is longer, it fails."""

    name = "default_fail"
    resumes = False
    one_resume = True

    @classmethod
    def serves(cls, blocks: int, *, first: int, pool: int, new: int) -> bool:
        """What fits into the default."""
        return blocks <= first
