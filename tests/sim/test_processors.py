"""Shared processors and threads: conservation, max–min fairness, and processor sharing against its closed form."""

import math
from fractions import Fraction
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from bufferlab.sim.clock import Clock
from bufferlab.sim.host.processors import SharedProcessors, Thread
from bufferlab.sim.streams import stream

few = settings(max_examples=60, deadline=None)


def ends_of(count: float, works: list[tuple[float, float, float]]) -> tuple[list[float], SharedProcessors]:
    """When works (arrival, processor seconds, width) end."""
    clock = Clock()
    processors = SharedProcessors(clock, count)
    ends = [math.nan] * len(works)

    def ended(number: int) -> None:
        ends[number] = clock.now

    for number, (arrival_s, work_s, width) in enumerate(works):
        clock.call_at(arrival_s, processors.run, work_s, width, ended, number)
    clock.run_while_busy()
    return ends, processors


def test_work_that_finds_room_takes_what_it_takes_alone() -> None:
    ends, _ = ends_of(2, [(0.0, 3.0, 1.0), (1.0, 1.0, 0.5)])
    assert ends == [3.0, 3.0]


def test_three_works_on_two_processors_have_two_thirds_each() -> None:
    assert ends_of(2, [(0.0, 2.0, 1.0)] * 3)[0] == pytest.approx([3.0] * 3)


def test_what_a_narrow_work_leaves_goes_to_the_wide_ones() -> None:
    # 0.25 + 0.875 + 0.875; when the narrow one ends the others have one each.
    ends, _ = ends_of(2, [(0.0, 0.5, 0.25), (0.0, 3.0, 1.0), (0.0, 3.0, 1.0)])
    assert ends == pytest.approx([2.0, 3.25, 3.25])


def test_work_wider_than_a_processor_is_held_back_by_others_like_any() -> None:
    ends, _ = ends_of(2, [(0.0, 3.0, 1.5), (0.0, 1.0, 1.0)])
    assert ends == pytest.approx([1 + 2 / 1.5, 1.0])  # one each for 1 s, then 2 s of work at 1.5
    assert ends_of(2, [(0.0, 3.0, 1.5)])[0] == pytest.approx([2.0])


def test_as_many_processors_as_threads_hold_nobody_back() -> None:
    assert ends_of(math.inf, [(0.0, 1.0, 1.0)] * 50)[0] == [1.0] * 50


