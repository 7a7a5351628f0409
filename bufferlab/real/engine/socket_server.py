"""The receiving end of the socket engine: one thread that lets peers in and places what they write.

Every connection is a dialogue (``_dialogue``) that says which bytes it needs next; the thread reads them as they come,
from all connections in turn, and never waits for one of them.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator

from bufferlab.real.engine.base import KeyMaker
from bufferlab.real.engine.socket_wire import (
    ANSWER,
    CLAIM,
    CLAIM_BYTES,
    HEAD,
    HELLO_BYTES,
    MOST_SEGMENTS,
    PLACE,
    PLACED,
    SEGMENTS,
    TAG_BYTES,
    WELCOME,
    MalformedError,
    Place,
    Seal,
    hello,
    new_nonce,
    parse_hello,
    parse_places,
)

PROOF_S = 10.0
"""How long a connection may stay open on which nobody has proved that he holds the run's token."""
MOST_UNPROVEN = 64
"""Such connections that are open at a time; beyond that the oldest is closed."""
MOST_PROVEN = 4096
"""Connections of peers that are open at a time; one more is turned away."""
MOST_NAMED = 256
"""Addresses of strangers that are counted each for itself."""
AT_ONCE_BYTES = 1 << 20
"""Read from one connection before the next one has its turn."""
LOOK_S = 1.0

Locate = Callable[[Place], memoryview | None]
"""The memory of a place, None where it is not registered. Called with the lock of the regions held."""

_Wanted = int | Place
"""What a dialogue needs next: so many bytes, or the bytes of a place, which go there and not to it."""


class _Connection:
    """One peer's, or a stranger's."""

    def __init__(self, line: socket.socket, address: str, serve: Callable[[_Connection], _Dialogue]) -> None:
        self.line = line
        self.address = address
        self.came_s = time.monotonic()
        self.proven = False
        self.spoke = False
        self.placed_bytes = 0
        self.refused = 0
        self.place_refused = False
        self._dialogue = serve(self)
        self.want(next(self._dialogue))

    def want(self, wanted: _Wanted) -> None:
        self.wanted = wanted
        self.position = 0
        self.place_refused = False
        self.length = wanted if isinstance(wanted, int) else wanted.length
        self.text = bytearray(self.length) if isinstance(wanted, int) else bytearray()

    def complete(self) -> None:
        """Give the dialogue what it wanted. Raises MalformedError when that is nothing it can go on from."""
        self.want(self._dialogue.send(bytes(self.text)))

    def say(self, said: bytes) -> None:
        """Answers are short and waited for, so there is always room for one; a peer who lets them pile up goes."""
        try:
            self.line.sendall(said)
        except BlockingIOError:
            raise MalformedError("the peer does not take its answers") from None


_Dialogue = Generator[_Wanted, bytes, None]


