"""Measures the link between two processes of this host over our own engine, case by case, beside a plain socket.

A *case* is a block size, a batch (blocks written together) and a number of threads. All cases are measured once in
every round, in an order drawn anew, so that whatever disturbs the machine for a while disturbs all of them. Among them
the same numbers of bytes go over one plain socket with an acknowledgement. After each measurement every byte of the
target's memory is compared. Rounds differ by 10 to 40 % on an idle machine: medians are told with their quartiles.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from bufferlab.real.bench.pair import LinkBench, Spawn, spawn
from bufferlab.real.bench.tasks import Case, Timed
from bufferlab.real.engine.proof import ProofError, TransportProof, sent_counters, with_traffic

PROBE_REPEATS = 3
MEASUREMENT_S = 0.05
"""How long one measurement of a case should last: long against the scheduler's time slices, short enough for rounds."""

FEWEST_REPEATS, MOST_REPEATS = 3, 300
PERCENTILES = (50, 90, 99)


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
    """What one case came to.

    ``bytes_per_s``: of all threads together, over the rounds; ``socket_bytes_per_s``: the plain socket, same bytes,
    same rounds. ``batch_s``: p50, p90, p99 and the longest of all ``batches`` timed batches; an operation takes a
    batch's time over its blocks. ``post_s``: median time until it was handed over, ``transfer_s``: median of the rest.
    ``source_cpu``, ``target_cpu``: processors each process kept busy, over all rounds.
    """

    case: Case
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
        p50, p90, p99, longest = (value / self.case.batch for value in self.batch_s)
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


def measure_link(
    cases: Sequence[Case],
    *,
    rounds: int,
    transport: str = "tcp",
    device: str = "",
    seed: int = 0,
    begin: Callable[[TransportProof], None] = lambda _: None,
    progress: Callable[[], object] = lambda: None,
    spawn: Spawn = spawn,
) -> LinkReport:
    """Measure ``cases`` in ``rounds`` interleaved rounds.

    ``begin`` is told the proved transport before anything is measured; ``progress`` is called after each of the
    `count_steps` measurements. Raises EngineMissing or EngineStartError when the sides do not start, EngineError when
    a write fails. No process is left behind, whatever happens.
    """
    draws = random.Random(seed)
    sizes = sorted({case.total_bytes for case in cases})
    bench = LinkBench(
        transport=transport,
        device=device,
        seed=seed,
        memory_bytes=sizes[-1],
        numbers=count_steps(cases, rounds),
        spawn=spawn,
    )
    written: dict[Case, list[Timed]] = {case: [] for case in cases}
    pushed: dict[int, list[Timed]] = {size: [] for size in sizes}
    mismatches: list[str] = []
    verified_bytes = 0
    with bench:
        begin(bench.proof)

        def write(case: Case, repeats: int) -> Timed:
            nonlocal verified_bytes
            timed, difference = bench.write(case, repeats)
            if difference:
                mismatches.append(f"{case.threads} × {case.batch} × {case.block_bytes} bytes: {difference}")
            else:
                verified_bytes += case.total_bytes
            progress()
            return timed

        def push(size: int, repeats: int) -> Timed:
            timed = bench.push(size, repeats)
            progress()
            return timed

        # The counters watch the warm-up alone: later the plain socket sends over the same interface.
        counters = sent_counters()
        write_repeats = {case: _repeats(write(case, PROBE_REPEATS)) for case in cases}
        proof = with_traffic(bench.proof, counters, sent_counters(), bench.written_bytes)
        if proof.refuted:
            raise ProofError(proof.refuted)  # before the rounds, so that nothing is lost but the warm-up
        push_repeats = {size: _repeats(push(size, PROBE_REPEATS)) for size in sizes}
        for _ in range(rounds):
            steps: list[Case | int] = [*cases, *sizes]
            draws.shuffle(steps)
            for step in steps:
                if isinstance(step, Case):
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
        rows=[_row(case, written[case], pushed[case.total_bytes]) for case in cases],
    )


def count_steps(cases: Sequence[Case], rounds: int) -> int:
    """How many measurements that makes, the warm-up included."""
    return (rounds + 1) * (len(cases) + len({case.total_bytes for case in cases}))


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return Spread(median, low, high)


def _repeats(probe: Timed) -> int:
    """Batches per measurement, from the shortest of the first ones, so that all cases get about the same time."""
    return int(np.clip(MEASUREMENT_S / min(probe.batch_s), FEWEST_REPEATS, MOST_REPEATS))


def _row(case: Case, written: Sequence[Timed], pushed: Sequence[Timed]) -> Row:
    batch_s = np.array([value for timed in written for value in timed.batch_s])
    post_s = np.array([value for timed in written for value in timed.post_s])
    wall_s = sum(timed.wall_s for timed in written)
    p50, p90, p99 = np.percentile(batch_s, PERCENTILES).tolist()
    return Row(
        case=case,
        batches=len(batch_s),
        bytes_per_s=spread([case.batch_bytes * len(timed.batch_s) / timed.wall_s for timed in written]),
        socket_bytes_per_s=spread([case.total_bytes * len(timed.batch_s) / timed.wall_s for timed in pushed]),
        batch_s=(p50, p90, p99, float(batch_s.max())),
        post_s=float(np.median(post_s)),
        transfer_s=float(np.median(batch_s - post_s)),
        source_cpu=sum(timed.source_cpu_s for timed in written) / wall_s,
        target_cpu=sum(timed.target_cpu_s for timed in written) / wall_s,
    )
