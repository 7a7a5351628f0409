"""The part of the page about a sweep: which configuration is the lowest, which may be, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bufferlab.experiments.reports.charts import Distribution, distribution_panels, shares_sentence
from bufferlab.experiments.reports.page import (
    Block,
    Column,
    Fact,
    Figure,
    Notice,
    Part,
    Prose,
    Row,
    Section,
    Table,
    estimated,
    setting,
    setting_text,
    text,
    whole,
)
from bufferlab.experiments.reports.ran import facts, host_facts, input_facts, sweep_commands, traffic_facts
from bufferlab.experiments.reports.readings import count, interval_text, kind_of, plural, shown, value_text
from bufferlab.experiments.reports.sources import Source
from bufferlab.experiments.reports.storedsweep import StoredSweep, is_number
from bufferlab.experiments.reports.sweepcharts import figures
from bufferlab.experiments.reports.wording import (
    STAGES,
    at,
    cautions,
    names_of,
    requests_cell,
    served_sentence,
    state_of,
    trouble,
    upper,
)
from bufferlab.experiments.workloads.traffic import WITHOUT_RESAMPLES

MOST_CURVES = 7
TOLD_TROUBLES = 6
"""Of all configurations together; how many more there are is said."""
MOST_ALIKE = 6
HEADS = {
    "latency_s.mean": "mean",
    "latency_s.p99": "p99",
    "ttft_s.p99": "first token p99",
    "slo.all": "in all limits",
    "throughput_rps": "served",
    "resume.rate": "resumed",
    "language_pool.wasted_fraction": "held but empty",
}


def sweep_part(source: Source) -> Part:
    """All there is to say of a sweep."""
    return replace(sweep_head(source), sections=list(_sections(StoredSweep(source))))


def sweep_head(source: Source) -> Part:
    """What stands first: the answer."""
    sweep = StoredSweep(source)
    return Part(
        title=sweep.plan["name"] if source.name == sweep.plan["name"] else f"{sweep.plan['name']} ({source.name})",
        kicker=f"sweep of {plural(len(sweep.configurations), 'configuration')}",
        verdict=_verdict(sweep),
        answer=[one for one in _answer(sweep) if one],
        notices=list(_notices(sweep)),
        figures=(),
        file=source.file,
    )


# --- the answer ---


def _verdict(sweep: StoredSweep) -> tuple[str, str]:
    """What became of the configurations in a few words, the worst of it."""
    verdicts = [one["capacity"]["verdict"] for one in sweep.configurations]
    few, over, near = len(verdicts), verdicts.count("over"), verdicts.count("near")
    lost = sum(not sweep.whole(one) for one in sweep.configurations)
    if any(one["invariant_violations"] for one in sweep.configurations):
        return "invariants violated", "bad"
    if still := sum(bool(one["deadlock"]) for one in sweep.configurations):
        return f"deadlock in {still} of {few}", "bad"
    if over:
        return ("over capacity everywhere", "bad") if over == few else (f"{over} of {few} over capacity", "warn")
    if lost:
        return f"{lost} of {few} lost requests", "warn"
    return (f"{near} of {few} near capacity", "warn") if near else ("all served", "good")


def _answer(sweep: StoredSweep) -> Iterator[str]:
    values = [
        f"{sweep.heading(field)} ({names_of([setting_text(one) for one in sweep.values(field)])})"
        for field in sweep.fields
    ]
    workloads = [str(one["sentence"]).removeprefix("workload: ") for one in sweep.workloads]
    traffic = f"; {names_of(workloads, 3)}" if workloads else ""
    yield (
        f"{plural(len(sweep.configurations), 'configuration')} × {plural(sweep.replications, 'replication')}: "
        f"{' × '.join(values) or 'one configuration'}{traffic}."
    )
    winners = [one for one in sweep.lowest if one["figure"] == "latency_s.p99"]
    if not winners:
        served = [one for one in sweep.configurations if sweep.whole(one)]
        if not served:
            yield (
                "No configuration served every request, so none is the best: latencies of those that lose requests "
                "leave out the slowest."
            )
        elif len(served) == 1 < len(sweep.configurations):
            yield f"Only {sweep.title(served[0]['configuration'])} served every request: there is none to rank it with."
        else:
            yield "No two configurations had the same requests and served all of them, so none is ranked."
        return
    for found in winners[:MOST_ALIKE]:
        where = f"Of configurations {names_of([str(one) for one in found['of']], 6)}: " if len(winners) > 1 else ""
        yield where + _winner(sweep, found)
    if len(winners) > MOST_ALIKE:
        more = plural(len(winners) - MOST_ALIKE, "more workload")
        yield f"The lowest of {more} are the green rows of the table of all configurations."
    yield _sure(sweep, winners)


def _winner(sweep: StoredSweep, found: Mapping[str, Any]) -> str:
    number = found["configuration"]
    best = sweep.by_number[number]
    p99 = best["latency_s"]["p99"]
    spread = interval_text(p99, "time")
    sure = f" ({spread})" if spread else ""
    said = f"The lowest p99 latency is {value_text(p99, 'time')}{sure}, with {sweep.title(number)}."
    others = [one for one in found["possibly"] if one != number]
    if len(others) == len(found["of"]) - 1 and others:
        said += " None of the others is ruled out: all of them may have the lowest p99 in truth."
    elif others:
        named = names_of([sweep.title(one) for one in others], MOST_ALIKE)
        said += f" It cannot be told from {named}."
    else:
        said += " It is told from all others."
    baseline = best.get("baseline")
    difference = best.get("differences", {}).get("latency_s.p99")
    if baseline is not None and difference is not None and difference["value"] is not None:
        spread = interval_text(difference, "time", signed=True)
        change = value_text(difference, "time", signed=True)
        beside = "Taken alone, the difference to" if baseline in found["possibly"] else "The difference to"
        said += f" {beside} {sweep.title(baseline)} is {change}{f' ({spread})' if spread else ''}."
    return said


def _more_replications(sweep: StoredSweep) -> str:
    """What would rule something out."""
    notes = [note for one in sweep.plan.get("workloads", ()) for note in one.get("notes", ())]
    why = next((note.removeprefix(WITHOUT_RESAMPLES) for note in notes if note.startswith(WITHOUT_RESAMPLES)), None)
    if why is not None:
        return f"the file cannot be resampled, since {why}"
    advice = "repeat the sweep with --replications 10"
    of_a_file = sweep.plan.get("base", {}).get("workload", {}).get("file") is not None
    return f"{advice}, if the file can be resampled" if of_a_file else advice


def _sure(sweep: StoredSweep, winners: Sequence[Mapping[str, Any]]) -> str:
    if sweep.replications < 2:
        return f"With one replication nothing is ruled out: {_more_replications(sweep)}."
    of_files = f"by the file itself and {plural(sweep.replications - 1, 'resample')} of it"
    of_draws = f"over {sweep.replications} replications with the same requests in every configuration"
    kinds = {sweep.resampled(one["configuration"]) for one in winners}
    over = (of_files if True in kinds else of_draws) if len(kinds) == 1 else f"{of_draws}, of a file {of_files}"
    open_kinds = {sweep.resampled(one["configuration"]) for one in winners if len(one["possibly"]) > 1}
    needed = {
        (False,): "More replications make",
        (True,): "Only a longer file makes",
        (False, True): "More replications, of a file only a longer file, make",
    }.get(tuple(sorted(open_kinds)))
    more = f" {needed} the set of those that cannot be told apart smaller." if needed else ""
    whose = " of each workload" if len(winners) > 1 else ""
    return f"With a probability of 95 % the best configuration{whose} is among those named, {over}.{more}"


def _notices(sweep: StoredSweep) -> Iterator[Notice]:
    found = [
        notice for one in sweep.configurations for notice in trouble(one, f"in configuration {one['configuration']}")
    ]
    # What happened to several in the same words is said once, the worst first.
    found = sorted(dict.fromkeys(found), key=lambda notice: notice.tone != "bad")
    yield from found[:TOLD_TROUBLES]
    if len(found) > TOLD_TROUBLES:
        left, tone = len(found) - TOLD_TROUBLES, found[TOLD_TROUBLES].tone
        yield Notice(f"Of other configurations {count(left)} more notices such as these stand in sweep.json.", tone)
    yield from cautions(sweep.configurations)
    few = plural(len(sweep.configurations), "configuration")
    above = [one for one in sweep.configurations if one["capacity"]["verdict"] == "over"]
    if above:
        stages = {STAGES.get(one["capacity"]["bottleneck"], "no stage that is seen") for one in above}
        yield Notice(f"{count(len(above))} of {few} are over capacity ({names_of(sorted(stages))}){_growing(above)}.")
    lost = sum(not sweep.whole(one) for one in sweep.configurations)
    if lost:
        yield Notice(
            f"{count(lost)} of {few} did not serve every request. They are not ranked, since the slowest requests are "
            "missing from their latencies."
        )


def _growing(above: Sequence[Mapping[str, Any]]) -> str:
    """How long the latencies of configurations over capacity grow: with the run, or while some of its traffic lasts."""
    stretches = sum(one["capacity"].get("stretch") is not None for one in above)
    if not stretches:
        return ": their latencies grow with the length of the run"
    if stretches == len(above):
        return " for a part of their traffic: their latencies grow for as long as that lasts"
    return (
        f": the latencies of {count(len(above) - stretches)} grow with the length of the run, those of the others for "
        "as long as a part of their traffic lasts"
    )


# --- sections ---


def _sections(sweep: StoredSweep) -> Iterator[Section]:
    drawn = list(figures(sweep))
    if drawn:
        yield Section("What the settings do", drawn)
    spread = _distributions(sweep)
    if spread is not None:
        yield Section("How long requests take", [spread])
    yield Section("All configurations", [configurations_table(sweep)])
    baseline = differences_table(sweep)
    if baseline is not None:
        yield Section("Differences from the baseline", [baseline])
    yield Section("Where the system is busy", list(_busy(sweep)))
    failed = _failures(sweep)
    if failed is not None:
        yield Section("What was not served", [failed])
    yield Section("What was run", list(_ran(sweep)))


def chosen(sweep: StoredSweep) -> list[int]:
    """At most seven configurations to draw: the lowest, the baselines, and the others as they come or evenly spread."""
    numbers = [one["configuration"] for one in sweep.configurations if one["requests"]["succeeded"]]
    if len(numbers) <= MOST_CURVES:
        return numbers
    best = sorted(sweep.ranked("latency_s.p99")[0])
    bases = sorted({one["baseline"] for one in sweep.configurations if one.get("baseline") is not None})
    order = sorted(numbers, key=lambda number: sweep.by_number[number]["latency_s"]["p99"]["value"] or 0.0)
    spread = [order[round(place * (len(order) - 1) / 4)] for place in range(5)]
    return sorted(list(dict.fromkeys([*best, *bases, *spread]))[:MOST_CURVES])


def _distributions(sweep: StoredSweep) -> Figure | None:
    numbers = chosen(sweep)
    found = [Distribution(sweep.title(number), one) for number, one in sweep.distributions(numbers).items()]
    if not found:
        return None
    panels = distribution_panels(found, "a latency", across="latency, arrival to delivered", file="latency")
    left = len(sweep.configurations) - len(numbers)
    note = (
        f" {len(numbers)} of {len(sweep.configurations)} configurations: the lowest, the baseline, and some from the "
        "best to the worst."
        if left
        else ""
    )
    told = shares_sentence(found)
    return Figure(f"Delivered requests only.{' ' if told else ''}{told}{note}", panels)


def configurations_table(sweep: StoredSweep) -> Table:
    """A row for every configuration."""
    best, _ = sweep.ranked("latency_s.p99")
    paths = ["latency_s.mean", "latency_s.p99"]
    paths += ["ttft_s.p99"] if sweep.prefilled else []
    paths += ["slo.all"] if sweep.promised else []
    paths += ["resume.rate", "language_pool.wasted_fraction"]
    columns = [
        Column("no.", "configuration", numeric=True),
        *(Column(sweep.heading(field), field, field, numeric=is_number(sweep.values(field))) for field in sweep.fields),
        *(Column(HEADS[path], path, path, numeric=True) for path in paths),
        Column("not served", "requests.not_served", numeric=True),
        Column("capacity", "capacity.verdict"),
    ]
    rows = []
    for place, one in enumerate(sweep.configurations):
        number, where = one["configuration"], f"configurations.{place}"
        words, tone = state_of(one)
        rows.append(
            Row(
                [
                    whole(number, f"{where}.configuration"),
                    *(setting(one["settings"].get(field)) for field in sweep.fields),
                    *(estimated(at(one, path), f"{where}.{path}", kind_of(path)) for path in paths),
                    requests_cell(one["requests"], f"{where}.requests.not_served"),
                    text(words.removesuffix(" capacity"), badge=tone),
                ],
                "best" if number in best else "",
            )
        )
    intervals = sweep.intervals(paths)
    note = " ".join(
        [
            *(["Green rows have the lowest p99 latency."] if best else []),
            *([f"Small numbers are {intervals}."] if intervals else []),
        ]
    )
    return Table("A row for every configuration", columns, rows, "configurations", note=note, key=1)


def differences_table(sweep: StoredSweep) -> Table | None:
    """Configuration less baseline, replication by replication."""
    paths = ["latency_s.mean", "latency_s.p99", *(["ttft_s.p99"] if sweep.prefilled else [])]
    paths += ["resume.rate", "language_pool.wasted_fraction"]
    rows = []
    for place, one in enumerate(sweep.configurations):
        found = one.get("differences")
        if found is None:
            continue
        where = f"configurations.{place}"
        rows.append(
            Row(
                [
                    text(sweep.title(one["configuration"])),
                    text(sweep.title(one["baseline"])),
                    *(
                        estimated(found[path], f"{where}.differences.{path}", kind_of(path), signed=True)
                        for path in paths
                        if path in found
                    ),
                ]
            )
        )
    if not rows:
        return None
    columns = [
        Column("configuration"),
        Column("baseline"),
        *(Column(HEADS[path], path, path, numeric=True) for path in paths),
    ]
    note = (
        "Negative is less; shares differ by percentage points. An interval that leaves out 0 is a difference; 5 % of "
        "those that are none look like one."
        if sweep.replications > 1
        else "Negative is less; shares differ by percentage points. One replication does not say how sure they are."
    )
    return Table("Configuration less baseline, replication by replication", columns, rows, "differences", note=note)


def _busy(sweep: StoredSweep) -> Iterator[Block]:
    stages = [
        stage
        for stage in STAGES
        if any(one["utilisation"].get(stage, {}).get("value") is not None for one in sweep.configurations)
    ]
    rows = []
    for place, one in enumerate(sweep.configurations):
        where = f"configurations.{place}"
        cells = [estimated(one["throughput_rps"], f"{where}.throughput_rps")]
        for stage in stages:
            found = one["utilisation"][stage]
            cells.append(estimated(found, f"{where}.utilisation.{stage}", bar=found["value"]))
        bottleneck = one["capacity"]["bottleneck"]
        rows.append(
            Row(
                [
                    text(sweep.title(one["configuration"])),
                    text(STAGES.get(bottleneck, "–") if bottleneck else "–"),
                    *cells,
                ]
            )
        )
    columns = [
        Column("configuration"),
        Column("bottleneck"),
        Column("served", "throughput_rps", numeric=True),
        *(Column(STAGES[stage], stage, numeric=True) for stage in stages),
    ]
    sentences = list(dict.fromkeys(str(one["capacity"]["sentence"]) for one in sweep.configurations))
    if len(sentences) <= 2:
        yield Prose([upper(one) for one in sentences])
    caption = "Share of the whole run each stage was busy; of the pools, their mean use"
    note = "Counted until the last request ended, not only while requests came."
    yield Table(caption, columns, rows, "utilisation", note=note)


def _failures(sweep: StoredSweep) -> Table | None:
    rows = []
    for place, one in enumerate(sweep.configurations):
        if sweep.whole(one):
            continue
        title = text(sweep.title(one["configuration"]))
        for reason, number in one["failures"].items():
            rows.append(Row([title, text(reason), whole(number, f"configurations.{place}.failures.{reason}")]))
        if not one["failures"]:
            rows.append(Row([title, text(served_sentence(one["requests"], {})), whole(one["requests"]["not_served"])]))
    if not rows:
        return None
    return Table(
        "Why requests were not served",
        [Column("configuration"), Column("reason"), Column("requests", numeric=True)],
        rows,
        "failures",
    )


def _ran(sweep: StoredSweep) -> Iterator[Block]:
    content = sweep.source.content
    plan, runs = sweep.plan, len(sweep.configurations) * sweep.replications
    traffic = [fact for one in sweep.workloads for fact in traffic_facts(one)]
    offered = sum(int(one["requests"]["offered"]) for one in sweep.configurations)
    yield facts(
        traffic,
        [
            Fact("seed", f"{plan['seed']}, {plural(sweep.replications, 'replication')}"),
            Fact("runs", f"{count(runs)}, {plural(offered, 'request')} in all"),
            Fact("identity", str(plan["identity"]), code=True),
            Fact("code", str(content.get("code", "")), code=True),
        ],
        host_facts(content["environment"]),
        input_facts(content.get("inputs") or {}),
        [Fact("took", f"{shown(content['wall_s'], 'time')} of one core")],
    )  # fmt: skip
    yield from sweep_commands(sweep.source)
