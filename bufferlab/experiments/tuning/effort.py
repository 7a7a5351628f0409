"""How many runs a tune takes at least and at most, before any of them is made: the race decides while it goes on."""

from __future__ import annotations

from typing import NamedTuple

from bufferlab.experiments.tuning.asking import LEAST_FRESH, Question
from bufferlab.experiments.tuning.floor import count_of
from bufferlab.experiments.tuning.relief import MOST_RUNS
from bufferlab.experiments.tuning.screening import overloaded, screen
from bufferlab.experiments.tuning.search import FINALISTS, replications
from bufferlab.experiments.tuning.sensitivity import MOST_RIVALS, least_runs, most_runs
from bufferlab.experiments.tuning.what_if import asked

RELIEF = MOST_RUNS + 1


class Effort(NamedTuple):
    """Runs from the least to the most, by what they are for."""

    answer: tuple[int, int]
    what_ifs: tuple[int, int]
    sensitivity: tuple[int, int]
    """The least of it where a setting is recommended and its rivals serve everything."""

    @property
    def runs(self) -> tuple[int, int]:
        """All of them."""
        return sum(one[0] for one in self), sum(one[1] for one in self)


def effort_of(question: Question) -> Effort:
    """What arithmetic rules out is not run, so it is not counted."""
    least, most = _answer(question)
    answer = least + count_of(question), most + count_of(question)
    others = [_answer(asked(question, what_if, None)) for what_if in question.what_ifs]
    if question.search is not None:  # a what-if has its finalists to choose from
        others = [_race(question, FINALISTS)] * len(others)
    rivals = min(MOST_RIVALS, max(sum(one.eligible for one in question.space.settings), 1) - 1)
    rivals = rivals if question.search is None else FINALISTS - 1
    sensitivity = (least_runs(question, rivals), most_runs(question, rivals)) if question.sensitivity else (0, 0)
    return Effort(answer, (sum(one[0] for one in others), sum(one[1] for one in others)), sensitivity)


def _answer(question: Question) -> tuple[int, int]:
    if question.search is not None:
        trials = question.search.trials * len(replications(question.kind))
        least, most = _race(question, FINALISTS)
        return trials + least, trials + most
    eligible = [one for one in question.space.settings if one.eligible]
    compared = _compared(question)
    out = screen(eligible, question.demand, spared=frozenset(compared))
    left = [one for one in eligible if one.number not in out]
    least, most = _race(question, len({*(one.number for one in left), *compared}))
    # Where every setting is over capacity by arithmetic, those that are compared with may be all that is run.
    return (len(compared) * question.first if overloaded(left, question.demand) else least), most


def _race(question: Question, settings: int) -> tuple[int, int]:
    fresh = (len(_compared(question)) + 2) * max(question.most, LEAST_FRESH) if question.kind == "independent" else 0
    outside = sum(not question.settings[number].eligible for number in _compared(question))
    return (settings - outside) * question.first, settings * question.most + fresh + RELIEF


def _compared(question: Question) -> set[int]:
    return {number for _, number, _ in question.space.baselines if number is not None}
