"""An engine of our own over plain sockets, which needs nothing but Python's standard library.

It is for tests, and for machines where Mooncake cannot be installed (macOS, Arm). It keeps the contract of every engine
and checks more than it must: peers prove that they hold the run's token, the target of every segment is looked up in
the receiving process, and an answer comes only when the bytes lie there. It is **no model of RDMA**, nor of Mooncake's
tcp: a thread of the receiving process copies every byte, competing with that process's other threads for its
interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import secrets
import socket
import struct
import sys
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from typing import ClassVar

from bufferlab.real.engine.base import KeyMaker, Segment, TransferEngine, WriteResult, failed
from bufferlab.real.engine.proof import Traffic, prove
from bufferlab.real.engine.socket_server import SocketServer
from bufferlab.real.engine.socket_wire import (
    ANSWER,
    CLAIM,
    HELLO_BYTES,
    NUMBER_BYTES,
    PLACED,
    TAG_BYTES,
    WELCOME,
    MalformedError,
    Message,
    Place,
    Seal,
    Session,
    hello,
    messages,
    new_nonce,
    parse_hello,
    parse_session,
)

FIRST_CONTACT_S = 2.0
"""How long a peer may take to open a connection."""
PROGRESS_S = 2.0
"""A peer that takes no byte, or owes an answer, for this long is given up."""
MESSAGES_AHEAD = 2
"""Messages under way on a connection: the next one is sent while the answer to the one before is awaited."""
IDLE_CONNECTIONS = 8
"""Kept for each peer, for as many writes at a time."""
VECTORS = 256
"""Segments given to the system in one call."""


class SocketEngine(TransferEngine):
    """Listens at ``host`` at a port of the system's choice; a thread of its own places what peers write."""

    transports: ClassVar[Mapping[str, str]] = {
        "socket": "plain sockets of this package's own, for tests and where Mooncake cannot be installed"
    }
    called: ClassVar[str] = "the socket engine"
    resembles_networks: ClassVar[bool] = False
    knows_restarted_peers: ClassVar[bool] = True
    serves_strangers: ClassVar[bool] = False
    no_gpu_memory: ClassVar[str] = "the socket engine writes host memory only; only tcp and rdma can write a GPU's"

    def __init__(
        self, host: str = "127.0.0.1", transport: str = "", device: str = "", guard: KeyMaker | None = None
    ) -> None:
        super().__init__(host, transport, device, guard)
        self._views: dict[int, memoryview] = {}
        number = secrets.token_bytes(NUMBER_BYTES)
        self._server = SocketServer(host, number, guard, self._locate, self._regions_lock)
        self.session = str(Session(host, self._server.port, number))
        loaded = "is loaded in this process, too" if "mooncake" in sys.modules else "is not loaded in this process"
        self.proof = prove(
            self.transport,
            self.transport,
            [f"our own socket engine listens at {host}:{self._server.port}", f"Mooncake {loaded}"],
        )
        self._lock = threading.Lock()
        self._idle: dict[str, list[_Line]] = {}
        self._sent_bytes = 0
        self._closed = False

    def _register(self, base: int, size_bytes: int) -> str:
        if base <= 0 or base + size_bytes > 1 << 64:
            return f"{base:#x} is no address"
        self._views[base] = _memory(base, size_bytes)
        return ""

    def _unregister(self, base: int) -> None:
        self._views.pop(base, None)

    def _locate(self, place: Place) -> memoryview | None:
        if not self._covers(place.address, place.length):
            return None
        regions = self._regions
        base = regions[bisect_right(regions, (place.address, sys.maxsize)) - 1][0]
        offset = place.address - base
        return self._views[base][offset : offset + place.length]

    def connect(self, session: str) -> bool:
        """Open a connection to a peer, if none is open; True when it answered."""
        try:
            line = self._take(session, time.perf_counter() + FIRST_CONTACT_S)
        except (OSError, MalformedError):
            return False
        self._keep(session, line)
        return True

    def write(self, session: str, segments: Sequence[Segment], timeout_s: float = 30.0) -> WriteResult:
        """Copy every segment into the memory of the peer with this session."""
        started = time.perf_counter()
        self._check_segments(segments)
        work = deque(messages(segments))
        if not work:
            return WriteResult(ok=True, elapsed_s=time.perf_counter() - started, completed_bytes=0, quiet=True)
        deadline = started + timeout_s
        try:
            line = self._take(session, deadline)
        except MalformedError as error:
            return self._unreached(session, started, str(error))
        except OSError:
            return self._unreached(session, started, "")
        transfer = _Transfer(self, line, deadline)
        try:
            transfer.run(work)
        except (OSError, MalformedError) as error:
            transfer.failure = transfer.failure or _reason(error, deadline, transfer)
            line.abort()
        else:
            self._keep(session, line)
        with self._lock:
            self._sent_bytes += transfer.placed_bytes
        elapsed_s = time.perf_counter() - started
        if transfer.failure:
            return failed(
                session, transfer.failure, elapsed_s=elapsed_s, quiet=not transfer.under_way,
                completed_bytes=transfer.placed_bytes,
            )  # fmt: skip
        return WriteResult(
            ok=True,
            elapsed_s=elapsed_s,
            completed_bytes=transfer.placed_bytes,
            quiet=True,
            posted_s=transfer.posted_at - started,
        )

    def source(self, segment: Segment) -> memoryview:
        """The memory that a segment is read from. Raises MalformedError when it was withdrawn meanwhile."""
        try:
            found = self._locate(Place(segment[0], segment[2]))
        except KeyError:
            found = None
        if found is None:
            raise MalformedError("the source was withdrawn while it was sent")
        return found

    def traffic(self) -> Traffic:
        """What it has counted: payload that peers have acknowledged, and payload placed here."""
        with self._lock:
            return Traffic(self._sent_bytes, self._server.placed_bytes)

    def strangers(self) -> Mapping[str, int]:
        """By address, how often somebody came who did not hold the run's token."""
        return self._server.strangers()

    def close(self) -> None:
        """Close all connections and the port."""
        with self._lock:
            self._closed = True
            idle = [line for lines in self._idle.values() for line in lines]
            self._idle.clear()
        for line in idle:
            line.close()
        self._server.close()

    @staticmethod
    def _unreached(session: str, started: float, why: str) -> WriteResult:
        reason = "the peer cannot be reached" + (f": {why}" if why else "")
        return failed(session, reason, elapsed_s=time.perf_counter() - started, quiet=True)

    def _take(self, session: str, deadline: float) -> _Line:
        """A connection that nobody else uses, an open one if there is one. Raises OSError or MalformedError."""
        while True:
            with self._lock:
                lines = self._idle.get(session)
                line = lines.pop() if lines else None
            if line is None:
                return _Line(parse_session(session), self.guard, min(deadline, time.perf_counter() + FIRST_CONTACT_S))
            if line.is_open():
                return line
            line.close()

    def _keep(self, session: str, line: _Line) -> None:
        with self._lock:
            lines = self._idle.setdefault(session, [])
            if not self._closed and len(lines) < IDLE_CONNECTIONS:
                lines.append(line)
                return
        line.close()


