"""Figures of run directories, simulated and measured ones side by side.

Colours tell runs apart and are safe for colour-blind readers; simulated runs are drawn with lines, measured ones with
dashes and open markers, so the two kinds differ in print as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.rundir import StoredRun
from protocol.recording import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without its yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DOTS_PER_INCH = 150
MAX_POINTS = 2000
KIND_NAMES = {"sim": "simulated", "real": "measured"}
KIND_LINES = {"sim": "-", "real": "--"}

STYLE: Any = {
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "lines.linewidth": 1.6,
    "font.size": 9.5,
}

Samples = NDArray[np.float64]


def plot_run(folder: Path) -> list[Path]:
    """The figures every run directory has in plots/."""
    run = StoredRun(folder)
    made = []
    if run.summary["requests"]["succeeded"]:
        made.append(save(latency_ecdf([run], labels=[""]), folder / "plots" / "latency.png"))
    made.append(save(pool_occupancy(run), folder / "plots" / "pools.png"))
    return made


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return path


def latency_ecdf(runs: Sequence[StoredRun], labels: Sequence[str] | None = None) -> Figure:
    """Share of delivered requests within a time: arrival to delivered, and embedding ready to delivered."""
    names = labels if labels is not None else _labels(runs)
    figure, panels = _figure(1, 2, (8.2, 3.5), sharey=True)
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
        _time_axis(axes, largest)
        axes.set_title(title)
        axes.set_ylim(0, 1.02)
        axes.axhline(0.5, color="#999999", linewidth=0.7, linestyle=":")
        axes.axhline(0.99, color="#999999", linewidth=0.7, linestyle=":")
    panels[0].set_ylabel("share of delivered requests")
    if any(names):
        panels[1].legend(loc="lower right")
    return figure


def sizing_curve(runs: Sequence[StoredRun]) -> Figure:
    """What the default buffer size costs: latency, resumes and waste against it, with 95 % intervals.

    Too small a default resumes often, too large a one fills the pool with blocks nobody needs: a U.
    """
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, panels = _figure(1, 3, (12.0, 3.9))
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


def pool_occupancy(run: StoredRun) -> Figure:
    """Blocks held over time on either side, all ranks together, in the run's first replication."""
    import pyarrow.parquet as pq

    config = run.config
    holds = [Event.ALLOCATED.value, Event.ENCODE_STARTED.value, Event.RELEASED.value]
    table = pq.read_table(
        run.path / "events.parquet",
        columns=["time_s", "side", "instance", "rank", "room", "event", "tokens"],
        filters=[("replication", "==", 0), ("event", "in", holds)],
    ).to_pandas()
    figure, panels = _figure(2, 1, (6.8, 4.6), sharex=True)
    ends = []
    for axes, side, section, colour in (
        (panels[0], "language", config.language, COLOURS[0]),
        (panels[1], "encode", config.encode, COLOURS[2]),
    ):
        part = table[table["side"] == side]
        released = part["event"] == Event.RELEASED.value
        # An allocation tells its tokens, a release means none; the change against the room's last value counts.
        blocks = (-(-part["tokens"] // config.protocol.block_tokens)).where(~released, 0)
        before = blocks.groupby([part["instance"], part["rank"], part["room"]]).shift(fill_value=0)
        held = (blocks - before).cumsum().to_numpy(dtype=float)
        total = config.blocks(section) * section.tp * section.instances
        times, share = _thinned(part["time_s"].to_numpy(dtype=float), 100 * held / total)
        axes.step(times, share, where="post", color=colour, linewidth=1.0)
        axes.fill_between(times, share, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(0, 105)
        axes.set_ylabel("blocks held (%)")
        axes.set_title(f"{side.capitalize()} pool: {total} blocks")
        ends.append(times[-1] if len(times) else 0.0)
    panels[1].set_xlim(0, max(ends) or 1.0)
    panels[1].set_xlabel("time (s)")
    return figure


def _figure(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, list[Axes]]:
    # Not pyplot: it keeps figures alive and chooses a backend for the whole process.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, list(panels.flat)


def _labels(runs: Sequence[StoredRun]) -> list[str]:
    return [f"{run.config.run.name}, {KIND_NAMES[run.kind]}" for run in runs]


def _time_axis(axes: Axes, largest_s: float) -> None:
    """Milliseconds below two seconds, seconds above; from 0, so that lengths compare."""
    from matplotlib.ticker import FuncFormatter

    in_milliseconds = largest_s < 2
    scale = 1e3 if in_milliseconds else 1.0
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * scale:g}"))
    axes.set_xlabel("time (ms)" if in_milliseconds else "time (s)")
    axes.set_xlim(0, largest_s * 1.03 or 1.0)


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


def _thinned(times: Samples, values: Samples) -> tuple[Samples, Samples]:
    """At most MAX_POINTS points; the highest of every stretch, so that no peak is lost."""
    if len(times) <= MAX_POINTS:
        return times, values
    edges = np.linspace(0, len(times), MAX_POINTS + 1).astype(int)[:-1]
    return times[edges], np.maximum.reduceat(values, edges)
