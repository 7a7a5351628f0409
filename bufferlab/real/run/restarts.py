"""Instances that come back in a measured run: new processes under the names of those that have ended."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from bufferlab.protocol.lifecycle import Instance, instance_of
from bufferlab.protocol.topology import RankId
from bufferlab.real.errors import in_words
from bufferlab.real.run.commands import Ready
from bufferlab.real.run.processes import Processes
from bufferlab.real.run.ranks import EXIT_TIMEOUT_S, START_TIMEOUT_S
from bufferlab.real.run.state import BREAKS, RunState


class Restarts:
    """Starts instances again, and sees whether they come."""

    def __init__(self, state: RunState, processes: Processes) -> None:
        self._state = state
        self._processes = processes

    def begin(self, instance: Instance, down_s: float) -> None:
        """The processes of an instance have been killed, and new ones are to be started ``down_s`` from now."""
        self._state.starting[instance] = self._state.now_s() + down_s + START_TIMEOUT_S
        self._state.later(down_s, lambda: self._start_again(instance))

    def _start_again(self, instance: Instance) -> None:
        ranks = self._state.ranks
        members = ranks.members(*instance)
        try:
            for rank_id in members:
                child = ranks.children[rank_id]
                child.process.wait(EXIT_TIMEOUT_S)
                if not child.gone:
                    self._processes.lose(child)
            ranks.start_again(*instance)
        except subprocess.TimeoutExpired:
            self._stay_down(members, f"a process of it had not ended after {EXIT_TIMEOUT_S:g} s")
        except BREAKS as error:
            self._stay_down(members, in_words(error))

    def _stay_down(self, members: Sequence[RankId], why: str) -> None:
        """An instance that was to come back does not, which nobody planned; all else goes on."""
        state = self._state
        side, instance = group = instance_of(members[0])
        what = f"{side.value}{instance} could not be started again: {why}"
        state.note(what)
        state.troubles.add(state.now_s(), what, rank_id=members[0], struck=state.waiting_for(members))
        state.starting.pop(group, None)
        for rank_id in members:
            state.ranks.children[rank_id].kill()

    def welcome(self, ready: Ready) -> None:
        """A new process is there; when all of its instance are, the instance takes requests again."""
        state = self._state
        state.upheaval()
        if not state.ranks.note_ready(ready):
            return
        state.ranks.begin(ready.rank_id, state.zero_s)
        side, instance = group = instance_of(ready.rank_id)
        if all(state.ranks.alive(member) for member in state.ranks.members(*group)):
            state.starting.pop(group, None)
            state.instances.start(group)
            state.note(f"{side.value}{instance} is up again")

    def end_late(self) -> None:
        """End what has not come in time."""
        state = self._state
        now_s = state.now_s()
        for (side, instance), until_s in list(state.starting.items()):
            if now_s > until_s:
                state.note(f"{side.value}{instance} was not up after {START_TIMEOUT_S:g} s")
                for rank_id in state.ranks.members(side, instance):
                    state.ranks.children[rank_id].kill()
                del state.starting[side, instance]
