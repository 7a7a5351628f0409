"""Iterations on a host that threads share: the threads of a group meet, agree, and each acts on it.

The ranks of a group of several come together in every iteration, whether there is anything to do or not. An iteration
with nothing to do is *idle*. It changes nothing but takes its share of the processors, so it is held as long as
anything else goes on anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.emulation.passes import Delivered
from protocol.messages import Action, CopyOut, Iteration
from protocol.topology import Side
from sim.cluster.group import Group, Rank
from sim.cluster.iterations import Iterations, Started
from sim.cluster.messages import IN_LANGUAGE_ITERATIONS, Messages
from sim.cluster.state import State
from sim.cluster.threads import Threads
from sim.host.costs import HostCosts


class _Meeting:
    """An iteration of a group from its call until every rank has acted on it.

    ``left``: ranks that the group waits for in the present step. ``rest``: of every language rank, the actions that are
    still to come. ``cold``: the ranks whose threads slept soundly until the iteration and have copied nothing since.
    """

    __slots__ = ("began_s", "cold", "group", "idle", "left", "rest")

    def __init__(self, group: Group, cold: set[Rank], *, idle: bool) -> None:
        self.group = group
        self.idle = idle
        self.left = len(group.ranks)
        self.began_s = 0.0
        self.rest: dict[Rank, Iterator[Action]] = {}
        self.cold = cold


class Meetings:
    """The meetings of all groups, at most one a group at a time. ``before_s``: work on an input before it is taken."""

    def __init__(
        self,
        state: State,
        host: HostCosts,
        threads: Threads,
        messages: Messages,
        iterations: Iterations,
        before_s: float,
    ) -> None:
        self._state = state
        self._host = host
        self._threads = threads
        self._messages = messages
        self._iterations = iterations
        self._before_s = before_s
        self._clock = state.clock
        self._link = state.link
        self._layout = state.scenario.layout
        self._processors = threads.processors
        self._under_way: dict[Group, _Meeting] = {}
        self._idle_works = 0

    # --- when a group iterates ---

    def plan(self, group: Group, not_before_s: float) -> None:
        """Hold the group's next iteration."""
        group.iteration_due = True
        if group in self._under_way:
            return  # planned when this iteration is over
        self._clock.call_last_at(group.grid.next_s(not_before_s), group.order, self._due, group, False)

    def _plan_idle(self, group: Group) -> None:
        """Hold an idle iteration of a group in which nothing is due, if it can take processors from anybody."""
        if len(group.ranks) == 1 or group.iteration_due:
            return
        if any(core.rooms for core in group.cores) and self._others_at_work():
            self._clock.remind_at(group.grid.next_s(self._clock._now), self._due, group, True)

    def _others_at_work(self) -> bool:
        """Whether anything goes on, or is to come, but idle iterations: they must not keep each other up."""
        return self._clock.ahead - self._processors.calls > 0 or self._processors.running > self._idle_works

    def _due(self, group: Group, idle: bool) -> None:
        """The clock says that the group iterates; its threads may still be asleep."""
        if group.down or (idle and (group.iteration_due or group in self._under_way)):
            return
        late_s = self._threads.late_s(group, self._host.iteration_s)
        if not late_s:
            self._meet(group, idle)
        elif idle:
            self._clock.remind_at(self._clock._now + late_s, self._meet, group, idle)
        else:
            self._clock.call_last_at(self._clock._now + late_s, group.order, self._meet, group, idle)

    # --- meeting and agreeing ---

    def _meet(self, group: Group, idle: bool) -> None:
        if group.down or (idle and (group.iteration_due or group in self._under_way)):
            return
        group.iteration_due = True
        meeting = self._under_way[group] = _Meeting(group, self._threads.asleep(group), idle=idle)
        for rank in group.ranks:
            self._threads.of[rank].enter(self._met, meeting)

    def _met(self, meeting: _Meeting) -> None:
        """One more rank of the group is there; when all are, they agree."""
        meeting.left -= 1
        if meeting.left:
            return
        group = meeting.group
        meeting.left = size = len(group.ranks)
        if size == 1:
            self._agree(meeting)
            return
        lasts_s = self._threads.collective_s(group)
        if group.cores[0].candidates():
            lasts_s += self._threads.collective_s(group)
        width = self._host.collective_processors
        self._idle_works += size if meeting.idle else 0
        for _ in group.ranks:
            self._processors.run(width * lasts_s, width, self._agree, meeting)

    def _agree(self, meeting: _Meeting) -> None:
        """One more rank has the agreement; when all have, each acts on it."""
        group = meeting.group
        self._idle_works -= meeting.idle
        meeting.left -= 1
        if meeting.left:
            return
        meeting.left = len(group.ranks)
        now = self._clock._now
        group.iteration_due = False
        if group.down or (self._state.faults is not None and self._is_held_up(group, now)):
            for rank in group.ranks:
                self._threads.of[rank].leave()
            return
        meeting.began_s = now
        iteration = self._iterations.hold(group)
        # The work of an iteration comes before what it decides. One that nobody asked for has none unless something
        # came.
        work_s = 0.0 if meeting.idle and not iteration.progress else self._host.iteration_s
        for rank in group.ranks:
            self._processors.run(work_s, 1.0, self._iterated, meeting, rank, iteration)

    def _is_held_up(self, group: Group, now: float) -> bool:
        """Whether a fault keeps the group, which has come together, from its iteration."""
        meeting = self._under_way.pop(group)  # so that its iteration can be planned
        if self._iterations.held_up(group, now):
            return True
        self._under_way[group] = meeting
        return False

    # --- acting ---

    def _iterated(self, meeting: _Meeting, rank: Rank, iteration: Iteration) -> None:
        """A rank has worked on the iteration and acts on it; encode ranks first wait for all, as they share a pass."""
        if meeting.group.down:
            self._threads.of[rank].leave()
        elif meeting.group.side is Side.LANGUAGE:
            meeting.rest[rank] = iter(rank.handle(iteration, self._clock._now))
            self._act(meeting, rank)
        else:
            meeting.left -= 1
            if not meeting.left:
                meeting.left = len(meeting.group.ranks)
                self._start_encoder_pass(meeting, iteration)

    def _start_encoder_pass(self, meeting: _Meeting, iteration: Iteration) -> None:
        group, now = meeting.group, self._clock._now
        pass_s, started, tokens = self._iterations.encoder_pass(group, iteration)
        if started:
            self._clock.call_after(pass_s, self._encoder_pass_over, group, started)
        for rank, filled in zip(group.ranks, tokens, strict=True):
            fill_s = filled * self._layout.bytes_per_token / self._host.fill_bandwidth_Bps
            self._processors.run(fill_s, 1.0, self._filled, meeting, rank, now + pass_s)

    def _encoder_pass_over(self, group: Group, started: Started) -> None:
        """The encoder pass is over; its threads may still be asleep."""
        self._clock.call_after(self._threads.late_s(group, self._before_s), self._iterations.encoded, started)

    def _filled(self, meeting: _Meeting, rank: Rank, end_s: float) -> None:
        if self._acted(meeting, rank):
            self._finish(meeting, max(end_s, self._clock._now) - meeting.began_s)

    def _act(self, meeting: _Meeting, rank: Rank) -> None:
        """Let a language rank act on the iteration until it has something to copy, or to the end."""
        action = self._messages.carry_out(rank, meeting.rest[rank], IN_LANGUAGE_ITERATIONS)
        if action is not None:
            assert isinstance(action, CopyOut)  # nothing else that is allowed takes time
            copy_s = self._link.copy_s(action.tokens * self._layout.bytes_per_token) * meeting.group.slowness
            copy_s *= self._threads.copies[rank].draw()
            if rank in meeting.cold:
                meeting.cold.discard(rank)
                copy_s += self._host.cold_copy_s
            self._processors.run(copy_s, 1.0, self._act, meeting, rank)
            return
        now = self._clock._now
        self._state.copied_s = max(self._state.copied_s, now)
        if self._acted(meeting, rank) and not meeting.group.down:
            pass_s = self._iterations.prefill_pass(meeting.group, 0.0, self._prefill_pass_over)
            self._finish(meeting, now - meeting.began_s + pass_s)

    def _prefill_pass_over(self, group: Group, done: list[Delivered]) -> None:
        """The prefill pass is over; its threads may still be asleep."""
        self._clock.call_after(self._threads.late_s(group, 0.0), self._iterations.prefilled, group, done)

    def _acted(self, meeting: _Meeting, rank: Rank) -> bool:
        """A rank has acted on the iteration and goes on with what has come meanwhile; true if it was the last."""
        self._threads.of[rank].leave()
        meeting.left -= 1
        return not meeting.left

    # --- the end ---

    def _finish(self, meeting: _Meeting, lasts_s: float) -> None:
        """All ranks have acted on the iteration."""
        group = meeting.group
        if self._under_way.get(group) is not meeting:
            return  # its processes have ended
        del self._under_way[group]
        due, group.iteration_due = group.iteration_due, False
        self._iterations.end(group, meeting.began_s, lasts_s)
        if due and not group.iteration_due:
            self.plan(group, self._clock._now)
        self._plan_idle(group)

    def end_processes(self, group: Group) -> None:
        """The copies under way count as done, since what they are for has been decided."""
        meeting = self._under_way.pop(group, None)
        if meeting is not None:
            for rank, actions in meeting.rest.items():
                while self._messages.carry_out(rank, actions, IN_LANGUAGE_ITERATIONS) is not None:
                    pass
