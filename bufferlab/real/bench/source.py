"""The side of a link measurement that writes: it times batches over the engine, and the same bytes over a socket."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time

import numpy as np

from bufferlab.real.bench.pattern import SHIFT_BYTES
from bufferlab.real.bench.tasks import Connect, Connected, Push, Timed, Write
from bufferlab.real.engine.base import TransferEngine
from bufferlab.real.errors import EngineError

SOCKET_TIMEOUT_S = 60.0
HEADER = struct.Struct("<Q")
"""Goes before the bytes over the plain socket: how many they are."""

ACKNOWLEDGED = b"\x06"
"""The receiver's answer when it has them all."""

_libc = ctypes.CDLL(None, use_errno=True)


class Clock:
    """CPU time of a process, this one or another of the same user, in seconds."""

    def __init__(self, pid: int) -> None:
        number = ctypes.c_int()
        if code := _libc.clock_getcpuclockid(pid, ctypes.byref(number)):
            raise OSError(code, f"there is no CPU clock of process {pid}")
        self._number = number.value

    def read(self) -> float:
        """CPU time so far, of all threads, in user and kernel mode."""
        return time.clock_gettime(self._number)


class Source:
    """The writing side."""

    def __init__(self, engine: TransferEngine, memory: np.ndarray) -> None:
        self._engine = engine
        self._memory = memory
        self._base = int(memory.ctypes.data)
        self._own_clock = Clock(os.getpid())

    def connect(self, task: Connect) -> Connected:
        """Meet the target."""
        started = time.perf_counter()
        if not self._engine.connect(task.session):
            raise EngineError(f"the target at {task.session} does not answer")
        first_contact_s = time.perf_counter() - started
        self._session, self._target_base = task.session, task.base
        self._target_clock = Clock(task.pid)
        host = task.session.rsplit(":", 1)[0]
        self._socket = socket.create_connection((host, task.socket_port), SOCKET_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connected(first_contact_s)

    def write(self, task: Write) -> Timed:
        """Time batches over the engine."""
        case = task.case
        shift = task.number * SHIFT_BYTES
        failures: list[Exception] = []
        marks: list[tuple[float, float, float]] = []  # wall, own and target's CPU: at the start, at the end
        gate = threading.Barrier(case.threads, action=lambda: marks.append(self._now()))
        times: list[list[tuple[float, float]]] = [[] for _ in range(case.threads)]

        def run(thread: int) -> None:
            first = thread * case.batch_bytes
            offsets = range(first, first + case.batch_bytes, case.block_bytes)
            segments = [(self._base + shift + at, self._target_base + at, case.block_bytes) for at in offsets]
            try:
                self._batch(segments)
                gate.wait()
                times[thread] = [self._batch(segments) for _ in range(task.repeats)]
                gate.wait()
            except threading.BrokenBarrierError:
                return  # another thread failed and says why
            except Exception as error:  # raised again below, in the thread that waits for all
                failures.append(error)
                gate.abort()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(1, case.threads)]
        for thread in threads:
            thread.start()
        run(0)
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        every = [pair for thread_times in times for pair in thread_times]
        return self._timed(marks, [pair[0] for pair in every], [pair[1] for pair in every])

    def push(self, task: Push) -> Timed:
        """Time the same number of bytes over one plain socket, each time until the receiver says that it has them."""
        view = self._memory.data[: task.total_bytes]
        self._exchange(view)
        marks = [self._now()]
        batch_s = []
        for _ in range(task.repeats):
            started = time.perf_counter()
            self._exchange(view)
            batch_s.append(time.perf_counter() - started)
        marks.append(self._now())
        return self._timed(marks, batch_s, [])

    def _batch(self, segments: list[tuple[int, int, int]]) -> tuple[float, float]:
        """(seconds of the whole batch, seconds until it was posted)."""
        result = self._engine.write(self._session, segments)
        if not result.ok:
            raise EngineError(result.failure)
        return result.elapsed_s, result.posted_s

    def _exchange(self, view: memoryview) -> None:
        self._socket.sendall(HEADER.pack(len(view)))
        self._socket.sendall(view)
        if self._socket.recv(1) != ACKNOWLEDGED:
            raise EngineError("the plain socket was closed by the target")

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), self._own_clock.read(), self._target_clock.read()

    @staticmethod
    def _timed(marks: list[tuple[float, float, float]], batch_s: list[float], post_s: list[float]) -> Timed:
        wall_s, own_s, target_s = (end - start for start, end in zip(*marks, strict=True))
        return Timed(wall_s, batch_s, post_s, own_s, target_s)
