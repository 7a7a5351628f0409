"""Differences between two systems that were given the same requests.

Two settings that see the same arrivals and lengths (common random numbers) have good and bad luck together, so the
difference of a replication of one and the same replication of the other varies far less than either does. Its interval
needs no independence between the two, only between the pairs (Law, "Simulation Modeling and Analysis", 5th edition,
sections 10.2.1 and 11.2). The same holds for successive batches of two single runs.

A difference is second − first. How much was won by pairing is told by the *variance reduction*: the variance that the
difference would have without pairing, over the one it has. It is also the factor by which pairing saves replications.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from bufferlab.experiments.stats.batching import OneRun, standard_error
from bufferlab.experiments.stats.intervals import LEVEL, Samples, across_replications, t_quantile
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates, Values


class Difference(TypedDict):
    """second − first with its 95 % interval; None where it cannot be told.

    ``first``, ``second``: the figures themselves, over the pairs. ``pairs``: how many replications, or batches of one
    run, the interval comes from. ``significant``: whether the interval leaves out 0. ``unpaired_low``,
    ``unpaired_high``: the interval that the same numbers give when the pairs are ignored (Welch's).
    ``variance_reduction``: see the module; None when one of the variances is 0.
    """

    value: float | None
    low: float | None
    high: float | None
    first: float | None
    second: float | None
    pairs: int
    significant: bool | None
    unpaired_low: float | None
    unpaired_high: float | None
    variance_reduction: float | None


def paired(
    first: Values,
    second: Values,
    replicates: Replicates = INDEPENDENT,
    parts: float | None = None,
    *,
    positive: bool = False,
) -> Difference:
    """The difference of two figures from one value of each per replication, in the same order.

    A replication in which either is None is left out. ``replicates``: what the replications are to one another;
    ``parts``: on how many independent spells the figures of a resampled file rest, the fewer of the two; ``positive``:
    whether they are quantities that cannot be negative. Raises ValueError for sequences of different lengths.
    """
    return paired_each([(first, second)], replicates, [parts], [positive])[0]


def paired_each(
    figures: Sequence[tuple[Values, Values]],
    replicates: Replicates = INDEPENDENT,
    parts: Sequence[float | None] | None = None,
    positive: Sequence[bool] | None = None,
) -> list[Difference]:
    """``paired`` of several figures at once, which is much faster than one after the other."""
    if replicates.resampled:
        rest = [None] * len(figures) if parts is None else parts
        signs = [False] * len(figures) if positive is None else positive
        return [_of_resamples(*one, replicates, of, sign) for one, of, sign in zip(figures, rest, signs, strict=True)]
    known = [_known(*one) for one in figures]
    return [_paired(*one, unpaired) for one, unpaired in zip(known, _welch(known), strict=True)]


def _of_resamples(
    first: Values, second: Values, replicates: Replicates, parts: float | None, positive: bool
) -> Difference:
    """The difference in a file, with its interval from those in the resamples of it.

    Two latencies go up and down together, and their difference with them: whether there is one at all is told by their
    ratio, which varies far less. Where there is, its interval is on the logarithmic scale, as that of each is.
    """
    _check_lengths(first, second)
    changes = [None if one is None or other is None else other - one for one, other in zip(first, second, strict=True)]
    pairs = sum(change is not None for change in changes)
    value = replicates.value
    difference = without_interval(value(first), value(second), pairs)
    spreads = [replicates.spread(values, parts) for values in (first, second, changes)]
    one, other, together = spreads
    if one is None or other is None or together is None:
        return difference
    unpaired = t_quantile(together.freedom) * math.hypot(one.error, other.error)
    low, high = together.value - together.half, together.value + together.half
    if positive and (ratio := replicates.log_ratio(first, second)) is not None:
        if abs(ratio.value) > ratio.half:
            factor = math.exp(min(together.half / abs(together.value), 700.0))
            low, high = sorted((together.value / factor, together.value * factor))
        else:
            low, high = min(low, 0.0), max(high, 0.0)
    return _with_interval(difference, low, high, [spread.error for spread in (one, other, together)], unpaired)


def _check_lengths(first: Values, second: Values) -> None:
    if len(first) != len(second):
        raise ValueError(f"there are {len(first)} and {len(second)} values, it must be one of each per replication")


def _known(first: Values, second: Values) -> tuple[Samples, Samples]:
    _check_lengths(first, second)
    both = [(one, other) for one, other in zip(first, second, strict=True) if one is not None and other is not None]
    ones, others = np.array(both, dtype=np.float64).reshape(len(both), 2).T
    return ones, others


def _paired(ones: Samples, others: Samples, unpaired: float) -> Difference:
    estimate = across_replications((others - ones).tolist())
    difference = without_interval(
        across_replications(ones.tolist())["value"], across_replications(others.tolist())["value"], len(ones)
    )
    difference["value"] = estimate["value"]
    if len(ones) < 2:
        return difference
    errors = [float(np.std(values, ddof=1)) / math.sqrt(len(ones)) for values in (ones, others, others - ones)]
    return _with_interval(difference, estimate["low"], estimate["high"], errors, unpaired)


def paired_in_run(first: OneRun | None, second: OneRun | None) -> Difference:
    """The difference of one figure of two single runs, from successive batches that hold the same requests or times.

    There is no interval where the runs are too short for one (``batching``).
    """
    if first is None or second is None:
        return without_interval(None if first is None else first.value, None if second is None else second.value, 0)
    difference = without_interval(first.value, second.value, 0)
    if first.batches is None or second.batches is None or len(first.series) != len(second.series):
        return difference
    visits, moved = (
        None if one is None or other is None else min(one, other)
        for one, other in ((first.visits, second.visits), (first.moved, second.moved))
    )
    change, series = second.value - first.value, second.series - first.series
    both = OneRun(change, series, second.batches - first.batches, visits, moved)
    if not both.long_enough:
        return difference
    errors = [standard_error(batches, run.value) for run, batches in _batches(first, second, both)]
    half = t_quantile(len(first.batches) - 1) * errors[2]
    difference["pairs"] = len(first.batches)
    # Welch's interval depends on the spread alone, which for batches is not that of their values.
    (unpaired,) = _welch([(_spread(errors[0], len(first.batches)), _spread(errors[1], len(first.batches)))])
    return _with_interval(difference, both.value - half, both.value + half, errors, unpaired)


def _welch(pairs: Sequence[tuple[Samples, Samples]]) -> list[float]:
    """Half of the interval of every difference of means where nothing is paired; 0 where nothing varies."""
    halves = [0.0] * len(pairs)
    alike: dict[int, list[int]] = {}
    for place, (one, other) in enumerate(pairs):
        if len(one) > 1 and (np.ptp(one) > 0 or np.ptp(other) > 0):
            alike.setdefault(len(one), []).append(place)
    for places in alike.values():
        ones, others = (np.array([pairs[place][side] for place in places]) for side in (0, 1))
        for place, half in zip(places, _welch_halves(ones, others), strict=True):
            halves[place] = float(half) if math.isfinite(half) else 0.0
    return halves


def _welch_halves(ones: Samples, others: Samples) -> Samples:
    """Half of Welch's interval of every row's difference of means.

    In the steps of scipy.stats.ttest_ind, whose import takes longer than most sweeps need for their tables.
    """
    from scipy.special import stdtrit

    count = ones.shape[1]
    with np.errstate(all="ignore"):
        first, second = (_variances(side) / count for side in (ones, others))
        freedom = (first + second) ** 2 / (first**2 / (count - 1) + second**2 / (count - 1))
        error = np.sqrt(first + second)
        tail = (1 - LEVEL) / 2
        low, high = (
            stdtrit(freedom, share) * error + (others.mean(axis=1) - ones.mean(axis=1)) for share in (tail, 1 - tail)
        )
    return np.asarray((high - low) / 2, dtype=np.float64)


def _variances(rows: Samples) -> Samples:
    count = rows.shape[1]
    squares = ((rows - rows.mean(axis=1, keepdims=True)) ** 2).mean(axis=1)
    return np.asarray(squares * (count / (count - 1)), dtype=np.float64)


def _spread(error: float, count: int) -> Samples:
    """``count`` values whose mean is 0 and has this standard error."""
    steps = np.arange(count) - (count - 1) / 2
    return np.asarray(steps * (error * math.sqrt(count) / float(np.std(steps, ddof=1))), dtype=np.float64)


def _batches(*runs: OneRun) -> list[tuple[OneRun, Samples]]:
    return [(run, run.batches) for run in runs if run.batches is not None]


def without_interval(first: float | None, second: float | None, pairs: int) -> Difference:
    """A difference that nothing is known about but its two sides."""
    return {
        "value": None if first is None or second is None else second - first,
        "low": None,
        "high": None,
        "first": first,
        "second": second,
        "pairs": pairs,
        "significant": None,
        "unpaired_low": None,
        "unpaired_high": None,
        "variance_reduction": None,
    }


def _with_interval(
    difference: Difference, low: float | None, high: float | None, errors: Sequence[float], unpaired: float
) -> Difference:
    """Add the interval, and half of the one without pairing; ``errors``: standard, of first, second and difference."""
    value = difference["value"]
    if value is None or low is None or high is None:
        return difference
    one, other, together = (error * error for error in errors)
    return {
        **difference,
        "low": low,
        "high": high,
        "significant": low > 0 or high < 0,
        "unpaired_low": value - unpaired,
        "unpaired_high": value + unpaired,
        "variance_reduction": (one + other) / together if together > 0 and one + other > 0 else None,
    }
