"""One rank as an operating-system process: the protocol core, its memory, its engine and its scheduler loop.

The main thread owns the core. It takes messages and completions as they come and holds a scheduler turn every
``*_turn_s``; a turn that starts a forward pass is followed by the next one only when the pass is over, while messages
go on being taken, as the original backend's control thread does. The writer's thread moves bytes, the verifier's
compares them, the heartbeat's watches the other side; they only hand things over.

Run as ``python -m real.run.rank`` with a RankSpec as one line of JSON on standard input. The process ends when standard
input is closed: a rank never outlives the process that launched it.
"""

from __future__ import annotations

import collections
import heapq
import os
import socket
import sys
import threading
import time
from typing import Any

import msgspec
import torch
import zmq

from protocol.emulation.loop import LoopGrid
from protocol.emulation.passes import Passes
from protocol.encode import EncodeRank
from protocol.language import LanguageRank, LanguageRoom
from protocol.layout import AUX_DEFINED_WORDS, AUX_WORDS
from protocol.messages import (
    Abort,
    Action,
    Cancel,
    Conclude,
    CopyOut,
    Deliver,
    Encoded,
    Message,
    Note,
    PeerDown,
    PeerUp,
    Prefilled,
    Quiet,
    Send,
    StartEncode,
    StartWrite,
    Turn,
    WriteDone,
    WriterQuiet,
)
from protocol.recording import Event
from protocol.sizing import SizingError, Supervised
from protocol.status import Status
from protocol.topology import RankId, Side
from protocol.wire.limits import EXTENDED, SGLANG
from real.control.bootstrap import Registry
from real.control.channel import Inbox, Outbox
from real.control.collective import Collective, GroupBroken
from real.control.guard import guard_of
from real.control.heartbeat import Found, Lost, News
from real.control.route import Route
from real.control.sglang import EncodeWire, LanguageWire
from real.control.spec import RankSpec
from real.control.wire import START_TIMEOUT_S, ExtendedWire, Heard, Vacant, Wire
from real.counts import Counts, WriteCounts
from real.engine.content import RoomContent, room_content
from real.engine.memory import Pool, touch_pages
from real.engine.placement import find_devices, place
from real.engine.registry import start_engine
from real.engine.verifier import Verifier
from real.engine.writer import Writer
from real.errors import EngineError, EngineMissing
from real.faults import FailWrites, RefuseRegistration, slowest_of, slowness_of
from real.run.orders import (
    GROUP_STATUS,
    MISSING_STATUS,
    ORDER,
    Alive,
    Ask,
    Broken,
    Concluded,
    Describe,
    GiveUp,
    Holdings,
    Order,
    Ready,
    Records,
    Report,
    Start,
    Stop,
    Submit,
    Told,
    WriteBegins,
    order_frames,
    parse_order,
)
from real.run.usage import Meter, Usage
from real.threads import FAILURES, ThreadBrokeError

STOP_GRACE_S = 10.0
"""How long a rank that was told to stop waits for its last rooms to fall quiet."""

WRITES_AHEAD = 2
"""Writes that each of the writer's threads has at a time, so that it never waits for the main thread. The others wait
here, where those to a peer that has gone can be taken back: behind a hung peer each would cost the engine's 2 s."""

IDLE_WAIT_S = 0.05

SIGN_S = 1.0
"""How often a rank that closes says that it still does."""

MOST_CONTACTS = 16
"""First contacts of the engine that are under way at a time; on the fork's wire anybody can ask for one."""

SPARE_CONNECTIONS = 64
"""How many more are let into the control port than the run has processes, started again or not."""

FOR_RANKS = (Start, Submit, GiveUp, Describe, Ask, Stop)
"""Orders that a router gives; the others are what ranks say."""

RECORDS_AT_ONCE = 1000
"""Records are sent on in parts of this size: few messages, and a rank's memory does not grow with the run."""

STALL_S = 1.0
"""A loop that was not held up by itself and yet did not come round for this long was stopped with its process."""

