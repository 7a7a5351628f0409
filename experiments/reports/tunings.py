"""The part of the page about a tuning: what to set, what that brings, what else may be as good, and how sure that is.

It reads ``tune.json`` and nothing of ``tuning``: what a tuning of another version does not say is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.reports.charts import differences, tradeoff
from experiments.reports.page import (
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
from experiments.reports.ran import facts, host_facts, input_facts, traffic_facts
from experiments.reports.readings import count, interval_text, kind_of, percent, plural, shown, value_text
from experiments.reports.sources import Source, environment_of
from experiments.reports.wording import STAGES, figure_name, names_of, upper

VERDICTS = {
    "recommended": ("recommended", "good"),
    "no-difference": ("no difference found", "plain"),
    "over-capacity": ("over capacity", "bad"),
    "slo-missed": ("no setting keeps to the limits", "bad"),
    "not-served": ("no setting serves every request", "bad"),
}
STATES = {"kept": "plain", "dropped": "", "screened-out": "", "unfit": "bad", "compared": "", "refused": "bad"}
MOST_DRAWN = 24
Content = Mapping[str, Any]


def tune_part(source: Source) -> Part:
    """All there is to say of a tuning."""
    content = source.content
    notices: list[Notice] = []
    slo = content.get("slo") or {}
    notices += [
        Notice(
            f"The limit {one['figure']} of {shown(one['limit_s'], 'time')} is not met by the recommended setting.",
            "bad",
        )
        for one in slo.get("limits") or ()
        if one.get("met") is False
    ]
    return Part(
        title=source.name,
        kicker=f"tuning over {plural(len(content['settings']), 'setting')}",
        verdict=VERDICTS.get(content["verdict"], (str(content["verdict"]), "plain")),
        answer=[one for one in _answer(content) if one],
        notices=notices,
        figures=list(_key_figures(content)),
        sections=list(_sections(source)),
        file=source.file,
    )


def named(fields: Mapping[str, Any]) -> str:
    """Settings as words; those of today where there are none."""
    return ", ".join(f"{_short(name)} {setting_text(value)}" for name, value in fields.items()) or "today's setting"


def _answer(content: Content) -> Iterator[str]:
    traffic = str((content.get("traffic") or {}).get("sentence", "")).removeprefix("workload: ")
    budget = content.get("budget_bytes")
    memory = f", with at most {shown(budget, 'bytes')} for the pool of a language rank" if budget else ""
    yield f"What should be set for {traffic or 'this traffic'}{memory}?"
    changes = content.get("changes", content.get("recommendation")) or {}
    stage = STAGES.get(str((content.get("capacity") or {}).get("bottleneck")), "")
    if content["verdict"] == "over-capacity":
        yield f"Over capacity at every setting{f': the {stage} is the bottleneck' if stage else ''}."
    elif content["verdict"] == "slo-missed":
        yield "No setting keeps to the limits."
    elif content["verdict"] == "not-served":
        reasons = (content.get("not_served") or {}).get("reasons") or {}
        why = f": {'; '.join(reasons)}" if reasons else ""
        yield f"No setting serves every request{why}."
    elif content["verdict"] == "no-difference":
        cheaper = f" As good, and with no more memory: {named(changes)}." if changes else ""
        yield f"No difference found: today's setting may as well be the best.{cheaper}"
    else:
        yield (
            f"Set {named(changes)}." if content.get("changes") else "Leave the settings as they are: they are the best."
        )
    over = []
    for one in content.get("over") or ():
        difference = one["difference"]
        if difference["value"] is None or not any(difference[side] for side in ("value", "low", "high")):
            continue  # not known, or that baseline is the recommended setting itself
        spread = interval_text(difference, "time", signed=True)
        none = difference["low"] is None or difference["low"] <= 0 <= difference["high"]
        name = one.get("name") or named(one["baseline"])
        sure = f" ({spread}{', may be none' if none else ''})" if spread else ""
        over.append(f"against {name} {value_text(difference, 'time', signed=True)}{sure}")
    if over:
        yield f"{figure_name(content['objective']['name']).capitalize()}: {'; '.join(over)}."
    less = content.get("cheaper")
    if less:
        high = less["difference"]["high"]
        worse = (
            "by how much it may be worse is not known" if high is None else f"it may be worse by {shown(high, 'time')}"
        )
        size = shown(less["memory_bytes"], "bytes")
        yield f"With less memory, {size}, {named(less['changes'])} may be as good, but that is not told: {worse}."
    alike = content.get("not_told_apart") or ()
    if content.get("certainty") is not None and content.get("chosen", 0) is not None:
        race = content.get("race") or {}
        short = race.get("short_of_best")
        margin = f", and none of the others is better than it by more than {shown(short, 'time')}" if short else ""
        one_of = plural(len(alike), "other setting")
        apart = f"{one_of} cannot be told apart from it." if alike else "It is told from all others."
        sure = percent(content["certainty"])
        yield f"{apart} With {sure} the best of those that were raced is among these{margin}."


def _key_figures(content: Content) -> Iterator[KeyFigure]:
    objective = content["objective"]
    if objective["value"] is not None:
        yield KeyFigure(figure_name(objective["name"]), estimated(objective, "objective", kind_of(objective["name"])))
    for place, one in enumerate((content.get("over") or ())[:3]):
        if one["difference"]["value"]:
            cell = estimated(one["difference"], f"over.{place}.difference", "time", signed=True)
            yield KeyFigure(f"against {one.get('name') or named(one['baseline'])}", cell)
    if content.get("memory_bytes") is not None:
        yield KeyFigure("memory of a language rank", plain(content["memory_bytes"], "bytes", "memory_bytes"))
    attained = (content.get("slo") or {}).get("attainment") or {}
    if attained.get("value") is not None:
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
    asked = content.get("what_if") or []
    if asked:
        yield Section("What if", [_what_if(asked)])
    breaks = (content.get("sensitivity") or {}).get("breaks") or []
    if breaks:
        yield Section("How far inputs may be off", list(_sensitivity(content["sensitivity"])))
    yield Section("What was asked and run", list(_ran(source)))


def _front(content: Content) -> Figure | None:
    path = content["objective"]["name"]
    front = set(content.get("front") or ())
    spots = []
    for one in content["settings"]:
        figure, memory = (one.get("figures") or {}).get(path), one.get("memory_bytes")
        if not figure or figure["value"] is None or memory is None or one["state"] in {"unfit", "screened-out"}:
            continue
        place: dict[str, Any] = {"value": memory, "low": None, "high": None}
        reading = f"{value_text(figure, kind_of(path))}, {shown(memory, 'bytes')}"
        tip = f"setting {one['number']}: {named(one.get('changes') or {})}; {reading}"
        spots.append(
            (place, figure, str(one["number"]), one["number"] in front, one["number"] == content.get("chosen"), tip)
        )
    if len(spots) < 2:
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
    return Figure("Each point is a setting. Down and to the left is better; upright lines are 95 % intervals.", [panel])


def _differences(content: Content) -> Figure | None:
    known = [
        one
        for one in content["settings"]
        if one["state"] in {"kept", "dropped", "compared"} and (one.get("difference") or {}).get("value") is not None
    ]
    known.sort(key=lambda one: one["difference"]["value"])
    chosen = [one for one in known if one["number"] == content.get("chosen")]
    shown_ones = sorted(
        {one["number"]: one for one in [*known[: MOST_DRAWN - len(chosen)], *chosen]}.values(),
        key=lambda one: one["difference"]["value"],
    )
    if len(shown_ones) < 2:
        return None
    rows = [
        (
            f"{one['number']}: {named(one.get('changes') or {})}",
            one["difference"],
            2 if one["number"] == content.get("chosen") else 1 if one["state"] == "kept" else 0,
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
    return Figure(
        f"Paired on the same requests, with 95 % intervals; blue may be the best, orange is recommended.{more}", [panel]
    )


def _settings(content: Content) -> Table:
    varied = [
        name
        for name in content.get("space") or {}
        if len({str(one["fields"].get(name)) for one in content["settings"]}) > 1
    ]
    path = content["objective"]["name"]
    paths = [
        one
        for one in dict.fromkeys([path, "latency_s.mean", "ttft_s.p99", "resume.rate"])
        if any((row.get("figures") or {}).get(one, {}).get("value") is not None for row in content["settings"])
    ]
    columns = [
        Column("no.", "setting", numeric=True),
        Column("state"),
        *(Column(_short(name), name, name) for name in varied),
        Column("memory", "memory_bytes", numeric=True),
        *(Column(figure_name(one), one, one, numeric=True) for one in paths),
        Column("to the best", "difference_s", numeric=True),
        Column("why"),
        Column("runs", numeric=True),
    ]
    nothing = {"value": None, "low": None, "high": None}
    rows = []
    for place, one in enumerate(content["settings"]):
        where = f"settings.{place}"
        figures = one.get("figures") or {}
        rows.append(
            Row(
                [
                    whole(one["number"], f"{where}.number"),
                    text(one["state"], badge=STATES.get(one["state"], "")),
                    *(setting(one["fields"].get(name)) for name in varied),
                    plain(one.get("memory_bytes"), "bytes", f"{where}.memory_bytes"),
                    *(
                        estimated(figures[name], f"{where}.figures.{name}", kind_of(name))
                        if name in figures
                        else estimated(nothing)
                        for name in paths
                    ),
                    estimated(one["difference"], f"{where}.difference", "time", signed=True)
                    if one.get("difference")
                    else estimated(nothing),
                    text(one.get("why")),
                    whole(one.get("runs"), f"{where}.runs"),
                ],
                "best" if one["number"] == content.get("chosen") else "",
            )
        )
    return Table(
        "A row for every setting",
        columns,
        rows,
        "settings",
        note="The green row is recommended. Small numbers are 95 % intervals.",
    )


def _then_set(one: Content) -> str:
    """What is recommended then: of settings that change, the changes from what is recommended now."""
    if one.get("changes") is None:
        return named(one.get("recommendation") or {})
    return named(one["changes"]) if one["changes"] else "–" if one.get("holds") is None else "as recommended now"


def _what_if(asked: list[Content]) -> Table:
    rows = []
    for place, one in enumerate(asked):
        objective = one.get("objective") or {}
        figure = {name: objective.get(name) for name in ("value", "low", "high")}
        cost = one.get("cost") or {"value": None, "low": None, "high": None}
        rows.append(
            Row(
                [
                    text(one.get("name")),
                    text(_then_set(one)),
                    text("–" if one.get("holds") is None else "yes" if one["holds"] else "no"),
                    estimated(cost, f"what_if.{place}.cost" if one.get("cost") else "", "time", signed=True),
                    estimated(
                        figure,
                        f"what_if.{place}.objective" if objective else "",
                        kind_of(str(objective.get("name", "latency_s.p99"))),
                    ),
                    text(one.get("capacity")),
                ]
            )
        )
    columns = [
        Column("what if"),
        Column("then set"),
        Column("holds"),
        Column("staying costs", numeric=True),
        Column("with the best", numeric=True),
        Column("capacity"),
    ]
    note = "Holds: whether what is recommended now still is, on the same requests."
    return Table("The recommendation again", columns, rows, "what-if", note=note)


def _sensitivity(content: Content) -> Iterator[Block]:
    rows = []
    for place, one in enumerate(content["breaks"]):
        at = one.get("breaks_at")
        rows.append(
            Row(
                [
                    text(one["name"]),
                    plain(one.get("to"), path=f"sensitivity.breaks.{place}.to"),
                    plain(one.get("holds_to"), path=f"sensitivity.breaks.{place}.holds_to"),
                    text(f"{shown(at)} ×{_between(one)}" if at is not None else "does not break"),
                    text(named(one["winner"]) if one.get("winner") else "–"),
                ]
            )
        )
    columns = [
        Column("input"),
        Column("scaled to", numeric=True),
        Column("holds to", numeric=True),
        Column("breaks at"),
        Column("then better"),
    ]
    yield Table("By what factor an input may be off before another setting is better", columns, rows, "sensitivity")
    effects = (content.get("screening") or {}).get("effects") or []
    if effects:
        # Both are shares of the figure: from one end of the range to the other.
        named_effects = [f"{one['name']} (by {100 * one['figure']['value']:.1f} %)" for one in effects]
        lead = "What changes the figure most, by Morris' elementary effects within their ranges"
        yield Prose([f"{lead}: {names_of(named_effects)}."])


def _between(one: Content) -> str:
    """The last factor at which the interval says that the recommendation holds, and the first at which it is lost."""
    sure, lost = one.get("between") or (None, None)
    return "" if sure is None or lost is None else f" (between {shown(sure)} and {shown(lost)})"


def _ran(source: Source) -> Iterator[Block]:
    content = source.content
    space = [
        Fact(name, names_of([setting_text(one) for one in values], 12))
        for name, values in (content.get("space") or {}).items()
    ]
    yield facts(
        traffic_facts(content.get("traffic")),
        space,
        [Fact("of the search", upper(str(note))) for note in content.get("notes") or ()],
        [Fact("assumed", upper(str(one))) for one in content.get("assumed") or ()],
        [
            Fact(
                "seed",
                f"{content.get('seed', '–')}, at most {plural(int(content.get('replications') or 0), 'replication')}",
            )
        ],
        [Fact("certainty", percent(content["certainty"]))] if content["certainty"] is not None else [],
        [Fact("indifference", shown(content["indifference"], "time"))]
        if content.get("indifference") is not None
        else [],
        host_facts(environment_of(source)),
        input_facts(content.get("inputs") or {}),
        [Fact("took", shown(content["wall_s"], "time"))] if content.get("wall_s") is not None else [],
    )
    commands = [str(one) for one in content.get("commands") or ()]
    if commands:
        names = {"sim": "To run the recommended setting.", "tune": "To ask the same again."}
        # ``bufferlab sim …`` or ``bufferlab tune …``
        yield Commands([(names.get(one.split()[1], "To repeat it."), one) for one in commands])
    config = source.path / "config.toml"
    if config.is_file():
        yield Download(
            f"{source.name}.toml", "Today's setting (TOML)", config.read_text(encoding="utf-8"), "application/toml"
        )


def _short(name: str) -> str:
    parts = name.split(".")
    return " ".join(parts[-2:]) if parts[-1] in {"policy", "tokens", "pool_blocks", "instances", "tp"} else parts[-1]
