"""One simulated run: a scenario, its requests and a link profile in; records and an outcome out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec
from numpy.random import Generator

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.recording import Listeners, Recorder
from bufferlab.protocol.topology import RankId
from bufferlab.sim.clock import Clock
from bufferlab.sim.cluster.cluster import Cluster
from bufferlab.sim.faults import Faults
from bufferlab.sim.network.link import LinkProfile

if TYPE_CHECKING:
    from simpy import Environment
    from simpy.events import Event as SimpyEvent

    Processes = Callable[[Environment, Cluster], Iterable[SimpyEvent]]


class SimulationOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to. A request is concluded when it is over on all of its ranks.

    ``adapters_s``: how long the adapters of a rank (or instance) worked: the mean over senders or over receivers,
    whichever is larger; None for a link that nobody shares.

    ``end_s``: virtual time of the last thing that happened. ``deadlocks``: a sentence for every deadlock, when it was
    seen and the rooms in the cycle (see ``protocol.observe.deadlock``); timers may have ended it. ``leftovers``: a
    sentence for every rank that was not empty at the end; ``ended``: ranks whose processes had ended by then, of which
    nothing can be said. ``events``: calls on the virtual clock (one more for a prefill pass of which only a recorder is
    told the end); ``iterations``: those of them that were iterations of a scheduler loop. ``untold``: details that
    happened and of which no recorder was told (see ``protocol.recording``).
    """

    end_s: float
    deadlocks: tuple[str, ...]
    events: int
    iterations: int
    submitted: int
    succeeded: int
    failed: int
    unfinished: int
    bytes_written: int
    bytes_landed: int
    leftovers: tuple[str, ...]
    adapters_s: float | None = None
    ended: frozenset[RankId] = frozenset()
    untold: int = 0

    @property
    def deadlock(self) -> bool:
        """Whether rooms waited for each other for ever."""
        return bool(self.deadlocks)


def simulate(
    scenario: Scenario,
    requests: Iterable[Request],
    link: LinkProfile,
    *,
    recorder: Recorder | None = None,
    run_log: RunLog | None = None,
    progress: Callable[[int], None] | None = None,
    faults: Faults | None = None,
    concurrency: int | None = None,
    announce: Callable[[Request], None] | None = None,
    draws: Callable[[str], Generator] | None = None,
    warmup_requests: int = 0,
    processes: Processes | None = None,
    clock: Clock | None = None,
) -> SimulationOutcome:
    """Run ``requests`` (in order of arrival, pulled one at a time) through ``scenario`` over ``link``.

    With ``concurrency`` the loop is closed: so many requests are begun at the start, and the next one at the moment at
    which one is concluded, whatever times they have. ``announce`` is called with every request just before its
    submission; the request's arrival_s is then the time of that.

    ``draws(name)``: the stream from which varying durations are drawn (see ``sim.host.costs``); None: they do not vary.

    ``warmup_requests``: how many first requests ``adapters_s`` leaves out.

    ``recorder`` and ``run_log`` receive every record in order of time; the run log is told of every request and is
    finished at the end. ``progress(more)`` is called whenever ``more`` further requests are concluded, as in a
    measured run. ``faults`` makes things go wrong. The run ends when every request is concluded and every rank is
    empty, or when nothing can happen any more.

    ``processes(environment, cluster)`` may start SimPy processes on the run's clock, and returns those that the run
    waits for. Any others end with it. ``clock``: a new one, at time 0; None for the simulator's own.
    Raises ValueError for requests that are out of order or name an instance that is not there, RuntimeError when
    nothing is left but a process that is waited for and goes on without end, and whatever a process raises.
    """
    clock = Clock() if clock is None else clock
    if processes is not None and faults is None:
        faults = Faults()  # whose presence lets instances end
    cluster = Cluster(scenario, link, clock, _joined(recorder, run_log), progress, faults, draws)
    before = _both(announce, run_log.expect if run_log is not None else None)
    if warmup_requests and cluster.adapters_s() is not None:
        before = _both(before, _Warmup(warmup_requests, cluster.forget_adapters))
    cluster.requests.before = before
    if processes is not None:
        from bufferlab.sim.processes import environment_of  # only who has processes of his own needs SimPy

        for process in processes(environment_of(clock), cluster):
            clock.wait_for(process)
    if concurrency is None:
        cluster.feed(iter(requests))
    else:
        cluster.requests.feed_closed(iter(requests), concurrency)
    while True:
        clock.run_while_busy()
        end_s = max(clock.now, cluster.copied_s)
        if cluster.unfinished:
            cluster.look_for_deadlock()
        if not clock.reminders or (cluster.unfinished == 0 and cluster.empty):
            break
        clock.step()  # the next timer; it may lead to an iteration
    cluster.note_rest()
    if run_log is not None:
        run_log.finish(end_s)
    return SimulationOutcome(
        end_s=end_s,
        deadlocks=tuple(f"seen at {time_s:.6f} s: {deadlock}" for time_s, deadlock in cluster.timers.deadlocks),
        events=clock.events,
        iterations=cluster.iterations.held,
        submitted=cluster.requests.submitted,
        succeeded=cluster.requests.succeeded,
        failed=cluster.requests.failed,
        unfinished=cluster.unfinished,
        bytes_written=cluster.messages.bytes_written,
        bytes_landed=cluster.messages.bytes_landed,
        leftovers=tuple(cluster.leftovers()),
        ended=cluster.ended(),
        untold=cluster.untold,
        adapters_s=cluster.adapters_s(),
    )


class _Warmup:
    """Calls ``over`` when the request after the first ``requests`` comes."""

    def __init__(self, requests: int, over: Callable[[], None]) -> None:
        self._left = requests
        self._over = over

    def __call__(self, _: Request) -> None:
        self._left -= 1
        if self._left == -1:
            self._over()


def _both(
    first: Callable[[Request], None] | None, second: Callable[[Request], None] | None
) -> Callable[[Request], None] | None:
    if first is None or second is None:
        return second if first is None else first
    told = first, second

    def both(request: Request) -> None:
        for one in told:
            one(request)

    return both


def _joined(recorder: Recorder | None, run_log: RunLog | None) -> Recorder | None:
    if recorder is None or run_log is None:
        return recorder if run_log is None else run_log
    return Listeners([recorder, run_log])
