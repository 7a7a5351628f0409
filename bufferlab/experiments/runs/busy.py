"""How much of a host's processors went to others while something was measured on it.

The kernel counts what every processor did, and what this process and the ones it started spent. What is left of the
busy time is other programs'; *stolen* is time in which a virtual machine's processors wanted to run and its host ran
something else. Both are what a measurement met and a prediction cannot know.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import psutil

TOO_BUSY = 0.10
"""Of the processors' time: what others take beyond this is no noise, it is another host that is measured."""
LEAST_S = 0.5
"""In less time the kernel's clocks tick too seldom to tell whose it was."""


class Busy(NamedTuple):
    """Of all time of the ``processors`` that this process may use, the shares that ``others`` took and that were
    ``stolen``, over ``lasts_s`` seconds."""

    processors: int
    lasts_s: float
    others: float
    stolen: float

    @property
    def taken(self) -> float:
        """What others took in all, inside this machine and around it."""
        return min(self.others + self.stolen, 1.0)

    @property
    def too_busy(self) -> bool:
        """Whether what was measured is not what this host does when it is left alone."""
        return self.lasts_s >= LEAST_S and self.taken > TOO_BUSY

    def __str__(self) -> str:
        by = [f"other programs took {self.others:.0%}"]
        if self.stolen >= 0.005:
            by.append(f"the host of this virtual machine took {self.stolen:.0%}")
        return f"{' and '.join(by)} of the time of this host's {self.processors} processors meanwhile"

    def content(self) -> dict[str, Any]:
        """For a report or a profile."""
        return {**self._asdict(), "too_busy": self.too_busy}


def read_busy(content: Mapping[str, Any] | None) -> Busy | None:
    """What ``Busy.content`` stored; None where nothing is, or something else."""
    try:
        return None if content is None else Busy(*(content[name] for name in Busy._fields))
    except (KeyError, TypeError):
        return None


def together(found: Sequence[Busy]) -> Busy | None:
    """What others took over all of these times; None of none."""
    lasts_s = math.fsum(one.lasts_s for one in found)
    if not lasts_s:
        return None
    others, stolen = (
        math.fsum(one.lasts_s * share for one, share in zip(found, shares, strict=True)) / lasts_s
        for shares in ([one.others for one in found], [one.stolen for one in found])
    )
    return Busy(max(one.processors for one in found), lasts_s, others, stolen)


def told_of_runs(found: Busy | None) -> str:
    """A sentence where others took so much while requests ran that their times are not this host's; else ""."""
    if found is None or not found.too_busy:
        return ""
    return (
        f"this host is busy: {found}, so requests took longer than when it is left alone; for times that hold, measure "
        "again when it is idle"
    )


class Spent(NamedTuple):
    """Processor seconds since the host or the process began; ``at_s`` by the monotonic clock."""

    at_s: float
    busy_s: float
    stolen_s: float
    own_s: float


class BusyWatch:
    """Watches from its making on. Processes that this one started, and those that these started, count as its own."""

    def __init__(self) -> None:
        self._processors = usable()
        self._before = spent(self._processors)

    def so_far(self) -> Busy:
        """What others took until now."""
        return between(self._before, spent(self._processors), len(self._processors))


class Glances:
    """What others took between the first and the last look; nothing is read in between, so nothing is disturbed."""

    def __init__(self) -> None:
        self._processors = usable()
        self._seen: list[Spent] = []

    def look(self) -> None:
        """Read what was spent until now. Only Linux tells it of every process."""
        if sys.platform == "linux":
            self._seen.append(spent(self._processors))

    @property
    def found(self) -> Busy | None:
        """None where nobody looked twice."""
        if len(self._seen) < 2:
            return None
        return between(self._seen[0], self._seen[-1], len(self._processors))


def usable() -> tuple[int, ...]:
    """The processors that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def spent(processors: tuple[int, ...]) -> Spent:
    """What these processors have done so far."""
    import psutil

    each: list[Mapping[str, float]] = [one._asdict() for one in psutil.cpu_times(percpu=True)]
    chosen = [each[number] for number in processors if number < len(each)]
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # What has ended is counted with its parent, and ranks are children of the fork server, which lives on.
    living = psutil.Process().children(recursive=True)
    return Spent(
        at_s=time.monotonic(),
        # Times of guests are in those of user and nice already.
        busy_s=sum(one.get(name, 0.0) for one in chosen for name in ("user", "nice", "system", "irq", "softirq")),
        stolen_s=sum(one.get("steal", 0.0) for one in chosen),
        own_s=sum(one.ru_utime + one.ru_stime for one in own) + sum(map(_of_living, living)),
    )


def _of_living(process: psutil.Process) -> float:
    """Processor seconds of a process and of its children that have ended; 0 if it has ended meanwhile."""
    import psutil

    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def between(before: Spent, now: Spent, processors: int) -> Busy:
    """The shares of what lies between two readings; the kernel's clocks tick, so none is below 0."""
    lasts_s = now.at_s - before.at_s
    whole_s = lasts_s * processors
    if whole_s <= 0:
        return Busy(processors, 0.0, 0.0, 0.0)
    others_s = (now.busy_s - before.busy_s) - (now.own_s - before.own_s)
    return Busy(
        processors, lasts_s, *(min(1.0, max(0.0, one / whole_s)) for one in (others_s, now.stolen_s - before.stolen_s))
    )
