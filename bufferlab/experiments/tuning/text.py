"""The answer in words for a terminal: what to set first, then what it brings, what it costs, and a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bufferlab.experiments.config.sections.serving import Serving
from bufferlab.experiments.stats.intervals import Estimate
from bufferlab.experiments.sweeps.grid import as_override, plain
from bufferlab.experiments.text import table, with_interval
from bufferlab.experiments.tuning.asking import Question
from bufferlab.experiments.tuning.missed import floor_note, missed_lines
from bufferlab.experiments.tuning.names import (
    field_text,
    memory_text,
    same_memory,
    setting_text,
    short_change,
    size_text,
    varied_fields,
)
from bufferlab.experiments.tuning.phrases import estimate_text, sentence, signed, stage_name
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.tuning.relief import relief_sentence
from bufferlab.experiments.units import format_duration
from bufferlab.experiments.workloads.requests import resampling_of
from bufferlab.experiments.workloads.resampling import NoResampling

SHOWN_ALIKE = 8
SHOWN_ROWS = 16
STATES = {"kept": "kept", "dropped": "worse", "screened-out": "not run", "unfit": "unfit", "compared": "compared"}


def plan_text(question: Question) -> str:
    """What is about to be asked, with everything that was not said and is assumed."""
    base, space = question.base, question.space
    config = base.config
    eligible = sum(one.eligible for one in space.settings)
    count = f"{eligible} settings" if question.search is None else f"{question.search.trials} trials of a search"
    lines = [f"tune of {config.run.name}: {count} to choose from, for a low {question.objective.title}"]
    lines += [f"  {line}" for line in question.traffic.text.splitlines()]
    if question.assumed:
        lines.append(f"  not given, so: {'; '.join(question.assumed)}")
    lines.append(
        f"  system: {_instances(config.encode)} encode, {_instances(config.language)} language, profiles "
        f"{config.encode.profile} and {config.language.profile}, link {config.link.profile}"
    )
    own = config.protocol
    pool_bytes = config.blocks(config.language) * config.layout.bytes_per_block
    lines.append(
        f"  today's setting: {own.sizing.policy} sizing of {own.sizing.tokens} tokens, {own.discipline}, blocks of "
        f"{own.block_tokens} tokens, a pool of {size_text(pool_bytes)}"
    )
    width = max(map(len, space.values), default=0)
    for field, values in space.values.items():
        lines.append(f"  {field.ljust(width)}  {', '.join(map(plain, values))}")
    lines += [f"  {note}" for note in space.notes]
    lines += [] if question.search is None else [f"  {question.search.plan(question.kind)}"]
    lines += [f"  limit: {limit.title}" for limit in question.limits]
    lines += [
        f"  not compared with {', '.join(f'{name}={plain(value)}' for name, value in fields.items())}: {why}"
        for fields, _, why in space.baselines
        if why
    ]
    if question.kind is None:
        lines.append(f"  one run each{_why_one_run(question)}")
    else:
        lines.append(
            f"  {question.first} to {question.most} replications each, certainty {100 * question.certainty:g} %, "
            f"indifference {question.indifference.text}"
        )
        if question.kind == "resampled":
            lines.append("  more replications of a file make its error better known and no smaller")
    return "\n".join(lines)


def _why_one_run(question: Question) -> str:
    made = resampling_of(question.base.config)
    if isinstance(made, NoResampling):
        return f", without resamples of the file, so how sure the answer is will not be known: {made.why}"
    return ": nothing about these requests is drawn at random"


def _instances(section: Serving) -> str:
    ranks = f" of {section.tp} ranks" if section.tp > 1 else ""
    return f"{section.instances}{ranks}"


def answer_text(content: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """All of it; ``more``: further parts, before what it took."""
    parts = [
        _words(content),
        _alike(content),
        content["sure"],
        _table(content),
        _front(content),
        *more,
    ]
    return "\n\n".join(part for part in parts if part) + f"\n\n{_spent(content)}"


def _title(content: Mapping[str, Any]) -> str:
    return parse_objective(content["objective"]["name"]).title


def _short_title(path: str) -> str:
    """A figure as the table names it beside the objective."""
    return path.replace("_s.", " ")


def _words(content: Mapping[str, Any]) -> str:
    verdict = content["verdict"]
    if verdict == "over-capacity":
        return "\n".join(_over_capacity(content))
    if verdict == "not-served":
        return "\n".join(_not_served(content))
    title, changes = _title(content), content["changes"]
    lines = []
    missed = verdict == "slo-missed"
    if missed:
        lines += [*missed_lines(content), *_capacity(content), *_relief(content), "", "Apart from the limit:"]
    if (content["choice"] or verdict) == "no-difference":
        least = f"No change is told to be better by more than {format_duration(content['indifference'])}"
        if changes:
            lines += [f"{least}.", "What to set, which is as good as today's setting and needs less memory:"]
        else:
            lines += [f"{least}: today's setting stays.", "What to set: nothing new."]
    else:
        lines.append("What to set:")
    # As a configuration file has them; without the blanks --set takes the same.
    lines += [f"  {' = '.join(as_override(name, value).split('=', 1))}" for name, value in changes.items()]
    settings = _numbered(content)
    chosen = settings[content["chosen"]]
    kept = [field_text(name, chosen) for name in content["recommendation"] if name not in changes]
    if kept:
        lines.append(f"  and as today: {', '.join(kept)}")
    lines.append("")
    lines.append(f"{title}: {estimate_text(content['objective'])}")
    for over in content["over"]:
        lines.append(f"  {_brings(over, bool(changes))}")
    lines.append(_memory(content))
    lines += _cheaper(content)
    lines += _limits(content)
    lines += [] if missed else [*_capacity(content), *_relief(content)]
    return "\n".join(lines)


def _capacity(content: Mapping[str, Any]) -> list[str]:
    """Whether it keeps up, and which stage is busiest."""
    told = content["capacity"]["sentence"]
    return [sentence(told)] if told else []


def _relief(content: Mapping[str, Any]) -> list[str]:
    """How many instances would mend what is amiss, where they would."""
    told = relief_sentence(content)
    return [told] if told else []


def _over_capacity(content: Mapping[str, Any]) -> list[str]:
    capacity = content["capacity"]
    stage = capacity["bottleneck"]
    name = f"; {stage_name(stage)} is the bottleneck" if stage else ""
    lines = [f"Over capacity at every setting{name}: no setting of the buffers mends that."]
    lines += [f"  {capacity['sentence']}"]
    lost = content["not_served"]
    if lost is not None:
        number = content["over"][0]["number"] if lost["nearest"] is None else lost["nearest"]
        lines.append(f"  so requests are given up: {lost['lost']} (setting {number}, which loses fewest)")
    load = capacity["least_loads"].get(stage)
    if load is not None and load > 1:
        lines.append(f"  by arithmetic {stage_name(stage)} is offered at least {load:.2f} times what it can do")
    # What was tried says more than what was reckoned.
    relief = content["relief"]
    tried = relief is not None and relief["enough"] and relief["needs"]
    return [*lines, *(_relief(content) if tried else [f"What would mend it: {capacity['remedy']}."])]


def _not_served(content: Mapping[str, Any]) -> list[str]:
    lost, capacity = content["not_served"], content["capacity"]
    lines = ["No setting serves every request, so none is recommended: times leave out what is not served."]
    settings = _numbered(content)
    today = settings[content["over"][0]["number"]]
    if today["why"]:
        lines.append(f"  today's setting: {today['why']}")
    if lost["nearest"] not in (None, today["number"]):
        fields = setting_text(settings[lost["nearest"]], today)
        lines.append(f"  the nearest is setting {lost['nearest']} ({fields}): {lost['lost']}")
    stage = capacity["bottleneck"]
    if stage:
        lines.append(
            f"Some settings are over capacity, held back by {stage_name(stage)}: what waits behind that is given up, "
            f"whatever it waits for."
        )
    lines.append("Reasons, and in how many settings each is one:")
    lines += [f"  {count}: {reason}" for reason, count in sorted(lost["reasons"].items(), key=lambda one: -one[1])]
    return [*lines, *_capacity(content), *_relief(content)]


def _cheaper(content: Mapping[str, Any]) -> list[str]:
    """One with less memory that is not told to be as good."""
    one = content["cheaper"]
    if one is None:
        return []
    settings = _numbered(content)
    less, today = settings[one["number"]], settings[content["over"][0]["number"]]
    fields = setting_text(less, today) or "today's setting"
    size = "" if not same_memory(less, today) else f"; {memory_text(less)}"
    high = one["difference"]["high"]
    worse = "it is not known by how much it may be worse" if high is None else (
        f"it may be worse by up to {format_duration(high)}"
    )  # fmt: skip
    return [f"Less memory: setting {one['number']} ({fields}{size}) may be as good, but that is not told: {worse}"]


def _brings(over: Mapping[str, Any], changes: bool) -> str:
    name, difference = over["name"], over["difference"]
    if "why" in over:
        return f"over {name}: not compared, {over['why']}"
    value = difference["value"]
    if value is None:
        return f"over {name}: not known"
    if value == 0 and difference["low"] in (None, 0.0):
        return f"over {name}: the same to the microsecond" if changes else f"over {name}: it is the same setting"
    share = f", {100 * value / over['value']['value']:+.1f} %" if over["value"]["value"] else ""
    sure = ""
    low, high = difference["low"], difference["high"]
    if low is not None and high is not None:
        bounds = f"{signed(low)} .. {signed(high)}"
        sure = f" ({bounds})" if low > 0 or high < 0 else f" ({bounds}: may be none)"
    return f"over {name}: {signed(value)}{sure}{share}"


def _memory(content: Mapping[str, Any]) -> str:
    settings = _numbered(content)
    own, today = settings[content["chosen"]], settings.get(content["over"][0]["number"])
    than = "" if today is None or same_memory(own, today) else f"; today's setting takes {memory_text(today)}"
    most = size_text(content["budget_bytes"])
    return f"Memory: {memory_text(own)} for the pool of a language rank, of at most {most}{than}"


def _limits(content: Mapping[str, Any]) -> list[str]:
    lines = []
    missed = content["verdict"] == "slo-missed"
    for limit in content["slo"]["limits"]:
        if missed and limit["met"] is not True:
            continue  # which stands first
        title = parse_objective(limit["figure"]).title
        allowed = f"at most {format_duration(limit['limit_s'])} is allowed"
        # The race, which took it for fit, had others.
        above = ", which these replications do not keep to" if limit["met"] is False else ""
        lines.append(f"SLO: {title} {estimate_text(limit)}, {allowed}{above}{floor_note(content, limit)}")
    attained = content["slo"]["attainment"]["value"]
    if attained is not None:
        lines.append(f"SLO attainment: {100 * attained:.2f} % of the requests within the limits of [slo]")
    return lines


def _alike(content: Mapping[str, Any]) -> str:
    if content["chosen"] is None:
        return ""
    chosen, best = content["chosen"], content["best"]
    settings = _numbered(content)
    alike = [one for one in settings.values() if one["state"] == "kept" and one["number"] != best]
    # What the race kept is held against the best, which need not be what is recommended.
    which = f"setting {best}" if best == chosen else f"setting {best}: {_named(settings[best], content)}"
    what = f"Cannot be told apart from the best ({which})"
    if content["certainty"] is None:
        what = f"Within {format_duration(content['indifference'])} of the best ({which})"
    if not alike:
        lines = [f"{what}: none of the others."]
    else:
        lines = [f"{what}: {len(alike)} other settings." if len(alike) > 1 else f"{what}: one other setting."]
    for one in alike[:SHOWN_ALIKE]:
        name = "the recommended one" if one["number"] == chosen else _named(one, content)
        size = "" if " pool of " in name else f" ({memory_text(one)})"
        lines.append(f"  setting {one['number']}: {name}{size}")
    if len(alike) > SHOWN_ALIKE:
        lines.append(f"  and {len(alike) - SHOWN_ALIKE} more in the table of tune.json")
    if chosen != best and settings[chosen]["state"] != "kept":
        within = format_duration(content["indifference"])
        lines.append(
            f"The recommended one is not among these: another one is better, but not told to be so by more than "
            f"{within}."
        )
    return "\n".join(lines)


def _named(one: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """A setting by what is otherwise in it than in the recommended one."""
    if not one["changes"] and content["changes"]:
        return "today's setting"
    return setting_text(one, _numbered(content)[content["chosen"]])


def _numbered(content: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    return {one["number"]: one for one in content["settings"]}


def sure_text(content: Mapping[str, Any]) -> str:
    """How sure the answer is; empty where nothing is recommended."""
    if content["chosen"] is None:
        return ""
    within = format_duration(content["indifference"])
    if content["certainty"] is None:
        return (
            f"How sure: every setting ran once, which is exact for these requests and says nothing of others; "
            f"differences up to {within} are taken for none." + _of_finalists(content)
        )
    ran = content["race"]
    least = (
        f"How sure: with {100 * content['certainty']:g} % the best of the {ran['settings']} settings that were raced "
        f"is among these"
    )
    if ran["short_of_best"] is not None:
        least += f", and none is better than setting {content['best']} by more than {_bound(ran['short_of_best'])}"
    least += "."
    if ran["ended"] == "spent":
        spent = f" The replications were spent before that came down to {within}"
        more = "--replications allows more" if content["replication_kind"] == "independent" else (
            "only more traffic would tell more"
        )  # fmt: skip
        least += f"{spent}; {more}."
    least += _of_finalists(content)
    if content["replication_kind"] == "resampled":
        least += " Intervals say how far the truth may be from what the file says."
        if content["changes"]:
            least += (
                " What the change brings is told by the resamples that chose it, so it may look better than it is: its "
                "95 % is that of one comparison, not of the best of many."
            )
    return least


def _of_finalists(content: Mapping[str, Any]) -> str:
    """Of which settings it is said, where not all of the space were looked at."""
    search = content["search"]
    if search["method"] == "grid":
        return ""
    return (
        f" This is said of {search['promise']}: {search['trials']} trials looked at {search['settings']} settings, and "
        f"there may be better ones that were not looked at."
    )


def _bound(seconds: float) -> str:
    return format_duration(seconds) if seconds > 0 else "nothing"


def _table(content: Mapping[str, Any]) -> str:
    fields = varied_fields(content["settings"])
    path = content["objective"]["name"]
    shown = [one for one in content["settings"] if one["state"] != "screened-out"]
    order = {"kept": 0, "compared": 1, "dropped": 1, "unfit": 2}
    chosen = content["chosen"]
    shown.sort(key=lambda one: (one["number"] != chosen, order[one["state"]], _or_inf(one), one["number"]))
    titles = [short_change(name) for name in fields]
    limited = [limit["figure"] for limit in content["slo"]["limits"]]
    more = [one for one in dict.fromkeys([*limited, "ttft_s.p99"]) if one != path]
    rows: list[Sequence[str]] = [
        ("setting", *titles, "memory", _title(content), "to the best", *map(_short_title, more), "resumed", "runs", "")
    ]
    for one in shown[:SHOWN_ROWS]:
        figures = one["figures"]
        rows.append(
            (
                str(one["number"]) + ("*" if one["number"] == chosen else ""),
                *(_cell(one["fields"].get(name)) for name in fields),
                memory_text(one),
                _time(figures[path]["value"]),
                _change(one["difference"]),
                *(_time(figures[one]["value"]) for one in more),
                _percent(figures["resume.rate"]["value"]),
                str(one["runs"]),
                _mark(one, content),
            )
        )
    lines = [table(rows)]
    if any(one["difference"]["low"] is not None for one in shown):
        lines.append("Each interval is at 95 % by itself; which settings are kept is told for all of them together.")
    if chosen is not None and content["replication_kind"] == "independent":
        lines.append(
            "The table has the race's replications; what is above it comes from others that had no part in the choice."
        )
    rest = len(shown) - SHOWN_ROWS
    if rest > 0:
        lines.append(f"and {rest} more that ran, all of them in tune.json")
    out = [one for one in content["settings"] if one["state"] == "screened-out"]
    alike: dict[str, list[str]] = {}
    for one in out:
        alike.setdefault(re.sub(r"[\d.]+", "0", one["why"]), []).append(one["why"])
    for told in alike.values():
        such = "" if len(set(told)) == 1 else ", for such reasons as"
        lines.append(f"not run, {len(told)}{such}: {told[0]}")
    if content["refused"]:
        lines.append(f"cannot be run, {len(content['refused'])}, such as one in which {content['refused'][0]['why']}")
    return "\n".join(lines)


def _mark(one: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    if one["number"] == content["chosen"]:
        return "recommended"
    names = [over["name"] for over in content["over"] if over["number"] == one["number"]]
    return ", ".join([STATES[one["state"]], *names])


def _front(content: Mapping[str, Any]) -> str:
    numbers = content["front"]
    if len(numbers) < 2:
        return ""
    by_number = _numbered(content)
    path = content["objective"]["name"]
    lines = [f"Pareto front, {_title(content)} against memory:"]
    for number in numbers:
        one = by_number[number]
        lines.append(
            f"  {memory_text(one)}: {_time(one['figures'][path]['value'])} "
            f"(setting {number}, {_change(one['difference'])} to the best)"
        )
    return "\n".join(lines)


def _spent(content: Mapping[str, Any]) -> str:
    raced = sum(one["runs"] > 0 for one in content["settings"])
    settings = "1 setting" if raced == 1 else f"{raced} settings"
    said = f"{settings} in {content['runs']} runs, {content['requests']} requests"
    for what, name in (("without waiting", "floor"), ("instances", "relief")):
        spent = content[name]
        if spent:
            said += f"; {what}: {spent['runs']} {'run' if spent['runs'] == 1 else 'runs'}, {spent['requests']} requests"
    if content["what_if"]:
        runs, requests = (sum(one[name] for one in content["what_if"]) for name in ("runs", "requests"))
        said += f"; what-ifs: {runs} runs, {requests} requests"
    if content["sensitivity"]:
        said += f"; sensitivity: {content['sensitivity']['runs']} runs"
    return said


def _or_inf(one: Mapping[str, Any]) -> float:
    value = one["difference"]["value"]
    return float("inf") if value is None else float(value)


def _change(difference: Estimate) -> str:
    """A difference with its interval, which the best setting has none of to itself."""
    value = difference["value"]
    if value is None:
        return ""
    if difference["low"] == difference["high"]:
        return signed(value)
    return with_interval(difference, signed, format_duration)


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _cell(value: Any) -> str:
    return "" if value is None else plain(value)
