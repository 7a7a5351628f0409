"""Buffer disciplines: how a room acquires, keeps and returns language-side blocks. This is the research variable.

A discipline answers three questions with numbers of blocks, nothing else: how many blocks a new room asks for, what a
room may take for its next chunk, and whether a request can ever be served. The language core does the rest.

| name             | a new room takes       | when the first chunk was too small                | deadlock |
|------------------|------------------------|---------------------------------------------------|----------|
| slot             | a slot, all are alike  | fails                                             | no       |
| default_fail     | the default            | fails                                             | no       |
| alloc_then_free  | the default            | waits for all the rest while holding what it has  | possible |
| free_then_alloc  | the default            | copies out, frees, waits for all the rest         | possible |
| window           | the default            | reuses its own blocks, grows only into free ones  | no       |
| exact_announce   | exactly the length     | cannot happen: encode announces the length first  | no       |
"""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

import msgspec

from protocol.errors import ProtocolError


class ResumeGrant(msgspec.Struct, frozen=True):
    """Blocks of the next chunk: ``keep`` of the room's own, in order, and ``take`` new ones."""

    keep: int
    take: int


class Discipline(ABC):
    """The base of all disciplines; all counts are language-side blocks."""

    name: ClassVar[str]
    announces_length: ClassVar[bool] = False
    resumes: ClassVar[bool] = True
    releases_before_waiting: ClassVar[bool] = False
    may_deadlock: ClassVar[bool] = False
    asks_policy: ClassVar[bool] = True
    """Whether a sizing policy says what a new room asks for, where the length is not announced."""
    one_resume: ClassVar[bool] = False
    """Whether a room resumes at most once, then for all that is missing: the SGLang wire has no more."""

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


class Slot(Discipline):
    """A slot for everybody, of one size in the whole pool: the largest embedding that is to be served.

    Never too small for those, mostly empty. Nobody asks the sizing policy, so nothing that it sees or learns of a
    request changes a slot; ``default_fail`` does ask it. ``slot_blocks``: the size; None for the whole pool.
    """

    name = "slot"
    resumes = False
    one_resume = True
    asks_policy = False

    def __init__(self, slot_blocks: int | None = None) -> None:
        self.slot_blocks = slot_blocks

    def first_blocks(self, asked: int, pool: int) -> int:
        """One slot, whatever is ``asked``; a pool that is smaller is one slot."""
        return pool if self.slot_blocks is None else min(self.slot_blocks, pool)


class DefaultFail(Discipline):
    """The sizing policy's default for the request and nothing else: if it is longer, it fails."""

    name = "default_fail"
    resumes = False
    one_resume = True


class AllocThenFree(Discipline):
    """The SGLang fork's final rule: allocate all the rest, then free the old blocks. Hold-and-wait."""

    name = "alloc_then_free"
    may_deadlock = True
    one_resume = True

    def resume(self, held: int, remaining: int, free: int) -> ResumeGrant | None:
        """Wait until all of ``remaining`` is free, keep nothing."""
        return ResumeGrant(0, remaining) if free >= remaining else None

    def refusal(self, *, first: int, remaining: int, pool: int) -> str:
        """Old and new blocks are held together for a moment, so both must fit."""
        if first + remaining > pool:
            return f"it holds {first} blocks and needs {remaining} more, the pool has {pool}"
        return ""


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


class Window(Discipline):
    """Reuse the room's own blocks for chunk after chunk; grow only into free blocks, never wait. The default."""

    name = "window"

    def resume(self, held: int, remaining: int, free: int) -> ResumeGrant | None:
        """Always proceed with what is held, so nobody ever waits while holding."""
        keep = min(held, remaining)
        return ResumeGrant(keep, min(remaining - keep, max(free, 0)))


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


DISCIPLINES: dict[str, type[Discipline]] = {
    discipline.name: discipline
    for discipline in (Window, ExactAnnounce, AllocThenFree, FreeThenAlloc, DefaultFail, Slot)
}


def make_discipline(name: str, slot_blocks: int | None = None) -> Discipline:
    """The discipline called ``name``; ``slot_blocks`` is for ``slot``. Raises ValueError listing the known ones."""
    if name not in DISCIPLINES:
        raise ValueError(f"unknown discipline {name!r}; known: {', '.join(DISCIPLINES)}")
    return Slot(slot_blocks) if name == Slot.name else DISCIPLINES[name]()
