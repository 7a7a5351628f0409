"""The inputs of the cores and their actions: the one place that gives inputs, carries out actions and queues writes.

A core's *input* is a message that arrives, or the end of one of its own writes or passes. ``AT_ONCE`` has the actions
that may follow from such an input besides messages; ``IN_ENCODE_ITERATIONS`` and ``IN_LANGUAGE_ITERATIONS`` have those
that may follow from iterations.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.lifecycle import PROCESS_ENDED
from protocol.messages import (
    Action,
    Conclude,
    CopyOut,
    Deliver,
    EncodeRequest,
    LanguageRequest,
    Note,
    Offer,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
    WriterQuiet,
)
from protocol.topology import RankId
from sim.cluster.group import Rank
from sim.cluster.host import Host
from sim.cluster.requests import Requests
from sim.cluster.state import State
from sim.cluster.timers import Timers
from sim.faults import WriteEnd
from sim.network.link import TransferWorker

AT_ONCE: frozenset[type] = frozenset({StartWrite})
IN_ENCODE_ITERATIONS: frozenset[type] = frozenset({StartWrite, StartEncode, Conclude})
IN_LANGUAGE_ITERATIONS: frozenset[type] = frozenset({CopyOut, Deliver, Conclude, Note})

_LANDED = WriteEnd(ok=True)
_INJECTED = WriteEnd(ok=False, reason="injected fault")


class Messages:
    """Gives inputs to cores and carries out what follows. Bytes count when written, and again when they land."""

    def __init__(self, state: State, host: Host, requests: Requests, timers: Timers) -> None:
        self.bytes_written = 0
        self.bytes_landed = 0
        self._state = state
        self._host = host
        self._requests = requests
        self._control_s = host.control_s
        self._plan_iteration = host.plan_iteration
        self._set_reminder = timers.set_reminder
        self._clock = state.clock
        self._ranks = state.ranks
        self._later = state.later
        self._layout = state.scenario.layout
        self._recorder = state.recorder
        self._faults = state.faults
        self._failing_writes = bool(state.scenario.faults)

    # --- inputs other than iterations ---

    def give(self, target: RankId, event: object) -> None:
        """Hand a message, or any other input but an iteration, to a rank now, whatever its threads do."""
        rank = self._ranks[target]
        if not rank.gone:
            self.input(rank, event)

    def input(self, rank: Rank, event: object) -> None:
        """Give an input to a rank's core, unless a fault keeps it away, and carry out what follows from it."""
        if self._faults is not None and not self._faults.admits(rank.core.rank_id, event):
            return
        now = self._clock._now
        if self._later and self._later[0][0] <= now:
            self._state.note_due(now)
        actions = rank.handle(event, now)
        if actions:
            self.carry_out(rank, iter(actions), AT_ONCE)
        group = rank.group
        if group.iteration_due:
            return
        core = rank.core
        # What an iteration finds: rooms that moved on or failed, blocks that came free, and on the language side new
        # rooms.
        if core.has_news or type(event) is LanguageRequest:
            self._plan_iteration(group, now)
        else:
            self._set_reminder(group, core)

    def miss(self, rank: Rank, event: object) -> None:
        """An input has reached a process that ended meanwhile."""
        if isinstance(event, EncodeRequest | LanguageRequest):
            self._requests.refuse(rank.core.rank_id, (event.room, event.incarnation), PROCESS_ENDED)

    # --- actions ---

    def carry_out(
        self, rank: Rank, actions: Iterator[Action], allowed: frozenset[type], late_s: float = 0.0
    ) -> StartEncode | CopyOut | None:
        """Carry out actions up to the first that takes the rank's own time, which is returned; None at their end.

        ``late_s``: how much later than now they are due, because the rank copies until then. Raises TypeError for an
        action that is not ``allowed``.
        """
        for action in actions:
            kind = type(action)
            if kind is Send:  # anybody may, at any time
                self._send(rank, action, late_s + self._control_s)  # type: ignore[arg-type]
            elif kind not in allowed:
                raise TypeError(f"{rank.core.rank_id} may not ask for {kind.__name__} now")
            elif kind is StartWrite:
                self._start_write(rank, action)  # type: ignore[arg-type]
            elif kind is Conclude:
                self._requests.conclude(rank.core.rank_id, action, late_s)  # type: ignore[arg-type]
            elif kind is Note:
                if self._recorder is None:
                    continue
                if late_s:
                    self._state.note_later(rank, action, late_s)  # type: ignore[arg-type]
                else:
                    self._state.note(rank.core.rank_id, action)  # type: ignore[arg-type]
            elif kind is Deliver:
                if rank is rank.group.ranks[0]:  # the ranks of a group deliver alike
                    rank.group.passes.add(action)  # type: ignore[arg-type]
            else:
                return action  # type: ignore[return-value]
        return None

    def _send(self, rank: Rank, send: Send, delay_s: float) -> None:
        if self._faults is None:
            self._clock.call_after(delay_s, self._host.receive, self._ranks[send.to], send.message)
            return
        rank_id, message = rank.core.rank_id, send.message
        if isinstance(message, Offer):
            outcome = self._requests.outcomes.get((message.room, message.incarnation))
            if outcome is not None:
                outcome.memory[rank_id] = rank
        for extra_s in self._faults.copies(rank_id, send.to, message):
            self._clock.call_after(delay_s + extra_s, self._receive_named, send.to, message)

    def _receive_named(self, target: RankId, message: object) -> None:
        rank = self._ranks[target]
        if not rank.gone:
            self._host.receive(rank, message)

    # --- writes ---

    def _start_write(self, rank: Rank, write: StartWrite) -> None:
        bytes_ = self._layout.chunk_bytes(write.chunk)
        self.bytes_written += bytes_
        worker = rank.workers[write.destination.instance % len(rank.workers)]
        target = self._ranks[write.destination]
        if self._faults is not None:
            outcome = self._requests.outcomes.get((write.room, write.incarnation))
            if outcome is not None:
                # The offer may be older than the process that has the name now. It names another one's memory.
                target = outcome.memory.get(write.destination, target)
                rank.flying[write.room, write.incarnation, write.destination] = write, target, bytes_
        if type(worker) is TransferWorker:
            clock = self._clock
            end_s = worker.queue(
                clock._now, bytes_, write.chunk, write.source_blocks, write.target_blocks, write.destination
            )
            clock.call_at(end_s, self._written, write, rank, target, bytes_)
        else:
            worker.queue(write, bytes_, self._written, rank, target, bytes_)  # type: ignore[arg-type]

    def _written(self, write: StartWrite, rank: Rank, target: Rank, bytes_: int) -> None:
        if rank.gone:
            return  # and with it the write, see end_writes
        rank.flying.pop((write.room, write.incarnation, write.destination), None)
        end = _LANDED
        if target.gone:
            end = WriteEnd(ok=False, reason="the destination's process ended")
        elif self._failing_writes and self._state.scenario.write_fails(write.room, write.epoch, write.destination):
            end = _INJECTED
        elif self._faults is not None:
            end = self._faults.write_ends(rank.core.rank_id, write)
        if end.ok:
            self._land(rank, write, bytes_)
        quiet = end.late_s is None
        done = WriteDone(write.room, write.incarnation, write.epoch, write.destination, end.ok, quiet, end.reason)
        self._host.take(rank, done)
        if end.late_s is not None:
            self._clock.call_after(end.late_s, self._written_late, write, rank, target, bytes_)

    def _written_late(self, write: StartWrite, rank: Rank, target: Rank, bytes_: int) -> None:
        if rank.gone:
            return
        if not target.gone:  # else the memory is not there any more
            self._land(rank, write, bytes_)
        self._host.take(rank, WriterQuiet(write.room, write.incarnation, write.destination))

    def end_writes(self, rank: Rank) -> None:
        """A process has ended: none of its writes begins or is reported; some of those in flight land."""
        for write, target, bytes_ in rank.flying.values():
            late_s = self._faults.outlives(rank.core.rank_id, write) if self._faults is not None else None
            if late_s is not None:
                self._clock.call_after(late_s, self._land_after_the_end, write, rank, target, bytes_)
        for worker in rank.workers:
            worker.abandon()

    def _land_after_the_end(self, write: StartWrite, rank: Rank, target: Rank, bytes_: int) -> None:
        if not target.gone:
            self._land(rank, write, bytes_)

    def _land(self, rank: Rank, write: StartWrite, bytes_: int) -> None:
        self.bytes_landed += bytes_
        if self._faults is not None:
            self._faults.landed(rank.core.rank_id, write)
