"""Figures of run directories, simulated and measured ones side by side.

Colours tell runs apart and are safe for colour-blind readers; simulated runs are drawn with lines, measured ones with
dashes and open markers, so the two kinds differ in print as well. Every function returns a matplotlib Figure, which a
notebook shows and ``style.save`` writes. Intervals are 95 %, across replications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bufferlab.experiments.figures.holdings import Changes, changes_of_holdings
from bufferlab.experiments.figures.style import (
    COLOURS,
    KIND_LINES,
    KIND_NAMES,
    Margins,
    Samples,
    around,
    limits_of,
    new_figure,
    save,
    shown_ranks,
    styled,
    time_axis,
)
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.tables import read_numbers
from bufferlab.protocol.topology import Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 300
"""Stretches of time over which the occupancy of several replications, or of a long run, is averaged."""
MOST_STEPS = 2 * BINS
"""Changes that can be told apart in a picture; with more the line would be a solid mass."""
MARGINS = Margins(left=0.55, right=0.2, bottom=0.47, top=0.3, between=0.25)
"""For panels whose labels are as large in every run: shares on the left, times below, a line above."""


def plot_run(folder: Path) -> list[Path]:
    """The figures every run directory has in plots/; that of the pools only where events are kept."""
    return [save(figure, folder / "plots" / f"{name}.png") for name, figure in run_pictures(StoredRun(folder))]


def run_pictures(run: StoredRun) -> Iterator[tuple[str, Figure]]:
    """The name and figure of each picture of a run."""
    if run.summary["requests"]["succeeded"]:
        yield "latency", latency_ecdf([run], labels=[""])
    if run.keeps_events:
        yield "pools", plot_pool_occupancy(run)


@styled
def latency_ecdf(runs: Sequence[StoredRun], labels: Sequence[str] | None = None) -> Figure:
    """Share of delivered requests within a time: arrival to delivered, and embedding ready to delivered."""
    names = labels if labels is not None else run_labels(runs)
    figure, panels = new_figure(1, 2, (8.2, 3.5), MARGINS, sharey=True)
    titles = ("Latency: arrival to delivered", "Transfer: embedding ready to delivered")
    for axes, since, title in zip(panels, ("arrival_s", "encoded_s"), titles, strict=True):
        largest = 0.0
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            table = read_numbers(run.requests_path, ["delivered_s", since])
            taken_s = table["delivered_s"] - table[since]
            times = np.sort(taken_s[~np.isnan(taken_s)])
            if not len(times):
                continue
            largest = max(largest, float(times[-1]))
            ranks = shown_ranks(len(times))
            colour = COLOURS[number % len(COLOURS)]
            axes.step(
                [times[0], *times[ranks - 1]],
                [0.0, *(ranks / len(times))],
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


@styled
def plot_pool_occupancy(run: StoredRun | Path | str, *, replication: int | None = 0) -> Figure:
    """Blocks held over time on either side, all ranks together, in percent of the pool.

    ``replication`` None draws all of them: the mean, and a band from the lowest to the highest.
    """
    stored = run if isinstance(run, StoredRun) else StoredRun(run)
    figure, panels = new_figure(2, 1, (6.8, 4.6), MARGINS._replace(between=0.42), sharex=True)
    changes = changes_of_holdings(stored, replication)
    for axes, side in zip(panels, SIDES, strict=True):
        draw_pool(axes, stored, side, replication=replication, changes=changes)
    panels[0].set_xlabel("")  # the lower panel has it
    return figure


SIDES = (Side.LANGUAGE, Side.ENCODE)


def draw_pool(
    axes: Axes,
    run: StoredRun,
    side: Side,
    *,
    replication: int | None = 0,
    changes: Mapping[tuple[int, Side], Changes] | None = None,
    colour: Any = None,
    label: str = "",
) -> None:
    """The panel of one side of ``plot_pool_occupancy``. ``changes``: of the holdings, where they are known already.

    ``label``: what a key calls it, if it is not to say what line and band are.
    """
    config = run.config
    known = changes_of_holdings(run, replication) if changes is None else changes
    section, own = (config.language, COLOURS[0]) if side is Side.LANGUAGE else (config.encode, COLOURS[2])
    colour = own if colour is None else colour
    before = limits_of(axes, "x")
    end_s = max((float(one.times_s.max()) for one in known.values()), default=0.0)
    total = config.blocks(section) * section.tp * section.instances
    steps = [
        (one.times_s, 100 * one.blocks.cumsum(dtype=np.float64) / total)
        for (_, where), one in known.items()
        if where is side
    ]
    alone = replication is not None
    if not steps or (alone and len(steps[0][0]) <= MOST_STEPS):
        times, share = steps[0] if steps else (np.zeros(1), np.zeros(1))
        axes.step(times, share, where="post", color=colour, linewidth=1.0, label=label or None)
        axes.fill_between(times, share, step="post", color=colour, alpha=0.15, linewidth=0)
    else:
        edges = np.linspace(0.0, end_s, BINS + 1)
        means = np.array([_time_means(times, share, edges) for times, share in steps])
        middles = (edges[:-1] + edges[1:]) / 2
        low, high = _extremes(*steps[0], edges) if alone else (means.min(axis=0), means.max(axis=0))
        stretch = f"{edges[1]:.2g} s"
        line, band = (
            (f"mean of each {stretch}", "lowest to highest in it")
            if alone
            else ("mean of the replications", f"lowest to highest of {len(steps)}")
        )
        axes.plot(middles, means.mean(axis=0), color=colour, linewidth=1.2, label=label or line)
        axes.fill_between(
            middles, low, high, color=colour, alpha=0.2, linewidth=0, label=None if label or before else band
        )
    explained = len(axes.get_legend_handles_labels()[1]) > 0
    if explained:
        # What line and band are stands above the panel, where no curve can run; names of several have room in it.
        axes.legend(**({} if label or before else {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 2}))
    title = f"{side.value.capitalize()} pool: {total} blocks"
    if before is not None and title not in (axes.get_title("left"), axes.get_title()):
        title = f"{side.value.capitalize()} pools"
    axes.set_ylim(0, 105)
    axes.set_xlim(around(0.0, end_s or 1.0, before))
    axes.set_ylabel("blocks held (%)")
    axes.set_xlabel("time (s)")
    for place in ("left", "center"):
        axes.set_title("", loc=place)
    axes.set_title(title, loc="left" if explained and not label else "center")


def _extremes(times: Samples, values: Samples, edges: Samples) -> tuple[Samples, Samples]:
    """The lowest and the highest in each stretch between two edges of what is 0 at first and ``values[i]`` from
    ``times[i]`` on."""
    place = np.searchsorted(times, edges[:-1], side="right") - 1
    at_first = np.where(place >= 0, values[place], 0.0)
    order = np.argsort(np.concatenate((edges[:-1], times)), kind="stable")  # an edge before what happens at it
    every = np.concatenate((at_first, values))[order]
    begins = np.flatnonzero(order < len(edges) - 1)
    return np.minimum.reduceat(every, begins), np.maximum.reduceat(every, begins)


def _time_means(times: Samples, values: Samples, edges: Samples) -> Samples:
    """Mean over each stretch between two edges of what is 0 at first and ``values[i]`` from ``times[i]`` on."""
    area = np.concatenate(([0.0], np.cumsum(values[:-1] * np.diff(times))))
    place = np.searchsorted(times, edges, side="right") - 1
    reached = np.where(place >= 0, area[place] + values[place] * (edges - times[place]), 0.0)
    means: Samples = np.diff(reached) / np.diff(edges)
    return means


def run_labels(runs: Sequence[StoredRun]) -> list[str]:
    """What a key calls runs: their names, and whether they were simulated or measured."""
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
