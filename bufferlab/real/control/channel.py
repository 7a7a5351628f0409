"""The control channel: ZeroMQ PUSH to PULL, one inbox per process, first-in first-out per pair of processes.

A protocol message names ranks, and a rank's name outlives its process. Memory does not. So every message travels with
two more frames, the names of the *processes* it comes from and goes to (``Route.process``: the engine's peer name and
how many processes had the rank's name before). What comes from a process that has ended, or was meant for one, is
dropped: above all an old Offer, which names blocks that are somebody else's by now.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Iterator
from enum import Enum

import zmq

from bufferlab.protocol.topology import RankId
from bufferlab.real.control.doorkeeper import LONGEST_MESSAGE_BYTES, Doorkeeper
from bufferlab.real.control.guard import Guard, Refusal
from bufferlab.real.control.route import Route

SEND_TIMEOUT_MS = 5000
"""A send blocks only when the peer's queue is full, that is when it is dead or hung; even then not for ever."""

HIGH_WATER_MARK = 100_000

MOST_CONNECTIONS = 256

MOST_HELD = 4096
"""Messages kept from processes that are not known yet; the oldest are dropped beyond, and timers deal with it."""


class Inbox:
    """Where a process receives. ``wait`` also returns when another thread of the process calls ``wake``.

    ``guard``: of the run's token, whose holders alone are let in; without one everybody is. With ``is_open`` there are
    two doors: anybody may come in at ``port``, and holders of the token give their commands at ``commands_port``. Else
    both are one. ``name``: what the guarded port is called when somebody is refused. ``most_connections``: how many of
    its are kept open at a time.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        host: str,
        guard: Guard | None = None,
        *,
        name: str = "control port",
        most_connections: int = MOST_CONNECTIONS,
        is_open: bool = False,
    ) -> None:
        self.is_open = is_open
        self._doorkeeper = None if guard is None else Doorkeeper(context, guard, name, most_connections)
        self._socket = self._make_socket(context)
        self._commands = self._make_socket(context) if is_open else self._socket
        if self._doorkeeper is not None:
            self._doorkeeper.protect(self._commands)
        self.port = int(self._socket.bind_to_random_port(f"tcp://{host}"))
        self.commands_port = int(self._commands.bind_to_random_port(f"tcp://{host}")) if is_open else self.port
        if self._doorkeeper is not None:
            self._doorkeeper.start(self.commands_port)
        self._ready, self._wake = socket.socketpair()
        self._ready.setblocking(False)
        self._wake.setblocking(False)
        self._sockets = [self._socket, self._commands] if is_open else [self._socket]
        self._descriptors = [self._ready.fileno(), *(int(one.getsockopt(zmq.FD)) for one in self._sockets)]

    def _make_socket(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        made = context.socket(zmq.PULL)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        made.setsockopt(zmq.MAXMSGSIZE, LONGEST_MESSAGE_BYTES)
        return made

    def wake(self) -> None:
        """Make a waiting ``wait`` return now. For other threads."""
        try:
            self._wake.send(b"\0")
        except BlockingIOError:
            return  # the pipe is full of wake-ups already

    def wait(self, timeout_s: float) -> None:
        """Sleep until something may have arrived, at most ``timeout_s``.

        ZeroMQ's own poller counts whole milliseconds, longer than a scheduler iteration; select counts microseconds.
        """
        if timeout_s <= 0 or any(one.poll(0) for one in self._sockets):
            return
        readable, _, _ = select.select(self._descriptors, [], [], timeout_s)
        if self._ready.fileno() in readable:
            self._ready.recv(4096)

    def messages(self) -> Iterator[list[bytes]]:
        """Everything that has arrived at ``port``, without waiting."""
        return self._arrived(self._socket)

    def commands(self) -> Iterator[list[bytes]]:
        """Everything that has arrived at a door for commands only, without waiting."""
        return self._arrived(self._commands) if self.is_open else iter(())

    def _arrived(self, door: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
        while True:
            try:
                yield door.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return

    def refused(self) -> list[Refusal]:
        """Who came to the guarded port and did not hold the token."""
        return [] if self._doorkeeper is None else self._doorkeeper.refused()

    def close(self) -> None:
        """Close the sockets; what has not been read is lost."""
        for one in self._sockets:
            one.close()
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        self._ready.close()
        self._wake.close()


class Outbox:
    """The way to one other process. ``guard``: of the run's token, where its port takes none but those who hold it."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], host: str, port: int, guard: Guard | None = None
    ) -> None:
        self._socket = context.socket(zmq.PUSH)
        if guard is not None:
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, guard.curve("server")[0])
            public, secret = guard.curve("client")
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        # Long enough for a last report to leave, short enough that a dead peer does not hold up the exit.
        self._socket.setsockopt(zmq.LINGER, 2000)
        self._socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        self._socket.connect(f"tcp://{host}:{port}")

    def send(self, frames: list[bytes]) -> None:
        """Send one message. Raises zmq.Again when the peer has not taken anything for too long."""
        self._socket.send_multipart(frames)

    def try_send(self, frames: list[bytes]) -> bool:
        """Send one message unless the queue is full: whether it was sent."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self, *, discard: bool = False) -> None:
        """Close the way; ``discard`` what has not been taken yet, for a peer that is not there any more."""
        self._socket.close(0 if discard else None)


class Standing(Enum):
    """What a message is worth, by the processes that it comes from and goes to."""

    CURRENT = "current"
    STALE = "stale"
    UNKNOWN = "unknown"


class Processes:
    """Which process stands for each rank of the other side, as far as this process knows, and who did before."""

    def __init__(self, own: str) -> None:
        self._own = own.encode()
        self._current: dict[RankId, Route] = {}
        self._speaking: set[bytes] = set()
        self._ended: set[bytes] = set()
        self._held: deque[tuple[bytes, list[bytes]]] = deque(maxlen=MOST_HELD)

    def current(self, rank_id: RankId) -> Route | None:
        """The process that stands for ``rank_id``; None before the first one is known."""
        return self._current.get(rank_id)

    def meet(self, route: Route) -> None:
        """From now on ``route`` stands for its rank; the process that did has ended."""
        before = self._current.get(route.rank_id)
        if before is not None and before.process != route.process:
            self._speaking.discard(before.process.encode())
            self._ended.add(before.process.encode())
        self._current[route.rank_id] = route
        self._speaking.add(route.process.encode())

    def seal(self, frames: list[bytes], to: Route) -> list[bytes]:
        """The frames of a message for the process ``to``, with where it comes from and goes to."""
        return [*frames, self._own, to.process.encode()]

    def open(self, sealed: list[bytes]) -> tuple[Standing, list[bytes]]:
        """A message's own frames and what they are worth. One from a process unknown so far is held for it."""
        if len(sealed) < 3:
            return Standing.STALE, sealed
        *frames, sender, receiver = sealed
        if receiver != self._own or sender in self._ended:
            return Standing.STALE, frames
        if sender in self._speaking:
            return Standing.CURRENT, frames
        self._held.append((sender, frames))
        return Standing.UNKNOWN, frames

    def released(self) -> list[list[bytes]]:
        """The held messages whose senders have become known, in order; those of ended processes are dropped."""
        ready = [frames for sender, frames in self._held if sender in self._speaking]
        rest = [one for one in self._held if one[0] not in self._speaking and one[0] not in self._ended]
        self._held.clear()
        self._held.extend(rest)
        return ready
