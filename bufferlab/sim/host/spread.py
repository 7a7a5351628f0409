"""Durations that vary from one time to the next, by factors that are drawn from a stream of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from numpy.random import Generator

Draws = Callable[[str], "Generator"]
"""The stream of what takes another time every time, by its name."""


@final
class Spread:
    """Factors that are drawn, one each time. The stream is made only where there is a choice."""

    __slots__ = ("_draws", "_factors", "_first")

    def __init__(self, factors: tuple[float, ...], draws: Draws, name: str) -> None:
        self._factors = factors
        self._first = factors[0]
        self._draws = draws(name) if len(factors) > 1 else None

    def draw(self) -> float:
        """The next one."""
        if self._draws is None:
            return self._first
        return self._factors[int(self._draws.random() * len(self._factors))]


def quantile(steps: tuple[float, ...], probability: float) -> float:
    """The quantile of a probability, linear between quantiles at equal steps of probability from 0 to 1."""
    place = probability * (len(steps) - 1)
    lower = min(int(place), len(steps) - 1)
    upper = min(lower + 1, len(steps) - 1)
    return steps[lower] + (place - lower) * (steps[upper] - steps[lower])
