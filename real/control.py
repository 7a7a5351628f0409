"""The control channel: ZeroMQ PUSH to PULL, one inbox per process, first-in first-out per pair of processes."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import zmq

SEND_TIMEOUT_MS = 5000
"""A send blocks only when the peer's queue is full, that is when it is dead or hung; even then not for ever."""

HIGH_WATER_MARK = 100_000


class Inbox:
    """Where a process receives. ``wait`` also returns when another thread of the process calls ``wake``."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], host: str) -> None:
        self._socket = context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        self.port = int(self._socket.bind_to_random_port(f"tcp://{host}"))
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._ready, self._wake = socket.socketpair()
        self._ready.setblocking(False)
        self._wake.setblocking(False)

    def wake(self) -> None:
        """Make a waiting ``wait`` return now. For other threads."""
        try:
            self._wake.send(b"\0")
        except BlockingIOError:
            return  # the pipe is full of wake-ups already

    def wait(self, timeout_s: float) -> None:
        """Sleep until something may have arrived, at most ``timeout_s``.

        ZeroMQ's own poller counts whole milliseconds, longer than a scheduler turn; select counts microseconds.
        """
        if timeout_s <= 0 or self._socket.poll(0):
            return
        readable, _, _ = select.select([self._descriptor, self._ready.fileno()], [], [], timeout_s)
        if self._ready.fileno() in readable:
            self._ready.recv(4096)

    def messages(self) -> Iterator[list[bytes]]:
        """Everything that has arrived, without waiting."""
        while True:
            try:
                yield self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return

    def close(self) -> None:
        """Close the sockets; what has not been read is lost."""
        self._socket.close()
        self._ready.close()
        self._wake.close()


class Outbox:
    """The way to one other process. ``send`` raises zmq.Again when the peer does not take anything any more."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], host: str, port: int) -> None:
        self._socket = context.socket(zmq.PUSH)
        # Long enough for a last report to leave, short enough that a dead peer does not hold up the exit.
        self._socket.setsockopt(zmq.LINGER, 2000)
        self._socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        self._socket.connect(f"tcp://{host}:{port}")

    def send(self, frames: list[bytes]) -> None:
        """Send one message."""
        self._socket.send_multipart(frames)

    def close(self) -> None:
        """Close the way."""
        self._socket.close()
