"""The part of the page about a validation: which figures are predicted within their tolerances, and where it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bufferlab.experiments.reports.charts import differences, scatter
from bufferlab.experiments.reports.drawing import Key
from bufferlab.experiments.reports.page import (
    Block,
    Cell,
    Column,
    Commands,
    Fact,
    Facts,
    Figure,
    Notice,
    Panel,
    Part,
    Prose,
    Row,
    Section,
    Table,
    estimated,
    plain,
    text,
    whole,
)
from bufferlab.experiments.reports.ran import typed
from bufferlab.experiments.reports.readings import interval_text, percent, plural, shown, value_text
from bufferlab.experiments.reports.sources import Source
from bufferlab.experiments.reports.wording import names_of, upper
from bufferlab.experiments.stats.intervals import Estimate
from bufferlab.experiments.validation.cases import differing
from bufferlab.experiments.validation.decision import verdict_of
from bufferlab.experiments.validation.origin import told

TONES = {
    "within the tolerance": "good",
    "not told apart": "plain",
    "at the tolerance": "warn",
    "off": "bad",
    "within in this run": "plain",
    "at the tolerance in this run": "warn",
    "off in this run": "bad",
    "no interval": "plain",
}
COLOURS = {"within the tolerance": 3, "not told apart": 1, "at the tolerance": 6, "off": 2}
COLOURS |= {"within in this run": 3, "at the tolerance in this run": 6, "off in this run": 2}
DRAWN = ("p50", "p99", "throughput")
MOST_CASES = 24
MOST_PLOTS = 4

Case = Mapping[str, Any]
Choice = Mapping[str, Any]


def validation_part(source: Source) -> Part:
    """All there is to say of a validation."""
    return replace(validation_head(source), sections=list(_sections(source)))


def validation_head(source: Source) -> Part:
    """What stands first: the answer."""
    content = source.content
    verdicts = [one["verdict"] for case in content["cases"] for one in case["figures"].values() if one["verdict"]]
    off = verdicts.count("off") + verdicts.count("off in this run")
    # One run says nothing of others, so nothing is within the tolerance for all of them.
    within = verdicts.count("within the tolerance")
    outcomes = sum(len(case["outcomes"]) for case in content["cases"])
    verdict = (
        (f"{off} of {len(verdicts)} off", "bad")
        if off
        else ("all within tolerance", "good")
        if within == len(verdicts) and verdicts
        else (f"{of_one} of {len(verdicts)} within, in one run alone", "plain")
        if (of_one := verdicts.count("within in this run")) and not within
        else (f"{within} of {len(verdicts)} within tolerance", "plain")
    )
    notices = [Notice(upper(one)) for one in (*content.get("busy", ()), *content.get("profile_lacks", ()))]
    if outcomes:
        notices.insert(
            0, Notice(f"{plural(outcomes, 'request')} ended otherwise on one side, and are left out.", "bad")
        )
    simulated = [case["name"] for case in content["cases"] if case["stands_in_for_a_measurement"]]
    if simulated:
        notices.append(Notice(f"Simulated runs stand in for measured ones in {names_of(simulated)}."))
    return Part(
        title=source.name,
        kicker=f"validation of {plural(len(content['cases']), 'case')}",
        verdict=verdict,
        answer=list(_answer(content, verdicts)),
        notices=notices,
        file=source.file,
    )


def _answer(content: Mapping[str, Any], verdicts: list[str]) -> Iterator[str]:
    cases = content["cases"]
    repeats = sum(case["repeats"] for case in cases)
    compared = sum(case["requests"]["compared"] for case in cases)
    yield (
        f"{plural(repeats, 'measured run')} of {plural(len(cases), 'case')}, {plural(compared, 'request')} compared, "
        f"predicted with the frozen profile {content['profile']['name']}."
    )
    said = {"no interval": "without an interval"}
    counts = [f"{verdicts.count(one)} {said.get(one, one)}" for one in TONES if one in verdicts]
    yield f"Of {plural(len(verdicts), 'figure')} that have a tolerance: {names_of(counts)}."
    worst = [
        (abs(one["bias"]["value"]), case["name"], one)
        for case in cases
        for one in case["figures"].values()
        if one["verdict"] and one["bias"]["value"] is not None
    ]
    if worst:
        _, name, one = max(worst, key=lambda item: item[0])
        spread = interval_text(one["bias"], "relative", signed=True)
        sure = f" ({spread})" if spread else ", of which nothing says how sure it is"
        yield (
            f"The largest bias is that of {one['called']} in {name}: {value_text(one['bias'], 'relative', signed=True)}"
            f"{sure}, where {percent(one['tolerance'])} is allowed."
        )
    if content["decision"]:
        yield _choices_sentence(content["decision"])


def _choices_sentence(choices: Sequence[Choice]) -> str:
    """What became of the choices, in the order from sure to wrong. Where the measurement cannot tell settings apart,
    neither can anybody praise the simulator for having picked one of them."""
    said = {
        "good": "the best one",
        "plain": "one of several that the measurement cannot tell apart",
        "": "one of which a single repeat tells too little",
        "bad": "a worse one",
    }
    tones = ["" if one["alike"] is None else _choice_tone(one) for one in choices]
    counts = [f"{words} in {tones.count(tone)}" for tone, words in said.items() if tone in tones]
    worse = [one for one in choices if _choice_tone(one) == "bad"]
    costs = [shown(one["regret"], "share") for one in sorted(worse, key=lambda one: one["regret"])]
    cost = f" The worse one costs {costs[-1]} of the {worse[0]['objective']} latency" if len(worse) == 1 else ""
    cost = f" The worse ones cost {costs[0]} to {costs[-1]} of the latency" if len(worse) > 1 else cost
    made = plural(len(choices), "choice")
    return f"In {made} between settings the simulator picked {', '.join(counts)}.{cost}{'.' if cost else ''}"


def _choice_tone(choice: Choice) -> str:
    """bad for one that is worse; good only for the one best setting, plain where nobody can tell."""
    if choice["alike"] is None:
        return "plain"
    return "bad" if not choice["good"] else "good" if len(choice["alike"]) == 1 else "plain"


def _sections(source: Source) -> Iterator[Section]:
    content = source.content
    cases = content["cases"]
    yield Section("How far predictions are off", [*_biases(cases), _figures_table(cases)])
    distributions = _qq(cases)
    if distributions is not None:
        yield Section("Distributions", [distributions, _agreement(cases)])
    if any(case["stages"] for case in cases):
        yield Section("Where the miss is", list(_stages(cases)))
    if content["decision"]:
        yield Section("What the simulator would choose", [_choices(content["decision"])])
    if content["misses"]:
        yield Section("Misses", [Prose([f"{one}." for one in content["misses"]])])  # they begin with names of cases
    profile, measured = content["profile"], content.get("measured", {})
    runs = [run for case in cases for run in case["runs"]]
    differ = differing([case["settings"] for case in cases])
    facts = [
        Fact("profile", profile["name"]),
        Fact("sha256", profile["sha256"], code=True),
        *([Fact("profile made", told(profile))] if "transport" in profile else []),
        *([Fact("runs measured", told(measured))] if measured.get("transport") else []),
        Fact("latency", content["boundary"]),
        *([Fact("cases differ in", names_of(differ))] if differ else []),
        *(Fact("case", f"{case['name']}: {names_of(case['runs'])}") for case in cases),
    ]
    command = typed("bufferlab", "validate", *runs, "--profile", profile["name"], "--out", f"{source.path}-again")
    yield Section("What was compared", [Facts(facts), Commands([("The same validation again.", command)])])


def _biases(cases: list[Case]) -> Iterator[Block]:
    panels = []
    drawn: list[Case] = []
    for name in DRAWN:
        rows = []
        verdicts = set()
        for case in cases[:MOST_CASES]:
            one = case["figures"].get(name)
            if one is None:
                continue
            noise = one["noise"]["floor"] if one["noise"] else None
            tip = (
                f"{case['name']}: {value_text(one['bias'], 'relative', signed=True)}, {one['verdict'] or 'not judged'}"
            )
            colour = COLOURS.get(one["verdict"] or "", 0)
            verdicts.add(one["verdict"])
            drawn.append(one)
            rows.append((case["name"], one["bias"], colour, tip, one["tolerance"], noise))
        if rows:
            keys = [Key(verdict, COLOURS.get(verdict, 0), "circle") for verdict in TONES if verdict in verdicts]
            panels.append(
                differences(
                    name,
                    rows,
                    across="predicted / measured − 1",
                    kind="relative",
                    file=f"bias-{name}",
                    description="; ".join(row[3] for row in rows),
                    keys=keys,
                )
            )
    if panels:
        left = len(cases) - MOST_CASES
        more = f" The first {MOST_CASES} of {len(cases)} cases." if left > 0 else ""
        shown_things = ["Points are biases"]
        shown_things += ["lines their 95 % intervals"] if any(one["bias"]["low"] is not None for one in drawn) else []
        shown_things += ["upright lines the tolerance"] if any(one["tolerance"] for one in drawn) else []
        if any(one["noise"] for one in drawn):
            shown_things.append("grey what a repeat is off by as a prediction of the others")
        yield Figure(f"{', '.join(shown_things)}.{more}", panels)


def _figures_table(cases: list[Case]) -> Table:
    rows = []
    for place, case in enumerate(cases):
        for name, one in case["figures"].items():
            where, kind = f"cases.{place}.figures.{name}", "rate" if name == "throughput" else "time"
            noise = one["noise"]["floor"] if one["noise"] else None
            rows.append(
                Row(
                    [
                        text(case["name"]),
                        text(one["called"].replace("ttft_", "first token ")),
                        plain(one["measured"], kind, f"{where}.measured"),
                        plain(one["predicted"], kind, f"{where}.predicted"),
                        estimated(one["bias"], f"{where}.bias", "relative", signed=True),
                        plain(noise, "share"),
                        Cell(percent(one["tolerance"]), one["tolerance"]),
                        text(one["verdict"] or "", badge=TONES.get(one["verdict"], "") if one["verdict"] else ""),
                    ]
                )
            )
    numbers = ("measured", "predicted", "bias", "noise", "tolerance")
    columns = [Column("case"), Column("figure"), *(Column(name, numeric=True) for name in numbers), Column("verdict")]
    return Table(
        "Figures", columns, rows, "biases", note="Bias: predicted / measured − 1, with its 95 % interval.", key=2
    )


def _qq(cases: list[Case]) -> Figure | None:
    panels: list[Panel] = []
    for case in cases[:MOST_PLOTS]:
        measured, predicted = (np.array(case["qq"][f"{side}_s"], dtype=float) for side in ("measured", "predicted"))
        known = ~(np.isnan(measured) | np.isnan(predicted))
        if not known.any():
            continue
        panels.append(
            scatter(
                case["name"],
                measured[known],
                predicted[known],
                across="measured",
                upwards="predicted",
                file=f"quantiles-{len(panels) + 1}",
                description=f"Wasserstein distance {shown(case['wasserstein_us']['value'], 'microseconds')}",
            )
        )
    if not panels:
        return None
    more = f" The first {MOST_PLOTS} of {len(cases)} cases." if len(cases) > MOST_PLOTS else ""
    return Figure(f"Quantiles of the latency: on the line, prediction and measurement are the same.{more}", panels)


def _agreement(cases: list[Case]) -> Table:
    rows = []
    for place, case in enumerate(cases):
        agreement, distance = case["bland_altman"], case["wasserstein_us"]
        where = f"cases.{place}"
        rows.append(
            Row(
                [
                    text(case["name"]),
                    estimated(distance, f"{where}.wasserstein_us", "microseconds"),
                    plain(agreement["bias_s"], "time", f"{where}.bland_altman.bias_s", signed=True),
                    plain(agreement["low_s"], "time", f"{where}.bland_altman.low_s", signed=True),
                    plain(agreement["high_s"], "time", f"{where}.bland_altman.high_s", signed=True),
                    plain(agreement["within"], "share", f"{where}.bland_altman.within"),
                ]
            )
        )
    heads = ("Wasserstein-1", "bias of a request", "lower limit", "upper limit", "between the limits")
    note = (
        "Limits of agreement (Bland–Altman): 1.96 standard deviations of the differences to either side of their mean."
    )
    return Table(
        "Requests one by one",
        [Column("case"), *(Column(head, numeric=True) for head in heads)],
        rows,
        "agreement",
        note=note,
    )


def _stages(cases: list[Case]) -> Iterator[Block]:
    rows, drawn = [], []
    for place, case in enumerate(cases):
        for number, one in enumerate(case["stages"]):
            if not one["measured_s"]["mean"] and not one["predicted_s"]["mean"]:
                continue
            where = f"cases.{place}.stages.{number}"
            rows.append(
                Row(
                    [
                        text(case["name"]),
                        text(one["name"]),
                        plain(one["measured_s"]["mean"], "time", f"{where}.measured_s.mean"),
                        plain(one["predicted_s"]["mean"], "time", f"{where}.predicted_s.mean"),
                        plain(one["difference_s"], "time", f"{where}.difference_s", signed=True),
                        Cell(shown(one["share"], "share"), one["share"], path=f"{where}.share", bar=one["share"]),
                    ]
                )
            )
            if place == 0:
                estimate: Estimate = {"value": one["difference_s"], "low": None, "high": None}
                tip = f"{one['name']}: {shown(one['difference_s'], 'time', signed=True)}"
                drawn.append((one["name"], estimate, 1, tip, None, None))
    if drawn:
        panel = differences(
            f"{cases[0]['name']}: what stages are off by",
            drawn,
            across="predicted − measured, means",
            kind="time",
            file="stages",
            description="; ".join(row[3] for row in drawn),
        )
        yield Figure(
            "The stages of a request one after the other; they add up to the bias of its mean latency.", [panel]
        )
    heads = ("measured", "predicted", "off by", "of all misses")
    yield Table(
        "Stages, means",
        [Column("case"), Column("stage"), *(Column(head, numeric=True) for head in heads)],
        rows,
        "stages",
        key=2,
    )


def _choices(choices: Sequence[Choice]) -> Table:
    rows = [
        Row(
            [
                text(one["setting"]),
                text(one["objective"]),
                whole(len(one["candidates"])),
                text(one["picked"]),
                text(one["best"]),
                plain(one["regret"], "share", f"decision.{place}.regret"),
                plain(one["kendall"], path=f"decision.{place}.kendall"),
                text("not known" if one["alike"] is None else names_of(list(one["alike"]))),
                text(verdict_of(one["alike"], good=one["good"]), badge=_choice_tone(one)),
            ]
        )
        for place, one in enumerate(choices)
    ]
    columns = [
        Column("setting"),
        Column("lowest"),
        Column("candidates", numeric=True),
        Column("picked"),
        Column("best measured"),
        Column("regret", numeric=True),
        Column("Kendall", numeric=True),
        Column("cannot be told from the best"),
        Column("verdict"),
    ]
    note = (
        "Regret: how much more the picked setting came to than the best one when both were measured. Kendall: 1 where "
        "the simulator ranks the settings as the measurement does, −1 where it ranks them the other way round. Of "
        "settings that the measurement cannot tell apart, both are its noise."
    )
    return Table("Choices", columns, rows, "choices", note=note, key=2)
