"""Runs the protocol checker: suites of bounds, the grid of deadlocks, random fault runs, replays of schedules."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from joblib import Parallel, delayed

from experiments.errors import UserError
from experiments.files import disk_errors, write_json
from experiments.text import table
from protocol.checker.bounds import Bound
from protocol.checker.explorer import Exploration, Finding, explore
from protocol.checker.invariants import STATEMENTS
from protocol.checker.schedule import ScheduleError, describe, from_file, replay, summary, to_file
from protocol.checker.suites import SUITES, GridCell, grid
from protocol.disciplines import DISCIPLINES
from protocol.naming import did_you_mean
from sim.chaos import ChaosOutcome, run_seed
from sim.chaos import describe as describe_outcome

GRID_ROWS = {
    "alloc_then_free": ("alloc_then_free", True),
    "alloc_then_free, new rooms first": ("alloc_then_free", False),
    "free_then_alloc": ("free_then_alloc", True),
    "free_then_alloc, new rooms first": ("free_then_alloc", False),
    "window": ("window", True),
    "window, new rooms first": ("window", False),
    "exact_announce": ("exact_announce", True),
}
"""What is counted over the grid: a discipline, and whether resumes go before new rooms."""

Progress = Callable[[str], object]
"""Called with one line about what is finished."""


def chosen_bounds(suite: str, discipline: str | None, only: str | None) -> list[Bound]:
    """The bounds of a suite; with ``discipline``, its own and those of the default discipline under it.

    ``only``: a part of the name. Raises UserError when nothing is left, or for an unknown suite or discipline.
    """
    if suite not in SUITES:
        raise UserError(f"--bound is {suite!r}, it must be one of {', '.join(SUITES)}")
    bounds = SUITES[suite]()
    if discipline is not None:
        if discipline not in DISCIPLINES:
            raise UserError(
                f"--discipline is {discipline!r}{did_you_mean(discipline, DISCIPLINES)}, "
                f"it must be one of {', '.join(DISCIPLINES)}"
            )
        bounds = [
            msgspec.structs.replace(bound, discipline=discipline, name=bound.name.replace("window", discipline))
            for bound in bounds
            if bound.discipline == discipline or (bound.discipline == "window" and len(bound.default_tokens) == 1)
        ]
    if only is not None:
        bounds = [bound for bound in bounds if only in bound.name]
        if not bounds:
            raise UserError(f"--only is {only!r}, it must be a part of the name of a configuration (--list shows them)")
    return bounds


def check(
    bounds: Sequence[Bound],
    *,
    jobs: int,
    most_states: int | None = None,
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Explore every bound, the largest first, and report. ``budget_s`` and ``most_states`` bound each search."""
    began = time.perf_counter()
    ends_s = None if budget_s is None else time.time() + budget_s
    order = sorted(range(len(bounds)), key=lambda place: _weight(bounds[place]), reverse=True)
    tasks = (delayed(_explored)(place, bounds[place], most_states, ends_s) for place in order)
    results: list[tuple[Exploration, float] | None] = [None] * len(bounds)
    for place, exploration, took_s in _in_parallel(jobs, tasks):
        results[place] = (exploration, took_s)
        if progress is not None:
            progress(f"{exploration.states} states, {bounds[place].name}")
    done = [result for result in results if result is not None]
    return _report(done, time.perf_counter() - began)


def _weight(bound: Bound) -> tuple[int, int]:
    return bound.most_faults * len(bound.faults), bound.encode_tp * bound.language_tp * len(bound.lengths)


def _explored(
    place: int, bound: Bound, most_states: int | None, ends_s: float | None
) -> tuple[int, Exploration, float]:
    began = time.perf_counter()

    def in_time(_explored: int, _known: int) -> bool:
        return ends_s is None or time.time() < ends_s

    return place, explore(bound, most_states=most_states, progress=in_time), time.perf_counter() - began


def _in_parallel(jobs: int, tasks: Iterable[Any]) -> Iterator[Any]:
    """Results as they come. One job runs here, so that patches and debuggers reach it."""
    if jobs == 1:
        yield from (function(*arguments, **options) for function, arguments, options in tasks)
    else:
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(tasks)


