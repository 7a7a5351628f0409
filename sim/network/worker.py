"""The transfer workers whose writes end when others let them: on a link that may be shared, on processors that are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from protocol.layout import BufferLayout
from protocol.messages import StartWrite
from protocol.topology import RankId
from sim.clock import Clock
from sim.host.processors import SharedProcessors
from sim.network.adapters import Network
from sim.network.link import Contacts, LinkProfile, count_segments

_Queued = tuple[StartWrite, int, Callable[..., object], tuple[Any, ...]]
_Ending = tuple[StartWrite, Callable[..., object], tuple[Any, ...]]


class _Writer(ABC):
    """A thread that has one write at a time, in the order in which they were queued; how it writes, subclasses say."""

    __slots__ = ("_queue", "_writing")

    def __init__(self) -> None:
        self._queue: deque[_Queued] = deque()
        self._writing = False

    @property
    def waiting(self) -> int:
        """Writes that are queued and have not begun."""
        return len(self._queue)

    def queue(self, write: StartWrite, bytes_: int, done: Callable[..., object], *args: Any) -> None:
        """Queue a write; ``done(write, *args)`` is called when it ends, before the next one begins."""
        self._queue.append((write, bytes_, done, args))
        if not self._writing:
            self._begin()

    def abandon(self) -> None:
        """Begin none of the writes that are queued: the process has ended. The one under way runs to its end."""
        self._queue.clear()

    @abstractmethod
    def _begin(self) -> None:
        """Take the next write out of the queue and begin it."""

    def _ended(self, write: StartWrite, done: Callable[..., object], args: tuple[Any, ...]) -> None:
        done(write, *args)
        self._writing = False
        if self._queue:
            self._begin()


class QueuedWorker(_Writer):
    """One thread of an encode rank that writes, first come, first served.

    Each write makes contact if it is the first to its destination, posts its segments, moves its bytes through the
    network, and ends ``latency_s`` later; the thread is taken up by it all that time, as it is by a synchronous call of
    a transfer library. Several workers of one rank post side by side and share the rank's adapters.

    ``slowness``: its writes take so many times as long, in the thread and on the adapters, but for making contact.
    ``contacts``: one for all workers of a run; None charges nothing for first contacts.
    """

    __slots__ = (
        "_began_s",
        "_clock",
        "_contacts",
        "_layout",
        "_link",
        "_network",
        "_rank",
        "busy_s",
    )

    def __init__(
        self,
        clock: Clock,
        network: Network,
        layout: BufferLayout,
        rank: RankId,
        contacts: Contacts | None = None,
        slowness: float = 1.0,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._network = network
        self._layout = layout
        self._rank = rank
        self._contacts = contacts
        self._link = network.profile.slowed(slowness)
        self._began_s = 0.0
        self.busy_s = 0.0
        if slowness != 1.0:
            network.slow(rank, slowness)

    def _begin(self) -> None:
        write, bytes_, done, args = self._queue.popleft()
        self._writing = True
        self._began_s = now = self._clock._now
        link = self._link
        # Counting is for links that charge for segments.
        segments = (
            count_segments(self._layout, write.chunk, write.source_blocks, write.target_blocks)
            if link.counts_segments
            else 0
        )
        before_s = link.post_s(segments)
        if self._contacts is not None:
            before_s += self._contacts.wait_s(self._rank, write.destination, now)
        if before_s:
            self._clock.call_after(before_s, self._move, write, bytes_, segments, done, args)
        else:
            self._move(write, bytes_, segments, done, args)

    def _move(
        self, write: StartWrite, bytes_: int, segments: int, done: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self._network.start(self._rank, write.destination, bytes_, segments, self._moved, write, done, args)

    def _moved(self, write: StartWrite, done: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self._link.latency_s:
            self._clock.call_after(self._link.latency_s, self._end, write, done, args)
        else:
            self._end(write, done, args)

    def _end(self, write: StartWrite, done: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.busy_s += self._clock._now - self._began_s
        self._ended(write, done, args)


def _always() -> float:
    return 1.0


class HostedWorker(_Writer):
    """One thread of an encode rank that writes, first come, first served, on a host with few processors.

    A write keeps ``host.write_processors`` busy for as long as it takes with the link and all of these to itself. It
    also moves through ``network``, where there is one, and ends when both are done: the slower one holds it back.

    ``draw()``: how many times as long the next write takes.
    ``taken_s``: what of a write's duration is spent in the rank's own thread, which takes its completion.
    ``slowness``, ``contacts``: as of ``QueuedWorker``.
    """

    __slots__ = (
        "_clock",
        "_contacts",
        "_draw",
        "_layout",
        "_left",
        "_link",
        "_network",
        "_processors",
        "_rank",
        "_taken_s",
        "_width",
    )

    def __init__(
        self,
        clock: Clock,
        processors: SharedProcessors,
        network: Network | None,
        link: LinkProfile,
        layout: BufferLayout,
        rank: RankId,
        contacts: Contacts | None = None,
        slowness: float = 1.0,
        *,
        taken_s: float = 0.0,
        draw: Callable[[], float] = _always,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._processors = processors
        self._network = network
        self._link = link.slowed(slowness)
        self._layout = layout
        self._rank = rank
        self._contacts = contacts
        self._taken_s = taken_s
        self._draw = draw
        self._width = link.host.write_processors if link.host is not None else 0.0
        self._left = 0
        if network is not None and slowness != 1.0:
            network.slow(rank, slowness)

    def _begin(self) -> None:
        write, bytes_, done, args = self._queue.popleft()
        self._writing = True
        link = self._link
        segments = count_segments(self._layout, write.chunk, write.source_blocks, write.target_blocks)
        extra_s = 0.0
        if self._contacts is not None:
            extra_s = self._contacts.wait_s(self._rank, write.destination, self._clock._now)
        factor = self._draw()
        alone_s = max(0.0, factor * link.write_s(bytes_, segments) + extra_s - self._taken_s)
        self._left = (self._width > 0) + (self._network is not None)
        ending = (write, done, args)
        if not self._left:
            self._left = 1
            self._clock.call_after(alone_s, self._end, ending)
            return
        if self._network is not None:
            # Where in a write's life the thread's own part lies is of no matter to those that share its adapters.
            thread_s = max(0.0, alone_s - link.adapter_s(bytes_, segments) / link.share(bytes_))
            self._clock.call_after(thread_s, self._move, write, bytes_, segments, ending)
        if self._width > 0:
            self._processors.run(self._width * alone_s, self._width, self._end, ending)

    def _move(self, write: StartWrite, bytes_: int, segments: int, ending: _Ending) -> None:
        assert self._network is not None  # asked before the call was planned
        self._network.start(self._rank, write.destination, bytes_, segments, self._end, ending)

    def _end(self, ending: _Ending) -> None:
        self._left -= 1
        if self._left:
            return
        write, done, args = ending
        self._ended(write, done, args)
