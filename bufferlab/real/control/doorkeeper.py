"""Whom the ZeroMQ ports of a process let in: a thread that answers ZeroMQ's own questions (ZAP) and watches who comes.

A peer must have been through the CURVE handshake with the keys of the run's token (``real.control.guard``) before the
first byte of a message of his is looked at. ZeroMQ does that by itself; this thread says which client keys are let in,
counts who came and was not, and closes what is beyond the number of connections that a run of this size can need: of
those who have not proved anything the one that has had the longest time for it, so that strangers who only hold a
connection, however many and however often, keep no rank out.

ZeroMQ does not say which connection a finished handshake was of (the event carries no descriptor, the question before
it no port). The kernel does: one who does not know the key of the run's server is sent the greeting and nothing more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from collections import Counter

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from bufferlab.real.control.guard import Guard, Refusal, Refusals

HANDSHAKE_MS = 10_000
"""How long a connection may take to prove itself."""

LONGEST_MESSAGE_BYTES = 64 << 20
"""Longer than any message of a run; ZeroMQ closes the connection at the announcement of a longer one."""

ZAP_ADDRESS, ZAP_VERSION = "inproc://zeromq.zap.01", b"1.0"
"""Where ZeroMQ asks whether a peer may come in, and in which words (ZeroMQ RFC 27)."""

GREETING_BYTES = 64
"""What ZeroMQ sends to anybody (ZMTP 3.1); all that it says after that is for those who know the server's key."""

_BYTES_ACKED_AT, _BYTES_RECEIVED_AT = 120, 128
"""Where Linux's ``struct tcp_info`` has tcpi_bytes_acked, of what was sent, and tcpi_bytes_received."""


