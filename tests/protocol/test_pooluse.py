"""The integrals of a pool's use, against levels integrated segment by segment."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.observe.pooluse import FIRST_BATCH_S, MOST_BATCHES, MOST_STRETCHES, PoolUse

Step = tuple[float, int, int, int, int]
"""Seconds since the step before, then the levels from here on: blocks, tokens, used tokens, waiting rooms."""

STEPS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(1e-9, 0.05), st.floats(0.1, 30.0)),
        *(st.integers(0, 50) for _ in range(4)),
    ),
    min_size=1,
    max_size=40,
)


def feed(use: PoolUse, steps: list[Step]) -> list[tuple[float, tuple[int, int, int, int]]]:
    """Set the levels one after another; returns when each set began."""
    now_s, levels, history = 0.0, (0, 0, 0, 0), [(0.0, (0, 0, 0, 0))]
    for since_s, *wanted in steps:
        now_s += since_s
        use.change(now_s, wanted[0] - levels[0], wanted[1] - levels[1], wanted[2] - levels[2])
        use.wait(now_s, wanted[3] - levels[3])
        levels = (wanted[0], wanted[1], wanted[2], wanted[3])
        history.append((now_s, levels))
    return history


def integral(history: list[tuple[float, tuple[int, int, int, int]]], start_s: float, end_s: float) -> list[float]:
    """The integrals of the four levels from start to end, by adding up rectangles."""
    ends = [time_s for time_s, _ in history[1:]] + [math.inf]
    return [
        math.fsum(
            levels[which] * max(min(end, end_s) - max(begin, start_s), 0.0)
            for (begin, levels), end in zip(history, ends, strict=True)
        )
        for which in range(4)
    ]


def totals(use: PoolUse) -> list[float]:
    return [use.held_block_s, use.held_token_s, use.used_token_s, use.blocked_s]


@settings(max_examples=50)
@given(STEPS, st.floats(0.0, 10.0))
def test_totals_and_every_batch_are_the_area_below_the_levels(steps: list[Step], rest_s: float) -> None:
    use = PoolUse(50)
    history = feed(use, steps)
    end_s = history[-1][0] + rest_s
    use.advance(end_s)
    assert totals(use) == pytest.approx(integral(history, 0.0, end_s), rel=1e-9, abs=1e-12)
    batches = use.batches()
    assert len(batches) == math.floor(end_s / use.batch_s) <= MOST_BATCHES
    for number in {0, len(batches) // 2, len(batches) - 1} if batches else ():
        expected = integral(history, number * use.batch_s, (number + 1) * use.batch_s)
        # A batch is the difference of two running totals, so its error is theirs.
        assert list(batches[number]) == pytest.approx(expected, rel=1e-9, abs=1e-12 * max(1.0, *totals(use)))


@settings(max_examples=50)
@given(STEPS)
def test_merging_batches_loses_nothing(steps: list[Step]) -> None:
    use = PoolUse(50)
    end_s = feed(use, steps)[-1][0]
    use.advance(end_s)
    # Advance to the end of the last batch, so that batches cover everything.
    use.advance(math.ceil(end_s / use.batch_s) * use.batch_s)
    whole = [math.fsum(batch[which] for batch in use.batches()) for which in range(4)]
    assert whole == pytest.approx(totals(use), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("end_s", [1e-4, 0.7, 33.3, 1e6])
def test_a_run_of_any_length_has_about_as_many_batches(end_s: float) -> None:
    use = PoolUse(1)
    use.change(0.0, 1, 0, 0)
    use.advance(end_s)
    batches = use.batches()
    if end_s < MOST_BATCHES * FIRST_BATCH_S:
        assert use.batch_s == FIRST_BATCH_S
    else:
        assert MOST_BATCHES // 2 <= len(batches) <= MOST_BATCHES
    assert math.log2(use.batch_s).is_integer()
    # One block was held all the time.
    assert [batch[0] for batch in batches] == pytest.approx([use.batch_s] * len(batches), rel=1e-6)


@settings(max_examples=50)
@given(STEPS, st.floats(0.0, 40.0), st.floats(0.0, 10.0))
def test_counting_from_a_later_time_leaves_out_what_was_before(
    steps: list[Step], start_s: float, rest_s: float
) -> None:
    use = PoolUse(50)
    use.count_from(start_s)
    history = feed(use, steps)
    end_s = max(history[-1][0], start_s) + rest_s
    use.advance(end_s)
    assert totals(use) == pytest.approx(integral(history, start_s, end_s), rel=1e-9, abs=1e-12)
    assert use.counted_s == pytest.approx(end_s - start_s)
    # What is held when counting begins is part of the peak, what was given back before is not.
    later = [levels[0] for time_s, levels in history if time_s >= start_s]
    if start_s not in [time_s for time_s, _ in history]:
        later += [levels[0] for time_s, levels in history if time_s < start_s][-1:]
    assert use.peak_blocks == max(later)


def test_nothing_counts_until_the_start_is_known() -> None:
    use = PoolUse(4)
    use.count_from(math.inf)
    use.change(1.0, 3, 0, 0)
    use.change(2.0, -1, 0, 0)
    use.count_from(5.0)
    use.advance(7.0)
    assert (use.held_block_s, use.peak_blocks, use.counted_s) == (4.0, 2, 2.0)
    with pytest.raises(ValueError, match=r"start_s is 9\.0, but counting began at 5\.0"):
        use.count_from(9.0)


@settings(max_examples=50)
@given(STEPS, STEPS, st.floats(0.0, 5.0))
def test_counting_may_be_found_to_have_ended_earlier(steps: list[Step], later: list[Step], start_s: float) -> None:
    """What comes after the time that was kept is as if it had not come, except for the length of the batches."""
    whole, cut = PoolUse(50), PoolUse(50)
    for use in (whole, cut):
        use.count_from(start_s)
    feed(cut, steps)
    kept_s = max(feed(whole, steps)[-1][0], start_s)
    whole.keep(kept_s)
    cut.finish(kept_s, kept_s)
    now_s = kept_s
    for since_s, blocks, *_ in later:
        now_s += since_s
        whole.change(now_s, blocks - whole.held_blocks, 0, 0)
    whole.finish(kept_s, now_s + 1.0)
    assert totals(whole) == pytest.approx(totals(cut), rel=1e-9, abs=1e-12)
    assert (whole.counted_s, whole.peak_blocks) == (cut.counted_s, cut.peak_blocks)
    assert len(whole.batches()) == math.floor((kept_s - start_s) / whole.batch_s)
    assert whole.to_the_end_block_s >= whole.held_block_s


def totals_in_arrays(history: list[tuple[float, tuple[int, int, int, int]]]) -> tuple[list[list[float]], float]:
    """The totals at every mark and at the end, by cumulative sums over so many stretches at a time as are integrated
    together; and how long batches are in the end."""
    # Levels are noted when they change at another time than before, until then and from then on.
    begins = [when for when, (time_s, _) in enumerate(history) if when == 0 or time_s > history[when - 1][0]]
    ends_s = np.array([history[when][0] for when in begins[1:]])
    levels = np.array([history[when - 1][1] for when in begins[1:]], dtype=np.float64)
    batch_s, integrated_s, marks = FIRST_BATCH_S, 0.0, np.zeros((0, 4))
    sums = np.zeros((1, 4))
    for first in range(0, len(ends_s), MOST_STRETCHES):
        some_s, held = ends_s[first : first + MOST_STRETCHES], levels[first : first + MOST_STRETCHES]
        while some_s[-1] >= MOST_BATCHES * batch_s:
            marks, batch_s = marks[::2], 2 * batch_s
        marks_s = np.arange(len(marks), math.floor(some_s[-1] / batch_s) + 1) * batch_s
        times_s = np.sort(np.concatenate([some_s, marks_s]), kind="stable")
        lasted_s = np.diff(times_s, prepend=integrated_s)
        sums = np.cumsum(np.vstack([sums[-1], lasted_s[:, None] * held[np.searchsorted(some_s, times_s)]]), axis=0)
        marks = np.vstack([marks, sums[1:][np.searchsorted(times_s, marks_s)]])
        integrated_s = some_s[-1]
    return [*marks.tolist(), sums[-1].tolist()], batch_s


@pytest.mark.parametrize(("seed", "steps", "scale_s"), [(1, 3, 1.0), (2, 700, 1e-6), (3, 5000, 1e-4), (4, 3000, 10.0)])
def test_sums_are_those_of_arrays_to_the_last_bit(seed: int, steps: int, scale_s: float) -> None:
    """However it is computed, a figure of a run does not change."""
    draw = np.random.default_rng(seed)
    use = PoolUse(50)
    history = feed(
        use,
        [(float(since_s), *map(int, draw.integers(0, 50, 4))) for since_s in draw.exponential(scale_s, steps)],
    )
    use.advance(history[-1][0])
    expected, batch_s = totals_in_arrays(history)
    assert use.batch_s == batch_s
    assert [*map(list, use.marks), totals(use)] == expected
