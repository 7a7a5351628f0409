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
from bufferlab.experiments.tuning.phrases import signed_estimate, stage_name, time_estimate
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.tuning.relief import relief_text, stages_text
from bufferlab.experiments.tuning.space import POOL, differences, make_space, space_of
from bufferlab.experiments.tuning.words import POOL as MEMORY
from bufferlab.experiments.units import format_duration

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


def answers(question: Question, what_ifs: Sequence[WhatIf], told: Mapping[str, Any], ask: Ask) -> list[dict[str, Any]]:
    """What tune.json says of each; ``told``: the answer as it is now."""
    found = []
    chosen = question.settings.get(told["chosen"])
    config = question.base.config if chosen is None else chosen.config
    now = told["over"][0]["value"] if chosen is None else told["objective"]
    for what_if in what_ifs:
        then = ask(asked(question, what_if, chosen), what_if.text)
        stay: dict[str, Any] = then["over"][0]
        known = then["verdict"] not in NOTHING
        capacity, relief = then["capacity"], then["relief"]
        stages = [] if relief is None else relief["stages"]
        found.append(
            {
                "name": what_if.text,
                "fields": differences(config, changed_config(config, what_if), {}),
                "verdict": then["verdict"],
                "recommendation": then["recommendation"],
                "changes": then["changes"],
                "holds": not then["changes"] if known else None,
                "cost": _staying(stay["difference"]) if known else unbounded(None),
                "why": stay.get("why", ""),
                "now": {name: now[name] for name in ("value", "low", "high")},
                "objective": then["objective"],
                "staying": stay["value"],
                "nearest": None if known else _nearest(then),
                "memory_bytes": then["memory_bytes"],
                "capacity": capacity["verdict"],
                "bottleneck": capacity["bottleneck"],
                "sentence": capacity["sentence"],
                "saturates": [*dict.fromkeys(one for one in (capacity["bottleneck"], *stages) if one)]
                if capacity["verdict"] == "over"
                else [],
                "relief": relief,
                "certainty": then["certainty"],
                "runs": then["runs"] + (0 if relief is None else relief["runs"]),
                "requests": then["requests"] + (0 if relief is None else relief["requests"]),
            }
        )
    return found


def _nearest(told: Mapping[str, Any]) -> dict[str, Any]:
    """What comes nearest where nothing can be recommended: the figure, which limits it misses, what it does not serve.

    Of settings that serve everything the one that misses its limits by least; else the one that loses fewest requests;
    else today's.
    """
    path, limits = told["objective"]["name"], told["slo"]["limits"]
    settings = {one["number"]: one for one in told["settings"]}

    def worst(one: Mapping[str, Any]) -> float:
        return max(float(one["figures"][limit["figure"]]["value"]) / limit["limit_s"] for limit in limits)

    known = [
        one
        for one in settings.values()
        if told["verdict"] == "slo-missed" and all(_value(one, limit["figure"]) is not None for limit in limits)
    ]
    lost = told["not_served"]
    number = (lost and lost["nearest"]) or told["over"][0]["number"]
    one = min(known, key=lambda one: (worst(one), one["number"])) if known else settings[number]
    return {
        "number": one["number"],
        "changes": one["changes"],
        "value": one["figures"][path],
        "misses": [
            {**limit, "value": value, "by_s": value - limit["limit_s"]}
            for limit in ({"figure": limit["figure"], "limit_s": limit["limit_s"]} for limit in limits)
            if (value := _value(one, limit["figure"])) is not None and value > limit["limit_s"]
        ],
        "lost": lost["lost"] if lost else "",
    }


def _value(one: Mapping[str, Any], path: str) -> float | None:
    value: float | None = one["figures"][path]["value"]
    return value


def _staying(difference: Estimate) -> Estimate:
    """What staying costs: the opposite of what changing brings."""
    value, low, high = difference["value"], difference["low"], difference["high"]
    return {
        "value": None if value is None else -value,
        "low": None if high is None else -high,
        "high": None if low is None else -low,
    }


# --- in words, for the terminal and for the page ---


def what_if_text(content: Mapping[str, Any]) -> str:
    """The table of an answer; empty where nothing was asked."""
    if not content["what_if"]:
        return ""
    title = parse_objective(content["objective"]["name"]).title
    rows: list[Sequence[str]] = [
        ("what if", "the recommendation", f"{title} now", "then", "staying costs", "saturates", "would mend it")
    ]
    for one in content["what_if"]:
        rows.append(
            (
                one["name"], becomes_text(one), time_estimate({**one["now"], "low": None}), then_text(one),
                cost_text(one), saturates_text(one), mends_text(one),
            )
        )  # fmt: skip
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return "What if:\n" + table(rows)


def becomes_text(one: Mapping[str, Any]) -> str:
    """What becomes of the recommendation; that a system is over capacity is said in the same breath."""
    if one["verdict"] in NOTHING:
        return NOTHING[one["verdict"]]
    fields = ", ".join(f"{short_change(name)} {plain(value)}" for name, value in one["changes"].items())
    over = ", but over capacity" if one["capacity"] == "over" else ""
    if one["holds"]:
        return f"holds{over}"
    if one["verdict"] == "no-difference":
        return f"holds{over}; as good with less memory: {fields}"
    return f"becomes {fields}{over}"


def cost_text(one: Mapping[str, Any]) -> str:
    """What staying costs; empty where there is nothing to change to, which the other columns say."""
    if one["nearest"] is not None:
        return ""
    if one["why"]:
        return short_reason(one["why"])
    cost = one["cost"]
    none = one["holds"] or (cost["value"] == 0 and cost["low"] in (None, 0.0))
    return "nothing" if none else signed_estimate(cost)


def then_text(one: Mapping[str, Any]) -> str:
    """The figure then: with the best setting, or of the nearest one and what is amiss with that."""
    if one["nearest"] is None:
        return time_estimate(one["objective"])
    value = "" if one["nearest"]["lost"] else time_estimate(one["nearest"]["value"])
    return "; ".join(part for part in (value, amiss_text(one)) if part)


def amiss_text(one: Mapping[str, Any]) -> str:
    """By how much the nearest setting misses, or what it does not serve; empty where a setting is recommended."""
    nearest = one["nearest"]
    if nearest is None:
        return ""
    if nearest["lost"]:
        return short_reason(nearest["lost"])
    return "; ".join(
        f"{'' if miss['figure'] == one['objective']['name'] else f'{_miss_title(miss)}, '}"
        f"{format_duration(miss['by_s'])} above the limit"
        for miss in nearest["misses"]
    )


def _miss_title(miss: Mapping[str, Any]) -> str:
    return f"{parse_objective(miss['figure']).title} {format_duration(miss['value'])}"


def short_reason(reason: str) -> str:
    """``559 of 6000 not served``: why something has no figure, without what came of single requests."""
    return reason.partition(": ")[0].replace(" requests were not served", " not served")


def saturates_text(one: Mapping[str, Any]) -> str:
    """What is full then, and what is found full when that is relieved."""
    if one["capacity"] == "over":
        return stages_text(one["saturates"]) or "no single stage"
    if one["capacity"] == "near" and one["bottleneck"]:
        return f"nearly {stage_name(one['bottleneck'])}"
    return "nothing"


def mends_text(one: Mapping[str, Any]) -> str:
    """How many instances would do, and how it is with these."""
    return relief_text(one["relief"], one["objective"]["name"])
