"""Carries out a plan of faults: incidents happen at their times, messages and writes go wrong at their rates.

Every draw comes from a stream named by the channel or the rank it is for, so the same plan does the same to the same
run, byte for byte.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import assert_never

import numpy

from bufferlab.protocol.faults import MOST_LATE_S, ClientAbort, Death, FalseAlarm, Hang, Restart, Slow
from bufferlab.protocol.lifecycle import PROCESS_ENDED, instance_of
from bufferlab.protocol.messages import Abort, EncodeRequest, LanguageRequest, Message, PeerDown, PeerUp, StartWrite
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.faults.asking import AT_ONCE, LANDED, Faults, FaultyCluster, WriteEnd
from bufferlab.sim.faults.plan import FaultPlan
from bufferlab.sim.streams import stream


class _Rank:
    """What keeps one rank from taking its inputs, and the inputs that wait for that."""

    __slots__ = ("backlog", "dead_s", "generation", "ready_s", "requests", "requests_s")

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation  # of its process
        self.dead_s = math.inf
        self.ready_s = 0.0
        self.backlog: deque[object] = deque()
        self.requests: deque[object] = deque()
        self.requests_s = 0.0  # no further request arrives before


def _writes(writer: RankId, generation: int, destination: RankId) -> tuple[str, str]:
    """The name of the stream that says how the writes of a pair end, while the writer is this process."""
    return "writes", f"{writer} {destination}" + (f", process {generation}" if generation else "")


class PlannedFaults(Faults):
    """Carries out a plan on one cluster, once. ``happened`` counts what did, by kind."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self.happened: Counter[str] = Counter()
        self._ranks: dict[RankId, _Rank] = {}
        self._slowness = {one.rank: one.factor for one in plan.incidents if isinstance(one, Slow)}
        self._message_rates = plan.lost_messages, plan.doubled_messages, plan.late_messages
        self._write_rates = plan.failed_writes, plan.late_writes
        self._stream = cache(self._new_stream)
        self._handed_over = False  # the request that is being given now has had its delay

    def _new_stream(self, role: str, entity: str) -> numpy.random.Generator:
        return stream(self.plan.seed, self.plan.replication, role, entity)

    def failed_writes(self, writer: RankId, destination: RankId, count: int, generation: int = 0) -> list[int]:
        """Which of the first ``count`` writes of a pair fail at the plan's rate, counted from 0 in order of their ends.

        ``generation``: which of the writer's processes, 0 for the first; each has its own.
        For whoever must know beforehand; it holds unless there are late writes or a rank dies.
        """
        draws = self._new_stream(*_writes(writer, generation, destination)).random((count, 2))[:, 0]
        return [int(number) for number in numpy.flatnonzero(draws < self.plan.failed_writes)]

    # --- at their times ---

    def begin(self, cluster: FaultyCluster) -> None:
        """Schedule the incidents."""
        self._cluster = cluster
        self._clock = cluster.clock
        self._ranks = {core.rank_id: _Rank() for core in cluster.cores}
        for incident in self.plan.incidents:
            match incident:
                case ClientAbort(time_s, room, ranks):
                    self._clock.call_at(time_s, self._abort, room, ranks)
                case Death(time_s, rank_id, detected_s):
                    self._clock.call_at(time_s, self._die, rank_id, detected_s)
                case Restart(time_s, (side, instance), lasts_s):
                    self._clock.call_at(time_s, self._restart, side, instance, lasts_s)
                case Hang(time_s, rank_id, lasts_s):
                    self._clock.call_at(time_s, self._hang, rank_id, lasts_s)
                case FalseAlarm(time_s, observer, peer, lasts_s):
                    self._clock.call_at(time_s, self._alarm, observer, peer, lasts_s)
                case Slow():
                    self.happened[Slow.called] += 1
                case _:
                    assert_never(incident)

    def _abort(self, room: int, ranks: Sequence[RankId]) -> None:
        self.happened[ClientAbort.called] += 1
        for rank_id in ranks:
            self._cluster.give(rank_id, Abort(room, 0))

    def _die(self, rank_id: RankId, detected_s: float | None) -> None:
        ranks = self._end_processes(*instance_of(rank_id))
        if not ranks:
            return
        self.happened[Death.called] += 1
        for one in ranks:
            self._ranks[one].dead_s = self._clock.now
        for one, observer, share in self._observers(ranks):
            delay_s = self._noticed_s(share) if detected_s is None else detected_s * share
            self._clock.call_after(delay_s, self._cluster.give, observer, PeerDown(one))

    def _noticed_s(self, phase: float) -> float:
        """How long after its end a process is taken for dead, if the next heartbeat is due after ``phase`` of a period.

        Arithmetic instead of an event for every heartbeat that is answered.
        """
        return (phase + self.plan.heartbeat_failures - 1) * self.plan.heartbeat_s

    def _restart(self, side: Side, instance: int, down_s: float) -> None:
        ranks = self._end_processes(side, instance)
        if not ranks:
            return
        self.happened[Restart.called] += 1
        for one, observer, share in self._observers(ranks):
            noticed_s = min(self._noticed_s(share), down_s)
            self._clock.call_after(noticed_s, self._cluster.give, observer, PeerDown(one))
        self._clock.call_after(down_s, self._start_processes, side, instance, ranks)

    def _end_processes(self, side: Side, instance: int) -> list[RankId]:
        """End all processes of an instance; which these were: none of one that is not up."""
        if not self._cluster.instances.up((side, instance)):
            return []
        ranks = [rank_id for rank_id in self._ranks if instance_of(rank_id) == (side, instance)]
        self._cluster.end_processes(side, instance)
        for rank_id in ranks:
            rank = self._ranks[rank_id]
            rank.ready_s = math.inf
            for event in (*rank.backlog, *rank.requests):
                if isinstance(event, EncodeRequest | LanguageRequest):
                    self._cluster.refuse(rank_id, (event.room, event.incarnation), PROCESS_ENDED)
            rank.backlog.clear()
            rank.requests.clear()
        return ranks

    def _observers(self, ranks: Sequence[RankId]) -> Iterator[tuple[RankId, RankId, float]]:
        """Who hears of the end of each of ``ranks``, and which part of a period its next heartbeat is away."""
        for rank_id in ranks:
            for observer in self._opposite(rank_id):
                yield rank_id, observer, float(self._stream("heartbeat", f"{observer} {rank_id}").random())

    def _start_processes(self, side: Side, instance: int, ranks: Sequence[RankId]) -> None:
        self._cluster.start_processes(side, instance)
        for rank_id in ranks:
            self._ranks[rank_id] = _Rank(self._ranks[rank_id].generation + 1)
            for peer in self._opposite(rank_id):
                self._cluster.give(peer, PeerUp(rank_id))
                share = float(self._stream("heartbeat", f"{rank_id} {peer}").random())
                self._clock.call_after(self._noticed_s(share), self._notice, rank_id, peer)

    def _notice(self, observer: RankId, peer: RankId) -> None:
        """The first heartbeats of a new process fail if its peer was down before it came."""
        if self._ranks[peer].ready_s == math.inf:
            self._cluster.give(observer, PeerDown(peer))

    def _opposite(self, rank_id: RankId) -> Iterator[RankId]:
        return (peer for peer in self._ranks if peer.side is not rank_id.side)

    def _hang(self, rank_id: RankId, lasts_s: float) -> None:
        rank = self._ranks[rank_id]
        if rank.ready_s < math.inf:
            self.happened[Hang.called] += 1
            rank.ready_s = max(rank.ready_s, self._clock.now + lasts_s)

    def _alarm(self, observer: RankId, peer: RankId, lasts_s: float) -> None:
        if self.dead(peer):
            return
        self.happened[FalseAlarm.called] += 1
        self._cluster.give(observer, PeerDown(peer))
        self._clock.call_after(lasts_s, self._all_clear, observer, peer)

    def _all_clear(self, observer: RankId, peer: RankId) -> None:
        if not self.dead(peer):  # else nobody registers
            self._cluster.give(observer, PeerUp(peer))

    def dead(self, rank_id: RankId) -> bool:
        """Whether the rank has died."""
        return self._ranks[rank_id].dead_s < math.inf

    # --- when asked ---

    def slowness(self, rank_id: RankId) -> float:
        """The factor of a slow rank."""
        return self._slowness.get(rank_id, 1.0)

    def ready_s(self, rank_id: RankId) -> float:
        """The end of the rank's hang; never for a dead one."""
        return self._ranks[rank_id].ready_s

    def admits(self, rank_id: RankId, event: object) -> bool:
        """Refuse what comes to a dead rank; let what comes to a hung one, and late requests, wait in their order."""
        rank = self._ranks[rank_id]
        if rank.ready_s == math.inf:
            return False
        if not self._handed_over and isinstance(event, EncodeRequest | LanguageRequest):
            due_s = self._request_due_s(rank_id, rank, event)
            if due_s is not None:
                rank.requests.append(event)
                self._clock.call_at(due_s, self._hand_over, rank_id, rank)
                return False
        if rank.backlog or rank.ready_s > self._clock.now:
            if not rank.backlog:
                self._clock.call_at(rank.ready_s, self._catch_up, rank_id, rank)
            rank.backlog.append(event)
            return False
        return True

    def _request_due_s(self, rank_id: RankId, rank: _Rank, request: EncodeRequest | LanguageRequest) -> float | None:
        """When a late request, or one behind a late one, reaches the rank; None for now."""
        now = self._clock.now
        delay_s = 0.0
        if self.plan.late_requests and now < self.plan.until_s:
            what, share = self._stream("late requests", f"{rank_id} {request.room}").random(2)
            if what < self.plan.late_requests:
                self.happened["late request"] += 1
                delay_s = float(share) * self.plan.most_request_delay_s
        if not delay_s and not rank.requests:
            return None
        rank.requests_s = max(rank.requests_s, now + delay_s)
        return rank.requests_s

    def _hand_over(self, rank_id: RankId, rank: _Rank) -> None:
        if not rank.requests:
            return  # its process has ended, and they were refused
        self._handed_over = True
        self._cluster.give(rank_id, rank.requests.popleft())
        self._handed_over = False

    def _catch_up(self, rank_id: RankId, rank: _Rank) -> None:
        if rank.ready_s > self._clock.now:  # dead by now, or in another hang
            if rank.ready_s < math.inf:
                self._clock.call_at(rank.ready_s, self._catch_up, rank_id, rank)
            return
        waiting, rank.backlog = rank.backlog, deque()
        self._handed_over = True
        for event in waiting:
            self._cluster.give(rank_id, event)
        self._handed_over = False

    def copies(self, sender: RankId, to: RankId, message: Message) -> Sequence[float]:
        """Lose, double or delay a message at the plan's rates."""
        lost, doubled, late = self._message_rates
        if not lost + doubled + late or self._clock.now >= self.plan.until_s:
            return AT_ONCE
        if self.plan.messages and type(message).__name__ not in self.plan.messages:
            return AT_ONCE
        # Always the same number of draws, so that the rates do not shift those of later messages.
        what, share = map(float, self._stream("messages", f"{sender} {to}").random(2))
        delay_s = share * self.plan.most_delay_s
        if what < lost:
            self.happened["lost message"] += 1
            return ()
        if what < lost + doubled:
            self.happened["doubled message"] += 1
            return (0.0, delay_s)
        if what < lost + doubled + late:
            self.happened["late message"] += 1
            return (delay_s,)
        return AT_ONCE

    def write_ends(self, writer: RankId, write: StartWrite) -> WriteEnd:
        """Fail a write at the plan's rates."""
        failed, late = self._write_rates
        if not failed + late or self._clock.now >= self.plan.until_s:
            return LANDED
        what, share = self._write_draws(writer, write)
        if what < failed:
            self.happened["failed write"] += 1
            return WriteEnd(False, "injected: failed")
        if what < failed + late:
            self.happened["late write"] += 1
            return WriteEnd(False, "injected: late", share * self.plan.most_late_s)
        return LANDED

    def outlives(self, writer: RankId, write: StartWrite) -> float | None:
        """Half of what was in flight lands, some time before it cannot any more. Nobody hears of its end."""
        what, share = self._write_draws(writer, write)
        return share * MOST_LATE_S if what < 0.5 else None

    def _write_draws(self, writer: RankId, write: StartWrite) -> tuple[float, float]:
        draws = self._stream(*_writes(writer, self._ranks[writer].generation, write.destination))
        what, share = draws.random(2)
        return float(what), float(share)
