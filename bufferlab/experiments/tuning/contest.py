"""The runs of a tune, each made once, and the race over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import RunFailedError
from bufferlab.experiments.runs.capacity import evidence, judge
from bufferlab.experiments.runs.estimates import FIGURES
from bufferlab.experiments.runs.recorder import Notice, Progress
from bufferlab.experiments.runs.replication import Replication
from bufferlab.experiments.runs.simulate import simulate_one
from bufferlab.experiments.stats.racing import Race, Verdict
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates
from bufferlab.experiments.sweeps.configuration import SHARED
from bufferlab.experiments.tuning.folder import Key, Row, TuneFolder
from bufferlab.experiments.tuning.question import Indifference, Limit, Objective
from bufferlab.experiments.tuning.space import Setting
from bufferlab.experiments.units import format_duration
from bufferlab.protocol.status import Status

Execute = Callable[[Callable[..., Any], Sequence[Sequence[Any]]], Iterable[tuple[int, Any]]]
"""Runs a function on each of some tasks and yields (index, result) as they finish."""
SHOWN_VIOLATIONS = 3


def run_row(config: Config, replication: int, title: str) -> Row:
    """Simulate one replication; the row that the ledger has of it, and the violations that were found.

    It has the values of summary.json without the intervals that a single run has by its batches: across replications
    these are not looked at, and they take as long as a short run.
    """
    try:
        one, violations = simulate_one(config, replication, requests=SHARED.of(config, replication))
    except Exception as error:
        # Whoever reads it needs to know which run it was; the type tells more than the text alone.
        raise RunFailedError(f"{title}, replication {replication}: {type(error).__name__}: {error}") from error
    return row_of(one, violations, config, replication)


def row_of(one: Replication, violations: list[str], config: Config, replication: int) -> Row:
    """The row of a replication that was simulated."""
    capacity = judge([evidence(one)])
    span = capacity["stretch"] or capacity  # which the verdict is about
    offered, served = span["offered_rps"], span["served_rps"]
    reasons = one.requests.reasons
    return {
        "requests": one.offered,
        "requests.succeeded": one.statuses[Status.Success.name],
        "failures": max(reasons, key=lambda reason: (reasons[reason], reason), default=None),
        "capacity.verdict": capacity["verdict"],
        "capacity.bottleneck": capacity["bottleneck"],
        "capacity.in_stretches": capacity["stretch"] is not None,
        "capacity.sentence": capacity["sentence"],
        "capacity.offered_rps": capacity["offered_rps"],
        "capacity.served_rps": capacity["served_rps"],
        "capacity.load": offered / served if offered and served else None,
        "deadlock": one.deadlock,
        "invariant_violations": one.violations,
        **{figure.name: _plain(figure.value(one)) for figure in FIGURES},
        **_parts(one, config, replication),
        "violations": violations,
    }


def _parts(one: Replication, config: Config, replication: int) -> dict[str, float | None]:
    """On how many independent spells of traffic the times of a file rest."""
    if replication or config.workload.file is None:
        return {}
    times = [figure for figure in FIGURES if figure.path[0].endswith("_s")]
    return {f"parts.{figure.name}": _plain(figure.parts(one)) for figure in times}


def _plain(value: float | None) -> float | None:
    return None if value is None else float(value)


@dataclass
class Runs:
    """All runs of a tune by setting and replication, in the order of their numbers whatever finished first."""

    settings: dict[int, Setting]
    execute: Execute
    folder: TuneFolder | None = None
    progress: Progress | None = None
    notice: Notice | None = None
    marks: Mapping[str, Any] = field(default_factory=dict)
    """What the ledger has of every run beside its figures, such as another stage."""
    run: Callable[[Config, int, str], Row] | None = None
    """What simulates a replication; ``run_row`` where nothing is said."""
    made: int = 0
    """How many were made now, rather than found in the folder."""
    _rows: dict[Key, Row] = field(default_factory=dict)
    _asked: set[tuple[int, int]] = field(default_factory=set)
    """What this question took, whatever else was found in the folder: the same question has the same answer."""

    def __post_init__(self) -> None:
        if self.folder is not None:
            self._rows = self.folder.rows

    def get(self, wanted: Iterable[tuple[int, int]], stage: str) -> None:
        """See to it that these (number, replication) are there."""
        listed = list(wanted)
        missing = [one for one in listed if self._kept(*one) is None]
        self._asked.update(listed)
        tasks = [(self.settings[number].config, replication, f"setting {number}") for number, replication in missing]
        if not tasks:
            return
        for index, made in self.execute(self.run or run_row, tasks):
            number, replication = missing[index]
            violations = made.pop("violations")
            fingerprint = self.settings[number].fingerprint
            row = {
                "setting": self.settings[number].number, "fingerprint": fingerprint, "replication": replication,
                "stage": stage, **self.marks, **made,
            }  # fmt: skip
            if self.folder is not None:
                self.folder.add(row)
            else:
                self._rows[fingerprint, replication] = row
            self.made += 1
            if self.notice is not None:
                for line in violations[:SHOWN_VIOLATIONS]:
                    self.notice(f"violation in setting {number}: {line}")
            if self.progress is not None:
                self.progress(1)

    def row(self, number: int, replication: int) -> Row | None:
        """What one run came to; None where nobody asked for it."""
        return self._kept(number, replication) if (number, replication) in self._asked else None

    def _kept(self, number: int, replication: int) -> Row | None:
        return self._rows.get((self.settings[number].fingerprint, replication))

    def rows(self, number: int) -> list[Row]:
        """The first replications of a setting, as far as there is none missing."""
        return list(self._first(number))

    def _first(self, number: int) -> Iterator[Row]:
        replication = 0
        while (row := self.row(number, replication)) is not None:
            yield row
            replication += 1

    def values(self, number: int, path: str, replications: Iterable[int] | None = None) -> list[float | None]:
        """A figure of every one of these replications, or of those of ``rows``."""
        if replications is None:
            return [row.get(path) for row in self.rows(number)]
        return [None if (row := self.row(number, one)) is None else row.get(path) for one in replications]

    def parts(self, numbers: Iterable[int], path: str) -> float | None:
        """On how many independent spells a time of these settings rests in a file: the fewest."""
        known = [row.get(f"parts.{path}") for number in numbers if (row := self.row(number, 0)) is not None]
        return min((one for one in known if one is not None), default=None)

    def count(self, number: int) -> int:
        """How many runs of a setting were asked for."""
        return sum(one == number for one, _ in self._asked)

    def all(self) -> list[Row]:
        """Every run that was asked for."""
        return [row for one in sorted(self._asked) if (row := self._kept(*one)) is not None]


def figure_of(row: Row, objective: Objective) -> float | None:
    """What a race compares: None where a request was not served, as the slowest are missing from the times then."""
    value = row.get(objective.path)
    served = row["requests.succeeded"] == row["requests"]
    return float(value) if served and value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Result:
    """What a race came to, by the numbers of settings."""

    numbers: tuple[int, ...]
    """Those that raced to the end."""
    verdict: Verdict | None
    """By places in ``numbers``; None where none could be raced."""
    indifference_s: float
    missed: dict[int, str]
    """Settings that do not keep to a limit, and by how much they miss it. Where these are all, the race is that of all
    settings, as if there were no limit."""

    @property
    def best(self) -> int | None:
        """The number of the best."""
        return None if self.verdict is None or self.verdict.best is None else self.numbers[self.verdict.best]

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers of those that may be the best."""
        return () if self.verdict is None else tuple(self.numbers[place] for place in self.verdict.kept)


