"""The rank processes of a measured run: started, started again and ended, and the router's way to talk to them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

import msgspec
import zmq

from bufferlab.protocol.recording import Record
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.limits import SGLANG
from bufferlab.real.control.channel import Inbox, Outbox
from bufferlab.real.control.clocks import SAME, Clock
from bufferlab.real.control.guard import Refusal, guard_of
from bufferlab.real.control.route import ROUTER, Route
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.engine.proof import TransportProof
from bufferlab.real.errors import EngineError, EngineMissing, EngineStartError
from bufferlab.real.hosts.places import Hosts, Process
from bufferlab.real.run.commands import (
    GROUP_STATUS,
    MISSING_STATUS,
    Alive,
    Broken,
    Command,
    Concluded,
    Holdings,
    Ready,
    Records,
    Report,
    Start,
    WriteBegins,
    command_frames,
    parse_command,
)

START_TIMEOUT_S = 90.0
EXIT_TIMEOUT_S = 20.0
POLL_S = 0.05

CAUSE_S = 2.0
"""How long the reason for it may be on its way when a rank leaves while it starts, since another one has ended."""

SPARE_CONNECTIONS = 64
"""How many more are let into the router's port than the run has ranks, started again or not."""

FOR_ROUTERS = (Ready, Alive, Concluded, WriteBegins, Holdings, Records, Report, Broken)
"""The reports, which ranks give; all others are commands of a router."""


@dataclass
class Child:
    """One rank's process. ``ready``: it takes requests. ``doomed``: it has been killed, its end is no surprise.
    ``ended_s``: when its end was noticed; ``gone``: it has been taken note of. ``left``: it ended because another rank
    of its instance took no part any more, as it says."""

    rank_id: RankId
    generation: int
    process: Process
    ready: bool = False
    doomed: bool = False
    ended_s: float | None = None
    gone: bool = False
    left: bool = False

    @property
    def instance(self) -> tuple[Side, int]:
        return self.rank_id.side, self.rank_id.instance

    def kill(self) -> None:
        """End it at once; a stopped process, too. How one has ended that did so before is still to be told."""
        if self.process.poll() is None:
            self.doomed = True
            self.process.send_signal(signal.SIGKILL)


