"""The part of the page about a tuning: what to set, what that brings, what else may be as good, and how sure that is.

It reads ``tune.json`` alone, of the version that ``sources`` asks for.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from bufferlab.experiments.reports.charts import differences, tradeoff
from bufferlab.experiments.reports.page import (
    Block,
    Cell,
    Column,
    Commands,
    Download,
    Fact,
    Figure,
    KeyFigure,
    Notice,
    Part,
    Prose,
    Row,
    Section,
    Table,
    estimated,
    plain,
    setting,
    setting_text,
    text,
    whole,
)
from bufferlab.experiments.reports.ran import facts, host_facts, input_facts, traffic_facts, typed
from bufferlab.experiments.reports.readings import (
    count,
    interval_text,
    kind_of,
    percent,
    plural,
    shown,
    value_text,
)
from bufferlab.experiments.reports.sources import Source, environment_of
from bufferlab.experiments.reports.wording import STAGES, figure_name, names_of, upper
from bufferlab.experiments.tuning.names import short_change, varied_fields
from bufferlab.experiments.tuning.relief import relief_sentence
from bufferlab.experiments.tuning.sensitivity import EFFECTS, TITLES, effects_rows, side_text
from bufferlab.experiments.tuning.what_if import amiss_text, becomes_text, cost_text, mends_text, saturates_text

VERDICTS = {
    "recommended": ("recommended", "good"),
    "no-difference": ("no change told to be better", "plain"),
    "over-capacity": ("over capacity", "bad"),
    "slo-missed": ("no setting keeps to the limits", "bad"),
    "not-served": ("no setting serves every request", "bad"),
}
STATES = {"kept": "plain", "dropped": "", "screened-out": "", "unfit": "bad", "compared": ""}
STORED_CONFIG = "RUN/config.toml"
"""What stands in a stored command for the configuration of the tuning's own directory."""
MOST_DRAWN = 24
Content = Mapping[str, Any]


def tune_part(source: Source) -> Part:
    """All there is to say of a tuning."""
    return replace(tune_head(source), sections=list(_sections(source)))


def tune_head(source: Source) -> Part:
    """What stands first: the answer, and the few numbers that matter most."""
    content = source.content
    notices = [
        Notice(
            f"The limit {one['figure']} of {shown(one['limit_s'], 'time')} is not met by the recommended setting "
            f"in the replications that tell what it brings: {value_text(one, 'time')}.",
            "bad",
        )
        for one in content["slo"]["limits"]
        if one["met"] is False
    ]
    return Part(
        title=source.name,
        kicker=f"tuning over {plural(len(content['settings']), 'setting')}",
        verdict=VERDICTS.get(content["verdict"], (str(content["verdict"]), "plain")),
        answer=[one for one in _answer(content) if one],
        notices=notices,
        figures=list(_key_figures(content)),
        file=source.file,
    )


def named(fields: Mapping[str, Any]) -> str:
    """Settings as words; those of today where there are none."""
    return ", ".join(f"{_short(name)} {setting_text(value)}" for name, value in fields.items()) or "today's setting"


def _brief(fields: Mapping[str, Any]) -> str:
    """The same in as few letters as a picture has room for."""
    return (
        ", ".join(f"{short_change(name)} {setting_text(value)}" for name, value in fields.items()) or "today's setting"
    )


def _answer(content: Content) -> Iterator[str]:
    traffic = str(content["traffic"]["sentence"]).removeprefix("workload: ")
    memory = f", with at most {shown(content['budget_bytes'], 'bytes')} for the pool of a language rank"
    yield f"What should be set for {traffic}{memory}?"
    yield _what_to_set(content)
    yield _capacity(content)
    yield relief_sentence(content)
    yield _brings(content)
    less = content["cheaper"]
    if less:
        high = less["difference"]["high"]
        worse = (
            "by how much it may be worse is not known" if high is None else f"it may be worse by {shown(high, 'time')}"
        )
        size = shown(less["memory_bytes"], "bytes")
        yield f"With less memory, {size}, {named(less['changes'])} may be as good, but that is not told: {worse}."
    if content["chosen"] is not None:
        yield _alike(content)
    yield content["sure"]


