"""The inputs of the cores and their actions: the one place that gives inputs, carries out actions and queues writes.

A core's *input* is a message that arrives, or the end of one of its own writes or passes. What may follow from such an
input, from an encode iteration and from a language iteration differs; there is a method for each. An action that takes
the rank's own time is the business of whoever holds the iteration.
"""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.lifecycle import PROCESS_ENDED
from bufferlab.protocol.messages import (
    Action,
    Conclude,
    Deliver,
    EncodeRequest,
    LanguageRequest,
    Note,
    Offer,
    Send,
    StartWrite,
    WriteDone,
    WriterQuiet,
)
from bufferlab.protocol.topology import RankId
from bufferlab.sim.clock import Call
from bufferlab.sim.cluster.group import Rank
from bufferlab.sim.cluster.host import Host
from bufferlab.sim.cluster.requests import Requests
from bufferlab.sim.cluster.state import State
from bufferlab.sim.cluster.timers import Timers
from bufferlab.sim.faults import WriteEnd
from bufferlab.sim.network.transfer import TransferWorker


@final
class Messages:
    """Gives inputs to cores and carries out what follows. Bytes count when written, and again when they land."""

    def __init__(self, state: State, host: Host, requests: Requests, timers: Timers) -> None:
        self.bytes_written = 0
        self.bytes_landed = 0
        self._state = state
        self._host = host
        self._requests = requests
        self._control_s = host.control_s
        self._timers = timers
        self._clock = state.clock
        self._later = state.later
        self._layout = state.scenario.layout
        self._recorder = state.recorder
        self._faults = state.faults
        self._failing_writes = bool(state.scenario.faults)

    # --- inputs other than iterations ---

    def give(self, target: RankId, event: object) -> None:
        """Hand a message, or any other input but an iteration, to a rank now, whatever its threads do."""
        rank = self._state.rank_of(target)
        if not rank.gone:
            self.input(rank, event)

    def input(self, rank: Rank, event: object) -> None:
        """Give an input to a rank's core, unless a fault keeps it away, and carry out what follows from it."""
        if self._faults is not None and not self._faults.admits(rank.id, event):
            return
        now = self._clock._now
        if self._later and self._later[0].due_s <= now:
            self._state.note_due(now)
        for action in rank.handle(event, now):
            self.after_input(rank, action)
        group = rank.group
        if group.iteration_due:
            return
        core = rank.core
        # What an iteration finds: rooms that moved on or failed, blocks that came free, and on the language side new
        # rooms.
        if core.has_news or isinstance(event, LanguageRequest):
            self._host.plan_iteration(group, now)
        else:
            self._timers.set_reminder(group, core)

    def miss(self, rank: Rank, event: object) -> None:
        """An input has reached a process that ended meanwhile."""
        if isinstance(event, EncodeRequest | LanguageRequest):
            self._requests.refuse(rank.id, (event.room, event.incarnation), PROCESS_ENDED)

    # --- actions; all of these raise TypeError for one that may not be asked for ---

    def after_input(self, rank: Rank, action: Action) -> None:
        """Carry out an action that follows from an input: a message, or a write."""
        if isinstance(action, Send):
            self._send(rank, action, self._control_s)
        elif isinstance(action, StartWrite):
            self._start_write(rank, action)
        else:
            raise self._not_now(rank, action)

    def in_encode_iteration(self, rank: Rank, action: Action) -> None:
        """Carry out an action of an encode iteration other than to start a pass: a message, a write, a conclusion."""
        if isinstance(action, Conclude):
            self._requests.conclude(rank.id, action)
        else:
            self.after_input(rank, action)

    def in_language_iteration(self, rank: Rank, action: Action, late_s: float = 0.0) -> None:
        """Carry out an action of a language iteration other than to copy: a message, a delivery, a conclusion, a note.

        ``late_s``: how much later than now it is due, because the rank copies until then.
        """
        if isinstance(action, Send):
            self._send(rank, action, late_s + self._control_s)
        elif isinstance(action, Conclude):
            self._requests.conclude(rank.id, action, late_s)
        elif isinstance(action, Deliver):
            if rank is rank.group.ranks[0]:  # the ranks of a group deliver alike
                rank.group.passes.add(action)
        elif not isinstance(action, Note):
            raise self._not_now(rank, action)
        elif self._recorder is not None:
            if late_s:
                self._state.note_later(rank, action, late_s)
            else:
                self._state.note(rank.id, action)

    def _not_now(self, rank: Rank, action: Action) -> TypeError:
        return TypeError(f"{rank.id} may not ask for {type(action).__name__} now")

    def _send(self, rank: Rank, send: Send, delay_s: float) -> None:
        if self._faults is None:
            self._clock.put_after(delay_s, _Coming(self._host, self._state.rank_of(send.to), send.message))
            return
        message = send.message
        if isinstance(message, Offer):
            outcome = self._requests.outcomes.get((message.room, message.incarnation))
            if outcome is not None:
                outcome.memory[rank.id] = rank
        for extra_s in self._faults.copies(rank.id, send.to, message):
            self._clock.call_after(delay_s + extra_s, self._receive_named, send.to, message)

    def _receive_named(self, target: RankId, message: object) -> None:
        rank = self._state.rank_of(target)
        if not rank.gone:
            self._host.receive(rank, message)

    # --- writes ---

    def _start_write(self, rank: Rank, write: StartWrite) -> None:
        bytes_ = self._layout.chunk_bytes(write.chunk)
        self.bytes_written += bytes_
        destination = write.destination
        worker = rank.workers[destination.instance % len(rank.workers)]
        target = self._state.rank_of(destination)
        if self._faults is not None:
            outcome = self._requests.outcomes.get((write.room, write.incarnation))
            if outcome is not None:
                # The offer may be older than the process that has the name now. It names another one's memory.
                target = outcome.memory.get(destination, target)
                rank.flying[write.room, write.incarnation, destination] = write, target, bytes_
        ending = _Ending(self, write, rank, target, bytes_)
        if isinstance(worker, TransferWorker):
            self._clock.put_at(worker.queue(self._clock._now, bytes_, write), ending)
        else:
            worker.queue(write, bytes_, ending)

    def written(self, write: StartWrite, rank: Rank, target: Rank, bytes_: int) -> None:
        """A write has ended."""
        if rank.gone:
            return  # and with it the write, see end_writes
        if rank.flying:
            rank.flying.pop((write.room, write.incarnation, write.destination), None)
        end: WriteEnd | None = None
        if target.gone:
            end = WriteEnd(ok=False, reason="the destination's process ended")
        elif self._failing_writes and self._state.scenario.write_fails(write.room, write.epoch, write.destination):
            end = _INJECTED
        elif self._faults is not None:
            end = self._faults.write_ends(rank.id, write)
        if end is None or end.ok:
            self._land(rank, write, bytes_)
        if end is None:
            self._host.take(rank, WriteDone(write.room, write.incarnation, write.epoch, write.destination, True))
            return
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
            late_s = self._faults.outlives(rank.id, write) if self._faults is not None else None
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
            self._faults.landed(rank.id, write)


_INJECTED: Final = WriteEnd(ok=False, reason="injected fault")


@mypyc_attr(free_list_len=1)
@final
class _Coming(Call):
    """A control message is on its way to a rank."""

    def __init__(self, host: Host, rank: Rank, message: object) -> None:
        self._host = host
        self._rank = rank
        self._message = message

    def run(self) -> None:
        self._host.receive(self._rank, self._message)


@mypyc_attr(free_list_len=1)
@final
class _Ending(Call):
    """A write is on its way; ``target`` is whose memory it goes to."""

    def __init__(self, messages: Messages, write: StartWrite, rank: Rank, target: Rank, bytes_: int) -> None:
        self._messages = messages
        self._write = write
        self._rank = rank
        self._target = target
        self._bytes = bytes_

    def run(self) -> None:
        self._messages.written(self._write, self._rank, self._target, self._bytes)
