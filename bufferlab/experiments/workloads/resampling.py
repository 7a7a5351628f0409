"""Replications of a file of requests: the same traffic put together anew from blocks of its time.

A file is one realisation of its traffic. How far its figures may be from those of all such traffic is told by the
moving-block bootstrap (Künsch, Annals of Statistics 17(3), 1989; Liu and Singh 1992): its time is cut into places of
equal length, and each place takes a stretch of that length from somewhere in the file, with all requests in it, their
spacing, lengths, images and clients. What belongs together within a block stays together.

* Blocks are *long*: twenty to a file, and each at least ten times as long as the traffic remembers. Rules for the best
  length (Politis and White 2004; Patton, Politis and White 2009) find the one at which the variance of a mean of the
  series itself has the least error, which grows with its third root. Here requests go through queues that remember
  longer than the traffic does, and longer the higher the load; so as few blocks are taken as a t interval can bear.
* Blocks are *local*: a place takes one that begins at most three blocks before or after it (the local block bootstrap,
  Paparoditis and Politis, "Local block bootstrap", Comptes Rendus Mathématique 335(11), 2002). Traffic has a course of
  the day, and blocks from anywhere would put the busy hour into the night. On traffic without a course it holds the
  truth as often (docs/statistics.md).
* How long the traffic remembers is measured of requests and tokens per bin of time, less their course: the mean over a
  window. Where that leaves fewer than ten blocks there is no resample, and a sentence says why.

The same starting points, as shares of the window, are drawn for any rate and any settings: a file played twice as fast
is resampled from the same blocks.

In a closed loop times mean nothing. There the places are successive requests, and a resample has as many as the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.stats.batching import autocorrelation_time
from bufferlab.experiments.stats.replicates import Replicates
from bufferlab.experiments.units import format_span
from bufferlab.sim.streams import stream
from bufferlab.sim.workload import Columns
from bufferlab.sim.workload.lengths import Counts, Reals

MOST_BLOCKS = 20
LEAST_BLOCKS = 10
"""Fewer say too little about their own spread."""
LEAST_BUSY_BLOCKS = 5.0
"""So many of them at least must carry the traffic."""
BLOCK_TIMES = 10
"""A block is at least so many times as long as the traffic remembers."""
BLOCK_REQUESTS = 10
"""It has at least so many requests, on average."""
REACH = 3
"""A place takes a block that begins at most so many of them before or after it."""
MOST_BINS = 2048
BIN_REQUESTS = 2


@dataclass(frozen=True)
class Resampling:
    """How a file is resampled.

    ``start`` and ``length`` are the file's first moment and its duration, in seconds, or in requests in a closed loop;
    ``memory`` is how long its traffic remembers. ``busy_blocks``: how many of the blocks carry the traffic.
    """

    closed: bool
    start: float
    length: float
    blocks: int
    memory: float
    busy_blocks: float

    @property
    def block(self) -> float:
        """The length of a block."""
        return self.length / self.blocks

    @property
    def replicates(self) -> Replicates:
        """What the replications are to one another."""
        return Replicates("resampled", self.busy_blocks, float(min(2 * REACH + 1, self.blocks)))

    def told(self, length: float) -> str:
        """A length of the file as a sentence has it."""
        return f"{length:.3g} requests" if self.closed else format_span(length)


@dataclass(frozen=True)
class NoResampling:
    """Why a file cannot be resampled: the end of a sentence about it."""

    why: str


def plan_resampling(columns: Columns, *, closed: bool) -> Resampling | NoResampling:
    """How requests in order of arrival are resampled, or why they cannot be."""
    count = len(columns)
    places = _places(columns, closed)
    span = float(places[-1] - places[0]) if count else 0.0
    least = LEAST_BLOCKS * BLOCK_REQUESTS
    if count < least:
        some = "1 request" if count == 1 else f"{count} requests"
        return NoResampling(f"it has {some}, and it takes {least} at least to make {LEAST_BLOCKS} blocks of them")
    if span <= 0:
        return NoResampling("its requests come all at once, so it has no course in time to take blocks from")
    # The last request has its share of time behind it, as each other one has.
    start, length = float(places[0]), span * count / (count - 1)
    bins = min(MOST_BINS, count // BIN_REQUESTS)
    memory = _memory(places - start, columns.total_tokens, length, bins)
    blocks = min(MOST_BLOCKS, int(length / (BLOCK_TIMES * memory)), count // BLOCK_REQUESTS)
    found = Resampling(closed, start, length, blocks, memory, _busy(places - start, length, MOST_BLOCKS))
    if blocks < LEAST_BLOCKS:
        return NoResampling(
            f"its traffic remembers {found.told(memory)} of {found.told(length)}, and it takes "
            f"{LEAST_BLOCKS * BLOCK_TIMES} times as long at least"
        )
    found = replace(found, busy_blocks=_busy(places - start, length, blocks))
    if found.busy_blocks < LEAST_BUSY_BLOCKS:
        return NoResampling(
            f"its requests come in about {found.busy_blocks:.2g} of {blocks} stretches of {found.told(found.block)}, "
            f"and it takes {LEAST_BUSY_BLOCKS:.0f} at least"
        )
    return found


def resample(columns: Columns, plan: Resampling, seed: int, replication: int) -> Columns:
    """The requests of one resample in order of arrival, drawn from a stream of ``seed`` and ``replication`` alone."""
    places = _places(columns, plan.closed) - plan.start
    firsts, ends, starts = _blocks(places, plan, seed, replication)
    chosen = np.concatenate([np.arange(first, end) for first, end in zip(firsts, ends, strict=True)])
    taken = columns.rows(chosen)
    if plan.closed:
        return replace(taken, arrival_s=columns.arrival_s[: len(taken)])
    moved = np.repeat(plan.block * np.arange(plan.blocks) - starts, ends - firsts)
    arrival_s = plan.start + np.maximum(places[chosen] + moved, 0.0)
    return replace(taken, arrival_s=np.maximum.accumulate(arrival_s))


def count_resampled(columns: Columns, plan: Resampling, seed: int, replication: int) -> int:
    """How many requests that resample has."""
    firsts, ends, _ = _blocks(_places(columns, plan.closed) - plan.start, plan, seed, replication)
    return int((ends - firsts).sum())


def _places(columns: Columns, closed: bool) -> Reals:
    """Where requests are: in time, or in their order."""
    return np.arange(len(columns), dtype=np.float64) if closed else columns.arrival_s


def _blocks(places: Reals, plan: Resampling, seed: int, replication: int) -> tuple[Counts, Counts, Reals]:
    """The first request of the block of every place, the one after its last, and where the block begins."""
    shares = stream(seed, replication, "resample")
    width = min(2 * REACH * plan.block, plan.length - plan.block)
    lowest = np.clip(plan.block * (np.arange(plan.blocks) - REACH), 0.0, plan.length - plan.block - width)
    while True:
        starts = lowest + width * shares.random(plan.blocks)
        if plan.closed:  # whole requests, as many as the file has
            edges = np.round(plan.block * np.arange(plan.blocks + 1)).astype(np.int64)
            firsts = np.minimum(np.round(starts).astype(np.int64), len(places) - np.diff(edges))
            return firsts, firsts + np.diff(edges), starts
        firsts = np.searchsorted(places, starts).astype(np.int64)
        ends = np.searchsorted(places, starts + plan.block).astype(np.int64)
        if (ends > firsts).any():  # a run without requests is none
            return firsts, ends, starts


def _busy(places: Reals, length: float, blocks: int) -> float:
    """How many of the blocks carry the traffic: all if they have as many requests each, one if one has them all."""
    counts = np.histogram(places, bins=blocks, range=(0.0, length))[0].astype(np.float64)
    return float(counts.sum() ** 2 / np.square(counts).sum())


def _memory(places: Reals, tokens: Counts, length: float, bins: int) -> float:
    """How long the traffic remembers: the longer autocorrelation time of requests and of tokens per bin of time."""
    steps = [
        np.histogram(places, bins=bins, range=(0.0, length), weights=weights)[0].astype(np.float64)
        for weights in (None, tokens)
    ]
    around = max(round(bins * (2 * REACH + 1) / MOST_BLOCKS), 1)
    kept = _without_pauses(steps[0], -(-bins // MOST_BLOCKS))
    return length / bins * max(autocorrelation_time(one[kept] - _course(one[kept], around)) for one in steps)


def _without_pauses(counts: Reals, long: int) -> NDArray[np.bool_]:
    """All bins but those of stretches without a request that last at least so many: a night is a part of the course."""
    busy = np.flatnonzero(counts)
    edges = np.concatenate(([-1], busy, [len(counts)]))
    gaps = np.diff(edges) - 1
    kept = np.ones(len(counts), dtype=bool)
    for start, gap in zip(edges[:-1] + 1, gaps, strict=True):
        if gap >= long:
            kept[start : start + gap] = False
    return kept


def _course(series: Reals, around: int) -> Reals:
    """The mean of each value's surroundings, of fewer at the ends."""
    sums = np.concatenate(([0.0], np.cumsum(series)))
    middle = np.arange(len(series))
    low, high = np.maximum(middle - around // 2, 0), np.minimum(middle + around // 2 + 1, len(series))
    means: Reals = (sums[high] - sums[low]) / (high - low)
    return means
