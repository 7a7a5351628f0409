"""Distributions over replications: shares that hold of all requests, where means of quantiles would not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.figures.distributions import (
    MOST_TIMES,
    Steps,
    distribution_of,
    level_steps,
)
from bufferlab.experiments.stats.quantiles import at_levels

SAMPLES = st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=300)


def steps_of(samples: list[float]) -> Steps:
    """What is known of one replication with all its samples."""
    ordered = np.sort(np.array(samples))
    return Steps(ordered, np.arange(1, len(ordered) + 1) / len(ordered))


@given(st.lists(SAMPLES, min_size=1, max_size=6))
def test_the_share_at_a_time_is_the_mean_of_the_replications_shares(replications: list[list[float]]) -> None:
    found = distribution_of([steps_of(one) for one in replications])
    assert found is not None
    assert found.replications == len(replications)
    for time, share in zip(found.times_s, found.shares, strict=True):
        assert share == pytest.approx(np.mean([(np.array(one) <= time).mean() for one in replications]))
    assert (np.diff(found.shares) >= 0).all()
    assert found.times_s[-1] == max(map(max, replications))
    assert found.shares[-1] == pytest.approx(1.0)
    if found.low is not None and found.high is not None:
        assert ((found.low >= 0) & (found.low <= found.shares) & (found.shares <= found.high)).all()
        assert (found.high <= 1).all()


@given(st.lists(SAMPLES, min_size=1, max_size=6))
def test_of_quantiles_it_is_known_to_half_a_percent(replications: list[list[float]]) -> None:
    kept = distribution_of(level_steps(np.array([at_levels(np.array(one)) for one in replications])))
    assert kept is not None
    for time, share in zip(kept.times_s, kept.shares, strict=True):
        true = np.mean([(np.array(one) <= time).mean() for one in replications])
        assert true - 0.005 - 1e-9 <= share <= true + 1e-9


def test_one_slow_replication_of_ten_moves_a_tenth_of_the_curve() -> None:
    """Nine of ten replications take 0.1 to 0.2 s, one a hundred times that: half of all are within 0.16 s."""
    quick = np.linspace(0.1, 0.2, 1000)
    found = distribution_of([steps_of((quick * (100 if number == 0 else 1)).tolist()) for number in range(10)])
    assert found is not None
    pooled = np.concatenate([quick * 100, *[quick] * 9])
    assert found.time_s(0.5) == pytest.approx(np.quantile(pooled, 0.5), rel=0.01)
    assert found.within(1.0) == pytest.approx(0.9)
    assert found.time_s(0.99) == pytest.approx(np.quantile(pooled, 0.99), rel=0.01)
    assert found.times_s[-1] == 20.0
    assert np.mean([np.quantile(quick, 0.5)] * 9 + [np.quantile(100 * quick, 0.5)]) > 1.6  # what a summary has


def test_long_and_many_replications_are_known_at_few_times_and_to_the_end() -> None:
    rng = np.random.default_rng(5)
    found = distribution_of([steps_of(rng.lognormal(size=2000).tolist()) for _ in range(30)])
    assert found is not None
    assert len(found.times_s) == MOST_TIMES
    assert np.max(np.diff(found.shares)) < 0.01  # no step that can be seen


def test_of_a_resampled_file_it_is_the_files_own() -> None:
    found = distribution_of([steps_of([1.0, 2.0]), steps_of([5.0])], resampled=True)
    assert found is not None
    assert found.times_s.tolist() == [1.0, 2.0]
    assert found.low is None
    assert found.replications == 1
    assert distribution_of([]) is None


def test_bands_hold_the_true_share_as_often_as_they_say() -> None:
    """Replications differ as a lognormal with sigma 1 does; the true share within 1 s is known by its integral.

    In 400 trials 95 % have a standard error of 1.1 %, so less than 90 or more than 99 % are improbable (< 1e-4).
    """
    rng = np.random.default_rng(11)
    draws = np.exp(rng.normal(size=(200_000, 2)).sum(axis=1))
    true = float((draws <= 1).mean())
    held = 0
    for _ in range(400):
        levels = rng.normal(size=10)
        found = distribution_of([steps_of(np.exp(level + rng.normal(size=60)).tolist()) for level in levels])
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        place = int(np.searchsorted(found.times_s, 1.0, side="right")) - 1
        held += bool(found.low[place] <= true <= found.high[place])
    assert 0.90 < held / 400 < 0.99
