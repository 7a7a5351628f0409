"""Carries out the faults of a measured run's plan that come from outside the ranks: kill, pause, restart, abort."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from bufferlab.protocol.faults import ClientAbort
from bufferlab.protocol.lifecycle import Instance, instance_of
from bufferlab.protocol.messages import Abort
from bufferlab.protocol.topology import Side
from bufferlab.real.faults import Kill, Pause, ProcessFault, RealFault, Restart
from bufferlab.real.run.processes import Processes
from bufferlab.real.run.ranks import Child
from bufferlab.real.run.requests import Requests
from bufferlab.real.run.restarts import Restarts
from bufferlab.real.run.state import RunState


class FaultPlan:
    """The faults that are still to be inflicted, each at its time or at the first write of its room."""

    def __init__(
        self,
        plan: Sequence[RealFault],
        state: RunState,
        requests: Requests,
        processes: Processes,
        restarts: Restarts,
    ) -> None:
        self._state = state
        self._requests = requests
        self._processes = processes
        self._restarts = restarts
        self._to_come = [fault for fault in plan if isinstance(fault, ProcessFault | ClientAbort)]

    def begin(self) -> None:
        """Put those that have a time on the agenda."""
        for fault in self._to_come:
            if fault.time_s is not None:
                self._state.agenda.add(fault.time_s, lambda fault=fault: self._inflict(fault))  # type: ignore[misc]

    def write_begins(self, room: int) -> None:
        """A write of a room begins: inflict what was planned for this moment."""
        for fault in [one for one in self._to_come if isinstance(one, ProcessFault) and one.on_write_of == room]:
            self._inflict(fault)

    def restarts_to_come(self, instance: Instance) -> bool:
        """Whether an instance is to be restarted later."""
        return any(isinstance(one, Restart) and (one.side, one.instance) == instance for one in self._to_come)

    def end(self) -> None:
        """The run is over: note what did not happen in it."""
        for fault in self._to_come:
            self._state.note(f"did not happen: {fault}")

    def _inflict(self, fault: ProcessFault | ClientAbort) -> None:
        if fault not in self._to_come:
            return  # it has been: two ranks write to the room
        state, children = self._state, self._state.ranks.children
        self._to_come.remove(fault)
        state.upheaval()
        match fault:
            case ClientAbort(room=room):
                state.note(f"abort room {room}")
                self._requests.give_up({room}, Abort(room, 0).reason)
            case Kill(rank=rank):
                self._processes.strike(instance_of(rank))
                if self._ends(instance_of(rank), f"kill {rank}"):
                    children[rank].kill()
            case Pause(rank=rank, lasts_s=lasts_s):
                self._processes.strike(instance_of(rank))
                child = children[rank]
                if child.process.poll() is None:
                    state.note(f"stop {rank} for {lasts_s:g} s")
                    child.process.send_signal(signal.SIGSTOP)
                    state.paused.add(rank)
                    state.later(lasts_s, lambda: self._resume(child))
            case Restart(side=side, instance=instance, down_s=down_s):
                self._processes.strike((side, instance))
                if not self._ends((side, instance), f"restart {side.value}{instance}"):
                    return
                for rank_id in state.ranks.members(side, instance):
                    children[rank_id].kill()
                if side is Side.ENCODE:
                    self._requests.forget_images(instance)
                self._restarts.begin((side, instance), down_s)

    def _ends(self, instance: Instance, what: str) -> bool:
        """Whether an incident ends the processes of an instance: not of one that is not up."""
        ends = self._state.instances.end(instance)
        self._state.note(what if ends else f"did not happen: {what}, which was down already")
        return ends

    def _resume(self, child: Child) -> None:
        self._state.paused.discard(child.rank_id)
        self._state.upheaval()
        if child.process.poll() is None:
            self._state.note(f"continue {child.rank_id}")
            child.process.send_signal(signal.SIGCONT)
