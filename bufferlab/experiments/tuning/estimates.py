"""Figures of settings and their differences, with intervals of the kind that their replications are of."""

from __future__ import annotations

from bufferlab.experiments.runs.estimates import FIGURES
from bufferlab.experiments.stats.intervals import Estimate, unbounded
from bufferlab.experiments.stats.paired import paired
from bufferlab.experiments.stats.replicates import Replicates, Values

_FIGURES = {figure.name: figure for figure in FIGURES}


def estimate(name: str, values: Values, replicates: Replicates | None, parts: float | None = None) -> Estimate:
    """A figure from its value in every replication; without an interval where ``replicates`` is None.

    ``parts``: on how many independent spells of traffic it rests in a file.
    """
    if replicates is None or len(values) < 2:
        return unbounded(values[0] if values else None)
    return _FIGURES[name].across(values, replicates, parts)


def difference(first: Values, second: Values, replicates: Replicates | None, parts: float | None = None) -> Estimate:
    """second − first over the replications that both have, with the interval of paired differences."""
    count = min(len(first), len(second))
    ones, others = first[:count], second[:count]
    if replicates is None or count < 2:
        known = [(one, other) for one, other in zip(ones, others, strict=True) if one is not None and other is not None]
        return unbounded(known[0][1] - known[0][0] if known else None)
    made = paired(ones, others, replicates, parts, positive=True)  # all that are compared are times
    return {"value": made["value"], "low": made["low"], "high": made["high"]}
