"""Figures of run directories, simulated and measured ones side by side, and of sweeps.

Colours tell runs apart and are safe for colour-blind readers; simulated runs are drawn with lines, measured ones with
dashes and open markers, so the two kinds differ in print as well. Every function returns a matplotlib Figure, which a
notebook shows and ``save`` writes. Intervals are 95 %, across replications.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.schema import Config
from experiments.figures.style import (
    COLOURS,
    Samples,
    new_figure,
    place_labels,
    plain_log_axis,
    styled,
    thinned,
    time_axis,
    token_axis,
    unit_of,
)
from experiments.figures.style import (
    save as save,
)
from experiments.runs.rundir import StoredRun
from experiments.stats.intervals import Estimate, across_replications
from experiments.stats.quantiles import LEVELS, at_levels
from experiments.stats.selection import possibly_lowest
from protocol.recording import Event

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_NAMES = {"sim": "simulated", "real": "measured"}
KIND_LINES = {"sim": "-", "real": "--"}
DEFAULT_TOKENS = "protocol.sizing.tokens"
MAX_CURVES = len(COLOURS)
BINS = 300
"""Stretches of time over which the occupancy of several replications is averaged."""
QUANTITIES = {
    "latency_s.p99": "p99 latency, arrival to delivered",
    "latency_s.p90": "p90 latency, arrival to delivered",
    "latency_s.p50": "median latency, arrival to delivered",
    "latency_s.mean": "mean latency, arrival to delivered",
    "transfer_s.p99": "p99 transfer, embedding ready to delivered",
    "transfer_s.mean": "mean transfer, embedding ready to delivered",
}


def plot_run(folder: Path) -> list[Path]:
    """The figures every run directory has in plots/."""
    run = StoredRun(folder)
    made = []
    if run.summary["requests"]["succeeded"]:
        made.append(save(latency_ecdf([run], labels=[""]), folder / "plots" / "latency.png"))
    made.append(save(plot_pool_occupancy(run), folder / "plots" / "pools.png"))
    return made


@styled
def latency_ecdf(runs: Sequence[StoredRun], labels: Sequence[str] | None = None) -> Figure:
    """Share of delivered requests within a time: arrival to delivered, and embedding ready to delivered."""
    names = labels if labels is not None else _labels(runs)
    figure, panels = new_figure(1, 2, (8.2, 3.5), sharey=True)
    titles = ("Latency: arrival to delivered", "Transfer: embedding ready to delivered")
    for axes, since, title in zip(panels, ("arrival_s", "encoded_s"), titles, strict=True):
        largest = 0.0
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            table = run.requests()
            times = np.sort((table["delivered_s"] - table[since]).dropna().to_numpy(dtype=float))
            if not len(times):
                continue
            largest = max(largest, float(times[-1]))
            share = np.arange(1, len(times) + 1) / len(times)
            colour = COLOURS[number % len(COLOURS)]
            axes.step(
                np.repeat(times[:1], 1).tolist() + times.tolist(),
                [0.0, *share.tolist()],
                where="post",
                color=colour,
                linestyle=KIND_LINES[run.kind],
                label=name or None,
            )
        time_axis(axes, largest)
        axes.set_title(title)
        axes.set_ylim(0, 1.02)
        axes.axhline(0.5, color="#999999", linewidth=0.7, linestyle=":")
        axes.axhline(0.99, color="#999999", linewidth=0.7, linestyle=":")
    panels[0].set_ylabel("share of delivered requests")
    if any(names):
        panels[1].legend(loc="lower right")
    return figure


@styled
def sizing_curve(runs: Sequence[StoredRun]) -> Figure:
    """What the default buffer size costs: latency, resumes and waste against it, with 95 % intervals.

    Too small a default resumes often, too large a one fills the pool with blocks nobody needs: a U.
    """
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, panels = new_figure(1, 3, (12.0, 3.9))
    kinds = [kind for kind in KIND_NAMES if any(run.kind == kind for run in runs)]
    sizes = sorted({run.config.protocol.sizing.tokens for run in runs})
    for kind in kinds:
        members = sorted((run for run in runs if run.kind == kind), key=lambda run: run.config.protocol.sizing.tokens)
        tokens = [run.config.protocol.sizing.tokens for run in members]
        summaries = [run.summary for run in members]
        for percentile, colour in (("p50", COLOURS[0]), ("p99", COLOURS[1])):
            estimates = [summary["latency_s"][percentile] for summary in summaries]
            _with_interval(panels[0], tokens, estimates, 1e3, colour, kind, f"{percentile}, {KIND_NAMES[kind]}")
        rates = [summary["resume"]["rate"] for summary in summaries]
        _with_interval(panels[1], tokens, rates, 100.0, COLOURS[2], kind, KIND_NAMES[kind])
        wasted = [summary["language_pool"]["wasted_fraction"] for summary in summaries]
        _with_interval(panels[2], tokens, wasted, 100.0, COLOURS[3], kind, KIND_NAMES[kind])
    panels[0].set_yscale("log")
    # Decades are too coarse for latencies of one workload: label the steps between them, as plain numbers.
    panels[0].set_yticks([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000])
    panels[0].yaxis.set_major_formatter(ScalarFormatter())
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].relim()
    panels[0].autoscale_view()
    panels[0].set_title("Latency, arrival to delivered (ms)")
    panels[1].set_title("Requests that were resumed (%)")
    panels[2].set_title("Held language memory left empty (%)")
    for axes in panels[1:]:
        axes.set_ylim(0, 100)
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("default allocation (tokens)")
        # Below the axes, where no curve can run.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
    return figure


def plot_defaults(folders: Sequence[Path], path: Path) -> Path:
    """Write the ``sizing_curve`` of these run directories to ``path``."""
    return save(sizing_curve([StoredRun(folder) for folder in folders]), path)


# --- occupancy over time ---


@styled
def plot_pool_occupancy(run: StoredRun | Path | str, *, replication: int | None = 0) -> Figure:
    """Blocks held over time on either side, all ranks together, in percent of the pool.

    ``replication`` None draws all of them: the mean, and a band from the lowest to the highest.
    """
    stored = run if isinstance(run, StoredRun) else StoredRun(run)
    config = stored.config
    held = _holdings(stored, replication)
    figure, panels = new_figure(2, 1, (6.8, 4.6), sharex=True)
    end_s = float(held["time_s"].max()) if len(held) else 0.0
    for axes, side, section, colour in (
        (panels[0], "language", config.language, COLOURS[0]),
        (panels[1], "encode", config.encode, COLOURS[2]),
    ):
        total = config.blocks(section) * section.tp * section.instances
        part = held[held["side"] == side]
        steps = [
            (one["time_s"].to_numpy(dtype=float), 100 * one["change"].cumsum().to_numpy(dtype=float) / total)
            for _, one in part.groupby("replication")
        ]
        if replication is not None:
            times, share = thinned(*steps[0]) if steps else (np.zeros(1), np.zeros(1))
            axes.step(times, share, where="post", color=colour, linewidth=1.0)
            axes.fill_between(times, share, step="post", color=colour, alpha=0.15, linewidth=0)
        elif steps:
            edges = np.linspace(0.0, end_s, BINS + 1)
            means = np.array([_time_means(times, share, edges) for times, share in steps])
            middles = (edges[:-1] + edges[1:]) / 2
            axes.plot(middles, means.mean(axis=0), color=colour, linewidth=1.2, label="mean of the replications")
            axes.fill_between(
                middles, means.min(axis=0), means.max(axis=0), color=colour, alpha=0.2, linewidth=0,
                label=f"lowest to highest of {len(steps)}",
            )  # fmt: skip
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
        axes.set_ylim(0, 105)
        axes.set_ylabel("blocks held (%)")
        axes.set_title(f"{side.capitalize()} pool: {total} blocks", loc="center" if replication is not None else "left")
    panels[1].set_xlim(0, end_s or 1.0)
    panels[1].set_xlabel("time (s)")
    return figure


def _holdings(run: StoredRun, replication: int | None) -> pd.DataFrame:
    """Every change of the blocks a room holds on a rank: replication, side, time_s, change (blocks)."""
    import pyarrow.parquet as pq

    holds = [Event.ALLOCATED.value, Event.ENCODE_STARTED.value, Event.RELEASED.value]
    chosen: list[Any] = [("event", "in", holds)]
    if replication is not None:
        chosen.append(("replication", "==", replication))
    names = ["replication", "time_s", "side", "instance", "rank", "room", "event", "tokens"]
    table = pq.read_table(run.path / "events.parquet", columns=names, filters=chosen).to_pandas()
    released = table["event"] == Event.RELEASED.value
    # An allocation tells its tokens, a release means none; the change against the room's last value counts.
    blocks = (-(-table["tokens"] // run.config.protocol.block_tokens)).where(~released, 0)
    owner = [table[name] for name in ("replication", "side", "instance", "rank", "room")]
    table["change"] = blocks - blocks.groupby(owner).shift(fill_value=0)
    return table[["replication", "side", "time_s", "change"]]


def _time_means(times: Samples, values: Samples, edges: Samples) -> Samples:
    """Mean over each stretch between two edges of what is 0 at first and ``values[i]`` from ``times[i]`` on."""
    area = np.concatenate(([0.0], np.cumsum(values[:-1] * np.diff(times))))
    place = np.searchsorted(times, edges, side="right") - 1
    reached = np.where(place >= 0, area[place] + values[place] * (edges - times[place]), 0.0)
    means: Samples = np.diff(reached) / np.diff(edges)
    return means


# --- sweeps ---


def plot_sweep(table: pd.DataFrame, quantiles: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the figures that fit a sweep into ``folder``/plots; see ``sweep`` for the two tables."""
    made = []
    cells = table["cell"].nunique()
    sized = _is_numeric(table, DEFAULT_TOKENS) and table[DEFAULT_TOKENS].nunique() > 1
    if sized and table["latency_s.mean"].notna().any() and len(_lines(table, DEFAULT_TOKENS)) <= MAX_CURVES:
        made.append(save(plot_u_shape(table), folder / "plots" / "u_shape.png"))
        made.append(save(plot_tradeoff(table), folder / "plots" / "tradeoff.png"))
    if cells <= MAX_CURVES and quantiles["latency_s"].notna().any():
        made.append(save(plot_ecdf(quantiles), folder / "plots" / "ecdf.png"))
    return made


