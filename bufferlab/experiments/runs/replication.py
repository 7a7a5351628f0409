"""What is kept of one replication, simulated or measured, and what follows from it directly."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.runs.stretches import Levels
from bufferlab.experiments.stats.batching import (
    OneRun,
    of_events,
)
from bufferlab.experiments.stats.intervals import (
    Samples,
)
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates
from bufferlab.experiments.stats.warmup import mser5
from bufferlab.protocol.observe.columns import RequestColumns
from bufferlab.protocol.observe.pooluse import PoolUse
from bufferlab.protocol.observe.runlog import RunLog
from bufferlab.protocol.observe.stageuse import StageUse
from bufferlab.protocol.topology import Side

MEASURED_STAGES = ("preprocessing", "encoder", "writers", "prefill")
"""Stages whose work is in the records of both worlds."""
EMPTY: Samples = np.zeros(0)


class Grid(NamedTuple):
    """Successive stretches of ``step_s`` seconds, counted from the first counted arrival, in which time is batched."""

    step_s: float
    steps: int


class Limits(NamedTuple):
    """What a service promises: the longest times to the first token and to the delivery. None: nothing is promised."""

    ttft_s: float | None = None
    latency_s: float | None = None


NO_LIMITS = Limits()


@dataclass
class Replication:
    """What is kept of one replication: some numbers of every request, and the integrals of the pools.

    The first ``warmup_requests`` requests by arrival are in the counts and nowhere else. ``common`` restricts the
    figures of delivered requests to some of them: one flag for every counted request, in order of arrival.
    ``replicates``: what it and the others of its configuration are to one another.
    """

    warmup_requests: int = 0
    slo: Limits = NO_LIMITS
    closed: bool = False
    disturbed: bool = False
    replicates: Replicates = INDEPENDENT
    monitored: bool = False
    requests: RequestColumns = field(default_factory=RequestColumns)
    pools: dict[Side, PoolUse] = field(default_factory=dict)
    stages: dict[str, StageUse] = field(default_factory=dict)
    waits: dict[Side, StageUse] = field(default_factory=dict)
    adapters: float | None = None
    end_s: float = 0.0
    window_end_s: float | None = None
    deadlock: bool = False
    deadlocks: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    ended_early: str = ""
    violations: int = 0
    records: int = 0
    common: NDArray[np.bool_] | None = None
    _order: NDArray[np.intp] | None = None
    _pool_levels: dict[Side, Samples] = field(default_factory=dict)

    @property
    def statuses(self) -> Counter[str]:
        """How many requests came to each status, by its name."""
        return self.requests.statuses

    @property
    def offered(self) -> int:
        """All requests, those of the warm-up included."""
        return len(self.requests)

    def take(self, log: RunLog, end_s: float) -> None:
        """Take what ``log``, which is finished, has of the whole run. ``end_s``: when that ended."""
        self.end_s, self.window_end_s = end_s, log.window_end_s
        self.pools, self.records = log.pools, log.records
        self.stages = {name: use for name in MEASURED_STAGES if (use := getattr(log, name)) is not None}
        self.waits = log.waits

    @property
    def window_s(self) -> tuple[float, float]:
        """From when to when deliveries and pools count: the time in which requests were offered or unfinished.

        It begins with the first arrival after the warm-up, and ends when all ranks are done with the last request; with
        the run, if they never were.
        """
        counted = self._counted("arrival_s")
        end_s = self.end_s if self.window_end_s is None else self.window_end_s
        return (min(float(counted[0]), end_s) if len(counted) else end_s), end_s

    def courses(self) -> tuple[Samples, Samples, Samples, Samples]:
        """Of the counted requests, in order of arrival: arrivals, ends of their prefills (NaN: never), whether they
        timed out, tokens."""
        names = ("arrival_s", "prefilled_s", "timed_out", "tokens")
        arrivals_s, ends_s, timed_out, tokens = (self._counted(name).astype(np.float64) for name in names)
        return arrivals_s, ends_s, timed_out, tokens

    def prefill_ends_s(self) -> Samples:
        """When prefills ended, those of the warm-up with them, in no order; NaN for those that did not."""
        return self.requests.column("prefilled_s").copy()

    def busy_until(self, time_s: float) -> dict[str, float | None]:
        """The share of the time until ``time_s`` that every stage was busy; of the pools, that rooms waited for them.

        Of the adapters it is known for the whole window only.
        """
        busy = {name: use.share_until(time_s) for name, use in self.stages.items()}
        busy |= {f"{side.value}_pool": use.share_until(time_s) for side, use in self.waits.items()}
        return {**busy, "adapters": self.adapters}

    def pool_levels(self, side: Side, grid: Grid | None = None) -> Samples:
        """The mean levels of a pool in successive stretches of time, one row each, in the order of ``pooluse.Totals``.

        Once its integrals are complete they are found once.
        """
        use = self.pools[side]
        levels = self._pool_levels.get(side)
        if levels is None or len(levels) != max(len(use.marks) - 1, 0):
            marks = np.array(use.marks, dtype=np.float64).reshape(-1, 4)
            levels = self._pool_levels[side] = np.diff(marks, axis=0) / use.batch_s
        if grid is None or not len(levels):
            return levels
        # Lengths are powers of two, so a longer stretch is a whole number of shorter ones.
        group = round(grid.step_s / use.batch_s)
        count = min(len(levels) // group, grid.steps)
        return levels[: count * group].reshape(count, group, 4).mean(axis=1)

    def filled_until(self, side: Side, time_s: float) -> float:
        """The share of a pool's blocks that was held until about ``time_s``, on average."""
        use = self.pools[side]
        held = self.pool_levels(side)[:, 0]
        held = held[: max(int((time_s - use.start_s) / use.batch_s), 0)] if len(held) else held
        return float(held.mean()) / use.pool_blocks if len(held) else 0.0

    def stage_levels(self, stage: str) -> Levels | None:
        """How busy a stage was in the course of time; None where that is not known."""
        return _levels(self.stages.get(stage))

    def wait_levels(self, side: Side) -> Levels | None:
        """The share of the time in which rooms waited for a pool."""
        return _levels(self.waits.get(side))

    def held_levels(self, side: Side) -> Levels | None:
        """The share of a pool's blocks that was held."""
        use = self.pools.get(side)
        if use is None or not math.isfinite(use.start_s):
            return None
        return Levels(use.start_s, use.batch_s, self.pool_levels(side)[:, 0] / use.pool_blocks)

    def latencies_s(self) -> Samples:
        """Arrival to delivered of the delivered requests, in order of arrival."""
        return self._of_delivered(self._counted("delivered_s") - self._counted("arrival_s"))

    def ttfts_s(self) -> Samples:
        """Arrival to the end of the prefill of the requests that got there, in order of arrival."""
        times_s = self._of_delivered(self._counted("prefilled_s") - self._counted("arrival_s"))
        return times_s[~np.isnan(times_s)]

    def met(self, ttft: bool, latency: bool) -> Samples | None:
        """1 for every request that kept the chosen limits and 0 for the others, served or not, in order of arrival.

        None if none of the chosen ones is set.
        """
        limits = [
            (limit_s, name)
            for chosen, limit_s, name in (
                (ttft, self.slo.ttft_s, "prefilled_s"),
                (latency, self.slo.latency_s, "delivered_s"),
            )
            if chosen and limit_s is not None
        ]
        if not limits:
            return None
        arrivals_s = self._counted("arrival_s")
        # What never happened is NaN, which is within no limit.
        kept = [self._counted(name) - arrivals_s <= limit_s for limit_s, name in limits]
        return np.logical_and.reduce(kept).astype(np.float64)

    def transfers_s(self) -> Samples:
        """Embedding ready to delivered of the delivered requests, in order of arrival."""
        return self._of_delivered(self._counted("delivered_s") - self._counted("encoded_s"))

    def between_s(self, begin: str, end: str) -> Samples:
        """From one of a request's times to another, such as ``encoded_s`` to ``delivered_s``, in order of arrival."""
        return self._counted(end) - self._counted(begin)

    def chunk_counts(self) -> Samples:
        """Chunks of the delivered requests, in order of arrival."""
        return self._of_delivered(self._counted("chunks").astype(np.float64))

    def not_served(self) -> Samples:
        """1 for every request that was not delivered and 0 for the others, in order of arrival."""
        return (~self.delivered()).astype(np.float64)

    def delivered(self) -> NDArray[np.bool_]:
        """Which of the counted requests were delivered, in order of arrival."""
        return ~np.isnan(self._counted("delivered_s"))

    def rooms(self) -> NDArray[np.int64]:
        """Numbers of the counted requests, in order of arrival."""
        return self._counted("room")

    def only(self, common: NDArray[np.bool_]) -> Replication:
        """The same with its figures of delivered requests taken from some of them only."""
        return replace(self, common=common)

    def grid(self) -> Grid | None:
        """How the pools' integrals are cut into stretches of time; None without pools."""
        cuts = [Grid(use.batch_s, max(len(use.marks) - 1, 0)) for use in self.pools.values()]
        return min(cuts, key=lambda cut: cut.steps, default=None)

    def deliveries(self, grid: Grid | None = None) -> OneRun | None:
        """Deliveries a second in the window; the requests of a warm-up count if they are delivered in it."""
        start_s, end_s = self.window_s
        times_s = self.requests.column("delivered_s") - start_s
        times_s = times_s[times_s > 0]  # NaN is not
        whole_s = end_s - start_s
        cut = grid or self.grid()
        if whole_s <= 0:
            return None
        if cut is None or not cut.steps:
            return OneRun(len(times_s) / whole_s, times_s, None)
        return of_events(times_s, whole_s, cut.step_s, None if grid is None else grid.steps)

    def mser5_requests(self) -> int | None:
        """How many first requests MSER-5 would leave out, from the latencies of all that were delivered."""
        order = self._in_order()
        latencies = (
            (self.requests.column("delivered_s") - self.requests.column("arrival_s"))[order] if len(order) else EMPTY
        )
        delivered = np.flatnonzero(~np.isnan(latencies))
        cut = mser5(latencies[delivered])
        # Of all requests, so that the number can be put into run.warmup_requests.
        return None if cut is None else int(delivered[cut])

    def _in_order(self) -> NDArray[np.intp]:
        if self._order is None or len(self._order) != self.offered:
            self._order = np.lexsort((self.requests.column("room"), self.requests.column("arrival_s")))
        return self._order

    def _counted(self, column: str) -> NDArray[Any]:
        return self.requests.column(column)[self._in_order()[self.warmup_requests :]]

    def _of_delivered(self, values: Samples) -> Samples:
        return values[self.delivered() if self.common is None else self.common]


def _levels(use: StageUse | None) -> Levels | None:
    if use is None or not math.isfinite(use.start_s):
        return None
    return Levels(use.start_s, use.batch_s, np.array(use.batches) / (use.batch_s * use.servers))
