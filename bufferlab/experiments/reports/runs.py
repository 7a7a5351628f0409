"""The part of the page about one run, simulated or measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.figures.distributions import distribution_of, run_steps
from bufferlab.experiments.figures.holdings import changes_of_holdings
from bufferlab.experiments.figures.style import KIND_NAMES, Samples, thinned
from bufferlab.experiments.figures.text import unsure_mean
from bufferlab.experiments.reports.charts import Distribution, bars, course, distribution_panels, shares_sentence
from bufferlab.experiments.reports.page import (
    Beside,
    Block,
    Cell,
    Column,
    Figure,
    Notice,
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
from bufferlab.experiments.reports.ran import run_blocks
from bufferlab.experiments.reports.readings import count, plural, scale_for, shown
from bufferlab.experiments.reports.sources import Source, environment_of
from bufferlab.experiments.reports.wording import (
    at,
    bottleneck_sentence,
    cautions,
    figure_name,
    key_figures,
    served_sentence,
    state_of,
    sure_sentence,
    times_sentence,
    trouble,
    upper,
    utilisation_rows,
)
from bufferlab.experiments.runs.capacity import LARGE_SHARE
from bufferlab.experiments.runs.estimates import FIGURES
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.tables import read_numbers
from bufferlab.protocol.topology import Side

COURSE_POINTS = 300
"""Points of a line in the course of time: the highest of every stretch."""
MANY_RECORDS = 3_000_000
"""Events beyond which the pools' course is left out: reading them would take minutes."""
MOST_REASONS = 30
QUANTITIES = {
    "latency_s": ("Latency", "arrival to delivered"),
    "ttft_s": ("Time to the first token", "arrival to the end of the prefill"),
    "transfer_s": ("Transfer", "embedding ready to delivered"),
}


def run_part(source: Source, beside: Path) -> Part:
    """All there is to say of a run. ``beside``: the folder of the page, from which files are linked."""
    run = StoredRun(source.path)
    sections = list(_sections(source, run, run.config, environment_of(source), beside))
    return replace(run_head(source), sections=sections)


def run_head(source: Source) -> Part:
    """What stands first: the answer, and the few numbers that matter most."""
    run = StoredRun(source.path)
    summary, config = run.summary, run.config
    environment = environment_of(source)
    name, kind = config.run.name, KIND_NAMES[run.kind]
    capacity = summary["capacity"]
    notices = [*trouble(summary), *cautions([summary]), *(Notice(upper(one)) for one in unsure_mean(summary))]
    if capacity["verdict"] == "over" and capacity.get("stretch") is None:
        notices.append(
            Notice(
                "Above its capacity a system has no steady state: these latencies are those of a run of this length, "
                "and a longer run has longer ones."
            )
        )
    return Part(
        title=name if source.name == name else f"{name} ({source.name})",
        kicker=f"{kind} run",
        verdict=_verdict(summary),
        answer=[one for one in _answer(run, config, environment) if one],
        notices=notices,
        figures=key_figures(summary),
        file=source.file,
    )


def _verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    """What became of it in a few words: what forbids to rely on it first, then lost requests."""
    requests = summary["requests"]
    if summary["invariant_violations"] or summary["deadlock"]:
        return state_of(summary)
    if requests["offered"] and not requests["succeeded"]:
        return "nothing served", "bad"
    if requests["not_served"] > LARGE_SHARE * requests["offered"]:
        return f"{count(requests['not_served'])} of {count(requests['offered'])} not served", "bad"
    return state_of(summary)


def asked(run: StoredRun, config: Config, environment: Mapping[str, Any]) -> str:
    """What was asked, in a sentence."""
    workload = run.summary.get("workload") or environment.get("workload") or {}
    sentence = str(workload.get("sentence", "")).removeprefix("workload: ")
    requests = sentence or plural(run.summary["requests"]["offered"], "request")
    times = config.run.replications
    resampled = run.summary.get("replication_kind") == "resampled"
    again = f" and {plural(times - 1, 'resample')} of them" if resampled else f", in {times} replications"
    repeated = again if times > 1 else ""
    sizing = config.protocol.sizing
    tokens = sizing.options.get("tokens")
    set_aside = (
        f"{count(tokens)} tokens set aside for each"
        if sizing.policy == "fixed" and tokens
        else f"sized by {sizing.policy}"
    )
    world = "simulated over the link" if run.kind == "sim" else "measured over"
    return f"{requests}{repeated}; {set_aside} (discipline {config.protocol.discipline}), {world} {run.transport}."


