"""Which of our results lie below a folder: finished ones with their figures, begun ones, and half-written leftovers.

Everything is told by the small JSON file of a directory; no table is read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.reports.sources import FILES, SCHEMAS

DEPTH = 4
"""How many folders below the one that is named: the runs of a demo or a study lie in a folder of their own."""
LEFT = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(?P<kind>partial|old)|\.(?P<file>.+)\.\d+\.partial")
"""What is left when a process is killed while it writes; see ``experiments.files``."""
UNFINISHED = "unfinished"
KINDS = ("sim", "real", "sweep", "tune", "validation", UNFINISHED)


@dataclass(frozen=True)
class Found:
    """One result. ``kind`` is one of ``KINDS``, times are Unix seconds and figures None where there are none."""

    path: Path
    kind: str
    modified_s: float
    size_bytes: int
    workload: str = ""
    p50_s: float | None = None
    p99_s: float | None = None
    served: int | None = None
    offered: int | None = None
    objective: str = ""
    """Of a tune: the figure that was to be low, such as ``ttft_s.p99``."""
    objective_s: float | None = None

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "path": str(self.path), "kind": self.kind, "modified_s": self.modified_s, "size_bytes": self.size_bytes,
            "workload": self.workload, "p50_s": self.p50_s, "p99_s": self.p99_s,
            "requests": {"succeeded": self.served, "offered": self.offered},
            "objective": {"name": self.objective, "value": self.objective_s} if self.objective else None,
        }  # fmt: skip


def find(folder: Path) -> Iterator[Found]:
    """Everything of ours at or below a folder. Raises UserError where it is none."""
    if not folder.is_dir():
        raise UserError(f"FOLDER is {str(folder)!r}, it must be a folder")
    yield from _below(folder, DEPTH)


def _below(folder: Path, depth: int) -> Iterator[Found]:
    own = recognise(folder)
    if own is not None:
        yield own
        return
    if depth == 0:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda one: one.name)
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if LEFT.fullmatch(entry.name):
            yield Found(path, UNFINISHED, entry.stat(follow_symlinks=False).st_mtime, size_of(path))
        elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _below(path, depth - 1)


def recognise(path: Path) -> Found | None:
    """What stands in a folder, None where it is nothing of ours."""
    for kind, name in FILES.items():
        try:
            content = json.loads((path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(content, dict) or content.get("schema") != SCHEMAS[kind]:
            continue
        modified_s = (path / name).stat().st_mtime
        told = str(content["kind"]) if kind == "run" else kind
        if kind in ("sweep", "tune") and not content.get("finished"):
            return Found(path, UNFINISHED, modified_s, size_of(path), f"{kind}, which the same command goes on with")
        try:
            return Found(path, told, modified_s, size_of(path), **_FIGURES[kind](content))
        except (KeyError, TypeError, IndexError, StopIteration):  # of an older version, which has other figures
            return Found(path, told, modified_s, size_of(path))
    return None


def size_of(path: Path) -> int:
    """Bytes of all files in a folder, or of a file; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    total = 0
    for where, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(where) / name).lstat().st_size
            except OSError:  # gone meanwhile
                continue
    return total


# --- the figures of each kind ---


def _run(content: Mapping[str, Any]) -> dict[str, Any]:
    requests = content["requests"]
    return {
        "workload": _sentence([content["workload"]] if "workload" in content else []),
        "served": requests["succeeded"],
        "offered": requests["offered"],
        **_latency(content["latency_s"]),
    }


def _sweep(content: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the configuration with the lowest p99."""
    configurations = content["configurations"]
    lowest = next(one["configuration"] for one in content["lowest"] if one["figure"] == "latency_s.p99")
    best = next(one for one in configurations if one["configuration"] == lowest)
    return {
        "workload": _sentence(content["plan"].get("workloads", [])),
        "served": sum(one["requests"]["succeeded"] for one in configurations),
        "offered": sum(one["requests"]["offered"] for one in configurations),
        **_latency(best["latency_s"]),
    }


def _tune(content: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the setting that was chosen, where one was."""
    chosen = [one["figures"] for one in content["settings"] if one["number"] == content["chosen"]]
    return {
        "workload": _sentence([content["traffic"]]),
        "offered": content["requests"],
        "p50_s": chosen[0]["latency_s.p50"]["value"] if chosen else None,
        "p99_s": chosen[0]["latency_s.p99"]["value"] if chosen else None,
        "objective": content["objective"]["name"],
        "objective_s": content["objective"]["value"],
    }


def _validation(content: Mapping[str, Any]) -> dict[str, Any]:
    number = len(content["cases"])
    return {"workload": f"{number} measured {'case' if number == 1 else 'cases'}"}


_FIGURES = {"run": _run, "sweep": _sweep, "tune": _tune, "validation": _validation}


def _latency(estimates: Mapping[str, Any]) -> dict[str, Any]:
    return {"p50_s": estimates["p50"]["value"], "p99_s": estimates["p99"]["value"]}


def _sentence(workloads: list[Any]) -> str:
    if len(workloads) > 1:
        return f"{len(workloads)} workloads"
    return workloads[0]["sentence"].splitlines()[0].removeprefix("workload: ") if workloads else ""
