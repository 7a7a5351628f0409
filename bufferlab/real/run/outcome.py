"""What a measured run leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.recording import Record
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId
from bufferlab.real.control.clocks import Clock
from bufferlab.real.control.guard import Refusal
from bufferlab.real.control.route import Route
from bufferlab.real.engine.proof import TransportProof
from bufferlab.real.run.usage import Usage


class Conclusion(msgspec.Struct, frozen=True):
    """How a request ended on one rank, at ``time_s`` of the run by the router's clock.

    ``status``: Success or Failed; None when the rank's process ended first, or the router refused the request because
    one of its instances was not up (then ``rank_id`` is None).
    """

    time_s: float
    room: int
    incarnation: int
    rank_id: RankId | None
    status: Status | None
    reason: str = ""


class Incident(msgspec.Struct, frozen=True):
    """Something that happened to a process, at ``time_s`` of the run."""

    time_s: float
    what: str

    def __str__(self) -> str:
        return f"at {self.time_s:.3f} s: {self.what}"


@dataclass
class RealOutcome:
    """What a measured run leaves. ``records`` are merged over all ranks, in order of time, and may
    be gone through several times; they are read from files.

    ``requests``: those that were submitted, in order; in a closed loop with the times at which they were.
    A process that was killed takes its part of the counts with it. ``rooms_left`` and ``blocks_lost``
    are what should not be there; ``rooms_quarantined`` and ``blocks_fenced`` wait for the end of a quarantine that is
    longer than the run; ``left`` and ``quarantined`` are these rooms, each with its rank. ``deadlocks``: a sentence for
    each, with its time and its rooms. ``frames_dropped``: control
    frames that were damaged; ``messages_stale``: those from or for a process that had ended. ``processes``: all that
    took part, restarted ones with a higher generation. ``clocks``: of the ranks' hosts against the router's, whose time
    all records are in. ``memory``: where the blocks of each rank lay. ``usage`` and ``router_usage``: where the
    processor time of each rank's last process went, and of the router's; without those that were killed, and None where
    the kernel does not say. ``refused``: who came to a port of the run and did not hold its token.
    ``faults``: a sentence for everything that went wrong with processes and was not in the plan. ``ended_early``: why
    requests were not handed out any more, if so. ``violations``: a sentence for every rank that is not empty at the
    end: rooms left, blocks missing, embeddings that were delivered and not compared. ``cut_short``: ranks that were
    killed unplanned, so that their last records may be missing.
    """

    records: Iterable[Record]
    proof: TransportProof
    verified_rooms: int
    verified_bytes: int
    mismatches: list[str]
    rooms_left: int
    blocks_lost: int
    end_s: float
    deadlocks: tuple[str, ...] = ()
    conclusions: list[Conclusion] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    rooms_quarantined: int = 0
    left: frozenset[tuple[int, RankId]] = frozenset()
    quarantined: frozenset[tuple[int, RankId]] = frozenset()
    blocks_fenced: int = 0
    frames_dropped: int = 0
    messages_stale: int = 0
    processes: list[Route] = field(default_factory=list)
    clocks: dict[RankId, Clock] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    memory: dict[RankId, str] = field(default_factory=dict)
    usage: dict[RankId, Usage] = field(default_factory=dict)
    router_usage: Usage | None = None
    refused: list[Refusal] = field(default_factory=list)
    faults: tuple[str, ...] = ()
    ended_early: str = ""
    violations: tuple[str, ...] = ()
    cut_short: frozenset[RankId] = frozenset()

    @property
    def deadlock(self) -> bool:
        """Whether rooms were seen to wait for each other for ever."""
        return bool(self.deadlocks)

    @property
    def wrong(self) -> list[str]:
        """A sentence for everything that must not be in a run, whatever was planned for it."""
        return [*self.faults, *self.violations, *self.mismatches]

    @property
    def failed_rooms(self) -> set[int]:
        """Rooms that did not succeed on all of their ranks."""
        return {one.room for one in self.conclusions if one.status is not Status.Success}

    @property
    def succeeded_rooms(self) -> set[int]:
        """Rooms that every one of their ranks concluded with Success."""
        return {one.room for one in self.conclusions} - self.failed_rooms

    def concluded_s(self, rooms: set[int]) -> float:
        """When the last of ``rooms`` was concluded everywhere; 0 for none."""
        return max((one.time_s for one in self.conclusions if one.room in rooms), default=0.0)
