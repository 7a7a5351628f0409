"""The figures of a validation: Q–Q, Bland–Altman, errors beside the noise floor, predicted against measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing import COLOURS, MAX_POINTS, new_figure, plain_log_axis, save, styled
from experiments.intervals import Samples
from experiments.validation.agreement import quantile_pairs
from experiments.validation.bars import MISS
from experiments.validation.cells import CellScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 12
"""Cells of one figure; further ones are on further figures."""
COLUMNS = 3
TITLE_LETTERS = 44
QUANTILES = ("p50", "p90", "p99")
BARRED = ("p50", "p99", "throughput")


def draw_all(cells: Sequence[CellScore], folder: Path) -> list[Path]:
    """Write every figure into ``folder``."""
    made = []
    for name, draw in (("qq", quantile_figure), ("bland-altman", difference_figure)):
        pages = list(_pages(cells))
        for number, page in enumerate(pages, 1):
            suffix = f"-{number}" if len(pages) > 1 else ""
            made.append(save(draw(page), folder / f"{name}{suffix}.png"))
    made.append(save(error_figure(cells), folder / "errors.png"))
    made.append(save(predicted_figure(cells), folder / "quantiles.png"))
    return made


def quantile_figure(cells: Sequence[CellScore]) -> Figure:
    """Q–Q: the predicted quantiles of every cell against the measured ones; a right prediction lies on the diagonal."""

    def draw(axes: Axes, cell: CellScore) -> None:
        points = [1e3 * side for side in quantile_pairs(*latencies(cell))]
        _diagonal(axes, points)
        axes.plot(*points, ".", color=COLOURS[0], markersize=3)
        axes.set_xlabel("measured (ms)")
        axes.set_ylabel("predicted (ms)")

    return _grid(cells, draw)


def difference_figure(cells: Sequence[CellScore]) -> Figure:
    """Bland–Altman: what each prediction is off by, against the mean of both, with the limits of agreement."""

    def draw(axes: Axes, cell: CellScore) -> None:
        measured, predicted = latencies(cell)
        step = -(-len(measured) // MAX_POINTS)
        middle, difference = 1e3 * (measured + predicted) / 2, 1e3 * (predicted - measured)
        axes.plot(middle[::step], difference[::step], ".", color=COLOURS[0], markersize=2, alpha=0.6)
        found = cell.scores.agreement
        for value_s, style in ((found.bias_s, "-"), (found.low_s, "--"), (found.high_s, "--")):
            axes.axhline(1e3 * value_s, color=COLOURS[1], linestyle=style, linewidth=1)
        axes.axhline(0, color="#999999", linewidth=0.7)
        axes.set_xlabel("mean of both (ms)")
        axes.set_ylabel("predicted − measured (ms)")

    return _grid(cells, draw)


@styled
def error_figure(cells: Sequence[CellScore]) -> Figure:
    """The errors that have bars, cell by cell, with their intervals, the noise floor and what is allowed."""
    figure, panels = new_figure(1, len(BARRED), (11.0, 1.6 + 0.32 * len(cells)), sharey=True)
    places = np.arange(len(cells))
    for axes, name in zip(panels, BARRED, strict=True):
        for place, cell in zip(places, cells, strict=True):
            one = next(figure for figure in cell.scores.figures if figure.name == name)
            if one.noise is not None:
                axes.barh(place, 100 * one.noise.mean, height=0.7, color="#cccccc")
            if one.allowed is not None:
                axes.plot([100 * one.allowed] * 2, [place - 0.38, place + 0.38], color="#444444", linewidth=1.2)
            colour = COLOURS[0] if one.verdict is None else COLOURS[1] if one.verdict == MISS else COLOURS[2]
            low, high = one.error["low"], one.error["high"]
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.2)
            value = one.error["value"]
            if value is not None and math.isfinite(value):
                axes.plot(100 * value, place, "o", color=colour, markersize=5)
        axes.set_title(name)
        axes.set_xlabel("error (%); grey: noise floor, line: allowed")
        axes.set_xlim(left=0)
    panels[0].set_yticks(places, [_title(cell.name) for cell in cells])
    panels[0].invert_yaxis()
    return figure


@styled
def predicted_figure(cells: Sequence[CellScore]) -> Figure:
    """Predicted against measured quantiles of all cells, and the diagonal."""
    figure, (axes,) = new_figure(1, 1, (5.0, 4.6))
    every: list[Samples] = []
    for name, colour in zip(QUANTILES, COLOURS, strict=False):
        scores = [next(one for one in cell.scores.figures if one.name == name) for cell in cells]
        measured, predicted = (
            1e3 * np.array([getattr(one, side) for one in scores]) for side in ("measured", "predicted")
        )
        axes.plot(measured, predicted, "o", color=colour, label=name, markersize=5)
        every += [measured, predicted]
    _diagonal(axes, every)
    axes.set_xlabel("measured latency (ms)")
    axes.set_ylabel("predicted latency (ms)")
    axes.legend()
    return figure


def latencies(cell: CellScore) -> tuple[Samples, Samples]:
    """Measured and predicted latencies of all repeats, request by request, seconds."""
    pairs = [one.latencies_s for one in cell.repeats]
    return np.concatenate([own for own, _ in pairs]), np.concatenate([other for _, other in pairs])


@styled
def _grid(cells: Sequence[CellScore], draw: Callable[[Axes, CellScore], None]) -> Figure:
    columns = min(len(cells), COLUMNS)
    rows = -(-len(cells) // columns)
    figure, panels = new_figure(rows, columns, (4.0 * columns, 3.4 * rows))
    for axes, cell in zip(panels, cells, strict=False):
        draw(axes, cell)
        axes.set_title(_title(cell.name), fontsize="small")
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    return figure


def _diagonal(axes: Axes, points: Sequence[Samples]) -> None:
    """The line of equality over all points, and logarithmic axes where they span much."""
    low, high = (float(bound([bound(one) for one in points])) for bound in (np.min, np.max))
    axes.plot([low, high], [low, high], color="#999999", linewidth=0.8, zorder=0)
    if low > 0 and high > 5 * low:
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_log_axis(axes.xaxis)
        plain_log_axis(axes.yaxis)


def _pages(cells: Sequence[CellScore]) -> Iterator[Sequence[CellScore]]:
    for start in range(0, len(cells), PANELS):
        yield cells[start : start + PANELS]


def _title(name: str) -> str:
    return name if len(name) <= TITLE_LETTERS else f"…{name[1 - TITLE_LETTERS :]}"
