"""One side of a link measurement: a process with an engine and memory that does what its standard input says.

The *source* writes, the *target* is written to and afterwards compares every byte. Both hold the same endless pattern,
computed from the seed; a measurement sends it from a place of its own, so that bytes left from an earlier measurement,
or by the plain socket, are never taken for the right ones.

Run as ``python -m real.bench.side`` with a `SideSpec` as the first line of JSON on standard input, then one `Task` a
line; each is answered with one line on standard output. The process ends when standard input is closed, also in the
middle of a task: a side never outlives whoever launched it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from typing import BinaryIO, NoReturn

import msgspec
import numpy as np

from real.control.guard import guard_of
from real.engine.base import TransferEngine
from real.engine.proof import TransportProof
from real.engine.registry import start_engine
from real.errors import EngineError, EngineMissing

PATTERN_WORDS = 8_388_593
"""Period of the pattern in words of 8 bytes, a prime: no block size repeats it, so a misplaced block is noticed."""

SHIFT_BYTES = 64
"""Measurement number n sends the pattern from byte 64 · n on: a cache line, so that copies stay aligned."""

SOCKET_TIMEOUT_S = 60.0
_HEADER = struct.Struct("<Q")
_ACKNOWLEDGED = b"\x06"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Cell(msgspec.Struct, frozen=True, order=True):
    """One point of the sweep: every one of ``threads`` threads writes ``batch`` blocks at a time."""

    block_bytes: int
    batch: int
    threads: int

    @property
    def batch_bytes(self) -> int:
        """Bytes of one batch of one thread."""
        return self.block_bytes * self.batch

    @property
    def total_bytes(self) -> int:
        """Bytes that all threads move in one batch each."""
        return self.batch_bytes * self.threads


class SideSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a side needs to start. ``memory_bytes``: the largest cell; ``numbers``: measurements to come;
    ``token``: what both sides hold, and no stranger."""

    is_source: bool
    host: str
    transport: str
    device: str
    seed: int
    memory_bytes: int
    numbers: int
    token: str = ""


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """To the source: whom to write to, where, and where its plain socket listens."""

    session: str
    base: int
    socket_port: int
    pid: int


class Write(msgspec.Struct, frozen=True, tag="write"):
    """To the source: one untimed batch per thread, then ``repeats`` timed ones."""

    cell: Cell
    repeats: int
    number: int


class Push(msgspec.Struct, frozen=True, tag="push"):
    """To the source: the same bytes over the plain socket, once untimed, then ``repeats`` times."""

    total_bytes: int
    repeats: int


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """To the target: are these the first ``total_bytes`` of measurement ``number``?"""

    total_bytes: int
    number: int


Task = Connect | Write | Push | Compare


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The engine runs and the memory is registered."""

    session: str
    base: int
    socket_port: int
    pid: int
    proof: TransportProof


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    """The first contact took so long."""

    first_contact_s: float


class Timed(msgspec.Struct, frozen=True, tag="timed"):
    """``batch_s``, ``post_s``: each batch of each thread; ``wall_s``: all of them; ``*_cpu_s``: the processes' in that.

    A push has no ``post_s``.
    """

    wall_s: float
    batch_s: list[float]
    post_s: list[float]
    source_cpu_s: float
    target_cpu_s: float


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    """``difference``: one sentence, empty when every byte is right."""

    difference: str


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The side cannot go on. ``missing``: Mooncake is not installed here."""

    reason: str
    missing: bool = False


Answer = Started | Connected | Timed | Compared | Broken

_encoder = msgspec.json.Encoder()
_tasks = msgspec.json.Decoder(Task)


class Pattern:
    """The endless content. ``stretch`` tells what lies where."""

    def __init__(self, seed: int) -> None:
        self._bytes = np.random.PCG64(seed).random_raw(PATTERN_WORDS).view(np.uint8)

    def fill(self, memory: np.ndarray) -> None:
        """Write the pattern's beginning over all of ``memory`` (bytes)."""
        for start in range(0, len(memory), len(self._bytes)):
            part = memory[start : start + len(self._bytes)]
            part[:] = self._bytes[: len(part)]

    def difference(self, memory: np.ndarray, number: int) -> str:
        """One sentence about the first byte of ``memory`` that is not measurement ``number``'s; empty if there is none.

        memcmp looks at the memory at its own speed; only where it finds a difference numpy looks closer.
        """
        period, position, shift = len(self._bytes), 0, number * SHIFT_BYTES
        while position < len(memory):
            start = (position + shift) % period
            length = min(period - start, len(memory) - position)
            expected, found = self._bytes[start : start + length], memory[position : position + length]
            if _libc.memcmp(expected.ctypes.data, found.ctypes.data, length):
                unequal = np.flatnonzero(expected != found)
                first = int(unequal[0])
                return (
                    f"byte {position + first} is 0x{found[first]:02x}, it was sent as 0x{expected[first]:02x} "
                    f"({len(unequal)} of the {length} bytes from {position} on differ)"
                )
            position += length
        return ""


