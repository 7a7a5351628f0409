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
    kind_of,
    percent,
    plural,
    shown,
    value_text,
)
from bufferlab.experiments.reports.sources import Source, environment_of
from bufferlab.experiments.reports.tuninghead import front_sections, sure_sentences, tune_head, varied_words, words_of
from bufferlab.experiments.reports.wording import figure_name, names_of, upper
from bufferlab.experiments.tuning.names import memory_text, short_change, varied_fields
from bufferlab.experiments.tuning.sensitivity import EFFECTS, TITLES, effects_rows, side_text
from bufferlab.experiments.tuning.what_if import amiss_text, becomes_text, cost_text, mends_text, saturates_text

STATES = {"kept": "plain", "dropped": "", "screened-out": "", "unfit": "bad", "compared": ""}
STORED_CONFIG = "RUN/config.toml"
"""What stands in a stored command for the configuration of the tuning's own directory."""
MOST_DRAWN = 24
ALONE = (
    "Each interval is at 95 % by itself; which settings may be the best is told for all of them together, so one may "
    "be kept whose own interval leaves out 0."
)
Content = Mapping[str, Any]


def tune_part(source: Source) -> Part:
    """All there is to say of a tuning."""
    head = tune_head(source)
    # How sure it is has a section here.
    return replace(
        head,
        answer=[one for one in head.answer if one not in sure_sentences(source.content)],
        sections=[*front_sections(source), *_sections(source)],
    )


def _brief(fields: Mapping[str, Any]) -> str:
    """The same in as few letters as a picture has room for."""
    return (
        ", ".join(f"{short_change(name)} {setting_text(value)}" for name, value in fields.items()) or "today's setting"
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
    yield Section("What was run", list(_ran(source)))


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
        tip = f"setting {one['number']}: {words_of(one['changes'])}; {reading}"
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
    alone = f" {ALONE}" if any(row[1]["low"] is not None for row in rows) else ""
    orange = ", orange is recommended" if chosen else ""
    return Figure(f"Paired on the same requests; blue may be the best{orange}.{more}{alone}", [panel])


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
        Column("setting", words=True),
        *(Column(_short(name), name, name, hidden=True) for name in varied),
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
                    text(varied_words(one, varied)),
                    *(setting(one["fields"].get(name)) for name in varied),
                    Cell(memory_text(one), one["memory_bytes"], path=f"{where}.memory_bytes"),
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
        notes.append(f"Small numbers are 95 % intervals. {ALONE}")
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