def _answer(run: StoredRun, config: Config, environment: Mapping[str, Any]) -> Iterator[str]:
    summary = run.summary
    requests = summary["requests"]
    yield asked(run, config, environment)
    whom = "them" if requests["succeeded"] == requests["offered"] else "those served"
    replications = len(summary["replications"])
    kind = str(summary.get("replication_kind") or "independent")
    times = times_sentence(summary["latency_s"], whom, replications if kind == "independent" else 1)
    yield f"{served_sentence(requests, summary['failures'])} {times}".strip()
    yield bottleneck_sentence(summary["capacity"])
    each = requests["offered"] // max(replications, 1)
    yield sure_sentence(
        summary["latency_s"]["p99"], "p99 latency", replications, each, kind, file=config.workload.file is not None
    )


def _sections(
    source: Source, run: StoredRun, config: Config, environment: Mapping[str, Any], beside: Path
) -> Iterator[Section]:
    summary = run.summary
    if summary["requests"]["succeeded"]:
        yield Section("How long requests take", list(_times(run)))
    yield Section("Where the system is busy", list(_stages(run)))
    if summary["failures"] or summary["requests"]["not_served"]:
        yield Section("What was not served", [*_failures(summary)])
    yield Section("All figures", [all_figures(summary, source.name)])
    if len(summary["replications"]) > 1:
        yield Section("Replications", [_replications(summary, source.name)])
    yield Section("What was run", list(run_blocks(source, run, config, environment, beside)))


# --- times ---


def _times(run: StoredRun) -> Iterator[Block]:
    summary = run.summary
    quantities = [
        name
        for name in QUANTITIES
        if summary[name]["p50"]["value"] is not None and (name != "ttft_s" or summary["ttft_s"] != summary["latency_s"])
    ]
    body = []
    for quantity in quantities:
        resampled = summary.get("replication_kind") == "resampled"
        found = distribution_of(run_steps(run, quantity), resampled=resampled)
        if found is not None:
            body.append(Distribution(QUANTITIES[quantity][0].lower(), found))
    if body:
        told = "; ".join(f"{QUANTITIES[name][0].lower()}: {QUANTITIES[name][1]}" for name in quantities)
        panels = distribution_panels(body, "a time", across="time", file="times")
        yield Figure(f"Delivered requests only. {upper(told)} {shares_sentence(body)}".strip(), panels)
    panel = _course_of_latency(run)
    if panel is not None:
        yield panel


