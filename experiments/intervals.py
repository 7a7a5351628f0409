"""Estimates with honest 95 % intervals.

Requests of one run depend on one another, because they queue behind one another, so an interval that treats them as
independent is far too narrow (about ten times at a utilisation of 0.8). Two methods are used instead: t intervals over
independent replications, and batch means over one run. Where neither has enough to go on there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
BATCHES = 10
"""Ten long batches rather than many short ones: what counts is that batches hardly depend on each other."""
LEAST_BATCH = 20

Samples = NDArray[np.float64]
Statistic = Callable[[Samples], float]


class Estimate(TypedDict):
    """A number with its 95 % interval; all None where there was nothing to measure, the bounds where too little."""

    value: float | None
    low: float | None
    high: float | None


NOTHING: Estimate = {"value": None, "low": None, "high": None}


def half_width(samples: Sequence[float]) -> float:
    """Half the t interval of the mean of independent samples."""
    from scipy.special import stdtrit

    count = len(samples)
    return float(stdtrit(count - 1, (1 + LEVEL) / 2) * np.std(samples, ddof=1) / math.sqrt(count))


def across_replications(values: Sequence[float | None]) -> Estimate:
    """Mean and t interval over one value per replication; replications with nothing to measure are left out."""
    known = [value for value in values if value is not None]
    if not known:
        return NOTHING.copy()
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return {"value": mean, "low": None, "high": None}
    half = half_width(known)
    return {"value": mean, "low": mean - half, "high": mean + half}


def batch_means(samples: Samples, statistic: Statistic, *, least_batch: int = LEAST_BATCH) -> Estimate:
    """A statistic of one run's samples (in order of time), its interval from ten successive batches.

    No interval if a batch would have fewer than ``least_batch`` samples.
    """
    if not len(samples):
        return NOTHING.copy()
    value = statistic(samples)
    size = len(samples) // BATCHES
    if size < least_batch:
        return {"value": value, "low": None, "high": None}
    # What does not fill the last batch is left out of the spread, not of the value.
    half = half_width([statistic(samples[size * batch : size * (batch + 1)]) for batch in range(BATCHES)])
    return {"value": value, "low": value - half, "high": value + half}


def quantile(level: float) -> Statistic:
    """The order statistic of rank ceil(level · n): a value that occurred."""

    def statistic(samples: Samples) -> float:
        rank = max(math.ceil(level * len(samples)) - 1, 0)
        return float(np.partition(samples, rank)[rank])

    return statistic


def quantile_batch(level: float) -> int:
    """The least batch for a quantile: ten samples beyond it."""
    return max(LEAST_BATCH, math.ceil(round(10 / (1 - level), 6)))


def mean(samples: Samples) -> float:
    """The arithmetic mean, the same on every machine."""
    return math.fsum(samples) / len(samples)


def rate_of(times_s: Samples, whole_s: float) -> Estimate:
    """Events a second over ``whole_s``, the interval from the durations of ten batches of successive events."""
    count = len(times_s)
    if not count or whole_s <= 0:
        return NOTHING.copy()
    value = count / whole_s
    size = count // BATCHES
    if size < LEAST_BATCH:
        return {"value": value, "low": None, "high": None}
    ends = np.concatenate(([0.0], np.sort(times_s)[size - 1 : size * BATCHES : size]))
    durations = np.diff(ends)
    half = value * half_width(durations.tolist()) / mean(durations)
    return {"value": value, "low": value - half, "high": value + half}