def _what_to_set(content: Content) -> str:
    changes, capacity = content["changes"], content["capacity"]
    match content["verdict"]:
        case "over-capacity":
            stage = STAGES.get(str(capacity["bottleneck"]), "")
            return f"Over capacity at every setting{f': the {stage} is the bottleneck' if stage else ''}."
        case "slo-missed":
            return "No setting keeps to the limits."
        case "not-served":
            reasons = "; ".join(content["not_served"]["reasons"])
            return f"No setting serves every request{f': {reasons}' if reasons else ''}."
        case "no-difference":
            told = f"No change is told to be better by more than {shown(content['indifference'], 'time')}"
            if not changes:
                return f"{told}: today's setting stays."
            return f"{told}. As good as today's setting, and with less memory: {named(changes)}."
        case _:
            return f"Set {named(changes)}."


def _capacity(content: Content) -> str:
    """What holds the setting back that is recommended; where there is none, what would mend it."""
    capacity = content["capacity"]
    if content["verdict"] == "over-capacity":
        return " ".join(
            upper(one) for one in (capacity["sentence"], f"What would mend it: {capacity['remedy']}") if one
        )
    return upper(capacity["sentence"]) if capacity["verdict"] in {"over", "near"} else ""


def _brings(content: Content) -> str:
    """What the recommended setting has over every baseline, and why over some of them that is not known."""
    over, left = [], []
    for one in content["over"]:
        difference = one["difference"]
        name = one["name"] or named(one["baseline"])
        if one.get("why"):
            left.append(f"{name} is not compared: {one['why']}")
        if difference["value"] is None or not any(difference[side] for side in ("value", "low", "high")):
            continue  # not known, or that baseline is the recommended setting itself
        spread = interval_text(difference, "time", signed=True)
        none = difference["low"] is None or difference["low"] <= 0 <= difference["high"]
        sure = f" ({spread}{', may be none' if none else ''})" if spread else ""
        over.append(f"against {name} {value_text(difference, 'time', signed=True)}{sure}")
    said = [f"{figure_name(content['objective']['name']).capitalize()}: {'; '.join(over)}"] if over else []
    return " ".join(upper(one) for one in [*said, *left])


def _alike(content: Content) -> str:
    """Which settings are as good as the best as far as is known; the best need not be what is recommended."""
    best, chosen = content["best"], content["chosen"]
    alike = [one["number"] for one in content["settings"] if one["state"] == "kept" and one["number"] != best]
    which = f"the best (setting {best}{'' if best == chosen else ', which is not the recommended one'})"
    many = f"{plural(len(alike), 'other setting')}" if alike else "None of the other settings"
    if content["certainty"] is None:
        verb = "is" if len(alike) < 2 else "are"
        return f"{many} {verb} within {shown(content['indifference'], 'time')} of {which}."
    said = f"{many} cannot be told apart from {which}." if alike else f"{which.capitalize()} is told from all others."
    if next(one["state"] for one in content["settings"] if one["number"] == chosen) == "kept":
        return said
    within = shown(content["indifference"], "time")
    return (
        f"{said} The recommended one is not among these: another one is better, but not told to be so by more than "
        f"{within}."
    )


def _key_figures(content: Content) -> Iterator[KeyFigure]:
    objective = content["objective"]
    if objective["value"] is not None:
        yield KeyFigure(figure_name(objective["name"]), estimated(objective, "objective", kind_of(objective["name"])))
    for place, one in enumerate(content["over"][:3]):
        if one["difference"]["value"]:
            cell = estimated(one["difference"], f"over.{place}.difference", "time", signed=True)
            yield KeyFigure(f"against {one['name'] or named(one['baseline'])}", cell)
    if content["memory_bytes"] is not None:
        yield KeyFigure("memory of a language rank", plain(content["memory_bytes"], "bytes", "memory_bytes"))
    attained = content["slo"]["attainment"]
    if attained["value"] is not None:
        yield KeyFigure("within all limits", estimated(attained, "slo.attainment", "share"))
    yield KeyFigure(
        "runs spent",
        Cell(count(content["runs"]), content["runs"], path="runs", interval=f"{count(content['requests'])} requests"),
    )


def _sections(source: Source) -> Iterator[Section]:
    content = source.content
    drawn = [one for one in (_front(content), _differences(content)) if one is not None]
    if drawn:
        panels = [panel for one in drawn for panel in one.panels]
        yield Section("What settings bring and cost", [Figure(" ".join(one.caption for one in drawn), panels)])
    yield Section("All settings", [_settings(content)])
    if content["what_if"]:
        yield Section("What if", [_what_if(content)])
    if content["sensitivity"]:
        yield Section("How far inputs may be off", list(_sensitivity(content["sensitivity"])))
    yield Section("What was asked and run", list(_ran(source)))