class Ranks:
    """The rank processes of one run, ended when the context is left.

    ``template``: what their specs have in common. ``hosts``: where they live.
    """

    def __init__(self, template: RankSpec, hosts: Hosts) -> None:
        self.scenario = template.scenario
        self.verify = template.verify
        self.mortal = template.mortal
        self.ids = [*self.scenario.encode_ids(), *self.scenario.language_ids()]
        self.children: dict[RankId, Child] = {}
        self.proofs: dict[RankId, TransportProof] = {}
        self.memory: dict[RankId, str] = {}
        self.processes: list[Route] = []
        self.hosts = hosts
        self.clocks: dict[RankId, Clock] = {}
        self._template = template
        self._guard = guard_of(template.token)
        self.frames_dropped = 0
        self._earlier: list[Child] = []
        self._outboxes: dict[RankId, Outbox] = {}
        self._meetings: dict[tuple[Side, int], str] = {}

    def __enter__(self) -> Ranks:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox = Inbox(
            self._context,
            self.hosts.router_host,
            self._guard,
            name="control port of the router",
            most_connections=2 * len(self.ids) + SPARE_CONNECTIONS,
        )
        try:
            self._launch()
            self._await_all()
            self.clocks = {rank_id: self.hosts.measure_clock(rank_id) for rank_id in self.ids}
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        children = [*self._earlier, *self.children.values()]
        for child in children:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
                child.process.send_signal(signal.SIGCONT)  # one that was stopped would not hear the other
        for child in children:
            try:
                child.process.wait(EXIT_TIMEOUT_S / 4)
            except subprocess.TimeoutExpired:
                child.process.send_signal(signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):  # its host is beyond reach, and ends it if it can
                    child.process.wait(EXIT_TIMEOUT_S)
        for outbox in self._outboxes.values():
            outbox.close(discard=True)
        self._inbox.close()
        self._context.destroy(linger=0)

    # --- processes ---

    def _launch(self) -> None:
        leaders = [RankId(Side.ENCODE, instance, 0) for instance in range(self.scenario.encode_instances)]
        self._bootstraps = tuple(self.hosts.bind_registry(leader) for leader in leaders)
        if self.scenario.wire == SGLANG and self.scenario.language_tp > 1:
            # The fork's registry lists no language ranks, so that they find each other in one of their own.
            for instance in range(self.scenario.language_instances):
                leader = RankId(Side.LANGUAGE, instance, 0)
                self._meetings[leader.side, instance] = self.hosts.bind_registry(leader)
        for rank_id in self.ids:
            self._spawn(rank_id, 0)

    def start_again(self, side: Side, instance: int) -> None:
        """Start new processes under the names of an instance whose processes have all ended."""
        absent = {child.instance for child in self.children.values() if not child.ready or child.gone}
        if side is Side.ENCODE:
            _, port = self._bootstraps[instance].rsplit(":", 1)
            self.hosts.bind_registry(RankId(side, instance, 0), int(port))
        for rank_id in self.members(side, instance):
            before = self.children[rank_id]
            before.process.wait(EXIT_TIMEOUT_S)
            self._earlier.append(before)
            if rank_id in self._outboxes:
                self._outboxes.pop(rank_id).close(discard=True)
            self._spawn(rank_id, before.generation + 1, tuple(absent - {(side, instance)}))

    def _spawn(self, rank_id: RankId, generation: int, absent: tuple[tuple[Side, int], ...] = ()) -> None:
        spec = msgspec.structs.replace(
            self._template,
            rank_id=rank_id,
            bootstraps=self._bootstraps,
            meeting=self._meetings.get((rank_id.side, rank_id.instance), ""),
            router=Route(rank_id=ROUTER, host=self.hosts.router_host, control_port=self._inbox.port),
            generation=generation,
            absent=absent,
            host=self.hosts.address_of(rank_id),
        )
        self.children[rank_id] = Child(rank_id, generation, self.hosts.start(spec))

    def _await_all(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        left_s: dict[RankId, float] = {}
        while not all(child.ready for child in self.children.values()):
            for command in self.receive(POLL_S):
                if isinstance(command, Ready):
                    self.note_ready(command)
                elif isinstance(command, Broken):
                    raise EngineStartError(command.reason)
            for child in self.children.values():
                status = child.process.poll()
                if status is not None and status < 0:  # LOST_STATUS, or a signal: nothing that was asked for wrongly
                    raise EngineError(child.process.last_words())
                if status == GROUP_STATUS:
                    left_s.setdefault(child.rank_id, time.monotonic())
                elif status is not None:
                    raise (EngineMissing if status == MISSING_STATUS else EngineStartError)(child.process.last_words())
            self._check_left(left_s)
            if time.monotonic() > deadline:
                missing = ", ".join(str(rank_id) for rank_id, child in self.children.items() if not child.ready)
                raise EngineStartError(f"after {START_TIMEOUT_S:g} s these ranks were not ready: {missing}")

    def _check_left(self, left_s: Mapping[RankId, float]) -> None:
        """Raise EngineStartError if ranks have left because another one of their instance had ended, and none has."""
        for rank_id, since_s in left_s.items():
            members = self.members(rank_id.side, rank_id.instance)
            if all(member in left_s for member in members) or time.monotonic() - since_s > CAUSE_S:
                words = "; ".join(self.children[one].process.last_words() for one in members if one in left_s)
                raise EngineStartError(
                    f"{rank_id} ended with status {GROUP_STATUS} while it started, as if another rank of its instance "
                    f"had ended first: {words}"
                )

    def note_ready(self, ready: Ready) -> bool:
        """Whether a process takes commands from now on; not so one that has ended or been replaced meanwhile."""
        child = self.children[ready.rank_id]
        if child.generation != ready.route.generation or child.gone:
            return False
        child.ready = True
        self.proofs.setdefault(ready.rank_id, ready.proof)
        self.memory[ready.rank_id] = ready.memory
        self.processes.append(ready.route)
        route = ready.route
        port = route.commands_port or route.control_port
        self._outboxes[ready.rank_id] = Outbox(self._context, route.host, port, self._guard)
        return True

    def members(self, side: Side, instance: int) -> list[RankId]:
        """The ranks of an instance."""
        return [rank_id for rank_id in self.ids if (rank_id.side, rank_id.instance) == (side, instance)]

    def alive(self, rank_id: RankId) -> bool:
        """Whether the rank takes commands."""
        child = self.children[rank_id]
        return child.ready and not child.gone

    # --- clocks ---

    def begin(self, rank_id: RankId, zero_s: float) -> None:
        """Tell a rank that the run began, or begins, when this process's clock shows ``zero_s``."""
        self.send(rank_id, Start(self.clocks[rank_id].host_s(zero_s)))

    def measure_again(self) -> list[RankId]:
        """Measure the clocks of the ranks once more: what they drifted since is taken out of what they report.

        The ranks of which the clock could not be measured.
        """
        self.clocks = {rank_id: self.hosts.measure_clock(rank_id, before) for rank_id, before in self.clocks.items()}
        return [rank_id for rank_id, clock in self.clocks.items() if clock != SAME and clock.after is None]

    def clocked(self, records: Iterable[Record], zero_s: float) -> Iterator[Record]:
        """Records of one rank, in seconds of this process's clock since ``zero_s``."""
        for record in records:
            clock = self.clocks[record.rank_id]
            if clock == SAME:
                yield record
                continue
            told_s = Clock(clock.before).host_s(zero_s)  # what it was told before the drift was known
            yield record._replace(time_s=clock.router_s(told_s + record.time_s) - zero_s)

    # --- commands ---

    def send(self, rank_id: RankId, command: Command) -> None:
        """Send a command to a rank that has been ready. Raises EngineError when it has long taken none."""
        try:
            self._outboxes[rank_id].send(command_frames(command))
        except zmq.Again:
            raise EngineError(f"{rank_id} takes no commands any more") from None

    def receive(self, timeout_s: float) -> Iterator[Command]:
        """What the ranks say; waits for the first of it, at most ``timeout_s``."""
        self.hosts.check()
        self._inbox.wait(timeout_s)
        for frames in self._inbox.messages():
            try:
                command = parse_command(frames)
                if not isinstance(command, FOR_ROUTERS) or command.rank_id not in self.children:
                    raise ValueError(f"{type(command).__name__} is nothing that a rank of this run says")
            except ValueError as error:
                self.frames_dropped += 1
                sys.stderr.write(f"the router dropped a frame: {error}\n")
                continue
            yield command

    def refused(self) -> list[Refusal]:
        """Who came to the router's port, or the coordinator's, and did not hold the run's token."""
        return [*self._inbox.refused(), *self.hosts.refused()]
