"""Looks for deadlocks among the ranks of a measured run (see ``deadlock_probe``), and ends those that no timer will."""

from __future__ import annotations

import time

from bufferlab.protocol.lifecycle import Instance, instance_of
from bufferlab.protocol.observe.deadlock import Deadlock
from bufferlab.protocol.topology import RankId
from bufferlab.real.run.commands import Describe, Holdings
from bufferlab.real.run.deadlock_probe import DeadlockProbe, look_s, rooms_of
from bufferlab.real.run.requests import Requests
from bufferlab.real.run.state import RunState

MOST_DEADLOCKS = 16
"""Kept of one run, as in a simulated one."""


class Deadlocks:
    """The deadlocks of one run. ``found``: a sentence for each."""

    def __init__(self, state: RunState, requests: Requests) -> None:
        self.found: list[str] = []
        self._state = state
        self._requests = requests
        self._deadlock_probe = DeadlockProbe()
        self._upheavals = 0
        self._rooms: frozenset[int] = frozenset()
        self._look_s = look_s(state.ranks.scenario.timeout_s)
        self._looked_s = 0.0
        self._begun_s = time.monotonic()
        self._concluded_s: dict[Instance, float] = {}

    def concluded(self, rank_id: RankId) -> None:
        """A rank has concluded a request, so its instance is in no hurry to be looked at."""
        self._concluded_s[instance_of(rank_id)] = time.monotonic()

    def look(self) -> None:
        """Ask what the groups hold, if it is time for that and some instance has long concluded nothing."""
        state, now = self._state, time.monotonic()
        if not state.waiting or state.paused or now - self._looked_s < self._look_s:
            return
        self._looked_s = now
        waited_for = {instance_of(one) for members in state.waiting.values() for one in members}
        if all(now - self._concluded_s.get(group, self._begun_s) < self._look_s for group in waited_for):
            return
        self._forget_what_is_old()
        leaders = {rank_id for rank_id in state.ranks.ids if rank_id.rank == 0 and state.ranks.alive(rank_id)}
        number = self._deadlock_probe.begin(leaders)
        for rank_id in sorted(leaders):
            state.ranks.send(rank_id, Describe(number))

    def take(self, holdings: Holdings) -> None:
        """Take what a rank holds; the answer that completes a second look may show a deadlock."""
        self._forget_what_is_old()
        deadlock = self._deadlock_probe.add(holdings)
        if deadlock is not None:
            self._tell(deadlock)

    def _forget_what_is_old(self) -> None:
        if self._upheavals != self._state.upheavals:
            self._upheavals = self._state.upheavals
            self._deadlock_probe.forget()

    def _tell(self, deadlock: Deadlock) -> None:
        rooms = rooms_of(deadlock)
        if rooms != self._rooms and len(self.found) < MOST_DEADLOCKS:
            self.found.append(f"at {self._state.now_s():.6f} s: {deadlock}")
        self._rooms = rooms
        if self._state.ranks.scenario.timeout_s is None:  # else the rooms' timers end it
            self._requests.give_up(rooms, "given up by the router: it is in a deadlock")
