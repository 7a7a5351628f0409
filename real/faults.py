"""What is made to go wrong in a measured run, as data: at this time, or at the first write of that room, do this to it.

Nothing here imitates a fault. Processes are killed, stopped and started again by the launcher with the operating
system's own signals; a frame is damaged on its way into the socket; a registration is refused by the registry or by
the engine itself. What follows is the ordinary code's business.

The ranks of an instance live and die together, as they do where they share a model: when one has ended, the others
cannot agree on anything any more, leave as well, and only the whole instance can be started again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from protocol.topology import RankId, Side


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag="kill"):
    """End the rank's process with SIGKILL, at ``time_s`` of the run or when a write of room ``on_write_of`` begins."""

    rank: RankId
    time_s: float | None = None
    on_write_of: int | None = None


class Pause(msgspec.Struct, frozen=True, kw_only=True, tag="pause"):
    """Stop the rank's process with SIGSTOP and let it go on with SIGCONT ``lasts_s`` later."""

    rank: RankId
    lasts_s: float
    time_s: float | None = None
    on_write_of: int | None = None


class Restart(msgspec.Struct, frozen=True, kw_only=True, tag="restart"):
    """Kill all processes of an instance; ``down_s`` later start new ones under their names, with ports and memory of
    their own. ``down_s`` counts to the start, which itself takes some seconds."""

    side: Side
    instance: int
    down_s: float
    time_s: float | None = None
    on_write_of: int | None = None


class CorruptFrame(msgspec.Struct, frozen=True, kw_only=True, tag="corrupt_frame"):
    """Damage one bit of the first ``message`` (its class's name) about ``room`` that ``sender`` sends."""

    sender: RankId
    room: int
    message: str


class RefuseRegistration(msgspec.Struct, frozen=True, kw_only=True, tag="refuse_registration"):
    """Refuse the entry of the rank's process in the registries (``what`` is "route") or that of its memory in its
    engine ("memory"). ``generation``: which of the rank's processes, 0 for the first."""

    rank: RankId
    what: Literal["route", "memory"] = "route"
    generation: int = 0


ProcessFault = Kill | Pause | Restart
"""Done by the launcher, from outside."""

RankFault = CorruptFrame | RefuseRegistration
"""Done within a rank's process."""

RealFault = ProcessFault | RankFault


def check_plan(plan: Iterable[RealFault], ranks: Sequence[RankId], rooms: Iterable[int]) -> None:
    """Raise ValueError, one sentence, for a fault of a rank or room that is not there, or with an impossible time."""
    known_rooms = set(rooms)
    for fault in plan:
        name = type(fault).__name__
        if isinstance(fault, Restart):
            if not any((rank.side, rank.instance) == (fault.side, fault.instance) for rank in ranks):
                raise ValueError(f"{name}: {fault.side.value}{fault.instance} is not an instance of this run")
        elif (named := fault.sender if isinstance(fault, CorruptFrame) else fault.rank) not in ranks:
            raise ValueError(f"{name}: {named} is not a rank of this run, which has {', '.join(map(str, ranks))}")
        if isinstance(fault, CorruptFrame):
            if fault.room not in known_rooms:
                raise ValueError(f"{name}: room {fault.room} is not a request of this run")
            continue
        if isinstance(fault, RefuseRegistration):
            continue
        if (fault.time_s is None) == (fault.on_write_of is None):
            raise ValueError(f"{name}: give exactly one of time_s and on_write_of")
        if fault.time_s is not None and not fault.time_s >= 0:
            raise ValueError(f"{name}: time_s is {fault.time_s}, it must not be negative")
        if fault.on_write_of is not None and fault.on_write_of not in known_rooms:
            raise ValueError(f"{name}: room {fault.on_write_of} is not a request of this run")
        lasts_s = fault.lasts_s if isinstance(fault, Pause) else fault.down_s if isinstance(fault, Restart) else 0.0
        if not lasts_s >= 0:
            raise ValueError(f"{name}: it lasts {lasts_s} s, which must not be negative")


def rank_faults(plan: Iterable[RealFault]) -> tuple[RankFault, ...]:
    """The faults that ranks do to themselves."""
    return tuple(fault for fault in plan if isinstance(fault, CorruptFrame | RefuseRegistration))


def announced_writes(plan: Iterable[RealFault]) -> tuple[int, ...]:
    """Rooms whose writes some fault waits for."""
    waiting = (fault for fault in plan if isinstance(fault, Kill | Pause | Restart))
    return tuple(sorted({fault.on_write_of for fault in waiting if fault.on_write_of is not None}))
