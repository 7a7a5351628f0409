"""A distribution in a few hundred numbers: order statistics at fixed shares of the samples."""

from __future__ import annotations

import numpy as np

from bufferlab.experiments.stats.intervals import Samples

LEVELS: Samples = np.array([*(np.arange(200) / 200), 0.999, 1.0])
"""Shares of the samples: every half percent, and the tail."""


def at_levels(samples: Samples) -> Samples:
    """The order statistic of rank ceil(level · n) for every level, as in ``intervals.quantile``; NaN without samples.

    Level 0 is the least sample, level 1 the largest.
    """
    if not len(samples):
        return np.full(len(LEVELS), np.nan)
    ranks = np.ceil(LEVELS * len(samples)).astype(int) - 1
    ordered: Samples = np.sort(samples)[np.maximum(ranks, 0)]
    return ordered
