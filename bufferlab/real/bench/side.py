"""One side of a link measurement: a process with an engine and memory that does what its standard input says.

The *source* writes, the *target* is written to and afterwards compares every byte (see ``pattern``).

Run as ``python -m real.bench.side`` with a `SideSpec` as the first line of JSON on standard input, then one `Task` a
line; each is answered with one line on standard output. The process ends when standard input is closed, also in the
middle of a task: a side never outlives whoever launched it.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import traceback
from collections.abc import Callable
from typing import BinaryIO, NoReturn

import msgspec
import numpy as np

from bufferlab.real.bench.pattern import SHIFT_BYTES, Pattern, allocate
from bufferlab.real.bench.source import ACKNOWLEDGED, HEADER, Source
from bufferlab.real.bench.tasks import Answer, Broken, Compare, Compared, Connect, Push, SideSpec, Started, Task, Write
from bufferlab.real.control.guard import guard_of
from bufferlab.real.engine.registry import start_engine
from bufferlab.real.errors import EngineError, EngineMissing

_encoder = msgspec.json.Encoder()
_tasks = msgspec.json.Decoder(Task)


def serve_socket(listener: socket.socket, memory: np.ndarray) -> None:
    """The target's end of the plain socket: receive, acknowledge, until the source closes it."""
    with listener:
        connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    view = memory.data
    with connection:
        while header := connection.recv(HEADER.size, socket.MSG_WAITALL):
            left = HEADER.unpack(header)[0]
            position = 0
            while position < left:
                received = connection.recv_into(view[position:left])
                if not received:
                    return
                position += received
            connection.sendall(ACKNOWLEDGED)


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
