"""Intervals of validation scores by the bootstrap, over whole repeats or over blocks of successive requests.

The requests of one run depend on each other, so they are never drawn one by one. With five repeats or more whole
repeats are drawn. With fewer, every repeat is put together anew from blocks of successive requests, the same ones on
both sides, each long against the time for which requests remember each other (circular blocks: Politis and Romano, "A
circular block-resampling procedure for stationary data", 1992); a run that has not ten such blocks gives no interval.

Blocks see how requests vary within a run, and nothing of what varies from run to run. So of two to four repeats the
interval is the wider one of theirs and the t interval of the repeats (``with_repeats``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bufferlab.experiments.stats.batching import autocorrelation_time
from bufferlab.experiments.stats.intervals import LEVEL, Estimate, Samples, across_replications, unbounded
from bufferlab.sim.streams import stream

LEAST_REPEATS = 5
"""Fewer repeats say too little about their spread."""
LEAST_BLOCKS = 10
BLOCK_TIMES = 2
"""A block is so many autocorrelation times long."""
RESAMPLES = 400

Places = NDArray[np.intp] | slice
"""Which of the requests of a repeat: some, or as a slice all."""
Draw = list[tuple[int, Places]]
"""Which repeats were drawn, and which of the requests of each."""
EVERYTHING = slice(None)


@dataclass(frozen=True)
class Resampling:
    """``over``: "repeats", "blocks", or "" where there are too few of both. ``blocks``: of all repeats together."""

    over: str
    draws: tuple[Draw, ...]
    blocks: int = 0

    def values(self, statistic: Callable[[Draw], float], *, rarer: float = 0.5) -> list[float]:
        """``statistic`` of every draw; none where they tell nothing of it.

        ``rarer``: the share of samples beyond a quantile. Blocks that hold fewer than ten independent ones of them are
        too few.
        """
        if self.over == "blocks" and self.blocks * BLOCK_TIMES * rarer < LEAST_BLOCKS:
            return []
        return [statistic(draw) for draw in self.draws]

    def estimate(self, value: float, statistic: Callable[[Draw], float]) -> Estimate:
        """``value`` with the interval of the statistic that it is of all."""
        return percentile_interval(value, self.values(statistic))


def resampling(pairs: Sequence[tuple[Samples, Samples]], seed: int, entity: str) -> Resampling:
    """How the repeats in ``pairs`` (two series each, in the same order) are resampled; ``entity`` names the stream."""
    rng = stream(seed, 0, "validation", entity)
    count = len(pairs)
    if count >= LEAST_REPEATS:
        chosen = rng.integers(0, count, (RESAMPLES, count))
        return Resampling("repeats", tuple([(int(repeat), EVERYTHING) for repeat in row] for row in chosen))
    lengths = [len(one) for one, _ in pairs]
    blocks = [_block(one, other) for one, other in pairs]
    if not pairs or any(length < LEAST_BLOCKS * block for length, block in zip(lengths, blocks, strict=True)):
        return Resampling("", ())
    draws: list[Draw] = [
        [
            (repeat, _places(rng, length, block))
            for repeat, (length, block) in enumerate(zip(lengths, blocks, strict=True))
        ]
        for _ in range(RESAMPLES)
    ]
    return Resampling("blocks", tuple(draws), sum(n // b for n, b in zip(lengths, blocks, strict=True)))


def over_repeats(value: float, each: Sequence[float]) -> Estimate:
    """``value`` with the t interval of what it is in every repeat, which holds it. Of few repeats the bootstrap's
    interval is too narrow: by a fifth of nine."""
    found = across_replications(each) if all(map(math.isfinite, each)) else unbounded(value)
    low, high = found["low"], found["high"]
    return {
        "value": value, "low": None if low is None else min(low, value),
        "high": None if high is None else max(high, value),
    }  # fmt: skip


def with_repeats(of_blocks: Estimate, each: Sequence[float]) -> Estimate:
    """An interval from blocks of the requests of few repeats, as wide as that over what it is in ``each`` of them."""
    value = of_blocks["value"]
    if value is None or len(each) < 2:
        return of_blocks
    of_repeats = over_repeats(value, each)
    ends: dict[str, float | None] = {}
    for end, outer in (("low", min), ("high", max)):
        known = [one[end] for one in (of_blocks, of_repeats) if one[end] is not None]  # type: ignore[literal-required]
        ends[end] = outer(known) if known else None
    return {"value": value, "low": ends["low"], "high": ends["high"]}


def percentile_interval(value: float, values: Sequence[float]) -> Estimate:
    """``value`` with the 95 % percentile interval of the ``values`` it took in resamples, if there are any."""
    if not values:
        return unbounded(value)
    tail = (1 - LEVEL) / 2
    low, high = (float(bound) for bound in np.quantile(values, [tail, 1 - tail]))
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def _block(one: Samples, other: Samples) -> int:
    """Length of a block: long against the memory of either series, and the cube root of their length at least."""
    memory = max(autocorrelation_time(one), autocorrelation_time(other))
    return max(math.ceil(BLOCK_TIMES * memory), math.ceil(len(one) ** (1 / 3)), 1)


def _places(rng: np.random.Generator, length: int, block: int) -> NDArray[np.intp]:
    starts = rng.integers(0, length, -(-length // block))
    places = (starts[:, None] + np.arange(block)[None, :]).ravel()[:length]
    return np.asarray(places % length, dtype=np.intp)
