"""The figures of a run that have an interval: how each is measured in one replication, and estimated from several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bufferlab.experiments.runs.replication import EMPTY, Grid, Replication
from bufferlab.experiments.stats.batching import (
    OneRun,
    Statistic,
    of_outcomes,
    of_ratio,
    of_samples,
    of_series,
)
from bufferlab.experiments.stats.intervals import (
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
from bufferlab.experiments.stats.paired import Difference, without_interval
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates, caution
from bufferlab.protocol.observe.pooluse import PoolUse
from bufferlab.protocol.topology import Side

PERCENTS = (50, 90, 99)


Measure = Callable[[Replication, Grid | None], OneRun | None]


@dataclass(frozen=True)
class Figure:
    """One figure of a replication: where it stands in summary.json, what it is, and what it can be at most.

    ``of`` prepares it for an interval within one replication; time averages are cut along a grid, their own where None
    is given. It returns None where there is nothing to measure. ``share`` marks shares of requests, ``extreme`` the
    highest or lowest point of a run.
    """

    path: tuple[str, ...]
    of: Measure
    highest: float = math.inf
    share: bool = False
    extreme: bool = False

    @property
    def positive(self) -> bool:
        """Whether it is a quantity without an upper bound that cannot be negative."""
        return self.highest == math.inf

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
        replicates = replications[0].replicates if replications else INDEPENDENT
        parts = self.parts(replications[0]) if replicates.resampled else None
        return self.across([self.value(one) for one in replications], replicates, parts)

    def parts(self, one: Replication) -> float | None:
        """On how many independent spells of traffic the figure of one replication rests, where that is known."""
        run = self.of(one, None)
        return None if run is None else run.parts

    def across(
        self, values: Sequence[float | None], replicates: Replicates = INDEPENDENT, parts: float | None = None
    ) -> Estimate:
        """The figure from its values in two or more replications; ``parts``: of the first, if they are resampled."""
        if not replicates.resampled:
            across = shares_across if self.share else across_replications
            return within(across(values), 0.0, self.highest)
        known = {value for value in values if value is not None}
        # No part of a file has a higher point than the whole, so resamples say nothing about how high it may be.
        if self.extreme or (self.share and known in ({0.0}, {1.0})):
            return unbounded(replicates.value(values))
        return within(replicates.estimate(values, parts, positive=self.positive), 0.0, self.highest)

    def of_difference(self, difference: Difference, replicates: Replicates = INDEPENDENT) -> Difference:
        """A difference of two such figures, without its interval where that would claim to know too much.

        That is where shares never varied, such as no failures on both sides, and at a file's highest point, of which
        resamples know nothing.
        """
        never_varied = self.share and difference["low"] == difference["high"]
        if never_varied or (self.extreme and replicates.resampled):
            return without_interval(difference["first"], difference["second"], difference["pairs"])
        return difference


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
    return None if one.adapters is None else OneRun(one.adapters, EMPTY, None)


def _slo(name: str, ttft: bool, latency: bool) -> Figure:
    def measure(one: Replication, _: Grid | None) -> OneRun | None:
        met = one.met(ttft, latency)
        return None if met is None else of_outcomes(met)

    return Figure(("slo", name), measure, 1.0, share=True)


def _resumed(one: Replication, _: Grid | None) -> OneRun | None:
    return of_outcomes((one.chunk_counts() > 1).astype(np.float64))


def _chunks(one: Replication, _: Grid | None) -> OneRun | None:
    return of_samples(one.chunk_counts(), mean)


def _pool(side: Side) -> list[Figure]:
    def of_use(make: Callable[[PoolUse, Samples], OneRun | None]) -> Measure:
        return lambda one, grid: make(one.pools[side], one.pool_levels(side, grid))

    def occupancy(use: PoolUse, stretches: Samples) -> OneRun | None:
        if use.counted_s <= 0:
            return None
        return of_series(use.held_block_s / (use.pool_blocks * use.counted_s), stretches[:, 0] / use.pool_blocks)

    def peak(use: PoolUse, _: Samples) -> OneRun | None:
        return OneRun(use.peak_blocks / use.pool_blocks, EMPTY, None)

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
        stretches = one.pool_levels(side, grid)
        return of_series(use.blocked_s / requests, stretches[:, 3] * use.counted_s / requests)

    name = f"{side.value}_pool"
    return [
        Figure((name, "mean_occupancy"), of_use(occupancy), 1.0),
        Figure((name, "peak_occupancy"), of_use(peak), 1.0, extreme=True),
        Figure((name, "wasted_fraction"), of_use(wasted), 1.0),
        Figure((name, "blocked_s"), of_use(blocked)),
        Figure((name, "blocked_per_request_s"), blocked_per_request),
    ]


_LANGUAGE_POOL, _ENCODE_POOL = _pool(Side.LANGUAGE), _pool(Side.ENCODE)

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
    *_LANGUAGE_POOL,
    *_ENCODE_POOL,
    _utilisation("preprocessing"),
    _utilisation("encoder"),
    _utilisation("writers"),
    Figure(("utilisation", "adapters"), _adapters, 1.0),
    _utilisation("prefill"),
    replace(_LANGUAGE_POOL[0], path=("utilisation", "language_pool")),
    replace(_ENCODE_POOL[0], path=("utilisation", "encode_pool")),
)
"""Every figure that carries an interval, in the order of summary.json."""


RANKED_FIGURES = ("latency_s.p99", "latency_s.mean")
"""Figures by which settings are chosen: those of which a sweep names the lowest, and on which a caution rests."""


def caution_of(parts: Mapping[str, float | None]) -> str | None:
    """A sentence where the latencies of a file are less sure than their intervals say, else None.

    ``parts``: on how many independent spells of traffic each figure rests, by its name.
    """
    return caution(p99_parts=parts.get("latency_s.p99"), mean_parts=parts.get("latency_s.mean"))


def deadlock_rate(deadlocks: int, replications: int, replicates: Replicates) -> Estimate:
    """The share of replications that deadlocked; one alone and resamples of a file are no independent trials."""
    rate = wilson(deadlocks, replications)
    return unbounded(rate["value"]) if replications == 1 or replicates.resampled else rate
