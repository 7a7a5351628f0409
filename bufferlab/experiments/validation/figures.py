"""The figures of a validation: Q–Q, Bland–Altman, errors beside the noise floor, predicted against measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bufferlab.experiments.figures.style import COLOURS, MAX_POINTS, limits_of, new_figure, plain_log_axis, save, styled
from bufferlab.experiments.stats.intervals import Samples
from bufferlab.experiments.validation.agreement import quantile_pairs
from bufferlab.experiments.validation.cases import CaseScore
from bufferlab.experiments.validation.tolerances import AT_TOLERANCE, NO_INTERVAL, OF_ONE_RUN, OFF, UNTOLD, WITHIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bufferlab.experiments.validation.rescoring import Judged, Rows

PANELS = 12
"""Cases of one figure; further ones are on further figures."""
COLUMNS = 3
TITLE_LETTERS = 44
QUANTILES = ("p50", "p90", "p99")
BARRED = ("p50", "p99", "throughput")


def draw_all(cases: Sequence[CaseScore], folder: Path) -> list[Path]:
    """Write every figure into ``folder``."""
    made = []
    for name, draw in (("qq", quantile_figure), ("bland-altman", difference_figure)):
        pages = list(_pages(cases))
        for number, page in enumerate(pages, 1):
            suffix = f"-{number}" if len(pages) > 1 else ""
            made.append(save(draw(page), folder / f"{name}{suffix}.png"))
    made.append(save(error_figure(cases), folder / "errors.png"))
    made.append(save(predicted_figure(cases), folder / "quantiles.png"))
    return made


def quantile_figure(cases: Sequence[CaseScore]) -> Figure:
    """Q–Q: the predicted quantiles of every case against the measured ones; a right prediction lies on the diagonal."""

    def draw(axes: Axes, case: CaseScore) -> None:
        draw_quantiles(axes, *quantile_pairs(*latencies(case)))

    return _grid(cases, draw)


def draw_quantiles(
    axes: Axes, measured_s: Samples, predicted_s: Samples, *, colour: Any = COLOURS[0], label: str = ""
) -> None:
    """The panel of one case of ``quantile_figure``."""
    points = [1e3 * side for side in (measured_s, predicted_s)]
    limits = limits_of(axes, "x")
    _diagonal(axes, points if limits is None else [*points, np.array([edge for edge in limits if edge > 0])])
    axes.plot(*points, ".", color=colour, markersize=3, label=label or None)
    axes.set_xlabel("measured (ms)")
    axes.set_ylabel("predicted (ms)")


def difference_figure(cases: Sequence[CaseScore]) -> Figure:
    """Bland–Altman: what each prediction is off by, against the mean of both, with the limits of agreement."""

    def draw(axes: Axes, case: CaseScore) -> None:
        measured, predicted = latencies(case)
        step = -(-len(measured) // MAX_POINTS)
        middle, difference = 1e3 * (measured + predicted) / 2, 1e3 * (predicted - measured)
        axes.plot(middle[::step], difference[::step], ".", color=COLOURS[0], markersize=2, alpha=0.6)
        found = case.scores.agreement
        for value_s, style in ((found.bias_s, "-"), (found.low_s, "--"), (found.high_s, "--")):
            axes.axhline(1e3 * value_s, color=COLOURS[1], linestyle=style, linewidth=1)
        axes.axhline(0, color="#999999", linewidth=0.7)
        axes.set_xlabel("mean of both (ms)")
        axes.set_ylabel("predicted − measured (ms)")

    return _grid(cases, draw)


def error_figure(cases: Sequence[CaseScore]) -> Figure:
    """The biases that have tolerances, case by case, with intervals, tolerance, and the noise of one repeat in grey."""
    from bufferlab.experiments.validation.rescoring import rows_of

    return bias_figure({_title(name): row for name, row in rows_of(cases).items()})


@styled
def bias_figure(rows: Rows) -> Figure:
    """``error_figure`` of figures that have been judged, by case."""
    figure, panels = new_figure(1, len(BARRED), (11.0, 2.0 + 0.32 * len(rows)), sharey=True)
    for axes, name in zip(panels, BARRED, strict=True):
        draw_biases(axes, rows, name)
    panels[0].set_yticks(np.arange(len(rows)), list(rows))
    panels[0].invert_yaxis()
    key_of_verdicts(figure, [row[name] for row in rows.values() for name in BARRED])
    return figure


def draw_biases(axes: Axes, rows: Rows, name: str) -> None:
    """The panel of one figure of ``bias_figure``, without the names of its cases."""
    for place, row in enumerate(rows.values()):
        draw_bias(axes, place, row[name])
    axes.set_title(name)
    axes.axvline(0.0, color="#999999", linewidth=0.7)
    axes.set_xlabel("predicted / measured − 1 (%)")


VERDICT_COLOURS = {
    WITHIN: COLOURS[2], UNTOLD: COLOURS[0], AT_TOLERANCE: COLOURS[5], OFF: COLOURS[1], NO_INTERVAL: COLOURS[3],
}  # fmt: skip
VERDICT_COLOURS |= {of_one: VERDICT_COLOURS[name] for name, of_one in OF_ONE_RUN.items()}
TICKS = "#444444"
"""Of the tolerance, and of biases without one."""


def draw_bias(axes: Axes, place: int, one: Judged) -> None:
    """One bias with its interval, in the colour of its verdict; ticks at the tolerance, one repeat's noise in grey."""
    bias, tolerance, noise, verdict = one.bias, one.tolerance, one.noise, one.verdict
    if noise is not None:
        axes.barh(place, 200 * noise, left=-100 * noise, height=0.7, color="#dddddd")
    if tolerance is not None:
        for edge in (-100 * tolerance, 100 * tolerance):
            axes.plot([edge] * 2, [place - 0.38, place + 0.38], color=TICKS, linewidth=1.2)
    colour = VERDICT_COLOURS.get(verdict or "", TICKS)
    low, high, value = bias["low"], bias["high"], bias["value"]
    if low is not None and high is not None:
        axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.4)
    if value is not None and math.isfinite(value):
        axes.plot(100 * value, place, "o", color=colour, markersize=4.5)


