"""What rank skew does to acknowledged-by-all: one slow rank, and messages that are late by chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bufferlab.experiments.figures.style import COLOURS, new_figure
from tools.studies.common import (
    Outcome,
    Scale,
    Study,
    chosen,
    difference,
    draw_estimates,
    estimate,
    flat,
    milliseconds,
    shown,
    swept,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CASES = {
    "even": "all ranks alike",
    "slow-language": "one language rank twice as slow",
    "slow-encode": "one encode rank twice as slow",
    "late-messages": "1 % of control messages up to 100 ms late",
}
FIGURES = {"transfer_s.mean": "transfer, mean (ms)", "transfer_s.p99": "transfer, p99 (ms)"}


def run(folder: Path, runs: Path, scale: Scale) -> Outcome:
    """Every case with every number of ranks."""
    tables = {case: swept(folder, runs, scale, f"{case}.toml") for case in CASES}
    ranks = sorted({int(count) for count in tables["even"]["encode.tp"]})
    rows = []
    for case, table in tables.items():
        for count in ranks:
            one, even = (chosen(each, encode__tp=count) for each in (table, tables["even"]))
            row: dict[str, object] = {"case": CASES[case], "ranks": count}
            for figure in (*FIGURES, "latency_s.mean"):
                row |= flat(figure, estimate(one, figure))
            row |= flat("added", difference(even, one, "transfer_s.mean"))
            rows.append(row)
    return Outcome(
        rows,
        {
            "what is uneven": lambda row: str(row["case"]),
            "ranks of a side": lambda row: str(row["ranks"]),
            "transfer, mean, ms": lambda row: shown(row, "transfer_s.mean", 1e3),
            "more than with all alike, ms": lambda row: shown(row, "added", 1e3),
            "transfer, p99, ms": lambda row: shown(row, "transfer_s.p99", 1e3),
            "latency, mean, ms": lambda row: shown(row, "latency_s.mean", 1e3),
        },
        _figure(tables, ranks),
        _answer(tables, ranks),
    )


def _answer(tables: dict[str, pd.DataFrame], ranks: list[int]) -> str:
    least, most = ranks[0], ranks[-1]

    def added(case: str, count: int) -> str:
        even, uneven = (chosen(tables[one], encode__tp=count) for one in ("even", case))
        return milliseconds(difference(even, uneven, "transfer_s.mean"))

    few, many = (chosen(tables["late-messages"], encode__tp=count) for count in (least, most))
    return (
        f"A rank that is always twice as slow costs the same whether it acknowledges alone or with {most - 1} others: "
        f"on the language side {added('slow-language', least)} a transfer with {least} rank a side and "
        f"{added('slow-language', most)} with {most}, on the encode side {added('slow-encode', least)} and "
        f"{added('slow-encode', most)}. What grows with the ranks is chance: with one control message in a hundred up "
        f"to 100 ms late, the mean transfer takes {milliseconds(difference(few, many, 'transfer_s.mean'))} longer "
        f"with {most} ranks a side than with {least}, for every chunk waits for the latest of {most * most} messages "
        f"instead of {least * least}."
    )


def _figure(tables: dict[str, pd.DataFrame], ranks: list[int]) -> Figure:
    figure, panels = new_figure(1, 2, (9.5, 3.6))
    for axes, (name, title) in zip(panels, FIGURES.items(), strict=True):
        for (case, table), colour in zip(tables.items(), COLOURS, strict=False):
            estimates = [estimate(chosen(table, encode__tp=count), name) for count in ranks]
            draw_estimates(axes, ranks, estimates, label=CASES[case], colour=colour, scale=1e3)
        axes.set_title(title)
        axes.set_xlabel("tensor-parallel ranks of each side")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, [str(count) for count in ranks])
        axes.set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


STUDY = Study("rank-skew", "What rank skew does to acknowledged-by-all", run)
