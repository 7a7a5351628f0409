"""Where each buffer discipline deadlocks, fails, waits or wastes, on the same requests: draws docs/disciplines.png
and writes the table in docs/disciplines.md.

    python tools/disciplines.py [--requests N] [--replications N] [--sweep DIR] [--out DIR]

Multi-image documents through pools of five sizes, every discipline with what it needs: a default of 4,096 tokens, and a
slot that holds 32,768 where a slot is the discipline. All configurations see the same requests. The sweep goes to
--sweep DIR (default: a folder of its own in runs/) and can be interrupted; the same command goes on.

Exit status: 0, 1 if a run breaks, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bufferlab.experiments.errors import RunFailedError, UserError
from bufferlab.experiments.figures.pages import MarkedPage, check_figure
from bufferlab.experiments.figures.style import COLOURS, new_figure, plain_log_axis, save
from bufferlab.experiments.progress import bar
from bufferlab.experiments.stats.intervals import Estimate, across_replications
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import run_sweep
from bufferlab.protocol.disciplines import DISCIPLINES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "ustudy"
BLOCK_TOKENS = 128
POOLS = (256, 384, 512, 1024, 2048)
DEFAULT_TOKENS, SLOT_TOKENS = 4096, 32_768
SETTINGS = (
    "workload.preset=multi-image-documents",
    "workload.rate_rps=2.0",
    "protocol.timeout_s=30s",
)
NAMES = tuple(
    sorted(
        DISCIPLINES,
        key=lambda name: (
            DISCIPLINES[name].resumes or DISCIPLINES[name].announces_length,
            not DISCIPLINES[name].may_deadlock,
            DISCIPLINES[name].announces_length,
            not DISCIPLINES[name].has_slots,
            name,
        ),
    )
)
"""All of them, from what fails most to what knows most."""
BEGIN, END = "<!-- table: begin -->\n", "\n<!-- table: end -->"

Derive = Callable[["pd.DataFrame"], "pd.Series[float]"]

PANELS: tuple[tuple[str, str, Derive], ...] = (
    ("requests that failed (%)", "failed", lambda t: 100 * t["failure_rate"]),
    ("runs with a deadlock (%)", "deadlocked", lambda t: 100 * t["deadlock_rate"]),
    (
        "waited for language memory (s)",
        "waited",
        lambda t: t["language_pool.blocked_s"] / t["requests.offered"],
    ),
    ("held memory left empty (%)", "wasted", lambda t: 100 * t["language_pool.wasted_fraction"]),
    ("language pool in use (%)", "in use", lambda t: 100 * t["language_pool.mean_occupancy"]),
    ("p99 latency if delivered (s)", "p99", lambda t: t["latency_s.p99"]),
)
"""Axis, name of the column in the table, and the figure of each replication."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run the study, write the figure and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--requests", type=int, default=600, help="of one replication")
    parser.add_argument("--replications", type=int, default=10)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--sweep", type=Path, metavar="DIR", help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of disciplines.md")
    options = parser.parse_args(arguments)
    configurations: list[dict[str, Any]] = [
        {
            "protocol.discipline": name,
            "protocol.sizing.tokens": SLOT_TOKENS if DISCIPLINES[name].has_slots else DEFAULT_TOKENS,
        }
        for name in NAMES
    ]
    page = MarkedPage(options.out / "disciplines.md", BEGIN, END, "the page of --out")
    try:
        check_figure(options.out / "disciplines.png", "the figure of --out")
        if page.path.exists():
            page.check()
        plan = make_plan(
            CONFIG,
            configurations=configurations,
            grid={"language.pool_blocks": list(POOLS)},
            settings=[*SETTINGS, f"workload.requests={options.requests}"],
            replications=options.replications,
        )
        with bar("sweep", len(plan.tasks), "runs") as shown:
            target = options.sweep or plan.target()
            sweep = run_sweep(plan, target, jobs=options.jobs, begin=shown.begin_with, progress=shown.add)
        print(f"wrote {save(draw(sweep.table), options.out / 'disciplines.png')}")
        page.make()
        page.put(f"\n{table_text(sweep.table)}\n")
    except (UserError, RunFailedError, ValueError) as error:
        print(f"disciplines: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunFailedError) else 2
    except KeyboardInterrupt:
        print("disciplines: interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(f"wrote {page.path}")
    return 0


def estimates(table: pd.DataFrame, derive: Derive) -> dict[str, dict[int, Estimate]]:
    """A figure of every discipline and pool size (blocks), with its 95 % t interval over the replications."""
    values = table.assign(figure=derive(table))
    return {
        name: {
            pool: across_replications(
                [
                    float(value)
                    for value in values[
                        (values["protocol.discipline"] == name) & (values["language.pool_blocks"] == pool)
                    ]["figure"]
                    if not math.isnan(value)
                ]
            )
            for pool in POOLS
        }
        for name in NAMES
    }


def draw(table: pd.DataFrame) -> Figure:
    """A panel for each figure, against the size of the pool."""
    figure, panels = new_figure(2, 3, (11.0, 6.2), sharex=True)
    for (axis, name, derive), axes in zip(PANELS, panels, strict=True):
        for (discipline, by_pool), colour in zip(estimates(table, derive).items(), cycle(COLOURS), strict=False):
            # Side by side, because what is alike would lie on top of each other.
            aside = 1.03 ** (NAMES.index(discipline) - (len(NAMES) - 1) / 2)
            known = [
                (pool * BLOCK_TOKENS * aside, value, value - max(_low(one), 0.0), _high(one) - value)
                for pool, one in by_pool.items()
                if (value := one["value"]) is not None
            ]
            tokens, values, below, above = ([one[column] for one in known] for column in range(4))
            axes.errorbar(
                tokens, values, yerr=(below, above),
                marker="o", markersize=4, elinewidth=1.0, color=colour, label=discipline,
            )  # fmt: skip
        axes.set_title(axis)
        if name in ("waited", "p99"):
            axes.set_yscale("log")
            plain_log_axis(axes.yaxis)
        else:
            axes.set_ylim(-4, 104)
    for axes in panels[3:]:
        axes.set_xscale("log", base=2)
        axes.set_xticks([pool * BLOCK_TOKENS for pool in POOLS], [f"{pool * BLOCK_TOKENS // 1024}" for pool in POOLS])
        axes.set_xlabel("language pool (1024 tokens)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(NAMES))
    return figure


def _low(estimate: Estimate) -> float:
    low, value = estimate["low"], estimate["value"]
    return float(low if low is not None else value or 0.0)


def _high(estimate: Estimate) -> float:
    high, value = estimate["high"], estimate["value"]
    return float(high if high is not None else value or 0.0)


def table_text(table: pd.DataFrame) -> str:
    """The figures as Markdown, each with half of its interval."""
    columns = {name: estimates(table, derive) for _, name, derive in PANELS}
    lines = [
        "| discipline | pool, tokens | failed, % | deadlocked, % of runs | waited, s a request | wasted, % "
        "| in use, % | p99, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for discipline in NAMES:
        for pool in POOLS:
            cells = [_cell(columns[name][discipline][pool]) for _, name, _ in PANELS]
            lines.append(f"| {discipline} | {pool * BLOCK_TOKENS:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(estimate: Estimate) -> str:
    if estimate["value"] is None:
        return "–"
    half = (_high(estimate) - _low(estimate)) / 2
    return f"{estimate['value']:.3g}" + (f" ± {half:.2g}" if half else "")


if __name__ == "__main__":
    sys.exit(main())
