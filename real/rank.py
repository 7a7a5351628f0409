"""One rank as an operating-system process: the protocol core, its memory, its engine and its scheduler loop.

The main thread owns the core. It takes messages and completions as they come and holds a scheduler turn every
``*_turn_s``; a turn that starts a forward pass is followed by the next one only when the pass is over, while messages
go on being taken, as the original backend's control thread does. The writer's thread moves bytes, the verifier's
compares them; both only hand things over.

Run as ``python -m real.rank`` with a RankSpec as one line of JSON on standard input. The process ends when standard
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

from protocol.codec import decode, encode
from protocol.encode import EncodeRank
from protocol.errors import CodecError
from protocol.language import LanguageRank
from protocol.messages import (
    Action,
    Conclude,
    CopyOut,
    Deliver,
    Encoded,
    Note,
    PeerDown,
    Prefilled,
    Send,
    StartEncode,
    StartWrite,
    Turn,
    WriteDone,
    WriterQuiet,
)
from protocol.recording import Event
from protocol.sizing import Supervised
from protocol.status import Status
from protocol.topology import RankId, Side
from real.bootstrap import Registry, register_and_find
from real.collective import Collective
from real.control import Inbox, Outbox
from real.engine import Engine, EngineError, EngineMissing
from real.memory import Pool, RoomContent, room_content
from real.orders import (
    MISSING_STATUS,
    ORDER,
    ROUTER,
    Broken,
    Concluded,
    Order,
    PeerGone,
    RankSpec,
    Ready,
    Report,
    Route,
    Start,
    Stop,
    Submit,
    order_frames,
    parse_order,
)
from real.verifier import Verifier
from real.writer import Writer

START_TIMEOUT_S = 60.0
LATE_WRITE_S = 5.0
"""How long after a failed write its bytes may still land. The engine is set to give up a connection that makes no
progress for 2 s, and one whose peer does not answer for 2 s more (``real.engine``)."""

STOP_GRACE_S = 10.0
"""How long a rank that was told to stop waits for its last rooms to fall quiet."""

IDLE_WAIT_S = 0.05


class RankProcess:
    """Everything one rank has; ``run`` is its life."""

    def __init__(self, spec: RankSpec) -> None:
        self.spec = spec
        self.scenario = spec.scenario
        self.rank_id = spec.rank_id
        self.is_encode = spec.rank_id.side is Side.ENCODE
        self.layout = self.scenario.layout
        services = self.scenario.services
        self.turn_s = services.encode_turn_s if self.is_encode else services.language_turn_s
        self.records: list[tuple[float, int, Event, Status | None, int, int, str]] = []
        self.zero_s = 0.0
        self.stopping = False
        self._completions: collections.deque[WriteDone] = collections.deque()
        self._later: list[tuple[float, int, Any]] = []
        self._later_count = 0
        self._chunks: dict[tuple[int, int], list[RoomContent]] = {}
        self._news = True  # something arrived since the last turn

        registry = None
        if spec.bootstrap_fd is not None:
            registry = Registry(socket.socket(fileno=spec.bootstrap_fd))
        self._registry = registry
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.inbox = Inbox(self._context, spec.host)
        self.engine = Engine(host=spec.host, transport=spec.transport, device=spec.device)
        blocks = self.scenario.encode_blocks if self.is_encode else self.scenario.language_blocks
        self.pool = Pool(self.layout, blocks)
        self.engine.register(self.pool)
        size = self.scenario.encode_tp if self.is_encode else self.scenario.language_tp
        self.collective = Collective(self.rank_id.rank, size, spec.host, START_TIMEOUT_S)
        own = Route(
            rank_id=self.rank_id,
            host=spec.host,
            control_port=self.inbox.port,
            session=self.engine.session,
            bases=self.pool.bases,
            collective_port=self.collective.port,
        )
        # Computes the base of all contents once, before anything is timed.
        room_content(0, 0, spec.longest_tokens, self.layout)
        everybody = [*self.scenario.encode_ids(), *self.scenario.language_ids(), ROUTER]
        self.routes = register_and_find(spec.bootstrap, own, everybody, START_TIMEOUT_S)
        leader = self.routes[self.rank_id._replace(rank=0)]
        self.collective.join(leader.host, leader.collective_port)
        other = Side.LANGUAGE if self.is_encode else Side.ENCODE
        self.outboxes = {
            rank_id: Outbox(self._context, route.host, route.control_port)
            for rank_id, route in self.routes.items()
            if rank_id.side is other or rank_id == ROUTER
        }
        self.core: EncodeRank | LanguageRank
        self.writer: Writer | None = None
        self.verifier: Verifier | None = None
        self._compared: Supervised | None = None  # a sizing policy from outside, of which each rank has a copy
        if self.is_encode:
            self.core = self.scenario.make_encode_rank(self.rank_id, self._record)
            self.writer = Writer(self.engine, self.pool, self.layout, self.routes, self.scenario, self._write_done)
        else:
            self.core = self.scenario.make_language_rank(self.rank_id, self._record)
            if isinstance(self.core.sizing, Supervised) and size > 1:
                self.core.sizing.compared = True
                self._compared = self.core.sizing
            if spec.verify:
                self.verifier = Verifier(self.layout)

    # --- life ---

    def run(self) -> None:
        """Get ready, take part in the run until told to stop, report."""
        if self.is_encode:
            for peer in self.scenario.language_ids():
                # The first contact takes milliseconds, and much longer with a hung peer: not during the run.
                if not self.engine.connect(self.routes[peer].session):
                    raise EngineError(f"{self.rank_id} cannot reach {peer} at {self.routes[peer].session}")
        self._tell(Ready(self.rank_id, self.engine.proof))
        next_turn_s = 0.0
        leave_at_s: float | None = None
        while True:
            self.inbox.wait(self._wait_s(next_turn_s))
            for frames in self.inbox.messages():
                self._take(frames)
            while self._completions:
                self._feed(self._completions.popleft())
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                self._feed_later(heapq.heappop(self._later)[2])
            if now < next_turn_s or not self.zero_s:
                continue
            if self.stopping and leave_at_s is None:
                leave_at_s = now + STOP_GRACE_S
            leaving = leave_at_s is not None and (not self.core.rooms or now > leave_at_s)
            if self.collective.size == 1 and not leaving and not self._turn_due(now):
                continue
            turn, all_leave = self.collective.hold_turn(self.core, leaving=leaving)
            if self._compared is not None:
                self.collective.must_answer_alike(self.rank_id, self._compared)
            if all_leave:
                break
            busy_s = self._turn(turn)
            next_turn_s = time.monotonic() + max(self.turn_s, busy_s)
        self._close()

    def _turn_due(self, now: float) -> bool:
        """Whether a turn could change anything; a lone rank need not hold the others."""
        deadline = self.core.next_deadline()
        return self._news or self.core.unsettled or (deadline is not None and self.zero_s + deadline <= now)

    def _wait_s(self, next_turn_s: float) -> float:
        now = time.monotonic()
        wait_s = IDLE_WAIT_S
        if self.zero_s and (self.collective.size > 1 or self._news or self.core.unsettled):
            wait_s = next_turn_s - now
        if self._later:
            wait_s = min(wait_s, self._later[0][0] - now)
        return 0.0 if self._completions else wait_s

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.verifier is not None:
            self.verifier.close()
        self._tell(
            Report(
                rank_id=self.rank_id,
                records=self.records,
                verified_rooms=self.verifier.verified_rooms if self.verifier else 0,
                verified_bytes=self.verifier.verified_bytes if self.verifier else 0,
                differences=self.verifier.differences if self.verifier else [],
                rooms_left=len(self.core.rooms),
                blocks_lost=self.core.pool.blocks - self.core.pool.free,
                ignored_messages=self.core.ignored_messages,
            )
        )
        self.collective.leave()
        for outbox in self.outboxes.values():
            outbox.close()
        self.inbox.close()
        self._context.term()
        if self._registry is not None:
            self._registry.close()

    # --- what comes in ---

    def _take(self, frames: list[bytes]) -> None:
        if frames[0] == ORDER:
            self._obey(parse_order(frames))
            return
        try:
            message = decode(frames)
        except CodecError as error:
            # A corrupted frame is lost, like a message that never came: the rooms' timers deal with it.
            sys.stderr.write(f"{self.rank_id}: dropped a control frame: {error}\n")
            return
        if self.core.takes(message):
            self._feed(message)

    def _obey(self, order: Order) -> None:
        match order:
            case Start(zero_s):
                self.zero_s = zero_s
            case Submit(request):
                self._feed(request)
            case PeerGone(peer):
                self._feed(PeerDown(peer))
            case Stop():
                self.stopping = True
            case _:
                raise RuntimeError(f"{self.rank_id} was sent a {type(order).__name__}, which only ranks send")

    def _write_done(self, done: WriteDone) -> None:
        self._completions.append(done)
        self.inbox.wake()

    def _feed(self, event: Any) -> None:
        self._news = True
        if isinstance(event, WriteDone) and not event.quiet:
            self._at(LATE_WRITE_S, WriterQuiet(event.room, event.incarnation, event.destination))
        self._carry_out(self.core.handle(event, time.monotonic() - self.zero_s))

    def _at(self, delay_s: float, event: Any) -> None:
        self._later_count += 1
        heapq.heappush(self._later, (time.monotonic() + delay_s, self._later_count, event))

    def _feed_later(self, event: Any) -> None:
        if isinstance(event, StartEncode):
            # The forward pass is over: its output goes into the source blocks now.
            content = room_content(event.room, event.incarnation, event.total_tokens, self.layout)
            self.pool.fill(event.blocks, content)
            event = Encoded(event.room, event.incarnation)
        self._feed(event)

    # --- what goes out ---

    def _turn(self, turn: Turn) -> float:
        """Act on the group's agreement; how long the loop is busy with forward passes then, in seconds."""
        self._news = False
        actions = self.core.handle(turn, time.monotonic() - self.zero_s)
        self._carry_out([action for action in actions if not isinstance(action, StartEncode)])
        services = self.scenario.services
        encodes = [action for action in actions if isinstance(action, StartEncode)]
        if encodes:
            busy_s = services.encode_base_s + sum(action.encode_s for action in encodes)
            for action in encodes:
                self._at(busy_s, action)
            return busy_s
        delivered = [action for action in actions if isinstance(action, Deliver)]
        if not delivered:
            return 0.0
        busy_s = services.prefill_base_s + sum(
            services.prefill_s(one.total_tokens, one.prefill_factor) for one in delivered
        )
        if self.scenario.release_after_prefill:
            for one in delivered:
                self._at(busy_s, Prefilled(one.room, one.incarnation))
        return busy_s

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(to, message):
                    self.outboxes[to].send(encode(message))
                case StartWrite() if self.writer is not None:
                    self.writer.start(action)
                case CopyOut():
                    self._copy_out(action)
                case Deliver(room, incarnation, total_tokens):
                    chunks = self._chunks.pop((room, incarnation))
                    if self.verifier is not None:
                        self.verifier.check(room, incarnation, total_tokens, chunks)
                case Note():
                    self._record(time.monotonic() - self.zero_s, self.rank_id, *msgspec.structs.astuple(action))
                case Conclude(room, incarnation, status):
                    self._chunks.pop((room, incarnation), None)
                    self._tell(Concluded(self.rank_id, room, incarnation, status))
                case _:
                    raise RuntimeError(f"{self.rank_id} cannot carry out {action}")

    def _copy_out(self, copy: CopyOut) -> None:
        chunk = self.pool.gather(copy.blocks, copy.tokens, start_token=copy.start_token)
        self._chunks.setdefault((copy.room, copy.incarnation), []).append(chunk)

    def _tell(self, order: Order) -> None:
        self.outboxes[ROUTER].send(order_frames(order))

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
        self.records.append((time_s, room, event, status, tokens, bytes_, detail))


def _end_with_parent() -> None:
    """Leave at once when standard input closes: whoever launched us is gone."""
    # Unbuffered: a thread that holds the lock of sys.stdin's buffer makes the interpreter abort when it shuts down.
    while os.read(0, 4096):
        pass
    os._exit(130)


def main() -> int:
    """Run the rank described on standard input; 1 with one sentence on standard error when it cannot."""
    with open(0, "rb", buffering=0, closefd=False) as orders:
        spec = msgspec.json.decode(orders.readline(), type=RankSpec)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # ranks share the machine's cores; a second thread per rank only gets in the way
    process: RankProcess | None = None
    try:
        process = RankProcess(spec)
        process.run()
    except EngineMissing as error:
        sys.stderr.write(f"{error}\n")
        return MISSING_STATUS
    except Exception as error:
        if process is None:
            sys.stderr.write(f"{spec.rank_id}: {error}\n")
            return 1
        process._tell(Broken(spec.rank_id, f"{type(error).__name__}: {error}"))
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
