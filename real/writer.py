"""The transfer worker of an encode rank: takes writes in order, moves the bytes, reports each completion."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

from protocol.layout import BufferLayout
from protocol.messages import StartWrite, WriteDone
from protocol.scenario import Scenario
from protocol.topology import RankId
from real.engine import Engine
from real.memory import Pool, addresses
from real.orders import Route

UNREGISTERED_OFFSET = 1 << 46
"""Added to a target address to make a write fail: no process has memory there, so the engine refuses the write."""


class Writer:
    """One thread, one write at a time, destinations one after another, as the original backend's worker does.

    ``on_done`` is called in the worker's thread; it must only hand the completion over.
    """

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        layout: BufferLayout,
        routes: Mapping[RankId, Route],
        scenario: Scenario,
        on_done: Callable[[WriteDone], None],
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._layout = layout
        self._routes = routes
        self._scenario = scenario
        self._on_done = on_done
        self._work: queue.SimpleQueue[StartWrite | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def start(self, write: StartWrite) -> None:
        """Queue one write."""
        self._work.put(write)

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish what is queued and end the thread."""
        self._work.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (write := self._work.get()) is not None:
            self._on_done(self._write(write))

    def _write(self, write: StartWrite) -> WriteDone:
        route = self._routes[write.destination]
        pieces = self._layout.pieces(write.chunk, write.source_blocks, write.target_blocks)
        operations = addresses(pieces, self._pool.bases, route.bases)
        injected = self._scenario.write_fails(write.room, write.epoch, write.destination)
        if injected:
            # One piece is enough; several refused at once make the engine drop the connection, and with it, for a
            # second, the writes of other rooms.
            source, target, length = operations[0]
            operations = [(source, target + UNREGISTERED_OFFSET, length)]
        result = self._engine.write(route.session, operations)
        return WriteDone(
            write.room,
            write.incarnation,
            write.epoch,
            write.destination,
            result.ok,
            # No piece of an injected failure is addressed to anybody's memory, so nothing of it can land late.
            result.quiet or injected,
            result.failure,
        )
