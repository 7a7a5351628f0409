"""What is made to go wrong in a measured run, as data: at this time, or at the first write of that room, do this to it.

Nothing here imitates a fault. Processes are killed, stopped and started again by the launcher with the operating
system's own signals; a frame is damaged on its way into the socket; a registration is refused by the registry or by
the engine itself; a slow rank waits after its work. What follows is the ordinary code's business.

The ranks of an instance live and die together, as they do where they share a model: when one has ended, the others
cannot agree on anything any more, leave as well, and only the whole instance can be started again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, assert_never

import msgspec

from bufferlab.protocol import faults
from bufferlab.protocol.faults import ClientAbort, Death, FalseAlarm, Hang, Incident, Slow
from bufferlab.protocol.topology import RankId, Side


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


class FailWrites(msgspec.Struct, frozen=True, kw_only=True, tag="fail_writes"):
    """Fail these of the writes from ``writer`` to ``destination``, counted from 0 as they begin; none from ``until_s``
    of the run on. ``generation``: of which of the writer's processes, 0 for the first."""

    writer: RankId
    destination: RankId
    numbers: tuple[int, ...]
    until_s: float | None = None
    generation: int = 0


ProcessFault = Kill | Pause | Restart
"""Done by the launcher, from outside."""

RankFault = CorruptFrame | RefuseRegistration | Slow | FailWrites
"""Done within a rank's process."""

RealFault = ProcessFault | RankFault | ClientAbort


def carried_out(incident: Incident) -> RealFault:
    """What is done in a measured run so that ``incident`` happens. Raises ValueError for one that cannot be done."""
    match incident:
        case Death(time_s, rank):
            return Kill(rank=rank, time_s=time_s)
        case faults.Restart(time_s, (side, instance), lasts_s):
            return Restart(side=side, instance=instance, down_s=lasts_s, time_s=time_s)
        case Hang(time_s, rank, lasts_s):
            return Pause(rank=rank, lasts_s=lasts_s, time_s=time_s)
        case Slow() | ClientAbort():
            return incident
        case FalseAlarm():
            raise ValueError(f"a {incident.called} is what {incident.not_measured}")
        case _:
            assert_never(incident)


def check_plan(plan: Iterable[RealFault], ranks: Sequence[RankId], rooms: Iterable[int]) -> None:
    """Raise ValueError, one sentence, for a fault of a rank or room that is not there, or with an impossible time."""
    known_rooms = set(rooms)
    for fault in plan:
        name = type(fault).__name__
        if isinstance(fault, ClientAbort):
            if fault.room not in known_rooms:
                raise ValueError(f"{name}: room {fault.room} is not a request of this run")
            _check_numbers(fault)
            continue
        if isinstance(fault, Restart):
            if not any((rank.side, rank.instance) == (fault.side, fault.instance) for rank in ranks):
                raise ValueError(f"{name}: {fault.side.value}{fault.instance} is not an instance of this run")
        elif (named := _rank_of(fault)) not in ranks:
            raise ValueError(f"{name}: {named} is not a rank of this run, which has {', '.join(map(str, ranks))}")
        if isinstance(fault, CorruptFrame):
            if fault.room not in known_rooms:
                raise ValueError(f"{name}: room {fault.room} is not a request of this run")
            continue
        if isinstance(fault, Slow):
            _check_numbers(fault)
        if isinstance(fault, RefuseRegistration | Slow | FailWrites):
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


def _check_numbers(incident: Incident) -> None:
    for wrong in incident.wrong():
        raise ValueError(f"{type(incident).__name__}: {wrong}")


def _rank_of(fault: Kill | Pause | RankFault) -> RankId:
    """Whose fault it is."""
    if isinstance(fault, CorruptFrame):
        return fault.sender
    return fault.writer if isinstance(fault, FailWrites) else fault.rank


def rank_faults(plan: Iterable[RealFault]) -> tuple[RankFault, ...]:
    """The faults that ranks do to themselves."""
    return tuple(fault for fault in plan if isinstance(fault, RankFault))


def slowness_of(plan: Iterable[RealFault], rank: RankId) -> float:
    """How many times longer the work of a rank takes."""
    return max((one.factor for one in plan if isinstance(one, Slow) and one.rank == rank), default=1.0)


def slowest_of(plan: Iterable[RealFault], side: Side, instance: int) -> float:
    """How many times longer the iterations and passes of an instance take: its slowest rank holds up the others."""
    factors = [one.factor for one in plan if isinstance(one, Slow) and one.rank[:2] == (side, instance)]
    return max(factors, default=1.0)


def announced_writes(plan: Iterable[RealFault]) -> tuple[int, ...]:
    """Rooms whose writes some fault waits for."""
    waiting = (fault for fault in plan if isinstance(fault, ProcessFault))
    return tuple(sorted({fault.on_write_of for fault in waiting if fault.on_write_of is not None}))
