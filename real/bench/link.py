"""Measures the link between two processes of this host over our own engine, cell by cell, beside a plain socket.

A *cell* is a block size, a batch (blocks written together) and a number of threads. All cells are measured once in
every round, in an order drawn anew, so that whatever disturbs the machine for a while disturbs all of them. Among them
the same numbers of bytes go over one plain socket with an acknowledgement. After each measurement every byte of the
target's memory is compared. Rounds differ by 10 to 40 % on an idle machine: medians are told with their quartiles.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import numpy as np

from real.bench.side import (
    Answer,
    Broken,
    Cell,
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
from real.control.guard import new_token
from real.engine.proof import ProofError, TransportProof, sent_counters, with_traffic
from real.engine.variables import cleaned
from real.errors import EngineError, EngineMissing, EngineStartError
from real.lastwords import cause

START_TIMEOUT_S = 60.0
TASK_TIMEOUT_S = 300.0
"""The longest a task may take. A write gives up after 30 s, so this only ends a side that hangs."""

END_TIMEOUT_S = 5.0
DYING_S = 0.5
"""From the moment a process's sockets are seen closed until its status is known."""

PROBE_REPEATS = 3
MEASUREMENT_S = 0.05
"""How long one measurement of a cell should last: long against the scheduler's time slices, short enough for rounds."""

FEWEST_REPEATS, MOST_REPEATS = 3, 300
PERCENTILES = (50, 90, 99)

_encoder = msgspec.json.Encoder()
_answers = msgspec.json.Decoder(Answer)


class Spread(msgspec.Struct, frozen=True):
    """A median and the quartiles around it; ``relative_iqr`` is their distance over the median."""

    median: float
    low: float
    high: float

    @property
    def relative_iqr(self) -> float:
        """Interquartile range over the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one cell came to.

    ``bytes_per_s``: of all threads together, over the rounds; ``socket_bytes_per_s``: the plain socket, same bytes,
    same rounds. ``batch_s``: p50, p90, p99 and the longest of all ``batches`` timed batches; an operation takes a
    batch's time over its blocks. ``post_s``: median time until it was handed over, ``transfer_s``: median of the rest.
    ``source_cpu``, ``target_cpu``: processors each process kept busy, over all rounds.
    """

    cell: Cell
    batches: int
    bytes_per_s: Spread
    socket_bytes_per_s: Spread
    batch_s: tuple[float, float, float, float]
    post_s: float
    transfer_s: float
    source_cpu: float
    target_cpu: float

    @property
    def operation_s(self) -> tuple[float, float, float, float]:
        """Time per operation, at the percentiles of ``batch_s``."""
        p50, p90, p99, longest = (value / self.cell.batch for value in self.batch_s)
        return p50, p90, p99, longest


class LinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, the proof of the transport with what the counters saw, and the time of the very first contact."""

    proof: TransportProof
    rounds: int
    first_contact_s: float
    written_bytes: int
    verified_bytes: int
    mismatches: list[str]
    rows: list[Row]


Spawn = Callable[[SideSpec, Path], subprocess.Popen[bytes]]
Expected = TypeVar("Expected")


def spawn(spec: SideSpec, errors: Path) -> subprocess.Popen[bytes]:
    """Start the process of one side; ``errors`` takes its standard error."""
    root = str(Path(__file__).resolve().parents[2])
    environment = cleaned(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "real.bench.side"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the launching process, which then ends the sides in order
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once; the first question says why
        process.stdin.write(_encoder.encode(spec) + b"\n")
        process.stdin.flush()
    return process


class LinkBench:
    """A source and a target that have met; a context, which leaves no process behind.

    ``memory_bytes``: the largest cell to come; ``numbers``: most measurements to come. Entering raises EngineMissing
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

    def write(self, cell: Cell, repeats: int) -> tuple[Timed, str]:
        """One measurement of a cell: its times, and a sentence if a byte of it is wrong (empty if none is)."""
        self._number += 1
        timed = self._ask_source(Write(cell, repeats, self._number), Timed)
        self.written_bytes += cell.total_bytes * (repeats + 1)
        compared = self._sides[False].ask(Compare(cell.total_bytes, self._number), Compared)
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


