"""The rank cores on the virtual clock: scheduler loops that poll, control messages, transfer workers, passes.

The cores decide, this file only says *when*. A rank has independent actors, as the real one has threads:

* the *scheduler loop* of its group. Turns lie on a grid of the loop's period. A turn that does work (encoder pass,
  gather copies and prefill) lasts as long as the work if that is longer than the period, and a new grid starts where
  it ends. Whatever arrives meanwhile is seen at the next turn, or at this one if it arrives at the same moment.
* the *control thread*: a message reaches the core ``control_latency_s`` after it was sent, whatever the loop does.
* the *transfer workers* of an encode rank. Those of a link that may be shared ask the ``network`` when a write ends;
  where nobody can share, that is known when it is queued.

Before a request reaches the encode ranks, a processor of their instance prepares its images.

Idle loops cost nothing: a turn that would find what the last one found is not held. That changes no result, because a
turn is a function of what it finds, and leaves the grid as it is.

What goes wrong is not decided here either: a ``faults.Faults`` is asked wherever something may (see there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from math import inf
from typing import Any

from protocol.agreement import hold_turn
from protocol.emulation.passes import Delivered, Passes
from protocol.emulation.scenario import Request, Scenario
from protocol.encode import EncodeRoom
from protocol.lifecycle import PROCESS_ENDED, Instances, life_of_the_lost
from protocol.messages import (
    Action,
    Conclude,
    CopyOut,
    Deliver,
    Encoded,
    EncodeRequest,
    LanguageRequest,
    Note,
    Offer,
    Prefilled,
    Send,
    StartEncode,
    StartWrite,
    Turn,
    WriteDone,
    WriterQuiet,
)
from protocol.observe.deadlock import Deadlock, find_deadlock
from protocol.rank import Room, RoomKey
from protocol.recording import Event, Recorder
from protocol.sizing import must_answer_alike
from protocol.status import FINAL, Status
from protocol.topology import RankId, Side
from sim.clock import Clock
from sim.cluster.group import Core, Group, Rank, Worker
from sim.faults import Faults, Watcher, WriteEnd
from sim.network.adapters import Network
from sim.network.link import Contacts, LinkProfile, TransferWorker
from sim.network.worker import QueuedWorker

MOST_DEADLOCKS = 16
"""Kept of one run. Timers end one deadlock and the rooms behind it make the next."""

_LANDED = WriteEnd(ok=True)
_INJECTED = WriteEnd(ok=False, reason="injected fault")


class _Fate:
    """What is known of a submitted request. ``memory``: whose blocks its last offers name, where processes may end."""

    __slots__ = ("delivered", "left", "memory")

    def __init__(self, ranks: int) -> None:
        self.left = ranks
        self.delivered = True
        self.memory: dict[RankId, Rank] = {}


class Cluster:
    """All ranks of a scenario on one clock.

    ``on_concluded(1)`` is called whenever one more request is concluded on all of its ranks.
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
        self.turns = 0
        self.copied_s = 0.0  # when the last of the copies and prefills begun so far ends
        self.bytes_written = 0
        self.bytes_landed = 0
        self.deadlocks: list[tuple[float, Deadlock]] = []
        self.instances = Instances()
        self._recorder = recorder
        self._on_concluded = on_concluded
        self._layout = scenario.layout
        self._services = scenario.services
        self._records_prefill = recorder is not None and scenario.services.prefills
        self._tells_prefill = scenario.release_after_prefill or self._records_prefill
        self._control_s = link.control_latency_s
        self._wakeup_s = link.wakeup_s
        self._adapters_before_s = 0.0
        self._failing_writes = bool(scenario.faults)
        self._faults = faults
        self._watcher: Watcher | None = None
        self._concluded_late_s = 0.0
        self._looked_s = -inf
        self._noted = 0
        self._fates: dict[tuple[int, int], _Fate] = {}
        self._ranks: dict[RankId, Rank] = {}
        self._groups: dict[tuple[Side, int], Group] = {}
        self._contacts = Contacts(link.first_contact_s) if link.first_contact_s else None
        self.network = Network(clock, link) if link.contended and self._may_share() else None
        ids = [*scenario.encode_ids(), *scenario.language_ids()]
        for order, (key, members) in enumerate(groupby(ids, lambda rank_id: (rank_id.side, rank_id.instance))):
            self._add_group(*key, list(members), order)
        if faults is not None:
            faults.begin(self)

    def _may_share(self) -> bool:
        """Whether two writes can be on the same adapters at a time."""
        scenario = self.scenario
        # Of the workers of a rank, as many are ever busy as there are instances to write to.
        writing = min(scenario.transfer_workers, scenario.language_instances)
        if self.link.shared_by == "instance":
            writing *= min(scenario.encode_tp, scenario.language_tp)
        return writing > 1 or scenario.encode_instances > 1

    def _add_group(self, side: Side, instance: int, rank_ids: list[RankId], order: int) -> None:
        slowness = self._faults.slowness if self._faults is not None else _as_fast_as_any
        ranks = [self._make_rank(rank_id, slowness(rank_id)) for rank_id in rank_ids]
        self._ranks.update(zip(rank_ids, ranks, strict=True))
        slowest = max(map(slowness, rank_ids))
        self._groups[side, instance] = Group(side, instance, ranks, self.scenario, slowest, order)

    def _make_rank(self, rank_id: RankId, slowness: float) -> Rank:
        if rank_id.side is Side.LANGUAGE:
            rank = Rank(self.scenario.make_language_rank(rank_id, self._recorder), ())
        else:
            workers = [self._make_worker(rank_id, one, slowness) for one in range(self.scenario.transfer_workers)]
            rank = Rank(self.scenario.make_encode_rank(rank_id, self._recorder), workers)
        if self._watcher is not None:
            rank.handle = _watched(rank.core, rank.handle, self._watcher)
        return rank

    def _make_worker(self, rank_id: RankId, number: int, slowness: float) -> Worker:
        if self.network is None:
            return TransferWorker(self.link.slowed(slowness), self._layout, rank_id, self._contacts)
        return QueuedWorker(self.clock, self.network, self._layout, rank_id, self._contacts, slowness)

    # --- questions ---

    @property
    def unfinished(self) -> int:
        """Requests that were submitted and not yet concluded on all of their ranks."""
        return len(self._fates)

    @property
    def cores(self) -> list[Core]:
        """The cores of all ranks, encode ranks first."""
        return [rank.core for rank in self._ranks.values()]

    @property
    def empty(self) -> bool:
        """Whether no core of a living process remembers a room."""
        return not any(core.rooms for core in self._living)

    @property
    def _living(self) -> Iterator[Core]:
        return (rank.core for rank in self._ranks.values() if not rank.gone)

    def adapters_s(self) -> float | None:
        """How long adapters worked since ``forget_adapters``, the mean over the busier direction; None if not known."""
        if not self.link.contended:
            return None
        if self.network is None:
            # One instance writes, a rank at a time to each of its destinations: no receiver has more than its sender.
            workers = [worker for rank in self._ranks.values() for worker in rank.workers]
            works_s = [one.work_s for one in workers if isinstance(one, TransferWorker)]
            writing = [work_s for work_s in works_s if work_s]
            if not works_s:
                return None
            return (sum(writing) / len(writing) if writing else 0.0) - self._adapters_before_s
        means_s = [0.0]
        for direction in ("send", "receive"):
            nodes = [one for one in self.network.statistics() if one.direction == direction]
            if nodes:
                means_s.append(sum(one.work_s for one in nodes) / len(nodes))
        return max(means_s) - self._adapters_before_s

    def forget_adapters(self) -> None:
        """Count the work of the adapters from now on."""
        self._adapters_before_s += self.adapters_s() or 0.0

    def leftovers(self) -> list[str]:
        """One sentence for every living rank that still has a room or lacks a block; empty after a clean run."""
        found = []
        for core in self._living:
            pool = core.pool
            if core.rooms or pool.free != pool.blocks:
                found.append(
                    f"{core.rank_id} remembers {len(core.rooms)} rooms and has {pool.free} of {pool.blocks} blocks "
                    f"free, {pool.fenced} fenced"
                )
        return found

    def ended(self) -> frozenset[RankId]:
        """Ranks whose processes have ended and were not replaced."""
        return frozenset(rank_id for rank_id, rank in self._ranks.items() if rank.gone)

    def look_for_deadlock(self) -> Deadlock | None:
        """The deadlock that rooms are in now, kept in ``deadlocks`` unless it is the one that was found last."""
        self._looked_s = self.clock.now
        found = find_deadlock(self._living)
        if found is not None and len(self.deadlocks) < MOST_DEADLOCKS:
            rooms = {room.room for room in found.cycle}
            if not self.deadlocks or rooms != {room.room for room in self.deadlocks[-1][1].cycle}:
                # Whether the end of a copy has an event of its own depends on whether it is recorded.
                self.deadlocks.append((max(self.clock.now, self.copied_s), found))
        return found

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher(rank, input, actions)`` of everything that the cores are given and ask for from now on."""
        self._watcher = watcher
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

    def feed_closed(
        self, requests: Iterator[Request], concurrency: int, before: Callable[[Request], None] | None = None
    ) -> None:
        """Submit ``concurrency`` requests now and one more whenever one is concluded, whatever times they have.

        ``before`` is told of a request just before its submission, with the time of that as its arrival.
        """
        told = self._on_concluded

        def concluded(count: int) -> None:
            if told is not None:
                told(count)
            # Not at once: the turn that concluded it is not over, and its client waits for the copies, too.
            self.clock.call_after(self._concluded_late_s, self._submit_next, requests, before)

        self._on_concluded = concluded
        self.clock.call_after(0.0, self._submit_first, requests, concurrency, before)

    def _submit_first(self, requests: Iterator[Request], count: int, before: Callable[[Request], None] | None) -> None:
        while count and self._submit_next(requests, before):
            count -= 1

    def _submit_next(self, requests: Iterator[Request], before: Callable[[Request], None] | None) -> bool:
        """Submit the next request now, if there is one."""
        request = next(requests, None)
        if request is None:
            return False
        request = request.arriving(self.clock._now)
        if before is not None:
            before(request)
        self.submit(request)
        return True

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
        key = (request.room, request.incarnation)
        self._fates[key] = _Fate(len(encode.ranks) + len(language.ranks))
        refusal = self.instances.refusal((Side.ENCODE, encode.instance), (Side.LANGUAGE, language.instance))
        if refusal:
            for rank in (*encode.ranks, *language.ranks):
                self.refuse(rank.core.rank_id, key, refusal)
            return
        encode.coming[key] = language.coming[key] = None
        time_s = self._handed_out_at(encode, language)
        if time_s > self.clock._now:
            self.clock.call_at(time_s, self._hand_out, request, encode, language)
        else:
            self._hand_out(request, encode, language)

    def _handed_out_at(self, encode: Group, language: Group) -> float:
        """When a request that arrives now is handed out to its processes."""
        return self.clock._now + self.link.submit_latency_s

    def _hand_out(self, request: Request, encode: Group, language: Group) -> None:
        """A request reaches the processes of its instances."""
        encode_request = self.scenario.encode_request(request)
        if self._services.preprocess_per_token_s:
            lasts_s = self._services.preprocess_s(request) * encode.slowness
            ready_s = encode.processors.give(self.clock._now, lasts_s)
            self.clock.call_at(ready_s, self._submit_to, encode, encode_request)
        else:
            self._submit_to(encode, encode_request)
        self._submit_to(language, self.scenario.language_request(request))

    def _submit_to(self, group: Group, request: EncodeRequest | LanguageRequest) -> None:
        if group.down:
            return  # it was lost with these processes
        del group.coming[request.room, request.incarnation]
        for rank in group.ranks:
            self._receive(rank, request)

    # --- inputs other than turns: handled at once ---

    def give(self, target: RankId, event: object) -> None:
        """Hand a message, or any other input but a turn, to a rank now."""
        rank = self._ranks[target]
        if not rank.gone:
            self._input(rank, event)

    def _receive(self, rank: Rank, message: object) -> None:
        """A message has reached a process."""
        self._input(rank, message)

    def _receive_named(self, target: RankId, message: object) -> None:
        rank = self._ranks[target]
        if not rank.gone:
            self._receive(rank, message)

    def _take(self, rank: Rank, event: object) -> None:
        """Something of a process's own is over: a write, a pass."""
        self._input(rank, event)

    def _input(self, rank: Rank, event: object) -> None:
        if self._faults is not None and not self._faults.admits(rank.core.rank_id, event):
            return
        now = self.clock._now
        actions = rank.handle(event, now)
        if actions:
            self._carry_out(rank, actions)
        group = rank.group
        if group.turn_due:
            return
        core = rank.core
        # What a turn finds: rooms that moved on or failed, blocks that came free, and on the language side new rooms.
        if core.has_news or type(event) is LanguageRequest:
            self._plan_turn(group, now)
        else:
            self._set_reminder(group, core)

    def _carry_out(self, rank: Rank, actions: list[Action]) -> None:
        """Carry out what an input other than a turn led to; nothing of it takes the rank's own time."""
        for action in actions:
            kind = type(action)
            if kind is Send:
                self._send(rank, action, self._control_s)  # type: ignore[arg-type]
            elif kind is StartWrite:
                self._start_write(rank, action)  # type: ignore[arg-type]
            else:
                raise TypeError(f"{rank.core.rank_id} may ask for {kind.__name__} in a turn only")

    def _send(self, rank: Rank, send: Send, delay_s: float) -> None:
        if self._faults is None:
            self.clock.call_after(delay_s, self._receive, self._ranks[send.to], send.message)
            return
        rank_id, message = rank.core.rank_id, send.message
        if isinstance(message, Offer) and (fate := self._fates.get((message.room, message.incarnation))) is not None:
            fate.memory[rank_id] = rank
        for extra_s in self._faults.copies(rank_id, send.to, message):
            self.clock.call_after(delay_s + extra_s, self._receive_named, send.to, message)

    # --- writes ---

    def _start_write(self, rank: Rank, write: StartWrite) -> None:
        bytes_ = self._layout.chunk_bytes(write.chunk)
        self.bytes_written += bytes_
        worker = rank.workers[write.destination.instance % len(rank.workers)]
        target = self._ranks[write.destination]
        if self._faults is not None and (fate := self._fates.get((write.room, write.incarnation))) is not None:
            # The offer may be older than the process that has the name now. It names another one's memory.
            target = fate.memory.get(write.destination, target)
            rank.flying[write.room, write.incarnation, write.destination] = write, target, bytes_
        if type(worker) is TransferWorker:
            clock = self.clock
            end_s = worker.queue(
                clock._now, bytes_, write.chunk, write.source_blocks, write.target_blocks, write.destination
            )
            clock.call_at(end_s, self._written, write, rank, target, bytes_)
        else:
            worker.queue(write, bytes_, self._written, rank, target, bytes_)  # type: ignore[arg-type]

    def _written(self, write: StartWrite, rank: Rank, target: Rank, bytes_: int) -> None:
        if rank.gone:
            return  # and with it the write, see end_processes
        rank.flying.pop((write.room, write.incarnation, write.destination), None)
        end = _LANDED
        if target.gone:
            end = WriteEnd(ok=False, reason="the destination's process ended")
        elif self._failing_writes and self.scenario.write_fails(write.room, write.epoch, write.destination):
            end = _INJECTED
        elif self._faults is not None:
            end = self._faults.write_ends(rank.core.rank_id, write)
        if end.ok:
            self._land(rank, write, bytes_)
        quiet = end.late_s is None
        done = WriteDone(write.room, write.incarnation, write.epoch, write.destination, end.ok, quiet, end.reason)
        self._take(rank, done)
        if end.late_s is not None:
            self.clock.call_after(end.late_s, self._written_late, write, rank, target, bytes_)

    def _written_late(self, write: StartWrite, rank: Rank, target: Rank, bytes_: int) -> None:
        if rank.gone:
            return
        if not target.gone:  # else the memory is not there any more
            self._land(rank, write, bytes_)
        self._take(rank, WriterQuiet(write.room, write.incarnation, write.destination))

    def _land_after_the_end(self, write: StartWrite, rank: Rank, target: Rank, bytes_: int) -> None:
        if not target.gone:
            self._land(rank, write, bytes_)

    def _land(self, rank: Rank, write: StartWrite, bytes_: int) -> None:
        self.bytes_landed += bytes_
        if self._faults is not None:
            self._faults.landed(rank.core.rank_id, write)

    def is_lost(self, write: StartWrite) -> bool:
        """Whether the memory that a write goes to is not there any more, because its process has ended."""
        fate = self._fates.get((write.room, write.incarnation))
        target = fate.memory.get(write.destination) if fate is not None else None
        return target is not None and target.gone

    # --- turns ---

    def _plan_turn(self, group: Group, not_before_s: float) -> None:
        """Hold the group's next turn."""
        group.turn_due = True
        self.clock.call_last_at(group.grid.next_s(not_before_s) + self._wakeup_s, group.order, self._turn, group)

    def _turn(self, group: Group) -> None:
        if group.down:
            return
        now = self.clock._now
        group.turn_due = False
        if self._faults is not None and self._held_up(group, now):
            return
        self.turns += 1
        turn = hold_turn(group.cores)
        lasts_s = self._encode_turn(group, turn) if group.side is Side.ENCODE else self._language_turn(group, turn)
        self._end_turn(group, now, lasts_s)

    def _held_up(self, group: Group, now: float) -> bool:
        """Whether a fault holds up the group's turn. It is held later then, if ever."""
        assert self._faults is not None
        ready_s = max(map(self._faults.ready_s, (rank.core.rank_id for rank in group.ranks)))
        if ready_s <= now:
            return False
        if ready_s < inf:
            self._plan_turn(group, ready_s)
        return True

    def _end_turn(self, group: Group, began_s: float, lasts_s: float) -> None:
        """A turn that began at ``began_s`` and is busy for ``lasts_s`` has been acted on: see to the next."""
        now = self.clock._now
        group.grid.end_turn(began_s, lasts_s)
        if group.passes.waiting:
            self._plan_turn(group, now)
            return
        for core in group.cores:
            if core.unsettled:
                self._plan_turn(group, now)
                return
        for core in group.cores:
            self._set_reminder(group, core)

    def _set_reminder(self, group: Group, core: Core) -> None:
        """See to it that the core's next timer leads to a turn."""
        due_s = core.timer_s
        # Deadlines mostly move later. A reminder that comes too early is set again then.
        if due_s is not None and (group.reminder_s is None or due_s < group.reminder_s):
            group.reminder_s = max(due_s, self.clock._now)
            self.clock.remind_at(group.reminder_s, self._remind, group, group.reminder_s)

    def _remind(self, group: Group, due_s: float) -> None:
        if group.reminder_s != due_s or group.down:
            return  # an earlier one has taken its place
        group.reminder_s = None
        if group.turn_due:
            return  # the turn looks at the timers itself
        now = self.clock._now
        if any((due := core.next_deadline()) is not None and due <= now for core in group.cores):
            self._look_before_the_timers()
            self._plan_turn(group, now)
            return
        for core in group.cores:
            self._set_reminder(group, core)

    def _look_before_the_timers(self) -> None:
        """A timer is about to end a room, and with it the deadlock it may be in, which nobody would see then."""
        # Under overload every room times out, and to look at all rooms each time would be quadratic.
        timeout_s = self.scenario.timeout_s or 0.0
        if len(self._fates) < 1000 or self.clock._now >= self._looked_s + timeout_s / 16:
            self.look_for_deadlock()

    def _encode_turn(self, group: Group, turn: Turn) -> float:
        """Let every rank take the turn; return how long its encoder pass lasts, seconds."""
        clock = self.clock
        now = clock._now
        started: list[tuple[Rank, Encoded]] = []
        work_s = 0.0
        for rank in group.ranks:
            own_s = 0.0
            for action in rank.handle(turn, now):
                kind = type(action)
                if kind is StartEncode:
                    own_s += action.encode_s  # type: ignore[union-attr]
                    started.append((rank, Encoded(action.room, action.incarnation)))  # type: ignore[union-attr]
                elif kind is Conclude:
                    self._conclude(rank.core.rank_id, action)  # type: ignore[arg-type]
                else:
                    self._carry_out(rank, [action])
            work_s = max(work_s, own_s)
        if not started:
            return 0.0
        pass_s = group.passes.encoder_s(work_s)
        clock.call_after(pass_s + self._wakeup_s, self._encoded, started)
        return pass_s

    def _encoded(self, started: list[tuple[Rank, Encoded]]) -> None:
        for rank, event in started:
            if not rank.gone:
                self._take(rank, event)

    def _language_turn(self, group: Group, turn: Turn) -> float:
        """Let every rank take the turn; return how long the copies and the prefill pass last, seconds."""
        ranks, passes = group.ranks, group.passes
        lasts_s = self._copy_turn(ranks[0], turn, passes)
        for rank in ranks[1:]:
            # The ranks of a group deliver alike, so the first one's deliveries are the group's.
            lasts_s = max(lasts_s, self._copy_turn(rank, turn, None))
        if group.compared:
            must_answer_alike(group.compared)
        if not passes.waiting:
            return lasts_s
        done, pass_s = passes.prefill()
        lasts_s += pass_s
        if self._services.prefills:
            self.copied_s = max(self.copied_s, self.clock._now + lasts_s)
        if self._tells_prefill:
            self.clock.call_after(lasts_s, self._prefilled, group, done)
        return lasts_s

    def _copy_turn(self, rank: Rank, turn: Turn, passes: Passes | None) -> float:
        """Let one rank take the turn; return how long its copies last, seconds. ``passes`` get what is delivered."""
        clock = self.clock
        late_s = 0.0
        for action in rank.handle(turn, clock._now):
            kind = type(action)
            if kind is Send:
                self._send(rank, action, late_s + self._control_s)  # type: ignore[arg-type]
            elif kind is CopyOut:
                bytes_ = action.tokens * self._layout.bytes_per_token  # type: ignore[union-attr]
                late_s += self.link.copy_s(bytes_) * rank.group.slowness
            elif kind is Deliver:
                if passes is not None:
                    passes.add(action)  # type: ignore[arg-type]
            elif kind is Conclude:
                self._conclude(rank.core.rank_id, action, late_s)  # type: ignore[arg-type]
            elif kind is Note:
                if self._recorder is None:
                    continue
                if late_s:
                    self._note_later(rank, action, late_s)  # type: ignore[arg-type]
                else:
                    self._note(rank.core.rank_id, action)  # type: ignore[arg-type]
            else:
                raise TypeError(f"{rank.core.rank_id} may not ask for {kind.__name__} in a turn")
        if late_s:
            self.copied_s = max(self.copied_s, clock._now + late_s)
        return late_s

    def _prefilled(self, group: Group, done: list[Delivered]) -> None:
        for one in done:
            for rank in group.ranks:
                if rank.gone:
                    continue
                rank_id = rank.core.rank_id
                if self._records_prefill and (self._faults is None or self._faults.ready_s(rank_id) < inf):
                    self._note(rank_id, Note(one.room, Event.PREFILLED, None, one.tokens, 0, ""))
                if self.scenario.release_after_prefill:
                    self._take(rank, Prefilled(one.room, one.incarnation))

    def _note_later(self, rank: Rank, note: Note, late_s: float) -> None:
        self._noted += 1
        rank.group.notes[self._noted] = (self.clock._now + late_s, rank.core.rank_id, note)
        self.clock.call_after(late_s, self._note_now, rank.group, self._noted)

    def _note_now(self, group: Group, number: int) -> None:
        if number in group.notes:
            _, rank_id, note = group.notes.pop(number)
            self._note(rank_id, note)

    def _note(self, rank_id: RankId, note: Note) -> None:
        assert self._recorder is not None  # asked before the call was planned
        self._recorder(
            self.clock._now, rank_id, note.room, note.event, note.status, note.tokens, note.bytes, note.detail
        )

    def _conclude(self, rank_id: RankId, conclusion: Conclude, late_s: float = 0.0) -> None:
        """A request is over on a rank, or will be when the copies of this turn are, in ``late_s``."""
        fate = self._fates[conclusion.room, conclusion.incarnation]
        fate.left -= 1
        # A request is served when all language ranks have it, whatever the encode side came to think of it.
        if rank_id.side is Side.LANGUAGE and conclusion.status is not Status.Success:
            fate.delivered = False
        if fate.left:
            return
        del self._fates[conclusion.room, conclusion.incarnation]
        if fate.delivered:
            self.succeeded += 1
        else:
            self.failed += 1
        if self._on_concluded is not None:
            self._concluded_late_s = late_s
            self._on_concluded(1)

    # --- processes that end and come back ---

    def end_processes(self, side: Side, instance: int) -> None:
        """End all processes of an instance now. Their rooms and their memory are gone, and nobody is told."""
        group = self._groups[side, instance]
        group.down = True
        self.instances.end((side, instance))
        # The copies under way count as done, since what they are for has been decided.
        for number, _ in sorted(group.notes.items(), key=lambda item: (item[1][0], item[0])):
            self._note_now(group, number)
        for rank in group.ranks:
            rank.gone = True
            for write, target, bytes_ in rank.flying.values():
                late_s = self._faults.outlives(rank.core.rank_id, write) if self._faults is not None else None
                if late_s is not None:
                    self.clock.call_after(late_s, self._land_after_the_end, write, rank, target, bytes_)
            for worker in rank.workers:
                worker.abandon()
            if self._contacts is not None:
                self._contacts.forget(rank.core.rank_id)
            for room in list(rank.core.rooms.values()):
                self._lose(rank.core, room)
        for key in group.coming:
            for rank in group.ranks:
                self.refuse(rank.core.rank_id, key, PROCESS_ENDED)

    def _lose(self, core: Core, room: Room) -> None:
        """A room ends with its process: its client sees the connection break, and its blocks exist no more."""
        if not room.over:
            self._conclude(core.rank_id, Conclude(*room.key, Status.Failed, PROCESS_ENDED))
        if self._faults is not None:
            self._faults.lost(core.rank_id, room.key)
        if self._recorder is None:
            return
        number = room.key[0]
        status = room.status
        tokens = room.sent_tokens if isinstance(room, EncodeRoom) else room.got_tokens  # type: ignore[attr-defined]
        if status not in FINAL:
            status = Status.Failed
            self._note(core.rank_id, Note(number, Event.FAILED, status, tokens, 0, PROCESS_ENDED))
        self._note(core.rank_id, Note(number, Event.RELEASED, status, tokens, 0, PROCESS_ENDED))

    def start_processes(self, side: Side, instance: int) -> None:
        """Start an instance anew after ``end_processes``: same names, new memory, nothing known. Nobody is told."""
        old = self._groups[side, instance]
        if not old.down:
            raise ValueError(f"{side.value} instance {instance} is up already")
        self._add_group(side, instance, [rank.core.rank_id for rank in old.ranks], old.order)
        self.instances.start((side, instance))

    def refuse(self, rank_id: RankId, key: RoomKey, reason: str) -> None:
        """A request never gets to a rank: its process ended before, or nobody is to have it."""
        if self._recorder is not None:
            for event, status, detail in life_of_the_lost(reason):
                self._note(rank_id, Note(key[0], event, status, 0, 0, detail))
        self._conclude(rank_id, Conclude(*key, Status.Failed, reason))
        if self._faults is not None:
            self._faults.lost(rank_id, key)


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