def swept_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a sweep's table that are configuration fields."""
    figures = {"slo.ttft", "slo.latency", "slo.all"}  # not its limits, which are settings
    return [name for name in table.columns if name.partition(".")[0] in Config.model_fields and name not in figures]


@styled
def plot_u_shape(
    table: pd.DataFrame,
    *,
    x: str = DEFAULT_TOKENS,
    lines: Sequence[str] | None = None,
    figures: Sequence[str] = ("latency_s.p99", "latency_s.mean"),
    relative: bool = False,
) -> Figure:
    """Latency against the default allocation, a panel for each of ``figures``, with 95 % bands: a U.

    ``table`` is a sweep's (``Sweep.table``). ``lines`` are the fields that tell the curves apart; all that differ
    unless given. A star marks the lowest mean, filled points the sizes that may be the lowest in truth (see
    ``selection``), crosses the sizes at which requests failed, whose latencies leave those out.

    ``relative`` draws how far each size is above its curve's lowest one, replication by replication: far narrower
    bands, since all sizes see the same requests, and curves of different heights on one axis.
    """
    curves = _lines(table, x, lines)
    if len(curves) > MAX_CURVES:
        raise ValueError(
            f"the table has {len(curves)} curves, at most {MAX_CURVES} can be told apart; select some rows"
        )
    figure, panels = new_figure(1, len(figures), (4.9 * len(figures), 4.1))
    drawn: list[_Point] = []
    for axes, name in zip(panels, figures, strict=True):
        if not relative:
            axes.set_yscale("log")
        points: list[_Point] = []
        for (_, part), colour in zip(curves, COLOURS, strict=False):
            points += _draw_curve(axes, _curve(part, x, name), colour, relative=relative)
        title = QUANTITIES.get(name, name)
        if relative:
            axes.set_title(f"{title}:\nabove the lowest (%)")
            _linear_limits(axes, points)
        else:
            _log_limits(axes, points)
            scale, unit = unit_of(max((point.estimate["value"] or 0.0 for point in points), default=0.0))
            plain_log_axis(axes.yaxis, scale=scale)
            axes.set_title(f"{title} ({unit})")
        token_axis(axes, table[x])
        axes.set_xlabel("default allocation (tokens)" if x == DEFAULT_TOKENS else x)
        drawn += points
    named = [(label, colour) for (label, _), colour in zip(curves, COLOURS, strict=False) if label]
    repeated = table["replication"].nunique() > 1
    _key(figure, named, repeated=repeated, failures=not all(point.whole for point in drawn))
    return figure


