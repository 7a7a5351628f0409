"""The answer of a tune as tune.json has it: what to set, what it brings, what is as good, what it costs, how sure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bufferlab.experiments.runs.failures import counted
from bufferlab.experiments.stats.intervals import Estimate, unbounded
from bufferlab.experiments.sweeps.grid import as_override, plain
from bufferlab.experiments.tuning.asking import Question
from bufferlab.experiments.tuning.bounds import loads_of
from bufferlab.experiments.tuning.contest import Result, Runs, misses
from bufferlab.experiments.tuning.decision import NOT_SERVED, OVER_CAPACITY, Decision, pareto
from bufferlab.experiments.tuning.estimates import difference, estimate
from bufferlab.experiments.tuning.remedies import remedy
from bufferlab.experiments.tuning.space import Setting
from bufferlab.experiments.tuning.text import sure_text

FIGURES = (
    "latency_s.mean", "latency_s.p50", "latency_s.p99", "ttft_s.mean", "ttft_s.p99", "resume.rate",
    "language_pool.peak_occupancy", "language_pool.wasted_fraction", "failure_rate", "slo.all",
)  # fmt: skip
"""What is told of every setting beside its objective."""
KEPT, DROPPED, SCREENED, UNFIT, COMPARED = "kept", "dropped", "screened-out", "unfit", "compared"


@dataclass(frozen=True)
class Told:
    """The answer: what tune.json holds, and the same in words."""

    content: dict[str, Any]
    text: str


@dataclass(frozen=True)
class Nearest:
    """The setting that comes nearest to a limit that all miss."""

    number: int
    difference: Estimate | None
    """Its figure less that of today's setting; None where that does not serve every request."""


def answer_of(
    question: Question,
    runs: Runs,
    out: Mapping[int, str],
    result: Result | None,
    decision: Decision,
    differences: Mapping[int, Estimate],
    bottleneck: str | None,
    told: Sequence[int] | None = None,
    nearest: Mapping[str, Nearest] | None = None,
) -> dict[str, Any]:
    """Everything that is known at the end, as tune.json has it.

    ``differences``: setting − best, by number. ``told``: the replications that tell what the recommended setting is
    and brings; those that it was run in by default. ``nearest``: where every setting misses a limit, the one that comes
    nearest, by the figure that is limited.
    """
    settings, path = question.settings, question.objective.path
    chosen = None if decision.chosen is None else settings[decision.chosen]
    own = unbounded(None) if chosen is None else _estimate(question, runs, chosen.number, path, told)
    rows = runs.all()
    content: dict[str, Any] = {
        **question.record(),
        "verdict": decision.verdict,
        "choice": decision.choice,
        "recommendation": {} if chosen is None else dict(chosen.fields),
        "changes": {} if chosen is None else dict(chosen.changes),
        "chosen": decision.chosen,
        "best": decision.best,
        "memory_bytes": None if chosen is None else chosen.memory_bytes,
        "objective": {"name": path, **own},
        "over": _over(question, runs, decision, told),
        "cheaper": _cheaper(question, decision),
        "not_told_apart": [dict(settings[number].fields) for number in decision.alike],
        "certainty": None if question.kind is None else question.certainty,
        "indifference": None if result is None else result.indifference_s,
        "replication_kind": question.kind,
        "race": _race(result),
        "slo": _slo(question, runs, decision, told, nearest or {}),
        "capacity": _capacity(question, runs, decision, bottleneck),
        "not_served": _not_served(question, runs, out) if _loses_all(question, runs, decision) else None,
        "runs": len(rows),
        "requests": sum(row["requests"] for row in rows),
        "wall_s": None,
        "traffic": question.traffic.content(),
        "assumed": list(question.assumed),
        "budget_bytes": question.base.budget_bytes,
        "seed": question.base.config.run.seed,
        "replications": question.most,
        "told_by_replications": None if told is None else [told[0], told[-1]],
        "space": question.space.values,
        "search": {"method": "grid"} if question.search is None else question.search.record,
        "notes": list(question.space.notes),
        "refused": [{"fields": fields, "why": why} for fields, why in question.space.refused],
        "settings": [_setting(question, runs, one, out, result, decision, differences) for one in settings.values()],
        "floor": None,
        "relief": None,
        "what_if": [],
        "sensitivity": {},
    }
    content["front"] = _front(content["settings"])
    content["commands"] = _commands(question, chosen)
    content["sure"] = sure_text(content)
    return content