def allocate(size_bytes: int) -> np.ndarray:
    """Page-aligned bytes of which every page is there already, so that no page fault is measured."""
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(pages, dtype=np.uint8)
    memory[:: mmap.PAGESIZE] = 0
    return memory


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
        cell = task.cell
        shift = task.number * SHIFT_BYTES
        failures: list[Exception] = []
        marks: list[tuple[float, float, float]] = []  # wall, own and target's CPU: at the start, at the end
        gate = threading.Barrier(cell.threads, action=lambda: marks.append(self._now()))
        times: list[list[tuple[float, float]]] = [[] for _ in range(cell.threads)]

        def run(thread: int) -> None:
            first = thread * cell.batch_bytes
            offsets = range(first, first + cell.batch_bytes, cell.block_bytes)
            pieces = [(self._base + shift + at, self._target_base + at, cell.block_bytes) for at in offsets]
            try:
                self._batch(pieces)
                gate.wait()
                times[thread] = [self._batch(pieces) for _ in range(task.repeats)]
                gate.wait()
            except threading.BrokenBarrierError:
                return  # another thread failed and says why
            except Exception as error:  # raised again below, in the thread that waits for all
                failures.append(error)
                gate.abort()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(1, cell.threads)]
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

    def _batch(self, pieces: list[tuple[int, int, int]]) -> tuple[float, float]:
        """(seconds of the whole batch, seconds until it was posted)."""
        result = self._engine.write(self._session, pieces)
        if not result.ok:
            raise EngineError(result.failure)
        return result.elapsed_s, result.posted_s

    def _exchange(self, view: memoryview) -> None:
        self._socket.sendall(_HEADER.pack(len(view)))
        self._socket.sendall(view)
        if self._socket.recv(1) != _ACKNOWLEDGED:
            raise EngineError("the plain socket was closed by the target")

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), self._own_clock.read(), self._target_clock.read()

    @staticmethod
    def _timed(marks: list[tuple[float, float, float]], batch_s: list[float], post_s: list[float]) -> Timed:
        wall_s, own_s, target_s = (end - start for start, end in zip(*marks, strict=True))
        return Timed(wall_s, batch_s, post_s, own_s, target_s)


def serve_socket(listener: socket.socket, memory: np.ndarray) -> None:
    """The target's end of the plain socket: receive, acknowledge, until the source closes it."""
    with listener:
        connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    view = memory.data
    with connection:
        while header := connection.recv(_HEADER.size, socket.MSG_WAITALL):
            left = _HEADER.unpack(header)[0]
            position = 0
            while position < left:
                received = connection.recv_into(view[position:left])
                if not received:
                    return
                position += received
            connection.sendall(_ACKNOWLEDGED)


def _serve(spec: SideSpec, next_task: Callable[[], bytes], answer: Callable[[Answer], None]) -> NoReturn:
    engine = start_engine(spec.transport, host=spec.host, device=spec.device, guard=guard_of(spec.token))
    pattern = Pattern(spec.seed)
    memory = allocate(spec.memory_bytes + (spec.numbers + 1) * SHIFT_BYTES if spec.is_source else spec.memory_bytes)
    engine.register_region(int(memory.ctypes.data), len(memory), "the memory")
    port = 0
    source: Source | None = None
    if spec.is_source:
        pattern.fill(memory)
        source = Source(engine, memory)
    else:
        listener = socket.create_server((spec.host, 0), backlog=1)
        port = int(listener.getsockname()[1])
        threading.Thread(target=serve_socket, args=(listener, memory), daemon=True).start()
    answer(Started(engine.session, int(memory.ctypes.data), port, os.getpid(), engine.proof))
    while True:
        task = _tasks.decode(next_task())
        if isinstance(task, Compare):
            answer(Compared(pattern.difference(memory[: task.total_bytes], task.number)))
            continue
        if source is None:
            raise EngineError(f"the target was given a task of the source, {type(task).__name__}")
        match task:
            case Connect():
                answer(source.connect(task))
            case Write():
                answer(source.write(task))
            case Push():
                answer(source.push(task))


def _read_tasks(standard_input: BinaryIO, tasks: queue.SimpleQueue[bytes]) -> None:
    for line in standard_input:
        tasks.put(line)
    os._exit(130)


def main() -> NoReturn:
    """Be the side described on standard input."""
    # Answers alone go to standard output; what a library prints there goes to standard error.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    standard_input = os.fdopen(0, "rb", closefd=False)
    spec = msgspec.json.decode(standard_input.readline(), type=SideSpec)
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(standard_input, tasks), daemon=True).start()

    def answer(message: Answer) -> None:
        answers.write(_encoder.encode(message) + b"\n")

    try:
        _serve(spec, tasks.get, answer)
    except Exception as error:
        known = isinstance(error, EngineError | OSError)
        answer(Broken(str(error) if known else f"{type(error).__name__}: {error}", isinstance(error, EngineMissing)))
        if not known:
            traceback.print_exc()
    # Not by returning: a thread may hang in the engine, which no time limit of ours can end.
    os._exit(1)


if __name__ == "__main__":
    main()
