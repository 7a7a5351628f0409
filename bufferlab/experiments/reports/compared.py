"""The part of the page that holds several runs beside each other, and what differs where they had the same requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.distributions import distribution_of, run_steps
from bufferlab.experiments.figures.style import KIND_NAMES
from bufferlab.experiments.reports.charts import Distribution, differences, distribution_panels, shares_sentence
from bufferlab.experiments.reports.page import Block, Column, Figure, Notice, Part, Row, Section, Table, estimated, text
from bufferlab.experiments.reports.readings import interval_text, kind_of, plural, value_text
from bufferlab.experiments.reports.sources import Source
from bufferlab.experiments.reports.wording import at, figure_name, names_of, requests_cell, state_of, upper
from bufferlab.experiments.runs.estimates import FIGURES
from bufferlab.experiments.runs.paired import compare_paired
from bufferlab.experiments.runs.rundir import StoredRun

MOST_CURVES = 7
MOST_PAIRED = 6
"""Pairing reads all events of a run."""
SHOWN = ("latency_s.mean", "latency_s.p50", "latency_s.p99", "ttft_s.p99", "throughput_rps", "resume.rate",
         "language_pool.wasted_fraction")  # fmt: skip
DRAWN = ("latency_s.mean", "latency_s.p50", "latency_s.p90", "latency_s.p99", "ttft_s.mean", "ttft_s.p99")

Result = Mapping[str, Any]


def comparison_part(sources: Sequence[Source]) -> Part:
    """Several runs, the first of which the others are compared with."""
    first, *others = sources
    paired: dict[int, Result] = {}
    reasons: list[str] = []
    for place, other in enumerate(others[:MOST_PAIRED], 1):
        try:
            paired[place] = compare_paired(first.path, other.path)
        except UserError as error:
            reasons.append(f"{other.name} is not paired request by request: {error}.")
    reasons += [upper(note) for result in paired.values() for note in result["notes"]]
    notices = [Notice(reason, "plain") for reason in reasons]
    if len(others) > MOST_PAIRED:
        notices.append(
            Notice(f"Only the first {MOST_PAIRED} are compared with {first.name} request by request.", "plain")
        )
    return Part(
        title="Compared",
        kicker=f"comparison of {plural(len(sources), 'run')}",
        verdict=None,
        answer=list(_answer(sources, paired)),
        notices=notices,
        sections=list(_sections(sources, paired)),
    )


def paired_head(sources: Sequence[Source], result: Result, names: Sequence[str]) -> Part:
    """What stands first about two runs that are paired already. ``names``: what they are called."""
    notices = [Notice(upper(note), "plain") for note in result["notes"]]
    return Part("Compared", "comparison of 2 runs", None, list(_answer(sources, {1: result}, names)), notices)


def _answer(
    sources: Sequence[Source], paired: Mapping[int, Result], called: Sequence[str] | None = None
) -> Iterator[str]:
    names = [source.name for source in sources] if called is None else called
    yield f"{names_of(names)}; differences are those to {names[0]}."
    said = []
    for place, result in paired.items():
        difference = result["differences"]["latency_s"]["p99"]
        if difference["value"] is None:
            continue
        spread = interval_text(difference, "time", signed=True)
        clear = difference["significant"]
        value = value_text(difference, "time", signed=True)
        if not spread:
            said.append(f"with {names[place]} {value} (not known how surely)")
        elif clear:
            said.append(f"with {names[place]} {value} ({spread})")
        else:
            said.append(f"with {names[place]} no difference can be told, {value} ({spread})")
    if said:
        yield f"The p99 latency on the same requests: {'; '.join(said)}."
    else:
        values = [
            f"{name} {value_text(source.content['latency_s']['p99'], 'time')}"
            for name, source in zip(names, sources, strict=True)
            if source.content["latency_s"]["p99"]["value"] is not None
        ]
        yield f"The p99 latencies: {names_of(values)}." if values else "None of the runs served a request."
    settings = [
        f"{one['name']} is {one['first']} in {names[0]} and {one['second']} in {names[place]}"
        for place, result in paired.items()
        for one in result["settings"]
    ]
    if settings:
        yield f"They differ in settings: {'; '.join(settings[:8])}{' and more' if len(settings) > 8 else ''}."


def _sections(sources: Sequence[Source], paired: Mapping[int, Result]) -> Iterator[Section]:
    yield Section("Figures of all runs", [_table(sources)])
    drawn = _distributions(sources)
    if drawn is not None:
        yield Section("How long requests take, run by run", [drawn])
    if paired:
        yield Section(f"Differences to {sources[0].name} on the same requests", list(_differences(sources, paired)))


def _table(sources: Sequence[Source]) -> Table:
    rows = []
    for source in sources:
        content = source.content
        words, tone = state_of(content)
        rows.append(
            Row(
                [
                    text(source.name),
                    text(KIND_NAMES[content["kind"]]),
                    *(estimated(at(content, path), kind=kind_of(path)) for path in SHOWN),
                    requests_cell(content["requests"], ""),
                    text(words.removesuffix(" capacity"), badge=tone),
                ]
            )
        )
    columns = [
        Column("run"), Column("kind"), *(Column(figure_name(path), path, path, numeric=True) for path in SHOWN),
        Column("not served", "requests.not_served", numeric=True), Column("capacity", "capacity.verdict"),
    ]  # fmt: skip
    bounded = any(at(source.content, path)["low"] is not None for source in sources for path in SHOWN)
    return Table(
        "A row for every run", columns, rows, "runs", note="Small numbers are 95 % intervals." if bounded else ""
    )


def _distributions(sources: Sequence[Source]) -> Figure | None:
    given = []
    for source in sources[:MOST_CURVES]:
        run = StoredRun(source.path)
        resampled = source.content.get("replication_kind") == "resampled"
        found = distribution_of(run_steps(run, "latency_s"), resampled=resampled)
        if found is not None:
            given.append(Distribution(source.name, found, dash=int(run.kind == "real")))
    if not given:
        return None
    panels = distribution_panels(given, "a latency", across="latency, arrival to delivered", file="runs-latency")
    dashed = "; measured runs are dashed" if any(one.dash for one in given) else ""
    told = " ".join(["", *filter(None, [shares_sentence(given)])])
    more = f" The first {MOST_CURVES} of {len(sources)}." if len(sources) > MOST_CURVES else ""
    return Figure(f"Delivered requests only{dashed}.{told}{more}", panels)


def _differences(sources: Sequence[Source], paired: Mapping[int, Result]) -> Iterator[Block]:
    panels = []
    for place, result in paired.items():
        rows = []
        for path in DRAWN:
            found = at(result["differences"], path)
            if found["value"] is not None:
                tip = f"{figure_name(path)}: {value_text(found, 'time', signed=True)}"
                rows.append((figure_name(path), found, 2 if found["significant"] else 1, tip, None, None))
        if rows:
            panels.append(
                differences(f"{sources[place].name} less {sources[0].name}", rows, across="difference", kind="time",
                            file=f"difference-{place}", description="; ".join(row[3] for row in rows))
            )  # fmt: skip
    if panels:
        found = [at(result["differences"], path) for result in paired.values() for path in DRAWN]
        bounded = any(one["low"] is not None for one in found)
        lines = "Lines are 95 % intervals of the paired differences; orange ones leave out 0."
        yield Figure(lines if bounded else "One replication does not say how sure these differences are.", panels)
    columns = [
        Column("run"),
        Column("figure", words=True),
        *(Column(name, numeric=True) for name in ("first", "second", "difference")),
        Column("leaves out 0", "significant"),
    ]
    rows_of_all = []
    for place, result in paired.items():
        for figure in FIGURES:
            found = at(result["differences"], figure.name)
            if found["value"] is None:
                continue
            kind = kind_of(figure.name)
            first, second = ({"value": found[side], "low": None, "high": None} for side in ("first", "second"))
            rows_of_all.append(
                Row(
                    [
                        text(sources[place].name),
                        text(figure_name(figure.name)),
                        estimated(first, kind=kind),
                        estimated(second, kind=kind),
                        estimated(found, kind=kind, signed=True),
                        text("yes" if found["significant"] else "no", badge="plain" if found["significant"] else ""),
                    ]
                )
            )
    note = (
        "Of the requests that both runs delivered; shares differ by percentage points (pp). About one in twenty "
        "differences that are none leaves out 0."
    )
    yield Table("Second less first", columns, rows_of_all, "differences", note=note, key=2)
