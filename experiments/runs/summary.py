"""The figures of a run, summary.json: what each means and how it is computed.

``requests`` are counts over all replications. Every estimate is ``{"value", "low", "high"}`` with a 95 % interval: with
two or more replications its value is the mean over replications and the interval a t interval across them
(``intervals``); with one, the interval comes from successive batches of the run (``batching``), and there is none if
the run is too short for that, as it is for a p99 of fewer than 10,000 requests. A share that was 0 or 1 throughout has
no interval either.

* ``latency_s``: arrival to delivered; ``transfer_s``: embedding ready (last encode rank) to delivered. Delivered
  requests only. Quantiles are order statistics.
* ``ttft_s``: arrival to the end of the prefill, when the first token is there; of the requests whose prefill ended.
  Where the configuration has no prefill time it is the latency.
* ``slo``: shares of all requests, those that were not served with them, that kept ``slo.ttft_s``, ``slo.latency_s``,
  and all of these limits that are set; none of a limit that is not.
* ``throughput_rps``: deliveries a second in the *window*, the time in which requests were offered or unfinished: from
  the first arrival to the time at which all ranks were done with the last request, delivered or failed, and held
  nothing of it any more (``protocol.observe.runlog``). A request of which a rank never says so, because it died, makes
  the window last as long as the run.
* ``failure_rate``: share of the requests that were not served, because they failed or never came to an end;
  ``requests.not_served`` is their number. ``failures``: how often each reason for a failure came, most frequent first;
  numbers in which reasons differ are left out of them.
* ``resume.rate``: share of the delivered requests that came in more than one chunk; ``resume.mean_chunks``: their mean
  number of chunks.
* ``language_pool``, ``encode_pool``, over all ranks of the side, in the window: ``mean_occupancy``, time-weighted held
  blocks over blocks; ``peak_occupancy``, most blocks held at once over blocks; ``wasted_fraction``, the part of the
  held token-seconds no token was meant for; ``blocked_s``, seconds requests waited for blocks, summed over requests,
  and ``blocked_per_request_s``, their mean over all requests, of which most as a rule waited for none. A peak has no
  interval in a single replication: parts of a run say nothing about the highest point of a whole one.
* ``utilisation``: the share of the window that each stage was busy, a mean over its servers: the ``preprocessing``
  processors, the ``encoder`` and the ``prefill`` of every instance, the ``writers`` (threads that have anybody to write
  to), the ``adapters`` (the busier direction; only a simulated link that is shared tells), the blocks of the pools.
  None where a configuration has no such stage, or a measured run cannot know.
* ``capacity``: whether the system keeps up with what it is offered (``capacity``): ``verdict`` is within, near, over,
  closed (a closed loop) or unknown (no rate, or nothing served), ``bottleneck`` the stage that holds it back,
  ``sentence`` says both. ``stretch``: when it was over its capacity, or a stage full, if that was not all the
  time (null else). ``busy`` has the shares of the time in which requests were *offered*, of pools the share in
  which requests waited for them.
* ``deadlock``: whether any replication stood still with requests unfinished; ``deadlock_rate``: the share that did,
  with Wilson's interval.
* ``warmup``: ``discarded_requests``, how many first requests of all replications together were left out of all figures
  but the counts (``run.warmup_requests`` of each; the window then begins with the arrival of the next one);
  ``mser5_requests``, how many first requests MSER-5 would leave out; ``mser5_unknown``, in how many replications it
  found the run too short to tell.
* ``invariant_violations``: laws found broken in the records (``laws``) and at the end of the run (rooms left, blocks
  missing), plus wrong bytes and embeddings that were not compared in a measured run.
* ``faults``: a sentence for everything that went wrong with a process of a measured run and was not in its plan; a run
  with some ends with status 1. ``ended_early``: why requests were not handed out any more, if so; these are not among
  those offered.
* ``events_per_request``: recorded events over requests. ``wall_s`` and ``requests_per_wall_s`` are the only figures
  that differ when a simulated run is repeated.
* ``replications``: for each one its end and its window, whether it deadlocked and which rooms did, its faults, MSER-5's
  count (None: too short to tell) and ``latency_autocorrelation_requests``, how many successive requests tell as much
  about the mean latency as one independent request would.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.runs.capacity import evidence, judge
from experiments.runs.failures import counted
from experiments.runs.rundir import SUMMARY_SCHEMA
from experiments.runs.stretches import Levels
from experiments.stats.batching import (
    OneRun,
    Statistic,
    autocorrelation_time,
    of_events,
    of_outcomes,
    of_ratio,
    of_samples,
    of_series,
)
from experiments.stats.intervals import (
    NOTHING,
    Estimate,
    Samples,
    across_replications,
    mean,
    quantile,
    shares_across,
    unbounded,
    wilson,
    within,
)
from experiments.stats.warmup import mser5
from protocol.naming import put
from protocol.observe.pooluse import PoolUse, Totals
from protocol.observe.runlog import RequestRow, RunLog
from protocol.observe.stageuse import StageUse
from protocol.status import FINAL, Status
from protocol.topology import Side

PERCENTS = (50, 90, 99)
MEASURED_STAGES = ("preprocessing", "encoder", "writers", "prefill")
"""Stages whose work is in the records of both worlds."""
NEVER_S = math.nan
"""Stands for the time of something that did not happen."""


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
    """

    warmup_requests: int = 0
    slo: Limits = NO_LIMITS
    closed: bool = False
    disturbed: bool = False
    statuses: Counter[str] = field(default_factory=Counter)
    room: array[int] = field(default_factory=lambda: array("q"))
    arrival_s: array[float] = field(default_factory=lambda: array("d"))
    encoded_s: array[float] = field(default_factory=lambda: array("d"))
    delivered_s: array[float] = field(default_factory=lambda: array("d"))
    prefilled_s: array[float] = field(default_factory=lambda: array("d"))
    chunks: array[int] = field(default_factory=lambda: array("q"))
    tokens: array[int] = field(default_factory=lambda: array("q"))
    timed_out: array[int] = field(default_factory=lambda: array("b"))
    pools: dict[Side, PoolUse] = field(default_factory=dict)
    stages: dict[str, StageUse] = field(default_factory=dict)
    waits: dict[Side, StageUse] = field(default_factory=dict)
    adapters: float | None = None
    reasons: Counter[str] = field(default_factory=Counter)
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

    def add(self, row: RequestRow) -> None:
        """Take one finished or unfinished request."""
        self.statuses[row.status] += 1
        delivered = row.delivered_s is not None and row.encoded_s is not None
        self.room.append(row.room)
        self.arrival_s.append(row.arrival_s)
        self.encoded_s.append(row.encoded_s if row.encoded_s is not None else NEVER_S)
        self.delivered_s.append(row.delivered_s if row.delivered_s is not None and delivered else NEVER_S)
        self.prefilled_s.append(row.prefilled_s if row.prefilled_s is not None and delivered else NEVER_S)
        self.chunks.append(row.chunks)
        self.tokens.append(row.total_tokens)
        self.timed_out.append("timed out" in row.failure)
        if row.failure:
            self.reasons[row.failure] += 1

    @property
    def offered(self) -> int:
        """All requests, those of the warm-up included."""
        return len(self.room)

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
        counted = self._counted(self.arrival_s)
        end_s = self.end_s if self.window_end_s is None else self.window_end_s
        return (min(float(counted[0]), end_s) if len(counted) else end_s), end_s

    def courses(self) -> tuple[Samples, Samples, Samples, Samples]:
        """Of the counted requests, in order of arrival: arrivals, ends of their prefills (NaN: never), whether they
        timed out, tokens."""
        names = (self.arrival_s, self.prefilled_s, self.timed_out, self.tokens)
        arrivals_s, ends_s, timed_out, tokens = (self._counted(values).astype(np.float64) for values in names)
        return arrivals_s, ends_s, timed_out, tokens

    def prefill_ends_s(self) -> Samples:
        """When prefills ended, those of the warm-up with them, in no order; NaN for those that did not."""
        return np.array(self.prefilled_s)

    def busy_until(self, time_s: float) -> dict[str, float | None]:
        """The share of the time until ``time_s`` that every stage was busy; of the pools, that rooms waited for them.

        Of the adapters it is known for the whole window only.
        """
        busy = {name: use.share_until(time_s) for name, use in self.stages.items()}
        busy |= {f"{side.value}_pool": use.share_until(time_s) for side, use in self.waits.items()}
        return {**busy, "adapters": self.adapters}

    def filled_until(self, side: Side, time_s: float) -> float:
        """The share of a pool's blocks that was held until about ``time_s``, on average."""
        use = self.pools[side]
        held = _stretches(use, None)[:, 0]
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
        return Levels(use.start_s, use.batch_s, _stretches(use, None)[:, 0] / use.pool_blocks)

    def latencies_s(self) -> Samples:
        """Arrival to delivered of the delivered requests, in order of arrival."""
        return self._of_delivered(self._counted(self.delivered_s) - self._counted(self.arrival_s))

    def ttfts_s(self) -> Samples:
        """Arrival to the end of the prefill of the requests that got there, in order of arrival."""
        times_s = self._of_delivered(self._counted(self.prefilled_s) - self._counted(self.arrival_s))
        return times_s[~np.isnan(times_s)]

    def met(self, ttft: bool, latency: bool) -> Samples | None:
        """1 for every request that kept the chosen limits and 0 for the others, served or not, in order of arrival.

        None if none of the chosen ones is set.
        """
        limits = [
            (limit_s, ends_s)
            for chosen, limit_s, ends_s in (
                (ttft, self.slo.ttft_s, self.prefilled_s),
                (latency, self.slo.latency_s, self.delivered_s),
            )
            if chosen and limit_s is not None
        ]
        if not limits:
            return None
        arrivals_s = self._counted(self.arrival_s)
        # What never happened is NaN, which is within no limit.
        kept = [self._counted(ends_s) - arrivals_s <= limit_s for limit_s, ends_s in limits]
        return np.logical_and.reduce(kept).astype(np.float64)

    def transfers_s(self) -> Samples:
        """Embedding ready to delivered of the delivered requests, in order of arrival."""
        return self._of_delivered(self._counted(self.delivered_s) - self._counted(self.encoded_s))

    def chunk_counts(self) -> Samples:
        """Chunks of the delivered requests, in order of arrival."""
        return self._of_delivered(self._counted(self.chunks).astype(np.float64))

    def not_served(self) -> Samples:
        """1 for every request that was not delivered and 0 for the others, in order of arrival."""
        return (~self.delivered()).astype(np.float64)

    def delivered(self) -> NDArray[np.bool_]:
        """Which of the counted requests were delivered, in order of arrival."""
        return ~np.isnan(self._counted(self.delivered_s))

    def rooms(self) -> NDArray[np.int64]:
        """Numbers of the counted requests, in order of arrival."""
        return self._counted(self.room)

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
        times_s = np.frombuffer(self.delivered_s) - start_s
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
        latencies = (np.frombuffer(self.delivered_s) - np.frombuffer(self.arrival_s))[order] if len(order) else _EMPTY
        delivered = np.flatnonzero(~np.isnan(latencies))
        cut = mser5(latencies[delivered])
        # Of all requests, so that the number can be put into run.warmup_requests.
        return None if cut is None else int(delivered[cut])

    def _in_order(self) -> NDArray[np.intp]:
        if self._order is None or len(self._order) != self.offered:
            self._order = np.lexsort((np.array(self.room), np.array(self.arrival_s)))
        return self._order

    def _counted(self, values: array[Any]) -> NDArray[Any]:
        # A copy, so that the array may grow again.
        return np.array(values, dtype=values.typecode)[self._in_order()[self.warmup_requests :]]

    def _of_delivered(self, values: Samples) -> Samples:
        return values[self.delivered() if self.common is None else self.common]


