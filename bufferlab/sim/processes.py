"""SimPy on the virtual clock: processes, resources and conditions beside the ranks, in one order of time.

``environment_of`` a clock is SimPy's environment with the clock's queue in place of its own. ``on_plain_simpy`` is the
other way round: a clock whose calls are in the queue of a plain SimPy environment. It does the same, slower, and is
there to show that it does (``tests/sim/test_simpy.py``).
"""

from __future__ import annotations

from heapq import heappush
from itertools import count
from typing import TYPE_CHECKING

from simpy.core import EmptySchedule, Environment
from simpy.events import NORMAL, Event, EventPriority

from bufferlab.sim.clock import Call, Clock

if TYPE_CHECKING:
    from simpy.core import SimTime


def environment_of(clock: Clock) -> Environment:
    """SimPy's environment on a clock: whatever is written for one runs there. Every clock has one."""
    if clock.environment is None:
        clock.environment = _ClockEnvironment(clock)
    return clock.environment


class _ClockEnvironment(Environment):
    """What SimPy's processes know as their environment; its time is the clock's."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.now)
        self._clock = clock
        self._tie = count()

    @property
    def now(self) -> SimTime:
        """The time."""
        return self._clock.now

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: SimTime = 0) -> None:
        """Let an event be processed in ``delay`` seconds."""
        self._clock.event_at(self._clock.now + delay, priority, self._process, event)

    def peek(self) -> SimTime:
        """When the next event or call comes; infinity for never."""
        return self._clock.peek()

    def step(self) -> None:
        """Let the next event or call happen. Raises EmptySchedule if there is none."""
        if not self._clock.step():
            raise EmptySchedule

    def _process(self, event: Event) -> None:
        # SimPy knows what is to be done with an event: it is the only one in its own queue.
        self._queue.append((self._clock.now, NORMAL, next(self._tie), event))
        super().step()


class _Coming(Event):
    """A call of the clock as one of SimPy's events."""

    def __init__(self, environment: Environment, clock: Clock, call: Call) -> None:
        super().__init__(environment)
        self._ok = True
        self._value = None
        self.callbacks.append(lambda _: clock.happen(call))


class _PlainQueue:
    """The queue of a plain environment, for a clock."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def begin(self, clock: Clock) -> None:
        """The clock whose calls are to be kept."""
        self._clock = clock

    def put(self, call: Call) -> None:
        """Put it where SimPy puts its events: a delay from now on would round its time."""
        environment = self.environment
        event = _Coming(environment, self._clock, call)
        heappush(environment._queue, (call.time_s, EventPriority(call.order), next(environment._eid), event))

    def first_s(self) -> float:
        """When the first comes."""
        return self.environment.peek()

    def step(self) -> bool:
        """Let SimPy process what comes next."""
        queue = self.environment._queue
        if not queue:
            return False
        time_s, _, _, event = queue[0]
        if not isinstance(event, _Coming):
            self._clock.event_comes(time_s)
        self.environment.step()
        return True


def on_plain_simpy(environment: Environment | None = None) -> Clock:
    """A clock on a plain SimPy environment, which may have processes already; the clock runs it, not its own ``run``.

    Raises ValueError if it is not at time 0.
    """
    environment = Environment() if environment is None else environment
    if environment.now:
        raise ValueError(f"it is {environment.now} in the environment, a clock begins at 0")
    return Clock(_PlainQueue(environment))
