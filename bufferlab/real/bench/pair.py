"""The two processes of a link measurement: started, given tasks, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from bufferlab.real.bench.tasks import (
    Answer,
    Broken,
    Case,
    Compare,
    Compared,
    Connect,
    Connected,
    Push,
    SideSpec,
    Started,
    Task,
    Timed,
    Write,
)
from bufferlab.real.control.guard import new_token
from bufferlab.real.engine.variables import cleaned
from bufferlab.real.errors import EngineError, EngineMissing, EngineStartError
from bufferlab.real.interpreter import our_environment, ours
from bufferlab.real.lastwords import cause

START_TIMEOUT_S = 60.0
TASK_TIMEOUT_S = 300.0
"""The longest a task may take. A write gives up after 30 s, so this only ends a side that hangs."""

END_TIMEOUT_S = 5.0
DYING_S = 0.5
"""From the moment a process's sockets are seen closed until its status is known."""

_encoder = msgspec.json.Encoder()
_answers = msgspec.json.Decoder(Answer)

Spawn = Callable[[SideSpec, Path], subprocess.Popen[bytes]]
Expected = TypeVar("Expected")


def spawn(spec: SideSpec, errors: Path) -> subprocess.Popen[bytes]:
    """Start the process of one side; ``errors`` takes its standard error."""
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            ours("bufferlab.real.bench.side"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            env=our_environment(cleaned(os.environ)),
            start_new_session=True,  # Ctrl-C is for the launching process, which then ends the sides in order
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once; the first question says why
        process.stdin.write(_encoder.encode(spec) + b"\n")
        process.stdin.flush()
    return process


class LinkBench:
    """A source and a target that have met; a context, which leaves no process behind.

    ``memory_bytes``: the largest case to come; ``numbers``: most measurements to come. Entering raises EngineMissing
    or EngineStartError, every later call EngineError.
    """

    def __init__(
        self,
        *,
        transport: str,
        device: str,
        seed: int,
        memory_bytes: int,
        numbers: int,
        host: str = "127.0.0.1",
        spawn: Spawn = spawn,
    ) -> None:
        token = new_token()
        self._specs = {
            is_source: SideSpec(
                is_source=is_source,
                host=host,
                transport=transport,
                device=device,
                seed=seed,
                memory_bytes=memory_bytes,
                numbers=numbers,
                token=token,
            )
            for is_source in (True, False)
        }
        self._spawn = spawn
        self._sides: dict[bool, _Side] = {}
        self._number = 0
        self.written_bytes = 0

    def __enter__(self) -> LinkBench:
        self._files = tempfile.TemporaryDirectory(prefix="bufferlab-link-")
        try:
            for is_source, spec in self._specs.items():
                name = "source" if is_source else "target"
                errors = Path(self._files.name) / name
                self._sides[is_source] = _Side(name, self._spawn(spec, errors), errors)
            try:
                source, target = (self._sides[side].receive(Started, START_TIMEOUT_S) for side in (True, False))
                self.proof = source.proof
                met = self._ask_source(
                    Connect(target.session, target.base, target.socket_port, target.pid), Connected, START_TIMEOUT_S
                )
            except EngineMissing:
                raise
            except EngineError as error:
                raise EngineStartError(str(error)) from error
            self.first_contact_s = met.first_contact_s
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for side in self._sides.values():
            side.end()
        self._files.cleanup()

    def write(self, case: Case, repeats: int) -> tuple[Timed, str]:
        """One measurement of a case: its times, and a sentence if a byte of it is wrong (empty if none is)."""
        self._number += 1
        timed = self._ask_source(Write(case, repeats, self._number), Timed)
        self.written_bytes += case.total_bytes * (repeats + 1)
        compared = self._sides[False].ask(Compare(case.total_bytes, self._number), Compared)
        return timed, compared.difference

    def push(self, total_bytes: int, repeats: int) -> Timed:
        """One measurement of the plain socket."""
        return self._ask_source(Push(total_bytes, repeats), Timed)

    def _ask_source(self, task: Task, expected: type[Expected], timeout_s: float = TASK_TIMEOUT_S) -> Expected:
        try:
            return self._sides[True].ask(task, expected, timeout_s)
        except EngineError as error:
            if cause := self._sides[False].end_reason():
                # What the source sees of it is a consequence.
                raise EngineError(cause) from error
            raise


class _Side:
    """One side's process, asked and answering a line at a time."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: Path) -> None:
        self._name = name
        self._process = process
        self._errors = errors
        self._received = b""
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(process.stdout, selectors.EVENT_READ)

    def ask(self, task: Task, expected: type[Expected], timeout_s: float = TASK_TIMEOUT_S) -> Expected:
        """Give a task and wait for its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone; receive says why
            self._process.stdin.write(_encoder.encode(task) + b"\n")
            self._process.stdin.flush()
        return self.receive(expected, timeout_s)

    def receive(self, expected: type[Expected], timeout_s: float) -> Expected:
        """The next answer. Raises EngineError if the side breaks, ends or does not answer in time."""
        answer = _answers.decode(self._line(timeout_s))
        if isinstance(answer, Broken):
            raise (EngineMissing if answer.missing else EngineError)(answer.reason)
        if not isinstance(answer, expected):
            raise EngineError(f"the {self._name} answers with {type(answer).__name__}")
        return answer

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            rest_s = deadline - time.monotonic()
            if rest_s <= 0:
                raise EngineError(f"the {self._name} did not answer within {timeout_s:g} s")
            if not self._selector.select(rest_s):
                continue
            part = os.read(self._process.stdout.fileno(), 1 << 20)
            if not part:
                raise EngineError(self.end_reason() or f"the {self._name} closed its standard output")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def end_reason(self) -> str:
        """One sentence if the process has ended or does within a moment, empty if it has not."""
        try:
            status = self._process.wait(DYING_S)
        except subprocess.TimeoutExpired:
            return ""
        said = cause(self._errors.read_text(errors="replace"))
        return f"the {self._name} ended with status {status}{said and f': {said}'}"

    def end(self) -> None:
        """Close its standard input, on which it leaves; kill it if it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._selector.close()
        self._process.stdout.close()
