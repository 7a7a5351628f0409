"""Paired differences: by hand, how often they cover, and what pairing gains where luck is shared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.stats.batching import of_outcomes, of_samples
from bufferlab.experiments.stats.intervals import across_replications, mean, quantile, t_quantile
from bufferlab.experiments.stats.paired import Difference, paired, paired_each, paired_in_run

NUMBERS = st.floats(-1e5, 1e5)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=20)


def test_three_pairs_by_hand() -> None:
    # Differences 1, 2 and 3: mean 2, standard deviation 1. The sides vary far more: variances 100 and 121.
    found = paired([0.0, 10.0, 20.0], [1.0, 12.0, 23.0])
    half = 4.302652729749464 / math.sqrt(3)
    assert (found["value"], found["first"], found["second"], found["pairs"]) == (2.0, 10.0, 12.0, 3)
    assert found["low"] == pytest.approx(2 - half)
    assert found["high"] == pytest.approx(2 + half)
    assert found["significant"] is False
    assert found["variance_reduction"] == pytest.approx(100 + 121)
    freedom = 221**2 / ((100**2 + 121**2) / 2)
    assert found["unpaired_high"] == pytest.approx(2 + t_quantile(freedom) * math.sqrt(221 / 3))


@given(st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), max_size=5))
def test_many_figures_at_once_are_as_one_by_one(figures: list[list[tuple[float, float]]]) -> None:
    sides = [([one for one, _ in pairs], [other for _, other in pairs]) for pairs in figures]
    assert paired_each(sides) == [paired(*pair) for pair in sides]


@given(PAIRS)
def test_the_interval_without_pairing_is_welchs(pairs: list[tuple[float, float]]) -> None:
    ones, others = (np.array(side) for side in zip(*pairs, strict=True))
    found = paired(ones.tolist(), others.tolist())
    one, other = (side.var(ddof=1) / len(side) for side in (ones, others))
    half = 0.0
    if one + other > 0:
        part = one / (one + other)
        half = t_quantile((len(ones) - 1) / (part * part + (1 - part) * (1 - part))) * math.sqrt(one + other)
    middle = found["value"] or 0.0
    assert found["unpaired_low"] == pytest.approx(middle - half, rel=1e-6, abs=1e-6)
    assert found["unpaired_high"] == pytest.approx(middle + half, rel=1e-6, abs=1e-6)


def test_pairs_that_lack_a_side_are_left_out() -> None:
    found = paired([1.0, None, 3.0, 4.0], [2.0, 5.0, None, 4.0])
    assert (found["pairs"], found["value"], found["first"], found["second"]) == (2, 0.5, 2.5, 3.0)
    single = paired([1.0, None], [3.0, 1.0])
    assert (single["value"], single["low"], single["significant"], single["pairs"]) == (2.0, None, None, 1)
    assert paired([None], [None])["value"] is None
    with pytest.raises(ValueError, match="there are 1 and 2 values"):
        paired([1.0], [1.0, 2.0])


@given(PAIRS)
def test_swapping_the_sides_turns_the_sign(pairs: list[tuple[float, float]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    found, mirrored = paired(first, second), paired(second, first)
    assert found["value"] == pytest.approx(-(mirrored["value"] or 0.0))
    assert found["low"] == pytest.approx(-(mirrored["high"] or 0.0))
    assert found["significant"] is mirrored["significant"]
    assert found["variance_reduction"] == mirrored["variance_reduction"]


@given(PAIRS)
def test_the_difference_is_the_interval_across_replications_of_the_differences(
    pairs: list[tuple[float, float]],
) -> None:
    found = paired([one for one, _ in pairs], [other for _, other in pairs])
    expected = across_replications([other - one for one, other in pairs])
    assert (found["value"], found["low"], found["high"]) == (expected["value"], expected["low"], expected["high"])
    assert (found["low"] or 0.0) <= (found["value"] or 0.0) <= (found["high"] or 0.0)


def test_pairing_covers_and_is_narrow_where_luck_is_shared() -> None:
    rng = np.random.default_rng(1)
    hits, narrower = 0, 0
    for _ in range(1000):
        luck = rng.normal(0.0, 5.0, 8)
        found = paired((luck + rng.normal(size=8)).tolist(), (luck + 1.0 + rng.normal(size=8)).tolist())
        assert found["low"] is not None
        assert found["high"] is not None
        assert found["unpaired_low"] is not None
        hits += found["low"] <= 1.0 <= found["high"]
        narrower += found["low"] > found["unpaired_low"]
    assert 0.93 <= hits / 1000 <= 0.97
    assert narrower / 1000 > 0.97


def test_pairing_is_honest_where_luck_is_not_shared() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    reductions = []
    for _ in range(1000):
        found = paired(rng.normal(size=8).tolist(), rng.normal(size=8).tolist())
        hits += found["significant"] is False
        reductions.append(found["variance_reduction"] or 0.0)
    assert 0.93 <= hits / 1000 <= 0.97
    assert np.median(reductions) == pytest.approx(1.0, abs=0.1)


def queues(rng: np.random.Generator, count: int, speedup: float) -> tuple[np.ndarray, np.ndarray]:
    """Waits of the same customers in two queues, the second of which serves faster by ``speedup``."""
    service, gaps = rng.exponential(0.8, count), rng.exponential(1.0, count)
    made = []
    for factor in (1.0, 1 / speedup):
        walk = np.concatenate([[0.0], np.cumsum(service[:-1] * factor - gaps[1:])])
        made.append(walk - np.minimum.accumulate(walk))
    return made[0], made[1]


def test_one_pair_of_long_runs() -> None:
    """The same customers at two speeds: M/M/1 waits at utilisations 0.8 and 0.75."""
    # ρ²/(1 − ρ) at one arrival a second.
    truth = 0.75**2 / 0.25 - 0.8**2 / 0.2
    rng = np.random.default_rng(3)
    found: list[Difference] = []
    for _ in range(100):
        slow, fast = queues(rng, 20_000, 0.8 / 0.75)
        found.append(paired_in_run(of_samples(slow, mean), of_samples(fast, mean)))
    told = [one for one in found if one["low"] is not None]
    assert len(told) >= 80
    assert sum((one["low"] or 0.0) <= truth <= (one["high"] or 0.0) for one in told) / len(told) >= 0.90
    assert all(one["significant"] for one in told)
    assert np.median([one["variance_reduction"] or 0.0 for one in told]) > 4
    assert {one["pairs"] for one in told} == {10}


def test_quantiles_and_shares_of_one_pair_of_runs() -> None:
    rng = np.random.default_rng(4)
    slow, fast = queues(rng, 20_000, 1.25)
    median = paired_in_run(of_samples(slow, quantile(0.5)), of_samples(fast, quantile(0.5)))
    assert median["value"] == quantile(0.5)(fast) - quantile(0.5)(slow)
    assert median["high"] is not None
    assert median["high"] < 0
    waited = [of_outcomes((one > 0).astype(float)) for one in (slow, fast)]
    share = paired_in_run(*waited)
    # The share that waits is the utilisation.
    assert (share["low"] or 0.0) <= 0.64 - 0.8 <= (share["high"] or 0.0)
    assert share["significant"]


def test_runs_that_cannot_tell_have_no_interval() -> None:
    rng = np.random.default_rng(5)
    short = of_samples(rng.normal(size=100), mean)
    long = of_samples(rng.normal(size=2000), mean)
    trend = of_samples(np.arange(2000.0), mean)
    for first, second in ((short, short), (long, trend), (long, short)):
        found = paired_in_run(first, second)
        assert (found["low"], found["significant"], found["pairs"]) == (None, None, 0)
        assert found["value"] is not None
    nothing = paired_in_run(long, None)
    assert (nothing["value"], nothing["second"]) == (None, None)
    assert nothing["first"] is not None


def test_the_same_run_twice_does_not_differ() -> None:
    run = of_samples(np.random.default_rng(6).normal(size=2000), mean)
    found = paired_in_run(run, run)
    assert (found["value"], found["low"], found["high"], found["significant"]) == (0.0, 0.0, 0.0, False)
    assert found["variance_reduction"] is None
