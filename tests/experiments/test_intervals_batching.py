"""Intervals from one run: by hand, and how often they cover on sequences whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.stats.batching import (
    BATCHES,
    OneRun,
    Statistic,
    autocorrelation_time,
    batch_means,
    of_events,
    of_outcomes,
    of_ratio,
    of_series,
    quantile_batch,
    rate_of,
    standard_error,
    successive_correlation,
)
from bufferlab.experiments.stats.intervals import NOTHING, Estimate, Samples, half_width, mean, quantile, unbounded

RUNS = 200
STATISTICS: list[Statistic] = [mean, quantile(0.5), quantile(0.9)]


def waits(runs: int, count: int, load: float, seed: int) -> Samples:
    """Waiting times of an M/M/1 queue that starts empty (Lindley's recursion), one row a run; mean service is 1."""
    rng = np.random.default_rng(seed)
    steps = rng.exponential(1.0, (runs, count)) - rng.exponential(1 / load, (runs, count))
    walk = np.concatenate([np.zeros((runs, 1)), np.cumsum(steps[:, :-1], axis=1)], axis=1)
    return walk - np.minimum.accumulate(walk, axis=1)


def autoregressive(runs: int, count: int, factor: float, seed: int) -> Samples:
    """x' = factor · x + noise, started in its stationary law, mean 0."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(runs, count))
    values = np.empty((runs, count))
    values[:, 0] = noise[:, 0] / math.sqrt(1 - factor**2)
    for number in range(1, count):
        values[:, number] = factor * values[:, number - 1] + noise[:, number]
    return values


def covered(estimates: list[Estimate], truth: float) -> tuple[float, float]:
    """Share of the runs that got an interval, and share of these intervals that hold the truth."""
    given_ = [one for one in estimates if one["low"] is not None and one["high"] is not None]
    hits = [(one["low"] or 0.0) <= truth <= (one["high"] or 0.0) for one in given_]
    return len(given_) / len(estimates), sum(hits) / max(len(hits), 1)


@pytest.mark.parametrize(("share", "most_given", "least_covered"), [(0.004, 0.1, 0.0), (0.03, 1.0, 0.9)])
def test_what_came_in_a_few_spells_has_no_interval(share: float, most_given: float, least_covered: float) -> None:
    """Of 1000 stretches nothing happens in most. Four that are busy tell little: an interval of them would miss the
    truth in a fifth of all runs. The bound is passed with a probability below 1e-4 if thirty cover 95 %."""
    rng = np.random.default_rng(3)
    runs = [of_series(mean(one), one) for one in (rng.random((400, 1000)) < share) * rng.exponential(1.0, (400, 1000))]
    given_, holds = covered([run.estimate() for run in runs], share)
    assert given_ <= most_given
    assert holds >= least_covered
    if share < 0.01:
        assert covered([replace(run, moved=None).estimate() for run in runs], share)[1] < 0.85
    # What a file's intervals rest on is not more than before.
    assert all((run.parts or 0) <= (replace(run, moved=None).parts or 0) for run in runs)


def test_a_queue_at_a_utilisation_of_80_percent() -> None:
    """Ours covers at about the promised rate; the one that takes requests for independent hardly ever does."""
    truth = 0.8 / (1 - 0.8)  # mean wait of M/M/1, in units of the mean service
    runs = waits(RUNS, 20_000, 0.8, seed=1)
    share, coverage = covered([batch_means(one, mean) for one in runs], truth)
    assert share >= 0.95
    assert coverage >= 0.90
    naive = sum(abs(one.mean() - truth) <= half_width(one.tolist()) for one in runs) / RUNS
    assert naive < 0.40


def test_an_autoregressive_series() -> None:
    share, coverage = covered([batch_means(one, mean) for one in autoregressive(RUNS, 8000, 0.95, seed=2)], 0.0)
    assert share >= 0.95
    assert coverage >= 0.92


def test_independent_samples_get_an_interval_of_the_right_width() -> None:
    rng = np.random.default_rng(3)
    runs = rng.exponential(1.0, (RUNS, 1000))
    estimates = [batch_means(one, mean) for one in runs]
    share, coverage = covered(estimates, 1.0)
    assert share >= 0.95
    assert coverage >= 0.92
    halves = [(one["high"] or 0.0) - (one["value"] or 0.0) for one in estimates]
    # 2.26 standard errors of 1/√1000, and up to a fifth more for the correlation that ten numbers seem to have.
    assert 2.0 / math.sqrt(1000) < np.mean(halves) < 2.8 / math.sqrt(1000)


def test_a_p90_of_a_queue() -> None:
    # P(wait > t) = ρ exp(−(1 − ρ) t) with mean service 1.
    truth = math.log(0.8 / 0.1) / 0.2
    share, coverage = covered([batch_means(one, quantile(0.9)) for one in waits(RUNS, 20_000, 0.8, seed=4)], truth)
    assert share >= 0.9
    assert coverage >= 0.90


def test_a_run_that_is_too_short_gets_no_interval() -> None:
    """Ten batches of 200 requests at 90 %: their intervals would miss the truth in three of ten runs."""
    runs = waits(RUNS, 2000, 0.9, seed=5)
    share, _ = covered([batch_means(one, mean) for one in runs], 9.0)
    assert share < 0.05
    # A p99 that only a few busy spells went beyond is a matter of luck, however many requests there are.
    share, _ = covered([batch_means(one, quantile(0.99)) for one in waits(20, 15_000, 0.8, seed=6)], 0.0)
    assert share < 0.2


def test_a_trend_gets_no_interval() -> None:
    rng = np.random.default_rng(7)
    drift = np.linspace(0.0, 3.0, 10_000) + rng.normal(size=10_000)
    assert batch_means(drift, mean)["low"] is None


def test_batch_means_by_hand() -> None:
    # Twenty times ±1 around a batch's own level; the levels alternate: mean 0.5, sectioned variance 0.25 · 10/9.
    levels = np.tile([0.0, 1.0], 5)
    samples = np.repeat(levels, 200) + np.tile([1.0, -1.0, -1.0, 1.0], 500)
    half = 2.2621571628540993 * math.sqrt(0.25 / 9)
    assert successive_correlation(levels) < 0  # so nothing is widened
    run = OneRun(0.5, samples, levels)
    assert standard_error(levels, 0.5) == pytest.approx(math.sqrt(0.25 / 9))
    assert run.estimate()["low"] in (None, pytest.approx(0.5 - half))


def test_what_correlation_is_left_widens_the_interval() -> None:
    # 1 − 9/(2 · 82.5) for the numbers 0 to 9.
    batches = np.arange(10.0)
    correlation = 1 - 9 / (2 * 82.5)
    assert successive_correlation(batches) == pytest.approx(correlation)
    expected = math.sqrt(82.5 / 9 / 10 * (1 + correlation) / (1 - correlation))
    assert standard_error(batches, 4.5) == pytest.approx(expected)


@given(
    st.integers(0, 10_000), st.integers(0, 1000), st.sampled_from([0.0, 1e-300, 1.0, 1e6]), st.sampled_from(STATISTICS)
)
def test_an_interval_holds_its_value(seed: int, count: int, scale: float, statistic: Statistic) -> None:
    found = batch_means(np.random.default_rng(seed).exponential(1.0, count) * scale, statistic)
    if found["low"] is not None and found["high"] is not None:
        assert found["low"] <= (found["value"] or 0.0) <= found["high"]


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_scale_and_sign_change_nothing_but_the_unit(seed: int, scale: int) -> None:
    samples = np.random.default_rng(seed).exponential(1.0, 400)
    found, scaled = batch_means(samples, mean), batch_means(samples * -scale, mean)
    assert (found["low"] is None) is (scaled["low"] is None)
    if found["low"] is not None:
        assert scaled["high"] == pytest.approx(-scale * found["low"])


def test_too_little_for_a_batch_gives_no_interval() -> None:
    samples = np.random.default_rng(8).normal(size=400)
    assert batch_means(samples[:199], mean)["low"] is None
    assert batch_means(samples, mean)["low"] is not None
    assert [quantile_batch(level) for level in (0.5, 0.9, 0.99)] == [20, 100, 1000]
    # The documentation of summary.json states the number of requests that follows from it.
    assert BATCHES * quantile_batch(0.99) == 10_000
    assert batch_means(samples[:0], mean) == NOTHING


def test_equal_samples_are_certain() -> None:
    assert batch_means(np.full(500, 0.1), mean) == {"value": 0.1, "low": 0.1, "high": 0.1}


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 0.98])
def test_the_autocorrelation_time_of_an_autoregressive_series(factor: float) -> None:
    """(1 + factor)/(1 − factor), also for a series so long that it is thinned first."""
    truth = (1 + factor) / (1 - factor)
    found = [autocorrelation_time(one) for one in autoregressive(8, 60_000, factor, seed=9)]
    assert np.mean(found) == pytest.approx(truth, rel=0.12)


def test_the_autocorrelation_time_of_constants_and_of_alternation() -> None:
    assert autocorrelation_time(np.full(1000, 0.1)) == 1.0
    assert autocorrelation_time(np.tile([0.0, 1.0], 500)) == 1.0
    assert autocorrelation_time(np.zeros(0)) == 1.0


def test_a_share_needs_enough_of_its_rarer_outcome() -> None:
    rng = np.random.default_rng(10)
    often, rarely = (rng.random(4000) < 0.3).astype(float), np.zeros(4000)
    rarely[[100, 900, 2500]] = 1.0
    found, rare, never = of_outcomes(often), of_outcomes(rarely), of_outcomes(np.zeros(4000))
    assert found is not None
    assert rare is not None
    assert never is not None
    assert found.estimate()["low"] is not None
    assert rare.estimate() == unbounded(3 / 4000)
    assert never.estimate() == unbounded(0.0)
    assert of_outcomes(np.zeros(0)) is None


def test_shares_of_independent_outcomes_cover() -> None:
    rng = np.random.default_rng(12)
    runs = [of_outcomes((rng.random(2000) < 0.1).astype(float)) for _ in range(RUNS)]
    share, coverage = covered([run.estimate() for run in runs if run is not None], 0.1)
    assert share >= 0.95
    assert coverage >= 0.90


def test_ratios_cover() -> None:
    """Σ above / Σ below of parts that depend on each other, as wasted and held token-seconds do."""
    rng = np.random.default_rng(13)
    estimates = []
    for _ in range(RUNS):
        below = rng.exponential(1.0, 1000)
        above = below * rng.uniform(0.0, 1.0, 1000)
        estimates.append(of_ratio(float(above.sum() / below.sum()), above, below).estimate())
    share, coverage = covered(estimates, 0.5)
    assert share >= 0.95
    assert coverage >= 0.92
    assert of_ratio(0.0, np.zeros(0), np.zeros(0)).estimate() == unbounded(0.0)


def test_time_averages_from_stretches() -> None:
    levels = np.random.default_rng(14).normal(5.0, 1.0, 1000)
    found = of_series(mean(levels), levels).estimate()
    assert (found["low"] or 0.0) < mean(levels) < (found["high"] or 0.0)
    assert of_series(1.0, levels[:9]).estimate() == unbounded(1.0)


def test_the_rate_of_a_regular_process_is_certain() -> None:
    found = rate_of(np.arange(1, 4001) / 4, 1000.0)
    assert found == {"value": 4.0, "low": pytest.approx(4.0), "high": pytest.approx(4.0)}
    assert rate_of(np.array([]), 1.0) == NOTHING
    assert rate_of(np.array([2.0]), 2.0) == unbounded(0.5)


def test_the_rate_of_a_poisson_process_covers() -> None:
    rng = np.random.default_rng(15)
    estimates = []
    for _ in range(RUNS):
        times = np.cumsum(rng.exponential(0.5, 1000))
        estimates.append(rate_of(times, float(times[-1])))
    share, coverage = covered(estimates, 2.0)
    assert share >= 0.95
    assert coverage >= 0.92


def test_events_count_in_the_stretch_that_ends_with_them() -> None:
    run = of_events(np.array([1.0, 1.5, 3.0]), 3.0, 1.0, steps=4)
    assert run.value == 1.0
    assert run.series.tolist() == [1.0, 1.0, 1.0, 0.0]
