"""Results below a folder as a table, and the figures of several runs side by side."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bufferlab.experiments.commands.folders.finding import Found, recognise
from bufferlab.experiments.commands.folders.tunings import tuning_of, tunings_text
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.figures.text import summary_rows
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.text import table
from bufferlab.experiments.tuning.question import parse_objective
from bufferlab.experiments.units import format_duration, format_size

SHOWN_WORKLOAD = 44
ORDERS = ("when", "name", "p99", "size")


def ordered(found: Sequence[Found], order: str) -> list[Found]:
    """By name, the newest first, the lowest p99 first (those without one last), or the largest first."""
    keys: dict[str, Any] = {
        "name": lambda one: str(one.path),
        "when": lambda one: (-one.modified_s, str(one.path)),
        "p99": lambda one: (one.p99_s is None, one.p99_s or 0.0, str(one.path)),
        "size": lambda one: (-one.size_bytes, str(one.path)),
    }
    return sorted(found, key=keys[order])


def list_text(found: Sequence[Found], folder: Path) -> str:
    """A row for each, and what all take."""
    if not found:
        return f"nothing of ours below {folder}"
    tuned = any(one.objective for one in found)
    rows: list[tuple[str, ...]] = [
        ("name", "kind", "when", "p50", "p99", *(["objective"] if tuned else []), "served", "size", "workload")
    ]
    for one in found:
        rows.append(
            (
                _name(one.path, folder),
                one.kind,
                datetime.datetime.fromtimestamp(one.modified_s).strftime("%Y-%m-%d %H:%M"),  # noqa: DTZ006 - the user's
                "" if one.p50_s is None else format_duration(one.p50_s),
                "" if one.p99_s is None else format_duration(one.p99_s),
                *([_objective(one)] if tuned else []),
                _served(one),
                format_size(one.size_bytes),
                one.workload if len(one.workload) <= SHOWN_WORKLOAD else f"{one.workload[: SHOWN_WORKLOAD - 1]}…",
            )
        )
    lines = [table(rows), ""]
    if any(one.kind in ("sweep", "tune") for one in found):
        lines.append(
            "p50 and p99 are latencies; of a sweep in its configuration with the lowest p99, of a tune in its choice."
        )
    lines.append(f"{len(found)} below {folder}, {format_size(sum(one.size_bytes for one in found))}")
    return "\n".join(lines)


def _name(path: Path, folder: Path) -> str:
    return "." if path == folder else os.path.relpath(path, folder)


def _objective(one: Found) -> str:
    """What a tune was asked to make low, and what it came to."""
    if not one.objective:
        return ""
    value = "-" if one.objective_s is None else format_duration(one.objective_s)
    return f"{parse_objective(one.objective).title} {value}"


def _served(one: Found) -> str:
    if one.offered is None:
        return ""
    if one.served is None or one.served == one.offered:
        return f"{one.offered:,}"
    return f"{one.served:,} of {one.offered:,}"


def compared(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The summaries of runs, or what tunings answer. Raises UserError for anything else, and for both at once."""
    if len(paths) < 2:
        raise UserError(f"RUN is given {len(paths)} times, runs compare needs two or more")
    kinds = [None if (one := recognise(path)) is None else one.kind for path in paths]
    if all(kind == "tune" for kind in kinds):
        return [tuning_of(path) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind in ("sweep", "tune", "validation"):
            what = "a tuning beside what is none" if kind == "tune" else f"a {kind}"
            raise UserError(
                f"RUN is {str(path)!r}, {what}, it must be a finished run directory, or all of them tunings; "
                "bufferlab report shows what is in it"
            )
    return [{"path": str(path), **StoredRun(path).summary} for path in paths]


def compared_text(summaries: Sequence[dict[str, Any]]) -> str:
    """A row for each figure, a column for each run: its value, and its 95 % interval where there is one."""
    if summaries[0]["kind"] == "tune":
        return tunings_text(summaries)
    cells = [{label: (value, interval) for label, value, interval in summary_rows(one)} for one in summaries]
    labels = list(dict.fromkeys(label for one in cells for label in one))
    names = [Path(one["path"]).name or one["path"] for one in summaries]
    rows = [("", *names)]
    requests = [one["requests"] for one in summaries]
    rows.append(("requests served", *(f"{one['succeeded']:,} of {one['offered']:,}" for one in requests)))
    for label in labels:
        told = [one.get(label, ("", "")) for one in cells]
        rows.append((label, *(f"{value} ({interval})" if interval else value for value, interval in told)))
    rows.append(("capacity", *(str(one["capacity"]["verdict"]) for one in summaries)))
    return f"{table(rows)}\n\nintervals are at 95 %; of runs of the same requests bufferlab paired has the differences"
