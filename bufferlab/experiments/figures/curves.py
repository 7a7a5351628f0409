"""What the figures of a sweep are drawn of: which curves there are, the points of each, and their axes and key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.figures.style import (
    COLOURS,
    Samples,
)
from bufferlab.experiments.stats.intervals import Estimate, across_replications
from bufferlab.experiments.stats.replicates import INDEPENDENT, Replicates, replicates_from
from bufferlab.experiments.stats.selection import possibly_lowest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEFAULT_TOKENS = "protocol.sizing.tokens"
MAX_CURVES = len(COLOURS)


def swept_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a sweep's table that are configuration fields."""
    figures = {"slo.ttft", "slo.latency", "slo.all"}  # not its limits, which are settings
    return [name for name in table.columns if name.partition(".")[0] in Config.model_fields and name not in figures]


def lines_of(table: pd.DataFrame, x: str, lines: Sequence[str] | None = None) -> list[tuple[str, pd.DataFrame]]:
    """(label, rows) of every curve, in the order of the configurations.

    Curves are told apart by as few of the swept fields as do it: a rate that goes with a workload adds nothing.
    """
    fields = [name for name in swept_columns(table) if name != x and table[name].nunique(dropna=False) > 1]
    telling = list(lines) if lines is not None else _telling(table, fields)
    if not telling:
        return [("", table)]
    groups = list(table.groupby(telling, sort=False, dropna=False))
    names = [_label(telling, values) for values, _ in groups]
    if len(set(names)) < len(names):  # files of one name in several folders
        names = [_label(telling, values, whole=True) for values, _ in groups]
    return [(name, rows) for name, (_, rows) in zip(names, groups, strict=True)]


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


def _label(fields: Sequence[str], values: Iterable[Any], *, whole: bool = False) -> str:
    parts = []
    for field, value in zip(fields, values, strict=True):
        name = field.rpartition(".")[2]
        if isinstance(value, str):
            parts.append(value if whole else without_folder(value))
        else:
            parts.append(f"no {name}" if value != value else f"{name} {value:g}")
    return ", ".join(parts)


def without_folder(value: str) -> str:
    """A setting as a key has room for it: of a class in a file, ``/home/me/mine.py:Mine``, without the folders."""
    file, colon, name = value.rpartition(":")
    return f"{PurePath(file).name}:{name}" if colon and file.endswith(".py") and name.isidentifier() else value


def is_numeric(table: pd.DataFrame, name: str) -> bool:
    """Whether a column has a number in every row."""
    return name in table.columns and table[name].dtype.kind in "if" and not table[name].isna().any()


REPLICATES = "replicates"
"""Under this name the table of a sweep says, in its ``attrs``, what the replications of each configuration are to one
another; it says nothing of those that are independent."""


@dataclass(frozen=True)
class Point:
    """One size of one curve: its replications, and whether every request was delivered."""

    x: float
    samples: Samples
    whole: bool
    replicates: Replicates = INDEPENDENT
    spells: float | None = None
    positive: bool = False

    @cached_property
    def estimate(self) -> Estimate:
        """The mean over the replications; of a file that is resampled its own value."""
        values = [None if math.isnan(one) else one for one in self.samples.tolist()]
        if not self.replicates.resampled:
            return across_replications(values)
        return self.replicates.estimate(values, self.spells, positive=self.positive)


def curve_of(part: pd.DataFrame, x: str, name: str) -> list[Point]:
    """The points of a curve from left to right; those with nothing to measure are left out."""
    points = []
    kinds = part.attrs.get(REPLICATES, {})
    for value, rows in part.groupby(x):
        whole = bool((rows["requests.succeeded"] == rows["requests.offered"]).all())
        samples = rows.sort_values("replication")[name].to_numpy(dtype=float)
        told = kinds.get(int(rows["configuration"].iloc[0])) if kinds else None
        spells = (told or {}).get("spells", {}).get(name)
        is_time = name.partition(".")[0].endswith("_s")
        points.append(Point(float(str(value)), samples, whole, replicates_from(told), spells, is_time))
    return [point for point in points if point.estimate["value"] is not None]


def _lowest(curve: Sequence[Point]) -> Point | None:
    """The point with the lowest mean among those at which every request was delivered."""
    return min(
        (point for point in curve if point.whole), key=lambda point: point.estimate["value"] or 0.0, default=None
    )


def draw_curve(axes: Axes, curve: list[Point], colour: str, *, relative: bool, label: str = "") -> list[Point]:
    """Line, band and marks of one curve; returns what was drawn."""
    lowest = _lowest(curve)
    if lowest is None and (relative or not curve):
        return []
    whole = [point for point in curve if point.whole]
    values_of = [point.samples.tolist() for point in whole]
    kept = {whole[index].x for index in possibly_lowest(values_of, whole[0].replicates)} if whole else set()
    if relative and lowest is not None:
        # Replication by replication, so that what chance does to all sizes drops out.
        curve = [replace(point, samples=100 * (point.samples / lowest.samples - 1), positive=False) for point in curve]
    xs = [point.x for point in curve]
    values, low, high = (np.array([bounds(point.estimate)[side] for point in curve]) for side in range(3))
    axes.plot(xs, values, color=colour, label=label or None)
    # A logarithmic axis has no zero, and a t interval may reach below it.
    low = low if relative else np.maximum(low, values.min() / 1e3)
    axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    for point, value in zip(curve, values, strict=True):
        is_lowest = lowest is not None and point.x == lowest.x
        sign, size = ("X", 6.5) if not point.whole else ("*", 12.0) if is_lowest else ("o", 5.0)
        face = colour if point.x in kept or not point.whole else "white"
        axes.plot([point.x], [value], marker=sign, markersize=size, color=colour, markerfacecolor=face, zorder=3)
    return curve


def linear_limits(axes: Axes, points: Sequence[Point]) -> None:
    """Limits around all values and what of their intervals fits."""
    known = [bounds(point.estimate) for point in points]
    if known:
        top = max(value for value, _, _ in known)
        room = 0.06 * top + 1  # for the marks
        bottom = min(low for _, low, _ in known)
        axes.set_ylim(max(bottom, -0.4 * top) - room, min(max(high for _, _, high in known), 1.8 * top) + room)


def log_limits(axes: Axes, points: Sequence[Point]) -> None:
    """Limits that show all values and what of their intervals fits: one that reaches zero has no end there."""
    known = [bounds(point.estimate) for point in points]
    if known:
        bottom = min(max(low, value / 2) for value, low, _ in known)
        top = max(min(high, 4 * value) for value, _, high in known)
        axes.set_ylim(0.9 * bottom, 1.15 * top)


def key(figure: Figure, curves: Sequence[tuple[str, str]], *, repeated: bool, failures: bool) -> None:
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


def bounds(estimate: Estimate) -> tuple[float, float, float]:
    """Value, low and high; the bounds are the value where there is no interval."""
    value = estimate["value"] or 0.0
    low, high = estimate["low"], estimate["high"]
    return value, value if low is None else low, value if high is None else high


def percent(estimate: Estimate) -> tuple[float, float, float]:
    """The same in percent, none below 0."""
    value, low, high = bounds(estimate)
    return 100 * value, 100 * max(low, 0.0), 100 * high


def arms(estimates: Sequence[tuple[float, float, float]]) -> Any:
    """How far bars reach below and above their values, as matplotlib wants it."""
    return np.array([[value - low, high - value] for value, low, high in estimates]).reshape(-1, 2).T
