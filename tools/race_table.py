"""How often a race of settings picks the best one, and what it spends, beside KN++ and OCBA of sim-tools: a table.

    python tools/race_table.py [--repeats 300] [--settings 2,10,64] [--jobs 2] [--only independent] [--json FILE]

All configurations are slippage configurations, the hardest there are for a promise with an indifference zone: one
setting is better than all others by exactly the indifference, which is half a standard deviation of a figure. A
replication gives the settings values that correlate with each other (common random numbers). Values are normal;
lognormal with a skewness of 1.75, as a p99 may have; and the same where the best setting hardly varies, so that
differences are as skewed as values are ("steady best"). Every method sees the same values.

* race: experiments/stats/racing.py. "holds": the reported set has the best one in it. "intervals": all reported
  differences hold at once.
* KN++: sim_tools.ovs.indifference_zone.KNPlusPlus, with as long a first stage. It takes no notice of pairing.
* OCBA: sim_tools.ovs.fixed_budget.OCBA with the budget that the race spent; it promises nothing, and needs three
  settings.

A second table is of files, whose replications are resamples: how far a file's figures are off the truth and how far its
resamples' are off the file's have one distribution, in which settings correlate with 0.9. "worse": what the chosen
setting may be worse by at most, as the verdict has it, was true.

A share that is promised to be 95 % comes out below 92 % in 300 repeats in 0.9 % of all cases. Exit status: 0, 2 for bad
input.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from bufferlab.experiments.stats.intervals import Samples  # noqa: E402 - after the path
from bufferlab.experiments.stats.paired import Difference  # noqa: E402 - after the path
from bufferlab.experiments.stats.racing import Race, Verdict  # noqa: E402 - after the path
from bufferlab.experiments.stats.replicates import Replicates  # noqa: E402 - after the path

INDIFFERENCE = 0.5
FIRST, MOST = 5, 200
SHAPE = 0.5
"""Of the lognormal: the standard deviation of its logarithm. The skewness is 1.75."""
MOST_OF_A_FILE = 32
"""The second table has no line for more settings: its quantiles take a second a race."""
KINDS = ("normal", "lognormal", "steady best")


def values_of(settings: int, count: int, correlation: float, kind: str, rng: np.random.Generator) -> Samples:
    """[setting, replication] of a slippage configuration; setting 0 is the best one, with the mean 10."""
    own = rng.standard_normal((settings, count))
    draws = math.sqrt(1 - correlation) * own + math.sqrt(correlation) * rng.standard_normal(count)
    if kind != "normal":
        square = math.exp(SHAPE**2)
        draws = (np.exp(SHAPE * draws) - math.sqrt(square)) / math.sqrt((square - 1) * square)
    if kind == "steady best":
        draws[0] /= 10
    draws += 10
    draws[1:] += INDIFFERENCE
    return draws


def finished(values: Samples, indifference: float = INDIFFERENCE, **options: Any) -> Race:
    """A race over these values that is over."""
    found = Race(len(values), indifference=indifference, **{"first": FIRST, "most": values.shape[1], **options})
    while wanted := found.wanted():
        for setting, replication in wanted:
            found.take(setting, replication, float(values[setting, replication]))
    return found


def race(values: Samples, indifference: float = INDIFFERENCE, **options: Any) -> Verdict:
    """The verdict of such a race."""
    return finished(values, indifference, **options).verdict()


def all_hold(differences: Mapping[int, Difference], truth: Sequence[float], best: int) -> bool:
    """Whether all intervals of differences to ``best`` have the truth in them."""
    return all(
        one["low"] is not None and one["high"] is not None and one["low"] <= truth[other] - truth[best] <= one["high"]
        for other, one in differences.items()
    )


class Table:
    """What sim-tools calls a model: the next value of a setting, as often as it is asked for."""

    def __init__(self, values: Samples) -> None:
        self.values, self.runs = values, 0
        self._next = [0] * len(values)
        self._observer: Any = None

    def register_observer(self, observer: Any) -> None:
        """Who is told each value."""
        self._observer = observer

    def simulate(self, design: int) -> None:
        """Tell the next value of a setting."""
        place = self._next[design]
        self._next[design] += 1
        self.runs += 1
        self._observer.feedback(self, int(design), float(self.values[design, place % self.values.shape[1]]))


def knpp(values: Samples, screen_faster: bool = True) -> tuple[bool, int]:
    """Whether KN++ picks setting 0, and its runs. Its own loop over all pairs takes minutes for 64 settings."""
    from sim_tools.ovs.indifference_zone import KNPlusPlus

    class Bounded(KNPlusPlus):  # type: ignore[misc]
        _contenders: Any

        def _stopping(self) -> bool:
            # Its distance may fall below 0, where two settings throw each other out and it would go on for ever.
            return len(self._contenders) < 2

    class Faster(Bounded):
        def _screening(self) -> None:
            means, squares = self._means[self._contenders], self._vars[self._contenders]
            apart = (self._delta / (2 * self._n)) * (
                ((self._h_squared * (squares[:, None] + squares)) / self._delta**2) - self._n
            )
            beaten = means[:, None] < means - apart
            np.fill_diagonal(beaten, False)
            self._contenders = self._contenders[~beaten.any(axis=1)]

    table = Table(values)
    method = (Faster if screen_faster else Bounded)(table, len(values), INDIFFERENCE, alpha=0.05, n_0=FIRST, obj="min")
    return list(method.solve()) == [0], table.runs


def ocba(values: Samples, budget: int) -> bool | None:
    """Whether OCBA picks setting 0 within a budget; None for two settings, where it fails."""
    from sim_tools.ovs.fixed_budget import OCBA

    settings = len(values)
    if settings < 3:
        return None
    step = max(settings // 2, 1)
    whole = settings * FIRST + math.ceil((budget - settings * FIRST) / step) * step
    table = Table(values)
    return int(OCBA(table, settings, whole, step, n_0=FIRST, obj="min").solve()) == 0


@dataclass
class Row:
    """One configuration, and what every method made of it in all repeats."""

    settings: int
    correlation: float
    values: str
    repeats: int
    race: float
    holds: float
    intervals: float
    spent: float
    knpp: float
    knpp_spent: float
    ocba: float | None


def one(settings: int, correlation: float, kind: str, repeat: int) -> tuple[float, ...]:
    """Whether each method was right in one repeat, and what it spent."""
    rng = np.random.default_rng([settings, round(correlation * 100), KINDS.index(kind), repeat])
    # KN++ may go on for longer than a race would.
    values = values_of(settings, 20 * MOST, correlation, kind, rng)
    raced = finished(values[:, :MOST])
    verdict = raced.verdict()
    truth = [0.0] + [INDIFFERENCE] * (settings - 1)
    best = -1 if verdict.best is None else verdict.best
    hold = all_hold(raced.differences(), truth, best)
    right, runs = knpp(values)
    third = ocba(values, verdict.runs)
    return (best == 0, 0 in verdict.kept, hold, verdict.runs, right, runs, math.nan if third is None else third)


def row(settings: int, correlation: float, kind: str, repeats: int, run: Callable[[Iterator[Any]], Any]) -> Row:
    """One line of the table."""
    from joblib import delayed

    found = np.array(run(delayed(one)(settings, correlation, kind, repeat) for repeat in range(repeats)), dtype=float)
    means = found.mean(axis=0).tolist()
    third = None if math.isnan(means[6]) else means[6]
    spent, other = means[3] / settings, means[5] / settings
    right, holds, intervals = means[:3]
    return Row(settings, correlation, kind, repeats, right, holds, intervals, spent, means[4], other, third)


def file_values(settings: int, resamples: int, gap: float, rng: np.random.Generator) -> Samples:
    """[setting, replication] of a file: replication 0 is off the truth as resamples are off it."""
    off = math.sqrt(0.1) * rng.standard_normal((settings, resamples + 1)) + math.sqrt(0.9) * rng.standard_normal(
        resamples + 1
    )
    values = np.array(off)
    values[:, 1:] += off[:, :1]
    values[1:] += gap
    return values


@dataclass
class FileRow:
    """One configuration of the second table, and what the race made of it in all repeats."""

    settings: int
    resamples: int
    gap: float
    repeats: int
    holds: float
    worse: float
    intervals: float
    kept: float


def file_row(settings: int, resamples: int, gap: float, repeats: int) -> FileRow:
    """One line of the second table."""
    found = []
    for repeat in range(repeats):
        rng = np.random.default_rng([settings, resamples, round(100 * gap), repeat])
        values = file_values(settings, resamples, gap, rng)
        raced = finished(values, indifference=0.0, replicates=Replicates("resampled"), first=8)
        verdict = raced.verdict()
        truth = [0.0] + [gap] * (settings - 1)
        best, short = verdict.best, verdict.short_of_best
        assert best is not None
        assert short is not None
        hold = all_hold(raced.differences(), truth, best)
        found.append((0 in verdict.kept, truth[best] <= short, hold, len(verdict.kept)))
    holds, worse, intervals, kept = np.mean(np.array(found, dtype=float), axis=0).tolist()
    return FileRow(settings, resamples, gap, repeats, holds, worse, intervals, kept)


def file_line(row: FileRow) -> str:
    """A line of text."""
    return (
        f"{row.settings:8}  {row.resamples:9}  {row.gap:4}  {row.holds:6.1%}  {row.worse:6.1%}  {row.intervals:9.1%}"
        f"  {row.kept:4.1f}"
    )


FILES_HEAD = (
    "settings  resamples   gap   holds   worse  intervals  kept\n"
    "--------  ---------  ----  ------  ------  ---------  ----"
)


def line(row: Row) -> str:
    """A line of text."""
    third = f"{'-':>6}" if row.ocba is None else f"{row.ocba:6.1%}"
    return (
        f"{row.settings:8}  {row.correlation:11}  {row.values:>11}  {row.race:6.1%}  {row.holds:6.1%}"
        f"  {row.intervals:9.1%}  {row.spent:5.1f}  {row.knpp:6.1%}  {row.knpp_spent:5.1f}  {third}"
    )


HEAD = (
    "settings  correlation       values    race   holds  intervals   runs    KN++   runs    OCBA\n"
    "--------  -----------  -----------  ------  ------  ---------  -----  ------  -----  ------"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--settings", default="2,10,64", help="how many settings race, with commas")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=("independent", "resampled"), default=None, help="one of the tables alone")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    counts = [int(part) for part in given.settings.split(",")]
    if given.repeats < 1 or min(counts) < 2:
        parser.error("--repeats must be at least 1 and every number of --settings at least 2")
    from joblib import Parallel

    tables: dict[str, list[dict[str, Any]]] = {}
    if given.only != "resampled":
        rows = []
        print(HEAD, flush=True)
        with Parallel(n_jobs=given.jobs) as parallel:
            for settings, correlation, kind in itertools.product(counts, (0.0, 0.5, 0.9), KINDS):
                rows.append(row(settings, correlation, kind, given.repeats, parallel))
                print(line(rows[-1]), flush=True)
        print(
            f"\n{given.repeats} repeats a line. race, KN++, OCBA: how often the best one was picked; holds: it is in "
            "the set\nthat is kept; intervals: all differences hold at once; runs: replications per setting, left of "
            "it."
        )
        tables["independent"] = [vars(one) for one in rows]
    if given.only != "independent":
        files = []
        print(f"\n{FILES_HEAD}", flush=True)
        few = [count for count in counts if count <= MOST_OF_A_FILE]
        for settings, resamples, gap in itertools.product(few, (20, 40), (0.0, 1.0)):
            files.append(file_row(settings, resamples, gap, given.repeats))
            print(file_line(files[-1]), flush=True)
        print(
            f"\n{given.repeats} files a line. gap: by how much the others are worse than the best one, in standard "
            "errors of\na figure; holds: the best one is in the set that is kept; worse: what short_of_best says is "
            "true;\nintervals: all differences hold at once; kept: how many settings are in the set."
        )
        tables["resampled"] = [vars(one) for one in files]
    if given.json:
        given.json.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
