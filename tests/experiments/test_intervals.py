"""Intervals from independent samples, against numbers worked out by hand, properties, and how often they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr, ndtri, stdtrit
from scipy.stats import binomtest

from bufferlab.experiments.stats.intervals import (
    NORMAL_QUANTILE,
    NOTHING,
    T_QUANTILES,
    Estimate,
    across_replications,
    half_width,
    mean,
    order_statistics,
    quantile,
    replications_needed,
    shares_across,
    t_quantile,
    unbounded,
    wilson,
    within,
)

NUMBERS = st.floats(-1e6, 1e6)


def holds(estimate: Estimate, truth: float | None) -> bool:
    low, high = estimate["low"], estimate["high"]
    return low is not None and high is not None and truth is not None and low <= truth <= high


def test_replications_without_a_number_are_left_out() -> None:
    assert across_replications([None, None]) == NOTHING
    assert across_replications([None, 2.0]) == {"value": 2.0, "low": None, "high": None}
    assert across_replications([1.0, None, 3.0])["value"] == 2.0


@given(st.lists(NUMBERS, min_size=2, max_size=20))
def test_an_interval_across_replications_holds_its_value(values: list[float]) -> None:
    found = across_replications(values)
    assert holds(found, found["value"])
    assert min(values) - 1e-6 <= (found["value"] or 0.0) <= max(values) + 1e-6


def test_t_intervals_cover() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(1000):
        samples = rng.normal(3.0, 2.0, 6).tolist()
        hits += abs(mean(np.array(samples)) - 3.0) <= half_width(samples)
    assert 0.93 <= hits / 1000 <= 0.97


@pytest.mark.parametrize(
    ("shares", "bounded"), [([0.0, 0.0], False), ([1.0, 1.0, None], False), ([0.0, 1.0], True), ([0.5, 0.5], True)]
)
def test_a_share_that_never_varied_is_not_known_exactly(shares: list[float | None], bounded: bool) -> None:
    assert (shares_across(shares)["low"] is not None) is bounded
    assert shares_across(shares)["value"] == across_replications(shares)["value"]


def test_wilson_by_hand() -> None:
    # z² = 3.8415: 0 of 10 gives z²/(10 + z²); 5 of 10 gives 1/2 ± z/(2 √(10 + z²)).
    square = 3.841458820694124
    none = wilson(0, 10)
    assert (none["value"], none["low"]) == (0.0, 0.0)
    assert none["high"] == pytest.approx(square / (10 + square))
    half = wilson(5, 10)
    assert half["high"] == pytest.approx(0.5 + math.sqrt(square / (10 + square)) / 2)
    assert wilson(0, 0) == NOTHING
    with pytest.raises(ValueError, match="successes is 3 and trials is 2"):
        wilson(3, 2)


@given(st.integers(1, 1000), st.data())
def test_wilson_holds_its_value_and_is_symmetric(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    found, mirrored = wilson(successes, trials), wilson(trials - successes, trials)
    assert holds(found, found["value"])
    assert found["low"] == pytest.approx(1 - (mirrored["high"] or 0.0), abs=1e-12)
    assert 0 <= (found["low"] or 0.0) < (found["high"] or 0.0) <= 1


@given(st.integers(1, 1000), st.data())
def test_wilson_is_that_of_scipy_to_the_last_bit(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    theirs = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    share = successes / trials
    found = wilson(successes, trials)
    assert (found["low"], found["high"]) == (min(theirs.low, share), max(theirs.high, share))


def test_written_quantiles_are_those_of_scipy_to_the_last_bit() -> None:
    assert ndtri(0.975) == NORMAL_QUANTILE
    assert [float(stdtrit(freedom, 0.975)) for freedom in range(1, len(T_QUANTILES) + 1)] == list(T_QUANTILES)


@pytest.mark.parametrize("freedom", [1, 2.0, 2.5, 9, 30, 30.5, 31, 1000])
def test_the_t_quantile_is_the_same_written_or_computed(freedom: float) -> None:
    assert t_quantile(freedom) == float(stdtrit(freedom, 0.975))


@given(st.integers(1, 400), st.floats(0.02, 0.98))
def test_order_statistics_cover_by_the_binomial_law(count: int, level: float) -> None:
    # The values are their own ranks, so the interval says which ranks were chosen.
    found = order_statistics([float(rank) for rank in range(1, count + 1)], level)
    reachable = level**count <= 0.025 and (1 - level) ** count <= 0.025
    assert (found["low"] is not None) is reachable
    if found["low"] is not None and found["high"] is not None:
        low, high = int(found["low"]), int(found["high"])
        assert bdtr(high - 1, count, level) - bdtr(low - 1, count, level) >= 0.95
        assert holds(found, found["value"])
        # No narrower one on either side keeps its 2.5 %.
        assert bdtr(low, count, level) > 0.025
        assert bdtr(high - 2, count, level) < 0.975


@pytest.mark.parametrize(("level", "least"), [(0.5, 6), (0.9, 36), (0.99, 368)])
def test_a_quantile_needs_enough_samples(level: float, least: int) -> None:
    assert order_statistics([1.0] * (least - 1), level) == unbounded(1.0)
    assert order_statistics([1.0] * least, level) == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert order_statistics([], level) == NOTHING
    with pytest.raises(ValueError, match="level is 1, it must be between 0 and 1"):
        order_statistics([1.0], 1)


def test_order_statistics_cover_a_skewed_distribution() -> None:
    rng = np.random.default_rng(11)
    truth = -math.log(0.1)  # p90 of an exponential
    hits = sum(holds(order_statistics(rng.exponential(1.0, 60).tolist(), 0.9), truth) for _ in range(1000))
    assert hits >= 940  # 950 are promised, with a standard error of 7


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=10), st.floats(0.01, 0.5))
def test_replications_needed_is_the_smallest_number_that_does(values: list[int], relative: float) -> None:
    pilot = [float(value) for value in values]
    needed = replications_needed(pilot, relative)
    assert needed is not None
    allowed = sum(pilot) / len(pilot) * relative / (1 + relative)
    deviation = float(np.std(pilot, ddof=1))
    assert t_quantile(needed - 1) * deviation / math.sqrt(needed) <= allowed
    if needed > 2:
        assert t_quantile(needed - 2) * deviation / math.sqrt(needed - 1) > allowed


def test_replications_needed_at_the_edges() -> None:
    assert replications_needed([4.0, 4.0]) == 2
    assert replications_needed([-1.0, 1.0]) is None
    with pytest.raises(ValueError, match=r"the number of values is 1 and relative is 0\.05"):
        replications_needed([1.0])


def test_bounds_are_cut_to_what_is_possible() -> None:
    assert within({"value": 0.1, "low": -0.2, "high": 1.3}, 0.0, 1.0) == {"value": 0.1, "low": 0.0, "high": 1.0}
    assert within(unbounded(2.0), 0.0) == unbounded(2.0)


@given(st.lists(NUMBERS, min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_quantile_is_a_value_that_occurred_and_enough_lie_below(values: list[float], level: float) -> None:
    samples = np.array(values)
    found = quantile(level)(samples)
    assert found in values
    assert np.count_nonzero(samples <= found) >= level * len(values) - 1e-9
    assert np.count_nonzero(samples < found) < math.ceil(level * len(values))