def key_of_verdicts(figure: Figure, drawn: Sequence[Judged]) -> None:
    """What the colours, the ticks and the grey of these mean, below the figure; of what is not there nothing."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    verdicts = {one.verdict for one in drawn}
    handles: list[Any] = [Line2D([], [], marker="o", color=one, label=name) for name, one in VERDICT_COLOURS.items()
                          if name in verdicts]  # fmt: skip
    if any(one.tolerance is not None for one in drawn):
        handles.append(Line2D([], [], color=TICKS, label="the tolerance"))
    if any(one.noise is not None for one in drawn):
        handles.append(Patch(color="#dddddd", label="noise of one repeat"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


@styled
def predicted_figure(cases: Sequence[CaseScore]) -> Figure:
    """Predicted against measured quantiles of all cases, and the diagonal."""
    figure, (axes,) = new_figure(1, 1, (5.0, 4.6))
    every: list[Samples] = []
    for name, colour in zip(QUANTILES, COLOURS, strict=False):
        scores = [next(one for one in case.scores.figures if one.name == name) for case in cases]
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


def latencies(case: CaseScore) -> tuple[Samples, Samples]:
    """Measured and predicted latencies of all repeats, request by request, seconds."""
    pairs = [one.latencies_s for one in case.repeats]
    return np.concatenate([own for own, _ in pairs]), np.concatenate([other for _, other in pairs])


@styled
def _grid(cases: Sequence[CaseScore], draw: Callable[[Axes, CaseScore], None]) -> Figure:
    columns = min(len(cases), COLUMNS)
    rows = -(-len(cases) // columns)
    figure, panels = new_figure(rows, columns, (4.0 * columns, 3.4 * rows))
    for axes, case in zip(panels, cases, strict=False):
        draw(axes, case)
        axes.set_title(_title(case.name), fontsize="small")
    for axes in panels[len(cases) :]:
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


def _pages(cases: Sequence[CaseScore]) -> Iterator[Sequence[CaseScore]]:
    for start in range(0, len(cases), PANELS):
        yield cases[start : start + PANELS]


def _title(name: str) -> str:
    return name if len(name) <= TITLE_LETTERS else f"…{name[1 - TITLE_LETTERS :]}"
