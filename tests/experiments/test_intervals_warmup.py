"""MSER-5 against its definition, its invariances, and transients that anybody would see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bufferlab.experiments.stats.intervals import Samples
from bufferlab.experiments.stats.warmup import mser5

SEEDS = st.integers(0, 2**32)


def transient(seed: int, length: int, height: float, count: int = 2000) -> Samples:
    """Noise around 10 whose first ``length`` samples rise from ``height`` below it."""
    rng = np.random.default_rng(seed)
    ramp = np.minimum(np.arange(count) / max(length, 1) - 1.0, 0.0)
    return 10.0 + height * ramp + rng.normal(size=count)


def by_definition(samples: Samples) -> int | None:
    groups = samples[: len(samples) // 5 * 5].reshape(-1, 5).mean(axis=1)
    errors = [float(np.var(groups[cut:])) / len(groups[cut:]) for cut in range(len(groups) - 5)]
    cut = int(np.argmin(errors))
    return 5 * cut if 2 * cut <= len(groups) else None


@given(SEEDS, st.integers(100, 600), st.floats(0.0, 20.0))
def test_the_cut_is_where_the_definition_has_its_minimum(seed: int, count: int, height: float) -> None:
    samples = transient(seed, count // 4, height, count)
    assert mser5(samples) == by_definition(samples)


@given(SEEDS, st.integers(-20, 20), st.floats(-1e4, 1e4))
def test_unit_sign_and_origin_do_not_matter(seed: int, exponent: int, shift: float) -> None:
    samples = transient(seed, 150, 5.0, 500)
    assert mser5(samples * 2.0**exponent) == mser5(-samples) == mser5(samples + shift) == mser5(samples)


@pytest.mark.parametrize("length", [50, 200, 600])
def test_an_obvious_transient_is_cut_where_it_ends(length: int) -> None:
    cuts = [mser5(transient(seed, length, 30.0)) for seed in range(20)]
    for cut in cuts:
        assert cut is not None
        # Near its end the ramp is lost in the noise, so a little of it may stay.
        assert 0.85 * length - 10 <= cut <= 1.3 * length + 30


def test_without_a_transient_little_is_cut() -> None:
    cuts = [mser5(transient(seed, 0, 0.0)) for seed in range(40)]
    assert np.median([2000 if cut is None else cut for cut in cuts]) <= 100


def test_a_run_that_never_settles_is_too_short() -> None:
    assert mser5(np.arange(1000.0)) is None
    assert mser5(transient(1, 1900, 30.0)) is None


def test_short_and_constant_runs() -> None:
    assert mser5(np.zeros(0)) is None
    assert mser5(np.ones(99)) is None
    assert mser5(np.full(100, 0.1)) == 0


def test_a_far_outlier_at_the_start_is_cut_exactly() -> None:
    samples = np.concatenate([np.full(5, 1e9), np.random.default_rng(3).normal(size=995)])
    assert mser5(samples) == 5 + (mser5(samples[5:]) or 0)
