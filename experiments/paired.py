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

from experiments.batching import OneRun, standard_error
from experiments.intervals import Samples, across_replications, t_quantile


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


def paired(first: Sequence[float | None], second: Sequence[float | None]) -> Difference:
    """The difference of two figures from one value of each per replication, in the same order.

    A replication in which either is None is left out. Raises ValueError for sequences of different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"there are {len(first)} and {len(second)} values, it must be one of each per replication")
    both = [(one, other) for one, other in zip(first, second, strict=True) if one is not None and other is not None]
    ones, others = np.array(both, dtype=np.float64).reshape(len(both), 2).T
    estimate = across_replications([other - one for one, other in both])
    difference = without_interval(
        across_replications(ones.tolist())["value"], across_replications(others.tolist())["value"], len(both)
    )
    difference["value"] = estimate["value"]
    if len(both) < 2:
        return difference
    errors = [float(np.std(values, ddof=1)) / math.sqrt(len(both)) for values in (ones, others, others - ones)]
    return _with_interval(difference, estimate["low"], estimate["high"], errors)


def paired_in_run(first: OneRun | None, second: OneRun | None) -> Difference:
    """The difference of one figure of two single runs, from successive batches that hold the same requests or times.

    There is no interval where the runs are too short for one (``batching``).
    """
    if first is None or second is None:
        return without_interval(None if first is None else first.value, None if second is None else second.value, 0)
    difference = without_interval(first.value, second.value, 0)
    if first.batches is None or second.batches is None or len(first.series) != len(second.series):
        return difference
    visits = None if first.visits is None or second.visits is None else min(first.visits, second.visits)
    both = OneRun(second.value - first.value, second.series - first.series, second.batches - first.batches, visits)
    if not both.long_enough:
        return difference
    errors = [standard_error(batches, run.value) for run, batches in _batches(first, second, both)]
    half = t_quantile(len(first.batches) - 1) * errors[2]
    difference["pairs"] = len(first.batches)
    return _with_interval(difference, both.value - half, both.value + half, errors)


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
    difference: Difference, low: float | None, high: float | None, errors: Sequence[float]
) -> Difference:
    """Add the interval, and the one without pairing from the standard errors of first, second and difference."""
    value = difference["value"]
    if value is None or low is None or high is None:
        return difference
    one, other, together = (error * error for error in errors)
    unpaired = 0.0
    if one + other > 0:
        # Welch and Satterthwaite's degrees of freedom, from the part that the first has in the variance.
        part = one / (one + other)
        freedom = (difference["pairs"] - 1) / (part * part + (1 - part) * (1 - part))
        unpaired = t_quantile(freedom) * math.sqrt(one + other)
    return {
        **difference,
        "low": low,
        "high": high,
        "significant": low > 0 or high < 0,
        "unpaired_low": value - unpaired,
        "unpaired_high": value + unpaired,
        "variance_reduction": (one + other) / together if together > 0 and one + other > 0 else None,
    }
