"""Turns the plan and the figures of a sweep into text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.stats.intervals import Estimate
from experiments.sweeps.grid import cell_title, plain
from experiments.sweeps.plan import Plan
from experiments.text import table
from experiments.units import format_duration

SHOWN_VALUES = 12
SHOWN_CELLS = 40
SHOWN_WORKLOADS = 6


def plan_text(plan: Plan) -> str:
    """What is about to run: its size, and the values of every swept field."""
    runs = len(plan.cells) * plan.replications
    lines = [
        f"sweep of {plan.name}: {_count(len(plan.cells), 'cell')} × {_count(plan.replications, 'replication')} = "
        f"{_count(runs, 'run')}, about {plan.requests} requests"
    ]
    lines += [f"  {line}" for traffic in plan.traffics[:SHOWN_WORKLOADS] for line in traffic.text.splitlines()]
    if len(plan.traffics) > SHOWN_WORKLOADS:
        lines.append(f"  and {len(plan.traffics) - SHOWN_WORKLOADS} more workloads")
    width = max(map(len, plan.fields), default=0)
    for field in plan.fields:
        values = list(dict.fromkeys(plain(cell.settings.get(field, cell.value(field))) for cell in plan.cells))
        more = f" … ({len(values)} values)" if len(values) > SHOWN_VALUES else ""
        lines.append(f"  {field.ljust(width)}  {', '.join(values[:SHOWN_VALUES])}{more}")
    bases = sorted(set(plan.baselines.values()))
    for number in bases[:SHOWN_VALUES]:
        lines.append(f"  baseline: {plan.cells[number - 1].title()}")
    if len(bases) > SHOWN_VALUES:
        lines.append(f"  and {len(bases) - SHOWN_VALUES} more baselines")
    return "\n".join(lines)


def sweep_text(report: Mapping[str, Any]) -> str:
    """A row for every cell, with intervals, and which cells may be the lowest."""
    fields = report["plan"]["fields"]
    short = [field.rpartition(".")[2] for field in fields]
    heads = [name if short.count(name) == 1 else field for name, field in zip(short, fields, strict=True)]
    cells = report["cells"]
    prefilled = any(cell["ttft_s"] != cell["latency_s"] for cell in cells)
    promised = any(cell["slo"]["all"]["value"] is not None for cell in cells)
    more = [*(["ttft p99"] if prefilled else []), *(["in SLO"] if promised else [])]
    rows: list[tuple[str, ...]] = [
        ("cell", *heads, "mean", "p99", "95 % interval", "to baseline", *more, "resumed", "wasted")
    ]
    for cell in cells[:SHOWN_CELLS]:
        p99: Estimate = cell["latency_s"]["p99"]
        difference = cell.get("differences", {}).get("latency_s.p99")
        rows.append(
            (
                str(cell["cell"]),
                *(plain(cell["settings"][field]) if field in cell["settings"] else "" for field in fields),
                _time(cell["latency_s"]["mean"]["value"]),
                _time(p99["value"]),
                _interval(p99),
                "" if difference is None else _change(difference),
                *([_time(cell["ttft_s"]["p99"]["value"])] if prefilled else []),
                *([_share(cell["slo"]["all"])] if promised else []),
                _percent(cell["resume"]["rate"]["value"]),
                _percent(cell["language_pool"]["wasted_fraction"]["value"]) + _remark(cell),
            )
        )
    lines = [table(rows)]
    if len(cells) > SHOWN_CELLS:
        lines.append(f"and {len(cells) - SHOWN_CELLS} more cells")
    lines.append("")
    titles = {cell["cell"]: cell_title(cell["cell"], cell["settings"]) for cell in cells}
    for found in report["lowest"]:
        others = [str(number) for number in found["possibly"] if number != found["cell"]]
        rest = f"; it may as well be {', '.join(others)}" if others else ""
        name = found["figure"].removeprefix("latency_s.")
        lines.append(f"lowest {name} latency: {titles[found['cell']]}{rest}")
    broken = sum(cell["invariant_violations"] for cell in cells)
    if broken:
        lines.append(f"{broken} BROKEN LAWS: this sweep cannot be trusted")
    lines.append(f"took {report['wall_s']:.1f} s of one core")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _interval(estimate: Estimate) -> str:
    low, high = estimate["low"], estimate["high"]
    # An interval by the t distribution may reach below zero, where no latency is.
    return "" if low is None or high is None else f"{_time(max(low, 0.0))} .. {_time(high)}"


def _change(estimate: Estimate) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "-"
    half = "" if low is None or high is None else f" ± {_time((high - low) / 2)}"
    return f"{'-' if value < 0 else '+'}{_time(abs(value))}{half}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _share(estimate: Estimate) -> str:
    low, high = estimate["low"], estimate["high"]
    half = "" if low is None or high is None else f" ± {50 * (high - low):.1f}"
    return "-" if estimate["value"] is None else f"{100 * estimate['value']:.1f}{half} %"


def _remark(cell: Mapping[str, Any]) -> str:
    requests = cell["requests"]
    lost = requests["offered"] - requests["succeeded"]
    over = "  OVER CAPACITY" if cell["capacity"]["verdict"] == "over" else ""
    return ("  DEADLOCK" if cell["deadlock"] else "") + over + (f"  {lost} not delivered" if lost else "")
