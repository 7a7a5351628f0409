"""The rank cores on the virtual clock: scheduler loops that poll, control messages, transfer workers, services.

The cores decide, this file only says *when*. A rank has three independent actors, as the real one has threads:

* the *scheduler loop* of its group. Turns lie on a grid of the loop's period. A turn that does work (encoder pass,
  gather copies and prefill) lasts as long as the work if that is longer than the period, and a new grid starts where
  it ends. Whatever arrives meanwhile is seen at the next turn, or at this one if it arrives at the same moment.
* the *control thread*: a message reaches the core ``control_latency_s`` after it was sent, whatever the loop does.
* the *transfer worker* of an encode rank (see ``link.TransferWorker``).

Idle loops cost nothing: a turn that would find what the last one found is not held. That changes no result, because a
turn is a function of what it finds, and leaves the grid as it is.

What goes wrong is not decided here either: a ``faults.Faults`` is asked wherever something may (see there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import ceil, inf
from typing import Any

from protocol.agreement import hold_turn
from protocol.encode import EncodeRank
from protocol.language import LanguageRank
from protocol.messages import (
    Action,
    Conclude,
    CopyOut,
    Deliver,
    Encoded,
    LanguageRequest,
    Note,
    Send,
    StartEncode,
    StartWrite,
    Turn,
    WriteDone,
    WriterQuiet,
)
from protocol.recording import Recorder
from protocol.scenario import Request, Scenario
from protocol.status import Status
from protocol.topology import RankId, Side
from sim.clock import Clock
from sim.faults import Faults, WriteEnd
from sim.link import LinkProfile, TransferWorker

Core = EncodeRank | LanguageRank
Watcher = Callable[[RankId, object, list[Action]], None]

_LANDED = WriteEnd(ok=True)
_INJECTED = WriteEnd(ok=False, reason="injected fault")


class LoopGrid:
    """When a scheduler loop turns: at origin_s + index * period_s, for index from ``index`` on."""

    __slots__ = ("index", "origin_s", "period_s")

    def __init__(self, period_s: float) -> None:
        if not period_s >= 0:
            raise ValueError(f"the period of a scheduler loop is {period_s} s, it must be at least 0")
        self.origin_s = 0.0
        self.period_s = period_s
        self.index = 0

    def next_s(self, now: float) -> float:
        """The first turn at or after ``now``. It is the next one: ``index`` moves there."""
        origin_s, period_s = self.origin_s, self.period_s
        if not period_s:
            return max(origin_s, now)
        index = ceil((now - origin_s) / period_s)
        # The quotient is rounded, so the neighbours decide.
        if origin_s + index * period_s < now:
            index += 1
        elif origin_s + (index - 1) * period_s >= now:
            index -= 1
        if index > self.index:
            self.index = index
        return origin_s + self.index * period_s

    def end_turn(self, began_s: float, lasts_s: float) -> None:
        """A turn that began at ``began_s`` is busy for ``lasts_s``; the next comes a period later, or when it ends."""
        if lasts_s > self.period_s:
            self.origin_s = began_s + lasts_s
            self.index = 0
        elif self.period_s:
            self.index += 1
        else:
            self.origin_s = began_s


class _Rank:
    """One core with what its driver needs."""

    __slots__ = ("core", "group", "handle", "worker")

    def __init__(self, core: Core, worker: TransferWorker | None) -> None:
        self.core = core
        self.handle: Callable[[Any, float], list[Action]] = core.handle
        self.worker = worker
        self.group: _Group


class _Group:
    """The ranks of one instance of one side, and their common scheduler loop."""

    __slots__ = ("cores", "grid", "order", "ranks", "reminder_s", "side", "slowness", "turn_due", "turns")

    def __init__(self, side: Side, ranks: Sequence[_Rank], period_s: float, slowness: float, order: int) -> None:
        self.side = side
        self.ranks = ranks
        self.cores = [rank.core for rank in ranks]
        self.slowness = slowness  # of its slowest rank, which all the others wait for
        self.grid = LoopGrid(period_s * slowness)
        self.order = order  # of turns that fall on the same moment
        self.turn_due = False
        self.turns = 0
        self.reminder_s: float | None = None
        for rank in ranks:
            rank.group = self


class _Fate:
    """What is known of a submitted request."""

    __slots__ = ("delivered", "left")

    def __init__(self, ranks: int) -> None:
        self.left = ranks
        self.delivered = True


class Cluster:
    """All ranks of a scenario on one clock.

    ``on_concluded(count)`` is called whenever one more request is concluded on all of its ranks.
    ``faults`` decides what goes wrong besides the scenario's own failed writes; None for nothing.
    Raises ValueError for a scenario that cannot be built.
    """

    def __init__(
        self,
        scenario: Scenario,
        link: LinkProfile,
        clock: Clock,
        recorder: Recorder | None = None,
        on_concluded: Callable[[int], None] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.scenario = scenario
        self.link = link
        self.clock = clock
        self.submitted = 0
        self.succeeded = 0
        self.failed = 0
        self.bytes_written = 0
        self.bytes_landed = 0
        self._recorder = recorder
        self._on_concluded = on_concluded
        self._layout = scenario.layout
        self._services = scenario.services
        self._control_s = link.control_latency_s
        self._failing_writes = bool(scenario.faults)
        self._faults = faults
        self._fates: dict[tuple[int, int], _Fate] = {}
        self._ranks: dict[RankId, _Rank] = {}
        self._groups: dict[tuple[Side, int], _Group] = {}
        slowness = faults.slowness if faults is not None else _as_fast_as_any
        for rank_id in scenario.encode_ids():
            worker = TransferWorker(link.slowed(slowness(rank_id)), self._layout)
            self._ranks[rank_id] = _Rank(scenario.make_encode_rank(rank_id, recorder), worker)
        for rank_id in scenario.language_ids():
            self._ranks[rank_id] = _Rank(scenario.make_language_rank(rank_id, recorder), None)
        periods = {Side.ENCODE: self._services.encode_turn_s, Side.LANGUAGE: self._services.language_turn_s}
        by_group = groupby(self._ranks.items(), lambda item: (item[0].side, item[0].instance))
        for order, (key, items) in enumerate(by_group):
            members = [rank for _, rank in items]
            slowest = max(slowness(rank.core.rank_id) for rank in members)
            self._groups[key] = _Group(key[0], members, periods[key[0]], slowest, order)
        if faults is not None:
            faults.begin(self)

    # --- questions ---

    @property
    def unfinished(self) -> int:
        """Requests that were submitted and not yet concluded on all of their ranks."""
        return len(self._fates)

    @property
    def turns(self) -> int:
        """Turns held so far, over all groups."""
        return sum(group.turns for group in self._groups.values())

    @property
    def cores(self) -> list[Core]:
        """The cores of all ranks, encode ranks first."""
        return [rank.core for rank in self._ranks.values()]

    @property
    def empty(self) -> bool:
        """Whether no core remembers a room."""
        return not any(rank.core.rooms for rank in self._ranks.values())

    def leftovers(self) -> list[str]:
        """One sentence for every rank that still has a room or lacks a block; empty after a clean run."""
        found = []
        for core in self.cores:
            pool = core.pool
            if core.rooms or pool.free != pool.blocks:
                found.append(
                    f"{core.rank_id} remembers {len(core.rooms)} rooms and has {pool.free} of {pool.blocks} blocks "
                    f"free, {pool.fenced} fenced"
                )
        return found

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher(rank, input, actions)`` of everything that the cores are given and ask for from now on."""
        for rank in self._ranks.values():
            rank.handle = _watched(rank.core, rank.handle, watcher)

    # --- requests ---

    def feed(self, requests: Iterator[Request], before: Callable[[Request], None] | None = None) -> None:
        """Submit ``requests`` at their times, pulling the next one when the last arrives.

        ``before`` is told of a request just before its submission. Requests that are out of order, or for an instance
        that is not there, raise ValueError.
        """
        request = next(requests, None)
        if request is None:
            return
        if not request.arrival_s >= self.clock.now:
            raise ValueError(
                f"room {request.room}: arrival_s is {request.arrival_s}, it must not lie before its predecessor's"
            )
        self.clock.call_at(request.arrival_s, self._arrive, request, requests, before)

    def _arrive(self, request: Request, requests: Iterator[Request], before: Callable[[Request], None] | None) -> None:
        if before is not None:
            before(request)
        self.submit(request)
        self.feed(requests, before)

    def submit(self, request: Request) -> None:
        """Give a request to all ranks of its two instances, now. Raises ValueError for an unknown instance."""
        encode = self._groups.get((Side.ENCODE, request.encode_instance))
        language = self._groups.get((Side.LANGUAGE, request.language_instance))
        if encode is None or language is None:
            raise ValueError(
                f"room {request.room} wants encode instance {request.encode_instance} and language instance "
                f"{request.language_instance}; there are {self.scenario.encode_instances} and "
                f"{self.scenario.language_instances}"
            )
        self.submitted += 1
        self._fates[request.room, request.incarnation] = _Fate(len(encode.ranks) + len(language.ranks))
        encode_request = self.scenario.encode_request(request)
        for rank in encode.ranks:
            self._input(rank, encode_request)
        language_request = self.scenario.language_request(request)
        for rank in language.ranks:
            self._input(rank, language_request)

    # --- inputs other than turns: handled at once ---

    def give(self, target: RankId, event: object) -> None:
        """Hand a message, or any other input but a turn, to a rank now."""
        self._input(self._ranks[target], event)

    def _input(self, rank: _Rank, event: object) -> None:
        if self._faults is not None and not self._faults.admits(rank.core.rank_id, event):
            return
        actions = rank.handle(event, self.clock._now)
        if actions:
            self._carry_out(rank, actions)
        group = rank.group
        if group.turn_due:
            return
        core = rank.core
        # What a turn finds: rooms that moved on or failed, blocks that came free, and on the language side new rooms.
        if core.candidates() or core.unsettled or type(event) is LanguageRequest:
            self._plan_turn(group)
        else:
            self._set_reminder(group)

    def _carry_out(self, rank: _Rank, actions: list[Action]) -> None:
        """Carry out what an input other than a turn led to; nothing of it takes the rank's own time."""
        for action in actions:
            kind = type(action)
            if kind is Send:
                self._send(rank, action, self._control_s)  # type: ignore[arg-type]
            elif kind is StartWrite:
                self._start_write(rank, action)  # type: ignore[arg-type]
            else:
                raise TypeError(f"{rank.core.rank_id} may ask for {kind.__name__} in a turn only")

    def _send(self, rank: _Rank, send: Send, delay_s: float) -> None:
        if self._faults is None:
            self.clock.call_after(delay_s, self.give, send.to, send.message)
            return
        for extra_s in self._faults.copies(rank.core.rank_id, send.to, send.message):
            self.clock.call_after(delay_s + extra_s, self.give, send.to, send.message)

    def _start_write(self, rank: _Rank, write: StartWrite) -> None:
        assert rank.worker is not None  # language ranks do not write
        clock = self.clock
        bytes_ = self._layout.chunk_bytes(write.chunk)
        self.bytes_written += bytes_
        end_s = rank.worker.queue(clock._now, bytes_, write.chunk, write.source_blocks, write.target_blocks)
        clock.call_at(end_s, self._written, rank, write, bytes_)

    def _written(self, rank: _Rank, write: StartWrite, bytes_: int) -> None:
        end = _LANDED
        if self._failing_writes and self.scenario.write_fails(write.room, write.epoch, write.destination):
            end = _INJECTED
        elif self._faults is not None:
            end = self._faults.write_ends(rank.core.rank_id, write)
        if end.ok:
            self._land(rank, write, bytes_)
        quiet = end.late_s is None
        done = WriteDone(write.room, write.incarnation, write.epoch, write.destination, end.ok, quiet, end.reason)
        self._input(rank, done)
        if end.late_s is not None:
            self.clock.call_after(end.late_s, self._written_late, rank, write, bytes_)

    def _written_late(self, rank: _Rank, write: StartWrite, bytes_: int) -> None:
        self._land(rank, write, bytes_)
        self._input(rank, WriterQuiet(write.room, write.incarnation, write.destination))

    def _land(self, rank: _Rank, write: StartWrite, bytes_: int) -> None:
        self.bytes_landed += bytes_
        if self._faults is not None:
            self._faults.landed(rank.core.rank_id, write)

    # --- turns ---

    def _plan_turn(self, group: _Group, not_before_s: float = 0.0) -> None:
        """Hold the group's next turn."""
        group.turn_due = True
        clock = self.clock
        clock.call_last_at(group.grid.next_s(max(clock._now, not_before_s)), group.order, self._turn, group)

    def _turn(self, group: _Group) -> None:
        group.turn_due = False
        if self._faults is not None:
            ready_s = max(map(self._faults.ready_s, (rank.core.rank_id for rank in group.ranks)))
            if ready_s > self.clock._now:
                if ready_s < inf:
                    self._plan_turn(group, ready_s)
                return
        group.turns += 1
        turn = hold_turn(group.cores)
        if group.side is Side.ENCODE:
            lasts_s = self._encode_turn(group, turn)
        elif len(group.ranks) == 1:
            lasts_s = self._language_turn(group.ranks[0], turn)
        else:
            lasts_s = max([self._language_turn(rank, turn) for rank in group.ranks])
        group.grid.end_turn(self.clock._now, lasts_s)
        if any(core.unsettled for core in group.cores):
            self._plan_turn(group)
        else:
            self._set_reminder(group)

    def _set_reminder(self, group: _Group) -> None:
        """See to it that the next timer of the group leads to a turn."""
        for core in group.cores:
            due_s = core.next_deadline()
            # Deadlines mostly move later. A reminder that comes too early is set again then.
            if due_s is not None and (group.reminder_s is None or due_s < group.reminder_s):
                group.reminder_s = max(due_s, self.clock._now)
                self.clock.remind_at(group.reminder_s, self._remind, group, group.reminder_s)

    def _remind(self, group: _Group, due_s: float) -> None:
        if group.reminder_s != due_s:
            return  # an earlier one has taken its place
        group.reminder_s = None
        if group.turn_due:
            return  # the turn looks at the timers itself
        if any((due := core.next_deadline()) is not None and due <= self.clock._now for core in group.cores):
            self._plan_turn(group)
        else:
            self._set_reminder(group)

    def _encode_turn(self, group: _Group, turn: Turn) -> float:
        """Let every rank take the turn; return how long its encoder pass lasts, seconds."""
        clock = self.clock
        started: list[tuple[_Rank, Encoded]] = []
        work_s = 0.0
        for rank in group.ranks:
            own_s = 0.0
            for action in rank.handle(turn, clock._now):
                kind = type(action)
                if kind is StartEncode:
                    own_s += action.encode_s  # type: ignore[union-attr]
                    started.append((rank, Encoded(action.room, action.incarnation)))  # type: ignore[union-attr]
                elif kind is Conclude:
                    self._conclude(rank, action)  # type: ignore[arg-type]
                else:
                    self._carry_out(rank, [action])
            work_s = max(work_s, own_s)
        if not started:
            return 0.0
        # The ranks of a group run the same pass together.
        pass_s = (self._services.encode_base_s + work_s) * group.slowness
        clock.call_after(pass_s, self._encoded, started)
        return pass_s

    def _encoded(self, started: list[tuple[_Rank, Encoded]]) -> None:
        for rank, event in started:
            self._input(rank, event)

    def _language_turn(self, rank: _Rank, turn: Turn) -> float:
        """Let one rank take the turn; return how long its copies and its prefill last, seconds."""
        clock = self.clock
        services = self._services
        now = clock._now
        late_s = 0.0
        prefill_s = 0.0
        for action in rank.handle(turn, now):
            kind = type(action)
            if kind is Send:
                self._send(rank, action, late_s + self._control_s)  # type: ignore[arg-type]
            elif kind is CopyOut:
                bytes_ = action.tokens * self._layout.bytes_per_token  # type: ignore[union-attr]
                late_s += self.link.copy_s(bytes_) * rank.group.slowness
            elif kind is Deliver:
                prefill_s = prefill_s or services.prefill_base_s
                prefill_s += services.prefill_s(action.total_tokens, action.prefill_factor)  # type: ignore[union-attr]
            elif kind is Conclude:
                self._conclude(rank, action)  # type: ignore[arg-type]
            elif kind is Note:
                if late_s:
                    clock.call_after(late_s, self._note, rank.core.rank_id, action)
                else:
                    self._note(rank.core.rank_id, action)  # type: ignore[arg-type]
            else:
                raise TypeError(f"{rank.core.rank_id} may not ask for {kind.__name__} in a turn")
        return late_s + prefill_s * rank.group.slowness

    def _note(self, rank_id: RankId, note: Note) -> None:
        if self._recorder is not None:
            self._recorder(
                self.clock._now, rank_id, note.room, note.event, note.status, note.tokens, note.bytes, note.detail
            )

    def _conclude(self, rank: _Rank, conclusion: Conclude) -> None:
        fate = self._fates[conclusion.room, conclusion.incarnation]
        fate.left -= 1
        # A request is served when all language ranks have it, whatever the encode side came to think of it.
        if rank.worker is None and conclusion.status is not Status.Success:
            fate.delivered = False
        if fate.left:
            return
        del self._fates[conclusion.room, conclusion.incarnation]
        if fate.delivered:
            self.succeeded += 1
        else:
            self.failed += 1
        if self._on_concluded is not None:
            self._on_concluded(self.succeeded + self.failed)


def _as_fast_as_any(_: RankId) -> float:
    return 1.0


def _watched(
    core: Core, handle: Callable[[Any, float], list[Action]], watcher: Watcher
) -> Callable[[Any, float], list[Action]]:
    def watched(event: Any, now: float) -> list[Action]:
        actions = handle(event, now)
        watcher(core.rank_id, event, actions)
        return actions

    return watched
