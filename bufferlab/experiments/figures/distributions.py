"""What the distribution of a time is drawn of: quantiles of every replication, their middle, and a band around it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bufferlab.experiments.figures.style import Samples
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.tables import read_numbers
from bufferlab.experiments.stats.intervals import across_replications
from bufferlab.experiments.stats.quantiles import at_levels

SPANS = {
    "latency_s": ("arrival_s", "delivered_s"),
    "transfer_s": ("encoded_s", "delivered_s"),
    "ttft_s": ("arrival_s", "prefilled_s"),
}
"""From which column of requests.parquet to which a time counts."""


class Band(NamedTuple):
    """A time at every level of ``LEVELS``, and the interval of each where there are several replications."""

    middle: Samples
    low: Samples | None = None
    high: Samples | None = None


def run_quantiles(run: StoredRun, quantity: str) -> Samples:
    """Quantiles at ``LEVELS`` of every replication of a run."""
    since, until = SPANS[quantity]
    table = read_numbers(run.requests_path, ["replication", since, until])
    taken_s = table[until] - table[since]
    ended = ~np.isnan(taken_s)
    numbers = np.unique(table["replication"])
    return np.array([at_levels(taken_s[ended & (table["replication"] == number)]) for number in numbers])


def band_of(values: Samples, *, resampled: bool = False) -> Band | None:
    """The geometric mean of the replications' quantiles and its 95 % interval, since such axes are logarithmic.

    Replications without any are left out; None where none has any. Of a file that was ``resampled`` it is the file's
    own distribution, without a band: the spread of resamples is no error of a mean.
    """
    values = values[:1] if resampled else values
    known = np.log(np.maximum(values[~np.isnan(values).any(axis=1)], 1e-9))
    if not len(known):
        return None
    middle = np.exp(known.mean(axis=0))
    if len(known) == 1:
        return Band(middle)
    bounds = [across_replications(column.tolist()) for column in known.T]
    low, high = (np.exp(np.array([one[side] for one in bounds], float)) for side in ("low", "high"))
    return Band(middle, low, high)