def _report(results: Sequence[tuple[Exploration, float]], wall_s: float) -> dict[str, Any]:
    found = [(finding, one.bound) for one, _ in results for finding in one.findings]
    # The smallest counterexample of each invariant, smallest first.
    found.sort(key=lambda pair: len(pair[0].moves))
    smallest: dict[int, tuple[Finding, Bound]] = {}
    for finding, bound in found:
        smallest.setdefault(finding.invariant, (finding, bound))
    return {
        "states": sum(one.states for one, _ in results),
        "transitions": sum(one.transitions for one, _ in results),
        "local_steps": sum(one.local_steps for one, _ in results),
        "configurations": len(results),
        "complete": sum(one.complete for one, _ in results),
        "broken_configurations": sum(bool(one.findings) for one, _ in results),
        "invariants": len(STATEMENTS),
        "violations": [
            {
                "invariant": number,
                "name": STATEMENTS[number][0],
                "what": finding.what,
                "configuration": bound.name,
                "moves": len(finding.moves),
                "schedule": to_file(finding, bound),
            }
            for number, (finding, bound) in smallest.items()
        ],
        "results": [
            {
                "name": one.bound.name,
                "states": one.states,
                "transitions": one.transitions,
                "longest_moves": one.depth,
                "complete": one.complete,
                "broken": [finding.invariant for finding in one.findings],
                "wall_s": round(took_s, 3),
            }
            for one, took_s in results
        ],
        "wall_s": wall_s,
    }


def write_schedules(report: dict[str, Any], out: Path) -> list[Path]:
    """Write every counterexample to a file of its own in ``out``; each replays with ``bufferlab check --replay``."""
    paths = []
    for violation in report["violations"]:
        slug = re.sub(r"[^a-z0-9]+", "-", violation["configuration"].lower()).strip("-")[:60]
        path = out / f"invariant-{violation['invariant']:02}-{slug}.json"
        with disk_errors(path):
            out.mkdir(parents=True, exist_ok=True)
            write_json(path, violation["schedule"])
        violation["file"] = str(path)
        paths.append(path)
    return paths


def report_text(report: dict[str, Any], *, verbose: bool) -> str:
    """The report for a terminal: the smallest schedule in full, one line for every further one."""
    lines = []
    if verbose:
        rows = [("configuration", "states", "transitions", "longest", "seconds", "")]
        for one in report["results"]:
            note = ", ".join(f"breaks {number}" for number in one["broken"]) or ("" if one["complete"] else "cut short")
            numbers = (one["states"], one["transitions"], one["longest_moves"])
            rows.append((one["name"], *map(str, numbers), f"{one['wall_s']:.1f}", note))
        lines += [table(rows), ""]
    for place, violation in enumerate(report["violations"]):
        if place == 0:
            finding, bound = from_file(violation["schedule"])
            lines += [describe(finding, bound), ""]
        else:
            lines.append(
                f"invariant {violation['invariant']}, {violation['name']}, breaks too, "
                f"after {violation['moves']} moves in {violation['configuration']!r}: {violation['what']}"
            )
        if "file" in violation:
            lines.append(f"saved; replay it with: bufferlab check --replay {violation['file']}")
    cut_short = report["configurations"] - report["complete"] - report["broken_configurations"]
    lines.append(
        f"{report['configurations']} configurations, {report['states']} states, {report['transitions']} transitions "
        f"in {report['wall_s']:.1f} s"
        + (f"; {report['broken_configurations']} broken" if report["broken_configurations"] else "")
        + (f"; {cut_short} cut short by the budget" if cut_short else "")
    )
    if not report["violations"]:
        scope = "every state explored so far" if cut_short else "every reachable state of every configuration"
        lines.append(f"all {report['invariants']} invariants hold in {scope}")
    return "\n".join(lines)


def list_text(bounds: Sequence[Bound]) -> str:
    """The configurations for a terminal."""
    rows = [("configuration", "hazards"), *((bound.name, " ".join(bound.hazards)) for bound in bounds)]
    return table(rows)


# --- one schedule --------------------------------------------------------------------------------------------------


def replay_file(path: Path) -> dict[str, Any]:
    """Carry out a saved schedule on the cores. Raises UserError for a file that is none."""
    try:
        finding, bound = from_file(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"--replay is {str(path)!r}, which cannot be read: {error.strerror}") from None
    except (ValueError, ScheduleError) as error:
        raise UserError(f"--replay is {str(path)!r}, it must be a schedule that check has saved: {error}") from None
    try:
        done = replay(bound, finding.moves)
    except ScheduleError as error:
        # The core has changed since: a schedule that it does not go along with any more does no harm.
        return {"configuration": bound.name, "lines": [], "broken": [], "not_possible": str(error)}
    broken = [{"invariant": number, "name": STATEMENTS[number][0], "what": what} for number, what in done.broken]
    return {"configuration": f"{bound.name}: {summary(bound)}", "lines": list(done.lines), "broken": broken}


