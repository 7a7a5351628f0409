"""Hands out the requests of a measured run, carries out its faults, and keeps account of what becomes of them.

This module is longer than others because one loop does all of it, out of one account of the run. What can be told
without that account is in modules of its own (``accounts``, ``troubles``, ``patience``, ``standstill``, ``outcome``).
"""

from __future__ import annotations

import collections
import heapq
import math
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import msgspec
import zmq

from protocol.emulation.processors import Processors
from protocol.emulation.scenario import Request
from protocol.lifecycle import MEMBER_GRACE_S, PROCESS_ENDED, Instance, Instances, instance_of
from protocol.messages import Abort
from protocol.observe.deadlock import Deadlock
from protocol.recording import Event, Record
from protocol.status import Status
from protocol.topology import RankId, Side
from real.counts import Counts
from real.engine.proof import TransportProof, with_own_traffic, with_traffic
from real.errors import EngineError, in_words
from real.faults import ClientAbort, Kill, Pause, ProcessFault, RealFault, Restart, slowest_of
from real.run.accounts import Accounts
from real.run.orders import (
    GROUP_STATUS,
    Alive,
    Ask,
    Broken,
    Concluded,
    Describe,
    GiveUp,
    Holdings,
    Order,
    Ready,
    Records,
    Report,
    Stop,
    Submit,
    WriteBegins,
)
from real.run.outcome import Conclusion, Incident, RealOutcome
from real.run.patience import Patience, Watch
from real.run.ranks import EXIT_TIMEOUT_S, POLL_S, START_TIMEOUT_S, Child, Ranks
from real.run.standstill import Standstill, look_s, rooms_of
from real.run.troubles import Troubles
from real.run.usage import Meter, Part, Usage

LEAD_S = 0.05
"""Time between the order to start and time zero, so that every rank knows the zero before the first request."""

LAST_WORDS_S = 0.05
"""How long what a process said before its end may be on its way."""

MOST_DEADLOCKS = 16
"""Kept of one run, as in a simulated one."""

BREAKS = (EngineError, OSError, zmq.ZMQError, subprocess.TimeoutExpired)
"""What can go wrong in the router's own work without being a mistake of its own: a full disk, a port that is taken."""

WATCH_S = 0.25
"""Time between two looks at whether everybody who is waited for gives signs of life."""


