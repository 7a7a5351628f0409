"""Which of several settings may be the best one, told from their replications.

The setting with the lowest mean is an estimate like any other: with other draws its neighbour might have won. What can
be said is which settings are *not* the best. The rule is screening with common random numbers (Nelson, Swann, Goldsman
and Song 2001, "Simple procedures for selecting the best simulated system when the number of alternatives is large",
Operations Research 49(6)): a setting is out if its mean exceeds that of any other by more than the t quantile times the
standard error of their paired difference. The quantile is taken at 1 - 5 %/(settings - 1), one-sided, so the settings
that stay hold the one with the lowest expectation with a probability of at least 95 % (Bonferroni; differences are
taken to be normal).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bufferlab.experiments.stats.intervals import LEVEL
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates


def possibly_lowest(samples: Sequence[Sequence[float]], replicates: Replicates = INDEPENDENT) -> list[int]:
    """Indices of the settings whose expectation may be the lowest; the one with the lowest mean is always among them.

    ``samples[i][r]`` is what setting i came to in replication r, with the same requests in all settings.
    ``replicates``: what the replications are to one another; of a resampled file the values are those of replication
    0, and settings are compared by their ratio. With a single replication nothing is ruled out. Raises ValueError if
    the settings have different numbers of replications.
    """
    if len({len(one) for one in samples}) > 1:
        raise ValueError("every setting must have the same number of replications")
    count = len(samples)
    if count < 2 or len(samples[0]) < 2:
        return list(range(count))
    if replicates.resampled:
        return _of_resamples(samples, replicates)
    from scipy.special import stdtrit

    values = np.asarray(samples, dtype=np.float64)
    replications = values.shape[1]
    factor = float(stdtrit(replications - 1, 1 - (1 - LEVEL) / (count - 1))) / math.sqrt(replications)
    kept = []
    for number in range(count):
        differences = values[number] - values
        allowed = factor * differences.std(axis=1, ddof=1)
        if np.all(differences.mean(axis=1) <= allowed):
            kept.append(number)
    return kept


def _of_resamples(samples: Sequence[Sequence[float]], replicates: Replicates) -> list[int]:
    from scipy.special import stdtrit

    share = 1 - (1 - LEVEL) / (len(samples) - 1)

    def beaten(own: Sequence[float], other: Sequence[float]) -> bool:
        spread = replicates.log_ratio(other, own)
        if spread is None:
            spread = replicates.spread([mine - theirs for mine, theirs in zip(own, other, strict=True)])
        return spread is not None and spread.value > float(stdtrit(spread.freedom, share)) * spread.error

    return [number for number, own in enumerate(samples) if not any(beaten(own, other) for other in samples)]
