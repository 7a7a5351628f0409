"""Which block size on which link: segments of a write against memory that nobody uses."""

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
    interval,
    milliseconds,
    shown,
    swept,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LINK, BLOCK, RATE = "link.profile", "protocol.block_tokens", "workload.rate_rps"
MEAN, EMPTY = "transfer_s.mean", "language_pool.wasted_fraction"
PANELS = {MEAN: ("transfer, mean (ms)", 1e3), EMPTY: ("held memory left empty (%)", 100.0)}


def run(folder: Path, runs: Path, scale: Scale) -> Outcome:
    """Every block size on every link, under a light load with ample memory and a heavy one with little."""
    table = swept(folder, runs, scale)
    links = list(dict.fromkeys(table.sort_values("configuration")[LINK]))
    rates = sorted({float(rate) for rate in table[RATE]})
    blocks = sorted({int(size) for size in table[BLOCK]})
    cells = {
        (rate, link, block): chosen(
            table, workload__rate_rps=rate, link__profile=link, protocol__block_tokens=block
        )
        for rate in rates for link in links for block in blocks
    }  # fmt: skip
    rows = []
    for (rate, link, block), cell in cells.items():
        row: dict[str, object] = {"rate_rps": rate, "link": link, "block_tokens": block}
        for figure in (*PANELS, "latency_s.p99"):
            row |= flat(figure, estimate(cell, figure))
        row |= flat("over_smallest", difference(cells[rate, link, blocks[0]], cell, MEAN))
        rows.append(row)
    return Outcome(
        rows,
        {
            "load, requests/s": lambda row: f"{row['rate_rps']:g}",
            "link": lambda row: str(row["link"]),
            "block, tokens": lambda row: f"{row['block_tokens']:,}",
            "transfer, mean, ms": lambda row: shown(row, MEAN, 1e3),
            "more than with the smallest, ms": lambda row: shown(row, "over_smallest", 1e3),
            "held memory left empty, %": lambda row: shown(row, EMPTY, 100),
            "latency, p99, ms": lambda row: shown(row, "latency_s.p99", 1e3),
        },
        _figure(cells, rates, links, blocks),
        _answer(cells, rates, links, blocks),
    )


Cells = dict[tuple[float, str, int], "pd.DataFrame"]


def _answer(cells: Cells, rates: list[float], links: list[str], blocks: list[int]) -> str:
    parts = []
    for rate in rates:
        changes = {
            (link, block): difference(cells[rate, link, blocks[0]], cells[rate, link, block], MEAN)
            for link in links
            for block in blocks[1:]
        }
        (link, block), largest = max(changes.items(), key=lambda one: abs(one[1]["value"] or 0.0))
        parts.append(
            f"at {rate:g} requests a second the mean transfer changes by {milliseconds(largest)} at most "
            f"({block:,} tokens on {link})"
        )
    empty = [interval(estimate(cells[rates[-1], links[0], block], EMPTY), 100) for block in (blocks[0], blocks[-1])]
    return (
        f"From blocks of {blocks[0]} tokens to blocks of {blocks[-1]:,}, {' and '.join(parts)}: the pool hands out "
        f"neighbouring blocks, which are moved as one segment, so the speed of the link does not ask for large ones. "
        f"What grows is the held memory that is left empty, from {empty[0]} % to {empty[1]} % at {rates[-1]:g}/s."
    )


def _figure(cells: Cells, rates: list[float], links: list[str], blocks: list[int]) -> Figure:
    figure, panels = new_figure(len(rates), len(PANELS), (9.5, 6.0), sharex=True)
    for place, axes in enumerate(panels):
        rate, (name, (title, scale)) = rates[place // len(PANELS)], list(PANELS.items())[place % len(PANELS)]
        for link, colour in zip(links, COLOURS, strict=False):
            estimates = [estimate(cells[rate, link, block], name) for block in blocks]
            draw_estimates(axes, blocks, estimates, label=link, colour=colour, scale=scale)
        axes.set_title(f"{title}, {rate:g} requests/s")
        axes.set_xscale("log", base=2)
        axes.set_xticks(blocks, [str(block) for block in blocks])
        if name == MEAN:
            axes.set_yscale("log")
            plain_log_axis(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
    for axes in panels[-len(PANELS) :]:
        axes.set_xlabel("block (tokens)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(links))
    return figure


STUDY = Study("block-size", "Block size against link speed", run)