def replay_text(done: dict[str, Any]) -> str:
    """A replay for a terminal."""
    lines = [done["configuration"], *done["lines"], ""]
    if "not_possible" in done:
        lines.append(f"the core does not go along with this schedule: {done['not_possible']}")
    for broken in done["broken"]:
        lines.append(f"invariant {broken['invariant']}, {broken['name']}, is broken: {broken['what']}")
    if not done["broken"]:
        lines.append("no invariant is broken")
    return "\n".join(lines)


# --- the grid of deadlocks -----------------------------------------------------------------------------------------


def check_grid(most_requests: int, *, jobs: int, progress: Progress | None = None) -> dict[str, Any]:
    """In how many cells of the grid each discipline can deadlock: within the language pool, across the two sides."""
    began = time.perf_counter()
    cells = list(grid(most_requests))
    tasks = (
        delayed(_deadlocks)(cell, name)
        for cell in sorted(cells, key=lambda cell: len(cell.requests), reverse=True)
        for name in GRID_ROWS
    )
    counted = ("deadlock", "within_pool", "across_sides", "one_oversized", "states", "searches")
    rows = {name: dict.fromkeys(counted, 0) for name in GRID_ROWS}
    for cell, name, (within, across), states, searches in _in_parallel(jobs, tasks):
        row = rows[name]
        row["deadlock"] += within or across
        row["within_pool"] += within
        row["across_sides"] += across
        row["one_oversized"] += (within or across) and cell.oversized == 1
        row["states"] += states
        row["searches"] += searches
        if progress is not None:
            progress(f"{name}, {cell.requests}")
    return {
        "configurations": len(cells),
        "one_oversized": sum(cell.oversized == 1 for cell in cells),
        "most_requests": most_requests,
        "rows": rows,
        "states": sum(row["states"] for row in rows.values()),
        "wall_s": time.perf_counter() - began,
    }


def count_grid(most_requests: int) -> int:
    """Steps of progress of ``check_grid``."""
    return len(list(grid(most_requests))) * len(GRID_ROWS)


def _deadlocks(cell: GridCell, name: str) -> tuple[GridCell, str, tuple[bool, bool], int, int]:
    discipline, resume_first = GRID_ROWS[name]
    states = searches = within = across = 0
    for bound in cell.bounds(discipline, resume_first=resume_first) if cell.contended else ():
        result = explore(bound, keep_going=True)
        other = [finding for finding in result.findings if finding.invariant != 21]
        if other:
            raise RuntimeError(f"{bound.name}: {other[0].what}")
        states += result.states
        searches += 1
        within += result.dead_ends[0]
        across += result.dead_ends[1]
    return cell, name, (within > 0, across > 0), states, searches


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


# --- random fault runs ---------------------------------------------------------------------------------------------


def check_random(count: int, seed: int, *, jobs: int, progress: Progress | None = None) -> dict[str, Any]:
    """Run ``count`` seeds from ``seed`` on through the full simulator with random faults."""
    began = time.perf_counter()
    outcomes: list[ChaosOutcome] = []
    tasks = (delayed(run_seed)(one) for one in range(seed, seed + count))
    faults: dict[str, int] = {}
    for outcome in _in_parallel(jobs, tasks):
        if outcome.violations:
            outcomes.append(outcome)
        for kind, happened in outcome.faults.items():
            faults[kind] = faults.get(kind, 0) + happened
        if progress is not None:
            progress("")
    outcomes.sort(key=lambda outcome: outcome.seed)
    return {
        "seeds": count,
        "first_seed": seed,
        "faults": dict(sorted(faults.items())),
        "violations": [msgspec.to_builtins(outcome) for outcome in outcomes],
        "wall_s": time.perf_counter() - began,
    }


def random_text(report: dict[str, Any]) -> str:
    """The random runs for a terminal."""
    faults = ", ".join(f"{count} × {kind}" for kind, count in report["faults"].items()) or "none"
    lines = [describe_outcome(msgspec.convert(one, ChaosOutcome)) for one in report["violations"]]
    lines.append(f"faults that happened: {faults}")
    lines.append(
        f"{report['seeds']} seeds from {report['first_seed']} on in {report['wall_s']:.1f} s: "
        f"{len(report['violations'])} with violations"
    )
    return "\n".join(lines)


def default_jobs() -> int:
    """As many searches at once as there are cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
