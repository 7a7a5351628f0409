"""The processors of a host, and the threads that share them.

Threads of one host get equal parts of its processors while there are more threads than processors: processor sharing,
the fluid limit of a scheduler that slices time (Kleinrock, J. ACM 14(2), 1967), such as Linux's. What a thread has to
do is given as *work*: how long it takes with a processor to itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from sim.clock import Call, Clock
from sim.fairshare import Flow, Node, fill

_ENDED_S = 1e-12
"""Work below this is rounding: a run of 1,000 s has times to a part in 1e13 of a second."""


class _Work(Flow):
    """Of its width at most, in one flow through the processors. ``left_s`` is what is left of it at the last change."""

    __slots__ = ("arguments", "done", "left_s")

    def __init__(
        self, node: Node, work_s: float, width: float, done: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        # What its base does, without the call: a run makes one of these for everything that a thread does.
        self.nodes = (node,)
        self.cap = width
        self.rate = 0.0
        self.granted = 0.0
        self.seen = 0
        self.left_s = work_s
        self.done = done
        self.arguments = arguments


class SharedProcessors:
    """``count`` processors, shared max–min fairly among segments of work: none has more than its width, and none has
    less than another unless that is its width.

    ``busy_s``: processor seconds spent. Raises ValueError for a count that is not above 0.
    """

    __slots__ = ("_call", "_clock", "_ending", "_node", "_since_s", "_under_way", "busy_s", "count")

    def __init__(self, clock: Clock, count: float) -> None:
        if not count > 0:
            raise ValueError(f"a host has {count} processors, it must have more than 0")
        self.count = count
        self.busy_s = 0.0
        self._clock = clock
        self._node = Node(count)
        self._under_way: list[_Work] = []
        self._since_s = 0.0
        self._ending = False
        self._call: Call | None = None

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
        """Do ``work_s`` processor seconds on at most ``width`` processors at a time, then call ``done(*arguments)``.

        Work of nothing is done at once. Raises ValueError for negative work or a width that is not above 0.
        """
        if not work_s >= 0.0 or not width > 0.0:
            raise ValueError(f"work of {work_s} s on {width} processors: it must be at least 0, and they more than 0")
        if not work_s:
            done(*arguments)
            return
        self._advance()
        self._under_way.append(_Work(self._node, work_s, width, done, arguments))
        if not self._ending:
            self._share()

    def _advance(self) -> None:
        """Account for the time since the last change."""
        now = self._clock._now
        elapsed_s = now - self._since_s
        if elapsed_s:
            for one in self._under_way:
                one.left_s -= one.granted * elapsed_s
                self.busy_s += one.granted * elapsed_s
        self._since_s = now

    def _share(self) -> None:
        """Set all rates, and the call for the first that ends."""
        under_way = self._under_way
        wanted = 0.0
        for one in under_way:
            wanted += one.cap
        if wanted <= self.count:  # nobody is in another's way
            for one in under_way:
                one.granted = one.cap
        else:
            self._node.flows = dict.fromkeys(under_way)  # in the order in which they started
            fill([self._node], under_way)
        next_s = inf
        for one in under_way:
            lasts_s = one.left_s / one.granted
            if lasts_s < next_s:
                next_s = lasts_s
        if self._call is not None:
            self._clock.withdraw(self._call)
            self._call = None
        if under_way:
            self._call = self._clock.call_at(self._clock._now + max(next_s, 0.0), self._end)

    def _end(self) -> None:
        self._call = None
        self._advance()
        first_s = min(one.left_s for one in self._under_way)
        limit_s = max(first_s, _ENDED_S)
        ended = [one for one in self._under_way if one.left_s <= limit_s]
        self._under_way = [one for one in self._under_way if one.left_s > limit_s]
        # What follows from the ends begins at this moment, too: the processors are shared out once.
        self._ending = True
        for one in ended:
            one.done(*one.arguments)
        self._ending = False
        self._share()


class Thread:
    """One thread: it does one thing after the other, first come, first served.

    What holds it is a step: it begins with ``enter`` and lasts until ``leave``.
    """

    __slots__ = ("_busy", "_left_s", "_processors", "_takes", "_waiting")

    def __init__(self, processors: SharedProcessors) -> None:
        self._processors = processors
        self._busy = False
        self._left_s = 0.0
        self._takes = False
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    @property
    def idle_s(self) -> float:
        """For how long it has had nothing to do; 0 while it has."""
        return 0.0 if self._busy else self._processors.now - self._left_s

    def enter(self, step: Callable[..., object], *arguments: Any) -> None:
        """Call ``step(*arguments)`` as soon as the thread is free; it is then held until ``leave``."""
        if self._busy:
            self._waiting.append((step, arguments))
            return
        self._busy = True
        step(*arguments)

    def leave(self) -> None:
        """The step that holds the thread is over."""
        self._busy = False
        self._left_s = self._processors.now
        if self._takes:
            return  # a step that took no time; whoever began it goes on
        self._takes = True
        while self._waiting and not self._busy:
            self._busy = True
            step, arguments = self._waiting.popleft()
            step(*arguments)
        self._takes = False

    def run(self, work_s: float, done: Callable[..., object], *arguments: Any) -> None:
        """Work on one processor for ``work_s`` when the thread is free, then call ``done(*arguments)``."""
        self.enter(self._processors.run, work_s, 1.0, self._ran, done, arguments)

    def _ran(self, done: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        done(*arguments)
        self.leave()
