"""The life of processes: a group of ranks starts, ends with all it knows, and starts anew under the same names."""

from __future__ import annotations

from itertools import groupby
from typing import final

from bufferlab.protocol.encode import EncodeRoom
from bufferlab.protocol.lifecycle import PROCESS_ENDED
from bufferlab.protocol.messages import Conclude, Note
from bufferlab.protocol.rank import Room
from bufferlab.protocol.recording import Event
from bufferlab.protocol.status import FINAL, Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.cluster.group import Core, Group, Rank
from bufferlab.sim.cluster.host import Host
from bufferlab.sim.cluster.messages import Messages
from bufferlab.sim.cluster.requests import Requests
from bufferlab.sim.cluster.state import State
from bufferlab.sim.faults import Watcher


@final
class Processes:
    """Starts all of them when it is made."""

    def __init__(self, state: State, host: Host, requests: Requests, messages: Messages) -> None:
        self._state = state
        self._host = host
        self._requests = requests
        self._messages = messages
        self._watchers: list[Watcher] = []
        ids = [*state.scenario.encode_ids(), *state.scenario.language_ids()]
        for order, (key, members) in enumerate(groupby(ids, lambda rank_id: (rank_id.side, rank_id.instance))):
            self._start(*key, list(members), order)

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher(rank, input, actions)`` of everything that the cores are given and ask for from now on."""
        self._watchers.append(watcher)
        for rank in self._state.ranks.values():
            rank.watchers.append(watcher)

    # --- starting ---

    def _start(self, side: Side, instance: int, rank_ids: list[RankId], order: int) -> None:
        faults = self._state.faults
        slowness = faults.slowness if faults is not None else _as_fast_as_any
        ranks = [self._make_rank(rank_id, slowness(rank_id)) for rank_id in rank_ids]
        slowest = max(map(slowness, rank_ids))
        self._state.add_group(Group(side, instance, ranks, self._state.scenario, slowest, order))

    def _make_rank(self, rank_id: RankId, slowness: float) -> Rank:
        scenario, recorder = self._state.scenario, self._state.recorder
        if rank_id.side is Side.LANGUAGE:
            rank = Rank(scenario.make_language_rank(rank_id, recorder), ())
        else:
            workers = [self._host.make_worker(rank_id, one, slowness) for one in range(scenario.transfer_workers)]
            rank = Rank(scenario.make_encode_rank(rank_id, recorder), workers)
        rank.watchers.extend(self._watchers)
        self._host.add_process(rank)
        return rank

    def start(self, side: Side, instance: int) -> None:
        """Start an instance anew after ``end``: same names, new memory, nothing known. Nobody is told."""
        old = self._state.groups[side, instance]
        if not old.down:
            raise ValueError(f"{side.value} instance {instance} is up already")
        self._start(side, instance, [rank.id for rank in old.ranks], old.order)
        self._state.instances.start((side, instance))

    # --- ending ---

    def end(self, side: Side, instance: int) -> None:
        """End all processes of an instance now. Their rooms and their memory are gone, and nobody is told.

        Raises ValueError where nothing was to go wrong: what is lost with a process is not kept there.
        """
        state = self._state
        if state.faults is None:
            raise ValueError("processes end only in a cluster that was made with faults")
        group = state.groups[side, instance]
        self._host.end_processes(group)
        group.down = True
        state.instances.end((side, instance))
        # The copies under way count as done, since what they are for has been decided.
        state.note_all(group)
        for rank in group.ranks:
            rank.gone = True
            state.untold += rank.core.untold
            self._messages.end_writes(rank)
            if state.contacts is not None:
                state.contacts.forget(rank.id)
            for room in list(rank.core.rooms.values()):
                self._lose(rank.core, room)
        for key in group.coming:
            for rank in group.ranks:
                self._requests.refuse(rank.id, key, PROCESS_ENDED)

    def _lose(self, core: Core, room: Room) -> None:
        """A room ends with its process: its client sees the connection break, and its blocks exist no more."""
        state = self._state
        if not room.over:
            self._requests.conclude(core.rank_id, Conclude(*room.key, Status.Failed, PROCESS_ENDED))
        if state.faults is not None:
            state.faults.lost(core.rank_id, room.key)
        if state.recorder is None:
            return
        number = room.key[0]
        status = room.status
        tokens = room.sent_tokens if isinstance(room, EncodeRoom) else room.got_tokens  # type: ignore[attr-defined]
        if status not in FINAL:
            status = Status.Failed
            state.note(core.rank_id, Note(number, Event.FAILED, status, tokens, 0, PROCESS_ENDED))
        state.note(core.rank_id, Note(number, Event.RELEASED, status, tokens, 0, PROCESS_ENDED))


def _as_fast_as_any(_: RankId) -> float:
    return 1.0