def _race(result: Result | None) -> dict[str, Any] | None:
    """How the race ended, and by how much its best may be worse than the best there is, at most."""
    if result is None or result.verdict is None:
        return None
    verdict = result.verdict
    return {"settings": len(result.numbers), "ended": verdict.ended, "short_of_best": verdict.short_of_best}


def _cheaper(question: Question, decision: Decision) -> dict[str, Any] | None:
    """The setting with less memory that may be as good, and by how much it may be worse."""
    if decision.cheaper is None or decision.worse is None:
        return None
    one = question.settings[decision.cheaper]
    return {
        "number": one.number, "fields": dict(one.fields), "changes": dict(one.changes),
        "memory_bytes": one.memory_bytes, "difference": dict(decision.worse),
    }  # fmt: skip


def _loses_all(question: Question, runs: Runs, decision: Decision) -> bool:
    """Whether there is no setting that serves every request, be it that none keeps up."""
    if decision.verdict != OVER_CAPACITY:
        return decision.verdict == NOT_SERVED
    ran = [number for number in question.settings if runs.rows(number)]
    return bool(ran) and all(unserved(runs, number) for number in ran)


def _not_served(question: Question, runs: Runs, out: Mapping[int, str]) -> dict[str, Any]:
    """Why no setting serves every request: the reasons, in how many settings each is one, and the nearest setting."""
    reasons: Counter[str] = Counter()
    lost: dict[int, float] = {}
    for number in question.settings:
        if number in out:
            reasons["some requests do not fit, however idle it is"] += 1
        elif rows := runs.rows(number):
            lost[number] = sum(row["requests"] - row["requests.succeeded"] for row in rows) / len(rows)
            # Reasons that differ in nothing but their numbers are one.
            seen = Counter({row["failures"]: 1 for row in rows if row["failures"]})
            reasons.update(dict.fromkeys(counted(seen), 1))
    nearest = min(
        (number for number in lost if question.settings[number].eligible),
        key=lambda one: (lost[one], one),
        default=None,
    )
    return {
        "reasons": dict(counted(reasons)),
        "nearest": nearest,
        "lost": None if nearest is None else unserved(runs, nearest),
        "changes": {} if nearest is None else dict(question.settings[nearest].changes),
    }


def _estimate(
    question: Question, runs: Runs, number: int, path: str, replications: Sequence[int] | None = None
) -> Estimate:
    values = runs.values(number, path, replications)
    return estimate(path, values, question.replicates, runs.parts([number], path))


def _difference(
    question: Question, runs: Runs, first: int, second: int, replications: Sequence[int] | None = None
) -> Estimate:
    """second − first."""
    path = question.objective.path
    ones, others = (runs.values(number, path, replications) for number in (first, second))
    return difference(ones, others, question.replicates, runs.parts([first, second], path))


def _over(question: Question, runs: Runs, decision: Decision, told: Sequence[int] | None) -> list[dict[str, Any]]:
    """The recommended setting less each baseline, from the replications that both have."""
    found = []
    path = question.objective.path
    for place, (fields, number, why) in enumerate(question.space.baselines):
        entry: dict[str, Any] = {
            "baseline": fields, "name": "today's setting" if place == 0 else _name(fields), "number": number,
        }  # fmt: skip
        entry["difference"] = unbounded(None)
        entry["value"] = unbounded(None)
        if number is None:
            entry["why"] = why
        else:
            entry["value"] = _estimate(question, runs, number, path, told)
            entry["memory_bytes"] = question.settings[number].memory_bytes
            lost = unserved(runs, number)
            if lost:
                entry["why"] = lost
            elif decision.chosen is not None:
                entry["difference"] = _difference(question, runs, number, decision.chosen, told)
        found.append(entry)
    return found