def race(
    runs: Runs,
    numbers: Sequence[int],
    *,
    objective: Objective,
    limits: Sequence[Limit],
    certainty: float,
    indifference: Indifference,
    replicates: Replicates,
    first: int,
    most: int,
    stage: str = "race",
) -> Result:
    """Race the settings ``numbers``. Limits are a constraint: a winner that misses one leaves, and the others go on.

    Where nobody is left, the result is that of the first race, which took no notice of the limits. Runs that were made
    are never made again, so a race that is held once more costs only what is new in it.
    """
    runs.get([(number, 0) for number in numbers], stage)
    values = [figure_of(row, objective) for number in numbers if (row := runs.row(number, 0)) is not None]
    lowest = min((value for value in values if value is not None), default=0.0)
    indifference_s = indifference.of(lowest)
    missed: dict[int, str] = {}
    racing = tuple(numbers)
    free = Result(racing, None, indifference_s, {})
    while racing:
        made = Race(
            len(racing),
            certainty=certainty,
            indifference=indifference_s,
            replicates=replicates,
            first=first,
            most=most,
        )
        while wanted := made.wanted():
            runs.get([(racing[place], replication) for place, replication in wanted], stage)
            for place, replication in wanted:
                row = runs.row(racing[place], replication)
                assert row is not None
                made.take(place, replication, figure_of(row, objective))
        result = Result(racing, made.verdict(), indifference_s, missed)
        if not missed:
            free = result
        if result.best is None or not limits:
            break
        late = {number: why for number in racing if (why := misses(runs, number, limits, replicates))}
        if result.best not in late:
            return Result(racing, result.verdict, indifference_s, {**missed, **late})
        missed |= late
        racing = tuple(number for number in racing if number not in missed)
    return Result(free.numbers, free.verdict, indifference_s, missed)


def misses(runs: Runs, number: int, limits: Sequence[Limit], replicates: Replicates | None) -> str:
    """Which limit a setting does not keep to; empty where it keeps to all.

    By what every figure is told: the mean over independent replications, the value of a file itself.
    """
    for limit in limits:
        value = (replicates or INDEPENDENT).value(runs.values(number, limit.of.path))
        if value is None or value > limit.limit_s:
            is_ = "not known" if value is None else format_duration(value)
            return f"{limit.of.title} is {is_}, the limit is {format_duration(limit.limit_s)}"
    return ""
