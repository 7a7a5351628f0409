"""Guess and resume against announce first, from light load to saturation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bufferlab.experiments.figures.style import COLOURS, new_figure, plain_log_axis
from tools.studies.common import (
    Outcome,
    Scale,
    Study,
    chosen,
    difference,
    draw_estimates,
    estimate,
    flat,
    longer,
    shown,
    swept,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WAYS = {
    "guess 1,024 and resume": ("window", 1024),
    "guess 8,192 and resume": ("window", 8192),
    "announce first": ("exact_announce", 1024),
}
ANNOUNCE = "announce first"
PANELS = {
    "latency_s.mean": ("latency, mean (ms)", 1e3),
    "latency_s.p99": ("latency, p99 (ms)", 1e3),
    "language_pool.mean_occupancy": ("language pool in use (%)", 100.0),
}
RATE = "workload.rate_rps"


def run(folder: Path, runs: Path, scale: Scale) -> Outcome:
    """Every way at every rate, and how much longer than announcing first it takes."""
    table = swept(folder, runs, scale)
    rates = sorted({float(rate) for rate in table[RATE]})
    rows = []
    for rate in rates:
        for way in WAYS:
            one, other = (_of(table, each, rate) for each in (way, ANNOUNCE))
            row: dict[str, object] = {"rate_rps": rate, "way": way}
            row |= flat("busy", estimate(one, "utilisation.prefill"))
            for figure in (*PANELS, "ttft_s.p99"):
                row |= flat(figure, estimate(one, figure))
            for figure in ("latency_s.mean", "latency_s.p99"):
                row |= flat(f"over_announce.{figure}", difference(other, one, figure))
            rows.append(row)
    return Outcome(
        rows,
        {
            "requests a second": lambda row: f"{row['rate_rps']:g}",
            "prefill busy, %": lambda row: shown(row, "busy", 100),
            "way": lambda row: str(row["way"]),
            "latency, mean, ms": lambda row: shown(row, "latency_s.mean", 1e3),
            "more than announcing, ms": lambda row: shown(row, "over_announce.latency_s.mean", 1e3),
            "latency, p99, ms": lambda row: shown(row, "latency_s.p99", 1e3),
            "more than announcing, p99, ms": lambda row: shown(row, "over_announce.latency_s.p99", 1e3),
            "TTFT, p99, ms": lambda row: shown(row, "ttft_s.p99", 1e3),
            "pool in use, %": lambda row: shown(row, "language_pool.mean_occupancy", 100),
        },
        _figure(table, rates),
        _answer(table, rates),
    )


def _of(table: pd.DataFrame, way: str, rate: float) -> pd.DataFrame:
    discipline, tokens = WAYS[way]
    rows = chosen(table, protocol__discipline=discipline, protocol__sizing__tokens=tokens)
    return chosen(rows, workload__rate_rps=rate)


def _answer(table: pd.DataFrame, rates: list[float]) -> str:
    def more(way: str, rate: float, figure: str = "latency_s.mean") -> str:
        return longer(difference(_of(table, ANNOUNCE, rate), _of(table, way, rate), figure))

    low, high = rates[0], rates[-1]
    small, large = (way for way in WAYS if way != ANNOUNCE)
    busy = [100 * (estimate(_of(table, ANNOUNCE, rate), "utilisation.prefill")["value"] or 0.0) for rate in (low, high)]
    return (
        f"Against announcing the length first, a request whose length is guessed takes, on average at {low:g} requests "
        f"a second (prefill busy {busy[0]:.0f} % of the time), {more(small, low)} with a guess of 1,024 tokens and "
        f"{more(large, low)} with one of 8,192; at {high:g} a second ({busy[1]:.0f} %) {more(small, high)} and "
        f"{more(large, high)}, and at p99 {more(small, high, 'latency_s.p99')} and "
        f"{more(large, high, 'latency_s.p99')}."
    )


def _figure(table: pd.DataFrame, rates: list[float]) -> Figure:
    figure, panels = new_figure(1, 3, (11.0, 3.6))
    for axes, (name, (title, scale)) in zip(panels, PANELS.items(), strict=True):
        for way, colour in zip(WAYS, COLOURS, strict=False):
            estimates = [estimate(_of(table, way, rate), name) for rate in rates]
            draw_estimates(axes, rates, estimates, label=way, colour=colour, scale=scale)
        axes.set_title(title)
        axes.set_xlabel("requests a second")
        if name.startswith("latency_s"):
            axes.set_yscale("log")
            plain_log_axis(axes.yaxis)
        else:
            axes.set_ylim(0, 100)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(WAYS))
    return figure


STUDY = Study("announce", "Guess and resume against announce first", run)
