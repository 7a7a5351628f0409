"""Drives a rank's protocol core: gives it what comes in, with the time, and carries out what it decides.

Only the main thread runs this code, except for ``_write_done`` and ``_peer_news``, which hand something over to it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from bufferlab.protocol.emulation.loop import LoopGrid
from bufferlab.protocol.emulation.passes import Passes
from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.layout import AUX_DEFINED_WORDS, AUX_WORDS
from bufferlab.protocol.messages import (
    Action,
    Cancel,
    Conclude,
    CopyOut,
    Deliver,
    Iteration,
    Message,
    Note,
    PeerDown,
    PeerUp,
    Quiet,
    Send,
    StartEncode,
    StartWrite,
    WriteDone,
    WriterQuiet,
)
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import fields_of
from bufferlab.protocol.wire.limits import EXTENDED
from bufferlab.real.control.heartbeat import Found, Lost, News
from bufferlab.real.control.route import Route
from bufferlab.real.control.sglang_encode import EncodeWire
from bufferlab.real.control.sglang_language import LanguageWire
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.control.wire import Decoded, ExtendedWire, Vacant, Wire
from bufferlab.real.counts import Counts
from bufferlab.real.engine.content import room_content
from bufferlab.real.engine.memory import touch_pages
from bufferlab.real.engine.verifier import Verifier
from bufferlab.real.engine.writer import Writer
from bufferlab.real.errors import EngineError
from bufferlab.real.faults import slowest_of, slowness_of
from bufferlab.real.run.agenda import Agenda
from bufferlab.real.run.clock import RunClock
from bufferlab.real.run.commands import WriteBegins
from bufferlab.real.run.equipment import Equipment
from bufferlab.real.run.forward import Forward, PrefillOver
from bufferlab.real.run.journal import RECORDS_AT_ONCE, Journal
from bufferlab.real.run.peers import Peers
from bufferlab.real.run.writes import Writes

MOST_CONTACTS = 16
"""First contacts of the engine that are under way at a time; on the fork's wire anybody can ask for one."""

STALL_S = 1.0
"""A loop that was not held up by itself and yet did not come round for this long was stopped with its process."""

DRAIN_S = 0.5
"""How long a process that was stopped does not believe that its writers are quiet. They have closed their connections
long ago, but what these brought still lies in its own kernel, and the engine's thread needs a moment to empty it: at
most some 6 MB a connection at more than 1 GB/s, on a machine that is busy."""


