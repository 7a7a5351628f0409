"""The status of a room and the four rules it obeys.

1. A status only rises, along the literal table ``LEGAL`` below; Failed may follow anything unfinished.
2. Success and Failed are final *by construction*: their row in the table is empty. No numeric maximum decides.
3. A resume never lowers a status. An offer is a resume when ``sent_tokens > 0``, and nothing else marks it.
4. The status after a finished chunk depends on two facts: whether the chunk is the last one, and whether all
   destination ranks hold it (see ``chunk_status``).

The numbers are the specification's. SGLang numbers the same statuses differently on the wire; only ``codec`` knows
that, and translates.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from bufferlab.protocol.errors import IllegalTransitionError


class Status(IntEnum):
    """Where a room's transfer stands on one rank."""

    Bootstrapping = 0
    WaitingForInput = 1
    Transferring = 2
    Success = 3
    Failed = 4

    __hash__ = int.__hash__  # Enum's own runs in Python, and statuses are looked up at every step


LEGAL: Final[dict[Status, frozenset[Status]]] = {
    Status.Bootstrapping: frozenset({Status.WaitingForInput, Status.Failed}),
    Status.WaitingForInput: frozenset({Status.Transferring, Status.Success, Status.Failed}),
    # Transferring may repeat: every further partial chunk confirms it.
    Status.Transferring: frozenset({Status.Transferring, Status.Success, Status.Failed}),
    Status.Success: frozenset(),
    Status.Failed: frozenset(),
}

FINAL: Final = frozenset({Status.Success, Status.Failed})


def advance(current: Status, new: Status) -> Status:
    """Return ``new`` if the table allows the step from ``current``, else raise IllegalTransitionError."""
    if new not in LEGAL[current]:
        allowed = ", ".join(status.name for status in sorted(LEGAL[current])) or "nothing, it is final"
        raise IllegalTransitionError(f"{current.name} may not become {new.name}; allowed: {allowed}")
    return new


def chunk_status(*, is_last: bool, all_hold: bool) -> Status:
    """The status a finished chunk gives its room.

    ``is_last``: the chunk ends at the last token (derived, ``sent + chunk == total``, never guessed).
    ``all_hold``: every destination rank holds the chunk.
    """
    if not all_hold:
        return Status.Failed
    return Status.Success if is_last else Status.Transferring


def is_resume(sent_tokens: int) -> bool:
    """Whether an offer continues an earlier transfer. ``sent_tokens`` is the only mark of a resume."""
    return sent_tokens > 0


def group_status(statuses: Iterable[Status]) -> Status:
    """The status of a tensor-parallel group: any Failed makes it Failed, else the slowest rank decides.

    Raises ValueError for an empty group.
    """
    members = list(statuses)
    if not members:
        raise ValueError("a group has at least one rank")
    return Status.Failed if Status.Failed in members else min(members)