def test_work_of_nothing_is_done_at_once_and_bad_values_are_refused() -> None:
    clock, seen = Clock(), []
    processors = SharedProcessors(clock, 1)
    processors.run(0.0, 1.0, seen.append, "done")
    assert seen == ["done"]
    for work_s, width in ((-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="must be at least 0"):
            processors.run(work_s, width, seen.append, "never")
    with pytest.raises(ValueError, match="more than 0"):
        SharedProcessors(clock, 0)
    assert not clock.busy


def exact_ends(count: Fraction, works: list[tuple[Fraction, Fraction, Fraction]]) -> list[Fraction]:
    """The same as a fluid, in fractions, stepping from one arrival or end to the next."""
    left = [work for _, work, _ in works]
    ends: list[Fraction | None] = [None] * len(works)
    now = Fraction(0)
    while None in ends:
        here = [number for number, (arrival, _, _) in enumerate(works) if arrival <= now and ends[number] is None]
        rates: dict[int, Fraction] = {}
        free, waiting = count, sorted(here, key=lambda number: works[number][2])
        for place, number in enumerate(waiting):
            rates[number] = min(works[number][2], free / (len(waiting) - place))
            free -= rates[number]
        times = [arrival for arrival, _, _ in works if arrival > now]
        times += [now + left[number] / rates[number] for number in here]
        then = min(times)
        for number in here:
            left[number] -= rates[number] * (then - now)
            if not left[number]:
                ends[number] = then
        now = then
    return [end for end in ends if end is not None]


sixteenths = st.integers(1, 64).map(lambda number: Fraction(number, 16))


@few
@given(
    st.integers(1, 4).map(Fraction),
    st.lists(
        st.tuples(st.integers(0, 64).map(lambda n: Fraction(n, 16)), sixteenths, sixteenths), min_size=1, max_size=8
    ),
)
def test_it_is_the_exact_fluid(count: Fraction, works: list[tuple[Fraction, Fraction, Fraction]]) -> None:
    ends, processors = ends_of(float(count), [(float(a), float(w), float(b)) for a, w, b in works])
    assert ends == pytest.approx([float(end) for end in exact_ends(count, works)], abs=1e-9)
    assert processors.busy_s == pytest.approx(float(sum(work for _, work, _ in works)))
    assert processors.running == processors.calls == 0


@pytest.mark.parametrize("invariant", ["deterministic", "exponential"])
def test_mean_times_are_those_of_processor_sharing(invariant: str) -> None:
    """M/G/1 processor sharing: the mean time is 1 / (1 - ρ), whatever the law of the sizes (Kleinrock 1967)."""
    load, expected, means = 0.7, 1 / 0.3, []
    for seed in range(30):
        draws = stream(seed, 0, "processors", invariant)
        number = 3000
        works = numpy.ones(number) if invariant == "deterministic" else draws.exponential(1.0, number)
        arrivals = numpy.cumsum(draws.exponential(1 / load, number))
        ends, _ = ends_of(1, [(float(a), float(w), 1.0) for a, w in zip(arrivals, works, strict=True)])
        means.append(float(numpy.mean((numpy.array(ends) - arrivals)[500:])))
    half = float(student.ppf(0.995, len(means) - 1) * numpy.std(means, ddof=1) / math.sqrt(len(means)))
    assert half < 0.1 * expected
    assert abs(numpy.mean(means) - expected) < half


# --- threads ---


def test_a_thread_does_one_thing_after_the_other_and_two_do_not() -> None:
    clock, seen = Clock(), []
    processors = SharedProcessors(clock, 2)
    threads = [Thread(processors), Thread(processors)]

    def note(name: str) -> None:
        seen.append((name, clock.now))

    for name, thread in (("a", 0), ("b", 0), ("c", 1)):
        threads[thread].run(1.0, note, name)
    clock.run_while_busy()
    assert seen == [("a", 1.0), ("c", 1.0), ("b", 2.0)]


def test_a_step_holds_its_thread_until_it_leaves() -> None:
    clock, seen = Clock(), []
    thread = Thread(SharedProcessors(clock, 1))
    thread.enter(lambda: clock.call_after(5.0, thread.leave))
    thread.run(1.0, lambda: seen.append(clock.now))
    clock.run_while_busy()
    assert seen == [6.0]


def test_thousands_of_steps_that_take_no_time_follow_each_other() -> None:
    clock, seen = Clock(), []
    thread = Thread(SharedProcessors(clock, 1))

    def step(number: int) -> None:
        seen.append(number)
        thread.leave()

    thread.enter(lambda: clock.call_after(1.0, thread.leave))
    for number in range(5000):
        thread.enter(step, number)
    assert seen == []
    clock.run_while_busy()
    assert seen == list(range(5000))


def test_what_a_thread_is_given_within_a_step_comes_last() -> None:
    clock, seen = Clock(), []
    thread = Thread(SharedProcessors(clock, 1))

    def step(name: str, *after: Any) -> None:
        seen.append(name)
        for one in after:
            thread.enter(step, one)
        thread.leave()

    thread.enter(step, "a", "c")
    thread.enter(step, "b")
    assert seen == ["a", "c", "b"]
    clock.call_after(0.0, thread.enter, lambda: clock.call_after(1.0, thread.leave))
    clock.call_after(0.5, thread.enter, step, "d", "f")
    clock.call_after(0.5, thread.enter, step, "e")
    clock.run_while_busy()
    assert seen == ["a", "c", "b", "d", "e", "f"]
