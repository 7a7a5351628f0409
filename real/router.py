"""Hands out the requests of a measured run, carries out its faults, and keeps account of what becomes of them."""

from __future__ import annotations

import collections
import heapq
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from protocol.messages import Abort
from protocol.processors import Processors
from protocol.recording import Event, Record
from protocol.scenario import Request
from protocol.status import Status
from protocol.topology import RankId, Side
from real.accounts import PROCESS_ENDED, Accounts
from real.engine import EngineError
from real.faults import ClientAbort, Kill, Pause, ProcessFault, RealFault, Restart, slowest_of
from real.orders import (
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
from real.outcome import Conclusion, Incident, RealOutcome, stood_still
from real.ranks import EXIT_TIMEOUT_S, POLL_S, START_TIMEOUT_S, Child, Ranks
from real.standstill import LOOK_S, Standstill
from real.transport import TransportProof, with_traffic
from real.usage import Counts, Meter, Part, Usage

LEAD_S = 0.05
"""Time between the order to start and time zero, so that every rank knows the zero before the first request."""

MEMBER_GRACE_S = 2.0
"""How long the other ranks of an instance have to leave by themselves when one of them has ended."""


class Router:
    """Hands out the requests of one run and keeps account of them."""

    def __init__(
        self,
        ranks: Ranks,
        plan: Sequence[RealFault],
        progress: Callable[[int], None] | None,
        concurrency: int | None = None,
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
        self._starting: dict[tuple[Side, int], float] = {}  # and until when
        self._paused: set[RankId] = set()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._agenda_count = 0
        self._planned = [fault for fault in plan if isinstance(fault, ProcessFault | ClientAbort)]
        self._standstill = Standstill()
        self._deadlocks: list[str] = []
        self._zero_s = 0.0
        self._news_s = 0.0
        self._looked_s = 0.0
        # The router has no engine; what else has threads without a name here is a library that the caller uses.
        self._meter = Meter(unnamed=Part.OTHER)
        self._counts = Counts()
        self._usage: Usage | None = None

    def run(self, requests: Sequence[Request]) -> RealOutcome:
        """Hand out the requests at their times, or as earlier ones end, wait for the end, collect."""
        counters = self._ranks.hosts.sent_counters()
        self._zero_s = time.monotonic() + LEAD_S
        for rank_id in self._ranks.ids:
            self._ranks.begin(rank_id, self._zero_s)
        for fault in self._planned:
            if fault.time_s is not None:
                self._at(fault.time_s, lambda fault=fault: self._inflict(fault))  # type: ignore[misc]
        self._news_s = time.monotonic()
        patience_s = START_TIMEOUT_S + (self._scenario.timeout_s or 0.0)
        self._coming.extend(requests)
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
            if time.monotonic() - self._news_s > patience_s:
                raise EngineError(
                    f"nothing happened for {patience_s:g} s with {len(self._waiting)} requests unfinished"
                )
        end_s = self._now_s()
        self._usage = self._meter.stop(self._counts)
        self._collect()
        self._ranks.measure_again()
        return self._outcome(end_s, counters)

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
        self._moved()
        groups = ((Side.ENCODE, request.encode_instance), (Side.LANGUAGE, request.language_instance))
        starting = [
            f"{side.value}{instance} is starting" for side, instance in groups if (side, instance) in self._starting
        ]
        wanted = [rank_id for group in groups for rank_id in self._ranks.members(*group)]
        members = {rank_id for rank_id in wanted if self._ranks.alive(rank_id)}
        refused = bool(starting) or not members
        for rank_id in wanted:
            if refused or rank_id not in members:
                self._accounts.refuse(rank_id, request.room, self._now_s())
        if refused:
            # Its ranks may be known already and would be waited for, but do not take requests yet.
            reason = "; ".join(starting) or "its ranks have ended"
            self._conclusions.append(Conclusion(self._now_s(), *key, None, None, f"refused: {reason}"))
            self._report_progress()
            return
        self._waiting[key] = members
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

    def _moved(self) -> None:
        self._news_s = time.monotonic()
        self._standstill.forget()

    # --- what the ranks say ---

    def _take(self, order: Order) -> None:
        self._counts.inputs += 1
        match order:
            case Concluded(rank_id, room, incarnation, status, reason):
                self._moved()
                self._conclude((room, incarnation), rank_id, status, reason)
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
                    self._note(f"{group[0].value}{group[1]} is up again")
            case Holdings():
                deadlock = self._standstill.add(order)
                if deadlock is not None:
                    self._deadlocked(str(deadlock), [stuck.room for stuck in deadlock.cycle])
            case Broken(rank_id, reason):
                child = self._ranks.children[rank_id]
                if child.ready and not child.doomed:
                    raise EngineError(f"{rank_id} broke: {reason}")
            case _:
                raise EngineError(f"a rank sent {type(order).__name__} in the middle of the run")

    # --- processes that end ---

    def _notice_ends(self) -> None:
        for child in list(self._ranks.children.values()):
            if not child.gone and child.process.poll() is not None:
                self._lose(child)
        now_s = self._now_s()
        for group, until_s in list(self._starting.items()):
            if now_s > until_s:
                self._note(f"{group[0].value}{group[1]} was not up after {START_TIMEOUT_S:g} s")
                for rank_id in self._ranks.members(*group):
                    self._ranks.children[rank_id].kill()
                del self._starting[group]

    def _lose(self, child: Child) -> None:
        child.gone = True
        self._paused.discard(child.rank_id)
        self._moved()
        if child.ready:
            self._note(f"{child.rank_id} {child.process.how_it_ended()}")
        else:
            self._note(f"{child.rank_id} did not start: {child.process.last_words()}")
            self._starting.pop(child.instance, None)
        waiting = [key for key, members in self._waiting.items() if child.rank_id in members]
        self._accounts.end(child.rank_id, child.generation, [room for room, _ in waiting], self._now_s())
        for key in waiting:
            self._conclude(key, child.rank_id, None, PROCESS_ENDED)
        # Without it the others of its group can agree on nothing; they notice that themselves, or else.
        others = [self._ranks.children[member] for member in self._ranks.members(*child.instance)]
        for other in others:
            if not other.gone and other.generation == child.generation:
                other.doomed = True
                self._at(self._now_s() + MEMBER_GRACE_S, other.kill)

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
                self._note(f"kill {rank}")
                self._ranks.children[rank].kill()
            case Pause(rank=rank, lasts_s=lasts_s):
                child = self._ranks.children[rank]
                if child.process.poll() is None:
                    self._note(f"stop {rank} for {lasts_s:g} s")
                    child.process.send_signal(signal.SIGSTOP)
                    self._paused.add(rank)
                    self._at(self._now_s() + lasts_s, lambda: self._resume(child))
            case Restart(side=side, instance=instance, down_s=down_s):
                self._note(f"restart {side.value}{instance}")
                for rank_id in self._ranks.members(side, instance):
                    self._ranks.children[rank_id].kill()
                if side is Side.ENCODE:
                    self._processors[instance] = self._make_processors()
                self._starting[side, instance] = self._now_s() + down_s + START_TIMEOUT_S
                self._at(self._now_s() + down_s, lambda: self._start_again(side, instance))

    def _resume(self, child: Child) -> None:
        self._paused.discard(child.rank_id)
        self._moved()
        if child.process.poll() is None:
            self._note(f"continue {child.rank_id}")
            child.process.send_signal(signal.SIGCONT)

    def _start_again(self, side: Side, instance: int) -> None:
        for rank_id in self._ranks.members(side, instance):
            child = self._ranks.children[rank_id]
            child.process.wait(EXIT_TIMEOUT_S)
            if not child.gone:
                self._lose(child)
        self._ranks.start_again(side, instance)

    def _note(self, what: str) -> None:
        self._incidents.append(Incident(self._now_s(), what))

    # --- standing still ---

    def _look_for_deadlock(self) -> None:
        now = time.monotonic()
        if not self._waiting or self._paused or min(now - self._news_s, now - self._looked_s) < LOOK_S:
            return
        self._looked_s = now
        leaders = {rank_id for rank_id in self._ranks.ids if rank_id.rank == 0 and self._ranks.alive(rank_id)}
        number = self._standstill.begin(leaders)
        for rank_id in sorted(leaders):
            self._ranks.send(rank_id, Describe(number))

    def _deadlocked(self, sentence: str, rooms: list[int]) -> None:
        known = bool(self._deadlocks) and self._deadlocks[-1].endswith(f": {sentence}")
        if not known:
            self._deadlocks.append(f"at {self._now_s():.6f} s: {sentence}")
        if self._scenario.timeout_s is not None:
            return  # the rooms' timers end it
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
            deadline = time.monotonic() + EXIT_TIMEOUT_S
            while missing := [
                rank_id for rank_id in members if rank_id not in self._reports and self._ranks.alive(rank_id)
            ]:
                for order in self._ranks.receive(POLL_S):
                    if isinstance(order, Report):
                        self._reports[order.rank_id] = order
                    elif isinstance(order, Records):
                        self._accounts.add(order)
                    elif isinstance(order, Broken) and not self._ranks.children[order.rank_id].doomed:
                        raise EngineError(f"{order.rank_id} broke while it stopped: {order.reason}")
                for rank_id in missing:
                    child = self._ranks.children[rank_id]
                    # One that has reported may have ended by now; its report is in the inbox.
                    if child.process.poll() not in (None, 0):
                        self._lose(child)
                if time.monotonic() > deadline:
                    raise EngineError(f"no report from {', '.join(map(str, missing))} within {EXIT_TIMEOUT_S:g} s")
        for child in self._ranks.children.values():
            if not child.gone:
                if child.doomed or not child.ready:
                    child.kill()
                child.process.wait(EXIT_TIMEOUT_S)
        for fault in self._planned:
            self._note(f"did not happen: {fault}")

    def _outcome(self, end_s: float, counters: Mapping[str, Mapping[str, int]]) -> RealOutcome:
        reports = list(self._reports.values())
        told = self._accounts.records(lambda records: self._ranks.clocked(records, self._zero_s))
        records = list(heapq.merge(*told, key=lambda record: record.time_s))
        return RealOutcome(
            requests=self._submitted,
            records=records,
            proof=self._proof(records, counters),
            verified_rooms=sum(report.verified_rooms for report in reports),
            verified_bytes=sum(report.verified_bytes for report in reports),
            mismatches=[difference for report in reports for difference in report.differences],
            rooms_left=sum(report.rooms_left for report in reports),
            blocks_lost=sum(report.blocks_lost for report in reports),
            end_s=end_s,
            deadlock=bool(self._deadlocks) or stood_still(records, self._scenario.timeout_s),
            deadlocks=tuple(self._deadlocks),
            conclusions=self._conclusions,
            incidents=self._incidents,
            rooms_quarantined=sum(report.rooms_quarantined for report in reports),
            blocks_fenced=sum(report.blocks_fenced for report in reports),
            frames_dropped=sum(report.frames_dropped for report in reports),
            messages_stale=sum(report.messages_stale for report in reports),
            processes=self._ranks.processes,
            clocks=self._ranks.clocks,
            memory=self._ranks.memory,
            usage={report.rank_id: report.usage for report in reports if report.usage is not None},
            router_usage=self._usage,
        )

    def _proof(self, records: Sequence[Record], counters: Mapping[str, Mapping[str, int]]) -> TransportProof:
        """The first rank's proof, with what each host sent while its ranks wrote."""
        hosts = self._ranks.hosts
        proof = self._ranks.proofs[min(self._ranks.proofs)]
        written = dict.fromkeys(counters, 0)
        for record in records:
            if record.event is Event.WRITE_DONE:
                written[hosts.address_of(record.rank_id)] += record.bytes
        for host, after in hosts.sent_counters().items():
            if written[host] or len(counters) == 1:
                where = f"on {host}, " if len(counters) > 1 else ""
                proof = with_traffic(proof, counters[host], after, written[host], where)
        return proof
