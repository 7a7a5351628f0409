"""Iterations of a group's scheduler loop, as far as all hosts agree. The host says when the ranks act on one."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from protocol.agreement import hold_iteration
from protocol.emulation.passes import Delivered
from protocol.messages import Encoded, Iteration, Note, Prefilled, StartEncode
from protocol.recording import Event
from protocol.sizing import must_answer_alike
from sim.cluster.group import Group, Rank
from sim.cluster.host import Host
from sim.cluster.messages import IN_ENCODE_ITERATIONS, Messages
from sim.cluster.state import State
from sim.cluster.timers import Timers

Started = list[tuple[Rank, Encoded]]


class Iterations:
    """``held``: how many iterations all groups have had."""

    def __init__(self, state: State, host: Host, timers: Timers, messages: Messages) -> None:
        self.held = 0
        self._state = state
        self._host = host
        self._set_reminder = timers.set_reminder
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
        ready_s = max(map(self._faults.ready_s, (rank.core.rank_id for rank in group.ranks)))
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
        return hold_iteration(group.cores)

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
            self._set_reminder(group, core)

    # --- passes ---

    def encoder_pass(self, group: Group, iteration: Iteration) -> tuple[float, Started, list[int]]:
        """Let every rank of an encode group act on the iteration, which may begin a pass.

        Returns how long the pass lasts, the inputs that its ranks get at its end, and the tokens that each encodes.
        """
        now = self._clock._now
        started: Started = []
        tokens = []
        work_s = 0.0
        for rank in group.ranks:
            own_s, own_tokens = 0.0, 0
            actions = iter(rank.handle(iteration, now))
            while (action := self._messages.carry_out(rank, actions, IN_ENCODE_ITERATIONS)) is not None:
                assert isinstance(action, StartEncode)  # nothing else that is allowed takes time
                own_s += action.encode_s
                own_tokens += action.total_tokens
                started.append((rank, Encoded(action.room, action.incarnation)))
            work_s = max(work_s, own_s)
            tokens.append(own_tokens)
        return (group.passes.encoder_s(work_s) if started else 0.0), started, tokens

    def encoded(self, started: Started) -> None:
        """An encoder pass is over, and the threads of its ranks have noticed."""
        for rank, event in started:
            if not rank.gone:
                self._host.take(rank, event)

    def prefill_pass(self, group: Group, copies_s: float, over: Callable[[Group, list[Delivered]], object]) -> float:
        """Begin the prefill pass, after all ranks of a language group have acted on an iteration.

        Their copies end in ``copies_s``. Returns how long the pass lasts. At its end ``over`` is called with what was
        in it, if that matters.
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
            self._clock.call_after(ends_s, over, group, done)
        return pass_s

    def prefilled(self, group: Group, done: list[Delivered]) -> None:
        """A prefill pass is over, and the threads of its ranks have noticed."""
        for one in done:
            for rank in group.ranks:
                if rank.gone:
                    continue
                rank_id = rank.core.rank_id
                if self._records_prefill and (self._faults is None or self._faults.ready_s(rank_id) < inf):
                    self._state.note(rank_id, Note(one.room, Event.PREFILLED, None, one.tokens, 0, ""))
                if self._releases_late:
                    self._host.take(rank, Prefilled(one.room, one.incarnation))