class _Line:
    """A connection to a peer that has proved itself. Raises OSError or MalformedError, also later."""

    def __init__(self, session: Session, guard: KeyMaker | None, deadline: float) -> None:
        self._socket = socket.create_connection((session.host, session.port), _rest_s(deadline))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number, theirs = parse_hello(self.receive(HELLO_BYTES, deadline))
            if number != session.number:
                raise MalformedError("another process listens there now")
            nonce = new_nonce()
            self.seal = Seal(guard, number, (theirs, nonce))
            claim = hello(number, nonce)
            self.send([memoryview(claim + self.seal.tag(CLAIM, claim))], deadline)
            self.seal.check(self.receive(TAG_BYTES, deadline), WELCOME)
        except BaseException:
            self._socket.close()
            raise
        self.sequence = 0

    def is_open(self) -> bool:
        """Whether the peer has not closed it; an open one says nothing unasked."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send(self, views: list[memoryview], deadline: float) -> None:
        """All of it, or TimeoutError when the peer takes nothing for too long."""
        first = 0
        while first < len(views):
            self._socket.settimeout(min(_rest_s(deadline), PROGRESS_S))
            sent = self._socket.sendmsg(views[first : first + VECTORS])
            while first < len(views) and sent >= len(views[first]):
                sent -= len(views[first])
                first += 1
            if sent:
                views[first] = views[first][sent:]

    def receive(self, length: int, deadline: float) -> bytes:
        """So many bytes."""
        said = bytearray()
        while len(said) < length:
            self._socket.settimeout(min(_rest_s(deadline), PROGRESS_S))
            part = self._socket.recv(length - len(said))
            if not part:
                raise ConnectionResetError("the peer closed the connection")
            said += part
        return bytes(said)

    def close(self) -> None:
        """Let the peer go."""
        self._socket.close()

    def abort(self) -> None:
        """Close it so that the system sends nothing more of what it has taken."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


