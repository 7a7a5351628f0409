"""What a cluster asks about whatever may go wrong, and what faults know of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.lifecycle import Instances
from bufferlab.protocol.messages import Action, Message, StartWrite
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.clock import Clock

Watcher = Callable[[RankId, object, list[Action]], None]
"""Is told of what a core was given, and of what it asked for."""


class FaultyCluster(Protocol):
    """What faults know of a cluster and do to it."""

    @property
    def scenario(self) -> Scenario:
        """What it runs."""

    @property
    def clock(self) -> Clock:
        """Its time."""

    @property
    def instances(self) -> Instances:
        """Which of its instances take requests."""

    @property
    def cores(self) -> Sequence[EncodeRank | LanguageRank]:
        """The cores of its ranks, encode ranks first."""

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher(rank, input, actions)`` of everything that the cores are given and ask for from now on."""

    def is_lost(self, write: StartWrite) -> bool:
        """Whether the memory that a write goes to is not there any more, because its process has ended."""

    def give(self, target: RankId, event: object) -> None:
        """Hand a message, or any other input but an iteration, to a rank now."""

    def refuse(self, rank_id: RankId, key: RoomKey, reason: str) -> None:
        """A request never gets to a rank."""

    def end_processes(self, side: Side, instance: int) -> None:
        """End all processes of an instance now."""

    def start_processes(self, side: Side, instance: int) -> None:
        """Start an instance anew after ``end_processes``."""


class WriteEnd(msgspec.Struct, frozen=True):
    """How a write ends. ``late_s``: it is reported failed, yet its bytes land that much later; None: it is quiet."""

    ok: bool
    reason: str = ""
    late_s: float | None = None


LANDED = WriteEnd(ok=True)
AT_ONCE = (0.0,)


class Faults:
    """Nothing goes wrong. The cluster asks at the places where something could; subclasses answer otherwise."""

    def begin(self, cluster: FaultyCluster) -> None:
        """The cluster is built and its clock has not started. Whatever happens at a given time is scheduled here."""

    def slowness(self, rank_id: RankId) -> float:
        """How many times longer this rank's writes and its group's iterations take; asked before ``begin``."""
        return 1.0

    def copies(self, sender: RankId, to: RankId, message: Message) -> Sequence[float]:
        """The extra delay, seconds, of every copy of a message that arrives; empty when it is lost."""
        return AT_ONCE

    def admits(self, rank_id: RankId, event: object) -> bool:
        """Whether the rank takes this input now. If not, it is lost, or given again later by whoever refused it."""
        return True

    def ready_s(self, rank_id: RankId) -> float:
        """When the rank can hold an iteration at the earliest: a time, past or future, or never (infinity)."""
        return 0.0

    def write_ends(self, writer: RankId, write: StartWrite) -> WriteEnd:
        """How the write that is over now ended."""
        return LANDED

    def outlives(self, writer: RankId, write: StartWrite) -> float | None:
        """How much later the bytes of a write land whose writer's process has just ended, seconds; None for never."""
        return None

    def landed(self, writer: RankId, write: StartWrite) -> None:
        """The bytes of a write lie at their destination now."""

    def lost(self, rank_id: RankId, key: RoomKey) -> None:
        """A room ended with its rank's process, or never got there because that was down."""
