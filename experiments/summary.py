"""The figures of a run, summary.json: what each means and how it is computed.

``requests`` are counts over all replications. Every estimate is ``{"value", "low", "high"}`` with a 95 % interval
(``intervals``): with two or more replications its value is the mean over replications; with one, latencies, transfer
times, throughput and resumes have batch-means intervals, and only if a batch has at least 20 requests, and ten beyond
a quantile (so p99 needs 10,000 delivered requests). Pool figures of a single replication have no interval.

* ``latency_s``: arrival to delivered; ``transfer_s``: embedding ready (last encode rank) to delivered. Delivered
  requests only. Quantiles are order statistics.
* ``throughput_rps``: delivered requests over the time from the run's start to the last delivery.
* ``resume.rate``: share of the delivered requests that came in more than one chunk; ``resume.mean_chunks``: their mean
  number of chunks.
* ``language_pool``, ``encode_pool``, over all ranks of the side, until the run's end: ``mean_occupancy``, time-weighted
  held blocks over blocks; ``peak_occupancy``, most blocks held at once over blocks; ``wasted_fraction``, the part of
  the held token-seconds no token was meant for; ``blocked_s``, seconds rooms waited for blocks, summed over rooms.
* ``deadlock``: whether any replication stood still with requests unfinished.
* ``invariant_violations``: laws found broken in the records (``laws``), plus wrong bytes in a measured run.
* ``events_per_request``: recorded events over requests. ``wall_s`` and ``requests_per_wall_s`` are the only figures
  that differ when a simulated run is repeated.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.intervals import (
    LEAST_BATCH,
    Estimate,
    Samples,
    Statistic,
    across_replications,
    batch_means,
    mean,
    quantile,
    quantile_batch,
    rate_of,
)
from experiments.rundir import SUMMARY_SCHEMA
from protocol.runlog import PoolUse, RequestRow
from protocol.status import FINAL, Status
from protocol.topology import Side


@dataclass
class Replication:
    """What is kept of one replication: two numbers a delivered request, counts, and the pools' integrals."""

    offered: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    arrival_s: array[float] = field(default_factory=lambda: array("d"))
    encoded_s: array[float] = field(default_factory=lambda: array("d"))
    delivered_s: array[float] = field(default_factory=lambda: array("d"))
    chunks: array[int] = field(default_factory=lambda: array("q"))
    pools: dict[Side, PoolUse] = field(default_factory=dict)
    end_s: float = 0.0
    deadlock: bool = False
    violations: int = 0
    records: int = 0

    def add(self, row: RequestRow) -> None:
        """Take one finished or unfinished request."""
        self.offered += 1
        self.statuses[row.status] += 1
        if row.delivered_s is not None and row.encoded_s is not None:
            self.arrival_s.append(row.arrival_s)
            self.encoded_s.append(row.encoded_s)
            self.delivered_s.append(row.delivered_s)
            self.chunks.append(row.chunks)

    def latencies_s(self) -> Samples:
        """Arrival to delivered, in order of arrival."""
        return self._in_order(np.frombuffer(self.delivered_s) - np.frombuffer(self.arrival_s))

    def transfers_s(self) -> Samples:
        """Embedding ready to delivered, in order of arrival."""
        return self._in_order(np.frombuffer(self.delivered_s) - np.frombuffer(self.encoded_s))

    def chunk_counts(self) -> Samples:
        """Chunks of the delivered requests, in order of arrival."""
        return self._in_order(np.frombuffer(self.chunks, dtype=np.int64).astype(np.float64))

    def throughput_rps(self) -> Estimate:
        """Deliveries a second until the last one."""
        times_s = np.frombuffer(self.delivered_s)
        return rate_of(times_s, float(times_s.max(initial=0.0)))

    def _in_order(self, values: Samples) -> Samples:
        return values[np.argsort(np.frombuffer(self.arrival_s), kind="stable")] if len(values) else values


def summarise(replications: list[Replication], *, kind: str, transport: str, wall_s: float) -> dict[str, Any]:
    """The content of summary.json."""
    offered = sum(one.offered for one in replications)
    statuses: Counter[str] = sum((one.statuses for one in replications), Counter())
    records = sum(one.records for one in replications)
    return {
        "schema": SUMMARY_SCHEMA,
        "kind": kind,
        "transport": transport,
        "requests": {
            "offered": offered,
            "succeeded": statuses[Status.Success.name],
            "failed": statuses[Status.Failed.name],
            "unfinished": sum(statuses[status.name] for status in Status if status not in FINAL),
        },
        "latency_s": _distribution(replications, Replication.latencies_s),
        "transfer_s": _distribution(replications, Replication.transfers_s),
        "throughput_rps": _throughput(replications),
        "resume": {
            "rate": _estimate(replications, Replication.chunk_counts, _share_resumed),
            "mean_chunks": _estimate(replications, Replication.chunk_counts, mean),
        },
        "language_pool": _pool(replications, Side.LANGUAGE),
        "encode_pool": _pool(replications, Side.ENCODE),
        "deadlock": any(one.deadlock for one in replications),
        "invariant_violations": sum(one.violations for one in replications),
        "wall_s": wall_s,
        "requests_per_wall_s": offered / wall_s if wall_s > 0 else None,
        "events_per_request": records / offered if offered else None,
    }


def _share_resumed(chunks: Samples) -> float:
    return float(np.count_nonzero(chunks > 1)) / len(chunks)


def _distribution(replications: list[Replication], samples: Callable[[Replication], Samples]) -> dict[str, Estimate]:
    figures = {"mean": _estimate(replications, samples, mean)}
    for percent in (50, 90, 99):
        level = percent / 100
        figures[f"p{percent}"] = _estimate(replications, samples, quantile(level), quantile_batch(level))
    return figures


def _estimate(
    replications: list[Replication],
    samples: Callable[[Replication], Samples],
    statistic: Statistic,
    least_batch: int = LEAST_BATCH,
) -> Estimate:
    if len(replications) == 1:
        return batch_means(samples(replications[0]), statistic, least_batch=least_batch)
    measured = [samples(one) for one in replications]
    return across_replications([statistic(one) if len(one) else None for one in measured])


def _throughput(replications: list[Replication]) -> Estimate:
    single = [one.throughput_rps() for one in replications]
    return single[0] if len(single) == 1 else across_replications([one["value"] for one in single])


def _pool(replications: list[Replication], side: Side) -> dict[str, Estimate]:
    uses = [(one.pools[side], one.end_s) for one in replications]
    return {
        "mean_occupancy": across_replications(
            [use.held_block_s / (use.pool_blocks * end_s) if end_s > 0 else None for use, end_s in uses]
        ),
        "peak_occupancy": across_replications([use.peak_blocks / use.pool_blocks for use, _ in uses]),
        "wasted_fraction": across_replications(
            [1 - use.used_token_s / use.held_token_s if use.held_token_s > 0 else None for use, _ in uses]
        ),
        "blocked_s": across_replications([use.blocked_s for use, _ in uses]),
    }
