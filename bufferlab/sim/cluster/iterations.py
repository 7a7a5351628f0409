"""Iterations of a group's scheduler loop, as far as all hosts agree. The host says when the ranks act on one."""

from __future__ import annotations

from math import inf
from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.emulation.passes import Delivered
from bufferlab.protocol.messages import Encoded, Iteration, Note, Prefilled, StartEncode
from bufferlab.protocol.recording import Event
from bufferlab.protocol.sizing import must_answer_alike
from bufferlab.sim.clock import Call
from bufferlab.sim.cluster.group import Group, Rank
from bufferlab.sim.cluster.host import Host
from bufferlab.sim.cluster.messages import Messages
from bufferlab.sim.cluster.state import State
from bufferlab.sim.cluster.timers import Timers


@mypyc_attr(free_list_len=1)
@final
class EncoderPass(Call):
    """An encoder pass of a group: how long it lasts, and what its ranks encode. It runs when they notice its end.

    ``tokens``: those of each rank. ``rooms``: what the ranks are given at the end, in order.
    """

    def __init__(self, host: Host) -> None:
        self._host: Final = host
        self.lasts_s = 0.0
        self.tokens: Final[list[int]] = []
        self.rooms: Final[list[tuple[Rank, Encoded]]] = []

    def run(self) -> None:
        for rank, event in self.rooms:
            if not rank.gone:
                self._host.take(rank, event)


@mypyc_attr(free_list_len=1)
@final
class PrefillPass(Call):
    """A prefill pass of a group, which runs when its ranks notice its end."""

    def __init__(self, iterations: Iterations, group: Group, done: list[Delivered]) -> None:
        self._iterations: Final = iterations
        self.group: Final = group
        self._done: Final = done

    def run(self) -> None:
        self._iterations.prefilled(self.group, self._done)


@final
class Iterations:
    """``held``: how many iterations all groups have had."""

    def __init__(self, state: State, host: Host, timers: Timers, messages: Messages) -> None:
        self.held = 0
        self._state = state
        self._host = host
        self._timers = timers
        self._messages = messages
        self._clock = state.clock
        self._faults = state.faults
        scenario = state.scenario
        self._releases_late = scenario.release_after_prefill
        self._prefills = scenario.services.prefills
        self._records_prefill = state.recorder is not None and self._prefills
        self._tells_prefill = self._releases_late or self._records_prefill

    # --- an iteration begins and ends ---

    def held_up(self, group: Group, now: float) -> bool:
        """Whether a fault holds up the group's iteration. It is held later then, if ever."""
        assert self._faults is not None  # asked by whoever holds the iteration
        ready_s = max([self._faults.ready_s(rank.id) for rank in group.ranks])
        if ready_s <= now:
            return False
        if ready_s < inf:
            self._host.plan_iteration(group, ready_s)
        return True

    def hold(self, group: Group) -> Iteration:
        """What the ranks of a group agree on."""
        self.held += 1
        if self._state.later:
            self._state.note_due(self._clock._now)
        return group.cores[0].lone_iteration() if len(group.cores) == 1 else hold_iteration(group.cores)

    def end(self, group: Group, began_s: float, lasts_s: float) -> None:
        """End an iteration that began at ``began_s`` and is busy for ``lasts_s``, and plan the next one."""
        now = self._clock._now
        group.grid.end_iteration(began_s, lasts_s)
        if group.passes.waiting:
            self._host.plan_iteration(group, now)
            return
        for core in group.cores:
            if core.unsettled:
                self._host.plan_iteration(group, now)
                return
        for core in group.cores:
            self._timers.set_reminder(group, core)

    # --- passes ---

    def encoder_pass(self, group: Group, iteration: Iteration) -> EncoderPass:
        """Let every rank of an encode group act on the iteration, which may begin a pass."""
        now = self._clock._now
        begun = EncoderPass(self._host)
        work_s = 0.0
        for rank in group.ranks:
            own_s, own_tokens = 0.0, 0
            for action in rank.handle(iteration, now):
                if isinstance(action, StartEncode):
                    own_s += action.encode_s
                    own_tokens += action.total_tokens
                    begun.rooms.append((rank, Encoded(action.room, action.incarnation)))
                else:
                    self._messages.in_encode_iteration(rank, action)
            work_s = max(work_s, own_s)
            begun.tokens.append(own_tokens)
        if begun.rooms:
            begun.lasts_s = group.passes.encoder_s(work_s)
        return begun

    def prefill_pass(self, group: Group, copies_s: float) -> float:
        """Begin the prefill pass, after all ranks of a language group have acted on an iteration.

        Their copies end in ``copies_s``. Returns how long the pass lasts. If its end matters, the host sees
        to it that the ranks notice.
        """
        if group.compared:
            must_answer_alike(group.compared)
        if not group.passes.waiting:
            return 0.0
        done, pass_s = group.passes.prefill()
        ends_s = copies_s + pass_s
        if self._prefills:
            self._state.copied_s = max(self._state.copied_s, self._clock._now + ends_s)
        if self._tells_prefill:
            self._host.end_prefill_in(ends_s, PrefillPass(self, group, done))
        return pass_s

    def prefilled(self, group: Group, done: list[Delivered]) -> None:
        """A prefill pass is over, and the threads of its ranks have noticed."""
        for one in done:
            for rank in group.ranks:
                if rank.gone:
                    continue
                if self._records_prefill and (self._faults is None or self._faults.ready_s(rank.id) < inf):
                    self._state.note(rank.id, Note(one.room, Event.PREFILLED, None, one.tokens, 0, ""))
                if self._releases_late:
                    self._host.take(rank, Prefilled(one.room, one.incarnation))