class _Transfer:
    """The messages of one write on their way."""

    def __init__(self, engine: SocketEngine, line: _Line, deadline: float) -> None:
        self._engine = engine
        self._line = line
        self._deadline = deadline
        self._unanswered: deque[tuple[int, Message]] = deque()
        self.placed_bytes = 0
        self.posted_at = 0.0
        self.failure = ""

    @property
    def under_way(self) -> int:
        """Bytes that were sent, or were about to be, and of which the peer has not said what became of them."""
        return sum(message.size_bytes for _, message in self._unanswered)

    def run(self, work: deque[Message]) -> None:
        """Send all messages and await their answers; none is sent any more once a segment was refused."""
        while work and not self.failure:
            if len(self._unanswered) >= MESSAGES_AHEAD:
                self._await()
                continue
            message = work.popleft()
            sources = [self._engine.source(segment) for segment in message.segments]
            number = self._line.sequence
            self._line.sequence += 1
            self._unanswered.append((number, message))
            self._line.send([memoryview(message.head(number, self._line.seal)), *sources], self._deadline)
        self.posted_at = time.perf_counter()
        while self._unanswered:
            self._await()

    def _await(self) -> None:
        answer = self._line.receive(ANSWER.size, self._deadline)
        self._line.seal.check(self._line.receive(TAG_BYTES, self._deadline), PLACED, answer)
        sequence, placed_bytes, refused = ANSWER.unpack(answer)
        expected, message = self._unanswered[0]
        if sequence != expected or placed_bytes > message.size_bytes:
            raise MalformedError("the answer is to another message")
        self._unanswered.popleft()
        self.placed_bytes += placed_bytes
        if refused and not self.failure:
            self.failure = f"the peer has not registered the targets of {refused} of {len(message.segments)} segments"


def _reason(error: Exception, deadline: float, transfer: _Transfer) -> str:
    if isinstance(error, TimeoutError):
        waited = "at the time limit" if time.perf_counter() >= deadline else f"after {PROGRESS_S:g} s without progress"
        return f"{transfer.under_way} bytes were not acknowledged {waited}"
    if isinstance(error, ConnectionError):
        return f"the connection broke ({error.strerror or error})"
    return str(error)


def _rest_s(deadline: float) -> float:
    rest_s = deadline - time.perf_counter()
    if rest_s <= 0:
        raise TimeoutError("timed out")
    return rest_s


def _memory(base: int, size_bytes: int) -> memoryview:
    return memoryview((ctypes.c_char * size_bytes).from_address(base)).cast("B")
