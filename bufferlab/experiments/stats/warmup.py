"""How long a run takes to forget that it started empty: MSER-5.

The first requests meet empty queues and pools, which pulls every average down. MSER looks for the number of first
samples whose removal makes the estimated standard error of the mean of the rest the smallest: as long as the samples
removed are far from the others it falls, after that it rises because fewer are left. It works on means of five, which
smooths the series. (White, "An effective truncation heuristic for bias reduction in simulation output", Simulation
69(6), 1997; White, Cobb and Spratt, "A comparison of five steady-state truncation heuristics for simulation", WSC 2000;
Franklin and White, "Stationarity tests and MSER-5: exploring the intuition behind mean-squared-error-reduction in
detecting and correcting initialization bias", WSC 2008.)

It is reported, never applied by itself: a rule that looks at the data may be fooled by one burst near the start.
"""

from __future__ import annotations

import math

from bufferlab.experiments.stats.intervals import Samples

GROUP = 5
LAST_GROUPS = 5
"""The standard error of so few groups is small by chance; cuts that leave no more are not considered."""
LEAST_GROUPS = 20
"""Fewer groups show no trend that could be told from noise."""


def mser5(samples: Samples) -> int | None:
    """How many first samples (a multiple of 5) to leave out, of samples in order of time.

    None where the best cut lies in the second half, which by the usual rule means that the run is too short to tell
    (Hoad, Robinson and Davies, "Automating warm-up length estimation", JORS 61(9), 2010), and for fewer than 100
    samples.
    """
    groups = len(samples) // GROUP
    if groups < LEAST_GROUPS:
        return None
    means = samples[: groups * GROUP].reshape(groups, GROUP).mean(axis=1)
    best, cut = math.inf, 0
    # From the end: mean and sum of squared deviations of all groups from here on, updated by one more (Welford), which
    # loses no digits where the first groups are far off.
    average = squares = 0.0
    for count, (index, value) in enumerate(zip(range(groups - 1, -1, -1), means[::-1].tolist(), strict=True), 1):
        deviation = value - average
        average += deviation / count
        squares += deviation * (value - average)
        if count > LAST_GROUPS:
            error = squares / (count * count)
            if error <= best:
                best, cut = error, index
    return cut * GROUP if 2 * cut <= groups else None
