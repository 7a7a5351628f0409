"""The best default allocation for each preset at three memory budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bufferlab.experiments.figures.style import COLOURS, new_figure, plain_log_axis
from bufferlab.experiments.sweeps.grid import read_configurations
from bufferlab.experiments.units import parse_size
from bufferlab.experiments.workloads.loading import load
from tools.studies.common import (
    SETTINGS,
    Outcome,
    Scale,
    Study,
    chosen,
    difference,
    draw_estimates,
    estimate,
    flat,
    listed,
    lowest,
    milliseconds,
    shown,
    swept,
    whole,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TOKENS, POOL, PRESET = "protocol.sizing.tokens", "language.pool_blocks", "workload.preset"
TODAY = 8192
Cells = dict[int, "pd.DataFrame"]


def run(folder: Path, runs: Path, scale: Scale) -> Outcome:
    """Every default of every preset and budget."""
    table = swept(folder, runs, scale)
    ordered = table.sort_values("configuration")
    presets = list(dict.fromkeys(ordered[PRESET]))
    pools = _memories(folder)
    groups = {(preset, pool): _cells(table, preset, pool) for preset in presets for pool in pools}
    rows = []
    for (preset, pool), cells in groups.items():
        row: dict[str, object] = {"workload": preset, "memory": pools[pool]}
        for figure in ("latency_s.p99", "latency_s.mean"):
            best, alike = lowest(cells, figure)
            row[f"best.{figure}"], row[f"alike.{figure}"] = best, " ".join(str(size) for size in sorted(alike))
            row |= flat(figure, estimate(cells[best], figure))
            if whole(cells[TODAY]):
                row |= flat(f"8192_over_best.{figure}", difference(cells[best], cells[TODAY], figure))
            else:
                row |= flat(f"8192_over_best.{figure}", {"value": None, "low": None, "high": None})
        rows.append(row)
    return Outcome(
        rows,
        {
            "workload": lambda row: str(row["workload"]),
            "memory": lambda row: str(row["memory"]),
            "default of lowest p99": lambda row: _best(row, "latency_s.p99"),
            "p99, ms": lambda row: shown(row, "latency_s.p99", 1e3),
            "8,192 costs at p99, ms": lambda row: shown(row, "8192_over_best.latency_s.p99", 1e3),
            "default of lowest mean": lambda row: _best(row, "latency_s.mean"),
            "mean, ms": lambda row: shown(row, "latency_s.mean", 1e3),
            "8,192 costs on average, ms": lambda row: shown(row, "8192_over_best.latency_s.mean", 1e3),
        },
        _figure(groups, presets, pools),
        _answer(groups, pools),
    )


def _memories(folder: Path) -> dict[int, str]:
    """What the pools are in memory, by their blocks."""
    bytes_per_block = load(str(folder / "study.toml")).layout.bytes_per_block
    _, grid = read_configurations(folder / SETTINGS)
    return {parse_size(memory) // bytes_per_block: str(memory) for memory in grid[POOL]}


def _cells(table: pd.DataFrame, preset: str, pool: int) -> Cells:
    rows = chosen(table, workload__preset=preset, language__pool_blocks=pool)
    return {int(size): chosen(rows, protocol__sizing__tokens=size) for size in sorted(set(rows[TOKENS]))}


def _best(row: dict[str, object], figure: str) -> str:
    best = int(str(row[f"best.{figure}"]))
    others = [int(size) for size in str(row[f"alike.{figure}"]).split() if int(size) != best]
    return f"{best:,}" + (f" (or {listed(others)})" if others else "")


def _answer(groups: dict[tuple[str, int], Cells], pools: dict[int, str]) -> str:
    parts = []
    for pool in pools:
        costs = {
            preset: difference(cells[lowest(cells, "latency_s.p99")[0]], cells[TODAY], "latency_s.p99")
            for (preset, of), cells in groups.items()
            if of == pool and whole(cells[TODAY])
        }
        worse = {preset: cost for preset, cost in costs.items() if (cost["low"] or 0.0) > 0}
        if not worse:
            parts.append(f"with {pools[pool]} no workload has a default that is told to be better than 8,192 at p99")
            continue
        worst = max(worse, key=lambda preset: worse[preset]["value"] or 0.0)
        best, _ = lowest(groups[worst, pool], "latency_s.p99")
        parts.append(
            f"with {pools[pool]} of language memory 8,192 tokens are slower at p99 than the best default in "
            f"{len(worse)} of {len(costs)} workloads, most in {worst} "
            f"(by {milliseconds(worse[worst])}, against {best:,} tokens)"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _figure(groups: dict[tuple[str, int], Cells], presets: list[str], pools: dict[int, str]) -> Figure:
    figure, panels = new_figure(2, 4, (12.0, 6.0), sharex=True)
    for axes, preset in zip(panels, presets, strict=False):
        for pool, colour in zip(pools, COLOURS, strict=False):
            cells = {size: one for size, one in groups[preset, pool].items() if whole(one)}
            estimates = [estimate(one, "latency_s.p99") for one in cells.values()]
            draw_estimates(axes, list(cells), estimates, label=pools[pool], colour=colour)
            best, _ = lowest(cells, "latency_s.p99")
            axes.plot(best, estimate(cells[best], "latency_s.p99")["value"] or 0.0, "*", markersize=11, color=colour)
        axes.set_title(preset)
        axes.set_xscale("log", base=2)
        axes.set_xticks([256, 1024, 4096, 16384], ["256", "1k", "4k", "16k"])
        axes.set_yscale("log")
        plain_log_axis(axes.yaxis)
    for axes in panels[4:]:
        axes.set_xlabel("default (tokens)")
    for axes in (panels[0], panels[4]):
        axes.set_ylabel("latency, p99 (s)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(pools))
    return figure


STUDY = Study("best-default", "The best default for each workload at three memory budgets", run)