_EMPTY: Samples = np.zeros(0)


def summarise(replications: Sequence[Replication], *, kind: str, transport: str, wall_s: float) -> dict[str, Any]:
    """The content of summary.json but for ``replications``, which ``each`` gives."""
    offered = sum(one.offered for one in replications)
    statuses: Counter[str] = sum((one.statuses for one in replications), Counter())
    succeeded = statuses[Status.Success.name]
    records = sum(one.records for one in replications)
    cuts = [one.mser5_requests() for one in replications]
    summary: dict[str, Any] = {
        "schema": SUMMARY_SCHEMA,
        "kind": kind,
        "transport": transport,
        "requests": {
            "offered": offered,
            "succeeded": succeeded,
            "failed": statuses[Status.Failed.name],
            "unfinished": sum(statuses[status.name] for status in Status if status not in FINAL),
            "not_served": offered - succeeded,
        },
        "failures": counted(sum((one.reasons for one in replications), Counter())),
    }
    for figure in FIGURES:
        put(summary, figure.path, figure.estimate(replications))
    summary["slo"]["limits"] = (replications[0].slo if replications else NO_LIMITS)._asdict()
    deadlocks = sum(one.deadlock for one in replications)
    rate = unbounded(float(deadlocks)) if len(replications) == 1 else wilson(deadlocks, len(replications))
    return {
        **summary,
        "capacity": judge([evidence(one) for one in replications]),
        "deadlock": deadlocks > 0,
        "deadlock_rate": rate,
        "warmup": {
            "discarded_requests": sum(min(one.warmup_requests, one.offered) for one in replications),
            "mser5_requests": within(across_replications(cuts), 0.0),
            "mser5_unknown": cuts.count(None),
        },
        "invariant_violations": sum(one.violations for one in replications),
        "faults": [fault for one in replications for fault in one.faults],
        "ended_early": next((one.ended_early for one in replications if one.ended_early), None),
        "wall_s": wall_s,
        "requests_per_wall_s": offered / wall_s if wall_s > 0 else None,
        "events_per_request": records / offered if offered else None,
    }


