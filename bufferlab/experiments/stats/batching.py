"""Intervals from one long run, whose samples depend on one another.

Requests queue behind one another, so an interval that takes the requests of one run for independent is far too narrow:
at a utilisation of 0.8 about nine times. Here a run is cut into ten successive batches, each long enough that batches
hardly depend on one another, and the spread of their values gives a t interval (nonoverlapping batch means; ten to
thirty batches do: Schmeiser, "Batch size effects in the analysis of simulation output", Operations Research 30(3),
1982). Three things keep the interval honest, checked on queues whose answer is known (tests and docs/statistics.md):

* Deviations are taken from the value of the whole run, not from the mean of the batches, so a statistic that is biased
  in a short batch, as a quantile is, widens its interval (sectioning: Asmussen and Glynn, "Stochastic Simulation",
  section III.5; Nakayama, "Confidence intervals for quantiles using sectioning", ACM TOMACS 24(4), 2014).
* What correlation is left between successive batches, φ, widens it by √((1 + φ)/(1 − φ)) (Tafazzoli et al., "Skart: a
  skewness- and autoregression-adjusted batch-means procedure", IIE Transactions 43(2), 2011). φ is taken from von
  Neumann's ratio of the mean square successive difference to the variance.
* There is none at all unless the run lasted a hundred times its autocorrelation time, so that a batch lasts ten. A
  quantile, or a share, must also have been visited ten times independently: p99 of a run in which only three busy
  spells went beyond it is a matter of luck. So is what came of a run that stood still for most of the time and was busy
  in a few spells. Shorter runs would often give an interval that misses the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from bufferlab.experiments.stats.intervals import NOTHING, Estimate, Quantile, Samples, mean, t_quantile, unbounded

BATCHES = 10
"""Few long batches rather than many short ones: what counts is that batches hardly depend on each other."""
LEAST_BATCH = 20
"""Fewer requests make no batch."""
LEAST_TIMES = 100
"""A run must last this many times its autocorrelation time."""
LEAST_VISITS = 10
"""A quantile or a share needs this many independent samples on its rarer side."""
COARSE = 1 << 13
"""The autocorrelation is taken of this many means at most: a longer series has plenty of independent parts anyway."""

Statistic = Callable[[Samples], float]


@dataclass(frozen=True)
class OneRun:
    """One figure of one run, prepared for its interval.

    ``series`` (in order of time) is what the value averages over: the samples; for a quantile, whether each lies beyond
    it. ``batches`` are the values of ten successive parts; None where these would be too short. ``visits`` is how often
    the rarer of two outcomes came, for a series that has only two; else None. ``moved`` is in how many stretches
    something happened, for a series that stands still in most of them; else None.
    """

    value: float
    series: Samples
    batches: Samples | None
    visits: int | None = None
    moved: int | None = None

    @property
    def long_enough(self) -> bool:
        """Whether the batches can be taken for nearly independent."""
        # The autocorrelation time is 1 at least, and takes a while to compute.
        if self.batches is None or len(self.series) < LEAST_TIMES:
            return False
        rarer = self.moved if self.visits is None else self.visits
        if rarer is not None and rarer < LEAST_VISITS:
            return False
        time = autocorrelation_time(self.series)
        return len(self.series) >= LEAST_TIMES * time and (rarer is None or rarer >= LEAST_VISITS * time)

    @property
    def parts(self) -> float | None:
        """On how many independent spells it rests: of what is rare, how often it came; else parts as long as a batch.

        None where that is not known.
        """
        if not len(self.series):
            return None
        time = autocorrelation_time(self.series)
        if self.visits is not None:
            return self.visits / time
        parts = len(self.series) / (LEAST_TIMES // BATCHES * time)
        return parts if self.moved is None else min(parts, self.moved / time)

    def estimate(self) -> Estimate:
        """The value, with an interval if the run is long enough for one."""
        if self.batches is None or not self.long_enough:
            return unbounded(self.value)
        half = t_quantile(len(self.batches) - 1) * standard_error(self.batches, self.value)
        return {"value": self.value, "low": self.value - half, "high": self.value + half}


def batch_means(samples: Samples, statistic: Statistic, *, least_batch: int | None = None) -> Estimate:
    """A statistic of one run's samples (in order of time), its interval from ten successive batches.

    No interval if a batch would have fewer than ``least_batch`` samples (20; for a quantile, ten beyond it) or the
    samples depend on one another for too long.
    """
    run = of_samples(samples, statistic, least_batch=least_batch)
    return NOTHING.copy() if run is None else run.estimate()


def of_samples(samples: Samples, statistic: Statistic, *, least_batch: int | None = None) -> OneRun | None:
    """A statistic of samples in order of time; None if there are none."""
    if not len(samples):
        return None
    value = statistic(samples)
    series, visits = samples, None
    least = LEAST_BATCH
    if isinstance(statistic, Quantile):
        series = (samples > value).astype(np.float64)
        # What lies beyond, as it would be without ties.
        visits = round(min(statistic.level, 1 - statistic.level) * len(samples))
        least = quantile_batch(statistic.level)
    least = least if least_batch is None else least_batch
    batches = None
    if len(samples) >= BATCHES * least:
        edges = _edges(len(samples))
        batches = np.array([statistic(samples[a:b]) for a, b in pairwise(edges)])
    return OneRun(value, series, batches, visits)


def of_outcomes(outcomes: Samples) -> OneRun | None:
    """The share of ones among zeros and ones in order of time; None if there are none."""
    run = of_samples(outcomes, mean)
    if run is None:
        return None
    ones = int(np.count_nonzero(outcomes))
    return OneRun(run.value, run.series, run.batches, min(ones, len(outcomes) - ones))


def of_series(value: float, series: Samples, still: float = 0.0) -> OneRun:
    """A time average whose parts over successive stretches of equal length are ``series``.

    ``still``: what it has of a stretch in which nothing happened.
    """
    moved = int(np.count_nonzero(series != still))
    batches = _group_means(series) if len(series) >= BATCHES else None
    return OneRun(value, series, batches, moved=moved if 0 < 2 * moved < len(series) else None)


def of_ratio(value: float, above: Samples, below: Samples) -> OneRun:
    """The ratio of two integrals from their parts over successive stretches of equal length.

    A ratio is no average, but near its value r it changes like the average of (above − r · below)/mean(below), which
    is what the delta method makes of it (Law, "Simulation Modeling and Analysis", 5th edition, section 9.5.3).
    """
    typical = float(np.mean(below)) if len(below) else 0.0
    if typical <= 0:
        return OneRun(value, np.zeros(0), None)
    return of_series(value, value + (above - value * below) / typical, still=value)


def rate_of(times_s: Samples, whole_s: float) -> Estimate:
    """Events a second over ``whole_s``, with an interval from how many came in successive stretches of time."""
    if not len(times_s) or whole_s <= 0:
        return NOTHING.copy()
    step_s = whole_s / 1000
    return of_events(times_s, whole_s, step_s).estimate()


def of_events(times_s: Samples, whole_s: float, step_s: float, steps: int | None = None) -> OneRun:
    """Events a second over ``whole_s``; ``times_s`` in any order.

    They are counted in so many stretches of ``step_s``, by default all that ``whole_s`` has.
    """
    value = len(times_s) / whole_s
    if steps is None:
        steps = math.floor(whole_s / step_s * (1 + 1e-12))  # it may miss the last end by a rounding error
    # The end of a stretch belongs to it, its start does not.
    edges = step_s * np.arange(steps + 1)
    counts = np.diff(np.searchsorted(np.sort(times_s), edges, side="right"))
    run = of_series(value, counts / step_s)
    return run if len(times_s) >= BATCHES * LEAST_BATCH else replace(run, batches=None)


def autocorrelation_time(series: Samples) -> float:
    """How many successive samples tell as much about the mean as one independent sample would; at least 1.

    n · Var(mean of n)/Var(one) for long series, which is 1 plus twice the sum of the autocorrelations. The sum is cut
    off where the estimates are noise: before the first pair of neighbours that is not positive (Geyer, "Practical
    Markov chain Monte Carlo", Statistical Science 7(4), 1992, the initial positive sequence).
    """
    if not len(series) or series.min() == series.max():
        return 1.0
    spread = _mean(np.square(series - _mean(series)))
    if not spread:  # it varies by less than the square of a number can express
        return 1.0
    group = -(-len(series) // COARSE)
    count = len(series) // group
    means = series[: count * group].reshape(count, group).mean(axis=1)
    # Through the Fourier transform, padded so that the end does not meet the start.
    size = 1 << (2 * count - 1).bit_length()
    transform = np.fft.rfft(means - _mean(means), size)
    covariances = np.fft.irfft(transform.real**2 + transform.imag**2, size)[:count] / count
    pairs = covariances[0 : count - 1 : 2] + covariances[1:count:2]
    noise = np.flatnonzero(pairs <= 0)
    kept = int(noise[0]) if len(noise) else len(pairs)
    long_run = 2 * float(pairs[:kept].sum()) - float(covariances[0])
    return max(group * long_run / spread, 1.0)


def successive_correlation(batches: Samples) -> float:
    """Correlation of successive batches by von Neumann's ratio: 1 − Σ(xᵢ₊₁ − xᵢ)²/(2 Σ(xᵢ − x̄)²).

    Near 0, with a variance of (k − 2)/(k² − 1), for k independent batches (von Neumann, Annals of Mathematical
    Statistics 12(4), 1941; Fishman 1978 for its use on batches).
    """
    spread = float(np.sum(np.square(batches - np.mean(batches))))
    return 1 - float(np.sum(np.square(np.diff(batches)))) / (2 * spread) if spread > 0 else 0.0


def standard_error(batches: Samples, value: float) -> float:
    """Standard error of ``value`` from its batches: deviations from it, widened for what correlation there is left."""
    count = len(batches)
    variance = float(np.sum(np.square(batches - value))) / (count - 1)
    correlation = max(successive_correlation(batches), 0.0)
    # The correlation is below 1, since the differences of batches that vary are not all 0.
    return math.sqrt(variance / count * (1 + correlation) / (1 - correlation))


def quantile_batch(level: float) -> int:
    """The least batch for a quantile: ten samples beyond it."""
    return max(LEAST_BATCH, math.ceil(round(10 / (1 - level), 6)))


def _mean(values: Samples) -> float:
    """What numpy's own gives, which looks for other kinds of arrays first."""
    return float(np.add.reduce(values)) / len(values)


def _edges(count: int) -> list[int]:
    return [count * batch // BATCHES for batch in range(BATCHES + 1)]


def _group_means(series: Samples) -> Samples:
    edges = _edges(len(series))
    return np.array([mean(series[a:b]) for a, b in pairwise(edges)])
