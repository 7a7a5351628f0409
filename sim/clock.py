"""The virtual clock: SimPy's environment with light call records in its queue.

SimPy orders events by (time, priority, order of scheduling). A *call* is ordered like them and is one function: no
process, no condition, no list of callbacks, which is what costs time in a simulator of many small steps. Ordinary
SimPy processes and events work on the same clock. The queue's entry of a plain call holds the function and its
arguments in the place of an event, so it is one longer than that of an event.

Ties in time are broken by construction: calls of equal time run in the order they were scheduled, and calls made with
``call_last_at`` run after all of those, by their ``order``.

A *reminder* is a call that does not keep a run alive. Timers are reminders: when only they are left, the model itself
has nothing more to do, which is either its end or a deadlock. A call that was withdrawn is one as well.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from simpy import Environment
from simpy.events import NORMAL

LAST = NORMAL + 1
"""The priority of the first of the calls that come last."""

OF_AN_EVENT = 4
"""The length of the queue's entries of events and of calls that are objects; plain calls have longer ones."""


class Call:
    """A function to be called at a time unless it is withdrawn; ``function`` is None once it has been.

    It stands in the queue of SimPy's environment without being one of its events: the clock takes it out itself.
    """

    __slots__ = ("arguments", "function")

    def __init__(self, function: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments


class Reminder(Call):
    """A call that does not keep the run alive."""

    __slots__ = ()


class Clock(Environment):
    """Virtual time in seconds, from 0."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self._entries: list[Any] = self._queue  # the same list, which holds calls as well as SimPy's events
        self._number = self._eid.__next__  # of the entry in order of scheduling
        self.events = 0
        self._reminders = 0

    @property
    def reminders(self) -> int:
        """Number of reminders that lie ahead, and of calls that were withdrawn."""
        return self._reminders

    @property
    def ahead(self) -> int:
        """Number of events and calls that lie ahead, without reminders and calls that were withdrawn."""
        return len(self._queue) - self._reminders

    @property
    def busy(self) -> bool:
        """Whether anything but reminders lies ahead."""
        return len(self._queue) > self._reminders

    def call_at(self, time_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` at ``time_s``. Raises ValueError for a past time."""
        if not time_s >= self._now:
            raise ValueError(f"a call at {time_s} s lies in the past, it is {self._now} s")
        heappush(self._entries, (time_s, NORMAL, self._number(), function, arguments))

    def withdrawable_at(self, time_s: float, function: Callable[..., object], *arguments: Any) -> Call:
        """The same for a call that ``withdraw`` can take back."""
        if not time_s >= self._now:
            raise ValueError(f"a call at {time_s} s lies in the past, it is {self._now} s")
        call = Call(function, arguments)
        heappush(self._entries, (time_s, NORMAL, self._number(), call))
        return call

    def withdraw(self, call: Call) -> None:
        """Take back a call that has not come. What stays in the queue does nothing and does not keep a run alive."""
        call.function = None
        self._reminders += 1

    def call_after(self, delay_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` in ``delay_s`` seconds. Raises ValueError for a negative delay."""
        if not delay_s >= 0.0:
            raise ValueError(f"a delay is at least 0 s, not {delay_s} s")
        heappush(self._entries, (self._now + delay_s, NORMAL, self._number(), function, arguments))

    def call_last_at(self, time_s: float, order: int, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` at ``time_s``, after the plain calls of that time and by ``order`` among these.

        Raises ValueError for a time in the past.
        """
        if not time_s >= self._now:
            raise ValueError(f"a call at {time_s} s lies in the past, it is {self._now} s")
        heappush(self._entries, (time_s, LAST + order, self._number(), function, arguments))

    def remind_at(self, time_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` at ``time_s`` if the run gets there. Raises ValueError for a past time."""
        if not time_s >= self._now:
            raise ValueError(f"a reminder at {time_s} s lies in the past, it is {self._now} s")
        self._reminders += 1
        heappush(self._entries, (time_s, NORMAL, self._number(), Reminder(function, arguments)))

    def step(self) -> None:
        """Process the next event, whatever it is. Raises simpy.core.EmptySchedule when there is none."""
        entry = self._entries[0] if self._entries else None
        if entry is None or (len(entry) == OF_AN_EVENT and not isinstance(entry[3], Call)):
            self.events += 1
            super().step()
            return
        self._now = heappop(self._entries)[0]
        if len(entry) > OF_AN_EVENT:
            self.events += 1
            entry[3](*entry[4])
            return
        event: Call = entry[3]
        if type(event) is Reminder or event.function is None:
            self._reminders -= 1
        if event.function is not None:
            self.events += 1
            event.function(*event.arguments)

    def run_while_busy(self) -> None:
        """Process events in order until only reminders are left; those that come before that are processed too."""
        queue = self._entries
        calls = 0
        try:
            while len(queue) > self._reminders:
                if len(queue[0]) == OF_AN_EVENT:
                    self.step()
                    continue
                self._now, _, _, function, arguments = heappop(queue)
                calls += 1
                function(*arguments)
        finally:
            self.events += calls
