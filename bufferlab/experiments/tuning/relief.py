"""Which stages hold a setting back, one behind the other, and how many servers of each would do: tried, not only
reckoned.

Whoever relieves the stage that is full finds the next one in its place. So the first replication of the setting runs
again with as many servers as arithmetic asks for (what the stage is offered over what it served), and again with more
of the stage that is full then, until it keeps up and keeps to the limits, or until no number of servers helps. Each
step is one run, and there are few (``MOST_RUNS``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.sections.serving import MAX_INSTANCES
from bufferlab.experiments.sweeps.grid import fingerprint
from bufferlab.experiments.tuning.contest import Runs
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.tuning.remedies import AIM, FAR, SERVERS_OF
from bufferlab.experiments.units import format_duration

if TYPE_CHECKING:
    from bufferlab.experiments.tuning.asking import Question
    from bufferlab.experiments.tuning.folder import Row
    from bufferlab.experiments.tuning.space import Setting

STAGE = "relief"
MOST_RUNS = 6
MOST_SERVERS = {
    "encode.preprocess_workers": 1024,
    "encode.instances": MAX_INSTANCES,
    "language.instances": MAX_INSTANCES,
}
WORTH = 0.05
"""More servers that bring a missed limit no nearer than by such a share of the value are not followed up."""
IDLE = 0.05
"""A stage that is busy for less than this share of the time makes nobody wait long: more of it is not tried."""
TITLES = {
    "encode.preprocess_workers": ("preprocessing worker", "preprocessing workers"),
    "encode.instances": ("encode instance", "encode instances"),
    "language.instances": ("language instance", "language instances"),
}


def relieve(
    question: Question, runs: Runs, setting: Setting, what_if: str | None = None, *, reachable: bool = True
) -> dict[str, Any]:
    """What tune.json says of it.

    ``reachable``: whether the limits can be kept at all; if not, it only has to keep up.
    ``stages``: which stages hold it back, each after the one before was relieved. ``needs``: servers, by the field
    that counts them. ``enough``: whether the setting keeps up with those, serves everything and keeps to the limits.
    ``figures``: the objective and the limits as they are then, ``over`` whether it is over capacity then, ``no_nearer``
    whether even more servers bring a missed limit no nearer: that was tried, or no stage is busy any more.
    """
    marks = {"stage": STAGE} | ({} if what_if is None else {"what_if": what_if})
    own = Runs({}, runs.execute, runs.folder, runs.progress, runs.notice, marks)
    row = _run(own, setting, setting.config)
    stages: list[str] = []
    needs: dict[str, int] = {}
    config, missed = setting.config, _missed(question, row)
    in_vain: set[str] = set()
    no_nearer = False
    while len(own.settings) <= MOST_RUNS:
        over = row["capacity.verdict"] == "over"
        if not over and (not missed or missed == math.inf or not reachable):
            break
        stage = row["capacity.bottleneck"] if over else _busiest(row, in_vain)
        if stage is None:
            no_nearer = not over
            break
        if over and stage not in stages:
            stages.append(stage)
        field, load = SERVERS_OF.get(stage), row["capacity.load"] if over else None
        if field is None or (load is not None and load > FAR):
            break  # there are no servers, or units are wrong rather than servers few
        now = _servers(config, field)
        wanted = max(math.ceil(now * (load or 1.0) / AIM), now + 1)
        if wanted > MOST_SERVERS[field]:
            break
        larger = _with(config, {field: wanted})
        made = _run(own, setting, larger)
        if not over and _missed(question, made) > (1 - WORTH) * missed:
            in_vain.add(stage)  # it waits for something else
            continue
        config, row, missed = larger, made, _missed(question, made)
        needs[field] = wanted
        if stage not in stages:  # it was not full, and less of a wait for it helps all the same
            stages.append(stage)
    figures = dict.fromkeys([question.objective.path, *(limit.of.path for limit in question.limits)])
    return {
        "stages": stages,
        "needs": needs,
        "instead_of": {field: _servers(setting.config, field) for field in needs},
        "enough": row["capacity.verdict"] != "over" and not missed,
        "over": row["capacity.verdict"] == "over",
        "no_nearer": no_nearer,
        "not_served": row["requests"] - row["requests.succeeded"],
        "figures": {path: row[path] for path in figures},
        "number": setting.number,
        "runs": len(own.settings),
        "requests": sum(one["requests"] for one in own.all()),
    }


def _run(runs: Runs, setting: Setting, config: Config) -> Row:
    number = len(runs.settings) + 1
    runs.settings[number] = replace(setting, config=config, fingerprint=fingerprint(config))
    runs.get([(number, 0)], STAGE)
    row = runs.row(number, 0)
    assert row is not None
    return row


def _missed(question: Question, row: Row) -> float:
    """The largest figure over its limit that is missed; 0 where all is well, infinite where requests are lost."""
    if row["requests.succeeded"] < row["requests"]:
        return math.inf
    ratios = [(row[limit.of.path] or 0.0) / limit.limit_s for limit in question.limits]
    return max((one for one in ratios if one > 1), default=0.0)


def _busiest(row: Row, but: Collection[str]) -> str | None:
    """The stage whose servers have least time left, of those that are not in vain."""
    shares = {stage: row[f"utilisation.{stage}"] or 0.0 for stage in SERVERS_OF if stage not in but}
    stage = max(shares, key=lambda one: shares[one], default=None)
    return stage if stage is not None and shares[stage] >= IDLE else None


def _servers(config: Config, field: str) -> int:
    section, name = field.split(".")
    return int(getattr(getattr(config, section), name))


def _with(config: Config, fields: Mapping[str, int]) -> Config:
    tree = config.tree()
    for field, number in fields.items():
        section, name = field.split(".")
        tree[section][name] = number
    return parse(tree).resolved()


# --- in words ---


def needs_text(relief: Mapping[str, Any] | None) -> str:
    """``about 4 language instances and 2 encode instances``; empty where servers are not what would mend it."""
    if relief is None or not relief["needs"]:
        return ""
    parts = [f"{number} {TITLES[field][number != 1]}" for field, number in relief["needs"].items()]
    return f"about {' and '.join(parts)}"


def stages_text(stages: list[str], before: str = "") -> str:
    """``prefill, then encoder``; ``before``: what stands before each but the first."""
    return f", then {before}".join(stage.replace("_", " ") for stage in stages)


def relief_sentence(content: Mapping[str, Any]) -> str:
    """What the answer says of it; empty where nothing is amiss or servers are not what is missing."""
    relief = content["relief"]
    told = relief_text(relief, content["objective"]["name"])
    if not told:
        return ""
    if not relief["needs"]:
        return f"Instances: {told}, as far as was tried ({relief['runs'] - 1} runs)."
    needs, now = needs_text(relief), " and ".join(str(number) for number in relief["instead_of"].values())
    held = f"Instances: held back by {stages_text(relief['stages'], 'by ')}."
    few = f"{needs} instead of {now}"
    if relief["over"]:
        return f"{held} Even {few} are too few: with these one run is over capacity as well."
    if relief["not_served"]:
        return f"{held} Even with {few} {relief['not_served']} requests are not served in one run."
    path = content["objective"]["name"]
    figure = f"{parse_objective(path).title} {_time(relief, path)}"
    if relief["enough"]:
        return f"{held} {few[0].upper()}{few[1:]} would do; in one run with these: {figure}."
    more = "; more bring it no nearer" if relief["no_nearer"] else ""
    return f"{held} With {few} it keeps up, but is above the limit in one run: {figure}{more}."


def relief_text(relief: Mapping[str, Any] | None, path: str) -> str:
    """How many would do and how it is with as many; empty where nothing is amiss or servers are not what is missing."""
    if relief is None:
        return ""
    needs = needs_text(relief)
    if needs:
        return f"{needs}: {_with_these(relief, path)}"
    return "more instances bring it no nearer" if relief["runs"] > 1 and not relief["enough"] else ""


def _with_these(relief: Mapping[str, Any], path: str) -> str:
    if relief["over"]:
        return "over capacity even then"
    if relief["not_served"]:
        return f"{relief['not_served']} requests not served even then"
    told = _time(relief, path)
    return told if relief["enough"] else f"{told}, still above the limit"


def _time(relief: Mapping[str, Any], path: str) -> str:
    value = relief["figures"].get(path)
    return "not known" if value is None else format_duration(value)
