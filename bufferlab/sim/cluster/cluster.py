"""The rank cores on the virtual clock: scheduler loops that poll, control messages, transfer workers, passes.

The cores decide, the simulator only says *when*. A rank has independent actors, as the real one has threads:

* the *scheduler loop* of its group (``iterations``). Iterations lie on a grid of the loop's period. An iteration that
  does work (encoder pass, gather copies and prefill) lasts as long as the work if that is longer than the period, and a
  new grid starts where it ends. Whatever arrives meanwhile is seen at the next iteration, or at this one if it arrives
  at the same moment.
* the *control thread* (``messages``): a message reaches the core ``control_latency_s`` after it was sent, whatever the
  loop does, unless the threads share the processors of a host.
* the *transfer workers* of an encode rank. Where writes may share adapters, the ``network`` says when a write ends;
  where they cannot, its end is known when it is queued.

Before a request reaches the encode ranks (``requests``), a processor of their instance prepares its images.

The host (``host``) says how much processor time the threads need for all this: ``dedicated`` processors charge nothing,
and on a ``shared`` host threads wait for each other.

Idle loops cost nothing: an iteration that would find what the last one found is not held. That changes no result,
because an iteration is a function of what it finds, and leaves the grid as it is.

What goes wrong is not decided here either: wherever something may go wrong, a ``faults.Faults`` is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.lifecycle import Instances
from bufferlab.protocol.messages import StartWrite
from bufferlab.protocol.observe.deadlock import Deadlock
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.recording import Recorder
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.clock import Clock
from bufferlab.sim.cluster.dedicated import DedicatedProcessors
from bufferlab.sim.cluster.group import Core
from bufferlab.sim.cluster.iterations import Iterations
from bufferlab.sim.cluster.messages import Messages
from bufferlab.sim.cluster.processes import Processes
from bufferlab.sim.cluster.requests import Concluded, Requests
from bufferlab.sim.cluster.shared import SharedHost
from bufferlab.sim.cluster.state import State
from bufferlab.sim.cluster.timers import Timers
from bufferlab.sim.faults import Faults, Watcher
from bufferlab.sim.host.spread import Draws
from bufferlab.sim.network.adapters import Network
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.network.transfer import TransferWorker


class Cluster:
    """All ranks of a scenario on one clock, on the host that the link profile asks for.

    ``on_concluded(1)`` is called whenever one more request is concluded on all of its ranks.
    ``faults`` decides what goes wrong besides the scenario's own failed writes; None for nothing.
    ``draws(name)``: the stream from which varying durations on a shared host are drawn; None: they do not vary.
    Raises ValueError for a scenario that cannot be built.
    """

    def __init__(
        self,
        scenario: Scenario,
        link: LinkProfile,
        clock: Clock,
        recorder: Recorder | None = None,
        on_concluded: Callable[[int], None] | None = None,
        faults: Faults | None = None,
        draws: Draws | None = None,
    ) -> None:
        self.scenario = scenario
        self.link = link
        self.clock = clock
        self._state = state = State(scenario, link, clock, recorder, faults)
        self.host: DedicatedProcessors | SharedHost
        self.host = host = DedicatedProcessors(state) if link.host is None else SharedHost(state, draws)
        self.requests = Requests(state, host, on_concluded)
        self.timers = Timers(state, host, self.requests)
        self.messages = Messages(state, host, self.requests, self.timers)
        self.iterations = Iterations(state, host, self.timers, self.messages)
        host.begin(self.requests, self.messages, self.iterations)
        self._processes = Processes(state, host, self.requests, self.messages)
        self._adapters_before_s = 0.0
        if faults is not None:
            faults.begin(self)

    # --- questions ---

    @property
    def network(self) -> Network | None:
        """The model of the adapters; None if two writes can never be on the same adapter at a time."""
        return self._state.network

    @property
    def instances(self) -> Instances:
        """Which instances take requests."""
        return self._state.instances

    @property
    def copied_s(self) -> float:
        """When the last of the copies and prefills begun so far ends."""
        return self._state.copied_s

    @property
    def untold(self) -> int:
        """How many details happened so far of which no recorder was told (see ``protocol.recording``)."""
        return self._state.untold + sum(core.untold for core in self._state.living)

    @property
    def unfinished(self) -> int:
        """Requests that were submitted and not yet concluded on all of their ranks."""
        return len(self.requests.outcomes)

    @property
    def cores(self) -> list[Core]:
        """The cores of all ranks, encode ranks first."""
        return [rank.core for rank in self._state.ranks.values()]

    @property
    def empty(self) -> bool:
        """Whether no core of a living process remembers a room."""
        return not any(core.rooms for core in self._state.living)

    def adapters_s(self) -> float | None:
        """How long adapters worked since ``forget_adapters``, the mean over the busier direction; None if not known."""
        if not self.link.contended:
            return None
        if self.network is None:
            # One instance writes, a rank at a time to each of its destinations: no receiver has more than its sender.
            workers = [worker for rank in self._state.ranks.values() for worker in rank.workers]
            works_s = [one.work_s for one in workers if isinstance(one, TransferWorker)]
            writing = [work_s for work_s in works_s if work_s]
            if not works_s:
                return None
            return (sum(writing) / len(writing) if writing else 0.0) - self._adapters_before_s
        means_s = [0.0]
        for direction in ("send", "receive"):
            nodes = [one for one in self.network.statistics() if one.direction == direction]
            if nodes:
                means_s.append(sum(one.work_s for one in nodes) / len(nodes))
        return max(means_s) - self._adapters_before_s

    def forget_adapters(self) -> None:
        """Count the work of the adapters from now on."""
        self._adapters_before_s += self.adapters_s() or 0.0

    def leftovers(self) -> list[str]:
        """One sentence for every living rank that still has a room or lacks a block; empty after a clean run."""
        found = []
        for core in self._state.living:
            pool = core.pool
            if core.rooms or pool.free != pool.blocks:
                found.append(
                    f"{core.rank_id} remembers {len(core.rooms)} rooms and has {pool.free} of {pool.blocks} blocks "
                    f"free, {pool.fenced} fenced"
                )
        return found

    def ended(self) -> frozenset[RankId]:
        """Ranks whose processes have ended and were not replaced."""
        return frozenset(rank_id for rank_id, rank in self._state.ranks.items() if rank.gone)

    def is_lost(self, write: StartWrite) -> bool:
        """Whether the memory that a write goes to is not there any more, because its process has ended."""
        return self.requests.is_lost(write)

    def note_rest(self) -> None:
        """The run is over: record what waits for the end of a copy."""
        self._state.note_due(inf)

    def look_for_deadlock(self) -> Deadlock | None:
        """The deadlock that rooms are in now; see ``Timers``, which keeps those that were found."""
        return self.timers.look_for_deadlock()

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher(rank, input, actions)`` of everything that the cores are given and ask for from now on."""
        self._processes.watch(watcher)

    # --- what can be done to it ---

    def feed(self, requests: Iterator[Request]) -> None:
        """Submit ``requests`` at their times; see ``Requests.feed``."""
        self.requests.feed(requests)

    def submit(self, request: Request, concluded: Concluded | None = None) -> None:
        """Submit a request now, whatever time it has. ``concluded(served)`` is called when it is over on all ranks.

        Raises ValueError for an instance that is not there.
        """
        self.requests.submit_now(request, concluded)

    def give(self, target: RankId, event: object) -> None:
        """Hand a message, or any other input but an iteration, to a rank now."""
        self.messages.give(target, event)

    def refuse(self, rank_id: RankId, key: RoomKey, reason: str) -> None:
        """A request never gets to a rank: its process ended before, or nobody is to have it."""
        self.requests.refuse(rank_id, key, reason)

    def end_processes(self, side: Side, instance: int) -> None:
        """End all processes of an instance now. Their rooms and their memory are gone; no peer hears of it by this."""
        self._processes.end(side, instance)

    def start_processes(self, side: Side, instance: int) -> None:
        """Start an instance anew after ``end_processes``: same names, new memory, nothing known. Nobody is told."""
        self._processes.start(side, instance)
