"""Sees that a measured run comes to an end: no rank stays silent, no request stands still, none comes for nobody.

``patience`` decides when that is so; this module asks the ranks, and acts.
"""

from __future__ import annotations

import time

from bufferlab.protocol.lifecycle import Instance, instance_of
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.run.commands import Alive, Ask
from bufferlab.real.run.inflicting import FaultPlan
from bufferlab.real.run.patience import Patience, Watch
from bufferlab.real.run.processes import Processes
from bufferlab.real.run.requests import Requests
from bufferlab.real.run.state import RunState
from bufferlab.real.run.troubles import RequestKey

WATCH_S = 0.25
"""Time between two looks at whether everybody who is waited for gives signs of life."""


class Watching:
    """Looks now and then at everybody and everything that the run waits for."""

    def __init__(
        self, patience: Patience, state: RunState, requests: Requests, processes: Processes, faults: FaultPlan
    ) -> None:
        self._watch = Watch(patience, time.monotonic())
        self._state = state
        self._requests = requests
        self._processes = processes
        self._faults = faults
        self._looked_s = 0.0
        self._given_up: dict[RequestKey, float] = {}  # and until when whoever still has one is waited for

    def look(self) -> None:
        """Look at everything if it is time for that."""
        now = time.monotonic()
        if now - self._looked_s >= WATCH_S:
            self._looked_s = now
            self.look_for_signs()
            self._look_for_progress()
            self._look_who_is_left()

    # --- signs of life ---

    def hear(self, rank_id: RankId) -> None:
        """A rank said something."""
        silent_s = self._watch.heard(rank_id, time.monotonic())
        if silent_s:
            what = f"{rank_id} had given no sign of life for {silent_s:.1f} s and went on"
            self._state.note(what)
            self._state.blame(rank_id, what, passed=True)

    def answer(self, alive: Alive) -> None:
        """A rank gave the sign of life that it was asked for."""
        self._watch.answered(alive, time.monotonic())

    def look_for_signs(self) -> None:
        """Ask those who are waited for and say nothing for a sign of life, and end those that give none."""
        now, ranks = time.monotonic(), self._state.ranks
        wanted = {one for one in self._waited_for() if ranks.alive(one) and not self._is_breaking_up(one)}
        for rank_id in self._watch.look(wanted, now):
            ranks.send(rank_id, Ask())
        silent = self._watch.silent(now)
        stopped = {rank_id for rank_id in silent if ranks.children[rank_id].process.is_stopped()}
        instances = set(map(instance_of, stopped))
        for rank_id, silent_s in silent.items():
            # The others of an instance whose rank stands still can do nothing but wait for it.
            if rank_id in stopped or instance_of(rank_id) not in instances:
                self._processes.end_silent(rank_id, silent_s, stopped=rank_id in stopped)

    def _waited_for(self) -> set[RankId]:
        state = self._state
        if state.closing:
            return set(state.ranks.ids) - state.reports.keys()
        if state.paused:
            return set()  # it is their silence that was planned, and others may wait for them
        return {rank_id for members in state.waiting.values() for rank_id in members}

    def _is_breaking_up(self, rank_id: RankId) -> bool:
        """Whether a rank of this one's instance has ended or is about to, so that no other can answer for itself."""
        ranks = self._state.ranks
        members = [ranks.children[member] for member in ranks.members(*instance_of(rank_id))]
        return any(child.gone or child.doomed or child.ended_s is not None for child in members)

    # --- requests that stand still, and those to come ---

    def _look_for_progress(self) -> None:
        """Give up requests with which nothing happens, though everybody is there and nothing is expected."""
        state = self._state
        now, now_s = time.monotonic(), state.now_s()
        late = {key for key, until_s in self._given_up.items() if key in state.waiting and now_s > until_s}
        self._requests.drop(late, "given up by the router")
        self._watch.moved(state.news_s)
        if not state.waiting or state.starting or state.paused:
            self._watch.moved(now)
            return
        if self._watch.stands_still(state.zero_s + state.agenda.last_s, now):
            keys = set(state.waiting) - self._given_up.keys()
            what = f"nothing happened for {now - state.news_s:.0f} s although all ranks were there"
            state.note(what)
            state.troubles.add(now_s, what, struck=keys)
            self._requests.give_up({room for room, _ in keys}, f"given up by the router: {what}")
            self._given_up |= dict.fromkeys(keys, now_s + self._watch.patience.silence_s)
            self._watch.moved(now)

    def _look_who_is_left(self) -> None:
        """Hand out nothing more when one side has ended for good and nobody planned that."""
        befell = self._state.troubles.befell
        for side in Side:
            groups = {instance_of(one) for one in self._state.ranks.ids if one.side is side}
            if self._requests.to_come and any(map(befell, groups)) and all(map(self._ended_for_good, groups)):
                self._requests.end_early(f"no {side.value} rank was left")

    def _ended_for_good(self, instance: Instance) -> bool:
        ranks = self._state.ranks
        return not (
            instance in self._state.starting
            or self._faults.restarts_to_come(instance)
            or any(ranks.alive(rank_id) for rank_id in ranks.members(*instance))
        )
