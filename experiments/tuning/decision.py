"""Which of the settings that a race kept is recommended, and which make up the Pareto front.

Among settings that cannot be told apart from the best, and are not estimated to be worse than it by more than the
indifference, the one with the least memory is the candidate, then the one that changes least of what is set today. It
is held against today's setting once more, in replications that had no part in its choice where there are any: the best
of many looks better than it is. Only where it is better there, by more than the indifference, is a change recommended
for its own sake; where no difference is found today's setting stays, unless the candidate needs less memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from experiments.stats.intervals import Estimate
from experiments.tuning.base import Base
from experiments.tuning.contest import Result
from experiments.tuning.space import Setting, changes_that_count

Answer = Literal["recommended", "no-difference", "over-capacity", "slo-missed"]
RECOMMENDED: Literal["recommended"] = "recommended"
NO_DIFFERENCE: Literal["no-difference"] = "no-difference"
OVER_CAPACITY: Literal["over-capacity"] = "over-capacity"
SLO_MISSED: Literal["slo-missed"] = "slo-missed"


@dataclass(frozen=True)
class Decision:
    """What is recommended and what may as well be set."""

    verdict: Answer
    chosen: int | None
    best: int | None
    alike: tuple[int, ...]
    """Settings that cannot be told apart from the best, without the chosen one."""


def nothing_to_choose(result: Result | None) -> Decision:
    """Where no setting can be recommended: none keeps to the limits, or none serves all that is asked."""
    missed = result is not None and bool(result.missed)
    return Decision(SLO_MISSED if missed else OVER_CAPACITY, None, None if result is None else result.best, ())


def candidate(
    base: Base, settings: Mapping[int, Setting], result: Result, differences: Mapping[int, Estimate]
) -> int | None:
    """The setting to hold against today's. ``differences``: setting − best, by number."""
    best = result.best
    same = [
        number
        for number in result.kept
        if number not in result.missed and (number == best or _value(differences.get(number)) <= result.indifference_s)
    ]

    def preference(number: int) -> tuple[float, float, float, int]:
        setting = settings[number]
        return (
            _memory(setting),
            changes_that_count(base.config, setting),
            0.0 if number == best else _value(differences.get(number)),
            number,
        )

    return min(same, key=preference, default=None)


def decide(
    settings: Mapping[int, Setting],
    result: Result,
    *,
    candidate: int,
    today: int,
    change: Estimate | None,
    exact: bool = False,
) -> Decision:
    """What to set, ``candidate`` or what is set today.

    ``change``: candidate − today with its interval; None where today's setting is unfit or above the memory, so that
    it is no choice. ``exact``: whether nothing is left to chance, so that there is no interval.
    """
    chosen = candidate
    verdict: Answer = RECOMMENDED
    if candidate == today:
        verdict = NO_DIFFERENCE
    elif change is not None and change["value"] is not None:
        high = change["value"] if exact else change["high"]
        better = high is not None and high < 0 and -change["value"] > result.indifference_s
        if not better:
            verdict = NO_DIFFERENCE
            saves = _memory(settings[candidate]) < _memory(settings[today])
            if not saves or change["value"] > result.indifference_s:
                chosen = today
    alike = (number for number in result.kept if number not in result.missed and number != chosen)
    return Decision(verdict, chosen, result.best, tuple(alike))


def _memory(setting: Setting) -> int:
    """Memory, in which pools of the same size in larger blocks, which may be a block smaller, are alike."""
    return round(20 * math.log2(setting.memory_bytes))


def pareto(points: Iterable[tuple[int, float, float]], indifference: float = 0.0) -> list[int]:
    """The numbers of the settings that none beats in both; points are (number, memory, value), by memory."""
    front: list[tuple[int, float]] = []
    for number, _, value in sorted(points, key=lambda point: (point[1], point[2], point[0])):
        if not front or value < front[-1][1] - indifference:
            front.append((number, value))
    return [number for number, _ in front]


def _value(difference: Estimate | None) -> float:
    value = None if difference is None else difference["value"]
    return float("inf") if value is None else value


def bottleneck_of(verdicts: Sequence[tuple[str | None, int]]) -> str | None:
    """The stage that holds most of the settings back."""
    counts: dict[str, int] = {}
    for stage, count in verdicts:
        if stage is not None:
            counts[stage] = counts.get(stage, 0) + count
    return max(counts, key=lambda name: counts[name], default=None)
