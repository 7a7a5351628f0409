"""How well two sets of latencies agree: as distributions, and request by request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bufferlab.experiments.stats.intervals import Samples, mean
from bufferlab.experiments.stats.quantiles import at_levels

LIMITS = 1.96
"""Limits of agreement lie this many standard deviations from the bias; 95 % of normal differences are within them."""


def wasserstein_1(first: Samples, second: Samples) -> float:
    """The area between the two distribution functions, in the unit of the samples.

    How far each bit of one distribution must be moved on average to make the other of it. A metric; samples that are
    all later by c have a distance of c. Raises ValueError without samples.
    """
    if not len(first) or not len(second):
        raise ValueError(f"there are {len(first)} and {len(second)} samples, there must be at least 1 of each")
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(first, second))


@dataclass(frozen=True)
class BlandAltman:
    """Differences of the same requests, predicted − measured, in seconds.

    ``low_s``, ``high_s``: the limits of agreement, bias ± 1.96 standard deviations; ``within``: the share of requests
    between them (Bland and Altman, "Statistical methods for assessing agreement between two methods of clinical
    measurement", The Lancet 327, 1986).
    """

    bias_s: float
    deviation_s: float
    low_s: float
    high_s: float
    within: float


def bland_altman(measured: Samples, predicted: Samples) -> BlandAltman:
    """The bias and the limits of agreement of pairs; of one pair alone there is no deviation, and it is taken for 0."""
    differences = predicted - measured
    bias_s = mean(differences)
    deviation_s = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    low_s, high_s = bias_s - LIMITS * deviation_s, bias_s + LIMITS * deviation_s
    within = float(np.mean((low_s <= differences) & (differences <= high_s)))
    return BlandAltman(bias_s, deviation_s, low_s, high_s, within)


def quantile_pairs(measured: Samples, predicted: Samples) -> tuple[Samples, Samples]:
    """Both at the shares of ``quantiles.LEVELS``: the points of a Q–Q plot."""
    return at_levels(measured), at_levels(predicted)
