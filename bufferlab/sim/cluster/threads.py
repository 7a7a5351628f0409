"""The threads of all ranks on a host that they share, and the durations that vary from one time to the next.

Durations vary by factors that are drawn from streams of their own, named by what they are for and by the process, so
that a process that is started anew under a rank's name draws other durations than the last one did.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, final

from bufferlab.protocol.topology import RankId
from bufferlab.sim.clock import Clock
from bufferlab.sim.cluster.group import Group, Rank
from bufferlab.sim.host.costs import HostCosts
from bufferlab.sim.host.processors import SharedProcessors, Thread
from bufferlab.sim.host.spread import Draws, Spread, quantile
from bufferlab.sim.streams import stream

if TYPE_CHECKING:
    from numpy.random import Generator


@final
class Threads:
    """One for every rank, one for the router; ``of`` finds a rank's. ``draws``: always the same if None."""

    def __init__(self, clock: Clock, host: HostCosts, wakeup_s: float, draws: Draws | None) -> None:
        self.processors = SharedProcessors(clock, host.processors)
        self.router = Thread(self.processors)
        self.of: dict[Rank, Thread] = {}
        self._host = host
        self._asleep_after_s = host.asleep_after_s
        self._nap_wakeup_s = host.nap_wakeup_s
        self._collective_quantiles_s = host.collective_quantiles_s
        self._wakeup_s = wakeup_s
        self._draws: Draws = draws or _unseeded
        self.submissions = Spread(host.submit_spread, self._draws, "submissions")
        self.messages: dict[Rank, Spread] = {}
        self.copies: dict[Rank, Spread] = {}
        self._wakeups: dict[Group, Spread] = {}
        self._lengths: dict[Group, Generator] = {}
        self._processes: Counter[RankId] = Counter()  # that have been started under each name

    # --- processes ---

    def writes(self, rank_id: RankId, number: int) -> Spread:
        """The factors of one transfer worker's writes, in the process that is about to start."""
        name = f"writes of {rank_id}" if not number else f"writes of {rank_id} by worker {number}"
        return Spread(self._host.write_spread, self._draws, _of_process(name, self._processes[rank_id]))

    def add(self, rank: Rank) -> None:
        """A process has started."""
        rank_id = rank.core.rank_id
        self.of[rank] = Thread(self.processors)
        generation = self._processes[rank_id]
        self._processes[rank_id] += 1
        messages, copies = (_of_process(f"{what} {rank_id}", generation) for what in ("messages to", "copies of"))
        self.messages[rank] = Spread(self._host.control_spread, self._draws, messages)
        self.copies[rank] = Spread(self._host.copy_spread, self._draws, copies)

    def _name(self, what: str, group: Group) -> str:
        name = f"{what} of {group.side.value}{group.instance}"
        return _of_process(name, self._processes[group.cores[0].rank_id] - 1)

    # --- what a group's threads do together ---

    def asleep(self, group: Group) -> set[Rank]:
        """The ranks whose threads sleep soundly."""
        return {rank for rank in group.ranks if self.of[rank].idle_s >= self._asleep_after_s}

    def late_s(self, group: Group, work_s: float) -> float:
        """How much later than it was due, and is due now, a loop comes round or notices that a pass is over.

        Not at all if its threads have something to do. The latency ends with an event that the thread notes when it has
        worked for ``work_s``, which comes on top.
        """
        idle_s = 0.0
        for rank in group.ranks:
            idle_s = max(idle_s, self.of[rank].idle_s)
        if idle_s < self._asleep_after_s:
            return max(0.0, self._nap_wakeup_s - work_s) if idle_s else 0.0
        if group not in self._wakeups:
            self._wakeups[group] = Spread(self._host.wakeup_spread, self._draws, self._name("wake-ups", group))
        return max(0.0, self._wakeups[group].draw() * self._wakeup_s - work_s)

    def collective_s(self, group: Group) -> float:
        """How long the group's next all-reduce takes."""
        if group not in self._lengths:
            self._lengths[group] = self._draws(self._name("all-reduces", group))
        return quantile(self._collective_quantiles_s, float(self._lengths[group].random()))


def _of_process(name: str, generation: int) -> str:
    return name if not generation else f"{name}, process {generation}"


def _unseeded(name: str) -> Generator:
    return stream(0, 0, "host", name)