def _course_of_latency(run: StoredRun) -> Figure | None:
    """Latency by the time of arrival, which shows what grows and what is a burst."""
    table = read_numbers(run.requests_path, ["replication", "arrival_s", "delivered_s"])
    first = table["replication"] == 0
    arrival, taken = table["arrival_s"][first], (table["delivered_s"] - table["arrival_s"])[first]
    known = ~np.isnan(taken)
    arrival, taken = arrival[known], taken[known]
    if len(arrival) < 20:
        return None
    order = np.argsort(arrival, kind="stable")
    arrival, taken = arrival[order], taken[order]
    stretches = min(60, len(arrival) // 5)
    edges = np.linspace(0, len(arrival), stretches + 1).astype(int)
    middle = np.array([arrival[a:b].mean() for a, b in pairwise(edges)])
    median = np.array([np.median(taken[a:b]) for a, b in pairwise(edges)])
    worst = np.array([taken[a:b].max() for a, b in pairwise(edges)])
    largest = float(worst.max())
    factor, unit = scale_for("time", largest)
    panel = course(
        "Latency by the time of arrival", [("median", middle, median), ("slowest", middle, worst)], upwards=unit,
        factor=factor, top=None, file="course",
        description=f"In {stretches} stretches of arrivals; the median goes from {shown(float(median[0]), 'time')} to "
                    f"{shown(float(median[-1]), 'time')}, the slowest request took {shown(largest, 'time')}.",
    )  # fmt: skip
    panels = [panel]
    pools = _pools(run)
    if pools is not None:
        panels.append(pools)
    caption = f"The first replication, in {stretches} stretches with as many requests each."
    if pools is not None:
        caption += (
            " The pools are those of all ranks of a side together; of every stretch of time the highest is shown."
        )
    return Figure(caption, panels)


def _pools(run: StoredRun) -> Any:
    """Blocks held on either side in the course of time; None where events are not kept or far too many."""
    from bufferlab.experiments.runs.rundir import count_records

    if not run.keeps_events or (count_records(run.path) or 0) > MANY_RECORDS:
        return None
    config = run.config
    lines: list[tuple[str, Samples, Samples]] = []
    for (_, side), one in sorted(changes_of_holdings(run, 0).items(), key=lambda item: item[0][1] is Side.ENCODE):
        section = config.language if side is Side.LANGUAGE else config.encode
        total = config.blocks(section) * section.tp * section.instances
        lines.append(
            (f"{side.value} pool", *thinned(one.times_s, one.blocks.cumsum(dtype=np.float64) / total, COURSE_POINTS))
        )
    if not lines:
        return None
    return course(
        "Blocks held", lines, upwards="% of the pool", factor=100.0, top=1.0, file="pools", area=True,
        description="; ".join(f"{name}: at most {shown(float(values.max()), 'share')}" for name, _, values in lines),
    )  # fmt: skip


# --- stages ---


def _stages(run: StoredRun) -> Iterator[Block]:
    summary = run.summary
    rows = utilisation_rows(summary)
    bottleneck = summary["capacity"]["bottleneck"]
    named = next((label for label, _, stands_out, _ in rows if stands_out), "")
    told = [f"{label} {shown(one['value'], 'share')}" for label, one, _, _ in rows if one["value"] is not None]
    panel = bars("Share of the whole run each stage was busy", rows, file="stages", description=", ".join(told))
    sentences = ["Counted until the last request ended, not only while requests came; of pools, their mean use."]
    sentences += [f"{upper(named)[:-1]} holds the others up."] if bottleneck and named else []
    sentences += ["Thin lines are 95 % intervals."] if any(one["low"] is not None for _, one, _, _ in rows) else []
    figure = Figure(" ".join(sentences), [panel])
    heads = {
        "mean_occupancy": "mean use",
        "peak_occupancy": "peak use",
        "wasted_fraction": "held but empty",
        "blocked_per_request_s": "wait a request",
        "blocked_s": "waits in all",
    }
    pools = ("language_pool", "encode_pool")
    lines = [
        Row([text(head), *(estimated(summary[pool][name], f"{pool}.{name}") for pool in pools)])
        for name, head in heads.items()
    ]
    columns = [Column("pool", "figure"), Column("language", numeric=True), Column("encode", numeric=True)]
    note = "Held but empty: the part of the held token-seconds that no token was meant for."
    yield Beside(figure, Table("The two pools", columns, lines, "pools", note=note))


# --- failures ---


def _failures(summary: Mapping[str, Any]) -> Iterator[Block]:
    requests, failures = summary["requests"], summary["failures"]
    ends = f"{count(requests['failed'])} failed, {count(requests['unfinished'])} unfinished at the end"
    yield Prose([f"{count(requests['not_served'])} of {plural(requests['offered'], 'request')}: {ends}."])
    if not failures:
        return
    rows = []
    for reason, number in list(failures.items())[:MOST_REASONS]:
        share = number / requests["offered"]
        of_all = Cell(shown(share, "share"), share, bar=share)
        rows.append(Row([text(reason), whole(number, f"failures.{reason}"), of_all]))
    more = len(failures) - len(rows)
    note = f"and {plural(more, 'more reason')} in summary.json" if more > 0 else ""
    columns = [Column("reason"), Column("requests", numeric=True), Column("of all", numeric=True)]
    yield Table("Why requests failed", columns, rows, "failures", note=note)


# --- tables ---


def all_figures(summary: Mapping[str, Any], name: str) -> Table:
    """Every figure that has an interval, each with its path."""
    rows = []
    promised = summary["slo"]["all"]["value"] is not None
    for figure in FIGURES:
        if figure.path[0] == "slo" and not promised:
            continue
        found = at(summary, figure.name)
        cell = estimated(found, figure.name)
        rows.append(Row([text(figure_name(figure.name)), cell, Cell(cell.interval, found["low"]), text(figure.name)]))
    columns = [
        Column("figure"),
        Column("value", numeric=True),
        Column("95 % interval", "interval_from", numeric=True),
        Column("in summary.json", "path"),
    ]
    return Table(f"Figures of {name}", columns, rows, "figures", stacked=False)


def _replications(summary: Mapping[str, Any], name: str) -> Table:
    rows = []
    for number, one in enumerate(summary["replications"]):
        state = "stood still" if one["deadlock"] else "ended early" if one["ended_early"] else "whole"
        rows.append(
            Row(
                [
                    whole(number),
                    plain(one["window_end_s"] - one["window_start_s"], "time"),
                    text(state, badge="bad" if one["deadlock"] else "warn" if one["ended_early"] else ""),
                    whole(one["mser5_requests"], f"replications.{number}.mser5_requests"),
                    plain(
                        one["latency_autocorrelation_requests"],
                        path=f"replications.{number}.latency_autocorrelation_requests",
                    ),
                ]
            )
        )
    columns = [
        Column("replication", numeric=True),
        Column("window", "window_s", "From the first arrival to the end of the last request", numeric=True),
        Column("how it ended", "state"),
        Column("warm-up", "mser5_requests", "First requests that MSER-5 would leave out", numeric=True),
        Column(
            "requests that say as much as one",
            "autocorrelation_requests",
            "Autocorrelation time of the latency",
            numeric=True,
        ),
    ]
    return Table(
        f"Replications of {name}",
        columns,
        rows,
        "replications",
        note="Warm-up: how many first requests MSER-5 would leave out; – where the run is too short to tell.",
    )