@styled
def plot_tradeoff(table: pd.DataFrame, *, x: str = DEFAULT_TOKENS, lines: Sequence[str] | None = None) -> Figure:
    """What a default allocation trades: resumed requests against held memory left empty, a point for each size.

    ``table``, ``x`` and ``lines`` as in ``plot_u_shape``; bars are 95 % intervals.
    """
    curves = _lines(table, x, lines)
    figure, (axes,) = new_figure(1, 1, (6.2, 4.6))
    labels: list[list[tuple[float, float, str]]] = []
    for (label, part), colour in zip(curves, COLOURS, strict=False):
        wasted, resumed = (_curve(part, x, name) for name in ("language_pool.wasted_fraction", "resume.rate"))
        pairs = [(a, b) for a in wasted for b in resumed if a.x == b.x]
        across, up = ([_percent(pair[side].estimate) for pair in pairs] for side in (0, 1))
        axes.errorbar(
            [one[0] for one in across], [one[0] for one in up],
            xerr=_arms(across), yerr=_arms(up),
            color=colour, marker="o", markersize=4.5, elinewidth=1.0, label=label or None,
        )  # fmt: skip
        labels.append([(a[0], b[0], f"{pair[0].x:g}") for pair, a, b in zip(pairs, across, up, strict=True)])
    axes.set_xlim(-3, 103)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("held language memory left empty (%)")
    axes.set_ylabel("requests that were resumed (%)")
    axes.set_title("Points: default allocation in tokens" if x == DEFAULT_TOKENS else f"Points: {x}")
    if any(label for label, _ in curves):
        axes.legend(loc="upper right")
    place_labels(axes, labels, COLOURS)
    return figure


