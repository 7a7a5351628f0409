"""The transfer workers of an encode rank: take writes in order, move the bytes, report each completion."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import StartWrite, WriteDone
from bufferlab.protocol.topology import RankId
from bufferlab.real.counts import WriteCounts
from bufferlab.real.engine.base import TransferEngine
from bufferlab.real.engine.memory import Pool, addresses
from bufferlab.real.errors import EngineError

UNREGISTERED_OFFSET = 1 << 46
"""Added to a target address to make a write fail: no process has memory there, so the engine refuses the write."""


class Target(Protocol):
    """Where a rank's memory lies: its engine's peer name and the addresses of its pools, one per buffer kind."""

    @property
    def session(self) -> str:
        """The engine's peer name, host:port."""

    @property
    def bases(self) -> tuple[int, ...]:
        """The addresses of the pools."""


_Work = tuple[StartWrite, bool]
"""A write, and whether it is made to fail."""


class Writer:
    """``transfer_workers`` threads (one unless the scenario says otherwise), each with one write at a time.

    All writes to one language instance are one thread's, its destinations one after another, as in the original
    backend and in the simulator. ``on_done`` is called in the worker's thread; it must only hand the completion over.
    ``slowness``: how many times longer a write of this rank takes. ``counts``: of each thread, what it wrote; complete
    for a write before ``on_done`` is called for it.
    """

    def __init__(
        self,
        engine: TransferEngine,
        pool: Pool,
        layout: BufferLayout,
        targets: Mapping[RankId, Target],
        scenario: Scenario,
        on_done: Callable[[WriteDone], None],
        slowness: float = 1.0,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._layout = layout
        self._targets = targets
        self._scenario = scenario
        self._on_done = on_done
        self._slowness = slowness
        self._work: list[queue.SimpleQueue[_Work | None]] = []
        self._threads: list[threading.Thread] = []
        self.counts = tuple(WriteCounts() for _ in range(scenario.transfer_workers))
        for number, counts in enumerate(self.counts):
            work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
            thread = threading.Thread(target=self._run, args=(work, counts), name=f"writer {number}", daemon=True)
            self._work.append(work)
            self._threads.append(thread)
            thread.start()

    def start(self, write: StartWrite, *, fails: bool = False) -> None:
        """Queue one write, or one that is made to fail."""
        self._work[write.destination.instance % len(self._work)].put((write, fails))

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish what is queued and end the threads."""
        for work in self._work:
            work.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _run(self, work: queue.SimpleQueue[_Work | None], counts: WriteCounts) -> None:
        while (queued := work.get()) is not None:
            write, fails = queued
            began_s = time.monotonic()
            try:
                done = self._write(write, counts, fails=fails)
            except (EngineError, ValueError) as error:
                # Refused before anything was sent, for instance blocks that a bad grant names: the room fails, the
                # thread goes on. Were it to end here, every later room would wait for it in vain.
                done = _done(write, ok=False, quiet=True, reason=str(error))
            if self._slowness > 1:
                time.sleep((self._slowness - 1) * (time.monotonic() - began_s))
            self._on_done(done)

    def _write(self, write: StartWrite, counts: WriteCounts, *, fails: bool) -> WriteDone:
        target = self._targets[write.destination]
        segments = self._layout.segments(write.chunk, write.source_blocks, write.target_blocks)
        operations = addresses(segments, self._pool.bases, target.bases)
        injected = fails or self._scenario.write_fails(write.room, write.epoch, write.destination)
        if injected:
            # One segment is enough; several refused at once make the engine drop the connection, and with it, for a
            # second, the writes of other rooms.
            source, address, length = operations[0]
            operations = [(source, address + UNREGISTERED_OFFSET, length)]
        result = self._engine.write(target.session, operations)
        counts.writes += 1
        counts.write_bytes += result.completed_bytes
        counts.write_s += result.elapsed_s
        counts.segments += len(operations)
        # No segment of an injected failure is addressed to anybody's memory, so nothing of it can land late.
        return _done(write, ok=result.ok, quiet=result.quiet or injected, reason=result.failure)


def _done(write: StartWrite, *, ok: bool, quiet: bool, reason: str) -> WriteDone:
    return WriteDone(write.room, write.incarnation, write.epoch, write.destination, ok, quiet, reason)
