"""Stretches of a run's traffic in which more is offered than served, though its mean over the whole run is not.

A file of requests has pauses, bursts and busy hours. The traffic is cut where it pauses, with nothing under way, and
what lies between is looked at whole and in parts of a half, a quarter, … of it, which overlap. A part is over capacity
as a whole run is (``capacity``): a stage is full while the times to the end grow beyond what the chance of arrivals and
lengths makes of them. Chance is taken from the part itself, and of the many parts one would look overloaded by mere
chance now and then, so they must be surer of it than a whole run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bufferlab.experiments.stats.batching import autocorrelation_time

if TYPE_CHECKING:
    from bufferlab.experiments.stats.intervals import Samples

PARTS = 10
LEAST_REQUESTS = 40
LEAST_GROWTH = 0.02
"""Less is not worth a word, however certain."""
ERRORS = 2.0
ERRORS_OF_PARTS = 4.0
MOST_NOISE = LEAST_REQUESTS**-0.5
"""A part whose arrivals come in bunches tells as little as a few requests do."""
SMALLEST_PART = 1 / 32
PAUSE = 50
"""A pause is so many times as long as requests are apart otherwise, on average."""
SATURATED = 0.95
FEW_BATCHES = 4
LONG = 0.5
"""A stage is full for long if it is while half of the requests are there, in parts of a quarter or more."""
LONG_PART = 0.25


class Levels(NamedTuple):
    """How busy a stage was, as a share, in successive batches of time."""

    start_s: float
    batch_s: float
    shares: Samples

    def between(self, begin_s: float, end_s: float, done_s: float) -> float:
        """The share of the time from ``begin_s`` to ``end_s`` that it was busy.

        For a time of few batches: what it was busy until ``done_s``, when the work of that time was done, as a share of
        the time until then.
        """
        first, last = math.ceil((begin_s - self.start_s) / self.batch_s), int((end_s - self.start_s) / self.batch_s)
        if last - first >= FEW_BATCHES:
            return float(np.add.reduce(self.shares[max(first, 0) : last])) / (last - first)
        first, last = int((begin_s - self.start_s) / self.batch_s), math.ceil((done_s - self.start_s) / self.batch_s)
        worked_s = float(np.add.reduce(self.shares[max(first, 0) : last])) * self.batch_s
        return min(worked_s / (done_s - begin_s), 1.0) if done_s > begin_s else 0.0


class Course(NamedTuple):
    """The requests that count, in order of arrival."""

    arrivals_s: Samples
    ends_s: Samples
    """Of their prefills; NaN: never."""
    timed_out: Samples
    tokens: Samples

    def part(self, first: int, last: int) -> Course:
        """Those from ``first`` to before ``last``."""
        return Course(*(values[first:last] for values in self))


class Stretch(NamedTuple):
    """Successive requests that came faster than a stage could serve them, or all while it was full."""

    first: int
    last: int
    """Numbers of the first of these requests and of the one after the last."""
    begin_s: float
    end_s: float
    stage: str
    busy: float


def growth_of(course: Course, *, disturbed: bool) -> tuple[float | None, float]:
    """How many seconds a system falls behind in a second, and the standard error of that by chance alone.

    ``disturbed``: requests that time out do so for another reason than that the system is full.
    """
    return _growth(course, disturbed=disturbed), _noise(course)


def _growth(course: Course, *, disturbed: bool) -> float | None:
    growth = _slope(course.arrivals_s, course.ends_s)
    lost = float(np.mean(course.timed_out))
    if lost and not disturbed:
        growth = (1 + max(growth or 0.0, 0.0)) / max(1 - lost, 1 / len(course.arrivals_s)) - 1
    return growth


def pauses(course: Course) -> list[tuple[int, float]]:
    """Where the traffic pauses: the number of the request that ends a pause, and how long nothing was under way."""
    gaps_s = np.diff(course.arrivals_s)
    left_s, count = float(gaps_s.sum()), len(gaps_s)
    found: list[int] = []
    for place in np.argsort(-gaps_s, kind="stable").tolist():
        left_s, count = left_s - gaps_s[place], count - 1
        # A mean of few gaps, or of gaps of nothing, says nothing.
        if count < LEAST_REQUESTS or gaps_s[place] <= PAUSE * left_s / count or gaps_s[place] <= 0:
            break
        found.append(place)
    ends_s = np.where(np.isnan(course.ends_s), course.arrivals_s, course.ends_s)
    done_s = np.maximum.accumulate(ends_s) if len(ends_s) else ends_s
    idle_s = [(place + 1, float(course.arrivals_s[place + 1] - done_s[place])) for place in sorted(found)]
    return [(number, lasted_s) for number, lasted_s in idle_s if lasted_s > 0]


def overloaded(
    course: Course, levels: Mapping[str, Levels], breaks: Sequence[int], *, disturbed: bool
) -> list[Stretch]:
    """The stretches in which more was offered than served, in order; those that overlap are one.

    ``breaks``: the numbers of the requests that end ``pauses``.
    """
    found = []
    for first, last, errors in _parts(course, breaks):
        part = course.part(first, last)
        if part.arrivals_s[-1] <= part.arrivals_s[0]:
            continue
        # What most parts are not, and what is told soonest, is asked first.
        full = _full(part, levels)
        if full is None:
            continue
        growth = _growth(part, disturbed=disturbed)
        if growth is None or growth <= LEAST_GROWTH:
            continue
        noise = _noise(part)
        if noise <= MOST_NOISE and growth > errors * noise:
            found.append(_stretch(course, first, last, *full))
    return _merged(course, found)


def full_for_long(course: Course, levels: Mapping[str, Levels], breaks: Sequence[int]) -> list[Stretch]:
    """The stretches in which a stage was full, if half of the requests or more came in them; else none."""
    full = []
    for first, last, _ in _parts(course, breaks):
        if last - first < LONG_PART * len(course.arrivals_s):
            continue
        part = course.part(first, last)
        stage = _full(part, levels)
        if stage is not None and (part.arrivals_s[-1] <= part.arrivals_s[0] or _noise(part) <= MOST_NOISE):
            full.append(_stretch(course, first, last, *stage))
    found = _merged(course, full)
    return found if sum(one.last - one.first for one in found) >= LONG * len(course.arrivals_s) else []


def _parts(course: Course, breaks: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """First and last of every part, and how many standard errors it must be beyond chance."""
    cuts = [0, *breaks, len(course.arrivals_s)]
    least = max(LEAST_REQUESTS, math.ceil(SMALLEST_PART * len(course.arrivals_s)))
    for first, last in pairwise(cuts):
        size = last - first
        while size >= least:
            step = max(size // 2, 1)
            for begin in range(first, last - size + 1, step):
                yield begin, begin + size, ERRORS if size == last - first else ERRORS_OF_PARTS
            size = step


def _full(part: Course, levels: Mapping[str, Levels]) -> tuple[str, float] | None:
    """The last stage that was full while the requests of a part came, and its share."""
    begin_s, end_s = float(part.arrivals_s[0]), float(part.arrivals_s[-1])
    known_s = part.ends_s[~np.isnan(part.ends_s)]
    done_s = max(float(known_s.max()) if len(known_s) else end_s, end_s)
    for stage in reversed(list(levels)):
        share = levels[stage].between(begin_s, end_s, done_s)
        if share >= SATURATED:
            return stage, share
    return None


def _stretch(course: Course, first: int, last: int, stage: str, busy: float) -> Stretch:
    return Stretch(first, last, float(course.arrivals_s[first]), float(course.arrivals_s[last - 1]), stage, busy)


def _merged(course: Course, found: list[Stretch]) -> list[Stretch]:
    merged: list[Stretch] = []
    for one in sorted(found):
        before = merged[-1] if merged else None
        if before is not None and one.first < before.last and one.stage == before.stage:
            busy = max(before.busy, one.busy)
            merged[-1] = _stretch(course, before.first, max(before.last, one.last), one.stage, busy)
        elif before is None or one.first >= before.last:
            merged.append(one)
    return merged


def _noise(course: Course) -> float:
    return math.sqrt((_spread(np.diff(course.arrivals_s)) + _spread(course.tokens)) / len(course.arrivals_s))


def _slope(arrivals_s: Samples, ends_s: Samples) -> float | None:
    """Theil and Sen's slope of the times to the end against the arrivals."""
    points = []
    whole_s = ends_s - arrivals_s
    known = ~np.isnan(whole_s)
    size, longer = divmod(len(whole_s), PARTS)  # the first few parts have one more
    last = 0
    for part in range(PARTS):
        first, last = last, last + size + (part < longer)
        times_s, came_s = whole_s[first:last], arrivals_s[first:last]
        count = np.count_nonzero(known[first:last])
        if count < last - first:
            times_s, came_s = times_s[known[first:last]], came_s[known[first:last]]
        if count:
            points.append((_mean(came_s), _median(times_s)))
    slopes = [
        (later[1] - sooner[1]) / (later[0] - sooner[0])
        for number, sooner in enumerate(points)
        for later in points[number + 1 :]
        if later[0] > sooner[0]
    ]
    return _median(np.array(slopes)) if slopes else None


def _mean(values: Samples) -> float:
    """The mean, as of ``_median``."""
    return float(np.add.reduce(values)) / len(values)


def _median(values: Samples) -> float:
    """The median of some numbers: what numpy's own does about other things takes longer than the median."""
    ordered = values.copy()
    ordered.sort()
    middle = len(ordered) // 2
    return float(ordered[middle]) if len(ordered) % 2 else float((ordered[middle - 1] + ordered[middle]) / 2)


def _spread(values: Samples) -> float:
    """Squared coefficient of variation of a mean of these, times their number."""
    mean = _mean(values) if len(values) else 0.0
    return float(np.var(values)) / mean**2 * autocorrelation_time(values) if mean > 0 else 0.0