class Doorkeeper:
    """The thread, for all guarded sockets of one context. ``port``: what those are called when somebody is refused."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], guard: Guard, port: str, most_connections: int) -> None:
        self._name = port
        self._guard = guard
        self._most = most_connections
        self._client_key = z85.decode(guard.curve("client")[0])
        self._questions = context.socket(zmq.REP)
        self._questions.bind(ZAP_ADDRESS)
        self._stopping = context.socket(zmq.PULL)
        self._stopping.bind("inproc://doorkeeper")
        self._stop = context.socket(zmq.PUSH)
        self._stop.connect("inproc://doorkeeper")
        self._door: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._port = 0
        self._open: dict[int, tuple[socket.socket | None, str]] = {}  # by the engine's descriptor
        self._shut: dict[int, bool] = {}  # those of them that were closed here, and whether anything had come by then
        self._proven: set[int] = set()  # those of them that were seen to know the server's key
        self._left = False
        self._came: Counter[str] = Counter()
        self._let_in: Counter[str] = Counter()
        self._thread: threading.Thread | None = None

    def protect(self, door: zmq.Socket[bytes]) -> None:
        """Have a socket, not bound yet, take nobody but holders of the token."""
        door.setsockopt(zmq.CURVE_SERVER, 1)
        door.setsockopt(zmq.CURVE_SECRETKEY, self._guard.curve("server")[1])
        door.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        self._door = door
        self._monitor = door.get_monitor_socket(events)

    def start(self, port: int) -> None:
        """The protected socket is bound to ``port``: begin."""
        self._port = port
        self._thread = threading.Thread(target=self._run, name="doorkeeper", daemon=True)
        self._thread.start()

    def refused(self) -> list[Refusal]:
        """Who has come and said something without being let in, so far."""
        came = Counter(self._came)
        for descriptor, (connection, address) in list(self._open.items()):
            had_spoken = self._shut.get(descriptor)
            if connection is not None:
                came[address] += _has_spoken(connection) if had_spoken is None else had_spoken
        refusals = Refusals(self._name)
        for address, count in came.items():
            if count > self._let_in[address]:
                refusals.add(address, count - self._let_in[address])
        return refusals.list()

    def close(self) -> None:
        """End the thread; the protected socket must be closed afterwards."""
        self._stop.send(b"")
        if self._thread is not None:
            self._thread.join(5.0)
        for connection, _ in self._open.values():
            if connection is not None:
                connection.close()
        for one in (self._questions, self._stop, self._stopping, self._monitor):
            if one is not None:
                one.close(0)

    # --- in the thread ---

    def _run(self) -> None:
        assert self._monitor is not None
        poller = zmq.Poller()
        for one in (self._questions, self._monitor, self._stopping):
            poller.register(one, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._questions in ready:
                self._questions.send_multipart(self._answer(self._questions.recv_multipart()))
            if self._monitor in ready:
                event = parse_monitor_message(self._monitor.recv_multipart())
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self._accepted(int(event["value"]))
                elif event["event"] == zmq.EVENT_DISCONNECTED:
                    self._disconnected(int(event["value"]))
                else:
                    self._left = True  # the next one that is disconnected went by itself, and was not refused
            if self._stopping in ready:
                return

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """The answer to: version, id, domain, address, identity, mechanism, and the client's key."""
        address, mechanism, key = question[3], question[5], question[6:]
        if mechanism == b"CURVE" and key == [self._client_key]:
            self._let_in[address.decode(errors="replace")] += 1
            return [ZAP_VERSION, question[1], b"200", b"OK", b"", b""]
        return [ZAP_VERSION, question[1], b"400", b"not a key of this run", b"", b""]

    def _accepted(self, descriptor: int) -> None:
        connection, address = self._look_at(descriptor)
        if descriptor in self._open:
            self._disconnected(descriptor)
        self._open[descriptor] = (connection, address)
        if len(self._open) - len(self._shut) > self._most:
            self._shut_one(descriptor)

    def _shut_one(self, newest: int) -> None:
        """Close the oldest connection over which nobody has proved anything; the newest one if all have."""
        unproven = (one for one in self._open if one not in self._shut and not self._has_proved(one))
        descriptor = next(unproven, newest)
        connection, _ = self._open[descriptor]
        if connection is not None:
            self._shut[descriptor] = _has_spoken(connection)
            with contextlib.suppress(OSError):  # it has closed by itself
                connection.shutdown(socket.SHUT_RDWR)

    def _has_proved(self, descriptor: int) -> bool:
        """Whether the peer knows the server's key, or has gone, so that there is nothing to close."""
        connection, _ = self._open[descriptor]
        if connection is None:
            return True
        if descriptor not in self._proven and _knows_key(connection):
            self._proven.add(descriptor)
        return descriptor in self._proven

    def _look_at(self, descriptor: int) -> tuple[socket.socket | None, str]:
        """The connection behind a descriptor of ZeroMQ's, and who is at its other end."""
        try:
            connection = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            return None, ""  # gone already
        try:
            if connection.getsockname()[1] == self._port:
                return connection, str(connection.getpeername()[0])
        except (OSError, IndexError, TypeError):
            pass
        connection.close()
        return None, ""

    def _disconnected(self, descriptor: int) -> None:
        connection, address = self._open.pop(descriptor, (None, ""))
        self._proven.discard(descriptor)
        left, self._left = self._left, False
        had_spoken = self._shut.pop(descriptor, None)
        if connection is None:
            self._came[address] += not left
            return
        if _has_spoken(connection) if had_spoken is None else had_spoken:
            self._came[address] += 1
        connection.close()


def _has_spoken(connection: socket.socket) -> bool:
    """Whether anything has come over it: one who only looks whether the port is there is not refused anything."""
    if connection.fileno() < 0:
        return False  # gone meanwhile, and counted
    received = _count(connection, _BYTES_RECEIVED_AT)
    return received is None or received > 1  # the end of a connection counts as one


def _knows_key(connection: socket.socket) -> bool:
    """Whether anything was sent over it after the greeting, and has arrived. Nobody is shut where no kernel counts."""
    acknowledged = _count(connection, _BYTES_ACKED_AT)
    return acknowledged is None or acknowledged > GREETING_BYTES + 1  # the end of a connection counts as one


def _count(connection: socket.socket, at: int) -> int | None:
    """A number of Linux's account of a connection; None where it does not say."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, at + 8)
    except OSError:
        return None
    return int(struct.unpack_from("=Q", info, at)[0]) if len(info) >= at + 8 else None