@styled
def plot_ecdf(
    source: pd.DataFrame | Sequence[StoredRun | Path | str],
    *,
    labels: Sequence[str] | None = None,
    quantity: str = "latency_s",
) -> Figure:
    """The distribution of a time, one curve per run or cell: the share within it, and the tail beyond it.

    ``source``: a sweep's ``quantiles``, or run directories. ``quantity``: ``latency_s`` (arrival to delivered) or
    ``transfer_s`` (embedding ready to delivered). With several replications a curve is the geometric mean of their
    quantiles and a band its 95 % interval, since the axis is logarithmic.
    """
    if isinstance(source, Sequence):
        runs = [one if isinstance(one, StoredRun) else StoredRun(one) for one in source]
        curves = [(name, _run_quantiles(run, quantity)) for name, run in zip(_labels(runs), runs, strict=True)]
    else:
        curves = [
            (name, np.array([one[quantity].to_numpy(dtype=float) for _, one in part.groupby("replication")]))
            for name, part in _lines(source, "")
        ]
    if len(curves) > MAX_CURVES:
        raise ValueError(f"there are {len(curves)} curves, at most {MAX_CURVES} can be told apart; select some")
    names = labels if labels is not None else [name for name, _ in curves]
    figure, (body, tail) = new_figure(1, 2, (9.0, 3.9), sharex=True)
    largest, least = 0.0, math.inf
    for name, (_, values), colour in zip(names, curves, COLOURS, strict=False):
        known = np.log(np.maximum(values[~np.isnan(values).any(axis=1)], 1e-9))
        if not len(known):
            continue
        middle = np.exp(known.mean(axis=0))
        largest, least = max(largest, float(middle[-1])), min(least, float(middle[0]))
        body.step(middle, 100 * LEVELS, where="post", color=colour, label=name or None)
        tail.step(middle[:-1], 100 * (1 - LEVELS[:-1]), where="post", color=colour)
        if len(known) > 1:
            bounds = [across_replications(column.tolist()) for column in known.T]
            low, high = (np.exp(np.array([one[side] for one in bounds], float)) for side in ("low", "high"))
            body.fill_betweenx(100 * LEVELS, low, high, color=colour, alpha=0.15, linewidth=0)
            tail.fill_betweenx(100 * (1 - LEVELS[:-1]), low[:-1], high[:-1], color=colour, alpha=0.15, linewidth=0)
    scale, unit = unit_of(largest)
    what = {"latency_s": "latency, arrival to delivered", "transfer_s": "transfer, embedding ready to delivered"}
    for axes in (body, tail):
        axes.set_xscale("log")
        axes.set_xlim(max(least, largest * 1e-4) * 0.9 if largest else 0.1, largest * 1.2 or 1.0)
        axes.set_xlabel(f"{what.get(quantity, quantity)} ({unit})")
    plain_log_axis(body.xaxis, scale=scale)
    body.set_ylim(0, 102)
    body.set_ylabel("delivered requests within it (%)")
    tail.set_yscale("log")
    tail.set_ylim(0.08, 110)
    tail.set_yticks([100, 50, 10, 5, 1, 0.5, 0.1], ["100", "50", "10", "5", "1", "0.5", "0.1"])
    tail.minorticks_off()
    tail.set_ylabel("delivered requests beyond it (%)")
    if any(names):
        figure.legend(loc="outside lower center", ncols=min(len(curves), 6 if max(map(len, names)) < 14 else 3))
    return figure


