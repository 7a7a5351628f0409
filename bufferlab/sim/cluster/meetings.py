"""Iterations on a host that threads share: the threads of a group meet, agree, and each acts on it.

The ranks of a group of several come together in every iteration, whether there is anything to do or not. An iteration
with nothing to do is *idle*. It changes nothing but takes its share of the processors, so it is held as long as
anything else goes on anywhere.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.messages import Action, CopyOut, Iteration
from bufferlab.sim.clock import Call
from bufferlab.sim.cluster.group import Group, Rank
from bufferlab.sim.cluster.iterations import EncoderPass, Iterations, PrefillPass
from bufferlab.sim.cluster.messages import Messages
from bufferlab.sim.cluster.state import State
from bufferlab.sim.cluster.threads import Threads
from bufferlab.sim.host.costs import HostCosts


@mypyc_attr(free_list_len=1)
@final
class _Meeting:
    """An iteration of a group from its call until every rank has acted on it.

    ``left``: ranks that the group waits for in the present step. ``acting``: of every language rank that acts, what is
    still to come. ``cold``: the ranks whose threads slept soundly until the iteration and have copied nothing since.
    """

    __slots__ = ("acting", "began_s", "cold", "group", "idle", "left")

    def __init__(self, group: Group, cold: set[Rank], *, idle: bool) -> None:
        self.group: Final = group
        self.idle: Final = idle
        self.left = len(group.ranks)
        self.began_s = 0.0
        self.acting: Final[list[_Acting]] = []
        self.cold: Final = cold


@final
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
        self._iteration_s = host.iteration_s
        self._fill_bytes_per_s = host.fill_bandwidth_Bps
        self._cold_copy_s = host.cold_copy_s
        self._width = host.collective_processors  # of an all-reduce
        self._threads = threads
        self._messages = messages
        self._iterations = iterations
        self._before_s = before_s
        self._clock = state.clock
        self._link = state.link.times
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
        self._clock.put_last_at(group.grid.next_s(not_before_s), group.order, _Due(self, group, idle=False))

    def _plan_idle(self, group: Group) -> None:
        """Hold an idle iteration of a group in which nothing is due, if it can take processors from anybody."""
        if len(group.ranks) == 1 or group.iteration_due:
            return
        if group.remembers and self._others_at_work():
            self._clock.put_reminder_at(group.grid.next_s(self._clock._now), _Due(self, group, idle=True))

    def _others_at_work(self) -> bool:
        """Whether anything goes on, or is to come, but idle iterations: they must not keep each other up."""
        return self._clock.ahead - self._processors.calls > 0 or self._processors.running > self._idle_works

    def due(self, group: Group, idle: bool) -> None:
        """The clock says that the group iterates; its threads may still be asleep."""
        if group.down or (idle and (group.iteration_due or group in self._under_way)):
            return
        late_s = self._threads.late_s(group, self._iteration_s)
        if not late_s:
            self.meet(group, idle)
        elif idle:
            self._clock.put_reminder_at(self._clock._now + late_s, _Meet(self, group, idle=True))
        else:
            self._clock.put_last_at(self._clock._now + late_s, group.order, _Meet(self, group, idle=False))

    # --- meeting and agreeing ---

    def meet(self, group: Group, idle: bool) -> None:
        """Its threads are awake."""
        if group.down or (idle and (group.iteration_due or group in self._under_way)):
            return
        group.iteration_due = True
        meeting = self._under_way[group] = _Meeting(group, self._threads.asleep(group), idle=idle)
        for rank in group.ranks:
            self._threads.of[rank].hold(_Met(self, meeting))

    def met(self, meeting: _Meeting) -> None:
        """One more rank of the group is there; when all are, they agree."""
        meeting.left -= 1
        if meeting.left:
            return
        group = meeting.group
        meeting.left = size = len(group.ranks)
        if size == 1:
            self.agree(meeting)
            return
        lasts_s = self._threads.collective_s(group)
        if group.cores[0].candidates():
            lasts_s += self._threads.collective_s(group)
        self._idle_works += size if meeting.idle else 0
        for _ in group.ranks:
            self._processors.work(self._width * lasts_s, self._width, _Agreed(self, meeting))

    def agree(self, meeting: _Meeting) -> None:
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
        work_s = 0.0 if meeting.idle and not iteration.progress else self._iteration_s
        for rank in group.ranks:
            self._processors.work(work_s, 1.0, _Iterated(self, meeting, rank, iteration))

    def _is_held_up(self, group: Group, now: float) -> bool:
        """Whether a fault keeps the group, which has come together, from its iteration."""
        meeting = self._under_way.pop(group)  # so that its iteration can be planned
        if self._iterations.held_up(group, now):
            return True
        self._under_way[group] = meeting
        return False

    # --- acting ---

    def iterated(self, meeting: _Meeting, rank: Rank, iteration: Iteration) -> None:
        """A rank has worked on the iteration and acts on it; encode ranks first wait for all, as they share a pass."""
        if meeting.group.down:
            self._threads.of[rank].leave()
        elif not meeting.group.encodes:
            acting = _Acting(self, meeting, rank, rank.handle(iteration, self._clock._now))
            meeting.acting.append(acting)
            self.act(acting)
        else:
            meeting.left -= 1
            if not meeting.left:
                meeting.left = len(meeting.group.ranks)
                self._start_encoder_pass(meeting, iteration)

    def _start_encoder_pass(self, meeting: _Meeting, iteration: Iteration) -> None:
        group, now = meeting.group, self._clock._now
        begun = self._iterations.encoder_pass(group, iteration)
        if begun.rooms:
            self._clock.put_after(begun.lasts_s, _Noticing(self, group, begun))
        for rank, filled in zip(group.ranks, begun.tokens, strict=True):
            fill_s = filled * self._layout.bytes_per_token / self._fill_bytes_per_s
            self._processors.work(fill_s, 1.0, _Filled(self, meeting, rank, now + begun.lasts_s))

    def notice_encoded(self, group: Group, over: EncoderPass) -> None:
        """The encoder pass is over; its threads may still be asleep."""
        self._clock.put_after(self._threads.late_s(group, self._before_s), over)

    def filled(self, meeting: _Meeting, rank: Rank, end_s: float) -> None:
        """A rank has written the output of its pass."""
        if self._acted(meeting, rank):
            self._finish(meeting, max(end_s, self._clock._now) - meeting.began_s)

    def act(self, acting: _Acting) -> None:
        """Let a language rank act on the iteration until it has something to copy, or to the end."""
        meeting, rank = acting.meeting, acting.rank
        tokens = self._go_on(acting)
        if tokens >= 0:
            copy_s = self._link.copy_s(tokens * self._layout.bytes_per_token) * meeting.group.slowness
            copy_s *= self._threads.copies[rank].draw()
            if rank in meeting.cold:
                meeting.cold.discard(rank)
                copy_s += self._cold_copy_s
            self._processors.work(copy_s, 1.0, acting)
            return
        now = self._clock._now
        self._state.copied_s = max(self._state.copied_s, now)
        if self._acted(meeting, rank) and not meeting.group.down:
            pass_s = self._iterations.prefill_pass(meeting.group, 0.0)
            self._finish(meeting, now - meeting.began_s + pass_s)

    def _go_on(self, acting: _Acting) -> int:
        """Carry out the actions of a language rank up to its next copy; how many tokens that has, -1 at the end."""
        actions = acting.actions
        while acting.place < len(actions):
            action = actions[acting.place]
            acting.place += 1
            if isinstance(action, CopyOut):
                return action.tokens
            self._messages.in_language_iteration(acting.rank, action)
        return -1

    def notice_prefilled(self, over: PrefillPass) -> None:
        """The prefill pass is over; its threads may still be asleep."""
        self._clock.put_after(self._threads.late_s(over.group, 0.0), over)

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
            for acting in meeting.acting:
                while self._go_on(acting) >= 0:
                    pass


# --- what the threads and the clock are given, by what it leads to ---


@mypyc_attr(free_list_len=1)
@final
class _Due(Call):
    def __init__(self, meetings: Meetings, group: Group, *, idle: bool) -> None:
        self._meetings = meetings
        self._group = group
        self._idle = idle

    def run(self) -> None:
        self._meetings.due(self._group, self._idle)


@mypyc_attr(free_list_len=1)
@final
class _Meet(Call):
    def __init__(self, meetings: Meetings, group: Group, *, idle: bool) -> None:
        self._meetings = meetings
        self._group = group
        self._idle = idle

    def run(self) -> None:
        self._meetings.meet(self._group, self._idle)


@mypyc_attr(free_list_len=1)
@final
class _Met(Call):
    def __init__(self, meetings: Meetings, meeting: _Meeting) -> None:
        self._meetings = meetings
        self._meeting = meeting

    def run(self) -> None:
        self._meetings.met(self._meeting)


@mypyc_attr(free_list_len=1)
@final
class _Agreed(Call):
    def __init__(self, meetings: Meetings, meeting: _Meeting) -> None:
        self._meetings = meetings
        self._meeting = meeting

    def run(self) -> None:
        self._meetings.agree(self._meeting)


@mypyc_attr(free_list_len=1)
@final
class _Iterated(Call):
    def __init__(self, meetings: Meetings, meeting: _Meeting, rank: Rank, iteration: Iteration) -> None:
        self._meetings = meetings
        self._meeting = meeting
        self._rank = rank
        self._iteration = iteration

    def run(self) -> None:
        self._meetings.iterated(self._meeting, self._rank, self._iteration)


@mypyc_attr(free_list_len=1)
@final
class _Noticing(Call):
    def __init__(self, meetings: Meetings, group: Group, over: EncoderPass) -> None:
        self._meetings = meetings
        self._group = group
        self._over = over

    def run(self) -> None:
        self._meetings.notice_encoded(self._group, self._over)


@mypyc_attr(free_list_len=1)
@final
class _Filled(Call):
    def __init__(self, meetings: Meetings, meeting: _Meeting, rank: Rank, end_s: float) -> None:
        self._meetings = meetings
        self._meeting = meeting
        self._rank = rank
        self._end_s = end_s

    def run(self) -> None:
        self._meetings.filled(self._meeting, self._rank, self._end_s)


@mypyc_attr(free_list_len=1)
@final
class _Acting(Call):
    """A language rank acts on an iteration; it runs when a copy is over. ``place``: of its next action."""

    def __init__(self, meetings: Meetings, meeting: _Meeting, rank: Rank, actions: list[Action]) -> None:
        self._meetings = meetings
        self.meeting: Final = meeting
        self.rank: Final = rank
        self.actions: Final = actions
        self.place = 0

    def run(self) -> None:
        self._meetings.act(self)
