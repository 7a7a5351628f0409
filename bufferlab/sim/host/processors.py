"""The processors of a host, and the threads that share them.

Threads of one host get equal parts of its processors while there are more threads than processors: processor sharing,
the fluid limit of a scheduler that slices time (Kleinrock, J. ACM 14(2), 1967), such as Linux's. What a thread has to
do is given as *work*: how long it takes with a processor to itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, final

from mypy_extensions import mypyc_attr

from bufferlab.sim.clock import Call, Clock, FunctionCall
from bufferlab.sim.fairshare import Part, share_one

_ENDED_S: Final = 1e-12
"""Work below this is rounding: a run of 1,000 s has times to a part in 1e13 of a second."""


@mypyc_attr(free_list_len=1)
@final
class _Work(Part):
    """``left_s`` is what was left of it at the last change, ``rate`` what it has of the processors since then."""

    __slots__ = ("left_s", "then")

    def __init__(self, work_s: float, width: float, then: Call) -> None:
        self.cap = width
        self.rate = 0.0
        self.left_s = work_s
        self.then: Final = then


@final
class _End(Call):
    """The first of the work that is under way ends."""

    def __init__(self, processors: SharedProcessors) -> None:
        self._processors = processors

    def run(self) -> None:
        self._processors.end()


@final
class SharedProcessors:
    """``count`` processors, shared max–min fairly among segments of work: none has more than its width, and none has
    less than another unless that is its width.

    ``busy_s``: processor seconds spent. Raises ValueError for a count that is not above 0.
    """

    __slots__ = ("_call", "_clock", "_end", "_ending", "_since_s", "_under_way", "busy_s", "count")

    def __init__(self, clock: Clock, count: float) -> None:
        if not count > 0:
            raise ValueError(f"a host has {count} processors, it must have more than 0")
        self.count = count
        self.busy_s = 0.0
        self._clock = clock
        self._under_way: list[_Work] = []
        self._since_s = 0.0
        self._ending = False
        self._end: Call = _End(self)
        self._call: Call | None = None  # in which it comes

    @property
    def now(self) -> float:
        """The time, seconds."""
        return self._clock._now

    @property
    def running(self) -> int:
        """How much work is under way, in segments."""
        return len(self._under_way)

    @property
    def calls(self) -> int:
        """How many calls on the clock are these processors' own."""
        return 0 if self._call is None else 1

    def run(self, work_s: float, width: float, done: Callable[..., object], *arguments: Any) -> None:
        """The same as ``work`` with a function and its arguments."""
        self.work(work_s, width, FunctionCall(done, arguments))

    def work(self, work_s: float, width: float, then: Call) -> None:
        """Do ``work_s`` processor seconds on at most ``width`` processors at a time, then run ``then``.

        Work of nothing is done at once. Raises ValueError for negative work or a width that is not above 0.
        """
        if not work_s >= 0.0 or not width > 0.0:
            raise ValueError(f"work of {work_s} s on {width} processors: it must be at least 0, and they more than 0")
        if not work_s:
            then.run()
            return
        self._advance()
        self._under_way.append(_Work(work_s, width, then))
        if not self._ending:
            self._share()

    def _advance(self) -> None:
        """Account for the time since the last change."""
        now = self._clock._now
        elapsed_s = now - self._since_s
        if elapsed_s:
            for one in self._under_way:
                done_s = one.rate * elapsed_s
                one.left_s -= done_s
                self.busy_s += done_s
        self._since_s = now

    def _share(self) -> None:
        """Set all rates, and the call for the first that ends."""
        if self._call is not None:
            self._clock.withdraw(self._call)
            self._call = None
        under_way = self._under_way
        if not under_way:
            return
        wanted = 0.0
        for one in under_way:
            wanted += one.cap
            one.rate = one.cap
        if wanted > self.count:  # they are in each other's way
            share_one(self.count, under_way)
        next_s = inf
        for one in under_way:
            lasts_s = one.left_s / one.rate
            if lasts_s < next_s:
                next_s = lasts_s
        self._call = self._clock.put_aside_at(self._clock._now + max(next_s, 0.0), self._end)

    def end(self) -> None:
        """Its call has come."""
        self._call = None
        self._advance()
        first_s = inf
        for one in self._under_way:
            if one.left_s < first_s:
                first_s = one.left_s
        limit_s = max(first_s, _ENDED_S)
        ended, rest = [], []
        for one in self._under_way:
            if one.left_s <= limit_s:
                ended.append(one)
            else:
                rest.append(one)
        self._under_way = rest
        # What follows from the ends begins at this moment, too: the processors are shared out once.
        self._ending = True
        for one in ended:
            one.then.run()
        self._ending = False
        self._share()


@final
class Thread:
    """One thread: it does one thing after the other, first come, first served.

    What holds it is a step: it begins with ``hold`` and lasts until ``leave``.
    """

    __slots__ = ("_busy", "_left_s", "_processors", "_takes", "_waiting")

    def __init__(self, processors: SharedProcessors) -> None:
        self._processors = processors
        self._busy = False
        self._left_s = 0.0
        self._takes = False
        self._waiting: deque[Call] = deque()

    @property
    def idle_s(self) -> float:
        """For how long it has had nothing to do; 0 while it has."""
        return 0.0 if self._busy else self._processors.now - self._left_s

    def enter(self, step: Callable[..., object], *arguments: Any) -> None:
        """The same as ``hold`` with a function and its arguments."""
        self.hold(FunctionCall(step, arguments))

    def hold(self, step: Call) -> None:
        """Run ``step`` as soon as the thread is free; the thread is then held until ``leave``."""
        if self._busy:
            self._waiting.append(step)
            return
        self._busy = True
        step.run()

    def leave(self) -> None:
        """The step that holds the thread is over."""
        self._busy = False
        self._left_s = self._processors.now
        if self._takes:
            return  # a step that took no time; whoever began it goes on
        self._takes = True
        while self._waiting and not self._busy:
            self._busy = True
            self._waiting.popleft().run()
        self._takes = False

    def run(self, work_s: float, done: Callable[..., object], *arguments: Any) -> None:
        """Work on one processor for ``work_s`` when the thread is free, then call ``done(*arguments)``."""
        self.hold(_Task(self, work_s, FunctionCall(done, arguments)))

    def spend(self, work_s: float) -> None:
        """The same, and nobody waits for it."""
        self.hold(_Task(self, work_s, None))

    def begin(self, task: _Task) -> None:
        """The thread is free for a task."""
        task.begun = True
        self._processors.work(task.work_s, 1.0, task)


@mypyc_attr(free_list_len=1)
@final
class _Task(Call):
    """Work of a thread that is nothing but that: it holds the thread while it lasts."""

    def __init__(self, thread: Thread, work_s: float, then: Call | None) -> None:
        self._by = thread
        self._then = then
        self.work_s: Final = work_s
        self.begun = False

    def run(self) -> None:
        if not self.begun:
            self._by.begin(self)
            return
        if self._then is not None:
            self._then.run()
        self._by.leave()
