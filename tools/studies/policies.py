"""Fixed against adaptive sizing policies, global and per client."""

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
    estimate,
    flat,
    listed,
    lowest,
    milliseconds,
    shown,
    swept,
    with_half,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

POLICY, TOKENS, PER_CLIENT = "protocol.sizing.policy", "protocol.sizing.tokens", "protocol.sizing.per_client"
TODAY = "fixed 8,192"
BOUND = "oracle"
PANELS = {
    "latency_s.p99": ("latency, p99, less the oracle's (ms)", 1e3),
    "resume.rate": ("requests that resume (%)", 100.0),
    "language_pool.wasted_fraction": ("held memory left empty (%)", 100.0),
}


def run(folder: Path, runs: Path, scale: Scale) -> Outcome:
    """Every policy on every workload, against a fixed 8,192 and against the oracle."""
    table = swept(folder, runs, scale)
    table = table.assign(policy=[_name(row) for _, row in table.iterrows()])
    workloads = list(dict.fromkeys(table.sort_values("configuration")["workload.preset"]))
    names = list(dict.fromkeys(table.sort_values("configuration")["policy"]))
    rows = []
    for workload in workloads:
        cells = _cells(table, workload, names)
        _, alike = lowest(_real(cells), "latency_s.p99")
        for name in names:
            row: dict[str, object] = {"workload": workload, "policy": name, "lowest": name in alike}
            for figure in (*PANELS, "latency_s.mean"):
                row |= flat(figure, estimate(cells[name], figure))
            row |= flat("over_8192", difference(cells[TODAY], cells[name], "latency_s.p99"))
            row |= flat("over_oracle", difference(cells[BOUND], cells[name], "latency_s.p99"))
            rows.append(row)
    return Outcome(
        rows,
        {
            "workload": lambda row: str(row["workload"]),
            "policy": lambda row: str(row["policy"]) + (" *" if row["lowest"] else ""),
            "latency, p99, ms": lambda row: shown(row, "latency_s.p99", 1e3),
            "less fixed 8,192, ms": lambda row: shown(row, "over_8192", 1e3),
            "less the oracle, ms": lambda row: shown(row, "over_oracle", 1e3),
            "latency, mean, ms": lambda row: shown(row, "latency_s.mean", 1e3),
            "resumed, %": lambda row: shown(row, "resume.rate", 100),
            "held memory left empty, %": lambda row: shown(row, "language_pool.wasted_fraction", 100),
        },
        _figure(table, workloads, names),
        " ".join(_answer(workload, _cells(table, workload, names)) for workload in workloads),
    )


def _name(row: pd.Series) -> str:
    policy = str(row[POLICY])
    if policy == "fixed":
        return f"fixed {int(row[TOKENS]):,}"
    return f"{policy}, per client" if PER_CLIENT in row and row[PER_CLIENT] is True else policy


def _cells(table: pd.DataFrame, workload: str, names: list[str]) -> dict[str, pd.DataFrame]:
    rows = chosen(table, workload__preset=workload)
    return {name: rows[rows["policy"] == name] for name in names}


def _real(cells: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {name: one for name, one in cells.items() if name != BOUND}


def _answer(workload: str, cells: dict[str, pd.DataFrame]) -> str:
    best, alike = lowest(_real(cells), "latency_s.p99")
    others = [name for name in alike if name != best]
    as_well = f" (cannot be told from {listed(others)})" if others else ""
    fixed, _ = lowest({name: one for name, one in cells.items() if name.startswith("fixed")}, "latency_s.p99")
    rivals = {"a fixed 8,192's": cells[TODAY]}
    if fixed not in (best, TODAY):
        rivals[f"that of the best fixed default tried ({fixed[6:]})"] = cells[fixed]
    rivals["the oracle's"] = cells[BOUND]
    against = [_against(one, cells[best], name) for name, one in rivals.items()]
    return f"On {workload} the lowest p99 is that of {best}{as_well}: {listed(against)}."


def _against(first: pd.DataFrame, second: pd.DataFrame, name: str) -> str:
    one = difference(first, second, "latency_s.p99")
    value, low, high = one["value"], one["low"], one["high"]
    if value is None or low is None or high is None or low <= 0 <= high:
        return f"not told from {name} ({milliseconds(one)})"
    size = with_half(abs(value), low, high, 1e3, "ms")
    return f"{size} {'above' if value > 0 else 'below'} {name}"


def _figure(table: pd.DataFrame, workloads: list[str], names: list[str]) -> Figure:
    figure, panels = new_figure(1, 3, (11.5, 4.2), sharey=True)
    for axes, (name, (title, scale)) in zip(panels, PANELS.items(), strict=True):
        for shift, (workload, colour) in enumerate(zip(workloads, COLOURS, strict=False)):
            cells = _cells(table, workload, names)
            estimates = [
                difference(cells[BOUND], one, name) if name == "latency_s.p99" else estimate(one, name)
                for one in cells.values()
            ]
            places = [len(names) - 1 - place + 0.22 * (1 - shift) for place in range(len(names))]
            known = [(one, place) for one, place in zip(estimates, places, strict=True) if one["value"] is not None]
            axes.errorbar(
                [(one["value"] or 0.0) * scale for one, _ in known], [place for _, place in known],
                xerr=[((one["high"] or 0.0) - (one["low"] or 0.0)) / 2 * scale for one, _ in known],
                marker="o", markersize=4, elinewidth=1.0, linestyle="none", color=colour, label=workload,
            )  # fmt: skip
        axes.set_title(title)
        axes.set_yticks(range(len(names)), names[::-1])
        if name == "latency_s.p99":
            axes.set_xscale("symlog", linthresh=10)
        else:
            axes.set_xlim(left=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(workloads))
    return figure


STUDY = Study("policies", "Fixed against adaptive policies, global and per client", run)