@dataclass(frozen=True)
class _Point:
    """One size of one curve: its replications, and whether every request was delivered."""

    x: float
    samples: Samples
    whole: bool

    @cached_property
    def estimate(self) -> Estimate:
        """The mean over the replications."""
        return across_replications([None if math.isnan(one) else one for one in self.samples.tolist()])


def _curve(part: pd.DataFrame, x: str, name: str) -> list[_Point]:
    """The points of a curve from left to right; those with nothing to measure are left out."""
    points = []
    for value, rows in part.groupby(x):
        whole = bool((rows["requests.succeeded"] == rows["requests.offered"]).all())
        samples = rows.sort_values("replication")[name].to_numpy(dtype=float)
        points.append(_Point(float(str(value)), samples, whole))
    return [point for point in points if point.estimate["value"] is not None]


def _lowest(curve: Sequence[_Point]) -> _Point | None:
    """The point with the lowest mean among those at which every request was delivered."""
    return min(
        (point for point in curve if point.whole), key=lambda point: point.estimate["value"] or 0.0, default=None
    )


def _draw_curve(axes: Axes, curve: list[_Point], colour: str, *, relative: bool) -> list[_Point]:
    """Line, band and marks of one curve; returns what was drawn."""
    lowest = _lowest(curve)
    if lowest is None and (relative or not curve):
        return []
    whole = [point for point in curve if point.whole]
    kept = (
        {whole[index].x for index in possibly_lowest([point.samples.tolist() for point in whole])} if whole else set()
    )
    if relative and lowest is not None:
        # Replication by replication, so that what chance does to all sizes drops out.
        curve = [replace(point, samples=100 * (point.samples / lowest.samples - 1)) for point in curve]
    xs = [point.x for point in curve]
    values, low, high = (np.array([_bounds(point.estimate)[side] for point in curve]) for side in range(3))
    axes.plot(xs, values, color=colour)
    # A logarithmic axis has no zero, and a t interval may reach below it.
    low = low if relative else np.maximum(low, values.min() / 1e3)
    axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    for point, value in zip(curve, values, strict=True):
        is_lowest = lowest is not None and point.x == lowest.x
        sign, size = ("X", 6.5) if not point.whole else ("*", 12.0) if is_lowest else ("o", 5.0)
        face = colour if point.x in kept or not point.whole else "white"
        axes.plot([point.x], [value], marker=sign, markersize=size, color=colour, markerfacecolor=face, zorder=3)
    return curve


def _linear_limits(axes: Axes, points: Sequence[_Point]) -> None:
    """Limits around all values and what of their intervals fits."""
    known = [_bounds(point.estimate) for point in points]
    if known:
        top = max(value for value, _, _ in known)
        room = 0.06 * top + 1  # for the marks
        bottom = min(low for _, low, _ in known)
        axes.set_ylim(max(bottom, -0.4 * top) - room, min(max(high for _, _, high in known), 1.8 * top) + room)


def _log_limits(axes: Axes, points: Sequence[_Point]) -> None:
    """Limits that show all values and what of their intervals fits: one that reaches zero has no end there."""
    known = [_bounds(point.estimate) for point in points]
    if known:
        bottom = min(max(low, value / 2) for value, low, _ in known)
        top = max(min(high, 4 * value) for value, _, high in known)
        axes.set_ylim(0.9 * bottom, 1.15 * top)


def _key(figure: Figure, curves: Sequence[tuple[str, str]], *, repeated: bool, failures: bool) -> None:
    """The legend below the panels: a row of curves, then a row of what the marks mean."""
    from matplotlib.lines import Line2D

    grey = "#555555"
    marks = [("*", "lowest", grey, 11.0)]
    if repeated:
        marks += [("o", "may be the lowest (95 %)", grey, 5.0), ("o", "higher", "white", 5.0)]
    if failures:
        marks.append(("X", "some requests failed", grey, 6.5))
    first = [Line2D([], [], color=colour, label=label) for label, colour in curves]
    second = [
        Line2D([], [], color=grey, linestyle="", marker=sign, markersize=size, markerfacecolor=face, label=label)
        for sign, label, face, size in marks
    ]
    rows = [row for row in (first, second) if row]
    width = max(len(row) for row in rows)
    blank = Line2D([], [], linestyle="", label=" ")
    padded = [[*row, *[blank] * (width - len(row))] for row in rows]
    # A legend fills its columns one after the other.
    figure.legend(
        handles=[row[column] for column in range(width) for row in padded], loc="outside lower center", ncols=width
    )


