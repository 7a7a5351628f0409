"""The phases of a room as data: the rows of a table.

A room is in one phase of its side's table at any time. A *step* is a decision of the core about one room: the row of
the room's phase says where it leads, and a step that has no place in the row raises IllegalStepError and changes
nothing. Entering a phase arms the timer of its row, or disarms whatever timer ran before. So no timer outlives its
phase, and none can be forgotten where the table has one.

A rank of the language side that notes a failure does not change the room's phase. The group's next iteration ends the
room, and until then the group's decisions carry it on like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


class Phase(Enum):
    """Where a room is on one rank; each side has its own."""

    __hash__ = object.__hash__  # Enum's own runs in Python, and phases are looked up at every step


class Step(Enum):
    """What a core decides about one room; each side has its own."""

    __hash__ = object.__hash__


class Timer(Enum):
    """How long a phase may last, and what it is for."""

    NONE = "none"
    PHASE = "timeout_s"
    CANCEL_RETRY = "the interval between two Cancels"
    QUARANTINE = "the quarantine"


class Row(NamedTuple):
    """What the table says about one phase.

    ``what``: what a rank does in it, as in "timed out while …". ``timer``: armed on entering the phase, for one stay.
    ``takes``: the names of the inputs about the room that change something; others are counted and ignored. ``steps``:
    where each step leads. ``runs_on``: the steps that leave the timer running as it is, because the next phase is the
    rest of the same wait. ``over``: the room is concluded on this rank, its group decides nothing more about it.
    """

    what: str
    timer: Timer
    takes: tuple[str, ...]
    steps: Mapping[Step, Phase]
    runs_on: frozenset[Step] = frozenset()
    over: bool = False


Table = Mapping[Phase, Row]


def in_words(name: Phase | Step) -> str:
    """A phase or a step as text."""
    return name.name.lower().replace("_", " ")