def _front(content: Content) -> Figure | None:
    path = content["objective"]["name"]
    front = set(content["front"])
    spots = []
    for one in content["settings"]:
        figure, memory = one["figures"][path], one["memory_bytes"]
        if figure["value"] is None or one["state"] in {"unfit", "screened-out"}:
            continue
        place: dict[str, Any] = {"value": memory, "low": None, "high": None}
        reading = f"{value_text(figure, kind_of(path))}, {shown(memory, 'bytes')}"
        tip = f"setting {one['number']}: {named(one['changes'])}; {reading}"
        spots.append(
            (place, figure, str(one["number"]), one["number"] in front, one["number"] == content["chosen"], tip)
        )
    if len({spot[0]["value"] for spot in spots}) < 2:  # all cost the same, so there is nothing to weigh
        return None
    told = "; ".join(spot[5] for spot in spots if spot[3])
    what = figure_name(path)
    panel = tradeoff(
        f"{what} against memory",
        spots,
        across="memory of a language rank's pool",
        kinds=("bytes", kind_of(path)),
        upwards=what,
        file="front",
        description=f"On the front: {told}",
        chosen="recommended",
    )
    bounded = any(spot[1]["low"] is not None for spot in spots)
    lines = "; upright lines are 95 % intervals" if bounded else ""
    return Figure(f"Each point is a setting. Down and to the left is better{lines}.", [panel])


def _differences(content: Content) -> Figure | None:
    known = [
        one
        for one in content["settings"]
        if one["state"] in {"kept", "dropped", "compared"} and one["difference"]["value"] is not None
    ]
    known.sort(key=lambda one: one["difference"]["value"])
    chosen = [one for one in known if one["number"] == content["chosen"]]
    shown_ones = sorted(
        {one["number"]: one for one in [*known[: MOST_DRAWN - len(chosen)], *chosen]}.values(),
        key=lambda one: one["difference"]["value"],
    )
    ends = [one["difference"][name] for one in shown_ones for name in ("value", "low", "high")]
    if len(shown_ones) < 2 or not any(ends):  # all came to exactly the same
        return None
    rows = [
        (
            f"{one['number']}: {_brief(one['changes'])}",
            one["difference"],
            2 if one["number"] == content["chosen"] else 1 if one["state"] == "kept" else 0,
            f"setting {one['number']}: {value_text(one['difference'], 'time', signed=True)}, {one['state']}",
            None,
            None,
        )
        for one in shown_ones
    ]
    panel = differences(
        f"{figure_name(content['objective']['name'])}: difference to the best",
        rows,
        across="setting less the best",
        kind="time",
        file="differences",
        description="; ".join(row[3] for row in rows),
    )
    more = f" The {len(rows)} lowest of {len(known)}." if len(rows) < len(known) else ""
    intervals = ", with 95 % intervals" if any(row[1]["low"] is not None for row in rows) else ""
    return Figure(
        f"Paired on the same requests{intervals}; blue may be the best, orange is recommended.{more}", [panel]
    )


def _settings(content: Content) -> Table:
    varied = varied_fields(content["settings"])
    path = content["objective"]["name"]
    paths = [
        one
        for one in dict.fromkeys([path, "ttft_s.p99", "resume.rate"])
        if any(row["figures"][one]["value"] is not None for row in content["settings"])
    ]
    columns = [
        Column("no.", "setting", numeric=True),
        Column("state"),
        *(Column(_short(name), name, name) for name in varied),
        Column("memory", "memory_bytes", numeric=True),
        *(Column(figure_name(one), one, one, numeric=True) for one in paths),
        Column("to the best", "difference_s", numeric=True),
        Column("why", words=True),
        Column("runs", numeric=True),
    ]
    rows = []
    for place, one in enumerate(content["settings"]):
        where = f"settings.{place}"
        rows.append(
            Row(
                [
                    whole(one["number"], f"{where}.number"),
                    text(one["state"], badge=STATES.get(one["state"], "")),
                    *(setting(one["fields"].get(name)) for name in varied),
                    plain(one["memory_bytes"], "bytes", f"{where}.memory_bytes"),
                    *(estimated(one["figures"][name], f"{where}.figures.{name}", kind_of(name)) for name in paths),
                    estimated(one["difference"], f"{where}.difference", "time", signed=True),
                    text(one["why"]),
                    whole(one["runs"], f"{where}.runs"),
                ],
                "best" if one["number"] == content["chosen"] else "",
            )
        )
    notes = ["The green row is recommended."] if content["chosen"] is not None else []
    if any(one["figures"][name]["low"] is not None for one in content["settings"] for name in paths):
        notes.append("Small numbers are 95 % intervals.")
    if content["chosen"] is not None and content["replication_kind"] == "independent":
        notes.append(
            "These are the race's replications; what stands first comes from others that had no part in the choice."
        )
    return Table(
        "A row for every setting",
        columns,
        rows,
        "settings",
        note=" ".join(notes),
    )


