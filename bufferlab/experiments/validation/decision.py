"""What a prediction is for: choosing a setting. Whether it ranks the candidates as the measurement does, and what its
choice costs.

Cases that differ in a single setting of the system are candidates. Each is judged by an objective, lower is better. The
*regret* of a choice is how much more the measured objective of the setting that the simulator picks is than that of the
best measured one. Which settings may be the best one is told from the measured repeats
(``experiments.stats.selection``): a choice among them is as good as a measurement can tell, and nothing more is said of
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bufferlab.experiments.stats.intervals import mean
from bufferlab.experiments.stats.selection import possibly_lowest
from bufferlab.experiments.validation.cases import CaseScore
from bufferlab.experiments.validation.scores import LATENCY_FIGURES

OBJECTIVES = ("mean", "p50", "p99")
"""Figures of the latency that a setting may be chosen by."""
SECTIONS = ("protocol.", "encode.", "language.")
"""What a user of the system sets, unlike its requests and its network."""


@dataclass(frozen=True)
class Choice:
    """The candidates for one setting, by one objective, in the order of the cases.

    ``kendall`` (tau-b), ``spearman``: rank correlation of the measured and the predicted objective; None where either
    is the same for all. ``regret``: relative. ``noise``: the larger noise floor of the objective in the two settings
    in question, None without repeats. ``alike``: the settings that the measured repeats cannot tell from the best one;
    None where the candidates have not the same number of repeats, or only one. ``good``: whether the picked one is
    among them, or the best one measured where that is not known.
    """

    setting: str
    objective: str
    candidates: tuple[str, ...]
    measured_s: tuple[float, ...]
    predicted_s: tuple[float, ...]
    picked: str
    best: str
    kendall: float | None
    spearman: float | None
    regret: float
    noise: float | None
    alike: tuple[str, ...] | None

    @property
    def good(self) -> bool:
        """Whether nobody could tell the picked setting from the best one."""
        return self.picked in self.alike if self.alike is not None else self.regret == 0

    @property
    def verdict(self) -> str:
        """What may be said of it: nobody can say that one is right of several that cannot be told apart."""
        return verdict_of(self.alike, good=self.good)


def verdict_of(alike: Sequence[str] | None, *, good: bool) -> str:
    """What is said of a choice with these fields: the best, worse, or neither where the measurement cannot tell."""
    if alike is None:
        return "the best measured, of one repeat" if good else "not the best measured, of one repeat"
    if not good:
        return "worse"
    return "the best" if len(alike) == 1 else f"one of {len(alike)} that cannot be told apart"


@dataclass(frozen=True)
class Decision:
    """All choices that the cases allow, and ``left_out``: a sentence for every case that is a candidate for none."""

    choices: tuple[Choice, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A case as a choice sees it. ``values``: by objective, those of the repeats, measured and predicted, and the noise
    floor."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    values: Mapping[str, tuple[Sequence[float], Sequence[float], float | None]]


def decide(cases: Sequence[CaseScore]) -> Decision:
    """Every setting that some of ``cases`` differ in alone, by every objective."""
    return choices_of([_candidate(case) for case in cases])


def _candidate(case: CaseScore) -> Candidate:
    values = {}
    for objective in OBJECTIVES:
        statistic = LATENCY_FIGURES[objective]
        measured, predicted = ([statistic(one.latencies_s[side]) for one in case.repeats] for side in (0, 1))
        noise = next(one for one in case.scores.figures if one.name == objective).noise
        values[objective] = measured, predicted, None if noise is None else noise.mean
    return Candidate(case.name, case.kind, case.settings, values)


def choices_of(candidates: Sequence[Candidate]) -> Decision:
    """Every setting that some candidates differ in alone, by every objective."""
    groups = _groups(candidates)
    choices = [_choose(setting, objective, members) for setting, members in groups for objective in OBJECTIVES]
    chosen = [one for _, members in groups for one in members]
    left_out = [_why_left_out(one, candidates) for one in candidates if one not in chosen]
    return Decision(tuple(choices), tuple(one for one in left_out if one))


def _why_left_out(candidate: Candidate, others: Sequence[Candidate]) -> str:
    """In what a case differs from the one that is most like it: from more than one setting nothing can be chosen."""
    found = [
        ([name for name in sorted({*candidate.settings, *other.settings})
          if candidate.settings.get(name) != other.settings.get(name)], other)
        for other in others if other is not candidate and other.kind == candidate.kind
    ]  # fmt: skip
    if not found:
        return ""
    names, other = min(found, key=lambda one: len(one[0]))
    return (
        f"{candidate.name} is a candidate for no setting: from {other.name}, which is most like it, it differs in "
        f"{', '.join(names)}; candidates differ in one setting of protocol, encode or language alone"
    )


def _groups(cases: Sequence[Candidate]) -> list[tuple[str, list[Candidate]]]:
    names = sorted({name for case in cases for name in case.settings if name.startswith(SECTIONS)})
    found = []
    for name in names:
        groups: list[tuple[tuple[Any, ...], list[Candidate]]] = []
        for case in cases:
            rest = (case.kind, {key: value for key, value in case.settings.items() if key != name})
            for known, members in groups:
                if known == rest:
                    members.append(case)
                    break
            else:
                groups.append((rest, [case]))
        found += [(name, members) for _, members in groups if len(members) > 1]
    return found


def _choose(setting: str, objective: str, cases: Sequence[Candidate]) -> Choice:
    values = [case.values[objective] for case in cases]
    measured, predicted = ([mean(np.asarray(one)) for one in side] for side in
                           ([own for own, _, _ in values], [other for _, other, _ in values]))  # fmt: skip
    picked, best = pick(measured, predicted), int(np.argmin(measured))
    noises = [noise for *_, noise in (values[picked], values[best]) if noise is not None]
    names = tuple(str(case.settings.get(setting)) for case in cases)
    repeats = [one for one, *_ in values]
    known = len({len(one) for one in repeats}) == 1 and len(repeats[0]) > 1
    return Choice(
        setting=setting, objective=objective, candidates=names, measured_s=tuple(measured),
        predicted_s=tuple(predicted), picked=names[picked], best=names[best], kendall=kendall(measured, predicted),
        spearman=spearman(measured, predicted), regret=regret(measured, predicted), noise=max(noises, default=None),
        alike=tuple(names[place] for place in possibly_lowest(repeats)) if known else None,
    )  # fmt: skip


def pick(measured: Sequence[float], predicted: Sequence[float]) -> int:
    """The place of the lowest prediction; among equal ones, of the worst measured, whose regret nobody can rule out."""
    lowest = min(predicted)
    return max((place for place, value in enumerate(predicted) if value == lowest), key=lambda place: measured[place])


def regret(measured: Sequence[float], predicted: Sequence[float]) -> float:
    """How much more than the best the picked one came to when it was measured, relative to the best; at least 0."""
    best = min(measured)
    chosen = measured[pick(measured, predicted)]
    return 0.0 if chosen == best else chosen / best - 1 if best else math.inf


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b: pairs in the same order less pairs in opposite order, corrected for ties."""
    from scipy.stats import kendalltau

    return _if_both_vary(kendalltau, first, second)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho: the correlation of the ranks, equal values having the mean of theirs."""
    from scipy.stats import spearmanr

    return _if_both_vary(spearmanr, first, second)


def _if_both_vary(correlation: Callable[..., Any], first: Sequence[float], second: Sequence[float]) -> float | None:
    return float(correlation(first, second).statistic) if len(set(first)) > 1 and len(set(second)) > 1 else None
