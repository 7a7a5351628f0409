"""The noise floor: how well the measurement predicts itself.

Each repeat of the same requests is taken for a prediction of the others together. What it is off by nobody can blame
on a simulator: a prediction cannot be told from the truth any better than a second measurement can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bufferlab.experiments.stats.intervals import Samples
from bufferlab.experiments.validation.agreement import wasserstein_1

Value = TypeVar("Value")


@dataclass(frozen=True)
class Noise:
    """What every repeat is off by as a prediction of the others, in the order of the repeats; ``mean`` is the floor."""

    each: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The noise floor."""
        return math.fsum(self.each) / len(self.each)

    @property
    def largest(self) -> float:
        """The repeat that is off most."""
        return max(self.each)


def noise_floor(
    repeats: Sequence[tuple[Hashable, Value]], off: Callable[[Value, Sequence[Value]], float]
) -> Noise | None:
    """``repeats``: what was asked, and what came of it. ``off`` compares one with the others of the same requests.

    None where no requests were repeated.
    """
    each = []
    for number, (trace, value) in enumerate(repeats):
        others = [one for place, (asked, one) in enumerate(repeats) if place != number and asked == trace]
        if others:
            each.append(off(value, others))
    return Noise(tuple(each)) if each else None


def of_samples(statistic: Callable[[Samples], float]) -> Callable[[Samples, Sequence[Samples]], float]:
    """How far ``statistic`` of one repeat is off that of the pooled others, relative to the latter."""

    def off(own: Samples, others: Sequence[Samples]) -> float:
        return abs(relative(statistic(own), statistic(np.concatenate(others))))

    return off


def of_rates(own: float, others: Sequence[float]) -> float:
    """How far a rate is off the mean of the others, relative to it."""
    return abs(relative(own, math.fsum(others) / len(others)))


def of_distances(own: Samples, others: Sequence[Samples]) -> float:
    """Wasserstein-1 of one repeat from the pooled others, in their unit."""
    return wasserstein_1(own, np.concatenate(others))


def relative(value: float, reference: float) -> float:
    """value / reference − 1; 0 if both are 0, infinite if only the reference is."""
    if value == reference:
        return 0.0
    return value / reference - 1 if reference else math.inf