def _what_if(content: Content) -> Table:
    """In the words of the terminal."""
    path = content["objective"]["name"]
    rows = []
    for place, one in enumerate(content["what_if"]):
        where = f"what_if.{place}"
        value = one["objective"] if one["nearest"] is None else one["nearest"]["value"]
        known = f"{where}.objective" if one["nearest"] is None else f"{where}.nearest.value"
        none = cost_text(one) in ("", "nothing") or bool(one["why"])
        rows.append(
            Row(
                [
                    text(one["name"]),
                    text(becomes_text(one)),
                    plain(one["now"]["value"], kind_of(path), f"{where}.now.value"),
                    estimated(value, known, kind_of(path)),
                    text(amiss_text(one)),
                    text(cost_text(one)) if none else estimated(one["cost"], f"{where}.cost", "time", signed=True),
                    text(saturates_text(one)),
                    text(mends_text(one)),
                ]
            )
        )
    columns = [
        Column("what if"),
        Column("the recommendation", words=True),
        Column(f"{figure_name(path)} now", numeric=True),
        Column("then", numeric=True),
        Column("amiss then", words=True),
        Column("staying costs", numeric=True),
        Column("saturates", words=True),
        Column("would mend it", words=True),
    ]
    note = (
        "Holds: no setting was found that is better by more than the indifference, on the same requests. What would "
        "mend it was tried in one run, and its figure stands beside it."
    )
    return Table("The recommendation again", columns, rows, "what-if", note=note)


def _sensitivity(content: Content) -> Iterator[Block]:
    """In the words of the terminal."""
    rows = [
        Row([text(TITLES[one["name"]]), plain(one["to"], path=f"sensitivity.breaks.{place}.to"), text(side_text(one))])
        for place, one in enumerate(content["breaks"])
    ]
    columns = [Column("input"), Column("scaled to, ×", numeric=True), Column("the recommendation", words=True)]
    yield Table("By what factor an input may be off before another setting is better", columns, rows, "sensitivity")
    screening = content["screening"]
    if not screening["effects"]:
        yield Prose([upper(f"what matters most was not told: {screening['why']}")])
        return
    yield Table(
        "What matters most: Morris' elementary effects",
        [Column(name, words=not place, numeric=place > 0) for place, name in enumerate(EFFECTS)],
        [Row([text(cell) for cell in row]) for row in effects_rows(screening)],
        "effects",
        note="From one end of the range to the other, in percent of the figure.",
    )


def _ran(source: Source) -> Iterator[Block]:
    content = source.content
    space = [
        Fact(name, names_of([setting_text(one) for one in values], 12)) for name, values in content["space"].items()
    ]
    yield facts(
        traffic_facts(content["traffic"]),
        space,
        [Fact("of the search", upper(str(note))) for note in content["notes"]],
        [Fact("assumed", upper(str(one))) for one in content["assumed"]],
        [Fact("seed", f"{content['seed']}, at most {plural(content['replications'], 'replication')}")],
        [Fact("certainty", percent(content["certainty"]))] if content["certainty"] is not None else [],
        [Fact("indifference", shown(content["indifference"], "time"))] if content["indifference"] is not None else [],
        host_facts(environment_of(source)),
        input_facts(content["inputs"]),
        [Fact("took", shown(content["wall_s"], "time"))],
    )
    config = source.path / "config.toml"
    names = {"sim": "To run the recommended setting.", "tune": "To ask the same again."}
    # ``bufferlab sim …`` or ``bufferlab tune …``
    commands = [
        [str(config) if word == STORED_CONFIG else word for word in shlex.split(one)] for one in content["commands"]
    ]
    if commands:
        yield Commands([(names[words[1]], typed(*words)) for words in commands])
    yield Download(
        f"{source.name}.toml", "Today's setting (TOML)", config.read_text(encoding="utf-8"), "application/toml"
    )


def _short(name: str) -> str:
    parts = name.split(".")
    return " ".join(parts[-2:]) if parts[-1] in {"policy", "tokens", "pool_blocks", "instances", "tp"} else parts[-1]
