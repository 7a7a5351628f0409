"""The figure of the demo: what was predicted, what was measured, and how far apart they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bufferlab.experiments.commands.demonstration.forecast import FIGURES, Outcome
from bufferlab.experiments.figures.style import COLOURS, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENCIES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
NEAR = 0.10


@styled
def forecast_figure(rows: Mapping[int, Mapping[str, Outcome]]) -> Figure:
    """Latencies on the left, predicted as lines and every measured run as a point; on the right the errors with the
    noise of the measurement."""
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    sizes = list(rows)
    places = range(len(sizes))
    figure, (left, right) = new_figure(1, 2, (10.0, 4.0))
    for (name, _), colour in zip(FIGURES.items(), COLOURS, strict=False):
        found = [rows[tokens][name] for tokens in sizes]
        left.plot(places, [1e3 * one.predicted_s for one in found], color=colour, label=f"{name}, predicted before")
        for place, one in zip(places, found, strict=True):
            left.plot(
                [place] * len(one.repeats_s), [1e3 * value for value in one.repeats_s], "o", color=colour,
                markersize=4.5, markerfacecolor="white", label=f"{name}, measured" if not place else None,
            )  # fmt: skip
    left.set_yscale("log")
    left.set_yticks(LATENCIES_MS)
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.yaxis.set_minor_formatter(NullFormatter())
    left.relim()
    left.autoscale_view()
    left.set_title("Latency, arrival to delivered (ms)")
    left.legend(loc="upper left")
    width = 0.8 / len(FIGURES)
    for number, ((name, _), colour) in enumerate(zip(FIGURES.items(), COLOURS, strict=False)):
        found = [rows[tokens][name] for tokens in sizes]
        at = [place + (number - (len(FIGURES) - 1) / 2) * width for place in places]
        noise = [100 * (one.noise or 0.0) for one in found]
        label = None if number else "noise of the measurement"
        right.bar(at, noise, width, color="#dddddd", zorder=1, label=label)
        right.bar(at, [-one for one in noise], width, color="#dddddd", zorder=1)
        right.plot(at, [100 * one.error for one in found], "o", color=colour, label=f"{name}, error")
    right.axhline(0.0, color="#666666", linewidth=0.8)
    for bound in (NEAR, -NEAR):
        right.axhline(100 * bound, color="#999999", linewidth=0.8, linestyle=":")
    most = max([100 * NEAR, *(100 * abs(one.error) for row in rows.values() for one in row.values())])
    right.set_ylim(-1.25 * most, 1.25 * most)
    right.set_title("Predicted less measured (% of measured)")
    right.legend(loc="upper left", ncols=2)
    for axes in (left, right):
        axes.set_xticks(list(places), [f"{size}" for size in sizes])
        axes.set_xlabel("default allocation (tokens)")
    return figure


def plot_forecast(rows: Mapping[int, Mapping[str, Outcome]], path: Path) -> Path:
    """Write the figure to ``path``."""
    return save(forecast_figure(rows), path)