DRAIN_S = 0.5
"""How long a process that was stopped does not believe that its writers are quiet. They have closed their connections
long ago, but what these brought still lies in its own kernel, and the engine's thread needs a moment to empty it: at
most some 6 MB a connection at more than 1 GB/s, on a machine that is busy."""


class _PrefillOver(msgspec.Struct, frozen=True):
    """A request's prefill ends; told to the rank itself, which writes it down."""

    room: int
    tokens: int


class RankProcess:
    """Everything one rank has; ``run`` is its life."""

    def __init__(self, spec: RankSpec) -> None:
        self.spec = spec
        self.scenario = spec.scenario
        self.rank_id = spec.rank_id
        self.is_encode = spec.rank_id.side is Side.ENCODE
        self.layout = self.scenario.layout
        self._slowness = slowness_of(spec.faults, self.rank_id)
        slowest = slowest_of(spec.faults, self.rank_id.side, self.rank_id.instance)
        self.grid = LoopGrid(self.scenario.services.turn_s(self.rank_id.side) * slowest)
        self.passes = Passes(self.scenario, slowest)
        self.records: list[Told] = []
        self.zero_s = 0.0
        # What came, and when, while the run's time was not known yet.
        self._before_start: collections.deque[tuple[float, Any]] = collections.deque()
        self.stopping = False
        self.counts = Counts()
        self._meter = Meter()
        self._usage: Usage | None = None
        self._completions: collections.deque[WriteDone] = collections.deque()
        self._recorded = 0
        self._moves: dict[int, int] = {}  # by room, the number of the last record
        # A rank writes down when a prefill is over, and stays until the last one is.
        self._records_prefill = self.scenario.services.prefills and not self.is_encode
        self._prefilling = 0  # requests that were delivered and whose prefill is not over
        self._contacts: list[threading.Thread] = []
        self._later: list[tuple[float, int, Any]] = []
        self._later_count = 0
        self._chunks: dict[tuple[int, int], list[RoomContent]] = {}
        self._news = True  # something arrived since the last turn

        self._seen_s = time.monotonic()
        self._drained_s = 0.0
        self._news_of_peers: collections.deque[News | Exception] = collections.deque()
        refusals = [fault for fault in spec.faults if isinstance(fault, RefuseRegistration)]

        self._guard = guard_of(spec.token)
        ranks = [*self.scenario.encode_ids(), *self.scenario.language_ids()]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # On the fork's wire anybody may speak; what he says is no order, which come in by a door of their own.
        is_open = self._guard is not None and self.scenario.wire == SGLANG
        self.inbox = Inbox(
            self._context,
            spec.host,
            self._guard,
            name=f"control port of {self.rank_id}",
            most_connections=2 * len(ranks) + SPARE_CONNECTIONS,
            is_open=is_open,
        )
        FAILURES.wake = self.inbox.wake
        self.router = Outbox(self._context, spec.router.host, spec.router.control_port, self._guard)
        self.engine = start_engine(spec.transport, host=spec.host, device=spec.device, guard=self._guard)
        blocks = self.scenario.encode_blocks if self.is_encode else self.scenario.language_blocks
        number = ranks.index(self.rank_id)
        self.placement = place(spec.memory, number, find_devices(spec.transport))
        self.pool = Pool(self.layout, blocks, self.placement.device, pinned=self.placement.pinned)
        self.engine.register(self.pool)
        if any((one.rank, one.generation, one.what) == (self.rank_id, spec.generation, "memory") for one in refusals):
            self.engine.register(self.pool)  # memory is registered once; the engine refuses it a second time
        size = self.scenario.encode_tp if self.is_encode else self.scenario.language_tp
        self.collective = Collective(self.rank_id.rank, size, spec.host, START_TIMEOUT_S, self._guard)
        own = Route(
            rank_id=self.rank_id,
            host=spec.host,
            control_port=self.inbox.port,
            orders_port=self.inbox.orders_port if is_open else 0,
            generation=spec.generation,
            session=self.engine.session,
            bases=self.pool.bases,
            collective_port=self.collective.port,
        )
        self._registry: Registry | None = None
        if spec.bootstrap_fd is not None:
            refused = [(one.rank, one.generation) for one in refusals if one.what == "route"]
            listener = socket.socket(fileno=spec.bootstrap_fd)
            self._registry = Registry(
                listener,
                own.process,
                self.scenario.encode_tp,
                refused,
                self._guard,
                fork=is_open and self.is_encode,
                name=f"registry of {self.rank_id}",
            )
        # Computes the base of all contents once, before anything is timed.
        room_content(0, 0, spec.longest_tokens, self.layout)
        self.routes: dict[RankId, Route] = {}
        self.outboxes: dict[RankId, Outbox] = {}
        self._down: set[RankId] = set()
        self.core: EncodeRank | LanguageRank
        if self.is_encode:
            self.core = self.scenario.make_encode_rank(self.rank_id, self._record)
        else:
            self.core = self.scenario.make_language_rank(self.rank_id, self._record)
        self.wire = self._make_wire(own)
        self._meet_everybody()
        self.writer: Writer | None = None
        self._retired_writers: list[Writer] = []
        workers = self.scenario.transfer_workers
        self._writes: list[collections.deque[StartWrite]] = [collections.deque() for _ in range(workers)]
        self._writing = [0] * workers
        self._begun: collections.Counter[RankId] = collections.Counter()  # writes, by destination
        self.verifier: Verifier | None = None
        self._compared: Supervised | None = None  # a sizing policy from outside, of which each rank has a copy
        if isinstance(self.core, EncodeRank):
            self.writer = self._make_writer()
        else:
            if isinstance(self.core.sizing, Supervised) and size > 1:
                self.core.sizing.compared = True
                self._compared = self.core.sizing
            if spec.verify:
                # Our own identity of the content lies in free words, which a peer of the fork leaves alone.
                words = AUX_WORDS if self.scenario.wire == EXTENDED else AUX_DEFINED_WORDS
                self.verifier = Verifier(self.layout, words)
            touch_pages(self.layout, spec.longest_tokens, self.placement.device)

    def _make_wire(self, own: Route) -> Wire:
        if self.scenario.wire == EXTENDED:
            return ExtendedWire(self.spec, own, self)
        if isinstance(self.core, EncodeRank):
            return EncodeWire(self.spec, own, self, core=self.core, down=self._down, clock=time.monotonic)
        return LanguageWire(self.spec, own, self, core=self.core, pool=self.pool, clock=time.monotonic)

    def _meet_everybody(self) -> None:
        """Find the own group and join it, and the other side, but for what is down now."""
        found = self.wire.assemble()
        leader = found[self.rank_id._replace(rank=0)]
        self.collective.join(leader.host, leader.collective_port)
        for rank_id in self.wire.peers:
            if rank_id in found:
                self._connect(found[rank_id])
            else:
                self._down.add(rank_id)

    def _connect(self, route: Route) -> None:
        """From now on talk to this process where its rank is meant."""
        rank_id = route.rank_id
        if rank_id in self.outboxes:
            self.outboxes[rank_id].close(discard=True)
        self.routes[rank_id] = route
        guard = self._guard if self.scenario.wire == EXTENDED else None
        self.outboxes[rank_id] = Outbox(self._context, route.host, route.control_port, guard)
        self.wire.meet(route)

    def _make_writer(self) -> Writer:
        # Its own copy of the routes: what is queued for a process goes to that process's memory, or nowhere.
        routes = dict(self.routes)
        return Writer(self.engine, self.pool, self.layout, routes, self.scenario, self._write_done, self._slowness)

    # --- life ---

    def run(self) -> None:
        """Get ready, take part in the run until told to stop, report."""
        if self.is_encode:
            for peer, route in self.routes.items():
                # The first contact takes milliseconds, and much longer with a hung peer: not during the run.
                if not self.engine.connect(route.session):
                    raise EngineError(f"{self.rank_id} cannot reach {peer} at {route.session}")
        for peer in sorted(self._down):
            self._feed(PeerDown(peer))
        self.heartbeat = self.wire.watch(self.routes, self._peer_news)
        # In a first start everybody waits for everybody; later the others are at work and must hear of a new process.
        if self.spec.generation:
            self.wire.greet(sorted(self.routes))
        # One that does not answer by then is dead or hangs, and whoever waits for it must not hang as well.
        ready_at_s = time.monotonic() + self.spec.heartbeats.failures * self.spec.heartbeats.interval_s
        told = False
        self._seen_s = time.monotonic()
        turn_at_s: float | None = None  # when the next turn is held, if one is wanted
        leave_at_s: float | None = None
        while True:
            self.inbox.wait(self._wait_s(turn_at_s))
            FAILURES.check()
            self._notice_stall()
            if not self._meter.started and self.zero_s and time.monotonic() >= self.zero_s:
                self.counts = Counts()  # it may have heard of peers
                self._meter.start()
            while self._news_of_peers:
                self._take_news(self._news_of_peers.popleft())
            for frames in self.inbox.orders():
                self._take_order(frames)
            for frames in self.inbox.messages():
                self._take(frames)
            while self._completions:
                done = self._completions.popleft()
                self._writing[self._worker_of(done.destination)] -= 1
                self._feed(done)
                self._start_writes(done.destination)
            now = time.monotonic()
            if not told and (not self.wire.greeting or now > ready_at_s):
                told = True
                self._tell(Ready(self.rank_id, self.wire.own, self.engine.proof, str(self.placement)))
            while self._later and self._later[0][0] <= now:
                self._feed_later(heapq.heappop(self._later)[2])
            if not self.zero_s:
                continue
            if self.stopping and leave_at_s is None:
                leave_at_s = now + STOP_GRACE_S
            leaving = leave_at_s is not None and not self._prefilling and (now > leave_at_s or not self._unfinished())
            if turn_at_s is None and (self.collective.size > 1 or leaving or self._turn_due(now)):
                turn_at_s = self.zero_s + self.grid.next_s(now - self.zero_s)
            if turn_at_s is None or now < turn_at_s:
                continue
            turn_at_s = None
            turn, all_leave = self.collective.hold_turn(self.core, leaving=leaving)
            self.counts.turns += 1
            if self._compared is not None:
                self.collective.must_answer_alike(self.rank_id, self._compared)
            if all_leave:
                break
            self._turn(turn)
            if self.collective.size > 1 and self.core.rooms:
                # As the original's ranks, which reduce their polls in every iteration while they have requests. To wait
                # for news first would let the one that has some wait for the others, which have not.
                turn_at_s = self.zero_s + self.grid.next_s(time.monotonic() - self.zero_s)
        self._close()

    def _turn_due(self, now: float) -> bool:
        """Whether a turn could change anything; a lone rank need not hold the others."""
        deadline = self.core.next_deadline()
        timed_out = deadline is not None and self.zero_s + deadline <= now
        return self._news or self.core.unsettled or bool(self.passes.waiting) or timed_out

    def _wait_s(self, turn_at_s: float | None) -> float:
        now = time.monotonic()
        wait_s = IDLE_WAIT_S
        if turn_at_s is not None:
            wait_s = min(wait_s, turn_at_s - now)
        if self._later:
            wait_s = min(wait_s, self._later[0][0] - now)
        return 0.0 if self._completions or self._news_of_peers else wait_s

    def _notice_stall(self) -> None:
        now = time.monotonic()
        if now - self._seen_s > STALL_S:
            self._drained_s = now + DRAIN_S
        self._seen_s = now

    def _unfinished(self) -> int:
        """Rooms that may still end within this run; a quarantine outlasts it."""
        return len(self.core.rooms) - len(self._quarantined())

    def _quarantined(self) -> list[LanguageRoom]:
        if isinstance(self.core, EncodeRank):
            return []
        return [
            room
            for room in self.core.rooms.values()
            if room.fenced and (room.writer_gone or self.wire.awaits_quiet(room.key[0]))
        ]

    def _close(self) -> None:
        self.heartbeat.close()
        for writer in (self.writer, *self._retired_writers):
            if writer is not None:
                writer.close()
        FAILURES.check()
        if self.verifier is not None:
            while not self.verifier.close(SIGN_S):
                FAILURES.check()
                self._tell(Alive(self.rank_id, self._recorded))
            FAILURES.check()
        blocks_fenced = sum(len(room.blocks) for room in self._quarantined())
        self._send_on(least=1)
        self._tell(
            Report(
                rank_id=self.rank_id,
                verified_rooms=self.verifier.verified_rooms if self.verifier else 0,
                verified_bytes=self.verifier.verified_bytes if self.verifier else 0,
                differences=self.verifier.differences if self.verifier else [],
                rooms_left=self._unfinished(),
                blocks_lost=self.core.pool.blocks - self.core.pool.free - blocks_fenced,
                rooms_quarantined=len(self._quarantined()),
                blocks_fenced=blocks_fenced,
                frames_dropped=self.wire.frames_dropped,
                messages_stale=self.wire.messages_stale,
                ignored_messages=self.core.ignored_messages,
                usage=self._usage,
                refused=[*self.inbox.refused(), *(self._registry.strangers() if self._registry else [])],
            )
        )
        self.collective.leave()
        for outbox in (*self.outboxes.values(), self.router):
            outbox.close()
        self.inbox.close()
        self._context.term()
        if self._registry is not None:
            self._registry.close()

    # --- what comes in ---

    def _take(self, frames: list[bytes]) -> None:
        if frames[0] == ORDER and not self.inbox.is_open:
            self._take_order(frames)
            return
        for heard in self.wire.take(frames):
            self._hear(heard)

    def _take_order(self, frames: list[bytes]) -> None:
        try:
            order = parse_order(frames)
            if not isinstance(order, FOR_RANKS):
                raise ValueError(f"{type(order).__name__} is nothing that a router says")
        except ValueError as error:
            self.wire.drop(error)
            return
        self._obey(order)

    def _hear(self, message: Heard) -> None:
        if isinstance(message, Found):
            self._take_news(message)
            return
        if isinstance(message, Vacant):
            del self.routes[message.rank_id]
            self._down.discard(message.rank_id)
            self._feed(PeerUp(message.rank_id))
            return
        if not self.core.takes(message):
            return
        now = time.monotonic()
        if isinstance(message, Quiet) and now < self._drained_s:
            self._at(self._drained_s, message)
        else:
            self._feed(message)

    def _peer_news(self, news: News | Exception) -> None:
        self._news_of_peers.append(news)
        self.inbox.wake()

    def _take_news(self, news: News | Exception) -> None:
        match news:
            case Lost(rank_id, process):
                current = self.routes.get(rank_id)
                if current is not None and current.process == process:
                    self._peer_down(rank_id)
                    for heard in self.wire.lost(rank_id):
                        self._hear(heard)
            case Found(route):
                rank_id = route.rank_id
                current = self.routes.get(rank_id)
                if current is not None and current.process == route.process:
                    self.wire.meet(route)
                else:
                    if current is not None:
                        self._peer_down(rank_id)
                    self._connect(route)
                    if self.writer is not None:
                        # What it still has to write is for the processes that were there when it was ordered.
                        self.writer.close(0.0)
                        self._retired_writers.append(self.writer)
                        self.writer = self._make_writer()
                if rank_id in self._down:
                    self._down.discard(rank_id)
                    self._feed(PeerUp(rank_id))
                for heard in self.wire.released():
                    self._hear(heard)
            case Exception():
                raise news

    def _peer_down(self, rank_id: RankId) -> None:
        if rank_id not in self._down:
            self._down.add(rank_id)
            self._feed(PeerDown(rank_id))
            waiting = self._writes[self._worker_of(rank_id)]
            hopeless = [write for write in waiting if write.destination == rank_id]
            kept = [write for write in waiting if write.destination != rank_id]
            waiting.clear()
            waiting.extend(kept)
            for write in hopeless:
                reason = f"not begun: {rank_id} is down"
                self._feed(WriteDone(write.room, write.incarnation, write.epoch, rank_id, False, True, reason))

    def _obey(self, order: Start | Submit | GiveUp | Describe | Ask | Stop) -> None:
        match order:
            case Start(zero_s):
                self._start(zero_s)
            case Submit(request):
                self.counts.submissions += 1
                self._feed(request)
                for heard in self.wire.submitted(request.room):
                    self._hear(heard)
            case GiveUp(room, incarnation, reason):
                self._feed(Abort(room, incarnation, reason))
            case Describe(number):
                self._describe(number)
            case Ask():
                self._tell(Alive(self.rank_id, self._recorded, self._expects_s()))
            case Stop():
                self.stopping = True
                self._usage = self._measure()

    def _expects_s(self) -> float | None:
        """How long until the last thing is due that this process knows to come; None when there is none."""
        now = time.monotonic()
        due_s = [due_s for due_s, _, _ in self._later]
        deadline_s = self.core.next_deadline()
        if deadline_s is not None:
            due_s.append(self.zero_s + deadline_s)
        if self._news or self.core.unsettled or self.passes.waiting:
            due_s.append(self.zero_s + self.grid.next_s(now - self.zero_s))  # a turn, when the pass is over
        return max(due_s) - now if due_s else None

    def _measure(self) -> Usage | None:
        """What this process spent and did until now; for the main thread."""
        writes = WriteCounts()
        for writer in (self.writer, *self._retired_writers):
            if writer is not None:
                for counts in writer.counts:
                    writes.add(counts)
        return self._meter.stop(self.counts, writes, self.collective.durations)

    def _write_done(self, done: WriteDone) -> None:
        self._completions.append(done)
        self.inbox.wake()

    def _feed(self, event: Any) -> None:
        if self.zero_s:
            self._give(event, time.monotonic())
        else:
            # The core's clock counts from the start of the run, and must not be set back then.
            self._before_start.append((time.monotonic(), event))

    def _start(self, zero_s: float) -> None:
        """The run begins, or began, when this host's clock shows ``zero_s``: take what came before that was known."""
        self.zero_s = zero_s
        while self._before_start:
            came_s, event = self._before_start.popleft()
            self._give(event, came_s)

    def _give(self, event: Any, came_s: float) -> None:
        """Give the core an input that came when this host's clock showed ``came_s``."""
        self._news = True
        self.counts.inputs += 1
        if isinstance(event, WriteDone) and not event.quiet:
            self._in(self.engine.late_write_s, WriterQuiet(event.room, event.incarnation, event.destination))
            self.heartbeat.look_at(event.destination)
        self._carry_out(self.core.handle(event, came_s - self.zero_s))

    def _in(self, delay_s: float, event: Any) -> None:
        self._at(time.monotonic() + delay_s, event)

    def _at(self, due_s: float, event: Any) -> None:
        """Feed ``event`` when the clock shows ``due_s``; events of one moment in the order of these calls."""
        self._later_count += 1
        heapq.heappush(self._later, (due_s, self._later_count, event))

    def _feed_later(self, event: Any) -> None:
        if isinstance(event, _PrefillOver):
            self._prefilling -= 1
            now_s = time.monotonic() - self.zero_s
            self._record(now_s, self.rank_id, event.room, Event.PREFILLED, None, event.tokens, 0, "")
            self._send_on(least=1 if self.stopping else RECORDS_AT_ONCE)
        elif isinstance(event, Quiet | Cancel):
            self._hear(event)
        else:
            self._feed(event)

    # --- what goes out ---

    def _turn(self, turn: Turn) -> None:
        """Act on the group's agreement. The turn is over when the forward pass is that begins with it."""
        began_s = time.monotonic()
        end_s = self._act(turn)
        self.grid.end_turn(began_s - self.zero_s, end_s - began_s)

    def _act(self, turn: Turn) -> float:
        """Act on the group's agreement; when all of it is over, the forward pass with it, by this host's clock."""
        self._news = False
        actions = self.core.handle(turn, time.monotonic() - self.zero_s)
        self._carry_out([action for action in actions if not isinstance(action, StartEncode)])
        encodes = [action for action in actions if isinstance(action, StartEncode)]
        if encodes:
            pass_s = self.passes.encoder_s(sum(action.encode_s for action in encodes))
            end_s = time.monotonic() + pass_s
            cpu_s = time.thread_time()
            # The pass writes its output into the source blocks. To make that takes time as well, and is a part of it.
            for action in encodes:
                content = room_content(action.room, action.incarnation, action.total_tokens, self.layout)
                self.pool.fill(action.blocks, content)
                self.counts.fills += 1
                self.counts.fill_bytes += action.total_tokens * self.layout.bytes_per_token
            filled_s = time.monotonic()
            self.counts.fill_cpu_s += time.thread_time() - cpu_s
            for action in encodes:
                self._at(end_s, Encoded(action.room, action.incarnation))
            return max(end_s, filled_s)
        for delivery in actions:
            if isinstance(delivery, Deliver):
                self.passes.add(delivery)
                self._prefilling += self._records_prefill
        if not self.passes.waiting:
            return time.monotonic()
        prefilled, pass_s = self.passes.prefill()
        end_s = time.monotonic() + pass_s
        if self._records_prefill:
            for one in prefilled:
                self._at(end_s, _PrefillOver(one.room, one.tokens))
        if self.scenario.release_after_prefill:
            for one in prefilled:
                self._at(end_s, Prefilled(one.room, one.incarnation))
        return end_s

    def _carry_out(self, actions: list[Action]) -> None:
        self._send_on()
        for action in actions:
            match action:
                case Send(to, message):
                    self._send_on()  # before anybody hears of what was recorded
                    self.wire.send(to, message)
                case StartWrite() if self.writer is not None:
                    self._send_on()
                    self._writes[self._worker_of(action.destination)].append(action)
                    self._start_writes(action.destination)
                case CopyOut():
                    self._copy_out(action)
                case Deliver(room, incarnation, total_tokens):
                    chunks = self._chunks.pop((room, incarnation))
                    if self.verifier is not None:
                        self.verifier.check(room, incarnation, total_tokens, chunks)
                case Note():
                    self._record(time.monotonic() - self.zero_s, self.rank_id, *msgspec.structs.astuple(action))
                case Conclude(room, incarnation, status, reason):
                    self._chunks.pop((room, incarnation), None)
                    self._send_on()
                    records, self.records = self.records, []
                    generation = self.spec.generation
                    self._tell(Concluded(self.rank_id, room, incarnation, status, reason, generation, records))
                case _:
                    raise RuntimeError(f"{self.rank_id} cannot carry out {action}")
        self._send_on()

    def _copy_out(self, copy: CopyOut) -> None:
        began_s, cpu_s = time.monotonic(), time.thread_time()
        chunk = self.pool.gather(copy.blocks, copy.tokens, start_token=copy.start_token)
        lasted_s = time.monotonic() - began_s
        self.counts.copies += 1
        self.counts.copy_bytes += copy.tokens * self.layout.bytes_per_token
        self.counts.copy_cpu_s += time.thread_time() - cpu_s
        if self._slowness > 1:
            time.sleep((self._slowness - 1) * lasted_s)
        self._chunks.setdefault((copy.room, copy.incarnation), []).append(chunk)

    def _worker_of(self, destination: RankId) -> int:
        return destination.instance % len(self._writes)

    def _start_writes(self, destination: RankId) -> None:
        """Give the worker of this destination as many of its writes as it may have."""
        worker = self._worker_of(destination)
        waiting = self._writes[worker]
        while self.writer is not None and waiting and self._writing[worker] < WRITES_AHEAD:
            write = waiting.popleft()
            if write.room in self.spec.announced_writes:
                self._tell(WriteBegins(self.rank_id, write.room))
            self._writing[worker] += 1
            self.writer.start(write, fails=self._write_fails(write.destination))

    def _write_fails(self, destination: RankId) -> bool:
        """Whether the next write to this rank is one that is made to fail."""
        number = self._begun[destination]
        self._begun[destination] += 1
        now_s = time.monotonic() - self.zero_s
        return any(
            number in fault.numbers and (fault.until_s is None or now_s < fault.until_s)
            for fault in self.spec.faults
            if isinstance(fault, FailWrites)
            and (fault.writer, fault.generation, fault.destination) == (self.rank_id, self.spec.generation, destination)
        )

    def push(self, to: RankId, frames: list[bytes]) -> None:
        """Send a multipart to the process that stands for ``to``, if there ever was one."""
        outbox = self.outboxes.get(to)
        if outbox is None:
            return
        if to in self._down:
            # It may be alive all the same, and then must hear. If it is dead, its queue fills up one day.
            outbox.try_send(frames)
        else:
            outbox.send(frames)

    def later(self, delay_s: float, message: Message) -> None:
        """Take ``message`` for one from the other side when ``delay_s`` have passed."""
        self._in(delay_s, message)

    def contact(self, session: str) -> None:
        """Begin the engine's first contact with a process, which the rank's thread must not wait for."""
        self._contacts = [one for one in self._contacts if one.is_alive()]
        if len(self._contacts) >= MOST_CONTACTS:
            return  # the first write makes it
        thread = threading.Thread(target=self.engine.connect, args=(session,), name=f"meet {session}", daemon=True)
        self._contacts.append(thread)
        thread.start()

    def _describe(self, number: int) -> None:
        core = self.core
        queues = [[(demand.key, demand.blocks) for demand in queue] for queue in core.queues()]
        waiting = [key for queue in queues for key, _ in queue]
        held = core.held_blocks()
        self._tell(
            Holdings(
                rank_id=self.rank_id,
                number=number,
                held=list(held.items()),
                queues=queues,
                usable=[(key, core.usable_blocks(key)) for key in waiting],
                moves=[(key, self._moves.get(key[0], 0)) for key in held],
            )
        )

    def _send_on(self, least: int = RECORDS_AT_ONCE) -> None:
        """Give the router what was recorded: now and then, and at once where this process may be killed."""
        if len(self.records) >= (1 if self.spec.mortal else least):
            self._tell(Records(self.rank_id, self.spec.generation, self.records))
            self.records = []

    def tell_broken(self, error: BaseException) -> None:
        """Tell the router, which has all that was recorded before, why this process cannot go on."""
        known = isinstance(error, EngineError | OSError | SizingError | ThreadBrokeError)
        self._send_on(least=1)
        self._tell(Broken(self.rank_id, str(error) if known else f"{type(error).__name__}: {error}"))

    def _tell(self, order: Order) -> None:
        self.router.send(order_frames(order))

    def _record(
        self,
        time_s: float,
        rank_id: RankId,
        room: int,
        event: Event,
        status: Status | None,
        tokens: int,
        bytes_: int,
        detail: str,
    ) -> None:
        self._recorded += 1
        if event is Event.RELEASED:
            self._moves.pop(room, None)
        else:
            self._moves[room] = self._recorded
        self.records.append((time_s, room, event, status, tokens, bytes_, detail))