class SocketServer:
    """The thread. ``locate``: where the memory of a place is; ``lock``: held while bytes are placed, so that memory is
    not withdrawn meanwhile."""

    def __init__(self, host: str, number: bytes, guard: KeyMaker | None, locate: Locate, lock: threading.Lock) -> None:
        self._number = number
        self._guard = guard
        self._locate = locate
        self._lock = lock
        self._listener = socket.create_server((host, 0), backlog=128)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self.placed_bytes = 0
        self._looked_s = 0.0
        self._strangers: Counter[str] = Counter()
        self._connections: OrderedDict[int, _Connection] = OrderedDict()
        self._scrap = memoryview(bytearray(64 << 10))
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="engine acceptor", daemon=True)
        self._thread.start()

    def strangers(self) -> dict[str, int]:
        """By address, how often somebody came who did not prove that he holds the token."""
        return dict(self._strangers)

    def close(self) -> None:
        """Let go of everybody, and end the thread."""
        with contextlib.suppress(OSError):  # it has been closed before
            self._wake.send(b"\0")
        self._thread.join()

    # --- the thread ---

    def _run(self) -> None:
        try:
            while True:
                for key, _ in self._selector.select(LOOK_S):
                    if key.fileobj is self._woken:
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.data.line.fileno() >= 0:  # not one that was closed to make room
                        self._read(key.data)
                self._close_late()
        finally:
            for connection in list(self._connections.values()):
                self._end(connection)
            self._selector.close()
            for one in (self._listener, self._wake, self._woken):
                one.close()

    def _accept(self) -> None:
        try:
            line, (address, *_) = self._listener.accept()
        except OSError:
            return  # it has gone again, or the process has no descriptor left for it
        line.setblocking(False)
        with contextlib.suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection = _Connection(line, str(address), self._dialogue)
        except (MalformedError, OSError):
            line.close()
            return
        self._connections[line.fileno()] = connection
        self._selector.register(line, selectors.EVENT_READ, connection)
        unproven = [one for one in self._connections.values() if not one.proven]
        for one in unproven[:-MOST_UNPROVEN]:
            self._end(one)

    def _close_late(self) -> None:
        now_s = time.monotonic()
        if now_s < self._looked_s + LOOK_S:
            return
        self._looked_s = now_s
        for one in list(self._connections.values()):
            if not one.proven and one.came_s < now_s - PROOF_S:
                self._end(one)

    def _end(self, connection: _Connection) -> None:
        if connection.spoke and not connection.proven:
            named = connection.address
            if named not in self._strangers and len(self._strangers) >= MOST_NAMED:
                named = "others"
            self._strangers[named] += 1
        self._connections.pop(connection.line.fileno(), None)
        self._selector.unregister(connection.line)
        connection.line.close()

    def _read(self, connection: _Connection) -> None:
        """Take what has come on a connection, up to its share."""
        left = AT_ONCE_BYTES
        try:
            while left > 0:
                received = self._receive(connection, left)
                if not received:
                    self._end(connection)
                    return
                connection.spoke = True
                left -= received
                while connection.position == connection.length:  # a table of nothing needs no byte
                    connection.complete()
        except BlockingIOError:
            return
        except (OSError, MalformedError, StopIteration):
            self._end(connection)

    def _receive(self, connection: _Connection, most: int) -> int:
        """Bytes that were read to where they belong; 0 at the end of the connection."""
        length = min(connection.length - connection.position, most)
        if isinstance(connection.wanted, int):
            received = connection.line.recv_into(memoryview(connection.text)[connection.position :], length)
        else:
            with self._lock:  # looked up anew each time: the memory may have been withdrawn in the middle of a segment
                place = None if connection.place_refused else self._locate(connection.wanted)
                if place is None:
                    connection.place_refused = True
                    received = connection.line.recv_into(self._scrap, min(length, len(self._scrap)))
                else:
                    received = connection.line.recv_into(place[connection.position :], length)
            if place is not None:
                self.placed_bytes += received
        connection.position += received
        if connection.position == connection.length and not isinstance(connection.wanted, int):
            if connection.place_refused:
                connection.refused += 1
            else:
                connection.placed_bytes += connection.length
        return received

    def _dialogue(self, connection: _Connection) -> _Dialogue:
        """What is said on a connection, from this end."""
        nonce = new_nonce()
        connection.say(hello(self._number, nonce))
        said = yield CLAIM_BYTES
        number, theirs = parse_hello(said)
        seal = Seal(self._guard, number, (nonce, theirs))
        seal.check(said[HELLO_BYTES:], CLAIM, said[:HELLO_BYTES])
        if number != self._number:
            connection.proven = True  # one of the run, who means a process that was here before
            raise MalformedError("this is another engine")
        if sum(one.proven for one in self._connections.values()) >= MOST_PROVEN:
            raise MalformedError("there are too many connections")
        connection.proven = True
        connection.say(seal.tag(WELCOME))
        due = 0
        while True:
            head = yield HEAD.size
            sequence, count = HEAD.unpack(head)
            if sequence != due or not 0 < count <= MOST_SEGMENTS:
                raise MalformedError("no message begins like this")
            due += 1
            table = yield count * PLACE.size
            seal.check((yield TAG_BYTES), SEGMENTS, head + table)
            connection.placed_bytes = connection.refused = 0
            for place in parse_places(table):
                if place.length:
                    yield place
            answer = ANSWER.pack(sequence, connection.placed_bytes, connection.refused)
            connection.say(answer + seal.tag(PLACED, answer))
