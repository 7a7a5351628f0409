"""The virtual clock: a queue of calls in order of time, and of what comes first at the same moment.

A *call* is one small object whose ``run`` is called when its time has come: no process, no condition, no list of
callbacks, which is what costs time in a simulator of many small steps. What the simulator does often is a class of its
own with what it needs in typed fields; everybody else has ``call_at`` and its like, which take a function and its
arguments. SimPy's processes and events run on the same clock, see ``sim.processes``.

Ties in time are broken by construction, as SimPy does it, by priority and then by order of scheduling: plain calls of
equal time run in the order they were scheduled, and calls that come *last* run after all of those, by their ``order``.

A *reminder* is a call that does not keep a run alive. Timers are reminders: when only they are left, the model itself
has nothing more to do, which is either its end or a deadlock. A call that was withdrawn is one as well. SimPy's events
keep no run alive either, whoever waits for them, unless it is told to wait for a process (``wait_for``).

The queue is a binary heap of calls. The library's would ask each call whether it comes before another one, which takes
five times as long as the loops here when both are compiled; hardly any two calls have the same time, so these look at
the times themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from mypy_extensions import mypyc_attr

if TYPE_CHECKING:
    from simpy import Environment
    from simpy.events import Event

NORMAL: Final = 1
"""The order of plain calls: SimPy's priority of that name."""

LAST: Final = NORMAL + 1
"""The order of the first of the calls that come last."""

# What a call is to a run: it keeps it alive; it reminds; it was taken back; it is one of SimPy's events.
_KEEPS: Final = 0
_REMINDS: Final = 1
_WITHDRAWN: Final = 2
_OF_SIMPY: Final = 3


class Call(ABC):
    """Something that happens at a time. It is the clock's from when it is put there until it runs."""

    time_s: float = 0.0
    order: int = NORMAL
    number: int = 0
    """In order of scheduling."""
    kind: int = _KEEPS

    @abstractmethod
    def run(self) -> None:
        """Do what was to be done at this time."""