class Router:
    """Hands out the requests of one run and keeps account of them."""

    def __init__(
        self,
        ranks: Ranks,
        plan: Sequence[RealFault],
        progress: Callable[[int], None] | None,
        concurrency: int | None,
        patience: Patience,
    ) -> None:
        self._ranks = ranks
        self._scenario = ranks.scenario
        self._progress = progress
        self._concurrency = concurrency
        self._plan = plan
        self._coming: collections.deque[Request] = collections.deque()
        self._submitted: list[Request] = []
        self._accounts = Accounts()
        self._processors = {instance: self._make_processors() for instance in range(self._scenario.encode_instances)}
        self._waiting: dict[tuple[int, int], set[RankId]] = {}
        self._conclusions: list[Conclusion] = []
        self._incidents: list[Incident] = []
        self._reports: dict[RankId, Report] = {}
        self._watch = Watch(patience, time.monotonic())
        self._watched_s = 0.0
        self._troubles = Troubles()
        self._given_up: dict[tuple[int, int], float] = {}  # requests, and when whoever still has one is not waited for
        self._ended_early = ""
        self._closing = False
        self._instances = Instances()
        self._starting: dict[tuple[Side, int], float] = {}  # and until when
        self._paused: set[RankId] = set()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._agenda_count = 0
        self._planned = [fault for fault in plan if isinstance(fault, ProcessFault | ClientAbort)]
        self._standstill = Standstill()
        self._deadlocks: list[str] = []
        self._deadlocked_rooms: frozenset[int] = frozenset()
        self._look_s = look_s(self._scenario.timeout_s)
        self._concluded_s: dict[tuple[Side, int], float] = {}
        self._begun_s = time.monotonic()
        self._zero_s = 0.0
        self._news_s = 0.0
        self._looked_s = 0.0
        # The router has no engine; what else has threads without a name here is a library that the caller uses.
        self._meter = Meter(unnamed=Part.OTHER)
        self._counts = Counts()
        self._usage: Usage | None = None

    def run(self, requests: Sequence[Request]) -> RealOutcome:
        """Hand out the requests at their times, or as earlier ones end, wait for the end, collect."""
        try:
            return self._run(requests)
        except BaseException:
            # The exception holds this object until somebody drops it, and its files with it.
            self._accounts.close()
            raise

    def _run(self, requests: Sequence[Request]) -> RealOutcome:
        counters = self._ranks.hosts.sent_counters()
        self._zero_s = time.monotonic() + LEAD_S
        for rank_id in self._ranks.ids:
            self._ranks.begin(rank_id, self._zero_s)
        for fault in self._planned:
            if fault.time_s is not None:
                self._at(fault.time_s, lambda fault=fault: self._inflict(fault))  # type: ignore[misc]
        self._moved()
        self._coming.extend(requests)
        try:
            self._see_to_all()
        except BREAKS as error:
            # What was delivered until now is not given away for what went wrong after it.
            self._troubles.add(self._now_s(), in_words(error), struck=self._waiting)
            self._end_early("the run was broken off")
            self._drop(set(self._waiting), in_words(error))
        end_s = self._now_s()
        self._usage = self._meter.stop(self._counts)
        self._closing = True
        try:
            self._collect()
        except BREAKS as error:
            self._troubles.add(self._now_s(), f"the ranks could not give their accounts: {in_words(error)}")
            for rank_id, child in self._ranks.children.items():
                if rank_id not in self._reports:
                    child.kill()
        self._close()
        for rank_id in self._ranks.measure_again():
            if rank_id in self._reports:  # of one that has left it is told already
                self._note(f"the clock of {rank_id} was not measured again, so its drift is unknown")
        return self._outcome(end_s, counters)

    def _see_to_all(self) -> None:
        """Until all requests are concluded."""
        while self._coming or self._waiting or self._starting or self._paused:
            if not self._meter.started and self._now_s() >= 0:
                self._meter.start()
            while self._coming and self._due_s() <= self._now_s():
                self._submit(self._coming.popleft())
            while self._agenda and self._agenda[0][0] <= self._now_s():
                heapq.heappop(self._agenda)[2]()
            due_s = min(self._due_s(), self._agenda[0][0] if self._agenda else math.inf)
            for order in self._ranks.receive(min(POLL_S, due_s - self._now_s())):
                self._take(order)
            self._notice_ends()
            self._look_for_deadlock()
            if time.monotonic() - self._watched_s >= WATCH_S:
                self._watched_s = time.monotonic()
                self._watch_ranks()
                self._look_for_standstill()
                self._look_who_is_left()

    def _now_s(self) -> float:
        return time.monotonic() - self._zero_s

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        self._agenda_count += 1
        heapq.heappush(self._agenda, (time_s, self._agenda_count, action))

    # --- requests ---

    def _due_s(self) -> float:
        """When the next request is to be submitted; never while a closed loop is full."""
        if not self._coming:
            return math.inf
        if self._concurrency is None:
            return self._coming[0].arrival_s
        return 0.0 if len(self._waiting) < self._concurrency else math.inf

    def _submit(self, request: Request) -> None:
        if self._concurrency is not None:
            request = request.arriving(self._now_s())
        self._submitted.append(request)
        self._counts.submissions += 1
        key = (request.room, request.incarnation)
        self._progressed()
        groups = ((Side.ENCODE, request.encode_instance), (Side.LANGUAGE, request.language_instance))
        wanted = [rank_id for group in groups for rank_id in self._ranks.members(*group)]
        for group in groups:
            self._troubles.strike(group, key)
        refusal = self._instances.refusal(*groups)
        if refusal:
            # Its ranks may be known already and would be waited for, but do not take requests yet.
            for rank_id in wanted:
                self._accounts.refuse(rank_id, request.room, self._now_s(), refusal)
            self._conclusions.append(Conclusion(self._now_s(), *key, None, None, refusal))
            self._report_progress()
            return
        self._waiting[key] = set(wanted)
        self._hand_out(key, Side.LANGUAGE, Submit(self._scenario.language_request(request)))
        encode = Submit(self._scenario.encode_request(request))
        lasts_s = self._scenario.services.preprocess_s(request)
        if not lasts_s:
            self._hand_out(key, Side.ENCODE, encode)
            return
        instance = request.encode_instance
        lasts_s *= slowest_of(self._plan, Side.ENCODE, instance)
        ready_s = self._processors[instance].give(self._now_s(), lasts_s)
        self._at(ready_s, lambda: self._hand_out(key, Side.ENCODE, encode))

    def _make_processors(self) -> Processors:
        """Those that prepare the images of one encode instance."""
        return Processors(self._scenario.services.preprocess_workers)

    def _hand_out(self, key: tuple[int, int], side: Side, order: Submit) -> None:
        """Give a request to the ranks of one side; those that ended since it came are not waited for any more."""
        for rank_id in sorted(self._waiting.get(key, ())):
            if rank_id.side is side:
                self._ranks.send(rank_id, order)

    def _conclude(self, key: tuple[int, int], rank_id: RankId, status: Status | None, reason: str) -> None:
        left = self._waiting.get(key)
        if left is None or rank_id not in left:
            return
        self._conclusions.append(Conclusion(self._now_s(), *key, rank_id, status, reason))
        left.remove(rank_id)
        if not left:
            del self._waiting[key]
            self._report_progress()

    def _report_progress(self) -> None:
        if self._progress is not None:
            self._progress(1)

    def _progressed(self) -> None:
        self._news_s = time.monotonic()
        self._watch.moved(self._news_s)

    def _moved(self) -> None:
        """Something happened to a process, and what was seen of it is of no use any more."""
        self._progressed()
        self._standstill.forget()

    # --- what the ranks say ---

    def _take(self, order: Order) -> None:
        self._counts.inputs += 1
        now = time.monotonic()
        speaker: RankId | None = getattr(order, "rank_id", None)
        if speaker is not None and (silent_s := self._watch.heard(speaker, now)):
            self._hear_again(speaker, silent_s)
        match order:
            case Concluded(rank_id, room, incarnation, status, reason, generation, records):
                self._progressed()
                self._concluded_s[rank_id.side, rank_id.instance] = now
                self._conclude((room, incarnation), rank_id, status, reason)
                self._accounts.take(rank_id, generation, records)
            case WriteBegins(_, room):
                struck = [one for one in self._planned if isinstance(one, ProcessFault) and one.on_write_of == room]
                for fault in struck:
                    self._inflict(fault)
            case Records():
                self._accounts.add(order)
            case Ready(rank_id):
                self._moved()
                if not self._ranks.note_ready(order):
                    return
                self._ranks.begin(rank_id, self._zero_s)
                group = (rank_id.side, rank_id.instance)
                if all(self._ranks.alive(member) for member in self._ranks.members(*group)):
                    self._starting.pop(group, None)
                    self._instances.start(group)
                    self._note(f"{group[0].value}{group[1]} is up again")
            case Holdings():
                deadlock = self._standstill.add(order)
                if deadlock is not None:
                    self._deadlocked(deadlock)
            case Alive():
                self._watch.answered(order, now)
            case Broken(rank_id, reason):
                child = self._ranks.children[rank_id]
                if child.ready and not child.doomed:
                    self._suffer(child, f"{rank_id} broke: {reason}")
                    child.doomed = True
                    self._at(self._now_s() + MEMBER_GRACE_S, child.kill)  # it ends by itself, or else
            case Report(rank_id) if self._closing:
                self._reports[rank_id] = order
            case _:
                raise EngineError(f"a rank sent {type(order).__name__} in the middle of the run")

    def _suffer(self, child: Child, what: str) -> None:
        """Something happened to a rank that nobody planned."""
        self._note(what)
        self._blame(child, what)

    def _blame(self, child: Child, what: str, *, follows: bool = False) -> None:
        struck = [key for key, members in self._waiting.items() if child.rank_id in members]
        self._troubles.add(self._now_s(), what, rank_id=child.rank_id, struck=struck, follows=follows)

    def _is_struck(self, instance: Instance) -> bool:
        """Whether a planned fault has hit the processes of an instance."""
        hit = [fault for fault in self._plan if isinstance(fault, ProcessFault) and fault not in self._planned]
        return any(
            instance == ((one.side, one.instance) if isinstance(one, Restart) else instance_of(one.rank)) for one in hit
        )

    # --- processes that end ---

    def _notice_ends(self) -> None:
        now_s = self._now_s()
        self._notice_ends_of(self._ranks.children.values())
        for group, until_s in list(self._starting.items()):
            if now_s > until_s:
                self._note(f"{group[0].value}{group[1]} was not up after {START_TIMEOUT_S:g} s")
                for rank_id in self._ranks.members(*group):
                    self._ranks.children[rank_id].kill()
                del self._starting[group]

    def _notice_ends_of(self, children: Iterable[Child]) -> None:
        """Take note of those of these processes that have ended: of a cause before what follows from it."""
        now_s = self._now_s()
        ended = [child for child in children if not child.gone and child.process.poll() is not None]
        for child in ended:
            if child.ended_s is None:
                child.ended_s = now_s
        for child in sorted(ended, key=lambda child: child.process.poll() == GROUP_STATUS):
            if not child.gone and now_s - (child.ended_s or 0.0) >= LAST_WORDS_S:
                self._lose(child)

    def _lose(self, child: Child) -> None:
        child.gone = True
        self._paused.discard(child.rank_id)
        self._moved()
        if child.ready:
            self._note_end(child)
        else:
            self._note(f"{child.rank_id} did not start: {child.process.last_words()}")
            self._starting.pop(child.instance, None)
        waiting = [key for key, members in self._waiting.items() if child.rank_id in members]
        self._accounts.end(child.rank_id, child.generation, [room for room, _ in waiting], self._now_s())
        for key in waiting:
            self._conclude(key, child.rank_id, None, PROCESS_ENDED)
        # The others notice themselves that they can agree on nothing without it, or else.
        self._instances.end(child.instance)
        for other in self._others_of(child):
            if other.process.poll() is None:  # else it has its own reason, which is told when its end is noticed
                other.doomed |= not child.left  # one that was left alone is not the reason why others end
                self._at(self._now_s() + MEMBER_GRACE_S, other.kill)

    def _others_of(self, child: Child) -> list[Child]:
        """The other processes of its instance of which the end has not been noticed."""
        members = [self._ranks.children[member] for member in self._ranks.members(*child.instance)]
        return [one for one in members if one is not child and not one.gone and one.generation == child.generation]

    def _note_end(self, child: Child) -> None:
        """Write down how a process ended, and whether that was to be expected."""
        what = f"{child.rank_id} {child.process.how_it_ended()}"
        status = child.process.poll()
        if child.doomed or status is None:
            self._note(what)
            return
        if status == GROUP_STATUS and len(self._ranks.members(*child.instance)) > 1:
            self._note(what)
            self._note_left(child)
            return
        said = child.process.last_words() if status > 0 else ""
        if said and said != what:
            what = f"{what}: {said}"
        self._suffer(child, f"{what} before it had given its account" if self._closing else what)

    def _note_left(self, child: Child) -> None:
        """A rank says that it left because another one of its instance took no part any more."""
        child.left = True
        if self._is_struck(child.instance):
            return
        what = f"{child.rank_id} left because another rank of its instance took no part any more"
        self._blame(child, what, follows=True)
        group = [self._ranks.children[member] for member in self._ranks.members(*child.instance)]
        if all(member.left for member in group):
            side, instance = child.instance
            words = "; ".join(member.process.last_words() for member in group)
            what = f"all ranks of {side.value}{instance} ended with status {GROUP_STATUS}"
            self._blame(child, f"{what}, as if another one had ended first: {words}")

    # --- patience ---

    def _watch_ranks(self) -> None:
        """Ask those who are waited for and say nothing for a sign of life, and end those that give none."""
        now = time.monotonic()
        wanted: set[RankId] = set()
        if self._closing:
            wanted = {rank_id for rank_id in self._ranks.ids if rank_id not in self._reports}
        elif not self._paused:  # it is their silence that was planned, and others may wait for them
            wanted = {rank_id for members in self._waiting.values() for rank_id in members}
        wanted = {one for one in wanted if self._ranks.alive(one) and not self._is_breaking_up(one)}
        for rank_id in self._watch.look(wanted, now):
            self._ranks.send(rank_id, Ask())
        silent = self._watch.silent(now)
        stopped = {rank_id for rank_id in silent if self._ranks.children[rank_id].process.is_stopped()}
        groups = {(rank_id.side, rank_id.instance) for rank_id in stopped}
        for rank_id, silent_s in silent.items():
            # The others of an instance whose rank stands still can do nothing but wait for it.
            if rank_id in stopped or (rank_id.side, rank_id.instance) not in groups:
                self._end_silent(self._ranks.children[rank_id], silent_s, stopped=rank_id in stopped)

    def _is_breaking_up(self, rank_id: RankId) -> bool:
        """Whether a rank of this one's instance has ended or is about to, so that no other can answer for itself."""
        members = [self._ranks.children[member] for member in self._ranks.members(rank_id.side, rank_id.instance)]
        return any(child.gone or child.doomed or child.ended_s is not None for child in members)

    def _end_silent(self, child: Child, silent_s: float, *, stopped: bool) -> None:
        why = " because its process was stopped" if stopped else ""
        self._suffer(child, f"{child.rank_id} had given no sign of life for {silent_s:.0f} s{why} and was ended")
        child.kill()
        # One on a host that cannot be reached any more is lost all the same.
        self._at(self._now_s() + EXIT_TIMEOUT_S, lambda: None if child.gone else self._lose(child))

    def _hear_again(self, rank_id: RankId, silent_s: float) -> None:
        what = f"{rank_id} had given no sign of life for {silent_s:.1f} s and went on"
        self._note(what)
        struck = [key for key, members in self._waiting.items() if rank_id in members]
        self._troubles.add(self._now_s(), what, rank_id=rank_id, struck=struck, passed=True)

    def _look_for_standstill(self) -> None:
        """Give up requests with which nothing happens, though everybody is there and nothing is expected."""
        now, now_s = time.monotonic(), self._now_s()
        late = {key for key, until_s in self._given_up.items() if key in self._waiting and now_s > until_s}
        self._drop(late, "given up by the router")
        if not self._waiting or self._starting or self._paused:
            self._watch.moved(now)
            return
        expected_s = self._zero_s + max((due_s for due_s, _, _ in self._agenda), default=-math.inf)
        if self._watch.stands_still(expected_s, now):
            keys = set(self._waiting) - self._given_up.keys()
            what = f"nothing happened for {now - self._news_s:.0f} s although all ranks were there"
            self._note(what)
            self._troubles.add(now_s, what, struck=keys)
            self._give_up({room for room, _ in keys}, f"given up by the router: {what}")
            self._given_up |= dict.fromkeys(keys, now_s + self._watch.patience.silence_s)
            self._watch.moved(now)

    def _drop(self, keys: set[tuple[int, int]], reason: str) -> None:
        """Wait no longer for these requests."""
        for key in sorted(keys):
            for rank_id in sorted(self._waiting[key]):
                self._conclude(key, rank_id, None, reason)

    def _look_who_is_left(self) -> None:
        """Hand out nothing more when one side has ended for good and nobody planned that."""
        for side in Side:
            groups = {(one.side, one.instance) for one in self._ranks.ids if one.side is side}
            if self._coming and any(map(self._troubles.befell, groups)) and all(map(self._ended_for_good, groups)):
                self._end_early(f"no {side.value} rank was left")

    def _ended_for_good(self, group: tuple[Side, int]) -> bool:
        to_come = [(one.side, one.instance) for one in self._planned if isinstance(one, Restart)]
        return not (
            group in self._starting
            or group in to_come
            or any(self._ranks.alive(rank_id) for rank_id in self._ranks.members(*group))
        )

    def _end_early(self, why: str) -> None:
        count = len(self._coming)
        self._coming.clear()
        if count:
            self._ended_early = f"at {self._now_s():.1f} s {why}, so {count} requests were not handed out any more"

    # --- what is made to go wrong ---

    def _inflict(self, fault: ProcessFault | ClientAbort) -> None:
        if fault not in self._planned:
            return  # it has been: two ranks write to the room
        self._planned.remove(fault)
        self._moved()
        match fault:
            case ClientAbort(room=room):
                self._note(f"abort room {room}")
                self._give_up({room}, Abort(room, 0).reason)
            case Kill(rank=rank):
                if self._ends(instance_of(rank), f"kill {rank}"):
                    self._ranks.children[rank].kill()
            case Pause(rank=rank, lasts_s=lasts_s):
                child = self._ranks.children[rank]
                if child.process.poll() is None:
                    self._note(f"stop {rank} for {lasts_s:g} s")
                    child.process.send_signal(signal.SIGSTOP)
                    self._paused.add(rank)
                    self._at(self._now_s() + lasts_s, lambda: self._resume(child))
            case Restart(side=side, instance=instance, down_s=down_s):
                if not self._ends((side, instance), f"restart {side.value}{instance}"):
                    return
                for rank_id in self._ranks.members(side, instance):
                    self._ranks.children[rank_id].kill()
                if side is Side.ENCODE:
                    self._processors[instance] = self._make_processors()
                self._starting[side, instance] = self._now_s() + down_s + START_TIMEOUT_S
                self._at(self._now_s() + down_s, lambda: self._start_again(side, instance))

    def _ends(self, instance: Instance, what: str) -> bool:
        """Whether an incident ends the processes of an instance: not of one that is not up."""
        ends = self._instances.end(instance)
        self._note(what if ends else f"did not happen: {what}, which was down already")
        return ends

    def _resume(self, child: Child) -> None:
        self._paused.discard(child.rank_id)
        self._moved()
        if child.process.poll() is None:
            self._note(f"continue {child.rank_id}")
            child.process.send_signal(signal.SIGCONT)

    def _start_again(self, side: Side, instance: int) -> None:
        members = self._ranks.members(side, instance)
        try:
            for rank_id in members:
                child = self._ranks.children[rank_id]
                child.process.wait(EXIT_TIMEOUT_S)
                if not child.gone:
                    self._lose(child)
            self._ranks.start_again(side, instance)
        except subprocess.TimeoutExpired:
            self._stay_down(members, f"a process of it had not ended after {EXIT_TIMEOUT_S:g} s")
        except BREAKS as error:
            self._stay_down(members, in_words(error))

    def _stay_down(self, members: Sequence[RankId], why: str) -> None:
        """An instance that was to come back does not, which nobody planned; all else goes on."""
        side, instance = group = instance_of(members[0])
        what = f"{side.value}{instance} could not be started again: {why}"
        self._note(what)
        struck = [key for key, waited_for in self._waiting.items() if waited_for.intersection(members)]
        self._troubles.add(self._now_s(), what, rank_id=members[0], struck=struck)
        self._starting.pop(group, None)
        for rank_id in members:
            self._ranks.children[rank_id].kill()

    def _note(self, what: str) -> None:
        self._incidents.append(Incident(self._now_s(), what))

    # --- standing still ---

    def _look_for_deadlock(self) -> None:
        now = time.monotonic()
        if not self._waiting or self._paused or now - self._looked_s < self._look_s:
            return
        self._looked_s = now
        waited_for = {(one.side, one.instance) for members in self._waiting.values() for one in members}
        if all(now - self._concluded_s.get(group, self._begun_s) < self._look_s for group in waited_for):
            return
        leaders = {rank_id for rank_id in self._ranks.ids if rank_id.rank == 0 and self._ranks.alive(rank_id)}
        number = self._standstill.begin(leaders)
        for rank_id in sorted(leaders):
            self._ranks.send(rank_id, Describe(number))

    def _deadlocked(self, deadlock: Deadlock) -> None:
        rooms = rooms_of(deadlock)
        if rooms != self._deadlocked_rooms and len(self._deadlocks) < MOST_DEADLOCKS:
            self._deadlocks.append(f"at {self._now_s():.6f} s: {deadlock}")
        self._deadlocked_rooms = rooms
        if self._scenario.timeout_s is None:  # else the rooms' timers end it
            self._give_up(set(rooms), "given up by the router: it is in a deadlock")

    def _give_up(self, rooms: set[int], reason: str) -> None:
        """Tell all ranks that are not done with these rooms to end them."""
        for (room, incarnation), members in self._waiting.items():
            if room in rooms:
                for rank_id in sorted(members):
                    self._ranks.send(rank_id, GiveUp(room, incarnation, reason))

    # --- the end ---

    def _collect(self) -> None:
        """Stop the language side first: the encode side must still answer its last cancellations."""
        for side in (Side.LANGUAGE, Side.ENCODE):
            members = [rank_id for rank_id in self._ranks.ids if rank_id.side is side and self._ranks.alive(rank_id)]
            for rank_id in members:
                self._ranks.send(rank_id, Stop())
            deadline = time.monotonic() + self._watch.patience.report_s
            while missing := [
                rank_id for rank_id in members if rank_id not in self._reports and self._ranks.alive(rank_id)
            ]:
                for order in self._ranks.receive(POLL_S):
                    self._take(order)
                    if isinstance(order, Records):  # it is still at work: the last prefills
                        deadline = time.monotonic() + self._watch.patience.report_s
                while self._agenda and self._agenda[0][0] <= self._now_s():
                    heapq.heappop(self._agenda)[2]()
                self._watch_ranks()
                late = [self._ranks.children[rank_id] for rank_id in missing if rank_id not in self._reports]
                self._notice_ends_of(late)
                for child in late:
                    if time.monotonic() > deadline and not child.doomed and not child.gone:
                        self._suffer(child, f"{child.rank_id} gave no account of the run")
                        child.kill()

    def _close(self) -> None:
        """Wait for the ends of all processes."""
        for child in self._ranks.children.values():
            if not child.gone:
                self._see_off(child)
        for fault in self._planned:
            self._note(f"did not happen: {fault}")

    def _see_off(self, child: Child) -> None:
        """Wait for the end of a process that has given its account, or is to give none."""
        if child.doomed or not child.ready:
            child.kill()
        try:
            child.process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._note(f"{child.rank_id} did not leave within {EXIT_TIMEOUT_S:g} s and was ended")
            child.kill()

    def _outcome(self, end_s: float, counters: Mapping[str, Mapping[str, int]]) -> RealOutcome:
        reports = list(self._reports.values())
        records = self._accounts.merged(lambda records: self._ranks.clocked(records, self._zero_s))
        failed = {(one.room, one.incarnation) for one in self._conclusions if one.status is not Status.Success}
        succeeded = {(one.room, one.incarnation) for one in self._conclusions} - failed
        proof = self._proof(records, counters, reports)
        befell = self._troubles.sentences({(one.room, one.incarnation) for one in self._submitted} - succeeded)
        return RealOutcome(
            requests=self._submitted,
            records=records,
            proof=proof,
            verified_rooms=sum(report.verified_rooms for report in reports),
            verified_bytes=sum(report.verified_bytes for report in reports),
            mismatches=[difference for report in reports for difference in report.differences],
            rooms_left=sum(report.rooms_left for report in reports),
            blocks_lost=sum(report.blocks_lost for report in reports),
            end_s=end_s,
            deadlocks=tuple(self._deadlocks),
            conclusions=self._conclusions,
            incidents=self._incidents,
            rooms_quarantined=sum(report.rooms_quarantined for report in reports),
            left=frozenset((room, report.rank_id) for report in reports for room in report.left),
            quarantined=frozenset((room, report.rank_id) for report in reports for room in report.quarantined),
            blocks_fenced=sum(report.blocks_fenced for report in reports),
            frames_dropped=self._ranks.frames_dropped + sum(report.frames_dropped for report in reports),
            messages_stale=sum(report.messages_stale for report in reports),
            processes=self._ranks.processes,
            clocks=self._ranks.clocks,
            memory=self._ranks.memory,
            usage={report.rank_id: report.usage for report in reports if report.usage is not None},
            router_usage=self._usage,
            faults=(*befell, *filter(None, [proof.refuted])),
            ended_early=self._ended_early,
            violations=tuple(chain.from_iterable(map(self._uneven, reports))),
            cut_short=frozenset() if self._ranks.mortal else frozenset(self._ranks.ids) - self._reports.keys(),
            refused=[*self._ranks.refused(), *(one for report in reports for one in report.refused)],
        )

    def _uneven(self, report: Report) -> Iterator[str]:
        """A sentence for everything that is not as it must be at the end of a rank."""
        rank_id = report.rank_id
        if report.rooms_left:
            yield f"{rank_id} ended with {report.rooms_left} rooms that were not over"
        if report.blocks_lost:
            yield f"{rank_id} ended with {report.blocks_lost} blocks missing in its pool"
        delivered = self._accounts.delivered(rank_id, self._ranks.children[rank_id].generation)
        compared = report.verified_rooms + len(report.differences)
        if self._ranks.verify and delivered != compared:
            yield f"{rank_id} delivered {delivered} embeddings and compared {compared}"

    def _proof(
        self, records: Iterable[Record], counters: Mapping[str, Mapping[str, int]], reports: Sequence[Report]
    ) -> TransportProof:
        """The first rank's proof, with what each host sent while its ranks wrote."""
        hosts = self._ranks.hosts
        proof = self._ranks.proofs[min(self._ranks.proofs)]
        written: collections.Counter[str] = collections.Counter()
        for record in records:
            if record.event is Event.WRITE_DONE:
                written[hosts.address_of(record.rank_id)] += record.bytes
        after = hosts.sent_counters()
        names = dict.fromkeys([*counters, *after, *written])
        for host in names:
            if not written[host] and len(names) > 1:
                continue
            if host in counters and host in after:
                where = f"on {host}, " if len(names) > 1 else ""
                proof = with_traffic(proof, counters[host], after[host], written[host], where)
            else:
                told = f"{written[host]} bytes were written; it did not say what it sent meanwhile"
                proof = msgspec.structs.replace(proof, evidence=[*proof.evidence, f"on {host}, {told}"])
        counted = [report.traffic for report in reports if report.traffic is not None]
        return with_own_traffic(proof, counted, len(self._ranks.ids)) if counted else proof
