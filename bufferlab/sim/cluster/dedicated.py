"""A processor for every thread: nothing that a thread does waits for another, and nothing is charged.

A rank takes messages whatever its loop does. Only passes and copies take time in an iteration, and what follows a copy
happens when the copy is over.
"""

from __future__ import annotations

from typing import final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.messages import CopyOut, Iteration
from bufferlab.protocol.topology import RankId
from bufferlab.sim.clock import Call
from bufferlab.sim.cluster.group import Group, Rank, Worker
from bufferlab.sim.cluster.host import Host
from bufferlab.sim.cluster.iterations import Iterations
from bufferlab.sim.cluster.messages import Messages
from bufferlab.sim.cluster.requests import Requests
from bufferlab.sim.cluster.state import State
from bufferlab.sim.network.transfer import TransferWorker
from bufferlab.sim.network.worker import QueuedWorker


@final
class DedicatedProcessors(Host):
    """As many processors as threads."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._clock = state.clock
        self._link = state.link
        self._times = state.link.times
        self._submit_latency_s = state.link.submit_latency_s
        self._wakeup_s = state.link.wakeup_s
        self._layout = state.scenario.layout
        self.control_s = state.link.control_latency_s

    def begin(self, requests: Requests, messages: Messages, iterations: Iterations) -> None:
        """Take the objects that do the threads' work."""
        self._requests = requests
        self._messages = messages
        self._iterations = iterations

    # --- processes ---

    def make_worker(self, rank_id: RankId, number: int, slowness: float) -> Worker:
        """Where nobody can share the adapters, when a write ends is known as soon as it is queued."""
        state = self._state
        if state.network is None:
            return TransferWorker(self._link.slowed(slowness).times, self._layout, rank_id, state.contacts)
        return QueuedWorker(self._clock, state.network, self._layout, rank_id, state.contacts, slowness)

    def add_process(self, rank: Rank) -> None:
        """Do nothing: the threads of a process have their processors anyway."""

    def end_processes(self, group: Group) -> None:
        """Do nothing: what an iteration decides is carried out at once, so nothing is left."""

    # --- what reaches a process ---

    def hand_out(self, request: Request, encode: Group, language: Group) -> None:
        """The request reaches the processes the link's latency later."""
        time_s = self._clock._now + self._submit_latency_s
        if time_s > self._clock._now:
            self._clock.call_at(time_s, self._requests.reached, request, encode, language)
        else:
            self._requests.reached(request, encode, language)

    def receive(self, rank: Rank, message: object) -> None:
        """It becomes the core's input at once."""
        self._messages.input(rank, message)

    def take(self, rank: Rank, event: object) -> None:
        """It becomes the core's input at once."""
        self._messages.input(rank, event)

    def report_conclusion(self) -> None:
        """Costs nothing."""

    # --- iterations ---

    def plan_iteration(self, group: Group, not_before_s: float) -> None:
        """The loop comes round the link's ``wakeup_s`` after the moment of its grid."""
        group.iteration_due = True
        self._clock.put_last_at(
            group.grid.next_s(not_before_s) + self._wakeup_s, group.order, _IterationDue(self, group)
        )

    def end_prefill_in(self, delay_s: float, over: Call) -> None:
        """They notice at once."""
        self._clock.put_after(delay_s, over)

    def iterate(self, group: Group) -> None:
        """It is time for an iteration."""
        if group.down:
            return
        now = self._clock._now
        group.iteration_due = False
        if self._state.faults is not None and self._iterations.held_up(group, now):
            return
        iteration = self._iterations.hold(group)
        lasts_s = (
            self._encode_iteration(group, iteration) if group.encodes else self._language_iteration(group, iteration)
        )
        self._iterations.end(group, now, lasts_s)

    def _encode_iteration(self, group: Group, iteration: Iteration) -> float:
        """Let every rank act on the iteration; return how long its encoder pass lasts, seconds."""
        begun = self._iterations.encoder_pass(group, iteration)
        if begun.rooms:
            self._clock.put_after(begun.lasts_s + self._wakeup_s, begun)
        return begun.lasts_s

    def _language_iteration(self, group: Group, iteration: Iteration) -> float:
        """Let every rank act on the iteration; return how long its copies and the prefill pass last, seconds."""
        copies_s = 0.0
        for rank in group.ranks:
            copies_s = max(copies_s, self._copies(rank, iteration))
        return copies_s + self._iterations.prefill_pass(group, copies_s)

    def _copies(self, rank: Rank, iteration: Iteration) -> float:
        """Let one rank act on the iteration; return how long its copies last, seconds."""
        now = self._clock._now
        late_s = 0.0
        for action in rank.handle(iteration, now):
            if isinstance(action, CopyOut):
                late_s += self._times.copy_s(action.tokens * self._layout.bytes_per_token) * rank.group.slowness
            else:
                self._messages.in_language_iteration(rank, action, late_s)
        if late_s:
            self._state.copied_s = max(self._state.copied_s, now + late_s)
        return late_s


@mypyc_attr(free_list_len=1)
@final
class _IterationDue(Call):
    """The next iteration of a group."""

    def __init__(self, host: DedicatedProcessors, group: Group) -> None:
        self._host = host
        self._group = group

    def run(self) -> None:
        self._host.iterate(self._group)