def _end_with_parent() -> None:
    """Leave at once when standard input closes: whoever launched us is gone."""
    # Unbuffered: a thread that holds the lock of sys.stdin's buffer makes the interpreter abort when it shuts down.
    while os.read(0, 4096):
        pass
    os._exit(130)


def read_spec() -> RankSpec:
    """What this process is to be, from standard input."""
    with open(0, "rb", buffering=0, closefd=False) as orders:
        return msgspec.json.decode(orders.readline(), type=RankSpec)


def main() -> int:
    """Run the rank described on standard input; 1 with one sentence on standard error when it cannot."""
    spec = read_spec()
    FAILURES.catch_all()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    torch.set_num_threads(1)  # ranks share the machine's cores; a second thread per rank only gets in the way
    process: RankProcess | None = None
    try:
        process = RankProcess(spec)
        process.run()
    except EngineMissing as error:
        sys.stderr.write(f"{error}\n")
        return MISSING_STATUS
    except GroupBroken as error:
        sys.stderr.write(f"{spec.rank_id}: {error}\n")
        sys.stderr.flush()
        # At once: gloo's threads wait for the other rank, and nothing of a broken group is worth a report.
        os._exit(GROUP_STATUS)
    except (Exception, SystemExit) as error:
        if process is None:
            sys.stderr.write(f"{spec.rank_id}: {error}\n")
            return 1
        process.tell_broken(error)
        if isinstance(error, SystemExit):
            return 1
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
