"""What if it were otherwise: the recommendation again where traffic, memory or profiles are not what they are now.

Every what-if is a tune of its own in which the recommended setting is what is set today, on the same requests:
settings are screened and raced anew, and the best of them is held against staying in replications that had no part in
its choice. So "holds" says that no setting was found that is better by more than the indifference, and a cost is that
of staying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.stats.intervals import Estimate, unbounded
from bufferlab.experiments.sweeps.grid import plain
from bufferlab.experiments.text import table
from bufferlab.experiments.tuning.bounds import demand_of
from bufferlab.experiments.tuning.changes import WhatIf, changed_base, changed_config
from bufferlab.experiments.tuning.names import short_change
from bufferlab.experiments.tuning.space import POOL, differences, make_space, space_of
from bufferlab.experiments.tuning.text import signed_estimate, stage_name, time_estimate
from bufferlab.experiments.tuning.words import POOL as MEMORY

if TYPE_CHECKING:
    from bufferlab.experiments.tuning.asking import Question
    from bufferlab.experiments.tuning.space import Setting

STAGE = "what-if"
NOTHING = {
    "over-capacity": "nothing to choose: over capacity",
    "slo-missed": "no setting keeps the SLO",
    "not-served": "no setting serves every request",
}
"""What the table says where no setting can be recommended."""

Ask = Callable[["Question", str], dict[str, Any]]
"""Answers a question, as tune.json has it; the text names it in the ledger."""


def asked(question: Question, what_if: WhatIf, chosen: Setting | None) -> Question:
    """The question in which it is so and ``chosen`` is what is set today."""
    base = changed_base(question.base, what_if, None if chosen is None else chosen.config)
    demand = demand_of(base.config)
    # A pool that the user named is one of this memory; here the memory is another.
    scaled = any(change.word == MEMORY for change in what_if.changes)
    given = {name: values for name, values in question.given.items() if name != POOL or not scaled}
    if question.search is None:
        space = make_space(base, demand, given=given, baselines=[{}])
    else:
        # What was searched for is not searched for again: the finalists are what there is to choose from.
        finalists = [
            {name: value for name, value in fields.items() if name != POOL or not scaled}
            for fields in question.search.finalists
        ]
        space = space_of(base, finalists, baselines=[{}])
    return replace(question, base=base, demand=demand, space=space, what_ifs=(), sensitivity=False, search=None)


def answers(question: Question, what_ifs: Sequence[WhatIf], chosen: Setting | None, ask: Ask) -> list[dict[str, Any]]:
    """What tune.json says of each."""
    found = []
    now = question.base.config if chosen is None else chosen.config
    for what_if in what_ifs:
        told = ask(asked(question, what_if, chosen), what_if.text)
        stay: dict[str, Any] = told["over"][0]
        cost = unbounded(None) if told["chosen"] is None else _staying(stay["difference"])
        same = bool(told["chosen"]) and not told["changes"]
        found.append(
            {
                "name": what_if.text,
                "fields": differences(now, changed_config(now, what_if), {}),
                "verdict": told["verdict"],
                "recommendation": told["recommendation"],
                "changes": told["changes"],
                "holds": same if told["chosen"] else None,
                "cost": cost,
                "why": stay.get("why", ""),
                "objective": told["objective"],
                "staying": stay["value"],
                "memory_bytes": told["memory_bytes"],
                "capacity": told["capacity"]["verdict"],
                "bottleneck": told["capacity"]["bottleneck"],
                "certainty": told["certainty"],
                "runs": told["runs"],
                "requests": told["requests"],
            }
        )
    return found


def _staying(difference: Estimate) -> Estimate:
    """What staying costs: the opposite of what changing brings."""
    value, low, high = difference["value"], difference["low"], difference["high"]
    return {
        "value": None if value is None else -value,
        "low": None if high is None else -high,
        "high": None if low is None else -low,
    }


def what_if_text(content: Mapping[str, Any]) -> str:
    """The table of an answer; empty where nothing was asked."""
    if not content["what_if"]:
        return ""
    rows: list[Sequence[str]] = [("what if", "the recommendation", "staying costs", "with the best", "capacity")]
    for one in content["what_if"]:
        if one["verdict"] in NOTHING:
            what = NOTHING[one["verdict"]]
        elif one["holds"]:
            what = "holds"
        else:
            what = "becomes " + ", ".join(
                f"{short_change(name)} {plain(value)}" for name, value in one["changes"].items()
            )
        capacity = one["capacity"] or ""
        if one["capacity"] in ("over", "near") and one["bottleneck"]:
            capacity += f": {stage_name(one['bottleneck'])}"
        cost = "nothing" if one["holds"] else one["why"] or signed_estimate(one["cost"])
        rows.append((one["name"], what, cost, time_estimate(one["objective"]), capacity))
    return "What if:\n" + table(rows)
