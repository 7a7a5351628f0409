"""Which of the settings that a race kept is recommended, and which make up the Pareto front.

Settings that cannot be told apart from the best, and are not estimated to be worse than it by more than the
indifference, give two candidates: the one with the fewest changes among those of the best one's memory, and the
*cheaper* one, with the least memory of all. Both are held against today's setting once more, in replications that had
no part in their choice where there are any: the best of many looks better than it is. A change is recommended for its
own sake only if the interval there leaves out 0 and the estimate is beyond the indifference; else today's setting
stays. (Of a file there are no other replications, so there the 95 % is that of one comparison and not of the best of
many.) The cheaper one takes the place of that only if the interval says that it is not worse by more than the
indifference: an estimate alone says too little, since what cannot be told apart may be much worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bufferlab.experiments.stats.intervals import Estimate
from bufferlab.experiments.tuning.base import Base
from bufferlab.experiments.tuning.contest import Result
from bufferlab.experiments.tuning.space import DISCIPLINE, Setting, changes_that_count

Answer = Literal["recommended", "no-difference", "over-capacity", "slo-missed", "not-served"]
RECOMMENDED: Literal["recommended"] = "recommended"
NO_DIFFERENCE: Literal["no-difference"] = "no-difference"
OVER_CAPACITY: Literal["over-capacity"] = "over-capacity"
SLO_MISSED: Literal["slo-missed"] = "slo-missed"
NOT_SERVED: Literal["not-served"] = "not-served"

Differ = Callable[[int, int], Estimate | None]
"""second − first with its interval; None where the first is no choice: it is unfit, or above the memory."""


@dataclass(frozen=True)
class Decision:
    """What is recommended and what may as well be set."""

    verdict: Answer
    chosen: int | None
    best: int | None
    alike: tuple[int, ...]
    """Settings that cannot be told apart from the best, without the chosen one."""
    cheaper: int | None = None
    """One with less memory that may be as good as the chosen one, which is not told."""
    worse: Estimate | None = None
    """Of that: cheaper − chosen."""

    choice: Answer | None = None
    """Where all settings miss a limit: whether, apart from that, a change is recommended."""


@dataclass(frozen=True)
class Candidates:
    """What is held against today's setting."""

    main: int
    """With the memory of the best, the one with the fewest changes."""
    cheaper: int
    """The one with the least memory; the same one where none has less."""


def nothing_to_choose(result: Result | None, *, over: bool) -> Decision:
    """Where no setting can be recommended: all are ``over`` capacity, or none serves all."""
    best = None if result is None else result.best
    return Decision(OVER_CAPACITY if over else NOT_SERVED, None, best, ())


def without_limits(result: Result) -> Result:
    """The race of all settings where none keeps to the limits; as it is where one does."""
    return replace(result, missed={}) if result.best in result.missed else result


def all_missed(decision: Decision) -> Decision:
    """The same where every setting misses a limit: what is best apart from that is told, but the check has failed."""
    return replace(decision, verdict=SLO_MISSED, choice=decision.verdict)


def candidates(
    base: Base, settings: Mapping[int, Setting], result: Result, differences: Mapping[int, Estimate]
) -> Candidates | None:
    """The settings to hold against today's. ``differences``: setting − best, by number."""
    best = result.best
    if best is None or best in result.missed:
        return None
    same = [
        number
        for number in result.kept
        if number not in result.missed and (number == best or _value(differences.get(number)) <= result.indifference_s)
    ]

    def preference(number: int) -> tuple[float, bool, float, int]:
        """Few changes first, and of as many those that a flag makes: another discipline is other code in a server."""
        away = 0.0 if number == best else _value(differences.get(number))
        one = settings[number]
        return (changes_that_count(base.config, one), DISCIPLINE in one.changes, away, number)

    def doubt(number: int) -> bool:
        high = 0.0 if number == best else (differences.get(number) or {"high": None})["high"]
        return high is None or high > result.indifference_s

    level = _memory(settings[best])
    main = min((one for one in same if _memory(settings[one]) == level), key=preference)
    less = [one for one in same if _memory(settings[one]) < level]
    # Those that the race's own replications say are as good come first.
    cheaper = min(less, key=lambda one: (doubt(one), _memory(settings[one]), *preference(one)), default=main)
    return Candidates(main, cheaper)


def decide(
    settings: Mapping[int, Setting],
    result: Result,
    *,
    candidates: Candidates,
    today: int,
    differ: Differ,
    exact: bool = False,
) -> Decision:
    """What to set: the main candidate, what is set today, or the cheaper one in place of either.

    ``differ`` compares in replications that had no part in the choice. ``exact``: whether nothing is left to chance,
    so that there are no intervals.
    """
    indifference_s, main, cheaper = result.indifference_s, candidates.main, candidates.cheaper

    def high(change: Estimate | None) -> float:
        bound = None if change is None else change["value"] if exact else change["high"]
        return math.inf if bound is None else bound

    def better(number: int) -> bool:
        """Than what is set today, surely, and by what matters."""
        if number == today:
            return False
        change = differ(today, number)
        if change is None or change["value"] is None:
            return True
        return high(change) < 0 and -change["value"] > indifference_s

    improves = better(main)
    if exact and not improves and result.best is not None and better(result.best):
        # The candidate with fewer changes gave away what the best is known to bring.
        main, improves = result.best, True
    chosen = main if improves else today
    worse: Estimate | None = None
    if _memory(settings[cheaper]) < _memory(settings[chosen]):
        change = differ(chosen, cheaper)
        if high(change) <= indifference_s and (not improves or better(cheaper)):
            chosen = cheaper
        elif change is not None and (change["low"] is None or change["low"] <= indifference_s):
            worse = change
    alike = tuple(number for number in result.kept if number not in result.missed and number != chosen)
    verdict: Answer = RECOMMENDED if improves else NO_DIFFERENCE
    return Decision(verdict, chosen, result.best, alike, None if worse is None else cheaper, worse)


def _memory(setting: Setting) -> int:
    """Memory, in which pools of the same size in larger blocks, which may be a block smaller, are alike."""
    return round(20 * math.log2(setting.memory_bytes))


def pareto(points: Iterable[tuple[int, float, float]]) -> list[int]:
    """The numbers of the settings that none beats in both; points are (number, memory, value), by memory."""
    front: list[tuple[int, float]] = []
    for number, _, value in sorted(points, key=lambda point: (point[1], point[2], point[0])):
        if not front or value < front[-1][1]:
            front.append((number, value))
    return [number for number, _ in front]


def _value(difference: Estimate | None) -> float:
    value = None if difference is None else difference["value"]
    return float("inf") if value is None else value
