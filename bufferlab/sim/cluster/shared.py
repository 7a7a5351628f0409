"""A host whose threads share few processors.

A rank has one thread for its messages and its loop, as a measured one has. So the inputs that it takes, its iterations,
its copies and the content of its passes follow each other. All threads of all ranks, and the
router's, share the processors of one host; what their work costs there is in the link profile (``host``).

Latencies are those of the profile. The part of a latency that the host's costs name is work of a processor, and only
the rest passes by itself. So a request that is alone takes as long as with dedicated processors, except where its own
threads wait for each other.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.topology import RankId
from bufferlab.sim.clock import Call
from bufferlab.sim.cluster.group import Group, Rank, Worker
from bufferlab.sim.cluster.host import Host
from bufferlab.sim.cluster.iterations import Iterations, PrefillPass
from bufferlab.sim.cluster.meetings import Meetings
from bufferlab.sim.cluster.messages import Messages
from bufferlab.sim.cluster.requests import Requests
from bufferlab.sim.cluster.state import State
from bufferlab.sim.cluster.threads import Threads
from bufferlab.sim.host.processors import Thread
from bufferlab.sim.host.spread import Draws
from bufferlab.sim.network.worker import HostedWorker


@final
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
        self._submit_latency_s = link.submit_latency_s
        self._control_latency_s = link.control_latency_s
        self._host = host = link.host
        self._message_s = host.message_s
        self.threads = Threads(state.clock, host, link.wakeup_s, draws)
        self.processors = self.threads.processors
        # Of a latency that ends with an input, what lies in the taking thread before the input counts as taken.
        self._before_s = host.before_s(link.control_latency_s)
        self.after_s = host.input_s - self._before_s
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
            slowness, taken_s=self._before_s, spread=self.threads.writes(rank_id, number),
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
        lasts_s = self.threads.submissions.draw() * self._submit_latency_s
        passes_s = max(0.0, lasts_s - commands_s - self._message_s - self._before_s)
        # One router hands out all requests, so none overtakes another.
        self._handed_out_s = max(self._handed_out_s, self._clock._now + passes_s)
        order = _Order(self, commands_s, request, encode, language)
        if self._handed_out_s > self._clock._now:
            self._clock.put_at(self._handed_out_s, order)
        else:
            order.run()

    def order(self, commands_s: float, request: Request, encode: Group, language: Group) -> None:
        """The router gives its commands."""
        self.threads.router.run(commands_s, self._requests.reached, request, encode, language)

    def receive(self, rank: Rank, message: object) -> None:
        """The threads that carry messages hand it to the rank's thread."""
        # All of what a message takes longer, or less long, lies in the thread: they come in the order they were sent.
        more_s = (self.threads.messages[rank].draw() - 1.0) * self._control_latency_s
        before_s = max(0.0, self._before_s + more_s)
        self.processors.work(self._message_s, 1.0, _Input(self, rank, message, before_s, carried=False))

    def take(self, rank: Rank, event: object) -> None:
        """The core gets it when the rank's thread is free and has worked on it."""
        self.threads.of[rank].hold(_Input(self, rank, event, self._before_s, carried=True))

    def taken(self, rank: Rank, event: object) -> None:
        """The rank's thread has worked on an input: it is the core's."""
        if not rank.gone:
            self._messages.input(rank, event)
        else:
            self._messages.miss(rank, event)

    def report_conclusion(self) -> None:
        """It costs a message, and a report that the router takes."""
        self.processors.work(self._message_s, 1.0, _Report(self.threads.router, self._host.command_s))

    # --- iterations ---

    def plan_iteration(self, group: Group, not_before_s: float) -> None:
        """The threads of the group meet."""
        self._meetings.plan(group, not_before_s)

    def end_prefill_in(self, delay_s: float, over: Call) -> None:
        """They may still be asleep when it is over."""
        assert isinstance(over, PrefillPass)
        self._clock.put_after(delay_s, _Noticing(self._meetings, over))


# What an input does next.
_ENTERS: Final = 0
_BEGINS: Final = 1
_IS_TAKEN: Final = 2
_LEAVES: Final = 3


@mypyc_attr(free_list_len=1)
@final
class _Input(Call):
    """An input on its way through the threads: it is carried, enters the rank's thread, and is worked on before and
    after the core takes it. It runs when a part of that is over."""

    def __init__(self, host: SharedHost, rank: Rank, event: object, before_s: float, *, carried: bool) -> None:
        self._host = host
        self._rank = rank
        self._event = event
        self._before_s = before_s
        self._next = _BEGINS if carried else _ENTERS

    def run(self) -> None:
        host, rank = self._host, self._rank
        step = self._next
        self._next = step + 1
        if step == _ENTERS:
            host.threads.of[rank].hold(self)
        elif step == _BEGINS:
            host.processors.work(self._before_s, 1.0, self)
        elif step == _IS_TAKEN:
            host.taken(rank, self._event)
            host.processors.work(host.after_s, 1.0, self)
        else:
            host.threads.of[rank].leave()


@mypyc_attr(free_list_len=1)
@final
class _Order(Call):
    """The router has a request to hand out."""

    def __init__(self, host: SharedHost, commands_s: float, request: Request, encode: Group, language: Group) -> None:
        self._host = host
        self._commands_s = commands_s
        self._request = request
        self._encode = encode
        self._language = language

    def run(self) -> None:
        self._host.order(self._commands_s, self._request, self._encode, self._language)


@mypyc_attr(free_list_len=1)
@final
class _Report(Call):
    """A message has told the router of a conclusion; it works on it, and nobody waits for that."""

    def __init__(self, router: Thread, command_s: float) -> None:
        self._router = router
        self._command_s = command_s

    def run(self) -> None:
        self._router.spend(self._command_s)


@mypyc_attr(free_list_len=1)
@final
class _Noticing(Call):
    """A prefill pass is over."""

    def __init__(self, meetings: Meetings, over: PrefillPass) -> None:
        self._meetings = meetings
        self._over = over

    def run(self) -> None:
        self._meetings.notice_prefilled(self._over)
