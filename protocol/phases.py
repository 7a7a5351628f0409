"""The phases of a room as data: the rows of a table, and the table as a rank uses it.

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
from math import inf
from typing import Final, NamedTuple, final


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


@final
class Landing:
    """Where a step leads: the phase, whether the room is over in it, and its timer.

    ``delay_s``: how long the room may stay, inf without a timer. ``runs_on``: whether the timer that runs goes on.
    """

    __slots__ = ("delay_s", "over", "phase", "runs_on")

    def __init__(self, phase: Phase, over: bool, delay_s: float, runs_on: bool) -> None:
        self.phase: Final = phase
        self.over: Final = over
        self.delay_s: Final = delay_s
        self.runs_on: Final = runs_on


def landings(
    table: Table, delays: Mapping[Timer, float | None]
) -> tuple[dict[Phase, dict[Step, Landing]], dict[Phase, float]]:
    """The table as a rank looks things up in it: where each step leads, and how long each phase may last.

    ``delays``: the seconds of each timer, None for one that is off; a phase without a timer may last for ever, inf.
    """
    stays: dict[Phase, float] = {}
    for phase, row in table.items():
        delay_s = delays.get(row.timer)
        stays[phase] = inf if delay_s is None else delay_s
    steps = {
        phase: {step: Landing(to, table[to].over, stays[to], step in row.runs_on) for step, to in row.steps.items()}
        for phase, row in table.items()
    }
    return steps, stays


def in_words(name: Phase | Step) -> str:
    """A phase or a step as text."""
    return name.name.lower().replace("_", " ")
