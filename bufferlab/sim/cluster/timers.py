"""Timers of the cores as reminders on the clock, and the search for deadlocks before a timer ends a room."""

from __future__ import annotations

from math import inf
from typing import Final, final

from bufferlab.protocol.observe.deadlock import Deadlock, find_deadlock
from bufferlab.sim.clock import Call
from bufferlab.sim.cluster.group import Core, Group
from bufferlab.sim.cluster.host import Host
from bufferlab.sim.cluster.requests import Requests
from bufferlab.sim.cluster.state import State

MOST_DEADLOCKS: Final = 16
"""Kept of one run. Timers end one deadlock and the rooms behind it make the next."""


@final
class Timers:
    """See to it that the cores' timers lead to iterations. ``deadlocks``: those that were seen, and when."""

    def __init__(self, state: State, host: Host, requests: Requests) -> None:
        self.deadlocks: list[tuple[float, Deadlock]] = []
        self._state = state
        self._host = host
        self._requests = requests
        self._clock = state.clock
        self._looked_s = -inf

    def set_reminder(self, group: Group, core: Core) -> None:
        """See to it that the core's next timer leads to an iteration."""
        due_s = core.timer_s
        # Deadlines mostly move later. A reminder that comes too early is set again then.
        if due_s is not None and due_s < group.reminder_s:
            group.reminder_s = max(due_s, self._clock._now)
            self._clock.put_reminder_at(group.reminder_s, _Reminder(self, group))

    def remind(self, group: Group, due_s: float) -> None:
        """A reminder has come."""
        if group.reminder_s != due_s or group.down:
            return  # an earlier one has taken its place
        group.reminder_s = inf
        if group.iteration_due:
            return  # the iteration looks at the timers itself
        now = self._clock._now
        if any((due := core.next_deadline()) is not None and due <= now for core in group.cores):
            self._look_before_the_timers()
            self._host.plan_iteration(group, now)
            return
        for core in group.cores:
            self.set_reminder(group, core)

    def _look_before_the_timers(self) -> None:
        """Look for deadlocks before a timer ends a room, since a deadlock that ends with the room would go unseen."""
        if len(self.deadlocks) >= MOST_DEADLOCKS:
            return  # nothing would be kept
        # Under overload every room times out, and to look at all rooms each time would be quadratic.
        timeout_s = self._state.scenario.timeout_s or 0.0
        if len(self._requests.outcomes) < 1000 or self._clock._now >= self._looked_s + timeout_s / 16:
            self.look_for_deadlock()

    def look_for_deadlock(self) -> Deadlock | None:
        """The deadlock that rooms are in now, kept in ``deadlocks`` unless it is the one that was found last."""
        self._looked_s = now = self._clock._now
        found = find_deadlock(self._state.living)
        if found is not None and len(self.deadlocks) < MOST_DEADLOCKS:
            rooms = {room.room for room in found.cycle}
            if not self.deadlocks or rooms != {room.room for room in self.deadlocks[-1][1].cycle}:
                # The end of a copy has no event of its own.
                self.deadlocks.append((max(now, self._state.copied_s), found))
        return found


@final
class _Reminder(Call):
    """One of the cores of a group may have a timer that is due."""

    def __init__(self, timers: Timers, group: Group) -> None:
        self._timers = timers
        self._group = group

    def run(self) -> None:
        self._timers.remind(self._group, self.time_s)
