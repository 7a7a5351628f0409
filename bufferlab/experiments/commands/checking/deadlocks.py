"""In how many small configurations each discipline can deadlock: ``bufferlab check --grid``."""

from __future__ import annotations

import time
from typing import Any

from joblib import delayed

from bufferlab.experiments.commands.checking.parallel import Progress, in_parallel
from bufferlab.experiments.text import table
from bufferlab.protocol.checker.explorer import explore
from bufferlab.protocol.checker.suites import GridCase, grid
from bufferlab.protocol.disciplines import DISCIPLINES

_WAITING = sorted(
    (one for one in DISCIPLINES.values() if one.resumes or one.announces_length),
    key=lambda one: (not one.may_deadlock, one.announces_length, one.name),
)
GRID_ROWS = {
    one.name + ("" if resume_first else ", new rooms first"): (one.name, resume_first)
    for one in _WAITING
    for resume_first in ((True, False) if one.resumes else (True,))
}
"""What is counted over the grid: a discipline, and whether resumes go before new rooms. A discipline whose rooms fail
when their first chunk was too small waits for nobody."""


def check_grid(most_requests: int, *, jobs: int, progress: Progress | None = None) -> dict[str, Any]:
    """In how many cases of the grid each discipline can deadlock: within the language pool, across the two sides."""
    began = time.perf_counter()
    cases = list(grid(most_requests))
    tasks = (
        delayed(_deadlocks)(case, name)
        for case in sorted(cases, key=lambda case: len(case.requests), reverse=True)
        for name in GRID_ROWS
    )
    counted = ("deadlock", "within_pool", "across_sides", "one_oversized", "states", "searches")
    rows = {name: dict.fromkeys(counted, 0) for name in GRID_ROWS}
    for case, name, (within, across), states, searches in in_parallel(jobs, tasks):
        row = rows[name]
        row["deadlock"] += within or across
        row["within_pool"] += within
        row["across_sides"] += across
        row["one_oversized"] += (within or across) and case.oversized == 1
        row["states"] += states
        row["searches"] += searches
        if progress is not None:
            progress(f"{name}, {case.requests}")
    return {
        "configurations": len(cases),
        "one_oversized": sum(case.oversized == 1 for case in cases),
        "most_requests": most_requests,
        "rows": rows,
        "states": sum(row["states"] for row in rows.values()),
        "wall_s": time.perf_counter() - began,
    }


def count_grid(most_requests: int) -> int:
    """Steps of progress of ``check_grid``."""
    return len(list(grid(most_requests))) * len(GRID_ROWS)


def _deadlocks(case: GridCase, name: str) -> tuple[GridCase, str, tuple[bool, bool], int, int]:
    discipline, resume_first = GRID_ROWS[name]
    states = searches = within = across = 0
    for bound in case.bounds(discipline, resume_first=resume_first) if case.contended else ():
        result = explore(bound, keep_going=True)
        other = [finding for finding in result.findings if finding.invariant != 21]
        if other:
            raise RuntimeError(f"{bound.name}: {other[0].what}")
        states += result.states
        searches += 1
        within += result.dead_ends[0]
        across += result.dead_ends[1]
    return case, name, (within > 0, across > 0), states, searches


def grid_text(report: dict[str, Any]) -> str:
    """The grid for a terminal."""
    rows = [("discipline", "deadlocks", "of", "within pool", "across sides", "one oversized", "of", "states")]
    for name, row in report["rows"].items():
        deadlocks = (row["deadlock"], report["configurations"], row["within_pool"], row["across_sides"])
        oversized = (row["one_oversized"], report["one_oversized"])
        rows.append((name, *map(str, (*deadlocks, *oversized, row["states"]))))
    return f"{table(rows)}\n\ntook {report['wall_s']:.1f} s"


def unexpected_deadlocks(report: dict[str, Any]) -> list[str]:
    """The disciplines that deadlock although they are known not to."""
    return [
        name
        for name, row in report["rows"].items()
        if row["deadlock"] and not DISCIPLINES[GRID_ROWS[name][0]].may_deadlock
    ]
