"""The searches of ``bufferlab check``: every configuration of a suite explored, the smallest counterexamples told."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from joblib import delayed

from bufferlab.experiments.commands.checking.parallel import Progress, in_parallel
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.files import disk_errors, write_json
from bufferlab.experiments.text import table
from bufferlab.protocol.checker.bounds import Bound
from bufferlab.protocol.checker.explorer import Exploration, Finding, explore
from bufferlab.protocol.checker.invariants import STATEMENTS
from bufferlab.protocol.checker.schedule import describe, from_file, to_file
from bufferlab.protocol.checker.suites import SUITES
from bufferlab.protocol.disciplines import DEFAULT, DISCIPLINES
from bufferlab.protocol.naming import did_you_mean


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
            msgspec.structs.replace(bound, discipline=discipline, name=bound.name.replace(DEFAULT, discipline))
            for bound in bounds
            if bound.discipline == discipline or (bound.discipline == DEFAULT and len(bound.default_tokens) == 1)
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
    for place, exploration, took_s in in_parallel(jobs, tasks):
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
        "violating_configurations": sum(bool(one.findings) for one, _ in results),
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
                "violations": [finding.invariant for finding in one.findings],
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
            note = ", ".join(f"breaks {number}" for number in one["violations"]) or (
                "" if one["complete"] else "cut short"
            )
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
    cut_short = report["configurations"] - report["complete"] - report["violating_configurations"]
    lines.append(
        f"{report['configurations']} configurations, {report['states']} states, {report['transitions']} transitions "
        f"in {report['wall_s']:.1f} s"
        + (
            f"; {report['violating_configurations']} in which an invariant is violated"
            if report["violating_configurations"]
            else ""
        )
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
