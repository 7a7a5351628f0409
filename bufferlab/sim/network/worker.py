"""The transfer workers whose writes end when others let them: on a link that may be shared, on processors that are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import StartWrite
from bufferlab.protocol.topology import RankId
from bufferlab.sim.clock import Call, Clock
from bufferlab.sim.host.processors import SharedProcessors
from bufferlab.sim.host.spread import Spread
from bufferlab.sim.network.adapters import Network
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.network.transfer import Contacts, count_segments

# What a queued write does next.
_MOVES: Final = 0
_PASSES: Final = 1  # the latency
_ENDS: Final = 2


@mypyc_attr(free_list_len=1)
@final
class _Writing(Call):
    """A write on its way through a worker, which goes on with it whenever a part of it is over; ``then`` comes last."""

    def __init__(self, worker: _Writer, write: StartWrite, bytes_: int, then: Call) -> None:
        self.worker: Final = worker
        self.write: Final = write
        self.bytes: Final = bytes_
        self.then: Final = then
        self.segments = 0
        self.next = _MOVES

    def run(self) -> None:
        self.worker.go_on(self)


class _Writer(ABC):
    """A thread that has one write at a time, in the order in which they were queued; how it writes, subclasses say."""

    def __init__(self) -> None:
        self._queue: deque[_Writing] = deque()
        self._writing = False

    @property
    def waiting(self) -> int:
        """Writes that are queued and have not begun."""
        return len(self._queue)

    def queue(self, write: StartWrite, bytes_: int, then: Call) -> None:
        """Queue a write; ``then`` runs when it ends, before the next one begins."""
        writing = _Writing(self, write, bytes_, then)
        if self._writing:
            self._queue.append(writing)
        else:
            self._writing = True
            self._begin(writing)

    def abandon(self) -> None:
        """Begin none of the writes that are queued: the process has ended. The one under way runs to its end."""
        self._queue.clear()

    @abstractmethod
    def _begin(self, writing: _Writing) -> None:
        """Begin a write."""

    @abstractmethod
    def go_on(self, writing: _Writing) -> None:
        """A part of a write is over."""

    def _ended(self, writing: _Writing) -> None:
        writing.then.run()
        if self._queue:
            self._begin(self._queue.popleft())
        else:
            self._writing = False


@final
class QueuedWorker(_Writer):
    """One thread of an encode rank that writes, first come, first served.

    Each write makes contact if it is the first to its destination, posts its segments, moves its bytes through the
    network, and ends ``latency_s`` later; the thread is taken up by it all that time, as it is by a synchronous call of
    a transfer library. Several workers of one rank post side by side and share the rank's adapters.

    ``slowness``: its writes take so many times as long, in the thread and on the adapters, but for making contact.
    ``contacts``: one for all workers of a run; None charges nothing for first contacts.
    """

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
        self._link = network.profile.slowed(slowness).times
        self._began_s = 0.0
        self.busy_s = 0.0
        if slowness != 1.0:
            network.slow(rank, slowness)

    def _begin(self, writing: _Writing) -> None:
        self._began_s = now = self._clock._now
        link, write = self._link, writing.write
        # Counting is for links that charge for segments.
        if link.counts_segments:
            writing.segments = count_segments(self._layout, write.chunk, write.source_blocks, write.target_blocks)
        before_s = link.post_s(writing.segments)
        if self._contacts is not None:
            before_s += self._contacts.wait_s(self._rank, write.destination, now)
        if before_s:
            self._clock.put_after(before_s, writing)
        else:
            self.go_on(writing)

    def go_on(self, writing: _Writing) -> None:
        """It has been posted, has moved, or its latency has passed."""
        if writing.next == _MOVES:
            writing.next = _PASSES
            self._network.move(self._rank, writing.write.destination, writing.bytes, writing.segments, writing)
        elif writing.next == _PASSES and self._link.latency_s:
            writing.next = _ENDS
            self._clock.put_after(self._link.latency_s, writing)
        else:
            self.busy_s += self._clock._now - self._began_s
            self._ended(writing)


@final
class HostedWorker(_Writer):
    """One thread of an encode rank that writes, first come, first served, on a host with few processors.

    A write keeps ``host.write_processors`` busy for as long as it takes with the link and all of these to itself. It
    also moves through ``network``, where there is one, and ends when both are done: the slower one holds it back.

    ``spread``: how many times as long each write takes; None for once.
    ``taken_s``: what of a write's duration is spent in the rank's own thread, which takes its completion.
    ``slowness``, ``contacts``: as of ``QueuedWorker``.
    """

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
        spread: Spread | None = None,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._processors = processors
        self._network = network
        self._link = link.slowed(slowness).times
        self._layout = layout
        self._rank = rank
        self._contacts = contacts
        self._taken_s = taken_s
        self._spread = spread
        self._width = link.host.write_processors if link.host is not None else 0.0
        self._left = 0
        if network is not None and slowness != 1.0:
            network.slow(rank, slowness)

    def _begin(self, writing: _Writing) -> None:
        link, write, bytes_ = self._link, writing.write, writing.bytes
        segments = count_segments(self._layout, write.chunk, write.source_blocks, write.target_blocks)
        writing.segments = segments
        extra_s = 0.0
        if self._contacts is not None:
            extra_s = self._contacts.wait_s(self._rank, write.destination, self._clock._now)
        factor = 1.0 if self._spread is None else self._spread.draw()
        alone_s = max(0.0, factor * link.write_s(bytes_, segments) + extra_s - self._taken_s)
        self._left = (self._width > 0) + (self._network is not None)
        if not self._left:
            self._left = 1
            self._clock.put_after(alone_s, writing)
            return
        if self._network is not None:
            # Where in a write's life the thread's own part lies is of no matter to those that share its adapters.
            thread_s = max(0.0, alone_s - link.adapter_s(bytes_, segments) / link.share(bytes_))
            self._clock.put_after(thread_s, _Moving(self._network, self._rank, writing))
        if self._width > 0:
            self._processors.work(self._width * alone_s, self._width, writing)

    def go_on(self, writing: _Writing) -> None:
        """It has moved, or has had its processors."""
        self._left -= 1
        if not self._left:
            self._ended(writing)


@mypyc_attr(free_list_len=1)
@final
class _Moving(Call):
    """A write that was posted moves through the network."""

    def __init__(self, network: Network, rank: RankId, writing: _Writing) -> None:
        self._network = network
        self._rank = rank
        self._writing = writing

    def run(self) -> None:
        writing = self._writing
        self._network.move(self._rank, writing.write.destination, writing.bytes, writing.segments, writing)
