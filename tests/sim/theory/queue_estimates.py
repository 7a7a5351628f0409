"""Means of independent replications with a t interval, and with known means of the input as control variates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy
from numpy.typing import ArrayLike

LEVEL = 0.999
"""With fixed seeds an interval holds its theory or not, once and for all. At this level a right simulator has a chance
of one in fifty or so to miss one of all intervals here, and a wrong one is far outside."""


class Estimate(NamedTuple):
    """A mean with half its interval, from so many replications."""

    mean: float
    half: float
    replications: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t interval of independent values."""
    return controlled(values, numpy.empty((len(values), 0)))


def controlled(values: Sequence[float], deviations: ArrayLike) -> Estimate:
    """The same, with what is known of the input taken out by regression (Lavenberg & Welch, Management Science 27, 1981).

    ``deviations``: for each replication how far some means of its input, such as that of its services, came to lie from
    what they are drawn for. A replication with long services has long waits, and that much is not the simulator's doing.
    """
    from scipy.special import stdtrit

    outcome = numpy.asarray(values, dtype=float)
    controls = numpy.asarray(deviations, dtype=float).reshape(len(outcome), -1)
    freedom = len(outcome) - 1 - controls.shape[1]
    if freedom < 5:
        raise ValueError(f"{len(outcome)} replications are too few for {controls.shape[1]} controls")
    design = numpy.column_stack([numpy.ones(len(outcome)), controls])
    coefficients, *_ = numpy.linalg.lstsq(design, outcome, rcond=None)
    variance = float(((outcome - design @ coefficients) ** 2).sum()) / freedom
    of_mean = float(numpy.linalg.inv(design.T @ design)[0, 0])
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance * of_mean)
    return Estimate(float(coefficients[0]), half, len(outcome))