def _lines(table: pd.DataFrame, x: str, lines: Sequence[str] | None = None) -> list[tuple[str, pd.DataFrame]]:
    """(label, rows) of every curve, in the order of the cells.

    Curves are told apart by as few of the swept fields as do it: a rate that goes with a workload adds nothing.
    """
    fields = [name for name in swept_columns(table) if name != x and table[name].nunique(dropna=False) > 1]
    telling = list(lines) if lines is not None else _telling(table, fields)
    if not telling:
        return [("", table)]
    groups = table.groupby(telling, sort=False, dropna=False)
    return [(_label(telling, values), rows) for values, rows in groups]


def _telling(table: pd.DataFrame, fields: Sequence[str]) -> list[str]:
    """A small part of the fields that tells apart all that the whole tells apart."""
    needed = table.groupby(list(fields), dropna=False).ngroups if fields else 1
    chosen: list[str] = []
    # Names say more than numbers, so of two fields that tell the same they come first.
    for field in sorted(fields, key=lambda name: (-table[name].nunique(dropna=False), table[name].dtype.kind in "if")):
        before = table.groupby(chosen, dropna=False).ngroups if chosen else 1
        if before < needed and table.groupby([*chosen, field], dropna=False).ngroups > before:
            chosen.append(field)
    return [field for field in fields if field in chosen]


def _label(fields: Sequence[str], values: Iterable[Any]) -> str:
    parts = []
    for field, value in zip(fields, values, strict=True):
        name = field.rpartition(".")[2]
        parts.append(value if isinstance(value, str) else f"no {name}" if value != value else f"{name} {value:g}")
    return ", ".join(parts)


def _is_numeric(table: pd.DataFrame, name: str) -> bool:
    return name in table.columns and table[name].dtype.kind in "if" and not table[name].isna().any()


def _run_quantiles(run: StoredRun, quantity: str) -> Samples:
    """Quantiles at ``LEVELS`` of every replication of a run."""
    since = {"latency_s": "arrival_s", "transfer_s": "encoded_s"}[quantity]
    table = run.requests()
    table["taken_s"] = table["delivered_s"] - table[since]
    return np.array(
        [at_levels(one["taken_s"].dropna().to_numpy(dtype=float)) for _, one in table.groupby("replication")]
    )


def _bounds(estimate: Estimate) -> tuple[float, float, float]:
    """Value, low and high; the bounds are the value where there is no interval."""
    value = estimate["value"] or 0.0
    low, high = estimate["low"], estimate["high"]
    return value, value if low is None else low, value if high is None else high


def _percent(estimate: Estimate) -> tuple[float, float, float]:
    value, low, high = _bounds(estimate)
    return 100 * value, 100 * max(low, 0.0), 100 * high


def _arms(estimates: Sequence[tuple[float, float, float]]) -> Any:
    return np.array([[value - low, high - value] for value, low, high in estimates]).reshape(-1, 2).T


# --- helpers of the figures of runs ---


def _labels(runs: Sequence[StoredRun]) -> list[str]:
    return [f"{run.config.run.name}, {KIND_NAMES[run.kind]}" for run in runs]


def _with_interval(
    axes: Axes,
    tokens: Sequence[int],
    estimates: Sequence[dict[str, Any]],
    scale: float,
    colour: str,
    kind: str,
    label: str,
) -> None:
    known = [(size, one) for size, one in zip(tokens, estimates, strict=True) if one["value"] is not None]
    if not known:
        return
    values = [scale * one["value"] for _, one in known]
    below = [0.0 if one["low"] is None else scale * (one["value"] - max(one["low"], 0.0)) for _, one in known]
    above = [0.0 if one["high"] is None else scale * (one["high"] - one["value"]) for _, one in known]
    axes.errorbar(
        [size for size, _ in known],
        values,
        yerr=[np.maximum(below, 0.0), np.maximum(above, 0.0)],
        color=colour,
        linestyle=KIND_LINES[kind],
        marker="o",
        markersize=4.5,
        markerfacecolor="white" if kind == "real" else colour,
        capsize=2.5,
        elinewidth=1.0,
        label=label,
    )
