"""Intervals from independent samples, such as one number per replication.

Everything here assumes that the samples are independent of each other: replications are, the requests of one run are
not, because they queue behind one another. For these see ``batching``; for differences of two systems, ``paired``.
All intervals are at 95 %. Where the samples are too few for one there is none, rather than a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
NORMAL_QUANTILE = 1.959963984540054
"""What a normal variable stays below with a probability of 97.5 %."""
MOST_SKEW = 0.5
"""Skewness of a mean above which ``lopsided_mean`` warns. Of lognormal values at most 8 of 100 t intervals miss the
truth without that, and up to 26 with it."""
FEW = 5
"""Of fewer replications a t interval is so wide that it claims little."""
T_QUANTILES = (
    12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934, 2.5705818356363146,
    2.4469118511449786, 2.364624251592784, 2.306004135204166, 2.262157162798205, 2.228138851986274,
    2.200985160091639, 2.1788128296672284, 2.1603686564627913, 2.144786687917804, 2.131449545559776,
    2.1199052992212546, 2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.085963447265864,
    2.0796138447276795, 2.0738730679040254, 2.0686576104190486, 2.0638985616280245, 2.0595385527532972,
    2.0555294386428735, 2.0518305164802846, 2.0484071417952454, 2.045229642132703, 2.0422724563012378,
)  # fmt: skip
"""The same of t variables, by their degrees of freedom from 1 on. Most runs need no other, and loading scipy to compute
it takes longer than a small one."""

Samples = NDArray[np.float64]


class Estimate(TypedDict):
    """A number with its 95 % interval; all None where there was nothing to measure, the bounds where too little."""

    value: float | None
    low: float | None
    high: float | None


NOTHING: Estimate = {"value": None, "low": None, "high": None}


def half_width(samples: Sequence[float]) -> float:
    """Half the t interval of the mean of at least two independent samples: t · s / √n with n − 1 degrees of freedom."""
    count = len(samples)
    return t_quantile(count - 1) * float(np.std(samples, ddof=1)) / math.sqrt(count)


def t_quantile(freedom: float) -> float:
    """What a t variable with ``freedom`` degrees of freedom stays below in size with a probability of 95 %."""
    if freedom in range(1, len(T_QUANTILES) + 1):
        return T_QUANTILES[int(freedom) - 1]
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def across_replications(values: Sequence[float | None]) -> Estimate:
    """Mean and t interval over one value per replication; replications with nothing to measure are left out."""
    known = [value for value in values if value is not None]
    if not known:
        return NOTHING.copy()
    average = math.fsum(known) / len(known)
    if len(known) == 1:
        return unbounded(average)
    half = half_width(known)
    return {"value": average, "low": average - half, "high": average + half}


def lopsided_mean(estimate: Estimate, replications: int) -> bool:
    """Whether positive values differ so much that the t interval of their mean holds the truth too seldom.

    A t interval misses by as much as the skewness of one value over the root of their number (Hall, "The Bootstrap and
    Edgeworth Expansion", 1992, section 2.6). A few values show less skewness than there is, since the slow ones that
    make it are not among them; so it is taken to be that of a lognormal with their coefficient of variation c, which is
    c³ + 3c. ``estimate``: the mean of ``replications`` values, of which the upper half gives c.
    """
    value, high = estimate["value"], estimate["high"]
    if value is None or high is None or value <= 0 or replications < FEW:
        return False
    variation = (high - value) * math.sqrt(replications) / t_quantile(replications - 1) / value
    return (variation**3 + 3 * variation) / math.sqrt(replications) > MOST_SKEW


def shares_across(values: Sequence[float | None]) -> Estimate:
    """As ``across_replications``, for shares; none where all are 0 or all are 1.

    Where nothing was seen to vary, a t interval has no width, which claims to know that the share is exactly 0 or 1.
    """
    estimate = across_replications(values)
    known = {value for value in values if value is not None}
    return unbounded(estimate["value"]) if known in ({0.0}, {1.0}) else estimate


def wilson(successes: int, trials: int) -> Estimate:
    """Share of successes among independent trials, with Wilson's score interval.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). It has a sensible
    width at 0 and at ``trials`` successes, too. Raises ValueError if the counts are impossible.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes is {successes} and trials is {trials}, it must be 0 <= successes <= trials")
    if not trials:
        return NOTHING.copy()
    share, square = successes / trials, NORMAL_QUANTILE**2
    scale = 2 * (trials + square)
    centre = (2 * trials * share + square) / scale
    half = NORMAL_QUANTILE / scale * math.sqrt(4 * trials * share * (1 - share) + square)
    # The bounds at no and at nothing but successes are 0 and 1; rounding must not put the value outside.
    low = centre - half if successes else 0.0
    high = centre + half if successes < trials else 1.0
    return {"value": share, "low": max(min(low, share), 0.0), "high": min(max(high, share), 1.0)}


def order_statistics(values: Sequence[float], level: float) -> Estimate:
    """A quantile of independent samples, with the interval between two of them that holds for any distribution.

    The number of samples below the true quantile is binomial, so it lies between the samples of ranks l and u with a
    probability of at least 95 % if P(B < l) and P(B >= u) are at most 2.5 % each (David and Nagaraja, "Order
    Statistics", 3rd edition, section 7.1). There are no such ranks in a small sample: a median takes 6 values, a p90
    36 and a p99 368. Raises ValueError for a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, it must be between 0 and 1")
    if not len(values):
        return NOTHING.copy()
    from scipy.stats import quantile_test

    samples = np.asarray(values, dtype=np.float64)
    value = Quantile(level)(samples)
    found: Any = quantile_test(samples, p=level).confidence_interval(LEVEL)  # two bounds, whatever its stubs say
    low, high = float(found.low), float(found.high)
    return unbounded(value) if math.isnan(low) or math.isnan(high) else {"value": value, "low": low, "high": high}


def replications_needed(values: Sequence[float], relative: float = 0.05) -> int | None:
    """How many replications it takes until the mean is off by at most ``relative`` of the truth, judged by ``values``.

    The smallest n with t · s / √n <= |mean| · relative / (1 + relative); dividing by 1 + relative turns an error
    relative to the estimate into one relative to the truth (Law, "Simulation Modeling and Analysis", 5th edition,
    section 9.4.1). It is a forecast from a pilot of at least two values: run that many, and look again. None if the
    mean is 0, to which nothing is relative. Raises ValueError for a pilot of fewer values or ``relative`` not above 0.
    """
    if len(values) < 2 or not relative > 0:
        raise ValueError(
            f"the number of values is {len(values)} and relative is {relative}, they must be at least 2 and above 0"
        )
    wanted = abs(math.fsum(values) / len(values)) * relative / (1 + relative)
    deviation = float(np.std(values, ddof=1))
    if deviation == 0:
        return 2
    if wanted == 0:
        return None

    def enough(count: int) -> bool:
        return t_quantile(count - 1) * deviation / math.sqrt(count) <= wanted

    high = 2
    while not enough(high):
        high *= 2
    low = max(high // 2, 1)  # not enough, or no number of replications at all
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def within(estimate: Estimate, lowest: float, highest: float = math.inf) -> Estimate:
    """The same with its bounds cut to what the figure can be at all; that leaves out nothing that could be true."""
    low, high = estimate["low"], estimate["high"]
    return {
        "value": estimate["value"],
        "low": None if low is None else min(max(low, lowest), highest),
        "high": None if high is None else min(max(high, lowest), highest),
    }


def unbounded(value: float | None) -> Estimate:
    """A value without an interval."""
    return {"value": value, "low": None, "high": None}


# --- statistics of samples ---


def mean(samples: Samples) -> float:
    """The arithmetic mean, the same on every machine."""
    return math.fsum(samples.tolist()) / len(samples)  # as a list: an array makes an object of its own of each


class Quantile:
    """The order statistic of rank ceil(level · n): a value that occurred."""

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, samples: Samples) -> float:
        """The quantile of ``samples``, which may come in any order."""
        rank = _rank(self.level, len(samples)) - 1
        return float(np.partition(samples, rank)[rank])


def quantile(level: float) -> Quantile:
    """The statistic that takes the quantile at ``level``."""
    return Quantile(level)


def _rank(level: float, count: int) -> int:
    return max(math.ceil(level * count), 1)