class Driver:
    """The core of one rank, with the sources of its inputs and the receivers of its actions.

    ``agenda``: inputs to come, by this host's clock. ``stopping``: whether the command to stop has come.
    """

    def __init__(self, spec: RankSpec, equipment: Equipment) -> None:
        self.spec = spec
        self.scenario = spec.scenario
        self.rank_id = spec.rank_id
        self.clock = RunClock()
        self.stopping = False
        self.counts = Counts()
        self.agenda: Agenda[object] = Agenda()
        self._equipment = equipment
        # What came, and when, while the run's time was not known yet.
        self._before_start: deque[tuple[float, Any]] = deque()
        self._completions: deque[WriteDone] = deque()
        self._news_of_peers: deque[News | Exception] = deque()
        self._contacts: list[threading.Thread] = []
        self._news = True  # something arrived since the last iteration
        self._seen_s = time.monotonic()
        self._drained_s = 0.0
        self.journal = Journal(spec, equipment.router)
        # Computes the base of all contents once, before anything is timed.
        room_content(0, 0, spec.longest_tokens, self.scenario.layout)
        extended = self.scenario.wire == EXTENDED
        self.peers = Peers(equipment.context, equipment.guard if extended else None)
        self.core: EncodeRank | LanguageRank
        if self.rank_id.side is Side.ENCODE:
            self.core = self.scenario.make_encode_rank(self.rank_id, self.journal.record)
        else:
            self.core = self.scenario.make_language_rank(self.rank_id, self.journal.record)
        self.wire = self._make_wire(equipment.own)
        self._meet_everybody()
        self.writes: Writes | None = None
        self.verifier: Verifier | None = None
        if isinstance(self.core, EncodeRank):
            self.writes = Writes(spec, self.clock, self._make_writer, self._write_begins)
        else:
            if spec.verify:
                # Our own identity of the content lies in free words, which a peer of the fork leaves alone.
                self.verifier = Verifier(self.scenario.layout, AUX_WORDS if extended else AUX_DEFINED_WORDS)
            touch_pages(self.scenario.layout, spec.longest_tokens, equipment.placement.device)
        slowest = slowest_of(spec.faults, self.rank_id.side, self.rank_id.instance)
        self.grid = LoopGrid(self.scenario.services.poll_interval_s(self.rank_id.side) * slowest)
        self.forward = Forward(
            self.rank_id,
            self.scenario,
            equipment.pool,
            Passes(self.scenario, slowest),
            self.agenda,
            self.counts,
            self.verifier,
            slowness_of(spec.faults, self.rank_id),
        )

    def _make_wire(self, own: Route) -> Wire:
        if self.scenario.wire == EXTENDED:
            return ExtendedWire(self.spec, own, self)
        if isinstance(self.core, EncodeRank):
            return EncodeWire(self.spec, own, self, core=self.core, down=self.peers.down, clock=time.monotonic)
        pool = self._equipment.pool
        return LanguageWire(self.spec, own, self, core=self.core, pool=pool, clock=time.monotonic)

    def _meet_everybody(self) -> None:
        """Find the own group and join it, and the other side, but for what is down now."""
        found = self.wire.assemble()
        leader = found[self.rank_id._replace(rank=0)]
        self._equipment.collective.join(leader.host, leader.collective_port)
        for rank_id in self.wire.peers:
            if rank_id in found:
                self._connect(found[rank_id])
            else:
                self.peers.down.add(rank_id)

    def _connect(self, route: Route) -> None:
        self.peers.connect(route)
        self.wire.meet(route)

    def _make_writer(self) -> Writer:
        # Its own copy of the routes: what is queued for a process goes to that process's memory, or nowhere.
        return Writer(
            self._equipment.engine,
            self._equipment.pool,
            self.scenario.layout,
            dict(self.peers.routes),
            self.scenario,
            self._write_done,
            slowness_of(self.spec.faults, self.rank_id),
        )

    def get_ready(self) -> None:
        """Make the first contacts and begin to watch the other side."""
        if self.writes is not None:
            for peer, route in self.peers.routes.items():
                # The first contact takes milliseconds, and much longer with a hung peer: not during the run.
                if not self._equipment.engine.connect(route.session):
                    raise EngineError(f"{self.rank_id} cannot reach {peer} at {route.session}")
        for peer in sorted(self.peers.down):
            self.feed(PeerDown(peer))
        self._heartbeat = self.wire.watch(self.peers.routes, self._peer_news)
        # In a first start everybody waits for everybody; later the others are at work and must hear of a new process.
        if self.spec.generation:
            self.wire.greet(sorted(self.peers.routes))
        self._seen_s = time.monotonic()

    # --- when there is something to do ---

    @property
    def at_hand(self) -> bool:
        """Whether other threads have handed something over that is not taken yet."""
        return bool(self._completions or self._news_of_peers)

    def iteration_due(self, now: float) -> bool:
        """Whether an iteration could change anything at ``now`` of this host; a lone rank need not hold others."""
        deadline = self.core.next_deadline()
        timed_out = deadline is not None and self.clock.zero_s + deadline <= now
        return self._work_left or timed_out

    @property
    def _work_left(self) -> bool:
        return self._news or self.core.unsettled or self.forward.waiting

    def next_iteration_s(self, now: float) -> float:
        """When the next iteration at or after ``now`` is held, by this host's clock."""
        return self.clock.zero_s + self.grid.next_s(now - self.clock.zero_s)

    def expects_s(self) -> float | None:
        """How long until the last thing is due that this process knows to come; None when there is none."""
        now = time.monotonic()
        due_s = self.agenda.times_s
        deadline_s = self.core.next_deadline()
        if deadline_s is not None:
            due_s.append(self.clock.zero_s + deadline_s)
        if self._work_left:
            due_s.append(self.next_iteration_s(now))  # an iteration, when the pass is over
        return max(due_s) - now if due_s else None

    def notice_stall(self) -> None:
        """Called whenever the loop comes round: see whether the process had been stopped since."""
        now = time.monotonic()
        if now - self._seen_s > STALL_S:
            self._drained_s = now + DRAIN_S
        self._seen_s = now

    # --- what comes in ---

    def take_news(self) -> None:
        """Take the news of peers that the heartbeat's thread has found."""
        while self._news_of_peers:
            self._take_news(self._news_of_peers.popleft())

    def take_completions(self) -> None:
        """Take the ends of writes from the writer's threads."""
        while self._completions:
            done = self._completions.popleft()
            assert self.writes is not None
            self.writes.ended(done)
            self.feed(done)
            self.writes.begin(done.destination)

    def hear(self, message: Decoded) -> None:
        """Take what the wire made of frames."""
        if isinstance(message, Found):
            self._take_news(message)
            return
        if isinstance(message, Vacant):
            self.peers.vacate(message.rank_id)
            self.feed(PeerUp(message.rank_id))
            return
        if not self.core.takes(message):
            return
        now = time.monotonic()
        if isinstance(message, Quiet) and now < self._drained_s:
            self.agenda.add(self._drained_s, message)
        else:
            self.feed(message)

    def _peer_news(self, news: News | Exception) -> None:
        self._news_of_peers.append(news)
        self._equipment.inbox.wake()

    def _take_news(self, news: News | Exception) -> None:
        match news:
            case Lost(rank_id, process):
                current = self.peers.routes.get(rank_id)
                if current is not None and current.process == process:
                    self._peer_down(rank_id)
                    for heard in self.wire.lost(rank_id):
                        self.hear(heard)
            case Found(route):
                rank_id = route.rank_id
                current = self.peers.routes.get(rank_id)
                if current is not None and current.process == route.process:
                    self.wire.meet(route)
                else:
                    if current is not None:
                        self._peer_down(rank_id)
                    self._connect(route)
                    if self.writes is not None:
                        self.writes.readdress()
                if rank_id in self.peers.down:
                    self.peers.down.discard(rank_id)
                    self.feed(PeerUp(rank_id))
                for heard in self.wire.released():
                    self.hear(heard)
            case Exception():
                raise news

    def _peer_down(self, rank_id: RankId) -> None:
        if rank_id not in self.peers.down:
            self.peers.down.add(rank_id)
            self.feed(PeerDown(rank_id))
            if self.writes is not None:
                for taken_back in self.writes.take_back(rank_id):
                    self.feed(taken_back)

    def _write_done(self, done: WriteDone) -> None:
        self._completions.append(done)
        self._equipment.inbox.wake()

    def feed(self, event: Any) -> None:
        """Give the core an input that comes now, or keep it until the run's time is known."""
        if self.clock.is_set:
            self._give(event, time.monotonic())
        else:
            # The core's clock counts from the start of the run, and must not be set back then.
            self._before_start.append((time.monotonic(), event))

    def start(self, zero_s: float) -> None:
        """The run begins, or began, when this host's clock shows ``zero_s``: take what came before that was known."""
        self.clock.zero_s = zero_s
        while self._before_start:
            came_s, event = self._before_start.popleft()
            self._give(event, came_s)

    def _give(self, event: Any, came_s: float) -> None:
        """Give the core an input that came when this host's clock showed ``came_s``."""
        self._news = True
        self.counts.inputs += 1
        if isinstance(event, WriteDone) and not event.quiet:
            late_s = self._equipment.engine.late_write_s
            self.later(late_s, WriterQuiet(event.room, event.incarnation, event.destination))
            self._heartbeat.look_at(event.destination)
        self._carry_out(self.core.handle(event, came_s - self.clock.zero_s))

    def feed_later(self, event: object) -> None:
        """Take what was on the agenda and is due."""
        if isinstance(event, PrefillOver):
            self.forward.prefilling -= 1
            now_s = self.clock.now_s()
            self.journal.record(now_s, self.rank_id, event.room, Event.PREFILLED, None, event.tokens, 0, "")
            self.journal.send_on(least=1 if self.stopping else RECORDS_AT_ONCE)
        elif isinstance(event, Quiet | Cancel):
            self.hear(event)
        else:
            self.feed(event)

    # --- what goes out ---

    def iteration(self, iteration: Iteration) -> None:
        """Act on the group's agreement. An iteration lasts until the forward pass that it begins has ended."""
        began_s = time.monotonic()
        self._news = False
        self._carry_out(self.core.handle(iteration, self.clock.now_s()))
        end_s = self.forward.run()
        self.grid.end_iteration(began_s - self.clock.zero_s, end_s - began_s)

    def _carry_out(self, actions: list[Action]) -> None:
        self.journal.send_on()
        for action in actions:
            match action:
                case Send(to, message):
                    self.journal.send_on()  # before anybody hears of what was recorded
                    self.wire.send(to, message)
                case StartEncode():
                    self.forward.encode(action)
                case StartWrite() if self.writes is not None:
                    self.journal.send_on()
                    self.writes.add(action)
                case CopyOut():
                    self.forward.copy_out(action)
                case Deliver():
                    self.forward.deliver(action)
                case Note():
                    self.journal.record(self.clock.now_s(), self.rank_id, *fields_of(action))
                case Conclude(room, incarnation):
                    self.forward.forget(room, incarnation)
                    self.journal.conclude(action)
                case _:
                    raise RuntimeError(f"{self.rank_id} cannot carry out {action}")
        self.journal.send_on()

    def _write_begins(self, room: int) -> None:
        self.journal.tell(WriteBegins(self.rank_id, room))

    def finish(self) -> None:
        """Watch nobody any more, and finish the writes."""
        self._heartbeat.close()
        if self.writes is not None:
            self.writes.close()

    # --- what the wire needs (``real.control.wire.Connection``) ---

    def push(self, to: RankId, frames: list[bytes]) -> None:
        """Send a multipart to the process that stands for ``to``, if there ever was one."""
        self.peers.push(to, frames)

    def later(self, delay_s: float, message: Message | WriterQuiet) -> None:
        """Take ``message`` for one from the other side when ``delay_s`` have passed."""
        self.agenda.add(time.monotonic() + delay_s, message)

    def contact(self, session: str) -> None:
        """Begin the engine's first contact with a process, which the rank's thread must not wait for."""
        self._contacts = [one for one in self._contacts if one.is_alive()]
        if len(self._contacts) >= MOST_CONTACTS:
            return  # the first write makes it
        connect = self._equipment.engine.connect
        thread = threading.Thread(target=connect, args=(session,), name=f"meet {session}", daemon=True)
        self._contacts.append(thread)
        thread.start()
