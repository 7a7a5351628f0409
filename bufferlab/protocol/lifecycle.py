"""What follows when processes end and come back: one rule, which the simulator and the real router both keep.

* The ranks of an instance live and die together, as they do where they share a model. Without one of them the others
  can agree on nothing, so they end as well; whoever has not gone by itself after ``MEMBER_GRACE_S`` is ended.
* What was on a process, or on its way to it, fails with it (``PROCESS_ENDED``): its client sees the connection break.
* Every rank of the other side is told of every one of the processes: that it is down, when heartbeats have failed or
  when a new process registers under its name, whichever is first; then, if there is a new one, that it is back.
* A request is for all ranks of two instances. While one of these is not up it is refused on *all* of their ranks, at
  once: a rank of the side that is up would only set memory aside for somebody who is not there, and keep it fenced
  until a quarantine ends.
* An instance is up when all of its ranks are. What ends the processes of an instance that is not up changes nothing,
  and only an instance that is being restarted comes back.
"""

from __future__ import annotations

from collections.abc import Iterator

from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side

PROCESS_ENDED = "its process ended"

MEMBER_GRACE_S = 0.5
"""How long the other ranks of an instance have to leave by themselves when one of them has ended: they notice in their
next iteration, but not in the middle of a pass. The simulator's end at once."""

Instance = tuple[Side, int]
"""A serving replica of one side."""


class Instances:
    """Which instances take requests, as whoever hands them out knows it. At first all do."""

    __slots__ = ("_down",)

    def __init__(self) -> None:
        self._down: set[Instance] = set()

    def up(self, instance: Instance) -> bool:
        """Whether the instance takes requests."""
        return instance not in self._down

    def end(self, instance: Instance) -> bool:
        """A process of the instance has ended, and the others with it. False, and nothing changed, if it was not up."""
        if instance in self._down:
            return False
        self._down.add(instance)
        return True

    def start(self, instance: Instance) -> None:
        """All ranks of the instance are there again."""
        self._down.discard(instance)

    def refusal(self, *instances: Instance) -> str:
        """Why a request for these is refused, on all of their ranks; empty when it is not."""
        if not self._down:
            return ""
        down = [f"{side.value}{number}" for side, number in instances if (side, number) in self._down]
        return f"refused: {' and '.join(down)} {'are' if len(down) > 1 else 'is'} down" if down else ""


def instance_of(rank_id: RankId) -> Instance:
    """The instance that a rank is of."""
    return rank_id.side, rank_id.instance


def life_of_the_lost(reason: str) -> Iterator[tuple[Event, Status, str]]:
    """What is recorded on a rank of a request that it never got: event, status and detail."""
    yield Event.SUBMITTED, Status.Bootstrapping, ""
    yield Event.FAILED, Status.Failed, reason
    yield Event.RELEASED, Status.Failed, reason
