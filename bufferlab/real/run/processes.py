"""Notices the rank processes that end in a measured run, says why they did, and ends what was on them.

What must follow from an end is the rule of ``protocol.lifecycle``: what was on the process fails, and the other ranks
of its instance end as well.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from bufferlab.protocol.lifecycle import MEMBER_GRACE_S, PROCESS_ENDED, Instance
from bufferlab.protocol.topology import RankId
from bufferlab.real.run.commands import GROUP_STATUS
from bufferlab.real.run.ranks import EXIT_TIMEOUT_S, Child
from bufferlab.real.run.record_store import RecordStore
from bufferlab.real.run.requests import Requests
from bufferlab.real.run.state import RunState

LAST_WORDS_S = 0.05
"""How long what a process said before its end may be on its way."""


class Processes:
    """Sees the processes of one run off, those that were to end and those that were not."""

    def __init__(self, state: RunState, requests: Requests, record_store: RecordStore) -> None:
        self._state = state
        self._requests = requests
        self._record_store = record_store
        self._struck: set[Instance] = set()

    def strike(self, instance: Instance) -> None:
        """A planned fault hits the processes of an instance: that its ranks leave is no fault from now on."""
        self._struck.add(instance)

    # --- ends that nobody asked for ---

    def notice_ends(self, children: Iterable[Child] | None = None) -> None:
        """Take note of those of these processes, or of all, that have ended: of a cause before what follows from it."""
        now_s = self._state.now_s()
        watched = self._state.ranks.children.values() if children is None else children
        ended = [child for child in watched if not child.gone and child.process.poll() is not None]
        for child in ended:
            if child.ended_s is None:
                child.ended_s = now_s
        for child in sorted(ended, key=lambda child: child.process.poll() == GROUP_STATUS):
            if not child.gone and now_s - (child.ended_s or 0.0) >= LAST_WORDS_S:
                self.lose(child)

    def lose(self, child: Child) -> None:
        """A process has ended, or is out of reach: all that follows from it."""
        state = self._state
        child.gone = True
        state.paused.discard(child.rank_id)
        state.upheaval()
        if child.ready:
            self._note_end(child)
        else:
            state.note(f"{child.rank_id} did not start: {child.process.last_words()}")
            state.starting.pop(child.instance, None)
        waiting = state.waiting_for([child.rank_id])
        self._record_store.end(child.rank_id, child.generation, [room for room, _ in waiting], state.now_s())
        for key in waiting:
            self._requests.conclude(key, child.rank_id, None, PROCESS_ENDED)
        # The others notice themselves that they can agree on nothing without it, or else.
        state.instances.end(child.instance)
        for other in self._others_of(child):
            if other.process.poll() is None:  # else it has its own reason, which is told when its end is noticed
                other.doomed |= not child.left  # one that was left alone is not the reason why others end
                state.later(MEMBER_GRACE_S, other.kill)

    def _members(self, instance: Instance) -> list[Child]:
        return [self._state.ranks.children[member] for member in self._state.ranks.members(*instance)]

    def _others_of(self, child: Child) -> list[Child]:
        """The other processes of its instance of which the end has not been noticed."""
        members = self._members(child.instance)
        return [one for one in members if one is not child and not one.gone and one.generation == child.generation]

    def _note_end(self, child: Child) -> None:
        """Write down how a process ended, and whether that was to be expected."""
        state = self._state
        what = f"{child.rank_id} {child.process.how_it_ended()}"
        status = child.process.poll()
        if child.doomed or status is None:
            state.note(what)
            return
        if status == GROUP_STATUS and len(self._members(child.instance)) > 1:
            state.note(what)
            self._note_left(child)
            return
        said = child.process.last_words() if status > 0 else ""
        if said and said != what:
            what = f"{what}: {said}"
        state.suffer(child, f"{what} before it had given its account" if state.closing else what)

    def _note_left(self, child: Child) -> None:
        """A rank says that it left because another one of its instance took no part any more."""
        child.left = True
        if child.instance in self._struck:
            return
        what = f"{child.rank_id} left because another rank of its instance took no part any more"
        self._state.blame(child.rank_id, what, follows=True)
        group = self._members(child.instance)
        if all(member.left for member in group):
            side, instance = child.instance
            words = "; ".join(member.process.last_words() for member in group)
            what = f"all ranks of {side.value}{instance} ended with status {GROUP_STATUS}"
            self._state.blame(child.rank_id, f"{what}, as if another one had ended first: {words}")

    # --- ends that the router brings about ---

    def break_down(self, rank_id: RankId, reason: str) -> None:
        """A rank says that it cannot go on. It ends by itself, or else."""
        child = self._state.ranks.children[rank_id]
        if child.ready and not child.doomed:
            self._state.suffer(child, f"{rank_id} broke: {reason}")
            child.doomed = True
            self._state.later(MEMBER_GRACE_S, child.kill)

    def end_silent(self, rank_id: RankId, silent_s: float, *, stopped: bool) -> None:
        """A rank has long given no sign of life."""
        child = self._state.ranks.children[rank_id]
        why = " because its process was stopped" if stopped else ""
        self._state.suffer(child, f"{rank_id} had given no sign of life for {silent_s:.0f} s{why} and was ended")
        child.kill()
        # One on a host that cannot be reached any more is lost all the same.
        self._state.later(EXIT_TIMEOUT_S, lambda: None if child.gone else self.lose(child))

    def see_off(self, child: Child) -> None:
        """Wait for the end of a process that has given its report, or is to give none."""
        if child.doomed or not child.ready:
            child.kill()
        try:
            child.process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._state.note(f"{child.rank_id} did not leave within {EXIT_TIMEOUT_S:g} s and was ended")
            child.kill()
