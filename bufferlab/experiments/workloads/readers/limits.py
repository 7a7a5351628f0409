"""What no service has, whatever wrote the requests: a year of them in one run, or a million in one second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bufferlab.experiments.config.sections.workload import MOST_RPS
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.units import format_span

if TYPE_CHECKING:
    from bufferlab.sim.workload import Reals

YEAR_S = 366 * 86_400


def check_span(span_s: float, count: int, subject: str, hint: str = "") -> None:
    """Raise UserError if ``count`` requests come over ``span_s``, which no service sees.

    ``subject`` begins the sentence and ``hint`` ends it.
    """
    if span_s > YEAR_S:
        raise UserError(f"{subject} span {format_span(span_s)}, they must span at most a year{hint}")
    if span_s > 0 and (count - 1) / span_s > MOST_RPS:
        rate = f"{(count - 1) / span_s:.3g}"
        raise UserError(f"{subject} are {rate} requests a second, they must be at most {MOST_RPS:.0e}{hint}")


def check_arrivals(arrival_s: Reals, subject: str, hint: str = "") -> None:
    """The same for times that count from the run's start; the wait for the first request is part of the run."""
    if len(arrival_s):
        last_s = float(arrival_s.max())
        check_span(last_s - float(arrival_s.min()), len(arrival_s), subject, hint)
        if last_s > YEAR_S:
            raise UserError(
                f"{subject} end {format_span(last_s)} after the run's start, at most a year is allowed{hint}"
            )