def measure_link(
    cells: Sequence[Cell],
    *,
    rounds: int,
    transport: str = "tcp",
    device: str = "",
    seed: int = 0,
    begin: Callable[[TransportProof], None] = lambda _: None,
    progress: Callable[[], object] = lambda: None,
    spawn: Spawn = spawn,
) -> LinkReport:
    """Measure ``cells`` in ``rounds`` interleaved rounds.

    ``begin`` is told the proved transport before anything is measured; ``progress`` is called after each of the
    `count_steps` measurements. Raises EngineMissing or EngineStartError when the sides do not start, EngineError when
    a write fails. No process is left behind, whatever happens.
    """
    order = random.Random(seed)
    sizes = sorted({cell.total_bytes for cell in cells})
    bench = LinkBench(
        transport=transport,
        device=device,
        seed=seed,
        memory_bytes=sizes[-1],
        numbers=count_steps(cells, rounds),
        spawn=spawn,
    )
    written: dict[Cell, list[Timed]] = {cell: [] for cell in cells}
    pushed: dict[int, list[Timed]] = {size: [] for size in sizes}
    mismatches: list[str] = []
    verified_bytes = 0
    with bench:
        begin(bench.proof)

        def write(cell: Cell, repeats: int) -> Timed:
            nonlocal verified_bytes
            timed, difference = bench.write(cell, repeats)
            if difference:
                mismatches.append(f"{cell.threads} × {cell.batch} × {cell.block_bytes} bytes: {difference}")
            else:
                verified_bytes += cell.total_bytes
            progress()
            return timed

        def push(size: int, repeats: int) -> Timed:
            timed = bench.push(size, repeats)
            progress()
            return timed

        # The counters watch the warm-up alone: later the plain socket sends over the same interface.
        counters = sent_counters()
        write_repeats = {cell: _repeats(write(cell, PROBE_REPEATS)) for cell in cells}
        proof = with_traffic(bench.proof, counters, sent_counters(), bench.written_bytes)
        if proof.refuted:
            raise ProofError(proof.refuted)  # before the rounds, so that nothing is lost but the warm-up
        push_repeats = {size: _repeats(push(size, PROBE_REPEATS)) for size in sizes}
        for _ in range(rounds):
            steps: list[Cell | int] = [*cells, *sizes]
            order.shuffle(steps)
            for step in steps:
                if isinstance(step, Cell):
                    written[step].append(write(step, write_repeats[step]))
                else:
                    pushed[step].append(push(step, push_repeats[step]))
    return LinkReport(
        proof=proof,
        rounds=rounds,
        first_contact_s=bench.first_contact_s,
        written_bytes=bench.written_bytes,
        verified_bytes=verified_bytes,
        mismatches=mismatches,
        rows=[_row(cell, written[cell], pushed[cell.total_bytes]) for cell in cells],
    )


def count_steps(cells: Sequence[Cell], rounds: int) -> int:
    """How many measurements that makes, the warm-up included."""
    return (rounds + 1) * (len(cells) + len({cell.total_bytes for cell in cells}))


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median, low, high)


def _repeats(probe: Timed) -> int:
    """Batches per measurement, from the shortest of the first ones, so that all cells get about the same time."""
    return int(np.clip(MEASUREMENT_S / min(probe.batch_s), FEWEST_REPEATS, MOST_REPEATS))


def _row(cell: Cell, written: Sequence[Timed], pushed: Sequence[Timed]) -> Row:
    batch_s = np.array([value for timed in written for value in timed.batch_s])
    post_s = np.array([value for timed in written for value in timed.post_s])
    wall_s = sum(timed.wall_s for timed in written)
    p50, p90, p99 = np.percentile(batch_s, PERCENTILES).tolist()
    return Row(
        cell=cell,
        batches=len(batch_s),
        bytes_per_s=spread([cell.batch_bytes * len(timed.batch_s) / timed.wall_s for timed in written]),
        socket_bytes_per_s=spread([cell.total_bytes * len(timed.batch_s) / timed.wall_s for timed in pushed]),
        batch_s=(p50, p90, p99, float(batch_s.max())),
        post_s=float(np.median(post_s)),
        transfer_s=float(np.median(batch_s - post_s)),
        source_cpu=sum(timed.source_cpu_s for timed in written) / wall_s,
        target_cpu=sum(timed.target_cpu_s for timed in written) / wall_s,
    )
