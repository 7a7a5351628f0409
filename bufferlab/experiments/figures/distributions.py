"""What the distribution of a time is drawn of: the share of the requests within it, and a band around that.

Over several replications the share at every time is the mean of the replications' shares, and its band the 95 %
interval of that mean. Such a curve is a distribution itself, that of all requests where replications serve as many
each, and it ends at the slowest one. The mean of the replications' quantiles, which summaries have, is none: where some
replications are far slower than most it is a time that a far larger share of the requests is within.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bufferlab.experiments.figures.style import Samples
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.tables import read_numbers
from bufferlab.experiments.stats.intervals import t_quantile
from bufferlab.experiments.stats.quantiles import LEVELS, at_levels

SPANS = {
    "latency_s": ("arrival_s", "delivered_s"),
    "transfer_s": ("encoded_s", "delivered_s"),
    "ttft_s": ("arrival_s", "prefilled_s"),
}
"""From which column of requests.parquet to which a time counts."""

MOST_TIMES = 500
"""Times at most at which a curve is known: more than a picture can show."""
TAIL_TIMES = 150
"""The last ones are all kept: few requests are as slow, but a tail is drawn of them."""


class Steps(NamedTuple):
    """One replication: from every time on, which ascend, so large a share of its requests is within."""

    times_s: Samples
    shares: Samples


class Distribution(NamedTuple):
    """From every time on, the share of the requests within it, and bounds of it where there are several replications.

    ``replications``: over how many the share is a mean.
    """

    times_s: Samples
    shares: Samples
    low: Samples | None = None
    high: Samples | None = None
    replications: int = 1

    def time_s(self, share: float) -> float:
        """The first time within which so large a share is."""
        # A sum of shares may miss the whole by a rounding.
        place = int(np.searchsorted(self.shares, share - 1e-12))
        return float(self.times_s[min(place, len(self.times_s) - 1)])

    def within(self, time_s: float) -> float:
        """The share within a time, which is exact at ``times_s``."""
        place = int(np.searchsorted(self.times_s, time_s, side="right"))
        return float(self.shares[place - 1]) if place else 0.0


def run_steps(run: StoredRun, quantity: str) -> list[Steps]:
    """Every replication of a run in which the time was measured at all."""
    since, until = SPANS[quantity]
    table = read_numbers(run.requests_path, ["replication", since, until])
    taken_s = table[until] - table[since]
    ended = ~np.isnan(taken_s)
    numbers = np.unique(table["replication"])
    found = [np.sort(taken_s[ended & (table["replication"] == number)]) for number in numbers]
    return [Steps(one, np.arange(1, len(one) + 1) / len(one)) for one in found if len(one)]


def level_steps(values: Samples) -> list[Steps]:
    """The same of replications of which the quantiles at ``LEVELS`` are kept: shares to half a percent."""
    return [Steps(one, LEVELS) for one in values if not np.isnan(one).any()]


def distribution_of(found: Sequence[Steps], *, resampled: bool = False) -> Distribution | None:
    """The mean of the shares and its 95 % interval; None where nothing was measured.

    Of a file that was ``resampled`` it is the file's own distribution, without a band: the spread of resamples is no
    error of a mean.
    """
    used = found[:1] if resampled else found
    if not used:
        return None
    times_s = _times(used)
    each = np.array([_at(one, times_s) for one in used])
    middle = each.mean(axis=0)
    if len(used) == 1:
        return Distribution(times_s, middle)
    # Where all replications agree that none or all are within, nothing says how sure that is, and no band is drawn.
    half = t_quantile(len(used) - 1) * each.std(axis=0, ddof=1) / math.sqrt(len(used))
    return Distribution(
        times_s, middle, np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0), replications=len(used)
    )


def _times(found: Sequence[Steps]) -> Samples:
    """Times that show every replication, the slowest of its requests among them."""
    known = np.unique(np.concatenate([one.times_s if len(one.times_s) <= len(LEVELS) else at_levels(one.times_s)
                                      for one in found]))  # fmt: skip
    if len(known) <= MOST_TIMES:
        return known
    body = np.linspace(0, len(known) - TAIL_TIMES, MOST_TIMES - TAIL_TIMES, endpoint=False).astype(int)
    return np.concatenate([known[body], known[-TAIL_TIMES:]])


def _at(one: Steps, times_s: Samples) -> Samples:
    """The shares of one replication at some times."""
    places = np.searchsorted(one.times_s, times_s, side="right")
    shares: Samples = np.concatenate(([0.0], one.shares))[places]
    return shares
