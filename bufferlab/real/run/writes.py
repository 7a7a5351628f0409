"""The writes that an encode rank has ordered: in line for the writer's threads, or taken back before they begin."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from bufferlab.protocol.messages import StartWrite, WriteDone
from bufferlab.protocol.topology import RankId
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.counts import WriteCounts
from bufferlab.real.engine.writer import Writer
from bufferlab.real.faults import FailWrites
from bufferlab.real.run.clock import RunClock

WRITES_AHEAD = 2
"""Writes that each of the writer's threads has at a time, so that it never waits for the main thread. The others wait
here, where those to a peer that has gone can be taken back: behind a hung peer each would cost the engine's 2 s."""


class Writes:
    """For the main thread alone.

    ``make_writer``: makes a writer to the processes that stand for the ranks now. ``on_begin`` is told of writes of
    announced rooms as they begin.
    """

    def __init__(
        self, spec: RankSpec, clock: RunClock, make_writer: Callable[[], Writer], on_begin: Callable[[int], None]
    ) -> None:
        workers = spec.scenario.transfer_workers
        self._announced = spec.announced_writes
        self._failures = [
            fault
            for fault in spec.faults
            if isinstance(fault, FailWrites) and (fault.writer, fault.generation) == (spec.rank_id, spec.generation)
        ]
        self._clock = clock
        self._make_writer = make_writer
        self._on_begin = on_begin
        self._writer = make_writer()
        self._retired: list[Writer] = []
        self._waiting: list[deque[StartWrite]] = [deque() for _ in range(workers)]
        self._writing = [0] * workers
        self._begun: Counter[RankId] = Counter()  # by destination

    def add(self, write: StartWrite) -> None:
        """Let a write wait for its turn, or begin it."""
        self._waiting[self._worker_of(write.destination)].append(write)
        self.begin(write.destination)

    def ended(self, done: WriteDone) -> None:
        """A write is over; ``begin`` gives its worker the next one."""
        self._writing[self._worker_of(done.destination)] -= 1

    def begin(self, destination: RankId) -> None:
        """Give the worker of this destination as many of its writes as it may have."""
        worker = self._worker_of(destination)
        waiting = self._waiting[worker]
        while waiting and self._writing[worker] < WRITES_AHEAD:
            write = waiting.popleft()
            if write.room in self._announced:
                self._on_begin(write.room)
            self._writing[worker] += 1
            self._writer.start(write, fails=self._fails(write.destination))

    def take_back(self, destination: RankId) -> list[WriteDone]:
        """Drop the writes to a rank that is down and have not begun; how they ended, for the core."""
        waiting = self._waiting[self._worker_of(destination)]
        hopeless = [write for write in waiting if write.destination == destination]
        kept = [write for write in waiting if write.destination != destination]
        waiting.clear()
        waiting.extend(kept)
        reason = f"not begun: {destination} is down"
        return [
            WriteDone(write.room, write.incarnation, write.epoch, destination, False, True, reason)
            for write in hopeless
        ]

    def readdress(self) -> None:
        """Another process stands for a rank: what is with the writer is still for those that were there when it was
        ordered, and what comes from now on is not."""
        self._writer.close(0.0)
        self._retired.append(self._writer)
        self._writer = self._make_writer()

    def counts(self) -> WriteCounts:
        """What all threads have written until now."""
        total = WriteCounts()
        for writer in (self._writer, *self._retired):
            for counts in writer.counts:
                total.add(counts)
        return total

    def close(self) -> None:
        """Finish what is with the writers and end their threads."""
        for writer in (self._writer, *self._retired):
            writer.close()

    def _worker_of(self, destination: RankId) -> int:
        return destination.instance % len(self._waiting)

    def _fails(self, destination: RankId) -> bool:
        """Whether the next write to this rank is one that is made to fail."""
        number = self._begun[destination]
        self._begun[destination] += 1
        now_s = self._clock.now_s()
        return any(
            number in fault.numbers and (fault.until_s is None or now_s < fault.until_s)
            for fault in self._failures
            if fault.destination == destination
        )