def each(replications: Sequence[Replication]) -> list[dict[str, Any]]:
    """What summary.json says of every single replication, in order."""
    found = []
    for one in replications:
        latencies = one.latencies_s()
        found.append(
            {
                "end_s": one.end_s,
                "window_start_s": one.window_s[0],
                "window_end_s": one.window_s[1],
                "adapters": one.adapters,
                "deadlock": one.deadlock,
                "deadlocks": list(one.deadlocks),
                "faults": list(one.faults),
                "ended_early": one.ended_early or None,
                "mser5_requests": one.mser5_requests(),
                "latency_autocorrelation_requests": autocorrelation_time(latencies) if len(latencies) else None,
            }
        )
    return found


def _levels(use: StageUse | None) -> Levels | None:
    if use is None or not math.isfinite(use.start_s):
        return None
    return Levels(use.start_s, use.batch_s, np.array(use.batches) / (use.batch_s * use.servers))


# --- the figures ---

Measure = Callable[[Replication, Grid | None], OneRun | None]


@dataclass(frozen=True)
class Figure:
    """One figure of a replication: where it stands in summary.json, what it is, and what it can be at most.

    ``of`` prepares it for an interval within one replication; time averages are cut along a grid, their own where None
    is given. It returns None where there is nothing to measure. ``share`` marks shares of requests.
    """

    path: tuple[str, ...]
    of: Measure
    highest: float = math.inf
    share: bool = False

    @property
    def name(self) -> str:
        """The path as it is written, ``latency_s.p99``."""
        return ".".join(self.path)

    def value(self, one: Replication) -> float | None:
        """The figure of one replication; None where there is nothing to measure."""
        run = self.of(one, None)
        return None if run is None else run.value

    def estimate(self, replications: Sequence[Replication]) -> Estimate:
        """The figure over all replications, with its interval."""
        if len(replications) == 1:
            run = self.of(replications[0], None)
            return NOTHING.copy() if run is None else within(run.estimate(), 0.0, self.highest)
        across = shares_across if self.share else across_replications
        return within(across([self.value(one) for one in replications]), 0.0, self.highest)