def _name(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {plain(value)}" for name, value in fields.items())


def unserved(runs: Runs, number: int) -> str:
    """What a setting did not serve; empty where it served everything."""
    for row in runs.rows(number):
        lost = row["requests"] - row["requests.succeeded"]
        if lost:
            why = f": {row['failures']}" if row["failures"] else ""
            return f"{lost} of {row['requests']} requests were not served{why}"
    return ""


def _slo(
    question: Question,
    runs: Runs,
    decision: Decision,
    told: Sequence[int] | None,
    nearest: Mapping[str, Nearest],
) -> dict[str, Any]:
    """Every limit, what the recommended setting has, and which share of its requests is within [slo].

    ``nearest``: of a limit that every setting misses, the one that comes nearest; ``difference`` to today's. As of the
    objective, that is told by replications that had no part in its choice.
    """
    limits = []
    for limit in question.limits:
        found = unbounded(None)
        if decision.chosen is not None:
            found = _estimate(question, runs, decision.chosen, limit.of.path, told)
        met = None if found["value"] is None else found["value"] <= limit.limit_s
        entry = {"figure": limit.of.path, "limit_s": limit.limit_s, **found, "met": met, "nearest": None}
        one = nearest.get(limit.of.path)
        if one is not None:
            value = _estimate(question, runs, one.number, limit.of.path, told)
            entry["nearest"] = {"number": one.number, **value, "difference": one.difference or unbounded(None)}
        limits.append(entry)
    attained = unbounded(None)
    if decision.chosen is not None:
        attained = _estimate(question, runs, decision.chosen, "slo.all", told)
    return {"limits": limits, "attainment": attained}


def _capacity(question: Question, runs: Runs, decision: Decision, bottleneck: str | None) -> dict[str, Any]:
    number = question.space.baselines[0][1] if decision.chosen is None else decision.chosen
    rows = [] if number is None else runs.rows(number)
    config = question.base.config
    loads = loads_of(config, question.demand)
    found: dict[str, Any] = {
        "verdict": rows[0]["capacity.verdict"] if rows else None,
        "bottleneck": bottleneck or (rows[0]["capacity.bottleneck"] if rows else None),
        "sentence": rows[0]["capacity.sentence"] if rows else None,
        "least_loads": loads,
    }
    if decision.verdict == OVER_CAPACITY:
        offered, served = (rows[0][f"capacity.{name}_rps"] if rows else None for name in ("offered", "served"))
        seen = offered / served if offered and served else None
        load = max(loads.get(bottleneck or "", 0.0), seen or 0.0) or None
        found["remedy"] = remedy(config, question.demand, bottleneck, load, loads)
    return found


def _setting(
    question: Question,
    runs: Runs,
    setting: Setting,
    out: Mapping[int, str],
    result: Result | None,
    decision: Decision,
    differences: Mapping[int, Estimate],
) -> dict[str, Any]:
    """What settings[] says of one."""
    number = setting.number
    state, why = _state(runs, setting, out, result, decision)
    names = dict.fromkeys([question.objective.path, *(limit.of.path for limit in question.limits), *FIGURES])
    own = differences.get(number, unbounded(None))
    if number not in differences and decision.best is not None and state != UNFIT and runs.rows(number):
        own = _difference(question, runs, decision.best, number)
    return {
        "number": number,
        "fields": setting.fields,
        "changes": setting.changes,
        "memory_bytes": setting.memory_bytes,
        "figures": {name: _estimate(question, runs, number, name) for name in names},
        "difference": own,
        "state": state,
        "why": why,
        "misses": misses(runs, number, question.limits, question.replicates) if runs.rows(number) else "",
        "runs": runs.count(number),
        "eligible": setting.eligible,
    }


def _state(
    runs: Runs, setting: Setting, out: Mapping[int, str], result: Result | None, decision: Decision
) -> tuple[str, str]:
    number = setting.number
    if number in out:
        return SCREENED, out[number]
    lost = unserved(runs, number)
    if lost:
        return UNFIT, lost
    if result is None:
        return (COMPARED, "") if runs.rows(number) else (SCREENED, "every setting is over capacity")
    if number in result.missed:
        return UNFIT, result.missed[number]
    # Of settings that ran once nothing was left to chance.
    exact = result.verdict is not None and result.verdict.certainty == 1.0
    if number in result.kept:
        if number == decision.chosen:
            return KEPT, "recommended"
        return KEPT, "as good as the best" if exact else "cannot be told apart from the best"
    if result.verdict is not None and number in result.numbers:
        place = result.numbers.index(number)
        if place in result.verdict.dropped:
            times = result.verdict.dropped[place]
            return DROPPED, "worse than the best" if exact else f"worse than another one after {times} replications"
    return COMPARED, "compared with, not one to choose from"


def _front(settings: list[dict[str, Any]]) -> list[int]:
    """The settings that no other beats in memory and objective, both as differences to the best."""
    points = []
    for one in settings:
        value = one["difference"]["value"]
        if one["state"] in (KEPT, DROPPED) and one["eligible"] and value is not None:
            points.append((one["number"], float(one["memory_bytes"]), value))
    return pareto(points)


def _commands(question: Question, chosen: Setting | None) -> list[str]:
    """What asks the same again, and what runs the recommended setting; RUN stands for the run directory."""
    asked = [question.command] if question.command else []
    if chosen is None:
        return asked
    sets = [part for name, value in chosen.changes.items() for part in ("--set", as_override(name, value))]
    return [*asked, shlex.join(["bufferlab", "sim", "RUN/config.toml", *sets])]
