"""What a prediction is for: choosing a setting. Whether it ranks the candidates as the measurement does, and what its
choice costs.

Cells that differ in a single setting of the system are candidates. Each is judged by an objective, lower is better. The
*regret* of a choice is how much more the measured objective of the setting that the simulator picks is than that of the
best measured one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.validation.cells import CellScore
from experiments.validation.scores import FigureScore

OBJECTIVES = ("mean", "p50", "p99")
"""Figures of the latency that a setting may be chosen by."""
SECTIONS = ("protocol.", "encode.", "language.")
"""What a user of the system sets, unlike its requests and its network."""


@dataclass(frozen=True)
class Choice:
    """The candidates for one setting, by one objective, in the order of the cells.

    ``kendall`` (tau-b), ``spearman``: rank correlation of the measured and the predicted objective; None where either
    is the same for all. ``regret``: relative. ``noise``: the larger noise floor of the objective in the two settings
    in question, None without repeats. ``good``: whether the regret is no more than that (0 without repeats).
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

    @property
    def good(self) -> bool:
        """Whether nobody could tell the picked setting from the best one."""
        return self.regret <= (self.noise or 0.0)


@dataclass(frozen=True)
class Decision:
    """All choices that the cells allow; none if no two of them differ in one setting only."""

    choices: tuple[Choice, ...]


def decide(cells: Sequence[CellScore]) -> Decision:
    """Every setting that some of ``cells`` differ in alone, by every objective."""
    choices = []
    for setting, members in _groups(cells):
        for objective in OBJECTIVES:
            choices.append(_choose(setting, objective, members))
    return Decision(tuple(choices))


def _groups(cells: Sequence[CellScore]) -> list[tuple[str, list[CellScore]]]:
    names = sorted({name for cell in cells for name in cell.settings if name.startswith(SECTIONS)})
    found = []
    for name in names:
        groups: list[tuple[tuple[Any, ...], list[CellScore]]] = []
        for cell in cells:
            rest = (cell.kind, {key: value for key, value in cell.settings.items() if key != name})
            for known, members in groups:
                if known == rest:
                    members.append(cell)
                    break
            else:
                groups.append((rest, [cell]))
        found += [(name, members) for _, members in groups if len(members) > 1]
    return found


def _choose(setting: str, objective: str, cells: Sequence[CellScore]) -> Choice:
    scores: list[FigureScore] = [next(one for one in cell.scores.figures if one.name == objective) for cell in cells]
    measured, predicted = [one.measured for one in scores], [one.predicted for one in scores]
    picked, best = pick(measured, predicted), int(np.argmin(measured))
    noises = [noise.mean for one in (scores[picked], scores[best]) if (noise := one.noise) is not None]
    names = tuple(str(cell.settings.get(setting)) for cell in cells)
    return Choice(
        setting=setting, objective=objective, candidates=names, measured_s=tuple(measured),
        predicted_s=tuple(predicted), picked=names[picked], best=names[best], kendall=kendall(measured, predicted),
        spearman=spearman(measured, predicted), regret=regret(measured, predicted), noise=max(noises, default=None),
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
