"""A host whose threads share few processors.

A rank has one thread for its messages and its loop, as a measured one has. So the inputs that it takes, its iterations,
its copies and the content of its passes follow each other. All threads of all ranks, and the
router's, share the processors of one host; what their work costs there is in the link profile (``host``).

Latencies are those of the profile. The part of a latency that the host's costs name is work of a processor, and only
the rest passes by itself. So a request that is alone takes as long as with dedicated processors, except where its own
threads wait for each other.
"""

from __future__ import annotations

from protocol.emulation.scenario import Request
from protocol.topology import RankId
from sim.cluster.group import Group, Rank, Worker
from sim.cluster.host import Host
from sim.cluster.iterations import Iterations
from sim.cluster.meetings import Meetings
from sim.cluster.messages import Messages
from sim.cluster.requests import Requests
from sim.cluster.state import State
from sim.cluster.threads import Draws, Threads
from sim.network.worker import HostedWorker


class SharedHost(Host):
    """The host that a link profile describes. ``draws``: the streams from which varying durations are drawn.

    Raises ValueError for a link without a host.
    """

    def __init__(self, state: State, draws: Draws | None) -> None:
        link = state.link
        if link.host is None:
            raise ValueError(f"link profile {link.name} has no host")
        self._state = state
        self._clock = state.clock
        self._link = link
        self._host = host = link.host
        self.threads = Threads(state.clock, host, link.wakeup_s, draws)
        self.processors = self.threads.processors
        # Of a latency that ends with an input, what lies in the taking thread before the input counts as taken.
        self._before_s = host.before_s(link.control_latency_s)
        self._after_s = host.input_s - self._before_s
        self.control_s = max(0.0, link.control_latency_s - host.message_s - self._before_s)
        self._handed_out_s = 0.0

    def begin(self, requests: Requests, messages: Messages, iterations: Iterations) -> None:
        """Take the objects that do the threads' work."""
        self._requests = requests
        self._messages = messages
        self._meetings = Meetings(self._state, self._host, self.threads, messages, iterations, self._before_s)

    # --- processes ---

    def make_worker(self, rank_id: RankId, number: int, slowness: float) -> Worker:
        """Its writes keep processors busy, and adapters where these are shared."""
        state = self._state
        return HostedWorker(
            self._clock, self.processors, state.network, self._link, state.scenario.layout, rank_id, state.contacts,
            slowness, taken_s=self._before_s, draw=self.threads.writes(rank_id, number).draw,
        )  # fmt: skip

    def add_process(self, rank: Rank) -> None:
        """It has one thread."""
        self.threads.add(rank)

    def end_processes(self, group: Group) -> None:
        """The copies under way count as done."""
        self._meetings.end_processes(group)

    # --- what reaches a process ---

    def hand_out(self, request: Request, encode: Group, language: Group) -> None:
        """The router's thread gives a command to every rank, so long before that the request reaches it."""
        commands_s = self._host.command_s * (len(encode.ranks) + len(language.ranks))
        lasts_s = self.threads.submissions.draw() * self._link.submit_latency_s
        passes_s = max(0.0, lasts_s - commands_s - self._host.message_s - self._before_s)
        # One router hands out all requests, so none overtakes another.
        self._handed_out_s = max(self._handed_out_s, self._clock._now + passes_s)
        if self._handed_out_s > self._clock._now:
            self._clock.call_at(self._handed_out_s, self._order, commands_s, request, encode, language)
        else:
            self._order(commands_s, request, encode, language)

    def _order(self, commands_s: float, request: Request, encode: Group, language: Group) -> None:
        self.threads.router.run(commands_s, self._requests.reached, request, encode, language)

    def receive(self, rank: Rank, message: object) -> None:
        """The threads that carry messages hand it to the rank's thread."""
        # All of what a message takes longer, or less long, lies in the thread: they come in the order they were sent.
        more_s = (self.threads.messages[rank].draw() - 1.0) * self._link.control_latency_s
        self.processors.run(self._host.message_s, 1.0, self._take_message, rank, message, more_s)

    def take(self, rank: Rank, event: object) -> None:
        """The core gets it when the rank's thread is free and has worked on it."""
        self.threads.of[rank].enter(self.processors.run, self._before_s, 1.0, self._taken, rank, event)

    def _take_message(self, rank: Rank, message: object, more_s: float) -> None:
        before_s = max(0.0, self._before_s + more_s)
        self.threads.of[rank].enter(self.processors.run, before_s, 1.0, self._taken, rank, message)

    def _taken(self, rank: Rank, event: object) -> None:
        if not rank.gone:
            self._messages.input(rank, event)
        else:
            self._messages.miss(rank, event)
        self.processors.run(self._after_s, 1.0, self.threads.of[rank].leave)

    def report_conclusion(self) -> None:
        """It costs a message, and a report that the router takes."""
        self.processors.run(self._host.message_s, 1.0, self.threads.router.run, self._host.command_s, _nothing)

    # --- iterations ---

    def plan_iteration(self, group: Group, not_before_s: float) -> None:
        """The threads of the group meet."""
        self._meetings.plan(group, not_before_s)


def _nothing() -> None:
    """Nobody waits for it."""
