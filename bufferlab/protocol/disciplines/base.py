"""What a discipline decides, and what it claims about itself."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Final, Self, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.errors import ProtocolError
from bufferlab.protocol.values import Value


@mypyc_attr(free_list_len=1)
@final
class ResumeGrant(Value):
    """Blocks of the next chunk: ``keep`` of the room's own, in order, and ``take`` new ones."""

    __match_args__: Final = ("keep", "take")

    def __init__(self, keep: int, take: int) -> None:
        self.keep: Final = keep
        self.take: Final = take


@mypyc_attr(allow_interpreted_subclasses=True)  # a user may write others, which are not compiled
class Discipline(ABC):
    """The base of all disciplines; all counts are language-side blocks.

    The attributes that come first are its claims. The checker, the wires and the figures ask for claims and not for
    names, and the checker finds out a discipline that claims ``may_deadlock = False`` and deadlocks.
    """

    name: ClassVar[str]
    """What a configuration calls it."""
    announces_length: ClassVar[bool] = False
    """Whether the encode side announces a request's length before the language side takes blocks for it."""
    resumes: ClassVar[bool] = True
    """Whether a room whose first chunk was too small goes on with another."""
    releases_before_waiting: ClassVar[bool] = False
    """Whether a room copies its chunk out and returns its blocks before it waits for more."""
    may_deadlock: ClassVar[bool] = False
    """Whether rooms can wait for each other for ever, so that only their timers end them."""
    asks_policy: ClassVar[bool] = True
    """Whether a sizing policy decides what a new room asks for when the length is not announced."""
    one_resume: ClassVar[bool] = False
    """Whether a room resumes at most once, for all that is missing; the SGLang wire allows no more."""
    waits_holding: ClassVar[bool] = False
    """Whether a room keeps old blocks while it waits for the new ones that replace them: the pool must hold both."""
    has_slots: ClassVar[bool] = False
    """Whether the pool is cut into slots of one size, which a configuration gives instead of a policy."""

    @classmethod
    def made(cls, slot_blocks: int | None) -> Self:
        """Make the discipline of one run; only disciplines that have slots use ``slot_blocks``."""
        return cls()

    @classmethod
    def serves(cls, blocks: int, *, first: int, pool: int, new: int) -> bool:
        """Whether a request of ``blocks``, alone and with nothing going wrong, is delivered.

        ``first``: blocks that it takes at first; ``new``: how many of the ``pool`` new rooms may take, the rest being a
        reserve. This method is written independently of those below, so that the checker can compare them.
        """
        return True

    def first_blocks(self, asked: int, pool: int) -> int:
        """Blocks a new room takes when the sizing policy asks for ``asked`` in a pool of ``pool``."""
        return max(1, min(asked, pool))

    def resume(self, held: int, remaining: int, free: int) -> ResumeGrant | None:
        """What a room that holds ``held`` blocks and lacks ``remaining`` takes now; None to wait.

        Raises ProtocolError for a discipline whose ``resumes`` is False.
        """
        raise ProtocolError(f"{self.name} does not resume")

    def refusal(self, *, first: int, remaining: int, pool: int) -> str:
        """Why a room that took ``first`` blocks can never get ``remaining`` more; empty when it can."""
        return ""
