"""Where a value lies on an axis, and which values have a tick there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
CLOSE = 1.6
"""How much room a tick wants, in heights of its letters on an upright axis and beyond its own width on the other."""


@dataclass(frozen=True)
class Axis:
    """Places between two ends, in pixels, and the ticks: their values and what they are called."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    low: float
    high: float

    def held(self, value: float) -> float:
        """The place of a value, or of the end beyond which it lies."""
        return self.place(min(max(value, self.low), self.high))


def linear(low: float, high: float, begin: float, end: float, *, factor: float = 1.0, ticks: int = 5) -> Axis:
    """Even steps; the ends are moved outwards to ticks. ``factor``: what tick values are multiplied with."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    step = _nice((high - low) * factor / ticks)
    first, last = math.floor(low * factor / step + 1e-9), math.ceil(high * factor / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if _halved(step) else 0))
    low, high = first * step / factor, last * step / factor
    marks = [(n * step / factor, signless(f"{n * step:,.{decimals}f}")) for n in range(first, last + 1)]
    return Axis(lambda value: begin + (value - low) / (high - low) * (end - begin), marks, low, high)


def logarithmic(low: float, high: float, begin: float, end: float, *, factor: float = 1.0) -> Axis:
    """Even ratios, ends as they are; ticks at 1, 2 and 5 times powers of ten, as many as read well."""
    if not high > low:
        low, high = low / 2, high * 2
    decades = math.log10(high / low)
    steps = (1,) if decades > 3 else (1, 2, 5) if decades > 1 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    exponents = range(math.floor(math.log10(low * factor)), math.ceil(math.log10(high * factor)) + 1)
    values = [one * 10.0**exponent for exponent in exponents for one in steps]
    inside = [value for value in values if low * factor * 0.999 <= value <= high * factor * 1.001]
    marks = [(value / factor, f"{value:,.10g}") for value in inside]
    first, span = math.log(low), math.log(high) - math.log(low)
    return Axis(lambda value: begin + (math.log(value) - first) / span * (end - begin), marks, low, high)


def ordinal(names: Sequence[str], begin: float, end: float) -> Axis:
    """Names in even steps; the places are those of their numbers from 0."""
    step = (end - begin) / max(len(names), 1)
    marks = [(float(number), name) for number, name in enumerate(names)]
    return Axis(lambda value: begin + (value + 0.5) * step, marks, -0.5, len(names) - 0.5)


def sizes(values: Sequence[float], begin: float, end: float) -> Axis:
    """A tick at every value; in even ratios where they are positive and span much, else in even steps."""
    low, high = min(values), max(values)
    marks = [(value, f"{value:,.10g}") for value in values]
    if low == high:
        return Axis(lambda _: (begin + end) / 2, marks, low, high)
    room = 0.06 * (end - begin)
    if low > 0 and high / low >= 4:
        first, span = math.log(low), math.log(high / low)
        return Axis(
            lambda value: begin + room + (math.log(value) - first) / span * (end - begin - 2 * room), marks, low, high
        )
    return Axis(lambda value: begin + room + (value - low) / (high - low) * (end - begin - 2 * room), marks, low, high)


def apart(axis: Axis, width: Callable[[str], float]) -> list[tuple[float, str]]:
    """The ticks whose names do not touch, as many as there is room for, beginning with the first."""
    ticks = sorted(axis.ticks, key=lambda tick: axis.place(tick[0]))
    for every in range(1, len(ticks) + 1):
        kept = ticks[::every]
        places = [(axis.place(value), width(name) / 2) for value, name in kept]
        if all(b - a >= half + other for (a, half), (b, other) in pairwise(places)):
            return kept
    return ticks[:1]


def signless(number: str) -> str:
    """A minus sign in place of a hyphen."""
    return number.replace("-", "−")


def _nice(step: float) -> float:
    base: float = 10.0 ** math.floor(math.log10(step))
    return base * next(one for one in STEPS if one * base >= step * (1 - 1e-9))


def _halved(step: float) -> bool:
    """Whether it is 2.5 times a power of ten."""
    return math.isclose(step / 10.0 ** math.floor(math.log10(step) + 1e-9), 2.5)