def _times(path: str, samples: Callable[[Replication], Samples]) -> list[Figure]:
    statistics: dict[str, Statistic] = {
        "mean": mean,
        **{f"p{percent}": quantile(percent / 100) for percent in PERCENTS},
    }

    def measure(statistic: Statistic) -> Measure:
        return lambda one, _: of_samples(samples(one), statistic)

    return [Figure((path, name), measure(statistic)) for name, statistic in statistics.items()]


def _utilisation(stage: str) -> Figure:
    def measure(one: Replication, grid: Grid | None) -> OneRun | None:
        use = one.stages.get(stage)
        start_s, end_s = one.window_s
        if use is None or end_s <= start_s:
            return None
        shares = np.array(use.batches) / (use.batch_s * use.servers)
        if grid is not None and len(shares):
            group = round(grid.step_s / use.batch_s)
            count = min(len(shares) // group, grid.steps)
            shares = shares[: count * group].reshape(count, group).mean(axis=1)
        return of_series(use.busy_s / (use.servers * (end_s - start_s)), shares)

    return Figure(("utilisation", stage), measure, 1.0)


def _adapters(one: Replication, _: Grid | None) -> OneRun | None:
    return None if one.adapters is None else OneRun(one.adapters, _EMPTY, None)


def _slo(name: str, ttft: bool, latency: bool) -> Figure:
    def measure(one: Replication, _: Grid | None) -> OneRun | None:
        met = one.met(ttft, latency)
        return None if met is None else of_outcomes(met)

    return Figure(("slo", name), measure, 1.0, share=True)


def _resumed(one: Replication, _: Grid | None) -> OneRun | None:
    return of_outcomes((one.chunk_counts() > 1).astype(np.float64))


def _chunks(one: Replication, _: Grid | None) -> OneRun | None:
    return of_samples(one.chunk_counts(), mean)


def _pool(side: Side, *, in_utilisation: bool = False) -> list[Figure]:
    def of_use(make: Callable[[PoolUse, Samples], OneRun | None]) -> Measure:
        return lambda one, grid: make(one.pools[side], _stretches(one.pools[side], grid))

    def occupancy(use: PoolUse, stretches: Samples) -> OneRun | None:
        if use.counted_s <= 0:
            return None
        return of_series(use.held_block_s / (use.pool_blocks * use.counted_s), stretches[:, 0] / use.pool_blocks)

    def peak(use: PoolUse, _: Samples) -> OneRun | None:
        return OneRun(use.peak_blocks / use.pool_blocks, _EMPTY, None)

    def wasted(use: PoolUse, stretches: Samples) -> OneRun | None:
        if use.held_token_s <= 0:
            return None
        return of_ratio(1 - use.used_token_s / use.held_token_s, stretches[:, 1] - stretches[:, 2], stretches[:, 1])

    def blocked(use: PoolUse, stretches: Samples) -> OneRun | None:
        # A sum over the run: the mean number of rooms that wait, times how long that was counted.
        return of_series(use.blocked_s, stretches[:, 3] * use.counted_s)

    def blocked_per_request(one: Replication, grid: Grid | None) -> OneRun | None:
        use, requests = one.pools[side], len(one.rooms())
        if not requests:
            return None
        stretches = _stretches(use, grid)
        return of_series(use.blocked_s / requests, stretches[:, 3] * use.counted_s / requests)

    name = f"{side.value}_pool"
    if in_utilisation:
        return [Figure(("utilisation", name), of_use(occupancy), 1.0)]
    return [
        Figure((name, "mean_occupancy"), of_use(occupancy), 1.0),
        Figure((name, "peak_occupancy"), of_use(peak), 1.0),
        Figure((name, "wasted_fraction"), of_use(wasted), 1.0),
        Figure((name, "blocked_s"), of_use(blocked)),
        Figure((name, "blocked_per_request_s"), blocked_per_request),
    ]


def _stretches(use: PoolUse, grid: Grid | None) -> Samples:
    """The mean levels of a pool in successive stretches of time, one row each, in the order of ``Totals``."""
    batches: list[Totals] = use.batches()
    levels = np.array(batches).reshape(len(batches), 4) / use.batch_s
    if grid is None or not len(levels):
        return levels
    # Lengths are powers of two, so a longer stretch is a whole number of shorter ones.
    group = round(grid.step_s / use.batch_s)
    count = min(len(levels) // group, grid.steps)
    return levels[: count * group].reshape(count, group, 4).mean(axis=1)


FIGURES: tuple[Figure, ...] = (
    *_times("latency_s", Replication.latencies_s),
    *_times("ttft_s", Replication.ttfts_s),
    *_times("transfer_s", Replication.transfers_s),
    Figure(("throughput_rps",), Replication.deliveries),
    Figure(("failure_rate",), lambda one, _: of_outcomes(one.not_served()), 1.0, share=True),
    _slo("ttft", ttft=True, latency=False),
    _slo("latency", ttft=False, latency=True),
    _slo("all", ttft=True, latency=True),
    Figure(("resume", "rate"), _resumed, 1.0, share=True),
    Figure(("resume", "mean_chunks"), _chunks),
    *_pool(Side.LANGUAGE),
    *_pool(Side.ENCODE),
    _utilisation("preprocessing"),
    _utilisation("encoder"),
    _utilisation("writers"),
    Figure(("utilisation", "adapters"), _adapters, 1.0),
    _utilisation("prefill"),
    *_pool(Side.LANGUAGE, in_utilisation=True),
    *_pool(Side.ENCODE, in_utilisation=True),
)
"""Every figure that carries an interval, in the order of summary.json."""