@mypyc_attr(free_list_len=1)
@final
class FunctionCall(Call):
    """Any function with its arguments."""

    def __init__(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments

    def run(self) -> None:
        """Call it."""
        self.function(*self.arguments)


@final
class _Again(Call):
    """In the place of a call that is put again and again."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def run(self) -> None:
        self._call.run()


def _precedes(one: Call, other: Call) -> bool:
    """Whether it comes before the other, of two calls that have the same time."""
    return one.number < other.number if one.order == other.order else one.order < other.order


def _put_into(heap: list[Call], call: Call) -> None:
    """Put a call into a heap: what is below a place does not come before what is there."""
    heap.append(call)
    place = len(heap) - 1
    time_s = call.time_s
    while place > 0:
        above = (place - 1) >> 1
        other = heap[above]
        if time_s > other.time_s or (time_s == other.time_s and _precedes(other, call)):
            break
        heap[place] = other
        place = above
    heap[place] = call


def _take_first(heap: list[Call]) -> Call:
    """Take the first of all calls out of a heap that has some."""
    call = heap.pop()
    size = len(heap)
    if not size:
        return call
    first = heap[0]
    time_s = call.time_s
    place = 0
    below = 1
    while below < size:
        other = heap[below]
        if below + 1 < size:
            right = heap[below + 1]
            if right.time_s < other.time_s or (right.time_s == other.time_s and _precedes(right, other)):
                below += 1
                other = right
        if time_s < other.time_s or (time_s == other.time_s and _precedes(call, other)):
            break
        heap[place] = other
        place = below
        below = 2 * place + 1
    heap[place] = call
    return first


class Elsewhere(Protocol):
    """A queue that is not the clock's own: that of a plain SimPy environment (see ``sim.processes``)."""

    @property
    def environment(self) -> Environment:
        """Whose queue it is."""

    def begin(self, clock: Clock) -> None:
        """The clock is to be told of every call that comes (``happen``), and of every event (``event_comes``)."""

    def put(self, call: Call) -> None:
        """Put a call into the queue."""

    def first_s(self) -> float:
        """When the first of all calls and events comes; infinity for never."""

    def step(self) -> bool:
        """Let the next call or event happen; False if there is none."""


@final
class Clock:
    """Virtual time in seconds, from 0. ``elsewhere``: the queue to be used instead of one of its own.

    ``events``: how many calls, and how many of SimPy's events, have come so far. ``most_alone``: how many of SimPy's
    may come in a row while nothing of the simulator's own lies ahead. ``environment``: SimPy's, once somebody has asked
    ``sim.processes.environment_of`` for it.
    """

    def __init__(self, elsewhere: Elsewhere | None = None) -> None:
        self._now = 0.0
        self.events = 0
        self.most_alone = 1_000_000
        self._queue: list[Call] = []
        self._aside: Call | None = None  # a call that is withdrawn often
        self._number = 0
        self._ahead = 0
        self._reminders = 0
        self._awaited = 0  # processes that keep the run alive
        self._alone = 0  # SimPy's events in a row
        self.environment: Environment | None = None if elsewhere is None else elsewhere.environment
        self._elsewhere = elsewhere
        if elsewhere is not None:
            elsewhere.begin(self)

    # --- questions ---

    @property
    def now(self) -> float:
        """The time."""
        return self._now

    @property
    def reminders(self) -> int:
        """Number of reminders that lie ahead, and of calls that were withdrawn."""
        return self._reminders

    @property
    def ahead(self) -> int:
        """Number of calls that lie ahead, without reminders and calls that were withdrawn, and of awaited processes."""
        return self._ahead

    @property
    def busy(self) -> bool:
        """Whether anything lies ahead that keeps a run alive."""
        return self._ahead > 0

    def peek(self) -> float:
        """When the next call or event comes; infinity for never."""
        if self._elsewhere is not None:
            return self._elsewhere.first_s()
        first = self._first()
        return inf if first is None else first.time_s

    # --- calls that are objects ---

    def put_at(self, time_s: float, call: Call) -> None:
        """Let ``call`` run at ``time_s``. Raises ValueError for a past time."""
        if not time_s >= self._now:
            raise self._past("a call", time_s)
        call.time_s = time_s
        self._ahead += 1
        self._put(call)

    def put_after(self, delay_s: float, call: Call) -> None:
        """Let ``call`` run in ``delay_s`` seconds. Raises ValueError for a negative delay."""
        if not delay_s >= 0.0:
            raise ValueError(f"a delay is at least 0 s, not {delay_s} s")
        call.time_s = self._now + delay_s
        self._ahead += 1
        self._put(call)

    def put_last_at(self, time_s: float, order: int, call: Call) -> None:
        """Let ``call`` run at ``time_s``, after the plain calls of that time and by ``order`` among these.

        Raises ValueError for a past time.
        """
        if not time_s >= self._now:
            raise self._past("a call", time_s)
        call.time_s = time_s
        call.order = LAST + order
        self._ahead += 1
        self._put(call)

    def put_reminder_at(self, time_s: float, call: Call) -> None:
        """Let ``call`` run at ``time_s`` if the run gets there. Raises ValueError for a past time."""
        if not time_s >= self._now:
            raise self._past("a reminder", time_s)
        call.time_s = time_s
        call.kind = _REMINDS
        self._reminders += 1
        self._put(call)

    def put_aside_at(self, time_s: float, call: Call) -> Call:
        """The same as ``put_at`` for a call that will be withdrawn and put elsewhere again and again.

        It is kept beside the queue, where that costs next to nothing, if nothing else is there. Returns what to
        withdraw: the call, which may be put again after that, or where it could not be kept there one in its place.
        Raises ValueError for a past time.
        """
        if self._aside is not None or self._elsewhere is not None:
            call = _Again(call)
            self.put_at(time_s, call)
            return call
        if not time_s >= self._now:
            raise self._past("a call", time_s)
        self._number += 1
        call.time_s = time_s
        call.number = self._number
        self._ahead += 1
        self._aside = call
        return call

    def withdraw(self, call: Call) -> None:
        """Take back a call that has not come. What stays in the queue does nothing and does not keep a run alive."""
        if call is self._aside:
            self._aside = None
            self._ahead -= 1
            return
        if call.kind == _KEEPS:
            self._ahead -= 1
            self._reminders += 1
        call.kind = _WITHDRAWN

    def _put(self, call: Call) -> None:
        self._number += 1
        call.number = self._number
        if self._elsewhere is None:
            _put_into(self._queue, call)
        else:
            self._elsewhere.put(call)

    def _past(self, what: str, time_s: float) -> ValueError:
        return ValueError(f"{what} at {time_s} s lies in the past, it is {self._now} s")

    # --- calls of any function ---

    def call_at(self, time_s: float, function: Callable[..., object], *arguments: Any) -> FunctionCall:
        """Call ``function(*arguments)`` at ``time_s``, unless it is withdrawn. Raises ValueError for a past time."""
        call = FunctionCall(function, arguments)
        self.put_at(time_s, call)
        return call

    def call_after(self, delay_s: float, function: Callable[..., object], *arguments: Any) -> FunctionCall:
        """The same in ``delay_s`` seconds. Raises ValueError for a negative delay."""
        call = FunctionCall(function, arguments)
        self.put_after(delay_s, call)
        return call

    def call_last_at(self, time_s: float, order: int, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` at ``time_s``, after the plain calls of that time and by ``order`` among these.

        Raises ValueError for a time in the past.
        """
        self.put_last_at(time_s, order, FunctionCall(function, arguments))

    def remind_at(self, time_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function(*arguments)`` at ``time_s`` if the run gets there. Raises ValueError for a past time."""
        self.put_reminder_at(time_s, FunctionCall(function, arguments))

    # --- running ---

    def step(self) -> bool:
        """Let the next call or event happen, whatever it is; False if there is none."""
        if self._elsewhere is not None:
            return self._elsewhere.step()
        first = self._first()
        if first is None:
            return False
        if first is self._aside:
            self._aside = None
        else:
            _take_first(self._queue)
        self.happen(first)
        return True

    def run_while_busy(self) -> None:
        """Let calls happen in order until only reminders are left; those that come before that happen too."""
        queue = self._queue
        while self._ahead > 0:
            if queue and self._aside is None:
                self.happen(_take_first(queue))
            elif not self.step():
                return

    def _first(self) -> Call | None:
        """What comes next."""
        aside = self._aside
        if not self._queue:
            return aside
        first = self._queue[0]
        if aside is None or first.time_s < aside.time_s or (first.time_s == aside.time_s and _precedes(first, aside)):
            return first
        return aside

    def happen(self, call: Call) -> None:
        """A call has come out of the queue: it is its time."""
        self._now = call.time_s
        kind = call.kind
        if kind == _KEEPS:
            self._ahead -= 1
        elif kind == _OF_SIMPY:
            self.event_comes(call.time_s)
            call.run()
            return
        else:
            self._reminders -= 1
            if kind == _WITHDRAWN:
                return
        self.events += 1
        call.run()

    # --- SimPy ---

    def event_at(self, time_s: float, priority: int, process: Callable[[Any], object], event: Event) -> None:
        """Let SimPy process an event at a time, with one of its priorities."""
        if not time_s >= self._now:
            raise self._past("an event", time_s)
        call = FunctionCall(process, (event,))
        call.time_s = time_s
        call.order = priority
        call.kind = _OF_SIMPY
        self._put(call)

    def event_comes(self, time_s: float) -> None:
        """One of SimPy's events is about to be processed. Raises RuntimeError if they go on without end."""
        self._now = time_s
        self.events += 1
        if self._ahead > self._awaited or self._reminders:
            self._alone = 0
            return
        self._alone += 1
        if self._alone > self.most_alone:
            raise RuntimeError(
                f"SimPy's processes have gone on for {self.most_alone} events, to {time_s:.6f} s, and nothing else is "
                f"to come: the run waits for a process that does not end"
            )

    def wait_for(self, event: Event) -> None:
        """Keep the run alive until an event, such as the end of a process, has come."""
        if event.processed:
            return
        self._ahead += 1
        self._awaited += 1
        event.callbacks.append(self._has_come)

    def _has_come(self, _: Event) -> None:
        self._ahead -= 1
        self._awaited -= 1
