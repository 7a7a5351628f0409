"""The pictures of a sweep: the U-shape, what latency costs in memory, and the map of two fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bufferlab.experiments.reports.charts import Curve, Spot, curves, has_intervals, heat, tradeoff
from bufferlab.experiments.reports.page import Figure, Panel, setting_text
from bufferlab.experiments.reports.readings import interval_text, shown, value_text
from bufferlab.experiments.reports.storedsweep import StoredSweep, is_number
from bufferlab.experiments.reports.wording import at

MOST_CURVES = 7
MOST_PLACES = 24
"""Places across that have room for their names."""
MAP_CELLS = 600
MEAN = ("latency_s.mean", "mean latency", "time")
FIELDS = {"protocol.sizing.tokens": "default allocation (tokens)"}


def figures(sweep: StoredSweep) -> Iterator[Figure]:
    """Those that fit the sweep."""
    if sweep.x is None:
        return
    shape = _shape(sweep, sweep.x)
    if shape is not None:
        yield shape
    costs = [
        panel
        for panel in (_front(sweep, "latency_s.p99"), _front(sweep, "ttft_s.p99") if sweep.prefilled else None)
        if panel
    ]
    if costs:
        intervals = sweep.intervals(["latency_s.p99", "language_pool.mean_occupancy"])
        lines = f" Lines through a point are {intervals}." if intervals else ""
        lost = not all(sweep.whole(one) for one in sweep.configurations)
        left = " Configurations that lost requests are left out." if lost else ""
        yield Figure(
            "Each point is a configuration: what it costs in memory that is held on the language side, and what that "
            f"brings. Down and to the left is better.{lines}{left}",
            costs,
        )
    maps = [panel for panel in (_map(sweep, "latency_s.p99"), _map(sweep, "latency_s.mean")) if panel]
    if maps:
        yield Figure("Darker is slower, on a logarithmic scale from the lowest to the highest.", maps)


def _tip(sweep: StoredSweep, one: Mapping[str, Any], estimate: Mapping[str, Any], what: str, kind: str = "time") -> str:
    spread = interval_text(estimate, kind)
    lost = one["requests"]["offered"] - one["requests"]["succeeded"]
    return (
        f"{sweep.title(one['configuration'])}: {what} {value_text(estimate, kind)}"
        + (f" ({spread})" if spread else "")
        + (f"; {lost} requests not served" if lost else "")
    )


def _groups(sweep: StoredSweep, x: str) -> dict[str, list[Mapping[str, Any]]] | None:
    """The configurations of every curve, by its name; None where there are too many to tell apart."""
    fields = [field for field in sweep.fields if field != x and len(sweep.values(field)) > 1]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in sweep.configurations:
        if x in one["settings"]:
            groups.setdefault(sweep.title(one["configuration"], fields) if fields else "", []).append(one)
    telling = [members for members in groups.values() if len(members) > 1]
    return groups if telling and len(groups) <= MOST_CURVES else None


def _shape(sweep: StoredSweep, x: str) -> Figure | None:
    groups = _groups(sweep, x)
    values = sweep.values(x)
    if groups is None or len(values) > MOST_PLACES:
        return None
    numeric = is_number(values)
    names = [] if numeric else [setting_text(one) for one in values]
    places = {repr(value): float(value) if numeric else float(number) for number, value in enumerate(values)}
    panels = []
    bounded: list[str] = []
    drawn: set[str] = set()
    marked = False
    wanted = [("latency_s.p99", "p99 latency", "time"), MEAN]
    wanted += [("ttft_s.p99", "p99 time to the first token", "time")] if sweep.prefilled else []
    wanted += [("slo.all", "within all limits", "share")] if sweep.promised else []
    wanted += [
        ("resume.rate", "requests resumed", "share"),
        ("language_pool.wasted_fraction", "held but empty", "share"),
    ]
    if len(wanted) % 2:
        wanted.remove(MEAN)  # it is in the tables; pictures stand in pairs
    for path, what, kind in wanted:
        best, alike = sweep.ranked(path)
        given, told = [], []
        for label, members in groups.items():
            spots = []
            for one in sorted(members, key=lambda one: places[repr(one["settings"][x])]):
                estimate = at(one, path)
                if estimate["value"] is None:
                    continue
                number = one["configuration"]
                spots.append(Spot(places[repr(one["settings"][x])], estimate, _tip(sweep, one, estimate, what, kind),
                                  number in best, number in alike, sweep.whole(one)))  # fmt: skip
                told.append(f"{sweep.title(number)} {shown(estimate['value'], kind)}")
            if spots:
                given.append(Curve(label, spots))
        if given:
            ranked = bool(alike) and sweep.replications > 1
            marked |= ranked
            if has_intervals(given):
                bounded.append(path)
                drawn.add("bands" if len(given) == 1 else "upright lines")
            panels.append(
                curves(what, given, across=FIELDS.get(x, sweep.heading(x)), kind=kind,
                       file=path.replace(".", "-"), description="; ".join(told), ranked=ranked, names=names)
            )  # fmt: skip
    if not panels:
        return None
    caption = []
    if bounded:
        caption.append(f"{' and '.join(sorted(drawn)).capitalize()} are {sweep.intervals(bounded)}.")
    if marked:
        whose = "Configurations of one workload" if len(sweep.workloads) > 1 else "Configurations"
        caption.append(
            f"Where a picture names the lowest, filled marks may be it: {whose[0].lower()}{whose[1:]} see the same "
            "requests, so they differ more surely than intervals that overlap suggest."
        )
    return Figure(" ".join(caption), panels)


def _front(sweep: StoredSweep, path: str) -> Panel | None:
    """Latency against the memory that is held on average on the language side."""
    points = []
    for one in sweep.configurations:
        up = at(one, path)
        held = one["language_pool"]["mean_occupancy"]
        if sweep.whole(one) and up["value"] is not None and held["value"] is not None:
            points.append((one, held, up))
    if len(points) < 2:
        return None
    best = sweep.ranked(path)[0]
    front = {
        one["configuration"]
        for one, held, up in points
        if not any(
            (a["value"] <= held["value"] and b["value"] < up["value"])
            or (a["value"] < held["value"] and b["value"] <= up["value"])
            for _, a, b in points
        )
    }
    what = "p99 time to the first token" if path.startswith("ttft") else "p99 latency"
    spots = [
        (held, up, str(one["configuration"]), one["configuration"] in front, one["configuration"] in best,
         f"{_tip(sweep, one, up, what)}; {shown(held['value'], 'share')} of the pool held")
        for one, held, up in points
    ]  # fmt: skip
    told = "; ".join(spot[5] for spot in spots if spot[3])
    return tradeoff(
        f"{what} against memory", spots, across="pool held on average", kinds=("share", "time"),
        upwards=what, file=f"front-{path.replace('.', '-')}", description=f"On the front: {told}",
    )  # fmt: skip


def _map(sweep: StoredSweep, path: str) -> Panel | None:
    """The map of exactly two fields, each of which has several values."""
    fields = [field for field in sweep.fields if len(sweep.values(field)) > 1]
    if len(fields) != 2:
        return None
    across, upwards = sorted(fields, key=lambda field: (-len(sweep.values(field)), fields.index(field)))
    columns, rows = _ordered(sweep.values(across)), _ordered(sweep.values(upwards))
    if len(columns) * len(rows) > MAP_CELLS or len(columns) > MOST_PLACES:
        return None
    best, alike = sweep.ranked(path)
    cells: dict[tuple[int, int], tuple[Mapping[str, Any], bool, bool, str]] = {}
    for one in sweep.configurations:
        settings = one["settings"]
        if across not in settings or upwards not in settings:
            return None
        place = columns.index(settings[across]), rows.index(settings[upwards])
        number = one["configuration"]
        what = "p99 latency" if path.endswith("p99") else "mean latency"
        may = number in alike and sweep.replications > 1  # one replication rules nothing out
        cells[place] = (at(one, path), number in best, may, _tip(sweep, one, at(one, path), what))
    if len(cells) < len(sweep.configurations):
        return None
    return heat(
        what, [setting_text(one) for one in columns], [setting_text(one) for one in rows], cells,
        across=FIELDS.get(across, sweep.heading(across)), upwards=sweep.heading(upwards), kind="time",
        file=f"map-{path.replace('.', '-')}", description="; ".join(cell[3] for cell in cells.values()),
    )  # fmt: skip


def _ordered(values: Sequence[Any]) -> list[Any]:
    numbers = is_number(values)
    return sorted(values) if numbers else list(values)
