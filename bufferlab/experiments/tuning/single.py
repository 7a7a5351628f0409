"""Settings compared where nothing is drawn: one replication tells all there is to know of these requests."""

from __future__ import annotations

from collections.abc import Sequence

from bufferlab.experiments.stats.racing import Verdict
from bufferlab.experiments.tuning.contest import Result, Runs, figure_of, misses
from bufferlab.experiments.tuning.question import Indifference, Limit, Objective


def compare(
    runs: Runs, numbers: Sequence[int], *, objective: Objective, limits: Sequence[Limit], indifference: Indifference
) -> Result:
    """The lowest of all, and those that are above it by no more than the indifference; nothing is left to chance."""
    runs.get([(number, 0) for number in numbers], "race")
    missed = {number: why for number in numbers if (why := misses(runs, number, limits, None))}
    values: dict[int, float] = {}
    unfit: dict[int, int] = {}
    for place, number in enumerate(numbers):
        row = runs.row(number, 0)
        value = None if row is None else figure_of(row, objective)
        if value is None:
            unfit[place] = 0
        else:
            values[place] = value
    lowest = min(values.values(), default=0.0)
    indifference_s = indifference.of(lowest)
    # Where all miss a limit, they are compared as if there were none.
    fit = [place for place in values if numbers[place] not in missed] or list(values)
    best = min(fit, key=lambda place: (values[place], place), default=None)
    if best is None:
        return Result(tuple(numbers), None, indifference_s, missed)
    allowed = values[best] + indifference_s
    kept = tuple(place for place in fit if values[place] <= allowed)
    dropped = {place: 1 for place, value in values.items() if value > allowed}
    verdict = Verdict(
        best=best, kept=kept, dropped=dropped, unfit=unfit, short_of_best=0.0,
        ended="settled" if len(kept) > 1 else "one-left", certainty=1.0, indifference=indifference_s,
        runs=len(numbers),
    )  # fmt: skip
    return Result(tuple(numbers), verdict, indifference_s, missed)
