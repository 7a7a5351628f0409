"""Figures of sweeps, and the distributions of the replications of runs.

They follow the same rules as those of ``figures.runs``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bufferlab.experiments.figures.curves import (
    DEFAULT_TOKENS,
    MAX_CURVES,
    REPLICATES,
    Point,
    arms,
    bounds,
    curve_of,
    draw_curve,
    is_numeric,
    key,
    linear_limits,
    lines_of,
    log_limits,
    percent,
)
from bufferlab.experiments.figures.distributions import Distribution, distribution_of, level_steps, run_steps
from bufferlab.experiments.figures.runs import run_labels
from bufferlab.experiments.figures.style import (
    COLOURS,
    Samples,
    around,
    limits_of,
    new_figure,
    place_labels,
    plain_log_axis,
    save,
    styled,
    token_axis,
    unit_of,
)
from bufferlab.experiments.runs.rundir import StoredRun

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTITIES = {
    "latency_s.p99": "p99 latency, arrival to delivered",
    "latency_s.p90": "p90 latency, arrival to delivered",
    "latency_s.p50": "median latency, arrival to delivered",
    "latency_s.mean": "mean latency, arrival to delivered",
    "transfer_s.p99": "p99 transfer, embedding ready to delivered",
    "transfer_s.mean": "mean transfer, embedding ready to delivered",
}


def plot_sweep(table: pd.DataFrame, read_quantiles: Callable[[], pd.DataFrame], folder: Path) -> list[Path]:
    """Write the figures that fit a sweep into ``folder``/plots; see ``sweep`` for the two tables.

    The second one, which of many runs is large, is read if something of it is drawn.
    """
    pictures = sweep_pictures(table, read_quantiles)
    return [save(figure, folder / "plots" / f"{name}.png") for name, figure in pictures]


def sweep_pictures(table: pd.DataFrame, read_quantiles: Callable[[], pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """The name and figure of each picture that fits a sweep."""
    configurations = table["configuration"].nunique()
    sized = is_numeric(table, DEFAULT_TOKENS) and table[DEFAULT_TOKENS].nunique() > 1
    if sized and table["latency_s.mean"].notna().any() and len(lines_of(table, DEFAULT_TOKENS)) <= MAX_CURVES:
        yield "u_shape", plot_u_shape(table)
        yield "tradeoff", plot_tradeoff(table)
    if configurations <= MAX_CURVES and (quantiles := read_quantiles())["latency_s"].notna().any():
        yield "ecdf", plot_ecdf(quantiles)


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
    curves = lines_of(table, x, lines)
    figure, panels = new_figure(1, len(figures), (4.9 * len(figures), 4.1))
    drawn: list[Point] = []
    for axes, name in zip(panels, figures, strict=True):
        drawn += draw_u_shape(axes, table, x=x, lines=lines, name=name, relative=relative)
    named = [(label, colour) for (label, _), colour in zip(curves, COLOURS, strict=False) if label]
    repeated = table["replication"].nunique() > 1
    key(figure, named, repeated=repeated, failures=not all(point.whole for point in drawn))
    return figure


def draw_u_shape(
    axes: Axes,
    table: pd.DataFrame,
    *,
    x: str = DEFAULT_TOKENS,
    lines: Sequence[str] | None = None,
    name: str = "latency_s.p99",
    relative: bool = False,
    colours: Sequence[Any] = COLOURS,
    labels: Sequence[str] | None = None,
    seconds: bool = False,
) -> list[Point]:
    """One panel of ``plot_u_shape``, without its key; the points that were drawn.

    A time has a logarithmic axis, a share one from 0. ``seconds``: the axis says what its numbers are, not
    milliseconds where those are shorter, for axes that somebody goes on working with; the quantity is its label then.
    Raises ValueError for more curves than colours.
    """
    curves = lines_of(table, x, lines)
    if len(curves) > MAX_CURVES:
        raise ValueError(
            f"the table has {len(curves)} curves, at most {MAX_CURVES} can be told apart; select some rows"
        )
    before = limits_of(axes, "y")
    sizes = {*table[x], *(axes.get_xticks() if before is not None and axes.get_xscale() == "log" else ())}
    is_time = "_s." in name or name.endswith("_s")
    if not relative and is_time:
        axes.set_yscale("log")
    points: list[Point] = []
    names = [label for label, _ in curves] if labels is None else labels
    for label, (_, part), colour in zip(names, curves, colours, strict=False):
        points += draw_curve(axes, curve_of(part, x, name), colour, relative=relative, label=label)
    title = QUANTITIES.get(name, name)
    if relative:
        linear_limits(axes, points)
    elif is_time:
        log_limits(axes, points)
    else:
        axes.set_ylim(0, 1.1 * max((bounds(point.estimate)[2] for point in points), default=1.0) or 1.0)
    axes.set_ylim(around(*axes.get_ylim(), before))
    if relative:
        told = f"{title}:\nabove the lowest (%)"
    elif is_time:
        largest = max((point.estimate["value"] or 0.0 for point in points), default=0.0)
        short = unit_of(max(largest, before[1] / 1.15 if before is not None else 0.0))
        scale, unit = (1.0, "s") if seconds else short
        plain_log_axis(axes.yaxis, scale=scale)
        told = f"{title} ({unit})"
    else:
        told = f"{title} (share)"
    (axes.set_ylabel if seconds else axes.set_title)(told)
    token_axis(axes, sizes)
    axes.set_xlabel("default allocation (tokens)" if x == DEFAULT_TOKENS else x)
    return points


@styled
def plot_tradeoff(table: pd.DataFrame, *, x: str = DEFAULT_TOKENS, lines: Sequence[str] | None = None) -> Figure:
    """What a default allocation trades: resumed requests against held memory left empty, a point for each size.

    ``table``, ``x`` and ``lines`` as in ``plot_u_shape``; bars are 95 % intervals.
    """
    figure, (axes,) = new_figure(1, 1, (6.2, 4.6))
    draw_tradeoff(axes, table, x=x, lines=lines)
    if any(label for label, _ in lines_of(table, x, lines)):
        axes.legend(loc="upper right")
    return figure


def draw_tradeoff(
    axes: Axes,
    table: pd.DataFrame,
    *,
    x: str = DEFAULT_TOKENS,
    lines: Sequence[str] | None = None,
    colours: Sequence[Any] = COLOURS,
    labels: Sequence[str] | None = None,
) -> None:
    """The panel of ``plot_tradeoff``, without its key.

    One curve has the sizes beside its points; several, which have no room for that, have a shape for each size.
    """
    curves = lines_of(table, x, lines)
    sizes = sorted(table[x].unique())
    shapes = dict(zip(sizes, SHAPES, strict=False)) if len(curves) > 1 and len(sizes) <= len(SHAPES) else {}
    names = [label for label, _ in curves] if labels is None else labels
    written: list[list[tuple[float, float, str]]] = []
    for label, (_, part), colour in zip(names, curves, colours, strict=False):
        wasted, resumed = (curve_of(part, x, name) for name in ("language_pool.wasted_fraction", "resume.rate"))
        pairs = [(a, b) for a in wasted for b in resumed if a.x == b.x]
        across, up = ([percent(pair[side].estimate) for pair in pairs] for side in (0, 1))
        axes.errorbar(
            [one[0] for one in across], [one[0] for one in up],
            xerr=arms(across), yerr=arms(up),
            color=colour, marker="" if shapes else "o", markersize=4.5, elinewidth=1.0, label=label or None,
        )  # fmt: skip
        for pair, a, b in zip(pairs, across, up, strict=True) if shapes else ():
            axes.plot(a[0], b[0], marker=shapes[pair[0].x], color=colour, markersize=6.5)
        written.append([(a[0], b[0], f"{pair[0].x:g}") for pair, a, b in zip(pairs, across, up, strict=True)])
    axes.set_xlim(-3, 103)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("held language memory left empty (%)")
    axes.set_ylabel("requests that were resumed (%)")
    axes.set_title("Points: default allocation in tokens" if x == DEFAULT_TOKENS else f"Points: {x}")
    if not shapes:
        place_labels(axes, written, colours)
    for size, shape in shapes.items():
        axes.plot([], [], marker=shape, color="#555555", linestyle="", markersize=6.5, label=f"{size:g}")


SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


class Curve(NamedTuple):
    """The distribution of a time in one run or configuration; None where nothing was delivered."""

    name: str
    distribution: Distribution | None


@styled
def plot_ecdf(
    source: pd.DataFrame | Sequence[StoredRun | Path | str],
    *,
    labels: Sequence[str] | None = None,
    quantity: str = "latency_s",
) -> Figure:
    """The distribution of a time, one curve per run or configuration: the share within it, and the tail beyond it.

    ``source``: a sweep's ``quantiles``, or run directories. ``quantity``: ``latency_s`` (arrival to delivered) or
    ``transfer_s`` (embedding ready to delivered). With several replications a curve is the mean of their shares
    at every time and a band its 95 % interval. Of a file that is resampled it is its own.
    """
    curves = distributions(source, labels=labels, quantity=quantity)
    figure, (body, tail) = new_figure(1, 2, (9.0, 3.9), sharex=True)
    draw_body(body, curves, quantity=quantity)
    draw_tail(tail, curves, quantity=quantity)
    names = [one.name for one in curves]
    if any(names):
        handles, shown = body.get_legend_handles_labels()
        columns = min(len(curves), 6 if max(map(len, names)) < 14 else 3)
        figure.legend(handles, shown, loc="outside lower center", ncols=columns)
    return figure


def distributions(
    source: pd.DataFrame | Sequence[StoredRun | Path | str],
    *,
    labels: Sequence[str] | None = None,
    quantity: str = "latency_s",
) -> list[Curve]:
    """What ``plot_ecdf`` draws. Raises ValueError for more curves than colours."""
    if isinstance(source, Sequence):
        runs = [one if isinstance(one, StoredRun) else StoredRun(one) for one in source]
        curves = [(name, run_steps(run, quantity)) for name, run in zip(run_labels(runs), runs, strict=True)]
        resampled = [run.summary.get("replication_kind") == "resampled" for run in runs]
    else:
        curves = [
            (name, level_steps(np.array([one[quantity].to_numpy(float) for _, one in part.groupby("replication")])))
            for name, part in lines_of(source, "")
        ]
        kinds = source.attrs.get(REPLICATES, {})
        resampled = [int(part["configuration"].iloc[0]) in kinds for _, part in lines_of(source, "")]
    if len(curves) > MAX_CURVES:
        raise ValueError(f"there are {len(curves)} curves, at most {MAX_CURVES} can be told apart; select some")
    names = labels if labels is not None else [name for name, _ in curves]
    return [
        Curve(name, distribution_of(found, resampled=of_file))
        for name, (_, found), of_file in zip(names, curves, resampled, strict=False)
    ]


def draw_body(
    axes: Axes,
    curves: Sequence[Curve],
    *,
    quantity: str = "latency_s",
    colours: Sequence[Any] = COLOURS,
    seconds: bool = False,
) -> None:
    """The share within a time, without its key. ``seconds``: see ``draw_u_shape``."""
    _time_axis(axes, curves, quantity, seconds=seconds)
    _draw_shares(axes, curves, colours, lambda shares: 100 * shares)
    axes.set_ylim(0, 102)
    axes.set_ylabel("delivered requests within it (%)")


def draw_tail(
    axes: Axes,
    curves: Sequence[Curve],
    *,
    quantity: str = "latency_s",
    colours: Sequence[Any] = COLOURS,
    seconds: bool = False,
) -> None:
    """The share beyond a time, without its key. ``seconds``: see ``draw_u_shape``."""
    _time_axis(axes, curves, quantity, seconds=seconds)
    _draw_shares(axes, curves, colours, _beyond)
    axes.set_yscale("log")
    axes.set_ylim(0.08, 110)
    axes.set_yticks([100, 50, 10, 5, 1, 0.5, 0.1], ["100", "50", "10", "5", "1", "0.5", "0.1"])
    axes.minorticks_off()
    axes.set_ylabel("delivered requests beyond it (%)")


def _draw_shares(
    axes: Axes, curves: Sequence[Curve], colours: Sequence[Any], height: Callable[[Samples], Samples]
) -> None:
    """A line for each curve and its band. ``height``: where a share within a time is drawn, in percent."""
    for (name, one), colour in zip(curves, colours, strict=False):
        if one is None:
            continue
        times, shares = [one.times_s[0], *one.times_s], np.array([0.0, *one.shares])
        axes.step(times, height(shares), where="post", color=colour, label=name or None)
        if one.low is not None and one.high is not None:
            axes.fill_between(
                one.times_s, height(one.low), height(one.high), step="post", color=colour, alpha=0.15, linewidth=0
            )


def _beyond(shares: Samples) -> Samples:
    """What is beyond, in percent; where nothing is, it lies below the axis, which is logarithmic."""
    return np.maximum(100 * (1 - shares), 1e-6)


TIMES = {
    "latency_s": "latency, arrival to delivered",
    "ttft_s": "first token, arrival to the end of the prefill",
    "transfer_s": "transfer, embedding ready to delivered",
}


def _time_axis(axes: Axes, curves: Sequence[Curve], quantity: str, *, seconds: bool) -> None:
    """A logarithmic axis around all curves, up to the slowest request, and around what is drawn already."""
    middles = [one.distribution.times_s for one in curves if one.distribution is not None]
    largest = max((float(one[-1]) for one in middles), default=0.0)
    least = min((float(one[0]) for one in middles), default=0.0)
    own = (max(least, largest * 1e-4) * 0.9 if largest else 0.1, largest * 1.2 or 1.0)
    limits = around(*own, limits_of(axes, "x"))
    scale, unit = (1.0, "s") if seconds else unit_of(limits[1] / 1.2)
    axes.set_xscale("log")
    axes.set_xlim(limits)
    axes.set_xlabel(f"{TIMES.get(quantity, quantity)} ({unit})")
    plain_log_axis(axes.xaxis, scale=scale)
